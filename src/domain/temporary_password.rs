//! Generated temporary passwords, which can be read out on the telephone.
//!
//! 15 symbols from an alphabet of 30 give 73 bits: enough for a throttled password that lives for a day. The alphabet
//! has no 0, 1, I, L, O and U, which are easily misread or misheard. Hyphens, spaces and case are ignored on entry.

use std::fmt;

use zeroize::Zeroizing;

use super::password::{AcceptedPassword, PlainPassword};

/// Digits and capitals, without those that look or sound alike.
const ALPHABET: &[u8; 30] = b"23456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Number of symbols of a password.
const SYMBOLS: usize = 15;

/// Number of symbols between two hyphens.
const GROUP: usize = 5;

/// Random bytes below this bound are reduced modulo 30; larger ones would make some symbols likelier than others.
const FAIR_BELOW: u8 = 240;

/// A password in the form `K7QF9-WXM3T-RH4PD`. Shown once; wiped when dropped.
pub struct TemporaryPassword(Zeroizing<String>);

impl TemporaryPassword {
    /// Generates a password from the random bytes that `fill` supplies.
    pub fn generate(fill: &mut impl FnMut(&mut [u8])) -> TemporaryPassword {
        let mut symbols = Zeroizing::new([0; SYMBOLS]);
        for symbol in symbols.iter_mut() {
            *symbol = random_symbol(fill);
        }
        TemporaryPassword(grouped(&symbols))
    }

    /// The text, shown once to the operator who requested it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The form that is hashed.
    pub fn to_accepted(&self) -> AcceptedPassword {
        AcceptedPassword::generated(self.0.clone())
    }
}

/// Draws one symbol by rejection sampling, so that all symbols are equally likely.
fn random_symbol(fill: &mut impl FnMut(&mut [u8])) -> u8 {
    let mut byte = Zeroizing::new([0; 1]);
    // One byte in sixteen is rejected. 64 rejections in a row mean that the generator is broken.
    for _ in 0..64 {
        fill(byte.as_mut_slice());
        let [candidate] = *byte;
        if candidate < FAIR_BELOW {
            let place = usize::from(candidate) % ALPHABET.len();
            return ALPHABET.get(place).copied().unwrap_or_default();
        }
    }
    // As in `entropy.rs`: without randomness, an identity service cannot work safely.
    std::process::abort()
}

/// Converts an entered text to the form that is hashed: no hyphens or spaces, in capitals. Dashes are dropped as well,
/// because phones replace hyphens with dashes. Returns `None` if the text cannot be a temporary password.
pub fn canonical(typed: &PlainPassword) -> Option<PlainPassword> {
    let mut symbols = Zeroizing::new([0; SYMBOLS]);
    let mut places = symbols.iter_mut();
    for c in typed.expose().chars().filter(|c| !is_separator(*c)) {
        let symbol = u8::try_from(c.to_ascii_uppercase()).ok().filter(|symbol| ALPHABET.contains(symbol))?;
        *places.next()? = symbol;
    }
    if places.next().is_some() {
        return None;
    }
    Some(PlainPassword::from_printable_ascii(grouped(&symbols)))
}

fn is_separator(c: char) -> bool {
    // U+2010 to U+2015 are the hyphens and dashes.
    matches!(c, '-' | ' ' | '\u{2010}'..='\u{2015}')
}

fn grouped(symbols: &[u8; SYMBOLS]) -> Zeroizing<String> {
    // Allocated with the final size, so that growing leaves no copy behind.
    let mut text = Zeroizing::new(String::with_capacity(SYMBOLS + SYMBOLS / GROUP));
    for (index, group) in symbols.chunks(GROUP).enumerate() {
        if index > 0 {
            text.push('-');
        }
        text.extend(group.iter().copied().map(char::from));
    }
    text
}

impl fmt::Debug for TemporaryPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TemporaryPassword([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator that counts up from `start`.
    fn counting(start: u8) -> impl FnMut(&mut [u8]) {
        let mut next = start;
        move |bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(1);
            }
        }
    }

    fn canonical_text(typed: &str) -> Option<String> {
        let typed = PlainPassword::parse(typed.to_owned()).ok()?;
        canonical(&typed).map(|password| password.expose().to_owned())
    }

    #[test]
    fn it_is_three_groups_of_five() {
        let password = TemporaryPassword::generate(&mut counting(0));
        assert_eq!(password.expose(), "23456-789AB-CDEFG");
        assert_eq!(password.to_accepted().as_plain().expose(), password.expose());
        assert_eq!(format!("{password:?}"), "TemporaryPassword([redacted])");
    }

    #[test]
    fn bytes_that_would_favour_some_symbols_are_rejected() {
        // 240 to 255 would map to the first sixteen symbols again.
        assert_eq!(TemporaryPassword::generate(&mut counting(238)).expose(), "YZ234-56789-ABCDE");
    }

    #[test]
    fn every_symbol_is_as_likely_as_any_other() {
        let mut counts = std::collections::BTreeMap::new();
        let mut all_bytes = counting(0);
        for _ in 0..240 {
            *counts.entry(random_symbol(&mut all_bytes)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 30);
        assert!(counts.values().all(|count| *count == 8));
    }

    #[test]
    fn hyphens_spaces_and_case_do_not_count() {
        let form = Some("K7QF9-WXM3T-RH4PD".to_owned());
        let typed = [
            "K7QF9-WXM3T-RH4PD",
            "k7qf9wxm3trh4pd",
            " K7QF9 WXM3T RH4PD ",
            "k7-qf9wx\u{a0}m3t\u{2013}rh4pd-",
            "K 7 Q F 9 W X M 3 T R H 4 P D",
        ];
        for typed in typed {
            assert_eq!(canonical_text(typed), form, "{typed}");
        }
    }

    #[test]
    fn other_passwords_are_left_alone() {
        let typed = [
            "K7QF9-WXM3T-RH4P",
            "K7QF9-WXM3T-RH4PDD",
            "K7QF9-WXM3T-RH4P0",
            "K7QF9-WXM3T-RH4PI",
            "K7QF9_WXM3T_RH4PD",
            "correct horse battery staple",
            "---",
            "\u{ff2b}7QF9-WXM3T-RH4PD",
        ];
        for typed in typed {
            assert_eq!(canonical_text(typed), None, "{typed}");
        }
    }
}
