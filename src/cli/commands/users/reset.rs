//! `latchkey users reset`.

use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret;
use tonic::Code;

use super::diagnose::told;
use super::idempotency_key;
use crate::cli::args::{self, Confirmation};
use crate::cli::commands::Loss;
use crate::cli::error::{Error, Refusal};
use crate::cli::output::Screen;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::instant;
use crate::cli::output::words::{count, locked, person, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::reset_password_request::Method;
use crate::proto::v1::reset_password_response::Secret;
use crate::proto::v1::{
    LockCause, ResetPasswordRequest, ResetPasswordResponse, SetPassword, TemporaryPassword, User, UserLock, UserRef,
    UserState,
};

const HELP: &str = "\
At a terminal a temporary password is proposed. The old password and all sessions end at once, and
the next sign-in must choose a new password. A lock after wrong passwords is lifted, others stay.

Examples:
  latchkey users reset ada --temporary-password --note \"ticket 4711\"
  latchkey users reset ada --temporary-password --ttl 4h --unlock
  latchkey users reset ada --temporary-password --yes --output json";

/// Give a user a new password.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Reset {
    /// The user.
    #[arg(hide = true, value_parser = user_ref::parse)]
    user: UserRef,
    #[command(flatten)]
    way: Way,
    /// How long the temporary password works; 72h at most.
    #[arg(long, value_name = "TIME", conflicts_with = "set_password", value_parser = args::duration)]
    ttl: Option<Duration>,
    /// Read the password from standard input instead of asking for it.
    #[arg(long, conflicts_with = "temporary_password", requires = "set_password")]
    password_stdin: bool,
    /// Lift a lock as well, whatever its cause.
    #[arg(long)]
    unlock: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

/// The kind of the new password.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Way {
    /// Generate a password, fit for the telephone, and show it once.
    #[arg(long)]
    temporary_password: bool,
    /// Use a password of your choice; it is asked for.
    #[arg(long)]
    set_password: bool,
}

impl Reset {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let asks = self.asks(cli)?;
        let generated = !self.way.set_password;
        let mut request = ResetPasswordRequest {
            user: Some(self.user.clone()),
            method: Some(self.placeholder()),
            unlock: self.unlock,
            note: self.note.clone(),
            etag: self.etag.clone(),
            ..ResetPasswordRequest::default()
        };
        if asks {
            // A dry run would need the password, which is asked for last.
            if generated {
                cli.rehearse(&request).await?;
            } else {
                cli.check_scopes(&request).await?;
            }
            let user = cli.user(self.user.clone()).await?;
            self.stop_at_lock(&user)?;
            cli.confirm(self.question(cli, &user).await).await?;
        }
        if !generated {
            request.method = Some(self.chosen(cli)?);
        }
        request.idempotency_key = idempotency_key()?;
        let loss = |answer: &ResetPasswordResponse| {
            let name = shell_word(&user_ref::text(&self.user).unwrap_or_default());
            answer.secret.is_some().then(|| Loss {
                done: format!("the password of {name} is reset"),
                secret: "temporary password",
                remedy: format!("reset it once more with `latchkey users reset {name} --temporary-password`"),
            })
        };
        cli.answer_once(request, loss, |screen, answer| {
            let secret = answer.secret.map(|Secret::TemporaryPassword(password)| password);
            show_secret(screen, secret.as_deref(), answer.expire_time.as_ref(), answer.replayed && generated)?;
            Cli::effects(screen, answer.effects.as_ref(), answer.lifted_lock.as_ref())?;
            answer.remaining.iter().try_for_each(|finding| screen.caution(told(finding, screen.clock())))
        })
        .await
    }

    /// Refuses the reset of an account that an operator locked, as the server would, before asking for confirmation.
    fn stop_at_lock(&self, user: &User) -> Result<(), Error> {
        let stays = user.lock.as_ref().map(UserLock::cause).filter(|cause| *cause != LockCause::FailedSignIns);
        let Some(cause) = stays.filter(|_| !self.unlock) else { return Ok(()) };
        let message = "the account is locked; unlock it first";
        let mut refusal =
            Refusal::foreseen(Code::FailedPrecondition, "USER_LOCKED", message, user_ref::text(&self.user));
        let cause = cause.as_str_name().trim_start_matches("LOCK_CAUSE_").to_owned();
        refusal.metadata.insert("lockCause".to_owned(), cause);
        Err(Error::Refused(Box::new(refusal)))
    }

    /// Returns whether to ask for confirmation. Only a question can propose the kind of password.
    fn asks(&self, cli: &Cli) -> Result<bool, Error> {
        let asks = cli.asks(self.confirmation.yes);
        if self.way.temporary_password || self.way.set_password || matches!(asks, Ok(true)) {
            return asks;
        }
        let hint = "--temporary-password generates a password and shows it; --set-password asks for one";
        Err(Error::usage("say which kind of password").hint(hint))
    }

    /// The method, without a chosen password.
    fn placeholder(&self) -> Method {
        if self.way.set_password {
            return Method::SetPassword(SetPassword::default());
        }
        Method::TemporaryPassword(TemporaryPassword { ttl: self.ttl.map(args::wire_duration) })
    }

    fn chosen(&self, cli: &Cli) -> Result<Method, Error> {
        let password =
            if self.password_stdin { cli.read_required_secret("the password")? } else { cli.ask_new_password()? };
        Ok(Method::SetPassword(SetPassword { password: password.expose_secret().to_owned() }))
    }

    async fn question(&self, cli: &Cli, user: &User) -> Question {
        let ends = match user.state() {
            UserState::Pending => String::new(),
            _ if user.password_status.as_ref().is_some_and(|status| !status.password_set) => String::new(),
            _ => match cli.sessions_of(user).await {
                Some(sessions) => format!("the old password and {sessions}, now"),
                None => "the old password, now".to_owned(),
            },
        };
        let lock = user.lock.as_ref();
        let falls = lock.is_some_and(|lock| self.unlock || lock.cause() == LockCause::FailedSignIns);
        let lock = lock.map(|lock| locked(lock, cli.screen.clock()));
        let mut lifts = Vec::new();
        if let Some(lock) = lock.as_ref().filter(|_| falls) {
            lifts.push(format!("the lock ({lock})"));
        }
        if let Some(throttle) = &user.throttle {
            lifts.push(format!("the throttle after {}", count(throttle.failures, "wrong password")));
        }
        let proposed = !self.way.temporary_password && !self.way.set_password;
        let way = if proposed { " by a temporary password" } else { "" };
        Question::new(format!("Reset the password of {}{way}", person(user)))
            .row("ends", ends)
            .row("lifts", lifts.join(", "))
            .row("stays", "API tokens")
    }
}

/// Prints `✔ K7QF9-WXM3T-RH4PD    good until tomorrow 02:14, or until changed. Shown once.` With `lost`, the generated
/// password was in an answer that never arrived.
pub(super) fn show_secret(
    screen: &Screen,
    secret: Option<&str>,
    expire_time: Option<&prost_types::Timestamp>,
    lost: bool,
) -> Result<(), Error> {
    let good = good_until(screen, expire_time);
    match (secret, good) {
        (Some(secret), _) => screen.secret(Text::toned(Tone::Good, "✔ ").join(shown_once(screen, secret, expire_time))),
        (None, _) if lost => {
            let lost = "it was done, but the answer with the password was lost, and a password is shown only once";
            screen.caution(lost)?;
            screen.next("the same `latchkey users reset` once more")
        }
        (None, Some(good)) => screen.done(format!("the password is set: {good}")),
        (None, None) => Ok(()),
    }
}

/// A secret, its expiry, and the note that it is shown only once.
pub(super) fn shown_once(screen: &Screen, secret: &str, expire_time: Option<&prost_types::Timestamp>) -> Text {
    let good = good_until(screen, expire_time).map(|good| format!("{good} ")).unwrap_or_default();
    Text::toned(Tone::Strong, secret).and(Tone::Dim, format!("    {good}Shown once."))
}

fn good_until(screen: &Screen, expire_time: Option<&prost_types::Timestamp>) -> Option<String> {
    instant(expire_time).map(|end| format!("good until {}, or until changed.", screen.clock().moment(end)))
}
