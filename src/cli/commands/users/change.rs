//! `latchkey users require-change` and `latchkey users waive-change`.

use clap::Args;

use crate::cli::error::Error;
use crate::cli::output::words::{person, shell_word};
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{RequirePasswordChangeRequest, UserRef, WaivePasswordChangeRequest};

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
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Require {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = RequirePasswordChangeRequest {
            user: Some(self.user),
            revoke_sessions: self.end_sessions,
            note: self.note,
            etag: self.etag,
        };
        cli.answer(request, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            screen.done(format!("{} has to change the password at the next sign-in", person(&user)))?;
            Cli::effects(screen, answer.effects.as_ref())?;
            screen.next(&format!("latchkey users waive-change {}, to take it back", shell_word(&user.username)))
        })
        .await
    }
}

const WAIVE_HELP: &str = "\
A temporary password has to be changed all the same.

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
            let outcome = match (answer.changed, status.change_required) {
                (_, true) => "still has to change the password: it was given by an operator",
                (true, false) => "need not change the password",
                (false, false) => "did not have to change the password",
            };
            screen.done(format!("{} {outcome}", person(&user)))
        })
        .await
    }
}
