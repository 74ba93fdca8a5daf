//! How hard a password is to guess: an estimate by zxcvbn (Wheeler, USENIX Security 2016), within bounds.
//!
//! Without bounds, an estimate is a denial of service: the library tries every combination of the letters that symbols can stand
//! for, so that a password of a hundred characters takes seconds of processor time. It gets the first characters only, and few
//! different symbols of this kind. The scores of ordinary passwords stay the same.

use std::collections::BTreeSet;

use zeroize::Zeroizing;
use zxcvbn::feedback::{Suggestion, Warning};

use super::{ContextWords, PlainPassword};
use crate::domain::language::Language;

/// Characters that are looked at.
const MAX_CHARACTERS: usize = 64;

/// The symbols that the library takes for letters, besides digits.
const STAND_INS: &str = "@({[<!|$+%";

/// Different ones and digits that are left in a password. Each more can double the work.
const MAX_STAND_INS: usize = 5;

/// The same for a part of a password, which is looked at besides: a word has few.
const MAX_STAND_INS_OF_PART: usize = 3;

/// A letter that stands for no other, in place of further symbols.
const NEUTRAL: char = 'æ';

/// Digits and symbols that make a weak password no stronger, such as `2026!!!`. More could be a secret of their own.
const MAX_FRAME: usize = 8;

/// Characters of a password that is looked at without them, too. In a longer one they are no small part, and each look costs time.
const MAX_FRAMED: usize = 40;

/// The score of a weaker password with these, and the guesses that go with it.
const FRAMED_SCORE: u8 = 2;
const FRAMED_GUESSES_LOG10: f64 = 8.0;

/// Words that are common as passwords, but not in the lists of the library, which are English.
const COMMON_ELSEWHERE: [&str; 24] = [
    "passwort",
    "kennwort",
    "geheim",
    "hallo",
    "willkommen",
    "sommer",
    "winter",
    "motdepasse",
    "bonjour",
    "azerty",
    "soleil",
    "contraseña",
    "hola",
    "senha",
    "wachtwoord",
    "haslo",
    "пароль",
    "йцукен",
    "привет",
    "любовь",
    "密码",
    "パスワード",
    "비밀번호",
    "qwertz",
];

/// How hard a password is to guess.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strength {
    /// 0 to 4: at least 10³, 10⁶, 10⁸, 10¹⁰ guesses for 1, 2, 3, 4.
    pub score: u8,
    /// The decimal logarithm of the guesses that a good attacker needs.
    pub guesses_log10: f64,
    /// What is weak, and what would help.
    pub hint: Hint,
}

/// What is weak about a password, and what would help.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hint {
    /// What is weak. `None` if nothing in particular is.
    pub weakness: Option<Weakness>,
    /// What would help.
    pub advice: Advice,
}

/// What is weak about a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// Neighbours on a keyboard.
    Keyboard,
    /// Repeated characters or words.
    Repeats,
    /// A password that many have.
    Common,
    /// Nearly such a one.
    SimilarToCommon,
    /// Characters in the order of an alphabet or of numbers.
    Sequence,
    /// A recent year.
    Year,
    /// A single word.
    Word,
    /// A date.
    Date,
    /// Names.
    Names,
}

/// What would make a password stronger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Advice {
    /// More words.
    #[default]
    MoreWords,
    /// Other places than a capital at the beginning.
    Capitals,
    /// Other words than one that is written backwards.
    Reversed,
    /// Other words than one with symbols for letters.
    Substitutions,
    /// No repetition.
    NoRepeats,
    /// No sequence.
    NoSequences,
    /// No date or year.
    NoDates,
}

/// Estimates the strength of a password. `words` are what an attacker would try first. Takes some milliseconds of processor time
/// at most, for any password.
pub fn strength_of(password: &PlainPassword, words: &ContextWords) -> Strength {
    let bounded_whole = bounded(password.expose(), MAX_STAND_INS);
    let inputs: Vec<&str> = words.as_slices().into_iter().chain(COMMON_ELSEWHERE).collect();
    let whole = estimated(&bounded_whole, &inputs);
    // A few random letters have a low score as well, but there is nothing in them that a guesser knows.
    let is_weak =
        |core: &Strength| core.score < FRAMED_SCORE && whole.score > FRAMED_SCORE && core.hint.weakness.is_some();
    let cores = cores(password.expose());
    match cores.iter().map(|core| estimated(&bounded(core, MAX_STAND_INS_OF_PART), &inputs)).find(is_weak) {
        Some(core) => Strength { score: FRAMED_SCORE, guesses_log10: FRAMED_GUESSES_LOG10, ..core },
        None => whole,
    }
}

/// A password without the digits, years and symbols around it, and without all of them. Empty if there are none, too many, or too
/// many other characters.
fn cores(password: &str) -> Vec<Zeroizing<String>> {
    let within = Zeroizing::new(password.trim_matches(|c: char| !c.is_alphabetic()).to_owned());
    let letters = Zeroizing::new(password.chars().filter(|c| c.is_alphabetic()).collect::<String>());
    if password.chars().count() > MAX_FRAMED {
        return Vec::new();
    }
    let length = length_without_repeats(password);
    let is_core = |core: &Zeroizing<String>| {
        let left_out = length.saturating_sub(length_without_repeats(core));
        !core.is_empty() && (1..=MAX_FRAME).contains(&left_out)
    };
    [within, letters].into_iter().filter(is_core).collect()
}

/// The number of characters, of which a digit or symbol counts once if it is repeated: `!!!!!` is no secret.
fn length_without_repeats(text: &str) -> usize {
    let mut before = None;
    text.chars().filter(|c| before.replace(*c) != Some(*c) || c.is_alphabetic()).count()
}

/// Returns whether a text is a word that is common elsewhere. The library tells no weakness of those.
fn is_common_elsewhere(text: &str) -> bool {
    let text = Zeroizing::new(text.to_lowercase());
    COMMON_ELSEWHERE.contains(&text.as_str())
}

fn estimated(password: &str, inputs: &[&str]) -> Strength {
    let estimate = zxcvbn::zxcvbn(password, inputs);
    let feedback = estimate.feedback();
    let advice =
        feedback.map(|feedback| feedback.suggestions().iter().copied().find_map(advice_of).unwrap_or_default());
    Strength {
        score: u8::from(estimate.score()),
        guesses_log10: estimate.guesses_log10(),
        hint: Hint {
            weakness: feedback
                .and_then(zxcvbn::feedback::Feedback::warning)
                .map(weakness_of)
                .or_else(|| is_common_elsewhere(password).then_some(Weakness::Common)),
            advice: advice.unwrap_or_default(),
        },
    }
}

/// The first characters of a password, with few different symbols that could stand for letters: `max_stand_ins`, less the digits.
/// Digits stay, so that dates and sequences are found: all ten of them alone take 9 ms at most.
fn bounded(password: &str, max_stand_ins: usize) -> Zeroizing<String> {
    let digits: BTreeSet<char> = password.chars().take(MAX_CHARACTERS).filter(char::is_ascii_digit).collect();
    let most = max_stand_ins.saturating_sub(digits.len());
    let mut kept: Vec<char> = Vec::with_capacity(max_stand_ins);
    // Allocated with the largest size, so that growing leaves no copy behind.
    let mut bounded = Zeroizing::new(String::with_capacity(MAX_CHARACTERS * 4));
    for c in password.chars().take(MAX_CHARACTERS) {
        let is_symbol = STAND_INS.contains(c);
        if is_symbol && !kept.contains(&c) && kept.len() < most {
            kept.push(c);
        }
        bounded.push(if is_symbol && !kept.contains(&c) { NEUTRAL } else { c });
    }
    bounded
}

fn weakness_of(warning: Warning) -> Weakness {
    match warning {
        Warning::StraightRowsOfKeysAreEasyToGuess | Warning::ShortKeyboardPatternsAreEasyToGuess => Weakness::Keyboard,
        Warning::RepeatsLikeAaaAreEasyToGuess | Warning::RepeatsLikeAbcAbcAreOnlySlightlyHarderToGuess => {
            Weakness::Repeats
        }
        Warning::ThisIsATop10Password | Warning::ThisIsATop100Password | Warning::ThisIsACommonPassword => {
            Weakness::Common
        }
        Warning::ThisIsSimilarToACommonlyUsedPassword => Weakness::SimilarToCommon,
        Warning::SequencesLikeAbcAreEasyToGuess => Weakness::Sequence,
        Warning::RecentYearsAreEasyToGuess => Weakness::Year,
        Warning::AWordByItselfIsEasyToGuess => Weakness::Word,
        Warning::DatesAreOftenEasyToGuess => Weakness::Date,
        Warning::NamesAndSurnamesByThemselvesAreEasyToGuess | Warning::CommonNamesAndSurnamesAreEasyToGuess => {
            Weakness::Names
        }
    }
}

/// The advice behind a suggestion. `None` if it is that of every weak password.
fn advice_of(suggestion: Suggestion) -> Option<Advice> {
    match suggestion {
        Suggestion::UseAFewWordsAvoidCommonPhrases
        | Suggestion::NoNeedForSymbolsDigitsOrUppercaseLetters
        | Suggestion::UseALongerKeyboardPatternWithMoreTurns
        | Suggestion::AddAnotherWordOrTwo => None,
        Suggestion::CapitalizationDoesntHelpVeryMuch | Suggestion::AllUppercaseIsAlmostAsEasyToGuessAsAllLowercase => {
            Some(Advice::Capitals)
        }
        Suggestion::ReversedWordsArentMuchHarderToGuess => Some(Advice::Reversed),
        Suggestion::PredictableSubstitutionsDontHelpVeryMuch => Some(Advice::Substitutions),
        Suggestion::AvoidRepeatedWordsAndCharacters => Some(Advice::NoRepeats),
        Suggestion::AvoidSequences => Some(Advice::NoSequences),
        Suggestion::AvoidRecentYears
        | Suggestion::AvoidYearsThatAreAssociatedWithYou
        | Suggestion::AvoidDatesAndYearsThatAreAssociatedWithYou => Some(Advice::NoDates),
    }
}

impl Weakness {
    /// A sentence for the user.
    pub fn text(self, language: Language) -> &'static str {
        let [english, german] = match self {
            Weakness::Keyboard => {
                ["Neighbouring keys are easy to guess.", "Nebeneinander liegende Tasten sind leicht zu erraten."]
            }
            Weakness::Repeats => ["Repetition is easy to guess.", "Wiederholungen sind leicht zu erraten."],
            Weakness::Common => ["Many people use this password.", "Viele verwenden dieses Passwort."],
            Weakness::SimilarToCommon => {
                ["This is close to a common password.", "Das ist einem verbreiteten Passwort sehr ähnlich."]
            }
            Weakness::Sequence => {
                ["Sequences such as abc or 6543 are easy to guess.", "Folgen wie abc oder 6543 sind leicht zu erraten."]
            }
            Weakness::Year => ["Recent years are easy to guess.", "Jahre unserer Zeit sind leicht zu erraten."],
            Weakness::Word => ["A single word is easy to guess.", "Ein einzelnes Wort ist leicht zu erraten."],
            Weakness::Date => ["Dates are easy to guess.", "Ein Datum ist leicht zu erraten."],
            Weakness::Names => ["Names are easy to guess.", "Namen sind leicht zu erraten."],
        };
        language.one_of(english, german)
    }
}

impl Advice {
    /// A sentence for the user.
    pub fn text(self, language: Language) -> &'static str {
        let [english, german] = match self {
            Advice::MoreWords => [
                "Add another word or two that do not belong together.",
                "Fügen Sie ein oder zwei Wörter hinzu, die nicht zusammengehören.",
            ],
            Advice::Capitals => [
                "Capital letters help little: add another word or two.",
                "Großbuchstaben helfen wenig: Fügen Sie ein oder zwei Wörter hinzu.",
            ],
            Advice::Reversed => [
                "A word written backwards helps little: add another word or two.",
                "Ein rückwärts geschriebenes Wort hilft wenig: Fügen Sie ein oder zwei Wörter hinzu.",
            ],
            Advice::Substitutions => [
                "Symbols in place of letters help little: add another word or two.",
                "Zeichen anstelle von Buchstaben helfen wenig: Fügen Sie ein oder zwei Wörter hinzu.",
            ],
            Advice::NoRepeats => [
                "Use different words instead of the same again.",
                "Nehmen Sie verschiedene Wörter statt desselben noch einmal.",
            ],
            Advice::NoSequences => ["Use words instead of sequences.", "Nehmen Sie Wörter statt Folgen."],
            Advice::NoDates => {
                ["Use words instead of dates and years.", "Nehmen Sie Wörter statt Daten und Jahreszahlen."]
            }
        };
        language.one_of(english, german)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strength(text: &str) -> Strength {
        let words = ContextWords::of_organisation("Example Ltd").and("grace");
        PlainPassword::parse(text.to_owned()).map_or_else(
            |_| Strength { score: 9, guesses_log10: 0.0, hint: Hint::default() },
            |password| strength_of(&password, &words),
        )
    }

    #[test]
    fn sec_057_what_is_easy_to_guess_has_a_low_score_at_any_length() {
        for weak in [
            "passwordpassword",
            "password2026!!!",
            "qwertyuiopasdfgh",
            "aaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopq",
            "123456789012345678",
            "gracegracegrace",
            "P@ssw0rdP@ssw0rd",
            "passwortpasswort",
            "парольпарольпароль",
            "monkey1999monkey",
            "passwort2026!!!",
            "Passwort123456!",
            "sommer2026!!!!!",
            "summer2026!!!!!",
        ] {
            assert!(strength(weak).score < 3, "{weak}: {:?}", strength(weak));
        }
        for strong in [
            "correct horse battery staple",
            "four score and seven",
            "five quiet lanterns",
            "勝つと思うな思えば負けよ",
            "Xk7#q9!Zp2$L",
            "mQ4-7vR8-2xT",
            "sommer839274615",
        ] {
            assert!(strength(strong).score >= 3, "{strong}: {:?}", strength(strong));
        }
    }

    #[test]
    fn a_hint_says_what_is_weak_and_what_would_help() {
        assert_eq!(strength("aaaaaaaaaaaaaaaa").hint.weakness, Some(Weakness::Repeats));
        assert_eq!(strength("qwertyuiop").hint.weakness, Some(Weakness::Common));
        assert_eq!(strength("p@ssw0rd").hint.advice, Advice::Substitutions);
        for language in [Language::English, Language::German] {
            for weakness in [Weakness::Keyboard, Weakness::Word, Weakness::Names] {
                assert!(weakness.text(language).ends_with('.'));
            }
        }
    }

    #[test]
    fn few_symbols_that_could_stand_for_letters_are_left() {
        let left = bounded(&"\"@({[<!|$+%z\"".repeat(9), MAX_STAND_INS);
        assert_eq!(left.chars().count(), MAX_CHARACTERS);
        let kept: BTreeSet<char> = left.chars().filter(|c| STAND_INS.contains(*c)).collect();
        assert_eq!(kept.len(), MAX_STAND_INS);
        assert_eq!(*bounded("!123456789!0", MAX_STAND_INS), "æ123456789æ0", "digits count");
        assert_eq!(*bounded("Tr0ub4dor&3", MAX_STAND_INS), "Tr0ub4dor&3");
        assert_eq!(*bounded("c0rr3ct h0r$e b@ttery", MAX_STAND_INS), "c0rr3ct h0r$e b@ttery");
    }
}
