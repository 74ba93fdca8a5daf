//! Descriptions of messages to users.

use super::text::{Text, Tone};
use super::time::{Clock, instant};
use crate::proto::v1::{Delivery, DeliveryKind, DeliveryState};

/// What the server names as the relay of a message that it wrote to a file.
const FILE: &str = "file";

/// What is said of a message that was written to a file.
pub(crate) const WRITTEN: &str = "written to a file on the server; no user gets it";

/// What a message or a link is for: `password reset`.
pub(crate) fn kind(kind: DeliveryKind) -> &'static str {
    match kind {
        DeliveryKind::Invite => "invitation",
        DeliveryKind::PasswordReset => "password reset",
        DeliveryKind::TemporaryPassword => "temporary password",
        DeliveryKind::EmailVerification => "confirmation of the address",
        DeliveryKind::Notice => "notice",
        DeliveryKind::Unspecified => "other",
    }
}

/// Which notice a message is: `password changed`. `None` of another message, and of an older server.
pub(crate) fn notice(delivery: &Delivery) -> Option<String> {
    (!delivery.notice.is_empty()).then(|| delivery.notice.replace('_', " "))
}

/// What a message is for: `password reset`, `notice: password changed`.
pub(crate) fn purpose(delivery: &Delivery) -> String {
    let notice = notice(delivery).map(|notice| format!(": {notice}")).unwrap_or_default();
    format!("{}{notice}", kind(delivery.kind()))
}

/// Whether a message was written to a file, which no user gets.
pub(crate) fn is_written(delivery: &Delivery) -> bool {
    delivery.state() == DeliveryState::Accepted && delivery.relay == FILE
}

/// Whether nothing more happens to a message by itself.
pub(crate) fn is_final(delivery: &Delivery) -> bool {
    match delivery.state() {
        DeliveryState::Queued | DeliveryState::Sending | DeliveryState::Retrying | DeliveryState::Unspecified => false,
        DeliveryState::Unknown => delivery.next_attempt_time.is_none(),
        DeliveryState::Accepted | DeliveryState::Failed | DeliveryState::Expired | DeliveryState::Cancelled => true,
    }
}

/// `✔ accepted`, `✖ failed`, `… retrying, next attempt today 14:05`.
pub(crate) fn state(delivery: &Delivery, clock: &Clock) -> Text {
    let (tone, mark, word) = match delivery.state() {
        DeliveryState::Queued => (Tone::Dim, "…", "queued"),
        DeliveryState::Sending => (Tone::Dim, "…", "sending"),
        DeliveryState::Retrying => (Tone::Warn, "…", "retrying"),
        DeliveryState::Accepted if is_written(delivery) => (Tone::Warn, "!", "in a file"),
        DeliveryState::Accepted => (Tone::Good, "✔", "accepted"),
        DeliveryState::Failed => (Tone::Bad, "✖", "failed"),
        DeliveryState::Expired => (Tone::Bad, "✖", "expired"),
        DeliveryState::Cancelled => (Tone::Dim, "✖", "cancelled"),
        DeliveryState::Unknown => (Tone::Warn, "?", "unknown"),
        DeliveryState::Unspecified => (Tone::Warn, "?", "other"),
    };
    // A first attempt is due at once; its time says nothing.
    let next = instant(delivery.next_attempt_time.as_ref()).filter(|_| delivery.attempts > 0);
    let next = next.map(|at| format!(", next attempt {}", clock.moment(at))).unwrap_or_default();
    Text::toned(tone, mark).and(Tone::Plain, format!(" {word}{next}"))
}

/// What became of a message in the end, as the rest of a sentence: `failed: 550 5.1.1 no such user`.
pub(crate) fn outcome(delivery: &Delivery, clock: &Clock) -> String {
    let said = if delivery.last_error.is_empty() { String::new() } else { format!(": {}", delivery.last_error) };
    match delivery.state() {
        DeliveryState::Accepted if is_written(delivery) => format!("was {WRITTEN}"),
        DeliveryState::Accepted => format!("was accepted by {}", delivery.relay),
        DeliveryState::Failed => format!("failed{said}"),
        DeliveryState::Expired => format!("expired before it went out{said}"),
        DeliveryState::Cancelled => "was cancelled, or its link was used or replaced, before it went out".to_owned(),
        DeliveryState::Unknown => match instant(delivery.next_attempt_time.as_ref()) {
            Some(next) => format!("may have gone out, and is sent once more {}{said}", clock.moment(next)),
            None => format!("may have gone out, and is not sent again{said}"),
        },
        DeliveryState::Queued | DeliveryState::Sending | DeliveryState::Retrying | DeliveryState::Unspecified => {
            format!("is still under way{said}")
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;

    fn delivery(state: DeliveryState) -> Delivery {
        Delivery { state: state.into(), ..Delivery::default() }
    }

    fn printed(delivery: &Delivery) -> String {
        anstream::adapter::strip_str(&state(delivery, &clock()).to_string()).to_string()
    }

    fn clock() -> Clock {
        Clock::new(Timestamp::UNIX_EPOCH, TimeZone::UTC)
    }

    #[test]
    fn a_message_that_waits_says_when_it_is_tried_again() {
        let mut waits = delivery(DeliveryState::Retrying);
        waits.next_attempt_time = Some(prost_types::Timestamp { seconds: 300, nanos: 0 });
        assert_eq!(printed(&waits), "… retrying");
        waits.attempts = 2;
        assert_eq!(printed(&waits), "… retrying, next attempt today 00:05");
    }

    #[test]
    fn a_message_in_a_file_is_not_told_as_mailed() {
        let mut taken = delivery(DeliveryState::Accepted);
        taken.relay = "mail.example.com:465".to_owned();
        assert_eq!(printed(&taken), "✔ accepted");
        assert_eq!(outcome(&taken, &clock()), "was accepted by mail.example.com:465");
        taken.relay = "file".to_owned();
        assert_eq!(printed(&taken), "! in a file");
        assert_eq!(outcome(&taken, &clock()), "was written to a file on the server; no user gets it");
    }

    #[test]
    fn an_unknown_outcome_is_final_only_without_another_attempt() {
        let mut unknown = delivery(DeliveryState::Unknown);
        assert!(is_final(&unknown));
        assert_eq!(outcome(&unknown, &clock()), "may have gone out, and is not sent again");
        unknown.next_attempt_time = Some(prost_types::Timestamp { seconds: 300, nanos: 0 });
        assert!(!is_final(&unknown));
        assert_eq!(outcome(&unknown, &clock()), "may have gone out, and is sent once more today 00:05");
        for state in [DeliveryState::Queued, DeliveryState::Sending, DeliveryState::Retrying] {
            assert!(!is_final(&delivery(state)), "{state:?}");
        }
    }
}
