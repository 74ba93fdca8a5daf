//! `latchkey users require-change` and `latchkey users waive-change`.

use clap::Args;

use crate::cli::args::Confirmation;
use crate::cli::error::Error;
use crate::cli::output::words::{change_cause, person, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{PasswordChangeCause, RequirePasswordChangeRequest, UserRef, WaivePasswordChangeRequest};

const REQUIRE_HELP: &str = "\
The password still proves who the user is, and is changed at the next sign-in.

Examples:
  latchkey users require-change ada
  latchkey users require-change ada --end-sessions --note \"phishing 2026-11\"";

/// Make the next sign-in change the password.
#[derive(Debug, Args)]
#[command(after_help = REQUIRE_HELP)]
pub(crate) struct Require {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// Also end the user's sessions, so that the next sign-in is soon.
    #[arg(long)]
    end_sessions: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Require {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = RequirePasswordChangeRequest {
            user: Some(self.user.clone()),
            revoke_sessions: self.end_sessions,
            note: self.note,
            etag: self.etag,
        };
        if self.end_sessions && cli.asks(self.confirmation.yes)? {
            cli.rehearse(&request).await?;
            let user = cli.user(self.user).await?;
            let ends = cli.sessions_of(&user).await.map(|sessions| format!("{sessions}, now"));
            let question = Question::new(format!("End the sessions of {} and require a new password", person(&user)));
            cli.confirm(question.row("ends", ends.unwrap_or_default()).row("stays", "the password, for one sign-in"))
                .await?;
        }
        cli.answer(request, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            let status = user.password_status.clone().unwrap_or_default();
            let outcome = if answer.changed { "has to change" } else { "already had to change" };
            screen.done(format!("{} {outcome} the password at the next sign-in", person(&user)))?;
            Cli::effects(screen, answer.effects.as_ref(), None)?;
            if status.change_cause() != PasswordChangeCause::Operator {
                return Ok(());
            }
            screen.next(&format!("latchkey users waive-change {}, to take it back", shell_word(&user.username)))
        })
        .await
    }
}

const WAIVE_HELP: &str = "\
A temporary password, and one that has expired, has to be changed all the same.

Examples:
  latchkey users waive-change ada";

/// Take back the demand to change the password.
#[derive(Debug, Args)]
#[command(after_help = WAIVE_HELP)]
pub(crate) struct Waive {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Waive {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = WaivePasswordChangeRequest { user: Some(self.user), note: self.note, etag: self.etag };
        cli.answer(request, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            let status = user.password_status.clone().unwrap_or_default();
            let person = person(&user);
            match (answer.changed, status.change_required) {
                (_, true) => screen.caution(format!(
                    "{person} still has to change the password at the next sign-in: {}",
                    change_cause(&status)
                )),
                (true, false) => screen.done(format!("{person} need not change the password")),
                (false, false) => screen.done(format!("{person} did not have to change the password")),
            }
        })
        .await
    }
}
