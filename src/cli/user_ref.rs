//! USER arguments: parsing and printing.

use crate::proto::v1::UserRef;
use crate::proto::v1::user_ref::Ref;

/// Parses a USER.
pub(crate) fn parse(text: &str) -> Result<UserRef, String> {
    let reference = if let Some(id) = text.strip_prefix("id:") {
        (id, Ref::Id(id.to_owned()))
    } else if let Some(id) = text.strip_prefix("ext:") {
        (id, Ref::ExternalId(id.to_owned()))
    } else if text.contains('@') {
        (text, Ref::Email(text.to_owned()))
    } else {
        (text, Ref::Username(text.to_owned()))
    };
    match reference {
        ("", _) => Err("say which user: a username, an address, id:… or ext:…".to_owned()),
        (_, reference) => Ok(UserRef { r#ref: Some(reference) }),
    }
}

/// Prints a USER, as [`parse`] reads it. `None` if the reference is empty.
pub(crate) fn text(user: &UserRef) -> Option<String> {
    Some(match user.r#ref.as_ref()? {
        Ref::Id(id) => format!("id:{id}"),
        Ref::ExternalId(id) => format!("ext:{id}"),
        Ref::Username(text) | Ref::Email(text) => text.clone(),
    })
}

/// A reference to a user by id.
pub(crate) fn of_id(id: &str) -> UserRef {
    UserRef { r#ref: Some(Ref::Id(id.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_read_by_its_looks() {
        let read = |text: &str| parse(text).ok().and_then(|user| user.r#ref);
        assert_eq!(read("ada"), Some(Ref::Username("ada".into())));
        assert_eq!(read("ada@example.com"), Some(Ref::Email("ada@example.com".into())));
        assert_eq!(read("id:01jabc"), Some(Ref::Id("01jabc".into())));
        assert_eq!(read("ext:a@b"), Some(Ref::ExternalId("a@b".into())));
        assert!(parse("").is_err() && parse("id:").is_err() && parse("ext:").is_err());
    }

    #[test]
    fn a_user_is_written_as_it_was_read() {
        for typed in ["ada", "ada@example.com", "id:01jabc", "ext:4711"] {
            assert_eq!(parse(typed).ok().and_then(|user| text(&user)).as_deref(), Some(typed));
        }
    }
}
