//! The languages of the pages: their names, and the one that a browser prefers.

use crate::domain::language::Language;

impl Language {
    /// Its name in itself.
    pub(super) fn name(self) -> &'static str {
        match self {
            Language::English => "English",
            Language::German => "Deutsch",
        }
    }

    /// The language that `Accept-Language` prefers (RFC 9110, 12.5.4), of those that there are.
    pub(super) fn accepted(header: &str) -> Option<Language> {
        let mut best = None;
        for range in header.split(',').take(32) {
            let (tag, parameter) = range.split_once(';').unwrap_or((range, ""));
            let quality = parameter.trim().strip_prefix("q=").map_or(Some(1.0), |quality| quality.parse::<f32>().ok());
            let Some(language) = Language::of_tag(tag.trim()) else { continue };
            // Of equal ones the first counts, as browsers list them.
            if let Some(quality) = quality.filter(|quality| *quality > 0.0)
                && best.is_none_or(|(_, known)| quality > known)
            {
                best = Some((language, quality));
            }
        }
        best.map(|(language, _)| language)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gets_the_language_that_it_prefers() {
        for (header, language) in [
            ("de", Some(Language::German)),
            ("de-AT,de;q=0.9,en;q=0.8", Some(Language::German)),
            ("fr-FR,fr;q=0.9,de;q=0.5,en;q=0.4", Some(Language::German)),
            ("en;q=0.5, de;q=0.7", Some(Language::German)),
            ("DE", Some(Language::German)),
            ("en-GB,de", Some(Language::English)),
            ("de;q=0,en;q=0.1", Some(Language::English)),
            ("de;q=x", None),
            ("fr", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(Language::accepted(header), language, "{header}");
        }
    }
}
