//! How strong a password is, and which rules refuse it.

use super::text::{Text, Tone};
use crate::proto::v1::{CheckPasswordStrengthResponse, PasswordRule, PasswordRules};

/// Cells of the bar for each point of the score.
const CELLS: usize = 4;

/// A bar, what is weak, and what would help, as fields.
pub(crate) fn fields(answer: &CheckPasswordStrengthResponse) -> [(&'static str, Text); 4] {
    [
        ("strength", bar(answer.score)),
        ("guesses", format!("about 10^{:.0}", answer.guesses_log10).into()),
        ("weak", answer.warning.as_str().into()),
        ("better", answer.suggestions.join(" ").into()),
    ]
}

/// A line for each rule that the password breaks. Lengths are told if they are known.
pub(crate) fn broken(answer: &CheckPasswordStrengthResponse, rules: &PasswordRules) -> impl Iterator<Item = Text> {
    answer.violations().map(|rule| Text::toned(Tone::Bad, "✖ ").join(told(rule, rules).into()))
}

fn bar(score: u32) -> Text {
    let score = usize::try_from(score).unwrap_or_default().min(4);
    let (word, tone) = match score {
        0 => ("very weak", Tone::Bad),
        1 => ("weak", Tone::Bad),
        2 => ("fair", Tone::Warn),
        3 => ("good", Tone::Good),
        _ => ("strong", Tone::Good),
    };
    // One more than the score: an empty bar would look like no answer.
    let full = (score + 1) * CELLS;
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(5 * CELLS - full));
    Text::toned(tone, bar).join(format!("  {word} ({score} of 4)").into())
}

fn told(rule: PasswordRule, rules: &PasswordRules) -> String {
    let length = |length: Option<u32>, bound| length.map(|length| format!(": {bound} {length} characters"));
    match rule {
        PasswordRule::TooShort => {
            format!("it is too short{}", length(rules.min_length, "at least").unwrap_or_default())
        }
        PasswordRule::TooLong => format!("it is too long{}", length(rules.max_length, "at most").unwrap_or_default()),
        PasswordRule::TooWeak => "it is too easy to guess".to_owned(),
        PasswordRule::Breached => "it is in a list of leaked passwords".to_owned(),
        PasswordRule::ContainsUserInfo => "it is little more than names of the user or of the organisation".to_owned(),
        PasswordRule::LetterAndDigit => "it needs a letter and a digit".to_owned(),
        PasswordRule::NotText => "it has a character that cannot be used".to_owned(),
        PasswordRule::Reused | PasswordRule::Unspecified => "a rule refuses it".to_owned(),
    }
}
