//! Messages of users.

use super::deliveries::link_kind;
use super::{code, count, stamp};
use crate::app::App;
use crate::domain::audit::RecordedEvent;
use crate::domain::link::PendingLink;
use crate::domain::lockout::{Lock, LockCause};
use crate::domain::sign_in_ability::{AbilityKind, Concern, Remedy, SignInAbility};
use crate::domain::time::Timestamp;
use crate::domain::user::{ChangeCause, Effects, User, UserFlag, UserKind, UserState};
use crate::proto::v1;

/// Converts an account to a message.
pub(in crate::grpc) fn user(app: &App, user: &User) -> v1::User {
    let now = app.environment.now();
    v1::User {
        id: user.id.to_string(),
        kind: kind(user.kind).into(),
        username: user.username.to_string(),
        email: text(user.email.as_ref()),
        display_name: text(user.display_name.as_ref()),
        locale: user.locale.as_ref().map(|locale| locale.as_str().to_owned()).unwrap_or_default(),
        external_id: text(user.external_id.as_ref()),
        labels: user.labels.as_map().clone(),
        roles: user.roles.iter().map(ToString::to_string).collect(),
        state: state(user.state(now)).into(),
        lock: user.lock(now).map(lock),
        throttle: user.throttle(now).map(|throttle| v1::SignInThrottle {
            failures: count(throttle.failures),
            until_time: throttle.until.map(stamp),
            includes_familiar_places: throttle.includes_familiar(now),
        }),
        password_status: Some(password_status(app, user, now)),
        second_factor_status: Some(code::status(user, now)),
        email_verified: user.email_verified_at.is_some(),
        pending_link: user.pending_link(now).map(pending_link),
        flags: user.flags(now).into_iter().map(|known| flag(known).into()).collect(),
        create_time: Some(stamp(user.created_at)),
        update_time: Some(stamp(user.updated_at)),
        last_sign_in_time: user.last_sign_in_at.map(stamp),
        etag: user.etag().to_string(),
        sign_in_ability: Some(ability(user.sign_in_ability(now))),
    }
}

fn ability(ability: SignInAbility) -> v1::SignInAbility {
    let kind = match ability.kind {
        AbilityKind::Yes => v1::SignInAbilityKind::Yes,
        AbilityKind::YesThen => v1::SignInAbilityKind::YesThen,
        AbilityKind::NotUntil => v1::SignInAbilityKind::NotUntil,
        AbilityKind::No => v1::SignInAbilityKind::No,
    };
    let reason = match ability.concern {
        None => v1::SignInAbilityReason::Unspecified,
        Some(Concern::LockedWithoutEnd | Concern::LockedWithEnd) => v1::SignInAbilityReason::Locked,
        Some(Concern::TemporaryPasswordExpired) => v1::SignInAbilityReason::TemporaryPasswordExpired,
        Some(Concern::PasswordEnded) => v1::SignInAbilityReason::PasswordEnded,
        Some(Concern::Pending) => v1::SignInAbilityReason::Pending,
        Some(Concern::Throttled) => v1::SignInAbilityReason::Throttled,
        Some(Concern::TemporaryPassword) => v1::SignInAbilityReason::PasswordTemporary,
        Some(Concern::ChangeRequired) => v1::SignInAbilityReason::ChangeRequired,
        Some(Concern::PasswordExpired) => v1::SignInAbilityReason::PasswordExpired,
    };
    let next_method = ability.concern.and_then(Concern::remedy).map(remedy_method).unwrap_or_default();
    v1::SignInAbility {
        kind: kind.into(),
        reason: reason.into(),
        until_time: ability.until.map(stamp),
        next_method: next_method.to_owned(),
    }
}

/// Converts a remedy to the name of the method that does it.
pub(super) fn remedy_method(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Unlock => "latchkey.v1.UserAdmin/UnlockUser",
        Remedy::Lock => "latchkey.v1.UserAdmin/LockUser",
        Remedy::ResetPassword => "latchkey.v1.UserAdmin/ResetPassword",
        Remedy::CompletePasswordChange => "latchkey.v1.Auth/CompletePasswordChange",
        Remedy::CreateApiToken => "latchkey.v1.UserAdmin/CreateApiToken",
        Remedy::CreateUser => "latchkey.v1.UserAdmin/CreateUser",
        Remedy::DeleteUser => "latchkey.v1.UserAdmin/DeleteUser",
        Remedy::ResendDelivery => "latchkey.v1.UserAdmin/ResendDelivery",
        Remedy::ResetSecondFactor => "latchkey.v1.UserAdmin/ResetSecondFactor",
    }
}

/// Converts a failed sign-in to a message.
pub(in crate::grpc) fn failure(event: &RecordedEvent) -> v1::SignInFailure {
    v1::SignInFailure {
        time: Some(stamp(event.at)),
        reason: super::audit::reason(event.reason).into(),
        client_address: event.actor.client_address.clone(),
    }
}

fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn pending_link(link: &PendingLink) -> v1::PendingLink {
    v1::PendingLink {
        kind: link_kind(link.purpose).into(),
        expire_time: Some(stamp(link.expires_at)),
        delivery_id: text(link.delivery_id.as_ref()),
    }
}

/// Converts a lock to a message.
pub(in crate::grpc) fn lock(lock: &Lock) -> v1::UserLock {
    v1::UserLock {
        cause: lock_cause(lock.cause).into(),
        note: lock.note.clone(),
        lock_time: Some(stamp(lock.locked_at)),
        expire_time: lock.expires_at.map(stamp),
        actor_id: lock.actor_id.clone(),
        actor_name: lock.actor_name.clone(),
    }
}

fn password_status(app: &App, user: &User, now: Timestamp) -> v1::PasswordStatus {
    let cause = user.change_cause(now);
    let password = user.password.as_ref();
    v1::PasswordStatus {
        password_set: password.is_some(),
        change_time: password.map(|password| stamp(password.changed_at)),
        temporary_expire_time: password.and_then(|password| password.expires_at).map(stamp),
        change_required: cause.is_some(),
        change_cause: cause.map_or(v1::PasswordChangeCause::Unspecified, change_cause).into(),
        scheme: password.map(|password| password.method.algorithm().to_owned()).unwrap_or_default(),
        rehash_pending: password.is_some_and(|password| app.is_rehash_pending(password)),
        expire_time: user.password_expires_at().map(stamp),
        end_time: user.password_ended_at.filter(|_| user.has_ended_password()).map(stamp),
    }
}

fn kind(kind: UserKind) -> v1::UserKind {
    match kind {
        UserKind::Person => v1::UserKind::Person,
        UserKind::Service => v1::UserKind::Service,
    }
}

fn state(state: UserState) -> v1::UserState {
    match state {
        UserState::Pending => v1::UserState::Pending,
        UserState::Active => v1::UserState::Active,
        UserState::Locked => v1::UserState::Locked,
    }
}

fn lock_cause(cause: LockCause) -> v1::LockCause {
    match cause {
        LockCause::Compromise => v1::LockCause::Compromise,
        LockCause::Deactivated => v1::LockCause::Deactivated,
        LockCause::Operator => v1::LockCause::Operator,
        LockCause::Inactivity => v1::LockCause::Inactivity,
        LockCause::FailedSignIns => v1::LockCause::FailedSignIns,
    }
}

fn flag(flag: UserFlag) -> v1::UserFlag {
    match flag {
        UserFlag::MustChange => v1::UserFlag::MustChange,
        UserFlag::TemporaryPassword => v1::UserFlag::TemporaryPassword,
        UserFlag::LinkPending => v1::UserFlag::LinkPending,
        UserFlag::MailFailed => v1::UserFlag::MailFailed,
        UserFlag::EmailUnverified => v1::UserFlag::EmailUnverified,
        UserFlag::Throttled => v1::UserFlag::Throttled,
        UserFlag::NeverSignedIn => v1::UserFlag::NeverSignedIn,
        UserFlag::SecondFactorMissing => v1::UserFlag::SecondFactorMissing,
        UserFlag::PasswordExpired => v1::UserFlag::PasswordExpired,
    }
}

/// Converts the cause of a required password change.
pub(super) fn change_cause(cause: ChangeCause) -> v1::PasswordChangeCause {
    match cause {
        ChangeCause::Temporary => v1::PasswordChangeCause::Temporary,
        ChangeCause::Breached => v1::PasswordChangeCause::Breached,
        ChangeCause::Policy => v1::PasswordChangeCause::Policy,
        ChangeCause::Operator => v1::PasswordChangeCause::Operator,
        ChangeCause::Expired => v1::PasswordChangeCause::Expired,
    }
}

/// Converts the side effects of a change to a message.
pub(in crate::grpc) fn effects(effects: &Effects) -> v1::Effects {
    v1::Effects {
        sessions_revoked: count(effects.sessions_revoked),
        access_expire_time: effects.access_expires_at.map(|micros| stamp(Timestamp::from_micros(micros))),
        password_ended: effects.password_ended,
        links_revoked: count(effects.links_revoked),
        api_tokens_revoked: count(effects.api_tokens_revoked),
        throttle_cleared: effects.throttle_cleared,
        lock_lifted: effects.lock_lifted,
        reserve_expire_time: effects.reserve_expires_at.map(|micros| stamp(Timestamp::from_micros(micros))),
        api_tokens_narrowed: count(effects.api_tokens_narrowed),
        tickets_revoked: count(effects.tickets_revoked),
        devices_forgotten: effects.devices_forgotten,
        second_factors_removed: effects.second_factors_removed,
    }
}
