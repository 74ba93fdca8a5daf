//! Familiar places and device tokens: an attempt that has one of them is not a stranger's, and has a budget of its own.

use std::net::IpAddr;

use data_encoding::BASE64URL_NOPAD;
use secrecy::{ExposeSecret, SecretString};

use super::App;
use super::writer::Change;
use crate::crypto::short;
use crate::domain::caller::{Caller, Source};
use crate::domain::familiar::{DEVICE_TOKEN_PREFIX, Device, MAX_DEVICE_TOKEN_BYTES, SentDeviceToken};
use crate::domain::id::UserId;
use crate::domain::time::Timestamp;
use crate::domain::user::User;
use crate::error::{Error, Result};
use crate::store::familiar::{place_is_familiar, place_used};

/// The context that all device tokens are sealed with.
const CONTEXT: &[u8] = b"device token 1";

impl App {
    /// Returns whether an attempt at this account has a valid device token, or comes from a place from which the account has
    /// signed in. Does the same work without an account.
    pub(super) async fn is_familiar(
        &self,
        caller: &Caller,
        user: Option<&User>,
        device_token: Option<&SentDeviceToken>,
    ) -> Result<bool> {
        let now = self.now();
        let device = device_token.and_then(|token| self.open_device_token(token.expose_secret()));
        let has_device = device.zip(user).is_some_and(|(device, user)| device.is_valid_for(user, now));
        let id = user.map_or(UserId::from_bytes([0; 16]), |user| user.id);
        let Some(place) = self.place(caller, id) else { return Ok(has_device) };
        Ok(place_is_familiar(self.store.reader(), id, &place, now).await? || has_device)
    }

    /// Returns the place of a call, as a digest that differs for each account. `None` if the address is shared by all users of
    /// an application. The local socket is a place too.
    fn place(&self, caller: &Caller, user: UserId) -> Option<String> {
        if caller.call.is_shared_address {
            return None;
        }
        Some(self.place_of(caller.call.source(), user))
    }

    /// Returns the place of a source. `None` is the local socket.
    fn place_of(&self, source: Option<Source>, user: UserId) -> String {
        let source = source.map_or_else(|| "local".to_owned(), |source| source.to_string());
        short(&self.keys.current().digest("familiar place", &[user.as_bytes(), source.as_bytes()].concat()))
    }

    /// Returns whether the account has signed in from this address.
    pub(super) async fn is_familiar_address(&self, user: &User, address: IpAddr) -> Result<bool> {
        let place = self.place_of(Some(Source::of(address)), user.id);
        place_is_familiar(self.store.reader(), user.id, &place, self.now()).await
    }

    /// Makes the device token of a user who signs in now.
    pub(super) fn device_token(&self, user: &User, now: Timestamp) -> Result<SecretString> {
        let device = Device::of(user, now).to_bytes();
        let sealed = self.keys.current().device_key().seal(&self.environment, CONTEXT, &device);
        let sealed = sealed.ok_or_else(|| Error::internal("a device token could not be sealed"))?;
        Ok(format!("{DEVICE_TOKEN_PREFIX}{}", BASE64URL_NOPAD.encode(&sealed)).into())
    }

    fn open_device_token(&self, text: &str) -> Option<Device> {
        let encoded = text.strip_prefix(DEVICE_TOKEN_PREFIX).filter(|_| text.len() <= MAX_DEVICE_TOKEN_BYTES)?;
        let sealed = BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?;
        Device::from_bytes(&self.keys.current().device_key().open(CONTEXT, &sealed)?)
    }

    /// Makes the place of a call familiar to the user, who has just signed in from it.
    pub(super) async fn remember_place(&self, change: &Change<'_>, caller: &Caller, user: &User) -> Result<()> {
        let Some(place) = self.place(caller, user.id) else { return Ok(()) };
        place_used(&change.tx, user.id, &place, change.now).await
    }
}
