//! Descriptions of accounts that several commands print.

use super::text::{Text, Tone};
use super::time::{Clock, instant};
use crate::proto::v1::{LockCause, PasswordChangeCause, PasswordStatus, User, UserKind, UserLock, UserState};

/// `Ada Lovelace (ada)`, or the username alone.
pub(crate) fn person(user: &User) -> String {
    if user.display_name.is_empty() {
        user.username.clone()
    } else {
        format!("{} ({})", user.display_name, user.username)
    }
}

/// `✖ locked 22m`, `● active`.
pub(crate) fn state(user: &User, clock: &Clock) -> Text {
    match user.state() {
        UserState::Active => Text::toned(Tone::Good, "●").and(Tone::Plain, " active"),
        UserState::Pending => Text::toned(Tone::Warn, "○").and(Tone::Plain, " pending"),
        UserState::Locked => {
            let since = user.lock.as_ref().and_then(|lock| instant(lock.lock_time.as_ref()));
            let since = since.map(|at| format!(" {}", clock.compact(at))).unwrap_or_default();
            Text::toned(Tone::Bad, "✖ locked").and(Tone::Plain, since)
        }
        UserState::Unspecified => Text::toned(Tone::Warn, format!("? {}", user.state)),
    }
}

/// `changed 1 y ago`, `temporary, 3 h left`.
pub(crate) fn password(user: &User, clock: &Clock) -> Text {
    if user.kind() == UserKind::Service {
        return Text::toned(Tone::Dim, "–");
    }
    let Some(status) = user.password_status.as_ref().filter(|status| status.password_set) else {
        return Text::toned(Tone::Dim, "none");
    };
    if let Some(end) = instant(status.temporary_expire_time.as_ref()) {
        let tone = if clock.is_past(end) { Tone::Bad } else { Tone::Warn };
        return Text::toned(tone, format!("temporary, {}", clock.left(end)));
    }
    match instant(status.change_time.as_ref()) {
        Some(at) => format!("changed {}", clock.ago(at)).into(),
        None => "set".into(),
    }
}

/// What needs an operator's attention. Empty if nothing does.
pub(crate) fn attention(user: &User, clock: &Clock) -> Text {
    let mut concerns = Vec::new();
    if let Some(lock) = &user.lock {
        concerns.push(locked(lock, clock));
    }
    if let Some(throttle) = &user.throttle {
        let wait = instant(throttle.until_time.as_ref()).map(|at| clock.left(at)).unwrap_or_default();
        concerns.push(format!("waits after {}, {wait}", count(throttle.failures, "wrong password")));
    }
    if user.password_status.as_ref().is_some_and(|status| status.change_required) {
        concerns.push("must change".to_owned());
    }
    let tone = if user.state() == UserState::Locked { Tone::Bad } else { Tone::Warn };
    Text::toned(tone, concerns.join("; "))
}

/// `locked by root: laptop lost, until tomorrow 08:00`.
pub(crate) fn locked(lock: &UserLock, clock: &Clock) -> String {
    let mut text = match lock.cause() {
        LockCause::FailedSignIns => "locked after wrong passwords".to_owned(),
        _ if lock.actor_name.is_empty() => "locked".to_owned(),
        _ => format!("locked by {}", lock.actor_name),
    };
    if !lock.note.is_empty() {
        text = format!("{text}: {}", lock.note);
    }
    match instant(lock.expire_time.as_ref()) {
        Some(end) => format!("{text}, until {}", clock.moment(end)),
        None => text,
    }
}

/// The reason why a password must be changed.
pub(crate) fn change_cause(status: &PasswordStatus) -> &'static str {
    match status.change_cause() {
        PasswordChangeCause::Temporary => "it was given by an operator",
        PasswordChangeCause::Operator => "an operator asked for it",
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

/// The command that is most useful next for `user`.
pub(crate) fn next_step(user: &User) -> String {
    let name = shell_word(&user.username);
    if user.state() == UserState::Locked || user.throttle.is_some() {
        format!("latchkey users unlock {name}")
    } else if user.state() == UserState::Pending {
        format!("latchkey users reset {name} --temporary-password")
    } else if user.kind() == UserKind::Service {
        format!("latchkey tokens list {name}")
    } else {
        format!("latchkey audit list --user {name}")
    }
}

/// `1 session`, `2 sessions`.
pub(crate) fn count(number: impl TryInto<i64>, noun: &str) -> String {
    match number.try_into().unwrap_or(i64::MAX) {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
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
    }

    #[test]
    fn a_word_of_a_shell_is_quoted_when_it_must_be() {
        assert_eq!(shell_word("ada@example.com"), "ada@example.com");
        assert_eq!(shell_word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_word(""), "''");
    }
}
