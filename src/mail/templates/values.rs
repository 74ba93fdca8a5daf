//! What a mail is about, and what its templates can show.

use std::collections::BTreeMap;
use std::fmt;

use crate::domain::delivery::{LetterKind, Requester};
use crate::domain::email::EmailAddress;
use crate::domain::language::Language;
use crate::domain::text::{plain_text, to_plain_text};
use crate::domain::time::Timestamp;

/// Longest display name that is shown, in characters. A longer one could be a message of its own.
const NAME_MAX: usize = 60;

/// What a template can show. `Debug` shows no secret.
#[derive(Clone)]
pub struct Values {
    /// The username.
    pub username: String,
    /// The display name. One that a mail program could make a link of is not shown, but the username.
    pub name: Option<String>,
    /// The address of the recipient.
    pub address: String,
    /// The link that the mail is about.
    pub link: Option<String>,
    /// The link that makes `link` useless.
    pub cancel_link: Option<String>,
    /// The temporary password.
    pub temporary_password: Option<String>,
    /// When link or password expire, or the password reaches the maximum age or the account is locked.
    pub expires_at: Option<Timestamp>,
    /// The origin of the request.
    pub requester: Requester,
    /// When it was requested, or done.
    pub requested_at: Timestamp,
    /// The new address. The part before the '@' is masked.
    pub new_address: Option<String>,
    /// Whether the notice of a new address goes to that address.
    pub is_new_address: bool,
    /// The page where the user is invited to set up a second factor.
    pub security_link: Option<String>,
    /// When the policy begins to ask for it.
    pub second_factor_due: Option<Timestamp>,
    /// The page where the user asks for a link to choose a password.
    pub forgot_link: Option<String>,
}

/// A mail as text. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The subject, on one line.
    pub subject: String,
    /// The mail as plain text.
    pub text: String,
    /// The mail as HTML.
    pub html: String,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("username", &self.username).finish_non_exhaustive()
    }
}

impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendered").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// Whether a mail always has a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    Sometimes,
}

use Presence::{Always, Sometimes};

/// The variables of all templates.
const COMMON: &[(&str, Presence)] = &[
    ("language", Always),
    ("organisation", Always),
    ("support", Always),
    ("support_link", Sometimes),
    ("name", Always),
    ("username", Always),
    ("address", Always),
    ("requested", Always),
];

/// The variables of templates with a link.
const LINK: &[(&str, Presence)] =
    &[("link", Always), ("cancel_link", Sometimes), ("valid_for", Always), ("expires", Always)];

/// The variables of templates with a temporary password.
const PASSWORD: &[(&str, Presence)] = &[("temporary_password", Always), ("valid_for", Always), ("expires", Always)];

/// The variables of notices that invite to set up a second factor.
const SECOND_FACTOR: &[(&str, Presence)] = &[("security_link", Sometimes), ("second_factor_due", Sometimes)];

impl LetterKind {
    /// The variables that only templates of this kind have. Notices have no secret.
    fn own_variables(self) -> &'static [(&'static str, Presence)] {
        match self {
            LetterKind::PasswordReset | LetterKind::Invite | LetterKind::EmailVerification => LINK,
            LetterKind::TemporaryPassword => PASSWORD,
            LetterKind::AddressChanged => &[("new_address", Sometimes), ("is_new_address", Sometimes)],
            LetterKind::PasswordChanged
            | LetterKind::PasswordResetDone
            | LetterKind::TotpDisabled
            | LetterKind::SecondFactorReset => SECOND_FACTOR,
            LetterKind::Compromised
            | LetterKind::TotpEnrolled
            | LetterKind::RecoveryCodeUsed
            | LetterKind::WrongCodes => &[],
            LetterKind::PasswordExpiring => &[("expires", Always), ("forgot_link", Sometimes)],
            LetterKind::AccountInactive => &[("expires", Always)],
        }
    }
}

/// The variables of the templates of a kind, or of those that all kinds share.
pub(super) fn variables(kind: Option<LetterKind>) -> impl Iterator<Item = (&'static str, Presence)> {
    let own = kind.map_or(&[][..], LetterKind::own_variables);
    COMMON.iter().chain(own).copied()
}

/// The variables of a mail with their values, each on one line. A value that `values` lacks has no entry.
pub(super) fn context(
    kind: LetterKind,
    language: Language,
    values: &Values,
    organisation: &str,
    support: Option<&str>,
) -> BTreeMap<&'static str, String> {
    let name = values.name.as_deref().filter(|name| is_plain_name(name)).unwrap_or(&values.username);
    let valid_for = values.expires_at.map(|at| language.duration(at.duration_since(values.requested_at)));
    let value = |variable| match variable {
        "language" => Some(language.code().to_owned()),
        "organisation" => Some(organisation.to_owned()),
        "support" => Some(support.unwrap_or_else(|| language.your_administrator()).to_owned()),
        "support_link" => support.and_then(contact_link),
        "name" => Some(name.to_owned()),
        "username" => Some(values.username.clone()),
        "address" => Some(values.address.clone()),
        "requested" => Some(request(language, values.requested_at, &values.requester)),
        "link" => values.link.clone(),
        "cancel_link" => values.cancel_link.clone(),
        "valid_for" => valid_for.clone(),
        "expires" => values.expires_at.map(|at| language.time(at)),
        "temporary_password" => values.temporary_password.clone(),
        "new_address" => values.new_address.as_deref().map(masked),
        "is_new_address" => values.is_new_address.then(|| "yes".to_owned()),
        "security_link" => values.security_link.clone(),
        "forgot_link" => values.forgot_link.clone(),
        "second_factor_due" => values.second_factor_due.map(|at| language.time(at)),
        _ => None,
    };
    variables(Some(kind)).filter_map(|(name, _)| Some((name, to_plain_text(&value(name)?, ' ')))).collect()
}

/// When something was requested, and by whom or from where.
fn request(language: Language, at: Timestamp, requester: &Requester) -> String {
    let (at, (by, from)) = (language.time(at), language.by_and_from());
    match requester {
        Requester::Operator { name } => {
            let name = name.as_deref().filter(|name| is_plain_name(name));
            format!("{at}, {by} {}", name.unwrap_or_else(|| language.an_administrator()))
        }
        Requester::Owner { source: Some(source) } if is_source(source) => format!("{at}, {from} {source}"),
        Requester::Owner { .. } => at,
    }
}

/// Returns whether a text is an IP address or a network.
fn is_source(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit() || ".:/".contains(c))
}

/// Returns whether a name is shown. Mail programs make links of addresses and host names, so a name that looks like one
/// could lure readers.
fn is_plain_name(name: &str) -> bool {
    let is_text = !name.trim().is_empty() && plain_text(name, 4 * NAME_MAX).is_ok();
    is_text && name.chars().count() <= NAME_MAX && !name.contains(['/', '\\', '@', ':']) && !has_host(name)
}

/// Returns whether a text has a dot between what could be the labels of a host name or the numbers of an address. `J. R. R.`
/// and `J.R.R.` have none.
fn has_host(text: &str) -> bool {
    let labels: Vec<&str> = text.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']).collect();
    labels.windows(2).any(|pair| {
        let [before, after] = pair else { return false };
        let first: Vec<char> = after.chars().take_while(|c| c.is_alphanumeric()).take(2).collect();
        let ends_label = before.chars().next_back().is_some_and(char::is_alphanumeric);
        ends_label && (first.len() == 2 || first.first().is_some_and(|c| c.is_numeric()))
    })
}

/// A link to the contact, if it is an address that needs no encoding in a URL.
fn contact_link(support: &str) -> Option<String> {
    let is_simple = support.chars().all(|c| c.is_ascii_alphanumeric() || "@.-_+".contains(c));
    (is_simple && EmailAddress::parse(support).is_ok()).then(|| format!("mailto:{support}"))
}

/// An address that its owner recognises, but that the owner of another address cannot use.
fn masked(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let first = local.chars().next().filter(|_| local.chars().nth(1).is_some());
    format!("{}…@{domain}", first.map(String::from).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_084_a_name_that_could_become_a_link_or_a_message_is_not_shown() {
        for plain in [
            "Grace Hopper",
            "J.R.R. Tolkien",
            "J. R. R. Tolkien",
            "Zoë O'Hara-Núñez",
            "李小龍",
            "{{7*7}}",
            "<a href>",
            "\u{760a}",
        ] {
            assert!(is_plain_name(plain), "{plain}");
        }
        let long = "Call 555 now ".repeat(5);
        for other in [
            "",
            " ",
            "http://evil.example",
            "www.evil.example",
            "evil.example",
            "evil。example",
            "Your account: evil",
            "grace@evil.example",
            "\\\\evil\\share",
            "192.0.2.1",
            "x\r\nBcc: e@x",
            "\n.\n",
            "a\u{2028}b",
            "\u{202e}ecarG",
            &long,
        ] {
            assert!(!is_plain_name(other), "{other:?}");
        }
    }

    #[test]
    fn a_contact_that_is_an_address_is_a_link() {
        assert_eq!(contact_link("help@example.org").as_deref(), Some("mailto:help@example.org"));
        for text in ["the service desk", "javascript:alert(1)", "a?bcc=b@example.org", "a b@example.org"] {
            assert_eq!(contact_link(text), None, "{text}");
        }
    }

    #[test]
    fn a_new_address_is_recognised_but_not_told() {
        assert_eq!(masked("grace@example.org"), "g…@example.org");
        assert_eq!(masked("g@example.org"), "…@example.org");
    }

    #[test]
    fn debug_shows_no_secret() {
        let values = Values {
            username: "grace".to_owned(),
            name: None,
            address: "grace@example.org".to_owned(),
            link: Some("https://c4nary.example/link".to_owned()),
            cancel_link: Some("https://c4nary.example/cancel".to_owned()),
            temporary_password: Some("c4nary-password".to_owned()),
            expires_at: None,
            requester: Requester::Owner { source: None },
            requested_at: Timestamp::from_micros(0),
            new_address: None,
            is_new_address: false,
            security_link: None,
            second_factor_due: None,
            forgot_link: None,
        };
        let rendered =
            Rendered { subject: "A subject".to_owned(), text: "c4nary".to_owned(), html: "c4nary".to_owned() };
        let debug = format!("{values:?} {rendered:?}");
        assert!(debug.contains("grace") && debug.contains("A subject") && !debug.contains("c4nary"), "{debug}");
    }
}
