//! `latchkey users lock` and `latchkey users unlock`.

use std::time::Duration;

use clap::Args;

use crate::cli::args;
use crate::cli::error::Error;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{instant, length, stamp};
use crate::cli::output::words::{locked, person, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::lock_user_request::End;
use crate::proto::v1::{LockUserRequest, UnlockUserRequest, User, UserRef};

const LOCK_HELP: &str = "\
Examples:
  latchkey users lock ada --note \"left her laptop on a train\"
  latchkey users lock ada --for 2h
  latchkey users lock ada --until \"tomorrow 08:00\" --yes";

/// Stop an account from signing in, and end its sessions.
#[derive(Debug, Args)]
#[command(after_help = LOCK_HELP)]
pub(crate) struct Lock {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// Only for this long: 30m, 2h, 7d.
    #[arg(long = "for", value_name = "TIME", value_parser = args::duration, conflicts_with = "until")]
    length: Option<Duration>,
    /// Only until then: 08:00, "tomorrow 08:00", monday, 2026-12-01, "2026-12-01 08:00", or RFC 3339.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Why: other operators and the audit log are told.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Lock {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let clock = cli.screen.clock();
        let until = self.until.as_deref().map(|text| clock.parse_future(text)).transpose();
        let until = until.map_err(|fault| Error::usage(format!("--until: {fault}")))?;
        let (end, words) = match (self.length, until) {
            (Some(duration), _) => {
                (Some(End::Duration(args::wire_duration(duration))), format!("for {}", length(duration)))
            }
            (None, Some(at)) => (Some(End::UntilTime(stamp(at))), format!("until {}", clock.moment(at))),
            (None, None) => (None, "until it is unlocked".to_owned()),
        };
        if cli.asks(self.yes)? {
            let user = cli.user(self.user.clone()).await?;
            cli.confirm(question(cli, &user, &words).await).await?;
        }
        let request = LockUserRequest {
            user: Some(self.user),
            note: self.note,
            end,
            etag: self.etag,
            ..LockUserRequest::default()
        };
        cli.answer(request, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            let clock = screen.clock();
            let end = user.lock.as_ref().and_then(|lock| instant(lock.expire_time.as_ref()));
            let end = end.map(|end| format!(" until {}", clock.moment(end))).unwrap_or_default();
            screen.done(format!("{} is locked{end}", person(&user)))?;
            Cli::effects(screen, answer.effects.as_ref())?;
            screen.next(&format!("latchkey users unlock {}", shell_word(&user.username)))
        })
        .await
    }
}

async fn question(cli: &Cli, user: &User, words: &str) -> Question {
    let before = user.lock.as_ref().map(|lock| Text::toned(Tone::Warn, locked(lock, cli.screen.clock())));
    let ends = cli.sessions_of(user).await.map(|sessions| format!("{sessions}, now"));
    Question::new(format!("Lock {}", person(user)))
        .row("ends", ends.unwrap_or_default())
        .row("stops", format!("signing in, and API tokens, {words}"))
        .row("stays", "the password")
        .row("already", before.unwrap_or_default())
}

const UNLOCK_HELP: &str = "\
The password stays as it was. If it is not known any more: `latchkey users reset`.

Examples:
  latchkey users unlock ada --note \"laptop found\"";

/// Lift a lock, whatever its cause, and the wait after wrong passwords.
#[derive(Debug, Args)]
#[command(after_help = UNLOCK_HELP)]
pub(crate) struct Unlock {
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

impl Unlock {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = UnlockUserRequest { user: Some(self.user), note: self.note, etag: self.etag };
        cli.answer(request, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            let effects = answer.effects.unwrap_or_default();
            let was = effects.lock_lifted || effects.throttle_cleared;
            screen.done(format!("{} {}", person(&user), if was { "can sign in again" } else { "was not locked" }))?;
            Cli::effects(screen, Some(&effects))?;
            screen.next(&format!("latchkey users show {}", shell_word(&user.username)))
        })
        .await
    }
}
