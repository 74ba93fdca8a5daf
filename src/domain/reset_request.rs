//! Requests for a link by somebody who may be a stranger. A request is stored as it came, and a job resolves it: neither the
//! answer nor the work of the call depends on the account.

use std::net::IpAddr;
use std::time::Duration;

use super::time::Timestamp;

/// The pause after a request, before which another has no effect.
pub const RESEND_AFTER: Duration = Duration::from_mins(1);

/// Messages that a user can have in a row. After them one an hour is sent: enough for a person who looks for the mail, too few
/// to fill a mailbox.
const BURST: usize = 3;

/// The pause after a burst.
const PAUSE: Duration = Duration::from_hours(1);

/// How far [`is_due`] looks back, and the most messages in that time.
pub const HISTORY: Duration = Duration::from_hours(24);
/// The most messages in [`HISTORY`].
pub const MAX_IN_HISTORY: usize = BURST + 24;

/// Requests that can wait at a time. A job resolves hundreds a second.
pub const MAX_WAITING: u64 = 10_000;

/// Messages that can wait before strangers get none. Those of operators are sent all the same.
pub const MAX_MESSAGES_WAITING: u64 = 10_000;

/// The stored size of a request before it is sealed: all are equally long.
const STORED_BYTES: usize = 1024;

/// What is needed to resolve a request. The database stores it sealed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ResetRequest {
    /// Username or e-mail address.
    pub login: String,
    /// The language that was asked for.
    pub locale: Option<String>,
    /// Address of the client.
    pub client_address: Option<IpAddr>,
    /// The calling application.
    pub app: Option<String>,
    /// Id that the server gave to the call.
    pub request_id: String,
    /// Id that the client gave to the call.
    pub client_request_id: String,
    /// User agent of the client.
    pub user_agent: String,
}

impl ResetRequest {
    /// Encodes the request, padded so that the length tells nothing.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut encoded = serde_json::to_vec(self)?;
        let padded = encoded.len().next_multiple_of(STORED_BYTES);
        encoded.resize(padded, b' ');
        Ok(encoded)
    }

    /// Decodes a request. Returns `None` if it is not one.
    pub fn decode(encoded: &[u8]) -> Option<ResetRequest> {
        serde_json::from_slice(encoded).ok()
    }
}

/// Returns whether a user who got messages at these times, newest first, can have another at `now`.
pub fn is_due(sent: &[Timestamp], now: Timestamp) -> bool {
    let is_apart = sent.first().is_none_or(|last| last.saturating_add(RESEND_AFTER) <= now);
    let pauses = (1..).map(|pauses| PAUSE.saturating_mul(pauses));
    is_apart && sent.iter().skip(BURST - 1).zip(pauses).all(|(at, pause)| at.saturating_add(pause) <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(minutes: i64) -> Timestamp {
        Timestamp::from_micros(minutes * 60_000_000)
    }

    /// Sends whenever it is due, asked every minute, and returns the minutes.
    fn sent_within(asked: std::ops::Range<i64>) -> Vec<i64> {
        let mut sent: Vec<i64> = Vec::new();
        for now in asked {
            let newest_first: Vec<Timestamp> = sent.iter().rev().map(|at| minutes(*at)).collect();
            sent.extend(is_due(&newest_first, minutes(now)).then_some(now));
        }
        sent
    }

    #[test]
    fn three_messages_come_a_minute_apart_and_then_one_an_hour() {
        assert_eq!(sent_within(0..190), [0, 1, 2, 60, 120, 180]);
        let late = [minutes(120), minutes(60), minutes(2), minutes(1), minutes(0)];
        assert!(!is_due(&late, minutes(179)));
        assert!(is_due(&late, minutes(180)));
        assert!(is_due(&late[..2], minutes(121)), "the burst has filled up again");
        assert!(!is_due(&late[..1], minutes(120)));
    }

    #[test]
    fn requests_are_equally_long() -> Result<(), serde_json::Error> {
        let request = |login: &str, agent: &str| ResetRequest {
            login: login.to_owned(),
            locale: None,
            client_address: None,
            app: None,
            request_id: String::new(),
            client_request_id: String::new(),
            user_agent: agent.to_owned(),
        };
        let short = request("al", "");
        let long = request(&format!("{}@{}.example", "l".repeat(64), "d".repeat(60)), &"a".repeat(256));
        assert_eq!(short.encode()?.len(), long.encode()?.len());
        assert_eq!(ResetRequest::decode(&short.encode()?), Some(short));
        assert_eq!(ResetRequest::decode(b"{}"), None);
        Ok(())
    }
}
