//! Codes of an authenticator: TOTP (RFC 6238) with SHA-1, six digits and steps of 30 s. Authenticators ignore other values.

use std::fmt::{self, Write as _};
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE32_NOPAD;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::domain::text::{TextFault, plain_text};
use crate::domain::time::Timestamp;
use crate::domain::username::Username;

/// Time that a code is for.
pub const STEP: Duration = Duration::from_secs(30);

/// Length of a key in bytes: that of a SHA-1, as RFC 4226, 4 recommends.
const KEY_BYTES: usize = 20;

/// Digits of a code.
const DIGITS: usize = 6;

/// Steps before and after the current one whose codes are accepted, for clocks that differ and people who type slowly (RFC 6238,
/// 5.2 recommends at most one).
const WINDOW: i64 = 1;

/// Steps around the current one in which a wrong code is looked for, to tell an operator that the clock of the user is wrong.
const SKEW: i64 = 20;

/// The maximum length of an [`AccountLabel`], in bytes.
const MAX_LABEL_BYTES: usize = 128;

/// The number of a step since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TotpStep(pub i64);

impl TotpStep {
    /// Before every step: no code was accepted.
    pub const NONE: TotpStep = TotpStep(i64::MIN);

    /// The step at this time.
    pub fn at(now: Timestamp) -> TotpStep {
        TotpStep(now.as_unix_seconds().div_euclid(STEP.as_secs().cast_signed()))
    }

    fn offset(self, steps: i64) -> TotpStep {
        TotpStep(self.0.saturating_add(steps))
    }
}

/// A code: six ASCII digits. Compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TotpCode([u8; DIGITS]);

impl TotpCode {
    /// Parses a code, byte for byte: nothing is trimmed or converted, so that every code has one text.
    pub fn parse(text: &str) -> Option<TotpCode> {
        let digits: [u8; DIGITS] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_digit).then_some(TotpCode(digits))
    }

    fn is(&self, other: &TotpCode) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for TotpCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|digit| write!(f, "{}", char::from(*digit)))
    }
}

impl fmt::Debug for TotpCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpCode([redacted])")
    }
}

/// The key that server and authenticator share.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TotpKey([u8; KEY_BYTES]);

impl TotpKey {
    /// Creates a key from random bytes.
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> TotpKey {
        TotpKey(bytes)
    }

    /// Creates a key from its stored form.
    pub fn from_slice(bytes: &[u8]) -> Option<TotpKey> {
        bytes.try_into().ok().map(TotpKey)
    }

    /// The stored form, before it is sealed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The code of a step (RFC 4226, 5.3).
    pub fn code(&self, step: TotpStep) -> TotpCode {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.0.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag.last().copied().unwrap_or_default() & 0xf);
        let truncated = tag.get(offset..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let mut number = (u32::from_be_bytes(truncated) & 0x7fff_ffff) % 1_000_000;
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
        }
        TotpCode(digits)
    }

    /// Returns the step of a right code. Each code works once: steps up to `last` are over.
    pub fn accepts(&self, code: &TotpCode, now: Timestamp, last: TotpStep) -> Option<TotpStep> {
        self.find(code, now, WINDOW).filter(|step| *step > last)
    }

    /// Returns by how much the clock that a wrong code comes from is ahead, if it is right for another time nearby.
    pub fn clock_ahead(&self, code: &TotpCode, now: Timestamp) -> Option<i64> {
        let steps = self.find(code, now, SKEW)?.0.saturating_sub(TotpStep::at(now).0);
        (steps.abs() > WINDOW).then(|| steps.saturating_mul(STEP.as_secs().cast_signed()))
    }

    /// Finds the step of a code. Every step costs the same.
    fn find(&self, code: &TotpCode, now: Timestamp, window: i64) -> Option<TotpStep> {
        let now = TotpStep::at(now);
        let steps = (-window..=window).map(|steps| now.offset(steps));
        steps.fold(None, |found, step| if self.code(step).is(code) { Some(step) } else { found })
    }

    /// The key in base32 without padding, for people who type it in.
    pub fn to_base32(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(&self.0))
    }

    /// The key as an `otpauth://` URI for a QR code. The values that authenticators take for granted are left out.
    pub fn uri(&self, issuer: &str, account: &AccountLabel) -> Zeroizing<String> {
        // A colon separates the two.
        let issuer = percent_encoded(&issuer.replace(':', " "));
        let account = percent_encoded(account.as_str());
        Zeroizing::new(format!("otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}", *self.to_base32()))
    }
}

impl fmt::Debug for TotpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpKey([redacted])")
    }
}

/// The name of the account in the authenticator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountLabel(String);

impl AccountLabel {
    /// Parses a label. It has no colon, at which authenticators split it.
    pub fn parse(text: &str) -> Result<AccountLabel, TextFault> {
        plain_text(text, MAX_LABEL_BYTES)?;
        if text.contains(':') { Err(TextFault::ForbiddenCharacter) } else { Ok(AccountLabel(text.to_owned())) }
    }

    /// The label of a user who asked for none.
    pub fn of(username: &Username) -> AccountLabel {
        AccountLabel(username.to_string())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Encodes all but the unreserved characters of RFC 3986, 2.3. A space is `%20`: authenticators show a `+` as it is.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 6238, appendix B, and RFC 4226, appendix D.
    const KEY: TotpKey = TotpKey::from_bytes(*b"12345678901234567890");

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_codes_are_those_of_rfc_6238_and_rfc_4226() {
        // RFC 6238 gives eight digits; ours are the last six.
        for (seconds, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(KEY.code(TotpStep::at(at(seconds))).to_string(), expected, "{seconds}");
        }
        let counted: Vec<String> = (0..10).map(|count| KEY.code(TotpStep(count)).to_string()).collect();
        let expected =
            ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"];
        assert_eq!(counted, expected);
    }

    #[test]
    fn a_code_is_six_ascii_digits_and_nothing_else() {
        assert!(TotpCode::parse("000000").is_some());
        let wrong =
            ["", "12345", "1234567", " 123456", "123456\n", "123 456", "+12345", "１２３４５６", "12345a", "12345\0"];
        for text in wrong {
            assert!(TotpCode::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_code_works_one_step_early_and_one_step_late_and_each_step_once() {
        let now = at(1_000_000_000);
        let step = TotpStep::at(now);
        let accepted = |steps| KEY.accepts(&KEY.code(step.offset(steps)), now, TotpStep::NONE);
        assert_eq!(
            [-2, -1, 0, 1, 2].map(accepted),
            [None, Some(step.offset(-1)), Some(step), Some(step.offset(1)), None]
        );
        assert_eq!(KEY.accepts(&KEY.code(step), now, step), None, "used");
        assert_eq!(KEY.accepts(&KEY.code(step.offset(-1)), now, step), None, "an older one after a newer one");
        assert_eq!(KEY.accepts(&KEY.code(step.offset(1)), now, step), Some(step.offset(1)));
    }

    #[test]
    fn a_wrong_clock_is_told_from_a_wrong_code() {
        let now = at(1_000_000_000);
        let ahead = |steps| KEY.clock_ahead(&KEY.code(TotpStep::at(now).offset(steps)), now);
        assert_eq!(
            [-21, -20, -2, -1, 1, 2, 20, 21].map(ahead),
            [None, Some(-600), Some(-60), None, None, Some(60), Some(600), None]
        );
    }

    #[test]
    fn the_uri_is_what_authenticators_expect() -> Result<(), TextFault> {
        let uri = KEY.uri("Corp: Ünited", &AccountLabel::parse("grace+test@corp.example")?);
        assert_eq!(
            *uri,
            "otpauth://totp/Corp%20%20%C3%9Cnited:grace%2Btest%40corp.example\
             ?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Corp%20%20%C3%9Cnited"
        );
        assert!(AccountLabel::parse("a:b").is_err());
        Ok(())
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{KEY:?} {:?}", KEY.code(TotpStep(0))), "TotpKey([redacted]) TotpCode([redacted])");
    }
}
