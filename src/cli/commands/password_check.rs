//! `latchkey password check`: says how strong a password is, and whether the rules accept it.

use clap::Args;
use secrecy::ExposeSecret;

use crate::cli::args::Confirmation;
use crate::cli::error::{Error, Exit};
use crate::cli::output::{Screen, strength};
use crate::cli::setting::Cli;
use crate::proto::v1::{CheckPasswordStrengthRequest, CheckPasswordStrengthResponse, PasswordRules};

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
        let answer = cli.call(request).await?;
        let is_acceptable = answer.acceptable;
        cli.print::<CheckPasswordStrengthRequest>(answer, |screen, answer| show(screen, &answer))?;
        if is_acceptable { Ok(()) } else { Err(Error::Silent(Exit::Stopped)) }
    }
}

fn show(screen: &Screen, answer: &CheckPasswordStrengthResponse) -> Result<(), Error> {
    screen.fields(strength::fields(answer))?;
    if answer.acceptable {
        return screen.done("the rules accept it");
    }
    strength::broken(answer, &PasswordRules::default()).try_for_each(|line| screen.line(line))
}
