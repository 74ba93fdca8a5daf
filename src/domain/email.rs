//! E-mail addresses: displayed as entered, looked up by a normalised key.
//!
//! The key is computed here, once, and the database compares it byte by byte. Letting a database fold case sent one
//! user's reset link to another (CVE-2019-19844). Dots and plus signs are kept, because only the receiving server knows
//! their meaning.

use std::fmt;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

use super::text::plain_text;
use super::violation::{Describe, Fault};

/// Maximum length in bytes (RFC 5321, 4.5.3.1.3, without the angle brackets), for both the key and the displayed form.
const MAX_BYTES: usize = 254;

/// Maximum length before the '@' in bytes (RFC 5321, 4.5.3.1.1).
const MAX_LOCAL_BYTES: usize = 64;

/// An e-mail address. Two addresses that differ only in case are unequal but have the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailAddress {
    display: String,
    key: String,
    /// Offset of the domain in the key.
    domain_at: usize,
}

/// Why a text is not an e-mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmailFault {
    /// The text is empty.
    #[error("must be set")]
    Empty,
    /// The text is too long.
    #[error("has more than {MAX_BYTES} bytes")]
    TooLong,
    /// No '@', or more than one.
    #[error("an address has exactly one '@'; write it without a name or angle brackets")]
    At,
    /// The part before the '@' is malformed.
    #[error(
        "the part before the '@' must have 1 to {MAX_LOCAL_BYTES} characters: letters a to z, digits, \
         !#$%&'*+-/=?^_`{{|}}~, and single dots between them"
    )]
    Local,
    /// The part after the '@' is malformed.
    #[error("the part after the '@' must be a domain name with at least one dot, or localhost")]
    Domain,
}

impl EmailAddress {
    /// Parses one address without a display name or angle brackets. Surrounding white space is removed.
    pub fn parse(text: &str) -> Result<EmailAddress, EmailFault> {
        let display = text.trim_matches(' ');
        if display.is_empty() {
            return Err(EmailFault::Empty);
        }
        if display.len() > MAX_BYTES {
            return Err(EmailFault::TooLong);
        }
        let (local, domain) = display.split_once('@').ok_or(EmailFault::At)?;
        if domain.contains('@') {
            return Err(EmailFault::At);
        }
        if !is_local_part(local) {
            return Err(EmailFault::Local);
        }
        let key = format!("{}@{}", local.to_ascii_lowercase(), domain_key(domain).ok_or(EmailFault::Domain)?);
        if key.len() > MAX_BYTES {
            return Err(EmailFault::TooLong);
        }
        Ok(EmailAddress { display: display.to_owned(), key, domain_at: local.len() + 1 })
    }

    /// The address of a program on this machine, for mail that goes to no relay. `local` is a word of ASCII letters.
    pub fn at_localhost(local: &str) -> EmailAddress {
        let address = format!("{}@localhost", local.to_ascii_lowercase());
        EmailAddress { display: address.clone(), key: address, domain_at: local.len() + 1 }
    }

    /// As [`EmailAddress::parse`]; returns `None` if the text is empty.
    pub fn parse_optional(text: &str) -> Result<Option<EmailAddress>, EmailFault> {
        match EmailAddress::parse(text) {
            Ok(address) => Ok(Some(address)),
            Err(EmailFault::Empty) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The address as entered, for display and for sending mail.
    pub fn as_str(&self) -> &str {
        &self.display
    }

    /// The address as a server without SMTPUTF8 takes it: the part before the '@' as entered, the domain in ASCII form.
    pub fn envelope(&self) -> String {
        format!("{}{}", self.display.get(..self.domain_at).unwrap_or_default(), self.domain())
    }

    /// The unique lookup key: lower case, with the domain in ASCII form.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The domain in ASCII form and lower case.
    pub fn domain(&self) -> &str {
        self.key.get(self.domain_at..).unwrap_or_default()
    }
}

/// Returns whether `local` is a dot-atom (RFC 5322, 3.2.3). Quoted local parts are legal but unused, and invite header
/// injection.
fn is_local_part(local: &str) -> bool {
    let is_atom = |atom: &str| !atom.is_empty() && atom.bytes().all(is_atom_byte);
    local.len() <= MAX_LOCAL_BYTES && local.split('.').all(is_atom)
}

fn is_atom_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Converts the domain to ASCII by the non-transitional processing of UTS #46.
fn domain_key(domain: &str) -> Option<String> {
    plain_text(domain, MAX_BYTES).ok()?;
    let idna = Uts46::new();
    let strict = AsciiDenyList::STD3;
    let key = idna.to_ascii(domain.as_bytes(), strict, Hyphens::CheckFirstLast, DnsLength::Verify).ok()?;
    if !domain.is_ascii() {
        // UTS #46 maps full-width letters and ligatures and removes invisible characters, so texts that look different
        // could be one address. Only domains that the mapping leaves unchanged are accepted.
        let (unicode, valid) = idna.to_unicode(key.as_bytes(), strict, Hyphens::CheckFirstLast);
        valid.ok()?;
        if unicode != fold_case(domain) {
            return None;
        }
    }
    let last_label = key.rsplit('.').next()?;
    let is_number = last_label.bytes().all(|byte| byte.is_ascii_digit());
    let is_host_name = key.contains('.') || key == "localhost";
    (is_host_name && !is_number).then(|| key.into_owned())
}

/// Converts to lower case, but never maps a character outside ASCII into ASCII: the Kelvin sign does not become k.
fn fold_case(domain: &str) -> String {
    domain
        .chars()
        .flat_map(|c| {
            let crosses = !c.is_ascii() && c.to_lowercase().any(|lower| lower.is_ascii());
            let (kept, folded) = if crosses { (Some(c), None) } else { (None, Some(c.to_lowercase())) };
            kept.into_iter().chain(folded.into_iter().flatten())
        })
        .collect()
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.display)
    }
}

impl Describe for EmailFault {
    fn fault(&self) -> Fault {
        match self {
            EmailFault::Empty => Fault::Required,
            EmailFault::TooLong => Fault::TooLong,
            EmailFault::At | EmailFault::Local | EmailFault::Domain => Fault::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<String, EmailFault> {
        EmailAddress::parse(text).map(|address| address.key().to_owned())
    }

    #[test]
    fn it_is_shown_as_written_and_found_by_its_key() -> Result<(), EmailFault> {
        let address = EmailAddress::parse("  Ada.Lovelace+math@Bücher.Example ")?;
        assert_eq!(address.as_str(), "Ada.Lovelace+math@Bücher.Example");
        assert_eq!(address.key(), "ada.lovelace+math@xn--bcher-kva.example");
        assert_eq!(address.domain(), "xn--bcher-kva.example");
        assert_eq!(address.envelope(), "Ada.Lovelace+math@xn--bcher-kva.example");
        Ok(())
    }

    #[test]
    fn case_and_spelling_of_the_domain_do_not_count() {
        for same in ["a@bücher.example", "A@BÜCHER.example", "a@xn--bcher-kva.example", "a@XN--BCHER-KVA.Example"] {
            assert_eq!(key(same), Ok("a@xn--bcher-kva.example".into()), "{same}");
        }
        // Non-transitional: ß is a letter of its own.
        assert_eq!(key("a@straße.example"), Ok("a@xn--strae-oqa.example".into()));
        assert_eq!(key("root@localhost"), Ok("root@localhost".into()));
    }

    #[test]
    fn a_key_is_its_own_key() {
        for text in ["A.B@Example.COM", "a@straße.example", "o'hara@sub.example.org"] {
            let once = key(text);
            assert_eq!(once.clone().and_then(|text| key(&text)), once, "{text}");
        }
    }

    #[test]
    fn nothing_that_only_looks_like_an_address_becomes_it() {
        for lookalike in ["m\u{131}ke@example.com", "\u{212a}@example.com", "ﬁ@example.com", "a\u{200d}@example.com"]
        {
            assert_eq!(key(lookalike), Err(EmailFault::Local), "{lookalike}");
        }
        let domains = [
            "\u{212a}elvin.example",
            "ｅｘａｍｐｌｅ.com",
            "ﬁn.example",
            "exa\u{200b}mple.com",
            "exa\u{ad}mple.com",
            "bu\u{308}cher.example",
            "example\u{3002}com",
            "\u{202e}example.com",
            "\u{130}.example",
        ];
        for domain in domains {
            assert_eq!(key(&format!("a@{domain}")), Err(EmailFault::Domain), "{domain}");
        }
    }

    #[test]
    fn exactly_one_bare_address_is_taken() {
        for wrong in ["ada", "a@b@example.com", "a@example.com, b@example.com"] {
            assert_eq!(key(wrong), Err(EmailFault::At), "{wrong}");
        }
        for wrong in ["@example.com", ".a@example.com", "a.@example.com", "a..b@example.com", "\"a b\"@example.com"] {
            assert_eq!(key(wrong), Err(EmailFault::Local), "{wrong}");
        }
        for wrong in ["Ada <a@example.com>", "a\r\nBcc: b@example.com", "\ta@example.com"] {
            assert_eq!(key(wrong), Err(EmailFault::Local), "{wrong:?}");
        }
        assert_eq!(key("  "), Err(EmailFault::Empty));
        assert_eq!(EmailAddress::parse_optional(" "), Ok(None));
    }

    #[test]
    fn the_domain_is_a_host_name() {
        let wrong = [
            "",
            "example",
            "example.com.",
            ".example.com",
            "a..example",
            "-a.example",
            "a-.example",
            "a_b.example",
            "a b.example",
            "a%.example",
            "[192.0.2.1]",
            "192.0.2.1",
            "a\0.example",
            "xn--a.example",
        ];
        for domain in wrong {
            assert_eq!(key(&format!("a@{domain}")), Err(EmailFault::Domain), "{domain:?}");
        }
        assert_eq!(key(&format!("a@{}.example", "b".repeat(64))), Err(EmailFault::Domain));
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(key(&format!("{}@example.com", "a".repeat(64))).is_ok());
        assert_eq!(key(&format!("{}@example.com", "a".repeat(65))), Err(EmailFault::Local));
        let label = "b".repeat(59);
        let domain = format!("{label}.{label}.{label}.example");
        assert_eq!(domain.len(), 187);
        assert!(key(&format!("{}@{domain}", "a".repeat(64))).is_ok());
        assert_eq!(key(&format!("{}@{domain}.{domain}", "a")), Err(EmailFault::TooLong));
    }
}
