//! `latchkey users show`.

use clap::Args;

use crate::cli::commands::may;
use crate::cli::contract::enum_words;
use crate::cli::error::Error;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{Clock, instant};
use crate::cli::output::words::{
    Step, can_sign_in, change_cause, next_steps, password, pending_link, person, second_factor, signed_in, state,
};
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{
    GetUserRequest, ListRolesRequest, SignInAbilityReason, SignInFailure, User, UserFlag, UserKind, UserRef,
    WhoAmIRequest,
};

const HELP: &str = "\
Examples:
  latchkey users show ada
  latchkey users show ada@example.com
  latchkey users show ext:4711 --output json | jq .user.etag";

/// Show everything that is known of an account.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Show {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
}

impl Show {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = GetUserRequest { user: Some(self.user.clone()) };
        if cli.client.is_showing() || cli.screen.is_json() {
            return cli.answer(request, |_, _| Ok(())).await;
        }
        let answer = cli.client.call(request).await?;
        let user = answer.user.ok_or_else(|| Error::unexpected("the server sent no user"))?;
        let clock = cli.screen.clock();
        let sessions = cli.sessions_of(&user).await;
        cli.screen.line(Text::toned(Tone::Strong, person(&user)))?;
        cli.screen.fields(profile(&user, clock))?;
        cli.screen.line("")?;
        cli.screen.fields(
            sign_in(&user, clock)
                .into_iter()
                .chain([("sessions", sessions.map_or_else(|| Text::toned(Tone::Dim, "none"), Text::from))]),
        )?;
        cli.screen.line("")?;
        cli.screen.fields(history(&user, clock))?;
        if !answer.recent_failures.is_empty() {
            cli.screen.line("")?;
            cli.screen.fields(failures(&answer.recent_failures, clock))?;
        }
        match cli.next_step(&user, has_failed(&user, &answer.recent_failures)).await {
            Some(next) => cli.screen.next(&next),
            None => Ok(()),
        }
    }
}

fn profile(user: &User, clock: &Clock) -> [(&'static str, Text); 9] {
    let labels: Vec<String> = user.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let kind = if user.kind() == UserKind::Service { "a service" } else { "a person" };
    [
        ("sign-in", can_sign_in(user, clock)),
        ("id", user.id.as_str().into()),
        ("username", user.username.as_str().into()),
        ("kind", kind.into()),
        ("email", address(user)),
        ("locale", user.locale.as_str().into()),
        ("external id", user.external_id.as_str().into()),
        ("labels", labels.join(", ").into()),
        ("roles", if user.roles.is_empty() { Text::toned(Tone::Dim, "none") } else { user.roles.join(", ").into() }),
    ]
}

/// The address, and what is known of it.
fn address(user: &User) -> Text {
    let has = |flag: UserFlag| user.flags.contains(&flag.into());
    let text = Text::from(user.email.as_str());
    if user.email.is_empty() {
        text
    } else if has(UserFlag::MailFailed) {
        text.and(Tone::Bad, " (mail to it failed)")
    } else if user.email_verified {
        text.and(Tone::Good, " (confirmed)")
    } else {
        text.and(Tone::Dim, " (not confirmed)")
    }
}

/// The link that was not used, with the message that carries it.
pub(super) fn link(user: &User, clock: &Clock) -> Text {
    let Some(text) = pending_link(user, clock) else { return Text::new() };
    match user.pending_link.as_ref().map(|link| link.delivery_id.as_str()) {
        Some(id) if !id.is_empty() => Text::toned(Tone::Warn, text).and(Tone::Dim, format!(", delivery {id}")),
        _ => Text::toned(Tone::Warn, text).and(Tone::Dim, ", returned to an operator"),
    }
}

fn sign_in(user: &User, clock: &Clock) -> [(&'static str, Text); 8] {
    let lock = user.lock.as_ref();
    let lock_age = lock.and_then(|lock| instant(lock.lock_time.as_ref())).map(|at| clock.full_and_ago(at));
    // The first line says why, by whom and until when.
    let lock = lock.map(|_| Text::from(lock_age.map(|age| format!("since {age}")).unwrap_or_default()));
    let wait = user.throttle.as_ref().map(|throttle| {
        let left = instant(throttle.until_time.as_ref()).map(|at| clock.left(at)).unwrap_or_default();
        Text::toned(Tone::Warn, format!("after {} wrong passwords, {left}", throttle.failures))
    });
    let (status, can) = (user.password_status.as_ref(), user.sign_in_ability.as_ref());
    // Without a next sign-in, nothing is changed at it.
    let is_expired = can.is_some_and(|can| can.reason() == SignInAbilityReason::TemporaryPasswordExpired);
    let change = status.filter(|status| status.change_required && !is_expired);
    let change = change.map(|status| Text::toned(Tone::Warn, format!("at the next sign-in: {}", change_cause(status))));
    let weak = status.filter(|status| status.rehash_pending);
    let weak = weak.map(|status| format!("weaker than set now, {}: renewed at the next sign-in", status.scheme));
    [
        ("state", state(user, clock)),
        ("locked", lock.unwrap_or_default()),
        ("throttled", wait.unwrap_or_default()),
        ("password", password(user, clock)),
        ("must change", change.unwrap_or_default()),
        ("second factor", second_factor(user, clock)),
        ("link", link(user, clock)),
        ("hash", weak.unwrap_or_default().into()),
    ]
}

/// Returns whether the user has failed to sign in since the last success.
fn has_failed(user: &User, failures: &[SignInFailure]) -> bool {
    let last = failures.first().and_then(|failure| instant(failure.time.as_ref()));
    last.is_some() && last > instant(user.last_sign_in_time.as_ref())
}

/// `2 h ago: password wrong, from 192.0.2.7`, one line for each failed sign-in.
fn failures(failures: &[SignInFailure], clock: &Clock) -> Vec<(&'static str, Text)> {
    let line = |failure: &SignInFailure| {
        let at = instant(failure.time.as_ref()).map(|at| clock.full_and_ago(at)).unwrap_or_default();
        let reason = enum_words("latchkey.v1.ErrorReason", "ERROR_REASON_", failure.reason);
        let from = failure.client_address.as_str();
        let from = if from.is_empty() { String::new() } else { format!(", from {from}") };
        Text::from(format!("{at}: {reason}{from}"))
    };
    let names = std::iter::once("last failures").chain(std::iter::repeat(""));
    names.zip(failures.iter().map(line)).collect()
}

impl Cli {
    /// The most useful command for `user` among those that the caller may use. A command that acts on the account needs each
    /// scope of its user, too, and is not for oneself.
    async fn next_step(&self, user: &User, has_failed: bool) -> Option<String> {
        let caller = self.client.call(WhoAmIRequest {}).await.ok()?;
        let is_self = caller.user.as_ref().is_some_and(|own| own.id == user.id);
        let may_all = |step: &Step| step.scopes.iter().all(|scope| may(&caller.scopes, scope));
        let steps: Vec<Step> = next_steps(user, has_failed).into_iter().filter(may_all).collect();
        let outranks = !is_self && steps.iter().any(|step| step.acts) && self.outranks(&caller.scopes, user).await;
        steps.into_iter().find(|step| outranks || !step.acts).map(|step| step.command)
    }

    /// Returns whether `scopes` include every scope of a user.
    async fn outranks(&self, scopes: &[String], user: &User) -> bool {
        if user.roles.is_empty() {
            return true;
        }
        let Ok(answer) = self.client.call(ListRolesRequest {}).await else { return false };
        let held = answer.roles.iter().filter(|role| user.roles.contains(&role.name));
        held.flat_map(|role| &role.scopes).all(|scope| scopes.contains(scope))
    }
}

fn history(user: &User, clock: &Clock) -> [(&'static str, Text); 4] {
    let time = |stamp: Option<&prost_types::Timestamp>| {
        instant(stamp).map(|at| Text::from(clock.full_and_ago(at))).unwrap_or_default()
    };
    let last = user.last_sign_in_time.as_ref();
    [
        ("signed in", if last.is_some() { time(last) } else { signed_in(user, clock) }),
        ("created", time(user.create_time.as_ref())),
        ("changed", time(user.update_time.as_ref())),
        ("etag", Text::toned(Tone::Dim, &user.etag)),
    ]
}
