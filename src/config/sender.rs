//! The sender of mail: an address, with a name or without.

use std::fmt;
use std::str::FromStr;

use crate::domain::email::EmailAddress;
use crate::domain::text::plain_text;

/// Longest name in bytes.
const NAME_MAX: usize = 100;

/// Characters that a name may not have: they delimit names and addresses in a header.
const DELIMITERS: &str = "<>\"\\@,;";

/// The sender of mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The name that readers see.
    pub name: Option<String>,
    /// The address, to which bounces go.
    pub address: EmailAddress,
}

impl Sender {
    /// The name, or the domain if there is none.
    pub fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.address.domain())
    }
}

/// A text is not a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a sender")]
pub struct NotASender;

impl FromStr for Sender {
    type Err = NotASender;

    fn from_str(text: &str) -> Result<Sender, NotASender> {
        let address = |text| EmailAddress::parse(text).map_err(|_| NotASender);
        let Some(rest) = text.trim().strip_suffix('>') else {
            return Ok(Sender { name: None, address: address(text)? });
        };
        let (name, email) = rest.split_once('<').ok_or(NotASender)?;
        let name = name.trim();
        let is_name = plain_text(name, NAME_MAX).is_ok() && !name.contains(|c| DELIMITERS.contains(c));
        if !is_name {
            return Err(NotASender);
        }
        Ok(Sender { name: (!name.is_empty()).then(|| name.to_owned()), address: address(email)? })
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} <{}>", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Option<String> {
        text.parse::<Sender>().ok().map(|sender| sender.to_string())
    }

    #[test]
    fn a_sender_is_an_address_with_or_without_a_name() {
        for (text, full) in [
            ("id@example.org", "id@example.org"),
            ("<id@example.org>", "id@example.org"),
            ("  Müller & Co.  <id@example.org> ", "Müller & Co. <id@example.org>"),
        ] {
            assert_eq!(written(text).as_deref(), Some(full));
            assert_eq!(written(full).as_deref(), Some(full));
        }
    }

    #[test]
    fn nothing_else_is_a_sender() {
        for wrong in [
            "",
            "latchkey",
            "latchkey <>",
            "a <a@example.org>, b <b@example.org>",
            "\"a\" <a@example.org>",
            "a\r\nBcc: b@example.org <a@example.org>",
            "a <a@example.org\r\n>",
            "a <b> <a@example.org>",
        ] {
            assert_eq!(written(wrong), None, "{wrong:?}");
        }
        assert_eq!(written(&format!("{} <a@example.org>", "n".repeat(101))), None);
    }
}
