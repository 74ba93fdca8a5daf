//! `latchkey password check`: says how strong a password is, and whether the rules accept it.

use clap::Args;
use secrecy::ExposeSecret;

use crate::cli::args::Confirmation;
use crate::cli::error::{Error, Exit};
use crate::cli::output::Screen;
use crate::cli::output::text::{Text, Tone};
use crate::cli::setting::Cli;
use crate::proto::v1::{CheckPasswordStrengthRequest, CheckPasswordStrengthResponse, PasswordRule};

/// Cells of the bar for each point of the score.
const CELLS: usize = 4;

const HELP: &str = "\
Asks for a password without showing it. The server neither stores nor logs it, and does
not compare old passwords. Exits with 1 if the rules refuse it.

Examples:
  latchkey password check
  latchkey password check --word ada --word \"Ada Lovelace\"
  pwgen 20 1 | latchkey password check --password-stdin --output json";

/// Say how strong a password is, and whether the rules accept it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Check {
    /// A word that an attacker would try first, such as a username; may be repeated.
    #[arg(long = "word", value_name = "TEXT")]
    words: Vec<String>,
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Check {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        cli.client.warn_if_overheard(&cli.screen);
        let password =
            if self.password_stdin { cli.read_required_secret("the password")? } else { cli.ask_secret("Password")? };
        let request = CheckPasswordStrengthRequest {
            password: password.expose_secret().to_owned(),
            user_inputs: self.words,
            language: String::new(),
        };
        let mut is_acceptable = true;
        cli.answer(request, |screen, answer| {
            is_acceptable = answer.acceptable;
            show(screen, &answer)
        })
        .await?;
        if is_acceptable { Ok(()) } else { Err(Error::Silent(Exit::Stopped)) }
    }
}

fn show(screen: &Screen, answer: &CheckPasswordStrengthResponse) -> Result<(), Error> {
    screen.fields([
        ("strength", bar(answer.score)),
        ("guesses", format!("about 10^{:.0}", answer.guesses_log10).into()),
        ("weak", answer.warning.as_str().into()),
        ("better", answer.suggestions.join(" ").into()),
    ])?;
    if answer.acceptable {
        return screen.done("the rules accept it");
    }
    for rule in answer.violations() {
        screen.line(Text::toned(Tone::Bad, "✖ ").join(told(rule).into()))?;
    }
    Ok(())
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

fn told(rule: PasswordRule) -> &'static str {
    match rule {
        PasswordRule::TooShort => "it is too short",
        PasswordRule::TooLong => "it is too long",
        PasswordRule::TooWeak => "it is too easy to guess",
        PasswordRule::Breached => "it is in a list of leaked passwords",
        PasswordRule::ContainsUserInfo => "it is little more than names of the user or of the organisation",
        PasswordRule::LetterAndDigit => "it needs a letter and a digit",
        PasswordRule::NotText => "it has a character that cannot be used",
        PasswordRule::Reused | PasswordRule::Unspecified => "a rule refuses it",
    }
}
