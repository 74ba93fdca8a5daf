//! Rules for new passwords, and the one function that judges them.

use super::{AcceptedPassword, ContextWords, Hint, PasswordFault, PlainPassword, Strength};
use crate::domain::language::Language;
use crate::domain::violation::{Describe, Fault};

/// Rules for new passwords. By default there are no composition rules and no expiry: NIST SP 800-63B-4, 3.1.1.2 forbids both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordRules {
    /// Minimum number of code points. NIST SP 800-63B-4, 3.1.1.2: 15 if the password is the only factor.
    pub min_length: u32,
    /// Maximum number of code points. NIST SP 800-63B-4, 3.1.1.2: at least 64.
    pub max_length: u32,
    /// Lowest score of [`Strength`] that is accepted.
    pub min_score: u8,
    /// Whether a password of the list of leaked ones is refused.
    pub reject_breached: bool,
    /// Whether a password of little but the user's and the organisation's names is refused.
    pub reject_user_info: bool,
    /// Whether a password needs a letter and a digit. For PCI DSS 4.0.1, 8.3.6; it makes no password stronger.
    pub require_letter_and_digit: bool,
}

impl Default for PasswordRules {
    fn default() -> PasswordRules {
        PasswordRules {
            min_length: 15,
            max_length: 256,
            min_score: 3,
            reject_breached: true,
            reject_user_info: true,
            require_letter_and_digit: false,
        }
    }
}

/// The lengths that rules may ask for.
#[derive(Debug, Clone, Copy)]
pub struct LengthBounds;

impl LengthBounds {
    /// The smallest minimum. NIST SP 800-63B-4, 3.1.1.2: 8 if there is a second factor.
    pub const MIN: u32 = 8;
    /// The smallest maximum, which is the largest minimum too. NIST SP 800-63B-4, 3.1.1.2.
    pub const MAX_AT_LEAST: u32 = 64;
    /// The largest maximum. Longer passwords make no difference to a guesser.
    pub const MAX: u32 = 256;
}

/// What was found out about a new password, to judge it.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The names of the user and of the organisation.
    pub words: &'a ContextWords,
    /// How hard it is to guess.
    pub strength: Strength,
    /// Whether it is in the list of leaked passwords.
    pub is_breached: bool,
}

impl PasswordRules {
    /// Accepts a password, or returns every rule that it breaks, except reuse, which only hashing can detect.
    pub fn accept(&self, password: PlainPassword, evidence: Evidence<'_>) -> Result<AcceptedPassword, Vec<RuleBroken>> {
        let broken = self.broken_by(&password, evidence);
        if broken.is_empty() { Ok(AcceptedPassword::judged(password)) } else { Err(broken) }
    }

    /// The rules that a password breaks, except reuse.
    pub fn broken_by(&self, password: &PlainPassword, evidence: Evidence<'_>) -> Vec<RuleBroken> {
        let length = u32::try_from(password.code_points()).unwrap_or(u32::MAX);
        let has = |is: fn(char) -> bool| password.expose().chars().any(is);
        let lacks_kind = !has(char::is_alphabetic) || !has(char::is_numeric);
        let found = [
            (length < self.min_length, RuleBroken::TooShort { min: self.min_length }),
            (length > self.max_length, RuleBroken::TooLong { max: self.max_length }),
            (self.require_letter_and_digit && lacks_kind, RuleBroken::LetterAndDigit),
            (self.reject_user_info && evidence.words.make_up(password), RuleBroken::UserInfo),
            (evidence.strength.score < self.min_score, RuleBroken::TooWeak { hint: evidence.strength.hint }),
            (self.reject_breached && evidence.is_breached, RuleBroken::Breached),
        ];
        found.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, rule)| rule).collect()
    }
}

/// A rule that a new password breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleBroken {
    /// Too few code points.
    TooShort {
        /// The minimum.
        min: u32,
    },
    /// Too many code points.
    TooLong {
        /// The maximum.
        max: u32,
    },
    /// Without a letter or without a digit.
    LetterAndDigit,
    /// Little but names of the user and of the organisation.
    UserInfo,
    /// Too easy to guess.
    TooWeak {
        /// Why, and what would help.
        hint: Hint,
    },
    /// In the list of leaked passwords.
    Breached,
    /// Same as the old password, or one of those remembered.
    Reused,
    /// Contains a control character or an unassigned code point.
    NotText,
}

impl RuleBroken {
    /// What is wrong, and what would help, for the user.
    pub fn text(&self, language: Language) -> String {
        let same = |english, german| language.one_of(english, german).to_owned();
        match self {
            RuleBroken::TooShort { min } => match language {
                Language::English => format!("shorter than {min} characters"),
                Language::German => format!("kürzer als {min} Zeichen"),
            },
            RuleBroken::TooLong { max } => match language {
                Language::English => format!("longer than {max} characters"),
                Language::German => format!("länger als {max} Zeichen"),
            },
            RuleBroken::LetterAndDigit => {
                same("needs a letter and a digit", "braucht einen Buchstaben und eine Ziffer")
            }
            RuleBroken::UserInfo => same(
                "consists of little but the names of the user or of the organisation",
                "besteht fast nur aus den Namen des Kontos oder der Organisation",
            ),
            RuleBroken::TooWeak { hint } => {
                let weakness = hint.weakness.map(|weakness| format!(" {}", weakness.text(language)));
                let weakness = weakness.unwrap_or_default();
                let advice = hint.advice.text(language);
                format!("{}{weakness} {advice}", language.one_of("too easy to guess.", "zu leicht zu erraten."))
            }
            RuleBroken::Breached => same(
                "in a list of leaked passwords, which attackers try first",
                "in einer Liste gestohlener Passwörter, die Angreifer zuerst versuchen",
            ),
            RuleBroken::Reused => same("the same as an old password", "dasselbe wie ein altes Passwort"),
            RuleBroken::NotText => match language {
                Language::English => PasswordFault::NotText.to_string(),
                Language::German => "enthält Steuerzeichen oder Zeichen, die es in Unicode nicht gibt".to_owned(),
            },
        }
    }
}

impl std::fmt::Display for RuleBroken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text(Language::English))
    }
}

impl Describe for RuleBroken {
    fn fault(&self) -> Fault {
        match self {
            RuleBroken::TooShort { .. } => Fault::TooShort,
            RuleBroken::TooLong { .. } => Fault::TooLong,
            RuleBroken::LetterAndDigit => Fault::LetterAndDigit,
            RuleBroken::UserInfo => Fault::ContainsUserInfo,
            RuleBroken::TooWeak { .. } => Fault::TooWeak,
            RuleBroken::Breached => Fault::Breached,
            RuleBroken::Reused => Fault::Reused,
            RuleBroken::NotText => Fault::NotText,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::strength_of;
    use super::*;

    fn broken_under(rules: PasswordRules, text: &str, is_breached: bool) -> Result<Vec<RuleBroken>, PasswordFault> {
        let password = PlainPassword::parse(text.to_owned())?;
        let words = ContextWords::of_organisation("Example Ltd").and("grace");
        let strength = strength_of(&password, &words);
        Ok(rules.broken_by(&password, Evidence { words: &words, strength, is_breached }))
    }

    fn broken(text: &str) -> Result<Vec<RuleBroken>, PasswordFault> {
        broken_under(PasswordRules::default(), text, false)
    }

    const SHORT: RuleBroken = RuleBroken::TooShort { min: 15 };

    #[test]
    fn sec_054_length_counts_code_points_and_nothing_is_cut_off() {
        let lasting = "é.ü-ß/ø+å*ñ#ç!ω";
        assert_eq!(broken(lasting), Ok(vec![]));
        assert_eq!(broken("e\u{301}.u\u{308}-ß/ø+å*n\u{303}#c\u{327}!"), Ok(vec![SHORT]));
        let long = format!("{lasting}{}", "é".repeat(241));
        assert_eq!(broken(&long), Ok(vec![]));
        assert_eq!(broken(&format!("{long}é")), Ok(vec![RuleBroken::TooLong { max: 256 }]));
    }

    #[test]
    fn every_rule_that_is_broken_is_named_at_once() {
        let all = PasswordRules { require_letter_and_digit: true, ..PasswordRules::default() };
        let broken = broken_under(all, "Grace!", true).unwrap_or_default();
        let names: Vec<Fault> = broken.iter().map(Describe::fault).collect();
        let expected =
            [Fault::TooShort, Fault::LetterAndDigit, Fault::ContainsUserInfo, Fault::TooWeak, Fault::Breached];
        assert_eq!(names, expected);
    }

    #[test]
    fn sec_058_composition_is_a_rule_only_if_it_is_switched_on() {
        let pci = PasswordRules { min_length: 12, require_letter_and_digit: true, ..PasswordRules::default() };
        for (text, is_broken) in
            [("five quiet lanterns", true), ("five quiet lanterns 7", false), ("7316 5502 9984 1", true)]
        {
            let broken = broken_under(pci, text, false).unwrap_or_default();
            assert_eq!(broken.contains(&RuleBroken::LetterAndDigit), is_broken, "{text}: {broken:?}");
        }
        assert_eq!(broken("five quiet lanterns"), Ok(vec![]));
    }

    #[test]
    fn a_rule_that_is_off_breaks_nothing() {
        let off =
            PasswordRules { min_score: 0, reject_breached: false, reject_user_info: false, ..PasswordRules::default() };
        assert_eq!(broken_under(off, "gracegracegrace", true), Ok(vec![]));
    }

    #[test]
    fn a_broken_rule_says_what_would_help_in_the_language_of_the_user() {
        let weak = broken("aaaaaaaaaaaaaaaaaaaa").unwrap_or_default();
        let texts: Vec<String> = weak.iter().map(|rule| rule.text(Language::German)).collect();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(texts.iter().all(|text| text.starts_with("zu leicht zu erraten. Wiederholungen")), "{texts:?}");
    }
}
