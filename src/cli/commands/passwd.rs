//! `latchkey passwd`: changes the caller's own password.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use crate::cli::args::Confirmation;
use crate::cli::error::Error;
use crate::cli::factor::Codes;
use crate::cli::output::words::count;
use crate::cli::setting::Cli;
use crate::proto::v1::{ChangePasswordRequest, ChangePasswordResponse, WhoAmIRequest};

/// The number of attempts at a new password that satisfies the rules.
pub(crate) const ATTEMPTS: usize = 5;

const HELP: &str = "\
Changes the password of the user who is signed in (`latchkey login`). All your other sessions end.

Examples:
  latchkey passwd
  printf '%s\\n%s\\n' \"$OLD\" \"$NEW\" | latchkey passwd --password-stdin";

/// Change your own password.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Passwd {
    /// Read lines from standard input: the password of today, the new one, and a code if you have a second factor.
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Passwd {
    /// Asks for both passwords, and for the new one again while it breaks the rules.
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        cli.client.warn_if_overheard(&cli.screen);
        if self.password_stdin {
            let current = cli.read_required_secret("the current password")?;
            let new = cli.read_required_secret("the new password, its second line")?;
            return change(cli, &current, &new, Codes::Stdin).await;
        }
        let current = cli.ask_secret("Current password")?;
        let user = cli.client.call_once(WhoAmIRequest {}).await.ok().and_then(|caller| caller.user).unwrap_or_default();
        let names = [user.username, user.email, user.display_name];
        for _ in 1..ATTEMPTS {
            let new = cli.ask_new_password(&names).await?;
            match change(cli, &current, &new, Codes::Asked).await {
                Err(error) if error.reason() == "PASSWORD_REJECTED" => cli.screen.error(&error),
                outcome => return outcome,
            }
        }
        let new = cli.ask_new_password(&names).await?;
        change(cli, &current, &new, Codes::Asked).await
    }
}

async fn change(cli: &Cli, current: &SecretString, new: &SecretString, codes: Codes) -> Result<(), Error> {
    let request = ChangePasswordRequest {
        current_password: current.expose_secret().to_owned(),
        new_password: new.expose_secret().to_owned(),
        second_factor: None,
        validate_only: false,
    };
    let answer = cli.call_with_code(request, codes).await.map_err(|error| match error.reason() {
        "CREDENTIALS_REJECTED" => {
            error.hint("the current password is wrong; if you forgot it, an operator can reset it")
        }
        _ => error,
    })?;
    cli.print::<ChangePasswordRequest>(answer, |screen, ChangePasswordResponse { sessions_revoked }| {
        let others = match sessions_revoked {
            0 => String::new(),
            number => format!("; {} ended", count(number, "other session")),
        };
        screen.done(format!("your password is changed{others}"))
    })
}
