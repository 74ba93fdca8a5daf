//! Idempotency keys, which make it safe to repeat a call whose answer was lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::{DeliveryId, UserId};
use super::user::Effects;

/// How long a key is remembered.
pub const KEY_TTL: Duration = Duration::from_hours(24);

/// A UUID chosen by the caller (RFC 9562), in its canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Parses a UUID of the form `6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7`, in upper or lower case.
    pub fn parse(text: &str) -> Option<IdempotencyKey> {
        let well_formed = text.len() == 36
            && text.char_indices().all(|(at, symbol)| match at {
                8 | 13 | 18 | 23 => symbol == '-',
                _ => symbol.is_ascii_hexdigit(),
            });
        well_formed.then(|| IdempotencyKey(text.to_ascii_lowercase()))
    }

    /// The canonical form: lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The stored part of an answer. Never contains a secret.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Remembered {
    /// The user that the call was about.
    pub user_id: UserId,
    /// When the password that was set expires, in microseconds.
    pub expires_at: Option<i64>,
    /// Side effects of the call.
    pub effects: Effects,
    /// The message that was sent.
    #[serde(default)] // The version before stored none.
    pub delivery_id: Option<DeliveryId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_the_version_before_stored_is_still_read() {
        let stored = r#"{"user_id":"00000000000000000000000000","expires_at":null,"effects":{"sessions_revoked":2,
            "access_expires_at":7,"password_ended":true,"api_tokens_revoked":0,"throttle_cleared":false,"lock_lifted":false}}"#;
        let effects = serde_json::from_str(stored).ok().map(|answer: Remembered| answer.effects);
        let expected =
            Effects { sessions_revoked: 2, access_expires_at: Some(7), password_ended: true, ..Effects::default() };
        assert_eq!(effects, Some(expected));
    }

    #[test]
    fn a_key_is_a_uuid() {
        let key = IdempotencyKey::parse("6F1D2C1E-0f3b-4c55-9a38-0d6bb1c6b4f7");
        assert_eq!(key.as_ref().map(IdempotencyKey::as_str), Some("6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7"));
        for wrong in ["", "6f1d2c1e0f3b4c559a380d6bb1c6b4f7", "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4fg", "retry-1"] {
            assert_eq!(IdempotencyKey::parse(wrong), None, "{wrong}");
        }
    }
}
