//! Short descriptive texts of users, sessions and tokens, each with a maximum length.

mod labels;
mod locale;
mod search;

use std::fmt;

use super::text::{TextFault, multiline, plain_text};

pub use labels::{LabelChanges, LabelFault, Labels};
pub use locale::{Locale, LocaleFault};
pub use search::{SearchText, search_terms};

/// Declares newtypes of validated text.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $check:expr, $max_bytes:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Maximum length in bytes.
            pub const MAX_BYTES: usize = $max_bytes;

            /// Parses the text and removes surrounding white space. Returns `None` if nothing is left.
            pub fn parse(text: &str) -> Result<Option<$name>, TextFault> {
                // Checked before trimming, so that a text of spaces is limited too.
                $check(text, Self::MAX_BYTES)?;
                let text = text.trim();
                Ok((!text.is_empty()).then(|| $name(text.to_owned())))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )*};
}

texts! {
    /// The name of a user, as shown to people. Not unique.
    DisplayName: plain_text, 256;
    /// The id assigned to a user by another system. Case-sensitive, unique.
    ExternalId: plain_text, 128;
    /// An operator's note for the audit log. May have several lines.
    Note: multiline, 1024;
    /// The name of the program or device that signs in, as stated by the client.
    ClientName: plain_text, 128;
    /// The audience of a token: a name or a URI (RFC 7519, 4.1.3). Case-sensitive.
    Audience: without_spaces, 256;
}

/// As [`plain_text`], but white space inside the text is rejected.
fn without_spaces(text: &str, max_bytes: usize) -> Result<(), TextFault> {
    plain_text(text, max_bytes)?;
    if text.contains(char::is_whitespace) { Err(TextFault::Space) } else { Ok(()) }
}

/// The name of an API token, by which people decide which one to revoke. 1 to 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenName(String);

impl TokenName {
    /// Maximum length in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Parses the name and removes surrounding white space. The result must not be empty.
    pub fn parse(text: &str) -> Result<TokenName, TextFault> {
        plain_text(text, Self::MAX_BYTES)?;
        let text = text.trim();
        if text.is_empty() { Err(TextFault::Empty) } else { Ok(TokenName(text.to_owned())) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<Option<String>, TextFault> {
        DisplayName::parse(text).map(|name| name.map(DisplayName::into_string))
    }

    #[test]
    fn an_empty_field_is_no_text() {
        assert_eq!(name(""), Ok(None));
        assert_eq!(name(" \u{3000} "), Ok(None));
        assert_eq!(name(" Ada  Lovelace "), Ok(Some("Ada  Lovelace".into())));
        assert_eq!(Note::parse("\n\t\n"), Ok(None));
        assert_eq!(TokenName::parse(" "), Err(TextFault::Empty));
    }

    #[test]
    fn each_has_its_limit() {
        assert!(name(&"a".repeat(256)).is_ok());
        assert_eq!(name(&"a".repeat(257)), Err(TextFault::TooLong { max_bytes: 256 }));
        assert_eq!(name(&" ".repeat(257)), Err(TextFault::TooLong { max_bytes: 256 }));
        assert_eq!(ExternalId::parse(&"a".repeat(129)), Err(TextFault::TooLong { max_bytes: 128 }));
        assert_eq!(TokenName::parse(&"a".repeat(129)), Err(TextFault::TooLong { max_bytes: 128 }));
    }

    #[test]
    fn only_a_note_has_lines() {
        assert!(Note::parse("first\nsecond").is_ok());
        assert_eq!(Note::parse("a\u{202e}b"), Err(TextFault::ForbiddenCharacter));
        assert_eq!(name("first\nsecond"), Err(TextFault::ForbiddenCharacter));
        assert_eq!(name("Ada\n"), Err(TextFault::ForbiddenCharacter));
    }

    #[test]
    fn an_audience_has_no_spaces() {
        assert!(Audience::parse("https://billing.example/api").is_ok());
        assert_eq!(Audience::parse("billing api"), Err(TextFault::Space));
        assert_eq!(Audience::parse("billing\u{a0}api"), Err(TextFault::Space));
        assert_eq!(Audience::parse(""), Ok(None));
    }
}
