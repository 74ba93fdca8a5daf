//! Conversion between accounts and rows.

use sea_orm::{FromQueryResult, NotSet, Set};

use crate::domain::credentials::{Credentials, UserWithCredentials};
use crate::domain::email::EmailAddress;
use crate::domain::link::PendingLink;
use crate::domain::lockout::{Lock, LockCause, Throttle};
use crate::domain::password_hash::PasswordHash;
use crate::domain::profile::{DisplayName, ExternalId, Labels, Locale};
use crate::domain::role::Role;
use crate::domain::second_factor::SecondFactor;
use crate::domain::user::{Password, PasswordFlaw, PasswordKind, User, UserKind};
use crate::domain::user_policy::UserPolicy;
use crate::domain::username::Username;
use crate::error::{Resource, Result};
use crate::store::entity::user;
use crate::store::links::purpose_from;
use crate::store::sign_in_policy::policy_of;
use crate::store::text::{Decoder, json, micros};
use crate::store::throttle::FOR_GOOD;

#[derive(FromQueryResult)]
pub(super) struct UserRow {
    #[sea_orm(nested)]
    user: user::Model,
    throttle_failures: Option<i32>,
    throttle_until: Option<i64>,
    familiar_until: Option<i64>,
    pending_link: Option<String>,
    mail_failed_at: Option<i64>,
    second_factor: Option<String>,
    policy: Option<String>,
}

impl UserRow {
    /// Returns the size of the labels in bytes.
    pub(super) fn label_bytes(&self) -> usize {
        self.user.labels.len()
    }

    /// Returns when the temporary password expires, in microseconds.
    pub(super) fn password_expires_at(&self) -> Option<i64> {
        self.user.password_expires_at
    }

    /// Returns when the password was changed, in microseconds.
    pub(super) fn password_changed_at(&self) -> Option<i64> {
        self.user.password_changed_at
    }

    /// Returns when the lock ends, in microseconds.
    pub(super) fn lock_expires_at(&self) -> Option<i64> {
        self.user.lock_expires_at
    }

    /// Decodes the account with its credentials.
    pub(super) fn decode_with_credentials(self) -> Result<UserWithCredentials> {
        let password = self.user.password_hash.clone().map(PasswordHash::new);
        let ended_password = self.user.ended_password_hash.clone().map(PasswordHash::new);
        let user = self.decode()?;
        Ok(UserWithCredentials { user, credentials: Credentials { password }, ended_password })
    }

    pub(super) fn decode(self) -> Result<User> {
        let decoder = Decoder { resource: Resource::User, id: &self.user.id, version: Some(self.user.version) };
        let stored_throttle = match (self.throttle_failures, self.throttle_until) {
            (Some(failures), Some(until)) => Some(Throttle {
                failures: u32::try_from(failures).unwrap_or(0),
                until: decoder.instant_or_none((until != FOR_GOOD).then_some(until))?,
                familiar_until: decoder.instant_or_none(self.familiar_until)?,
            }),
            _ => None,
        };
        let user = decode(&decoder, &self.user, stored_throttle)?;
        let stored_link = self.decode_link(&decoder)?;
        let second_factor = self.decode_second_factor(&decoder)?;
        let mail_failed_at = decoder.instant_or_none(self.mail_failed_at)?;
        let policy = self.decode_policy(&decoder, &user)?;
        Ok(User { stored_link, mail_failed_at, second_factor, policy, ..user })
    }

    fn decode_policy(&self, decoder: &Decoder<'_>, user: &User) -> Result<UserPolicy> {
        // The decoy has none.
        let Some(text) = &self.policy else { return Ok(UserPolicy::default()) };
        decoder.some(policy_of(text, &user.roles))
    }

    fn decode_second_factor(&self, decoder: &Decoder<'_>) -> Result<Option<SecondFactor>> {
        let Some(text) = &self.second_factor else { return Ok(None) };
        let numbers: Vec<i64> = decoder.ok(text.split(' ').map(str::parse).collect())?;
        let [enrolled_at, failures, waits_until, recovery_codes_left] = numbers[..] else {
            return Err(decoder.corrupt());
        };
        Ok(Some(SecondFactor {
            enrolled_at: decoder.instant(enrolled_at)?,
            recovery_codes_left: decoder.ok(u32::try_from(recovery_codes_left))?,
            failures: decoder.ok(u32::try_from(failures))?,
            waits_until: decoder.instant_or_none((waits_until != 0).then_some(waits_until))?,
        }))
    }

    fn decode_link(&self, decoder: &Decoder<'_>) -> Result<Option<PendingLink>> {
        let Some(text) = &self.pending_link else { return Ok(None) };
        let mut parts = text.split(' ');
        let mut part = || decoder.some(parts.next());
        let (purpose, expires_at, delivery_id) = (part()?, part()?, part()?);
        Ok(Some(PendingLink {
            purpose: decoder.some(purpose_from(decoder.parse(purpose)?))?,
            expires_at: decoder.instant(decoder.parse(expires_at)?)?,
            delivery_id: (!delivery_id.is_empty()).then(|| decoder.parse(delivery_id)).transpose()?,
        }))
    }
}

fn decode(decoder: &Decoder<'_>, row: &user::Model, stored_throttle: Option<Throttle>) -> Result<User> {
    let mut roles = Vec::new();
    for name in row.roles.split_whitespace() {
        roles.push(decoder.some(Role::parse(name))?);
    }
    Ok(User {
        id: decoder.parse(&row.id)?,
        kind: decoder.some(kind_from(row.kind))?,
        username: decoder.ok(Username::parse(&row.username))?,
        email: row.email.as_deref().map(|email| decoder.ok(EmailAddress::parse(email))).transpose()?,
        display_name: decoder.ok(DisplayName::parse(row.display_name.as_deref().unwrap_or_default()))?,
        locale: decoder.ok(Locale::parse(row.locale.as_deref().unwrap_or_default()))?,
        external_id: decoder.ok(ExternalId::parse(row.external_id.as_deref().unwrap_or_default()))?,
        labels: decoder.ok(Labels::parse(decoder.map(&row.labels)?))?,
        roles,
        password: decode_password(decoder, row)?,
        password_ended_at: decoder.instant_or_none(row.password_ended_at)?,
        change_required: row.change_demanded,
        password_flaw: decode_flaw(row),
        stored_lock: decode_lock(decoder, row)?,
        stored_throttle,
        version: row.version,
        created_at: decoder.instant(row.created_at)?,
        updated_at: decoder.instant(row.updated_at)?,
        last_sign_in_at: decoder.instant_or_none(row.last_sign_in_at)?,
        devices_valid_after: decoder.instant_or_none(row.devices_valid_after)?,
        email_verified_at: decoder.instant_or_none(row.email_verified_at)?,
        active_from: decoder.instant_or_none(row.active_from)?,
        stored_link: None,
        mail_failed_at: None,
        second_factor: None,
        policy: UserPolicy::default(),
    })
}

fn decode_password(decoder: &Decoder<'_>, row: &user::Model) -> Result<Option<Password>> {
    let Some(hash) = row.password_hash.clone() else { return Ok(None) };
    let changed_at = decoder.instant(decoder.some(row.password_changed_at)?)?;
    Ok(Some(Password {
        method: PasswordHash::new(hash).method(),
        kind: decoder.some(password_kind_from(row.password_kind))?,
        changed_at,
        expires_at: decoder.instant_or_none(row.password_expires_at)?,
        // That of a password of before is older.
        judged_at: decoder.instant_or_none(row.password_judged_at)?.map_or(changed_at, |at| at.max(changed_at)),
    }))
}

fn decode_flaw(row: &user::Model) -> Option<PasswordFlaw> {
    let of = |is_flawed: bool, flaw| (row.change_demanded && is_flawed).then_some(flaw);
    let breached = of(row.password_breached, PasswordFlaw::Breached);
    breached.or(of(row.password_against_policy, PasswordFlaw::AgainstPolicy))
}

fn decode_lock(decoder: &Decoder<'_>, row: &user::Model) -> Result<Option<Lock>> {
    let Some(cause) = row.lock_cause else { return Ok(None) };
    Ok(Some(Lock {
        cause: decoder.some(cause_from(cause))?,
        note: row.lock_note.clone().unwrap_or_default(),
        locked_at: decoder.instant(decoder.some(row.locked_at)?)?,
        expires_at: decoder.instant_or_none(row.lock_expires_at)?,
        actor_id: row.lock_actor_id.clone().unwrap_or_default(),
        actor_name: row.lock_actor_name.clone().unwrap_or_default(),
    }))
}

/// Encodes every column of an account. Without `credentials`, the hash stays unchanged. The hash of an ended password always
/// does: only [`super::user_end_password`] writes it.
pub(super) fn encode(user: &User, credentials: Option<&Credentials>) -> user::ActiveModel {
    let hash = |credentials: &Credentials| credentials.password.as_ref().map(|hash| hash.as_str().to_owned());
    let password = user.password.as_ref();
    let judged_again = password.filter(|password| password.judged_at > password.changed_at);
    let has_flaw = |flaw| user.change_required && user.password_flaw == Some(flaw);
    let lock = user.stored_lock.as_ref();
    let labels: std::collections::BTreeMap<&str, &str> = user.labels.iter().collect();
    user::ActiveModel {
        id: Set(user.id.to_string()),
        kind: Set(kind_number(user.kind)),
        username: Set(user.username.as_str().to_owned()),
        email: Set(user.email.as_ref().map(|email| email.as_str().to_owned())),
        email_key: Set(user.email.as_ref().map(|email| email.key().to_owned())),
        display_name: Set(user.display_name.as_ref().map(|name| name.as_str().to_owned())),
        locale: Set(user.locale.as_ref().map(|locale| locale.as_str().to_owned())),
        external_id: Set(user.external_id.as_ref().map(|id| id.as_str().to_owned())),
        labels: Set(json(&labels)),
        roles: Set(user.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" ")),
        password_hash: credentials.map_or(NotSet, |credentials| Set(hash(credentials))),
        password_kind: Set(password_kind_number(password.map_or(PasswordKind::Lasting, |password| password.kind))),
        password_changed_at: Set(micros(password.map(|password| password.changed_at))),
        password_expires_at: Set(micros(password.and_then(|password| password.expires_at))),
        password_ended_at: Set(micros(user.password_ended_at)),
        ended_password_hash: NotSet,
        change_demanded: Set(user.change_required),
        password_breached: Set(has_flaw(PasswordFlaw::Breached)),
        password_against_policy: Set(has_flaw(PasswordFlaw::AgainstPolicy)),
        password_judged_at: Set(micros(judged_again.map(|password| password.judged_at))),
        lock_cause: Set(lock.map(|lock| cause_number(lock.cause))),
        lock_note: Set(lock.map(|lock| lock.note.clone())),
        locked_at: Set(micros(lock.map(|lock| lock.locked_at))),
        lock_expires_at: Set(micros(lock.and_then(|lock| lock.expires_at))),
        lock_actor_id: Set(lock.map(|lock| lock.actor_id.clone())),
        lock_actor_name: Set(lock.map(|lock| lock.actor_name.clone())),
        version: Set(user.version),
        created_at: Set(user.created_at.as_micros()),
        updated_at: Set(user.updated_at.as_micros()),
        last_sign_in_at: Set(micros(user.last_sign_in_at)),
        devices_valid_after: Set(micros(user.devices_valid_after)),
        email_verified_at: Set(micros(user.email_verified_at)),
        active_from: Set(micros(user.active_from)),
    }
}

pub(super) fn kind_number(kind: UserKind) -> i16 {
    match kind {
        UserKind::Person => 1,
        UserKind::Service => 2,
    }
}

fn kind_from(number: i16) -> Option<UserKind> {
    [UserKind::Person, UserKind::Service].into_iter().find(|kind| kind_number(*kind) == number)
}

pub(super) fn password_kind_number(kind: PasswordKind) -> i16 {
    match kind {
        PasswordKind::Lasting => 1,
        PasswordKind::Generated => 2,
        PasswordKind::Chosen => 3,
    }
}

fn password_kind_from(number: i16) -> Option<PasswordKind> {
    [PasswordKind::Lasting, PasswordKind::Generated, PasswordKind::Chosen]
        .into_iter()
        .find(|kind| password_kind_number(*kind) == number)
}

/// Returns the number of a lock cause in the API.
pub(super) fn cause_number(cause: LockCause) -> i16 {
    match cause {
        LockCause::Compromise => 1,
        LockCause::Deactivated => 2,
        LockCause::Operator => 3,
        LockCause::Inactivity => 4,
        LockCause::FailedSignIns => 5,
    }
}

fn cause_from(number: i16) -> Option<LockCause> {
    LockCause::ALL.iter().copied().find(|cause| cause_number(*cause) == number)
}
