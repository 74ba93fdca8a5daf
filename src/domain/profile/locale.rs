//! The language of a user's mail.

use std::fmt;

use crate::domain::violation::{Describe, Fault};

/// A well-formed language tag (RFC 5646, 2.1) in its recommended case, such as `de` or `zh-Hant-TW`. Subtags are not
/// checked against the registry, because the mail templates decide which languages exist. Irregular grandfathered tags
/// are rejected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locale(String);

/// Why a text is not a language tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocaleFault {
    /// The text is too long.
    #[error("has more than {} bytes", Locale::MAX_BYTES)]
    TooLong,
    /// The text is malformed.
    #[error("a locale is a language tag such as de, en-GB or zh-Hant-TW")]
    Malformed,
}

impl Locale {
    /// Maximum length in bytes. RFC 5646, 4.4.1 asks for at least 35.
    pub const MAX_BYTES: usize = 35;

    /// Parses a tag in any case. Returns `None` if the text is empty.
    pub fn parse(text: &str) -> Result<Option<Locale>, LocaleFault> {
        if text.is_empty() {
            return Ok(None);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(LocaleFault::TooLong);
        }
        let subtags: Vec<&str> = text.split('-').collect();
        let well_formed = subtags.iter().all(|subtag| is_alphanumeric(subtag, 1, 8)) && is_tag(&subtags);
        if well_formed { Ok(Some(Locale(usual_case(&subtags)))) } else { Err(LocaleFault::Malformed) }
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Grammar: `language ["-" script] ["-" region] *("-" variant) *("-" extension) ["-" privateuse]`, or private use
/// alone.
fn is_tag(subtags: &[&str]) -> bool {
    let Some((language, mut rest)) = subtags.split_first() else { return false };
    if language.eq_ignore_ascii_case("x") {
        return !rest.is_empty();
    }
    if !is_alphabetic(language, 2, 8) {
        return false;
    }
    if language.len() <= 3 {
        // Extended language subtags: up to three.
        for _ in 0..3 {
            skip_if(&mut rest, |subtag| is_alphabetic(subtag, 3, 3));
        }
    }
    skip_if(&mut rest, |subtag| is_alphabetic(subtag, 4, 4));
    skip_if(&mut rest, is_region);
    while skip_if(&mut rest, is_variant) {}
    are_extensions(rest)
}

/// Removes the first subtag if `is_kind` accepts it. Returns whether it did.
fn skip_if(subtags: &mut &[&str], is_kind: impl Fn(&str) -> bool) -> bool {
    match subtags.split_first() {
        Some((first, rest)) if is_kind(first) => {
            *subtags = rest;
            true
        }
        _ => false,
    }
}

fn is_region(subtag: &str) -> bool {
    is_alphabetic(subtag, 2, 2) || (subtag.len() == 3 && subtag.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_variant(subtag: &str) -> bool {
    let begins_with_digit = subtag.bytes().next().is_some_and(|byte| byte.is_ascii_digit());
    is_alphanumeric(subtag, 5, 8) || (begins_with_digit && subtag.len() == 4)
}

/// Returns whether `rest` consists of extensions: a singleton with at least one subtag each. `x` takes everything after
/// it.
fn are_extensions(mut rest: &[&str]) -> bool {
    while let Some((singleton, values)) = rest.split_first() {
        if singleton.len() != 1 || values.is_empty() {
            return false;
        }
        if singleton.eq_ignore_ascii_case("x") {
            return true;
        }
        rest = values;
        if !skip_if(&mut rest, |subtag| subtag.len() >= 2) {
            return false;
        }
        while skip_if(&mut rest, |subtag| subtag.len() >= 2) {}
    }
    true
}

fn is_alphabetic(subtag: &str, min: usize, max: usize) -> bool {
    (min..=max).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphabetic())
}

fn is_alphanumeric(subtag: &str, min: usize, max: usize) -> bool {
    (min..=max).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Applies the case of RFC 5646, 2.1.1: lower case, but two-letter subtags in capitals and four-letter subtags in title
/// case, unless they come first or after a singleton.
fn usual_case(subtags: &[&str]) -> String {
    let mut after_singleton = false;
    let mut cased = Vec::with_capacity(subtags.len());
    for (index, subtag) in subtags.iter().enumerate() {
        let lower = subtag.to_ascii_lowercase();
        let as_it_is = index == 0 || after_singleton;
        cased.push(match lower.len() {
            2 if !as_it_is => lower.to_ascii_uppercase(),
            4 if !as_it_is => capitalised(&lower),
            _ => lower,
        });
        after_singleton |= subtag.len() == 1;
    }
    cased.join("-")
}

fn capitalised(lower: &str) -> String {
    let mut letters = lower.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

impl fmt::Display for Locale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Describe for LocaleFault {
    fn fault(&self) -> Fault {
        match self {
            LocaleFault::TooLong => Fault::TooLong,
            LocaleFault::Malformed => Fault::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Option<String>, LocaleFault> {
        Locale::parse(text).map(|locale| locale.map(|locale| locale.as_str().to_owned()))
    }

    #[test]
    fn the_examples_of_rfc_5646_are_well_formed() {
        let tags = [
            "de",
            "zh-Hant",
            "zh-cmn-Hans-CN",
            "sr-Latn-RS",
            "sl-rozaj-biske",
            "de-CH-1901",
            "hy-Latn-IT-arevela",
            "es-419",
            "de-CH-x-phonebk",
            "az-Arab-x-AZE-derbend",
            "x-whatever",
            "zh-CN-a-myext-x-private",
            "en-u-ca-gregory",
        ];
        for tag in tags {
            assert!(matches!(Locale::parse(tag), Ok(Some(_))), "{tag}");
        }
    }

    #[test]
    fn it_is_kept_in_its_usual_case() {
        assert_eq!(parsed("ZH-hANT-tw"), Ok(Some("zh-Hant-TW".into())));
        assert_eq!(parsed("EN-CA-X-CA"), Ok(Some("en-CA-x-ca".into())));
        assert_eq!(parsed("az-latn-X-LATN"), Ok(Some("az-Latn-x-latn".into())));
        assert_eq!(parsed(""), Ok(None));
    }

    #[test]
    fn other_texts_are_refused() {
        let wrong = ["d", "de_DE", "de-", "-de", "de--CH", "123", "deutschland", "de-x", "de-a", "de-a-b", "de-419-DE"];
        for tag in wrong.into_iter().chain([" de", "de\0", "dé", "x", "en-GB-oed-Latn", "ar-a-aaa-b"]) {
            assert_eq!(parsed(tag), Err(LocaleFault::Malformed), "{tag:?}");
        }
        assert_eq!(parsed(&"x-aaaaaaaa".repeat(4)), Err(LocaleFault::TooLong));
    }
}
