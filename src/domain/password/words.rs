//! The words that an attacker tries first for a user: the names of the user and of the organisation.

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::PlainPassword;
use crate::domain::email::EmailAddress;
use crate::domain::profile::DisplayName;
use crate::domain::username::Username;

/// The product's own name, which administrators use in first passwords.
const PRODUCT: &str = "latchkey";

/// Shortest word that is looked at, in characters. A shorter one is in many good passwords.
const MIN_LENGTH: usize = 3;

/// Longest word, in characters, and most of them: an estimate compares each with each part of the password.
const MAX_LENGTH: usize = 64;
const MAX_WORDS: usize = 32;

/// Letters that must be left of a password once the words are taken out. Fewer make no password.
const MIN_REST: usize = 4;

/// Names of the user and of the organisation, folded. Never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextWords(Vec<String>);

impl ContextWords {
    /// The words of the organisation and of the product.
    pub fn of_organisation(name: &str) -> ContextWords {
        ContextWords(Vec::new()).and(PRODUCT).and(name)
    }

    /// Adds the names of a user.
    #[must_use]
    pub fn of_user(
        self,
        username: &Username,
        email: Option<&EmailAddress>,
        display_name: Option<&DisplayName>,
    ) -> ContextWords {
        let others = [email.map(EmailAddress::as_str), display_name.map(DisplayName::as_str)];
        others.into_iter().flatten().fold(self.and(username.as_str()), ContextWords::and)
    }

    /// Adds a text: its words, and the whole without what is between them.
    #[must_use]
    pub fn and(mut self, text: &str) -> ContextWords {
        let folded = folded(text);
        // Of an address, the part before the '@' is a name, and the part after it names the organisation.
        let parts: Vec<&str> = folded.split(|c: char| !c.is_alphanumeric()).collect();
        let local: String =
            folded.split('@').next().unwrap_or_default().chars().filter(|c| c.is_alphanumeric()).collect();
        for word in parts.into_iter().chain([local.as_str()]) {
            let length = word.chars().count();
            let is_wanted = (MIN_LENGTH..=MAX_LENGTH).contains(&length) && word.chars().any(char::is_alphabetic);
            if is_wanted && self.0.len() < MAX_WORDS && !self.0.iter().any(|known| known == word) {
                self.0.push(word.to_owned());
            }
        }
        self
    }

    /// The words, for an estimate of strength.
    pub(super) fn as_slices(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// Returns whether the password is little more than these words: without them, fewer than four letters are left. A good
    /// password may contain a name (NIST SP 800-63B-4, 3.1.1.2 compares whole passwords).
    pub fn make_up(&self, password: &PlainPassword) -> bool {
        let mut rest = Zeroizing::new(folded(password.expose()));
        let mut longest_first: Vec<&String> = self.0.iter().collect();
        longest_first.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let mut has_word = false;
        for word in longest_first {
            if rest.contains(word.as_str()) {
                has_word = true;
                rest = Zeroizing::new(rest.replace(word.as_str(), " "));
            }
        }
        has_word && rest.chars().filter(|c| c.is_alphabetic()).count() < MIN_REST
    }
}

/// A text without the difference of case, width and composition.
fn folded(text: &str) -> String {
    text.nfkc().collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> ContextWords {
        ContextWords::of_organisation("Example Ltd")
            .and("grace")
            .and("g.hopper@corp.example")
            .and("Grace Brewster Hopper")
    }

    fn makes_up(text: &str) -> bool {
        PlainPassword::parse(text.to_owned()).is_ok_and(|password| words().make_up(&password))
    }

    #[test]
    fn sec_057_a_password_of_little_but_names_is_found_whatever_frames_them() {
        for bad in [
            "gracehopper2026",
            "Grace.Hopper.Grace!",
            "hopperhopperhopper",
            "ＧＲＡＣＥ hopper 12345",
            "example.ltd.1234",
            "latchkeylatchkey",
            "G.Hopper@Corp.Example",
            "ghopper-ghopper-1",
        ] {
            assert!(makes_up(bad), "{bad}");
        }
        for good in ["correct horse battery", "grace under pressure again", "hop and skip and jump", "123456789012345"]
        {
            assert!(!makes_up(good), "{good}");
        }
    }

    #[test]
    fn words_are_few_and_neither_short_nor_long() {
        let long = "x".repeat(MAX_LENGTH + 1);
        let many: Vec<String> = (0..100).map(|number| format!("word{number}")).collect();
        let words = ContextWords::of_organisation("a bc").and(&long).and(&many.join(" "));
        assert_eq!(words.0.len(), MAX_WORDS);
        assert!(words.0.iter().all(|word| (MIN_LENGTH..=MAX_LENGTH).contains(&word.len())), "{words:?}");
    }
}
