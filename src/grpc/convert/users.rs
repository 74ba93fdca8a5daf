//! Requests about accounts.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{Wrong, duration, each, etag, finish, idempotency_key, instant_of, note, page, roles, user_ref};
use crate::app::{
    CreateUser, DeleteUser, FirstCredential, Handover, Idempotency, ListUsers, LockEnd, LockUser, NewPassword,
    UnlockUser, UpdateUser,
};
use crate::domain::email::EmailAddress;
use crate::domain::id::UserId;
use crate::domain::link::{LinkWay, LinkWish, MAX_INVITE_TTL};
use crate::domain::lockout::LockCause;
use crate::domain::password::PlainPassword;
use crate::domain::profile::{DisplayName, ExternalId, LabelChanges, Labels, Locale, SearchText};
use crate::domain::role::Role;
use crate::domain::sign_in_ability::AbilityKind;
use crate::domain::time::Timestamp;
use crate::domain::user::{UserFlag, UserKind, UserRef, UserState};
use crate::domain::user_filter::{UserFilter, UserOrder};
use crate::domain::username::Username;
use crate::domain::violation::{Describe, Fault, Violations};
use crate::error::Result;
use crate::proto::v1;

/// The maximum lifetime of a temporary password: it covers a weekend.
pub(super) const MAX_TEMPORARY_TTL: Duration = Duration::from_hours(72);

/// The maximum duration of a lock: 100 years. A longer one would leave the range of a timestamp.
const MAX_LOCK: Duration = Duration::from_hours(36_525 * 24);

pub(in crate::grpc) fn list_users(message: v1::ListUsersRequest) -> Result<ListUsers> {
    let mut faults = Violations::new();
    let filter = filter(&mut faults, &message.filter.unwrap_or_default());
    let order = faults.check("order", order(message.order));
    let page = page(&mut faults, message.page_size, message.page_token);
    let include_total = message.include_total;
    finish(faults, || Some(ListUsers { filter: filter?, order: order?, page: page?, include_total }))
}

fn filter(faults: &mut Violations, message: &v1::UserFilter) -> Option<UserFilter> {
    let text = faults.check("filter.text", SearchText::parse(&message.text));
    let states = each(faults, "filter.states", &message.states, 8, |number| state(*number));
    let kinds = each(faults, "filter.kinds", &message.kinds, 4, |number| kind(*number)?.ok_or(Wrong::Number));
    let lock_causes =
        each(faults, "filter.lock_causes", &message.lock_causes, 8, |number| lock_cause(*number)?.ok_or(Wrong::Number));
    let flags = each(faults, "filter.flags", &message.flags, 16, |number| flag(*number));
    let without_flags = each(faults, "filter.without_flags", &message.without_flags, 16, |number| flag(*number));
    let roles = roles(faults, "filter.roles", &message.roles);
    let user_ids = each(faults, "filter.user_ids", &message.user_ids, 1000, |text| text.parse::<UserId>());
    let abilities = each(faults, "filter.sign_in_abilities", &message.sign_in_abilities, 8, |number| ability(*number));
    Some(UserFilter {
        text: text?,
        states: states?,
        kinds: kinds?,
        lock_causes: lock_causes?,
        flags: flags?,
        without_flags: without_flags?,
        roles: roles?,
        user_ids: user_ids?,
        has_second_factor: message.second_factor_enrolled,
        needs_attention: message.needs_attention,
        abilities: abilities?,
    })
}

pub(in crate::grpc) fn show_user(message: v1::GetUserRequest) -> Result<UserRef> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    finish(faults, || user)
}

pub(in crate::grpc) fn create_user(mut message: v1::CreateUserRequest) -> Result<CreateUser> {
    let mut faults = Violations::new();
    let key = std::mem::take(&mut message.idempotency_key);
    let idempotency = idempotency(&mut faults, &key, &message);
    let username = faults.check("username", Username::parse(&message.username));
    let kind = faults.check("kind", kind(message.kind)).map(|kind| kind.unwrap_or(UserKind::Person));
    let email = faults.check("email", EmailAddress::parse_optional(&message.email));
    let display_name = faults.check("display_name", DisplayName::parse(&message.display_name));
    let locale = faults.check("locale", Locale::parse(&message.locale));
    let external_id = faults.check("external_id", ExternalId::parse(&message.external_id));
    let labels = faults.check_all("labels", Labels::parse(message.labels));
    let roles = roles(&mut faults, "roles", &message.roles);
    let credential = credential(&mut faults, message.credential, message.password_change_required, kind);
    let note = note(&mut faults, &message.note);
    let (take_reserved, validate_only) = (message.take_reserved, message.validate_only);
    finish(faults, || {
        Some(CreateUser {
            username: username?,
            kind: kind?,
            email: email?,
            display_name: display_name?,
            locale: locale?,
            external_id: external_id?,
            labels: labels?,
            roles: roles?,
            credential: credential?,
            take_reserved,
            note: note?,
            idempotency: idempotency?,
            validate_only,
        })
    })
}

fn credential(
    faults: &mut Violations,
    message: Option<v1::create_user_request::Credential>,
    change_required: Option<bool>,
    kind: Option<UserKind>,
) -> Option<Option<FirstCredential>> {
    use v1::create_user_request::Credential;
    let is_password = matches!(message, Some(Credential::Password(_)));
    if change_required.is_some() && !is_password {
        faults.push("password_change_required", Fault::Conflict, "goes with `password` only");
    }
    match message {
        None => Some(None),
        Some(_) if kind == Some(UserKind::Service) => {
            let field = match message {
                Some(Credential::Password(_)) => "password",
                Some(Credential::Invite(_)) => "invite",
                Some(Credential::ReturnInvite(_)) => "return_invite",
                _ => "temporary_password",
            };
            faults.push(field, Fault::Conflict, "a service has no password; give it an API token");
            None
        }
        Some(Credential::Invite(wish)) => {
            let ttl = duration(faults, "invite.ttl", wish.ttl, MAX_INVITE_TTL)?;
            Some(Some(FirstCredential::Invite(LinkWish { way: LinkWay::Mailed, ttl })))
        }
        Some(Credential::ReturnInvite(wish)) => {
            let ttl = duration(faults, "return_invite.ttl", wish.ttl, MAX_INVITE_TTL)?;
            Some(Some(FirstCredential::Invite(LinkWish { way: LinkWay::Returned, ttl })))
        }
        Some(Credential::TemporaryPassword(wish)) => {
            let handover = handover(faults, wish.handover);
            let ttl = duration(faults, "temporary_password.ttl", wish.ttl, MAX_TEMPORARY_TTL)?;
            Some(Some(FirstCredential::Password(NewPassword::Temporary { ttl }, handover?)))
        }
        Some(Credential::Password(text)) => {
            let password = faults.check("password", PlainPassword::parse(text))?;
            let given = NewPassword::Chosen { password, change_required: change_required.unwrap_or(true) };
            Some(Some(FirstCredential::Password(given, Handover::Return)))
        }
    }
}

/// Reads how a temporary password reaches its user.
pub(super) fn handover(faults: &mut Violations, number: i32) -> Option<Handover> {
    use v1::temporary_password::Handover as Number;
    let known = match Number::try_from(number) {
        Ok(Number::Unspecified | Number::Return) => Ok(Handover::Return),
        Ok(Number::Mail) => Ok(Handover::Mail),
        Ok(Number::Both) => Ok(Handover::Both),
        Err(_) => Err(Wrong::Number),
    };
    faults.check("temporary_password.handover", known)
}

/// Returns the key and the encoded request without it. The encoding is stable, because maps are ordered.
pub(super) fn idempotency(
    faults: &mut Violations,
    key: &str,
    message: &impl prost::Message,
) -> Option<Option<Idempotency>> {
    let key = idempotency_key(faults, key)?;
    Some(key.map(|key| Idempotency { key, body: Zeroizing::new(message.encode_to_vec()) }))
}

pub(in crate::grpc) fn update_user(message: v1::UpdateUserRequest) -> Result<UpdateUser> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let username = match &message.username {
        None => Some(None),
        Some(text) => faults.check("username", Username::parse(text)).map(Some),
    };
    let email = change(&mut faults, "email", message.email.as_deref(), EmailAddress::parse_optional);
    let display_name = change(&mut faults, "display_name", message.display_name.as_deref(), DisplayName::parse);
    let locale = change(&mut faults, "locale", message.locale.as_deref(), Locale::parse);
    let external_id = change(&mut faults, "external_id", message.external_id.as_deref(), ExternalId::parse);
    let labels = faults.check_all("labels", LabelChanges::parse(message.labels));
    let add_roles = roles(&mut faults, "add_roles", &message.add_roles);
    let remove_roles = roles(&mut faults, "remove_roles", &message.remove_roles);
    check_disjoint(&mut faults, add_roles.as_deref(), remove_roles.as_deref());
    let note = note(&mut faults, &message.note);
    let etag = etag(&mut faults, &message.etag);
    let (take_reserved, validate_only) = (message.take_reserved, message.validate_only);
    finish(faults, || {
        Some(UpdateUser {
            user: user?,
            username: username?,
            email: email?,
            display_name: display_name?,
            locale: locale?,
            external_id: external_id?,
            labels: labels?,
            add_roles: add_roles?,
            remove_roles: remove_roles?,
            take_reserved,
            note: note?,
            etag: etag?,
            validate_only,
        })
    })
}

/// Absent keeps the value, empty clears it.
fn change<T, E: Describe>(
    faults: &mut Violations,
    field: &str,
    text: Option<&str>,
    parse: impl Fn(&str) -> std::result::Result<Option<T>, E>,
) -> Option<Option<Option<T>>> {
    match text {
        None => Some(None),
        Some(text) => faults.check(field, parse(text)).map(Some),
    }
}

fn check_disjoint(faults: &mut Violations, added: Option<&[Role]>, removed: Option<&[Role]>) {
    let (Some(added), Some(removed)) = (added, removed) else { return };
    if let Some(both) = added.iter().find(|role| removed.contains(role)) {
        faults.push("remove_roles", Fault::Conflict, format!("{both} is also in add_roles"));
    }
}

pub(in crate::grpc) fn delete_user(message: v1::DeleteUserRequest) -> Result<DeleteUser> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let etag = etag(&mut faults, &message.etag).and_then(|etag| faults.require("etag", etag));
    let note = note(&mut faults, &message.note);
    let validate_only = message.validate_only;
    finish(faults, || Some(DeleteUser { user: user?, etag: etag?, note: note?, validate_only }))
}

pub(in crate::grpc) fn lock_user(message: v1::LockUserRequest, now: Timestamp) -> Result<LockUser> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let cause = faults.check("cause", lock_cause(message.cause)).map(|cause| cause.unwrap_or(LockCause::Operator));
    if cause.is_some_and(LockCause::is_automatic) {
        faults.push("cause", Fault::Conflict, "only the server locks for this cause; leave it unset");
    }
    let note = note(&mut faults, &message.note);
    let end = lock_end(&mut faults, message.end, now);
    let etag = etag(&mut faults, &message.etag);
    let remove_second_factors = message.remove_second_factors;
    if remove_second_factors && cause != Some(LockCause::Compromise) {
        faults.push("remove_second_factors", Fault::Conflict, "goes with LOCK_CAUSE_COMPROMISE only");
    }
    finish(faults, || {
        Some(LockUser { user: user?, cause: cause?, note: note?, end: end?, remove_second_factors, etag: etag? })
    })
}

fn lock_end(
    faults: &mut Violations,
    message: Option<v1::lock_user_request::End>,
    now: Timestamp,
) -> Option<Option<LockEnd>> {
    use v1::lock_user_request::End;
    match message {
        None => Some(None),
        Some(End::Duration(length)) => Some(duration(faults, "duration", Some(length), MAX_LOCK)?.map(LockEnd::After)),
        Some(End::UntilTime(at)) => {
            let at = faults.check("until_time", instant_of(at).ok_or(Wrong::Timestamp))?;
            let at = faults.check("until_time", if at > now { Ok(at) } else { Err(Wrong::Past) })?;
            Some(Some(LockEnd::At(at)))
        }
    }
}

pub(in crate::grpc) fn unlock_user(message: v1::UnlockUserRequest) -> Result<UnlockUser> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let note = note(&mut faults, &message.note);
    let etag = etag(&mut faults, &message.etag);
    finish(faults, || Some(UnlockUser { user: user?, note: note?, etag: etag? }))
}

fn order(number: i32) -> std::result::Result<UserOrder, Wrong> {
    match v1::UserOrder::try_from(number).map_err(|_| Wrong::Number)? {
        v1::UserOrder::Unspecified => Ok(UserOrder::Natural),
        v1::UserOrder::Username => Ok(UserOrder::Username),
        v1::UserOrder::CreateTimeDesc => Ok(UserOrder::CreatedAtDescending),
    }
}

fn state(number: i32) -> std::result::Result<UserState, Wrong> {
    match v1::UserState::try_from(number) {
        Ok(v1::UserState::Pending) => Ok(UserState::Pending),
        Ok(v1::UserState::Active) => Ok(UserState::Active),
        Ok(v1::UserState::Locked) => Ok(UserState::Locked),
        Ok(v1::UserState::Unspecified) | Err(_) => Err(Wrong::Number),
    }
}

fn ability(number: i32) -> std::result::Result<AbilityKind, Wrong> {
    match v1::SignInAbilityKind::try_from(number) {
        Ok(v1::SignInAbilityKind::Yes) => Ok(AbilityKind::Yes),
        Ok(v1::SignInAbilityKind::YesThen) => Ok(AbilityKind::YesThen),
        Ok(v1::SignInAbilityKind::NotUntil) => Ok(AbilityKind::NotUntil),
        Ok(v1::SignInAbilityKind::No) => Ok(AbilityKind::No),
        Ok(v1::SignInAbilityKind::Unspecified) | Err(_) => Err(Wrong::Number),
    }
}

fn flag(number: i32) -> std::result::Result<UserFlag, Wrong> {
    match v1::UserFlag::try_from(number) {
        Ok(v1::UserFlag::MustChange) => Ok(UserFlag::MustChange),
        Ok(v1::UserFlag::TemporaryPassword) => Ok(UserFlag::TemporaryPassword),
        Ok(v1::UserFlag::LinkPending) => Ok(UserFlag::LinkPending),
        Ok(v1::UserFlag::MailFailed) => Ok(UserFlag::MailFailed),
        Ok(v1::UserFlag::EmailUnverified) => Ok(UserFlag::EmailUnverified),
        Ok(v1::UserFlag::Throttled) => Ok(UserFlag::Throttled),
        Ok(v1::UserFlag::NeverSignedIn) => Ok(UserFlag::NeverSignedIn),
        Ok(v1::UserFlag::SecondFactorMissing) => Ok(UserFlag::SecondFactorMissing),
        Ok(v1::UserFlag::PasswordExpired) => Ok(UserFlag::PasswordExpired),
        Ok(v1::UserFlag::Unspecified) | Err(_) => Err(Wrong::Number),
    }
}

/// Returns `None` if the value is unspecified.
fn kind(number: i32) -> std::result::Result<Option<UserKind>, Wrong> {
    match v1::UserKind::try_from(number).map_err(|_| Wrong::Number)? {
        v1::UserKind::Unspecified => Ok(None),
        v1::UserKind::Person => Ok(Some(UserKind::Person)),
        v1::UserKind::Service => Ok(Some(UserKind::Service)),
    }
}

/// Returns `None` if the value is unspecified.
fn lock_cause(number: i32) -> std::result::Result<Option<LockCause>, Wrong> {
    match v1::LockCause::try_from(number).map_err(|_| Wrong::Number)? {
        v1::LockCause::Unspecified => Ok(None),
        v1::LockCause::Compromise => Ok(Some(LockCause::Compromise)),
        v1::LockCause::Deactivated => Ok(Some(LockCause::Deactivated)),
        v1::LockCause::Operator => Ok(Some(LockCause::Operator)),
        v1::LockCause::Inactivity => Ok(Some(LockCause::Inactivity)),
        v1::LockCause::FailedSignIns => Ok(Some(LockCause::FailedSignIns)),
    }
}
