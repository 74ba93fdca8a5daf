//! `latchkey users lock`, `latchkey users contain` and `latchkey users unlock`.

use std::time::Duration;

use clap::Args;

use super::contain;
use crate::cli::args::{self, Confirmation};
use crate::cli::error::Error;
use crate::cli::output::Screen;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{instant, length, stamp};
use crate::cli::output::words::{ability, lock_word, locked, person, reset_command, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::lock_user_request::End;
use crate::proto::v1::{
    LockCause, LockUserRequest, SignInAbilityKind, SignInAbilityReason, UnlockUserRequest, User, UserKind, UserLock,
    UserRef,
};

const LOCK_HELP: &str = "\
Examples:
  latchkey users lock ada --note \"left her laptop on a train\"
  latchkey users lock ada --for 2h
  latchkey users lock ada --cause deactivated --note \"on leave\"
  latchkey users lock ada --until \"tomorrow 08:00\" --yes";

/// Stop an account from signing in, and end its sessions.
#[derive(Debug, Args)]
#[command(after_help = LOCK_HELP)]
pub(crate) struct Lock {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// operator; deactivated, for leave; or compromise, as `latchkey users contain` does.
    #[arg(
        long,
        value_enum,
        value_name = "CAUSE",
        default_value_t,
        hide_possible_values = true,
        hide_default_value = true
    )]
    cause: Cause,
    /// Only for this long: 30m, 2h, 7d.
    #[arg(long = "for", value_name = "TIME", value_parser = args::duration, conflicts_with = "until")]
    length: Option<Duration>,
    /// Only until then: 08:00, "tomorrow 08:00", monday, 2026-12-01, "2026-12-01 08:00", or RFC 3339.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Why: other operators and the audit log are told.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

/// The causes for which an operator can lock.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Cause {
    #[default]
    Operator,
    Deactivated,
    Compromise,
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
        let cause = match self.cause {
            Cause::Operator => LockCause::Operator,
            Cause::Deactivated => LockCause::Deactivated,
            Cause::Compromise => LockCause::Compromise,
        };
        let request = LockUserRequest {
            user: Some(self.user),
            cause: cause.into(),
            note: self.note,
            end,
            remove_second_factors: false,
            etag: self.etag,
        };
        lock(cli, request, &words, self.confirmation.yes, false).await
    }
}

const CONTAIN_HELP: &str = "\
Locks the account as compromised. Sessions, unfinished sign-ins, API tokens, device tokens and the
password end at once. Lifting the lock needs users.write, and then a reset of the password. The
second factor stays, unless it may be in strange hands too.

Examples:
  latchkey users contain ada --note \"typed her password into a false page\"";

/// Lock an account that may be taken over; end all its access.
#[derive(Debug, Args)]
#[command(after_help = CONTAIN_HELP)]
pub(crate) struct Contain {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// Whether it is a step of `users recover`, which proposes the next one.
    #[arg(skip)]
    is_step: bool,
    /// Also remove the second factor and its recovery codes.
    #[arg(long)]
    remove_second_factors: bool,
    /// Why: other operators and the audit log are told.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Contain {
    /// The containment as a step of `users recover`.
    pub(super) fn step(user: UserRef, note: String, remove_second_factors: bool) -> Contain {
        Contain {
            user,
            is_step: true,
            remove_second_factors,
            note,
            confirmation: Confirmation { yes: false },
            etag: String::new(),
        }
    }

    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = LockUserRequest {
            user: Some(self.user),
            cause: LockCause::Compromise.into(),
            note: self.note,
            end: None,
            remove_second_factors: self.remove_second_factors,
            etag: self.etag,
        };
        lock(cli, request, "until it is unlocked", self.confirmation.yes, self.is_step).await
    }
}

/// Asks for confirmation, locks the account and prints what was done. `words` say how long the lock lasts. A step of
/// `users recover` proposes no next command.
async fn lock(cli: &Cli, request: LockUserRequest, words: &str, yes: bool, is_step: bool) -> Result<(), Error> {
    if cli.asks(yes)? {
        cli.rehearse(&request).await?;
        let user = cli.user(request.user.clone().unwrap_or_default()).await?;
        let question = match request.cause() {
            LockCause::Compromise => contain::question(cli, &user, words, request.remove_second_factors).await,
            cause => question(cli, &user, cause, words).await,
        };
        let before = user.lock.as_ref().map(|lock| Text::toned(Tone::Warn, locked(lock, cli.screen.clock())));
        cli.confirm(question.row("already", before.unwrap_or_default())).await?;
    }
    let scopes = contain::scopes(cli, &request).await;
    cli.answer(request, |screen, answer| {
        let user = answer.user.unwrap_or_default();
        show_lock(screen, &user, answer.earlier_lock.as_ref())?;
        Cli::effects(screen, answer.effects.as_ref(), None)?;
        match user.lock.as_ref().map(UserLock::cause) {
            _ if is_step => Ok(()),
            Some(LockCause::Compromise) => contain::next(screen, &user, &scopes),
            _ => screen.undo(&format!("latchkey users unlock {}", shell_word(&user.username))),
        }
    })
    .await
}

/// Prints how long the account is locked. An earlier lock that ends later stays in force.
fn show_lock(screen: &Screen, user: &User, earlier: Option<&UserLock>) -> Result<(), Error> {
    let ends_at = |lock: &UserLock| instant(lock.expire_time.as_ref());
    let end = user.lock.as_ref().and_then(ends_at);
    let until = end.map(|end| format!(" until {}", screen.clock().moment(end))).unwrap_or_default();
    let cause = user.lock.as_ref().map_or(LockCause::Unspecified, UserLock::cause);
    let (person, word) = (person(user), lock_word(cause));
    let Some(earlier) = earlier else { return screen.done(format!("{person} is {word}{until}")) };
    if earlier.cause() != cause {
        screen.done(format!("{person} is now {word}{until}"))?;
    } else if ends_at(earlier) == end {
        screen.done(format!("{person} was {word} already and stays locked{until}"))?;
    } else {
        screen.done(format!("{person} is {word}{until}, longer than before"))?;
    }
    screen.fields([("earlier", locked(earlier, screen.clock()).into())])
}

async fn question(cli: &Cli, user: &User, cause: LockCause, words: &str) -> Question {
    let ends = cli.sessions_of(user).await.map(|sessions| format!("{sessions}, now"));
    let (verb, lifting) = match cause {
        LockCause::Deactivated => ("Deactivate", "; to unlock it needs users.write"),
        _ => ("Lock", ""),
    };
    Question::new(format!("{verb} {}", person(user)))
        .row("ends", ends.unwrap_or_default())
        .row("stops", format!("signing in, and API tokens, {words}{lifting}"))
        .row("stays", "the password")
}

const UNLOCK_HELP: &str = "\
The password stays as it was. If it is not known any more, or ended with the lock: `latchkey users reset`.

Examples:
  latchkey users unlock ada --note \"laptop found\"";

/// Lift a lock, and the throttle after wrong passwords.
#[derive(Debug, Args)]
#[command(after_help = UNLOCK_HELP)]
pub(crate) struct Unlock {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// Whether it is a step of `users recover`, which proposes the next one.
    #[arg(skip)]
    is_step: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Unlock {
    /// The unlock as a step of `users recover`.
    pub(super) fn step(user: UserRef, note: String) -> Unlock {
        Unlock { user, is_step: true, note, confirmation: Confirmation { yes: true }, etag: String::new() }
    }

    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = UnlockUserRequest { user: Some(self.user), note: self.note, etag: self.etag };
        cli.answer(request, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            let effects = answer.effects.unwrap_or_default();
            let was = effects.lock_lifted || effects.throttle_cleared;
            let (person, name) = (person(&user), shell_word(&user.username));
            let must_change = ability(&user).kind() == SignInAbilityKind::YesThen;
            let before = if was { "is not locked any more" } else { "was not locked" };
            let was_contained = answer.lifted_lock.as_ref().map(UserLock::cause) == Some(LockCause::Compromise);
            match obstacle(&user) {
                Some(obstacle) => screen.caution(format!("{person} {before}, but cannot sign in: {obstacle}"))?,
                None if !was => screen.done(format!("{person} {before}"))?,
                None if user.kind() == UserKind::Service && was_contained => {
                    screen.done(format!("{person} {before}; its earlier API tokens stay revoked"))?;
                }
                None if user.kind() == UserKind::Service => {
                    screen.done(format!("{person} can use its API tokens again"))?;
                }
                None if must_change => {
                    screen.done(format!("{person} can sign in again, and then must change the password"))?;
                }
                None => screen.done(format!("{person} can sign in again"))?,
            }
            Cli::effects(screen, Some(&effects), answer.lifted_lock.as_ref())?;
            match obstacle(&user) {
                _ if self.is_step => Ok(()),
                Some(_) => screen.next(&reset_command(&user)),
                None if user.kind() == UserKind::Service && was_contained => {
                    screen.next(&format!("latchkey tokens create {name} --name TEXT --scope SCOPE"))
                }
                None => screen.next(&format!("latchkey users show {name}")),
            }
        })
        .await
    }
}

/// What keeps an account from signing in that is not locked, as the server answers. Returns `None` if nothing does.
fn obstacle(user: &User) -> Option<&'static str> {
    match ability(user).reason() {
        SignInAbilityReason::PasswordEnded => Some("its password was ended"),
        SignInAbilityReason::Pending => Some("it has no password yet"),
        SignInAbilityReason::TemporaryPasswordExpired => Some("the temporary password has expired"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::SignInAbility;

    #[test]
    fn an_expired_temporary_password_still_stands_in_the_way_of_an_unlocked_user() {
        let of = |reason: SignInAbilityReason| {
            let sign_in_ability = Some(SignInAbility { reason: reason.into(), ..SignInAbility::default() });
            obstacle(&User { sign_in_ability, ..User::default() })
        };
        assert_eq!(of(SignInAbilityReason::PasswordTemporary), None);
        assert_eq!(of(SignInAbilityReason::TemporaryPasswordExpired), Some("the temporary password has expired"));
    }
}
