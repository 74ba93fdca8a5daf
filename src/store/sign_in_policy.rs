//! The policy of signing in: one row.

use std::ops::RangeInclusive;
use std::time::Duration;

use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryTrait, UpdateMany};

use super::WriteTx;
use super::entity::sign_in_policy::{self, Column};
use super::single::record;
use super::text::{Decoder, micros};
use crate::domain::lockout::ThrottleRules;
use crate::domain::role::Role;
use crate::domain::sign_in_policy::{
    Inactivity, PasswordMaxAge, PasswordRulesSet, SignInPolicy, ThrottleRulesSet, Warnings,
};
use crate::domain::time::Timestamp;
use crate::domain::user_policy::UserPolicy;
use crate::error::{Error, Resource, Result};

/// The id of the row.
const ID: i16 = 1;

/// Reads the policy.
pub async fn policy_read(c: &impl ConnectionTrait) -> Result<SignInPolicy> {
    read(c, false).await
}

/// Reads and locks the policy.
pub async fn policy_lock_row(c: &impl ConnectionTrait) -> Result<SignInPolicy> {
    read(c, true).await
}

async fn read(c: &impl ConnectionTrait, lock: bool) -> Result<SignInPolicy> {
    let mut select = sign_in_policy::Entity::find_by_id(ID);
    if lock {
        QueryTrait::query(&mut select).lock(LockType::Update);
    }
    let row: Option<sign_in_policy::Model> = record(c, Resource::Row, select).await?;
    let row = row.ok_or_else(|| Error::internal("the database has no policy"))?;
    let decoder = Decoder { resource: Resource::Row, id: "sign_in_policy", version: Some(row.version) };
    let time = |micros: i64| decoder.ok(u64::try_from(micros).map(Duration::from_micros));
    Ok(SignInPolicy {
        second_factor_required: row.second_factor_required != 0,
        second_factor_roles: decoder.some(roles_from(row.second_factor_roles.split_whitespace()))?,
        second_factor_from: decoder.instant_or_none(row.second_factor_from)?,
        password_rules: PasswordRulesSet {
            min_length: decoder.ok(row.password_min_length.map(u32::try_from).transpose())?,
            max_length: decoder.ok(row.password_max_length.map(u32::try_from).transpose())?,
            min_score: decoder.ok(row.password_min_score.map(u8::try_from).transpose())?,
            reject_breached: row.password_reject_breached.map(|switch| switch != 0),
            reject_user_info: row.password_reject_user_info.map(|switch| switch != 0),
            require_letter_and_digit: row.password_letter_and_digit.map(|switch| switch != 0),
        },
        password_history: decoder.ok(u32::try_from(row.password_history))?,
        password_min_age: time(row.password_min_age)?,
        password_max_age: PasswordMaxAge {
            age: time(row.password_max_age)?,
            set_at: decoder.instant(row.password_max_age_set_at)?,
            rollout: time(row.password_rollout)?,
            warnings: decoder.some(warnings_from(&row.password_warnings))?,
        },
        inactivity: Inactivity {
            max: time(row.max_inactivity)?,
            set_at: decoder.instant(row.max_inactivity_set_at)?,
            warnings: decoder.some(warnings_from(&row.inactivity_warnings))?,
        },
        checks_breached: row.password_check_breached != 0,
        judges_existing_since: decoder.instant_or_none(row.password_judged_since)?,
        throttle: throttle_of(&decoder, &row)?,
        version: row.version,
    })
}

/// Reads the numbers of throttle and lockout. Those out of their bounds make the row corrupt: they could turn a limit off.
fn throttle_of(decoder: &Decoder<'_>, row: &sign_in_policy::Model) -> Result<ThrottleRulesSet> {
    let number = |stored: Option<i16>| {
        let number = decoder.ok(stored.map(u32::try_from).transpose())?;
        within(decoder, number, &ThrottleRules::THRESHOLD)
    };
    let time = |stored: Option<i64>, bounds| {
        let micros = decoder.ok(stored.map(u64::try_from).transpose())?;
        within(decoder, micros.map(Duration::from_micros), &bounds)
    };
    Ok(ThrottleRulesSet {
        threshold: number(row.throttle_threshold)?,
        initial: time(row.throttle_initial, ThrottleRules::INITIAL)?,
        max: time(row.throttle_max, ThrottleRules::MAX)?,
        lockout_threshold: number(row.lockout_threshold)?,
        lockout_duration: time(row.lockout_duration, ThrottleRules::LOCKOUT_DURATION)?,
        failure_memory: time(row.failure_memory, ThrottleRules::FAILURE_MEMORY)?,
    })
}

fn within<T: PartialOrd>(decoder: &Decoder<'_>, value: Option<T>, bounds: &RangeInclusive<T>) -> Result<Option<T>> {
    match value {
        Some(value) if !bounds.contains(&value) => Err(decoder.corrupt()),
        value => Ok(value),
    }
}

/// Stores the policy, which was read and locked in this transaction, with its next version.
pub async fn policy_save(tx: &WriteTx, policy: &SignInPolicy) -> Result<()> {
    let roles: Vec<&str> = policy.second_factor_roles.iter().map(|role| role.as_str()).collect();
    let password = policy.password_rules;
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let time = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    let told = |warnings: &Warnings| {
        let times: Vec<String> = warnings.before().iter().map(|before| time(*before).to_string()).collect();
        times.join(",")
    };
    let max_age = &policy.password_max_age;
    let inactivity = &policy.inactivity;
    with_throttle(sign_in_policy::Entity::update_many(), policy.throttle)
        .col_expr(Column::Version, Expr::value(policy.version))
        .col_expr(Column::SecondFactorRequired, Expr::value(i16::from(policy.second_factor_required)))
        .col_expr(Column::SecondFactorRoles, Expr::value(roles.join(" ")))
        .col_expr(Column::SecondFactorFrom, Expr::value(micros(policy.second_factor_from)))
        .col_expr(Column::PasswordMinLength, Expr::value(password.min_length.map(number)))
        .col_expr(Column::PasswordMaxLength, Expr::value(password.max_length.map(number)))
        .col_expr(Column::PasswordMinScore, Expr::value(password.min_score.map(i16::from)))
        .col_expr(Column::PasswordRejectBreached, Expr::value(password.reject_breached.map(i16::from)))
        .col_expr(Column::PasswordRejectUserInfo, Expr::value(password.reject_user_info.map(i16::from)))
        .col_expr(Column::PasswordLetterAndDigit, Expr::value(password.require_letter_and_digit.map(i16::from)))
        .col_expr(Column::PasswordHistory, Expr::value(number(policy.password_history)))
        .col_expr(Column::PasswordMinAge, Expr::value(time(policy.password_min_age)))
        .col_expr(Column::PasswordMaxAge, Expr::value(time(max_age.age)))
        .col_expr(Column::PasswordMaxAgeSetAt, Expr::value(max_age.set_at.as_micros()))
        .col_expr(Column::PasswordRollout, Expr::value(time(max_age.rollout)))
        .col_expr(Column::PasswordWarnings, Expr::value(told(&max_age.warnings)))
        .col_expr(Column::MaxInactivity, Expr::value(time(inactivity.max)))
        .col_expr(Column::MaxInactivitySetAt, Expr::value(inactivity.set_at.as_micros()))
        .col_expr(Column::InactivityWarnings, Expr::value(told(&inactivity.warnings)))
        .col_expr(Column::PasswordCheckBreached, Expr::value(i16::from(policy.checks_breached)))
        .col_expr(Column::PasswordJudgedSince, Expr::value(micros(policy.judges_existing_since)))
        .filter(Column::Id.eq(ID))
        .exec(tx)
        .await?;
    failpoint!("store.policy_save");
    Ok(())
}

fn with_throttle(
    update: UpdateMany<sign_in_policy::Entity>,
    throttle: ThrottleRulesSet,
) -> UpdateMany<sign_in_policy::Entity> {
    let number = |number: Option<u32>| number.map(|number| i16::try_from(number).unwrap_or(i16::MAX));
    let time = |time: Option<Duration>| time.map(|time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    update
        .col_expr(Column::ThrottleThreshold, Expr::value(number(throttle.threshold)))
        .col_expr(Column::ThrottleInitial, Expr::value(time(throttle.initial)))
        .col_expr(Column::ThrottleMax, Expr::value(time(throttle.max)))
        .col_expr(Column::LockoutThreshold, Expr::value(number(throttle.lockout_threshold)))
        .col_expr(Column::LockoutDuration, Expr::value(time(throttle.lockout_duration)))
        .col_expr(Column::FailureMemory, Expr::value(time(throttle.failure_memory)))
}

/// Reads what the policy means for a user with these roles from the derived column of the account.
pub(super) fn policy_of(text: &str, roles: &[Role]) -> Option<UserPolicy> {
    let mut words = text.split_whitespace();
    let mut number = || words.next()?.parse::<i64>().ok();
    let (version, history, min_age) = (number()?, number()?, number()?);
    let (checks_breached, judged_since, required, from) = (number()?, number()?, number()?, number()?);
    let (max_age, max_age_set_at, rollout) = (number()?, number()?, number()?);
    let max_age_warnings = warnings_from(words.next()?.trim_start_matches('-'))?;
    let mut number = || words.next()?.parse::<i64>().ok();
    let (max_inactivity, max_inactivity_set_at) = (number()?, number()?);
    let inactivity_warnings = warnings_from(words.next()?.trim_start_matches('-'))?;
    let time = |micros: i64| u64::try_from(micros).map(Duration::from_micros).ok();
    let max_age = PasswordMaxAge {
        age: time(max_age)?,
        set_at: Timestamp::from_micros(max_age_set_at),
        rollout: time(rollout)?,
        warnings: max_age_warnings,
    };
    let inactivity = Inactivity {
        max: time(max_inactivity)?,
        set_at: Timestamp::from_micros(max_inactivity_set_at),
        warnings: inactivity_warnings,
    };
    let policy = SignInPolicy {
        second_factor_required: required != 0,
        second_factor_from: (from != 0).then(|| Timestamp::from_micros(from)),
        second_factor_roles: roles_from(words)?,
        judges_existing_since: (judged_since != 0).then(|| Timestamp::from_micros(judged_since)),
        password_max_age: max_age,
        version,
        ..SignInPolicy::default()
    };
    Some(UserPolicy {
        second_factor_from: policy.required_from(roles),
        password_history: u32::try_from(history).ok()?,
        password_min_age: time(min_age)?,
        password_max_age: policy.password_max_age.in_force(),
        judge_existing: policy.judge_existing(),
        max_inactivity: inactivity.in_force(),
        checks_breached: checks_breached != 0,
        version,
    })
}

fn warnings_from(text: &str) -> Option<Warnings> {
    let times = text.split(',').filter(|text| !text.is_empty());
    times.map(|text| text.parse().ok().map(Duration::from_micros)).collect::<Option<_>>().map(Warnings::new)
}

fn roles_from<'a>(names: impl Iterator<Item = &'a str>) -> Option<Vec<Role>> {
    names.map(Role::parse).collect()
}
