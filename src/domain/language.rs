//! The languages of mails, pages and hints.

use strum::{EnumIter, EnumString, IntoEnumIterator as _, IntoStaticStr, VariantArray};

use super::profile::Locale;

/// A language in which users are addressed. The first is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, EnumIter, EnumString, IntoStaticStr, VariantArray)]
pub enum Language {
    /// English.
    #[default]
    #[strum(serialize = "en")]
    English,
    /// German.
    #[strum(serialize = "de")]
    German,
}

impl Language {
    /// The tag, such as `en`. It is also in the names of templates.
    pub fn code(self) -> &'static str {
        self.into()
    }

    /// The text in this language.
    pub fn one_of(self, english: &'static str, german: &'static str) -> &'static str {
        match self {
            Language::English => english,
            Language::German => german,
        }
    }

    /// The language of a tag such as `de-AT`. `None` if there is no such language.
    pub fn of_tag(tag: &str) -> Option<Language> {
        let primary = tag.split('-').next()?;
        Language::iter().find(|language| language.code().eq_ignore_ascii_case(primary))
    }

    /// The language of a user's locale. `None` if there is no such language.
    pub fn of_locale(locale: &Locale) -> Option<Language> {
        Language::of_tag(locale.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_has_the_language_of_its_first_subtag() {
        let of = |tag: &str| Locale::parse(tag).ok().flatten().and_then(|locale| Language::of_locale(&locale));
        let german = Some(Language::German);
        assert_eq!([of("de"), of("de-AT"), of("DE-ch")], [german; 3]);
        assert_eq!([of("en-GB"), of("fr"), of("den")], [Some(Language::English), None, None]);
    }
}
