//! The languages of the pages.

use strum::{EnumIter, EnumString, IntoEnumIterator as _, IntoStaticStr};

use crate::domain::profile::Locale;

/// A language in which the pages are written. The first is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Language {
    /// English.
    En,
    /// German.
    De,
}

impl Language {
    /// The tag, such as `en`.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }

    /// Its name in itself.
    pub(super) fn name(self) -> &'static str {
        match self {
            Language::En => "English",
            Language::De => "Deutsch",
        }
    }

    /// The language of a tag such as `de-AT`.
    fn of_tag(tag: &str) -> Option<Language> {
        let primary = tag.split('-').next()?;
        Language::iter().find(|language| language.as_str().eq_ignore_ascii_case(primary))
    }

    /// The language of a user's locale.
    pub(super) fn of_locale(locale: &Locale) -> Option<Language> {
        Language::of_tag(locale.as_str())
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
            ("de", Some(Language::De)),
            ("de-AT,de;q=0.9,en;q=0.8", Some(Language::De)),
            ("fr-FR,fr;q=0.9,de;q=0.5,en;q=0.4", Some(Language::De)),
            ("en;q=0.5, de;q=0.7", Some(Language::De)),
            ("DE", Some(Language::De)),
            ("en-GB,de", Some(Language::En)),
            ("de;q=0,en;q=0.1", Some(Language::En)),
            ("de;q=x", None),
            ("fr", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(Language::accepted(header), language, "{header}");
        }
    }

    #[test]
    fn a_locale_has_the_language_of_its_first_subtag() {
        let of = |tag: &str| Locale::parse(tag).ok().flatten().and_then(|locale| Language::of_locale(&locale));
        assert_eq!([of("de-CH"), of("en"), of("fr"), of("den")], [Some(Language::De), Some(Language::En), None, None]);
    }
}
