//! Descriptions of accounts that several commands print.

use super::text::{Text, Tone};
use super::time::{Clock, instant};
use crate::proto::v1::{
    DeliveryKind, LockCause, PasswordChangeCause, PasswordStatus, SignInAbility, SignInAbilityKind,
    SignInAbilityReason, SignInThrottle, User, UserFlag, UserKind, UserLock, UserState,
};

/// `Ada Lovelace (ada)`, or the username alone.
pub(crate) fn person(user: &User) -> String {
    if user.display_name.is_empty() {
        user.username.clone()
    } else {
        format!("{} ({})", user.display_name, user.username)
    }
}

/// The colour of an account, and its mark, by whether its user can sign in.
fn mark(user: &User) -> (Tone, &'static str) {
    match ability(user).kind() {
        SignInAbilityKind::Yes => (Tone::Good, "●"),
        SignInAbilityKind::YesThen => (Tone::Warn, "▲"),
        SignInAbilityKind::NotUntil | SignInAbilityKind::No => (Tone::Bad, "✖"),
        SignInAbilityKind::Unspecified => (Tone::Warn, "?"),
    }
}

/// The server's answer to whether the user can sign in. Unspecified if the server is too old to say.
pub(crate) fn ability(user: &User) -> &SignInAbility {
    user.sign_in_ability.as_ref().unwrap_or(&UNKNOWN)
}

static UNKNOWN: SignInAbility = SignInAbility { kind: 0, reason: 0, until_time: None, next_method: String::new() };

/// `✖ locked 22m`, `✖ expired`, `✖ no password`, `● active`.
pub(crate) fn state(user: &User, clock: &Clock) -> Text {
    let (tone, mark) = mark(user);
    let word = match (ability(user).reason(), user.state()) {
        (SignInAbilityReason::TemporaryPasswordExpired, _) => "expired".to_owned(),
        (SignInAbilityReason::Throttled, _) => "throttled".to_owned(),
        (SignInAbilityReason::PasswordEnded, UserState::Active) => "no password".to_owned(),
        (_, UserState::Active) => "active".to_owned(),
        (_, UserState::Pending) => "pending".to_owned(),
        (_, UserState::Locked) => "locked".to_owned(),
        (_, UserState::Unspecified) => user.state.to_string(),
    };
    let since = user.lock.as_ref().filter(|_| word == "locked").and_then(|lock| instant(lock.lock_time.as_ref()));
    let since = since.map(|at| format!(" {}", clock.compact(at))).unwrap_or_default();
    match tone {
        Tone::Bad => Text::toned(tone, format!("{mark} {word}")).and(Tone::Plain, since),
        _ => Text::toned(tone, mark).and(Tone::Plain, format!(" {word}{since}")),
    }
}

/// `✖ cannot sign in: temporary password expired 3 h ago`, `● can sign in`.
pub(crate) fn can_sign_in(user: &User, clock: &Clock) -> Text {
    let (tone, mark) = mark(user);
    let answer = ability(user);
    let until = instant(answer.until_time.as_ref()).map(|at| clock.moment(at));
    let because = obstacle(user, clock).map(|what| format!(": {what}")).unwrap_or_default();
    let left = instant(answer.until_time.as_ref()).map(|at| clock.left(at)).unwrap_or_default();
    let text = match (answer.kind(), until) {
        (SignInAbilityKind::Yes, _) if user.kind() == UserKind::Service => "can sign in, with an API token".to_owned(),
        (SignInAbilityKind::Yes, _) => "can sign in".to_owned(),
        (SignInAbilityKind::YesThen, _) => "can sign in, then must change the password".to_owned(),
        (SignInAbilityKind::NotUntil, Some(end)) => format!("not until {end}, {left}{because}"),
        (SignInAbilityKind::NotUntil | SignInAbilityKind::No, _) => format!("cannot sign in{because}"),
        (SignInAbilityKind::Unspecified, _) => "this server does not say".to_owned(),
    };
    match tone {
        Tone::Bad => Text::toned(tone, format!("{mark} {text}")),
        _ => Text::toned(tone, mark).and(Tone::Plain, format!(" {text}")),
    }
}

/// What keeps a user from signing in. `None` if nothing does.
fn obstacle(user: &User, clock: &Clock) -> Option<String> {
    match ability(user).reason() {
        SignInAbilityReason::Locked => {
            let lock = user.lock.as_ref()?;
            Some(match (ability(user).kind(), &lock.expire_time) {
                (SignInAbilityKind::NotUntil, _) => locked_by(lock),
                (_, None) => format!("{}, until it is unlocked", locked_by(lock)),
                (_, Some(_)) => format!("{}, when the temporary password has expired", locked(lock, clock)),
            })
        }
        SignInAbilityReason::TemporaryPasswordExpired => Some(expired(user, clock)),
        SignInAbilityReason::PasswordEnded => Some(ended(user, clock)),
        SignInAbilityReason::Pending => Some("no password has been set yet".to_owned()),
        SignInAbilityReason::Throttled => {
            let throttle = user.throttle.as_ref()?;
            let too_long = ability(user).kind() == SignInAbilityKind::No;
            let until = match throttle.until_time {
                None => ", until an unlock or a sign-in from there",
                Some(_) if too_long => ", until the temporary password has expired",
                Some(_) => "",
            };
            Some(format!("{}{until}", throttled(user, throttle)))
        }
        SignInAbilityReason::Unspecified
        | SignInAbilityReason::PasswordTemporary
        | SignInAbilityReason::ChangeRequired
        | SignInAbilityReason::PasswordExpired => None,
    }
}

/// `throttled after 5 wrong passwords, except where ada has signed in before`.
fn throttled(user: &User, throttle: &SignInThrottle) -> String {
    let word = if throttle.until_time.is_some() { "throttled" } else { "refused" };
    let except = if throttle.includes_familiar_places {
        String::new()
    } else {
        format!(", except where {} has signed in before", user.username)
    };
    format!("{word} after {}{except}", count(throttle.failures, "wrong password"))
}

/// `temporary password expired 3 h ago`.
fn expired(user: &User, clock: &Clock) -> String {
    let end = user.password_status.as_ref().and_then(|status| instant(status.temporary_expire_time.as_ref()));
    let ago = end.map(|end| format!(" {}", clock.ago(end))).unwrap_or_default();
    format!("temporary password expired{ago}")
}

/// `password ended 3 h ago, and not set since`.
fn ended(user: &User, clock: &Clock) -> String {
    format!("password ended{}, and not set since", ended_ago(user, clock))
}

/// ` 3 h ago`, or nothing if the server does not say.
fn ended_ago(user: &User, clock: &Clock) -> String {
    let end = user.password_status.as_ref().and_then(|status| instant(status.end_time.as_ref()));
    end.map(|end| format!(" {}", clock.ago(end))).unwrap_or_default()
}

/// `changed 1 y ago`, `temporary, 3 h left`, `ended 3 h ago`.
pub(crate) fn password(user: &User, clock: &Clock) -> Text {
    if user.kind() == UserKind::Service {
        return Text::toned(Tone::Dim, "–");
    }
    let Some(status) = user.password_status.as_ref().filter(|status| status.password_set) else {
        return match user.password_status.as_ref().and_then(|status| status.end_time.as_ref()) {
            Some(_) => Text::toned(Tone::Bad, format!("ended{}", ended_ago(user, clock))),
            None => Text::toned(Tone::Dim, "none"),
        };
    };
    if let Some(end) = instant(status.temporary_expire_time.as_ref()) {
        let tone = if clock.is_past(end) { Tone::Bad } else { Tone::Warn };
        return Text::toned(tone, format!("temporary, {}", clock.left(end)));
    }
    let changed = match instant(status.change_time.as_ref()) {
        Some(at) => format!("changed {}", clock.ago(at)),
        None => "set".to_owned(),
    };
    match instant(status.expire_time.as_ref()) {
        Some(end) if clock.is_past(end) => Text::toned(Tone::Warn, format!("{changed}, expired {}", clock.ago(end))),
        Some(end) => format!("{changed}, expires on {}", clock.full(end)).into(),
        None => changed.into(),
    }
}

/// `since 2026-11-02 08:14, 27 d ago; 9 recovery codes left`. Empty without a second factor, unless the policy asks for one.
pub(crate) fn second_factor(user: &User, clock: &Clock) -> Text {
    let Some(status) = &user.second_factor_status else { return Text::new() };
    if !status.totp_enrolled {
        return match instant(status.required_from_time.as_ref()) {
            _ if status.required => Text::toned(Tone::Warn, "none: the next sign-in sets one up"),
            Some(from) => Text::toned(Tone::Warn, format!("none; asked for from {} on", clock.moment(from))),
            None => Text::new(),
        };
    }
    let since = instant(status.totp_enroll_time.as_ref()).map(|at| format!("since {}", clock.full_and_ago(at)));
    let text = Text::from(since.unwrap_or_else(|| "set up".to_owned()));
    let text = match status.recovery_codes_left {
        0 => text.and(Tone::Warn, "; no recovery code left"),
        left => text.and(Tone::Plain, format!("; {} left", count(left, "recovery code"))),
    };
    match instant(status.codes_refused_until_time.as_ref()) {
        Some(end) => text.and(Tone::Bad, format!("; codes refused until {}", clock.moment(end))),
        None => text,
    }
}

/// What needs an operator's attention. Empty if nothing does.
pub(crate) fn attention(user: &User, clock: &Clock) -> Text {
    let answer = ability(user);
    let mail_failed = user.flags.contains(&UserFlag::MailFailed.into()).then(|| "mail failed".to_owned());
    if answer.kind() == SignInAbilityKind::Yes {
        return mail_failed.map(|text| Text::toned(Tone::Warn, text)).unwrap_or_default();
    }
    let mut concerns = Vec::new();
    if let Some(lock) = &user.lock {
        concerns.push(locked(lock, clock));
    }
    if let Some(throttle) = user.throttle.as_ref().filter(|_| user.kind() == UserKind::Person) {
        let failures = count(throttle.failures, "wrong password");
        concerns.push(match instant(throttle.until_time.as_ref()) {
            Some(at) => format!("throttled after {failures}, {}", clock.left(at)),
            None => format!("refused after {failures}"),
        });
    }
    let must_change = user.password_status.as_ref().is_some_and(|status| status.change_required);
    match answer.reason() {
        SignInAbilityReason::TemporaryPasswordExpired => concerns.push(expired(user, clock)),
        SignInAbilityReason::PasswordEnded => concerns.push(ended(user, clock)),
        SignInAbilityReason::Pending => concerns.push("no password yet".to_owned()),
        _ if must_change => concerns.push("must change".to_owned()),
        _ => {}
    }
    // An account that waits for its owner is told from one that waits for an operator.
    concerns.extend(pending_link(user, clock));
    concerns.extend(mail_failed);
    Text::toned(mark(user).0, concerns.join("; "))
}

/// `unused invitation, 21 h left`. `None` without a link that still works.
pub(crate) fn pending_link(user: &User, clock: &Clock) -> Option<String> {
    let link = user.pending_link.as_ref()?;
    let left = instant(link.expire_time.as_ref()).map(|at| format!(", {}", clock.left(at))).unwrap_or_default();
    let what = match link.kind() {
        DeliveryKind::Invite => "invitation",
        DeliveryKind::EmailVerification => "link to confirm the address",
        _ => "link to choose a password",
    };
    Some(format!("unused {what}{left}"))
}

/// `locked by root: laptop lost, until tomorrow 08:00`.
pub(crate) fn locked(lock: &UserLock, clock: &Clock) -> String {
    let text = locked_by(lock);
    match instant(lock.expire_time.as_ref()) {
        Some(end) => format!("{text}, until {}", clock.moment(end)),
        None => text,
    }
}

/// `locked by root: laptop lost`.
fn locked_by(lock: &UserLock) -> String {
    let mut text = lock_word(lock.cause()).to_owned();
    if lock.cause() == LockCause::FailedSignIns {
        text = format!("{text} after wrong passwords");
    } else if lock.cause() == LockCause::Inactivity {
        text = format!("{text} because it was not used");
    } else if !lock.actor_name.is_empty() {
        text = format!("{text} by {}", lock.actor_name);
    }
    if !lock.note.is_empty() {
        text = format!("{text}: {}", lock.note);
    }
    text
}

/// The participle of a lock for this cause.
pub(crate) fn lock_word(cause: LockCause) -> &'static str {
    match cause {
        LockCause::Compromise => "locked as compromised",
        LockCause::Deactivated => "deactivated",
        LockCause::Operator | LockCause::Inactivity | LockCause::FailedSignIns | LockCause::Unspecified => "locked",
    }
}

/// The reason why a password must be changed.
pub(crate) fn change_cause(status: &PasswordStatus) -> &'static str {
    match status.change_cause() {
        PasswordChangeCause::Temporary => "it was given by an operator",
        PasswordChangeCause::Breached => "it was leaked",
        PasswordChangeCause::Policy => "it breaks a rule that is newer than it is",
        PasswordChangeCause::Operator => "an operator asked for it",
        PasswordChangeCause::Expired => "it has reached its maximum age",
        PasswordChangeCause::Unspecified => "the server asked for it",
    }
}

/// The time of the user's last sign-in.
pub(crate) fn signed_in(user: &User, clock: &Clock) -> Text {
    match instant(user.last_sign_in_time.as_ref()) {
        Some(at) => clock.ago(at).into(),
        None if user.kind() == UserKind::Service => Text::toned(Tone::Dim, "–"),
        None => Text::toned(Tone::Dim, "never"),
    }
}

/// The command that lets a user choose a new password: by a link or, without an address, with a temporary password.
pub(crate) fn reset_command(user: &User) -> String {
    reset_by(user, !user.email.is_empty())
}

/// The command that lets a user choose a new password, by a link or with a temporary password.
pub(crate) fn reset_by(user: &User, by_link: bool) -> String {
    let way = if by_link { "" } else { " --temporary-password" };
    format!("latchkey users reset {}{way}", shell_word(&user.username))
}

/// The scope without which [`reset_command`] is refused.
pub(crate) fn reset_scope(user: &User) -> &'static str {
    if user.email.is_empty() { "users.reset.temporary" } else { "users.reset" }
}

/// A command that may be useful next.
pub(crate) struct Step {
    /// The scopes that it needs.
    pub(crate) scopes: Vec<&'static str>,
    /// Whether it acts on the account, which needs each scope of its user, too.
    pub(crate) acts: bool,
    /// The command.
    pub(crate) command: String,
}

/// The commands that may be useful next for `user`, the most useful first.
///
/// `has_failed` is whether the user has just failed to sign in.
pub(crate) fn next_steps(user: &User, has_failed: bool) -> Vec<Step> {
    let name = shell_word(&user.username);
    let act = |scopes: &[&'static str], command| Step { scopes: scopes.to_vec(), acts: true, command };
    let read = |scope, command| Step { scopes: vec![scope], acts: false, command };
    let reset = reset_command(user);
    let resets: &[_] = &["users.reset", reset_scope(user)];
    let cause = user.lock.as_ref().map_or(LockCause::Unspecified, UserLock::cause);
    let help = match ability(user).next_method.rsplit('/').next() {
        // An unlock alone would not help: the password ended with the lock.
        Some("UnlockUser" | "ResetPassword") if cause == LockCause::Compromise && user.kind() == UserKind::Person => {
            Some(act(&[resets, &["users.lock", "users.write"]].concat(), format!("{reset} --unlock")))
        }
        Some("UnlockUser") if matches!(cause, LockCause::Compromise | LockCause::Deactivated) => {
            Some(act(&["users.lock", "users.write"], format!("latchkey users unlock {name}")))
        }
        Some("UnlockUser") => Some(act(&["users.lock"], format!("latchkey users unlock {name}"))),
        Some("ResetPassword") if user.lock.is_some() => {
            Some(act(&[resets, &["users.lock"]].concat(), format!("{reset} --unlock")))
        }
        Some("ResetPassword") => Some(act(resets, reset)),
        _ => None,
    };
    let diagnose = has_failed.then(|| read("users.diagnose", format!("latchkey users diagnose {name}")));
    let tokens =
        (user.kind() == UserKind::Service).then(|| read("tokens.read", format!("latchkey tokens list {name}")));
    let events = read("audit.read", format!("latchkey audit list --user {name}"));
    let sessions = read("sessions.read", format!("latchkey sessions list {name}"));
    help.into_iter().chain(diagnose).chain(tokens).chain([events, sessions]).collect()
}

/// `1 session`, `2 sessions`.
pub(crate) fn count(number: impl TryInto<i64>, noun: &str) -> String {
    match number.try_into().unwrap_or(i64::MAX) {
        1 => format!("1 {noun}"),
        number => format!("{} {noun}s", grouped(number)),
    }
}

/// The number of matches, and whether there are more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) size: i32,
    pub(crate) is_at_least: bool,
}

impl Total {
    /// `1 204`, `more than 10 000`.
    pub(crate) fn number(self) -> String {
        let number = grouped(self.size);
        if self.is_at_least { format!("more than {number}") } else { number }
    }

    /// `1 user`, `more than 10 000 users`.
    pub(crate) fn of(self, noun: &str) -> String {
        let noun = if self.size == 1 { noun.to_owned() } else { format!("{noun}s") };
        format!("{} {noun}", self.number())
    }
}

/// `1 204`, with a space before each three digits.
pub(crate) fn grouped(number: impl Into<i64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `text` as one word of a shell, quoted if necessary.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |symbol: char| symbol.is_ascii_alphanumeric() || "-_./:@%+=,".contains(symbol);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_number() {
        assert_eq!(count(1, "session"), "1 session");
        assert_eq!(count(0, "session"), "0 sessions");
        assert_eq!(count(1_234_567, "user"), "1 234 567 users");
        assert_eq!(grouped(204), "204");
    }

    #[test]
    fn a_reset_is_proposed_by_a_link_where_there_is_an_address() {
        let user = User { username: "ada".to_owned(), email: "ada@example.com".to_owned(), ..User::default() };
        assert_eq!(reset_command(&user), "latchkey users reset ada");
        let user = User { email: String::new(), ..user };
        assert_eq!(reset_command(&user), "latchkey users reset ada --temporary-password");
    }

    #[test]
    fn a_word_of_a_shell_is_quoted_when_it_must_be() {
        assert_eq!(shell_word("ada@example.com"), "ada@example.com");
        assert_eq!(shell_word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_word(""), "''");
    }
}
