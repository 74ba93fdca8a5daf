//! The fields of queries and forms.

use zeroize::Zeroizing;

/// The fields of a query or a form. They may contain secrets, so they are wiped and not shown.
#[derive(Default)]
pub(super) struct Fields(Vec<(String, Zeroizing<String>)>);

impl Fields {
    /// Parses `application/x-www-form-urlencoded`. Returns `None` if it is not UTF-8: a replaced character in a password would
    /// make it another one.
    pub(super) fn parse(encoded: &[u8]) -> Option<Fields> {
        let pairs = form_urlencoded::parse(encoded);
        let fields: Vec<_> =
            pairs.map(|(name, value)| (name.into_owned(), Zeroizing::new(value.into_owned()))).collect();
        let is_text = fields.iter().all(|(_, value)| !value.contains(char::REPLACEMENT_CHARACTER));
        is_text.then_some(Fields(fields))
    }

    /// The value of a field, or an empty text.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_decoded_and_a_missing_one_is_empty() {
        let fields = Fields::parse(b"a=x+y%C3%A4&b=&a=z&c");
        let got = |name| fields.as_ref().map(|fields| fields.get(name));
        assert_eq!([got("a"), got("b"), got("c"), got("d")], [Some("x y\u{e4}"), Some(""), Some(""), Some("")]);
    }

    #[test]
    fn what_is_not_utf_8_is_no_form() {
        assert!(Fields::parse(b"password=%E4%F6").is_none());
        assert!(Fields::parse(b"password=\xe4").is_none());
    }
}
