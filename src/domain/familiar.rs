//! What tells the owner of an account from strangers before the password is proved: a place from which the account has signed
//! in, or a device token. Neither replaces a credential; both only decide which budget a wrong password counts against.

use std::time::Duration;

use secrecy::SecretString;

use super::id::UserId;
use super::time::{MAX_CLOCK_ERROR, Timestamp};
use super::user::User;

/// How long a place or a device token is remembered after its last sign-in.
pub const FAMILIAR_FOR: Duration = Duration::from_hours(90 * 24);

/// The most familiar places of an account.
pub const MAX_PLACES: usize = 5;

/// Prefix of the text of a device token.
pub const DEVICE_TOKEN_PREFIX: &str = "lkd_";

/// Maximum length of a device token, in bytes.
pub const MAX_DEVICE_TOKEN_BYTES: usize = 1024;

/// A device token as the client sent it, unverified.
pub type SentDeviceToken = SecretString;

/// The contents of a device token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The user who signed in on the device.
    pub user_id: UserId,
    /// When the user signed in.
    pub issued_at: Timestamp,
    /// `User::devices_valid_after` at that time.
    pub valid_after: Option<Timestamp>,
}

impl Device {
    /// Length of the contents in bytes.
    const BYTES: usize = 32;

    /// Creates the contents of a token for a user who signs in at `now`.
    pub fn of(user: &User, now: Timestamp) -> Device {
        Device { user_id: user.id, issued_at: now, valid_after: user.devices_valid_after }
    }

    /// Returns whether the token is valid for `user` at `now`. A reset has changed `devices_valid_after`, even if a clock was
    /// turned back.
    pub fn is_valid_for(&self, user: &User, now: Timestamp) -> bool {
        self.user_id == user.id
            && self.valid_after == user.devices_valid_after
            && now < self.issued_at.saturating_add(FAMILIAR_FOR)
            && self.issued_at <= now.saturating_add(MAX_CLOCK_ERROR)
    }

    /// Encodes the contents, to be sealed.
    pub fn to_bytes(self) -> [u8; Device::BYTES] {
        let mut bytes = [0; Device::BYTES];
        let valid_after = self.valid_after.map_or(i64::MIN, Timestamp::as_micros).to_be_bytes();
        let issued_at = self.issued_at.as_micros().to_be_bytes();
        let parts = self.user_id.as_bytes().iter().chain(&issued_at).chain(&valid_after);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// Decodes contents that were sealed. Returns `None` if the length differs.
    pub fn from_bytes(bytes: &[u8]) -> Option<Device> {
        let bytes: &[u8; Device::BYTES] = bytes.try_into().ok()?;
        let (user_id, rest) = bytes.split_first_chunk()?;
        let (issued_at, rest) = rest.split_first_chunk()?;
        let valid_after = i64::from_be_bytes(*rest.first_chunk()?);
        Some(Device {
            user_id: UserId::from_bytes(*user_id),
            issued_at: Timestamp::from_micros(i64::from_be_bytes(*issued_at)),
            valid_after: (valid_after != i64::MIN).then(|| Timestamp::from_micros(valid_after)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_survives_its_encoding() {
        for valid_after in [None, Some(Timestamp::from_micros(0)), Some(Timestamp::from_micros(7))] {
            let (user_id, issued_at) = (UserId::from_bytes([9; 16]), Timestamp::from_micros(1 << 50));
            let device = Device { user_id, issued_at, valid_after };
            assert_eq!(Device::from_bytes(&device.to_bytes()), Some(device));
        }
        assert_eq!(Device::from_bytes(&[0; 31]), None);
        assert_eq!(Device::from_bytes(&[0; 33]), None);
    }
}
