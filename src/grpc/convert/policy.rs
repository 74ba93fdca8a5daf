//! Requests and messages about the policy, and about the strength of passwords.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::auth::rules;
use super::{Wrong, bounded, duration_message, duration_of, each, etag, finish, instant, note, roles, stamp};
use crate::app::{
    BreachListInUse, CheckPasswordStrength, Expiries, Group, InactivityChange, Judged, MaxAgeChange, PolicyImpact,
    UpdateSignInPolicy,
};
use crate::domain::language::Language;
use crate::domain::lockout::ThrottleRules;
use crate::domain::password::{LengthBounds, PasswordRules, PlainPassword, RuleBroken};
use crate::domain::sign_in_policy::{PasswordRulesSet, PolicyPreset, SignInPolicy, ThrottleRulesSet, Warnings};
use crate::domain::time::{Timestamp, in_words};
use crate::domain::violation::{Fault, Violations};
use crate::error::Result;
use crate::proto::v1;

/// The maximum length of an etag in bytes.
const MAX_ETAG_BYTES: usize = 64;

/// The highest score of a password.
const MAX_SCORE: u32 = 4;

/// The longest time that users can be kept from changing a password.
const MAX_MIN_AGE: Duration = Duration::from_hours(30 * 24);

/// The shortest and the longest maximum age, and maximum inactivity: less would leave no time to choose a password or to sign in,
/// more has no effect.
const MIN_MAX_AGE: Duration = Duration::from_hours(24);
const MAX_MAX_AGE: Duration = Duration::from_hours(3650 * 24);

/// The longest roll-out and the first warning.
const YEAR: Duration = Duration::from_hours(365 * 24);

/// The last warning: mail may be late by as much.
const SOONEST_WARNING: Duration = Duration::from_hours(1);

/// Most words that a strength check takes, the length of each, and of a language tag, in bytes.
const MAX_USER_INPUTS: usize = 8;
const MAX_USER_INPUT_BYTES: usize = 256;
const MAX_LANGUAGE_BYTES: usize = 35;

pub(in crate::grpc) fn update_policy(message: v1::UpdateSignInPolicyRequest) -> Result<UpdateSignInPolicy> {
    let mut faults = Violations::new();
    let etag = etag(&mut faults, &message.etag);
    let note = note(&mut faults, &message.note);
    let preset = faults.check("preset", preset(message.preset));
    let policy = match preset {
        Some(Some(_)) => message.policy,
        _ => faults.require("policy", message.policy),
    };
    let policy = policy.unwrap_or_default();
    let throttle = throttle_set(&mut faults, &policy);
    // Ignored, since it is for output only, but limited like every field.
    bounded(&mut faults, "policy.etag", policy.etag, MAX_ETAG_BYTES);
    let names = policy.second_factor_roles.map(|roles| roles.names);
    let roles = match &names {
        Some(names) => roles(&mut faults, "policy.second_factor_roles.names", names).map(Some),
        None => Some(None),
    };
    let field = "policy.second_factor_required_from_time";
    let from = instant(&mut faults, field, policy.second_factor_required_from_time);
    if from.flatten().is_some_and(|from| from.as_micros() < 0) {
        faults.push(field, Fault::OutOfRange, "must not be before 1970");
    }
    let password_rules = rules_set(&mut faults, policy.password_rules.unwrap_or_default());
    let history = within(&mut faults, "policy.history_size", policy.history_size, 0, SignInPolicy::MAX_HISTORY);
    let min_age = min_age(&mut faults, policy.min_age);
    let max_age = max_age(&mut faults, "policy.max_age", policy.max_age);
    let max_inactivity = self::max_age(&mut faults, "policy.max_inactivity", policy.max_inactivity);
    let rollout = time(&mut faults, "policy.max_age_rollout", policy.max_age_rollout, &(Duration::ZERO..=YEAR));
    let warnings = warnings(&mut faults, "policy.expiry_warnings", policy.expiry_warnings);
    let inactivity_warnings = self::warnings(&mut faults, "policy.inactivity_warnings", policy.inactivity_warnings);
    finish(faults, || {
        Some(UpdateSignInPolicy {
            preset: preset?,
            second_factor_required: policy.second_factor_required,
            second_factor_roles: roles?,
            second_factor_from: from?,
            password_rules,
            password_history: history,
            password_min_age: min_age,
            password_max_age: MaxAgeChange { age: max_age, rollout, warnings: warnings? },
            inactivity: InactivityChange { max: max_inactivity, warnings: inactivity_warnings? },
            checks_breached: policy.check_breached_at_sign_in,
            judges_existing: policy.judge_existing,
            throttle,
            note: note?,
            etag: etag?,
            validate_only: message.validate_only,
        })
    })
}

fn rules_set(faults: &mut Violations, rules: v1::PasswordRules) -> PasswordRulesSet {
    let field = |name: &str| format!("policy.password_rules.{name}");
    let (min, smallest_max, max) = (LengthBounds::MIN, LengthBounds::MAX_AT_LEAST, LengthBounds::MAX);
    let score = within(faults, &field("min_score"), rules.min_score, 0, MAX_SCORE);
    PasswordRulesSet {
        min_length: within(faults, &field("min_length"), rules.min_length, min, smallest_max),
        max_length: within(faults, &field("max_length"), rules.max_length, smallest_max, max),
        min_score: score.and_then(|score| u8::try_from(score).ok()),
        reject_breached: rules.reject_breached,
        reject_user_info: rules.reject_user_info,
        require_letter_and_digit: rules.require_letter_and_digit,
    }
}

/// Returns a number that may be absent. One outside of the bounds adds a violation.
fn within(faults: &mut Violations, field: &str, number: Option<u32>, min: u32, max: u32) -> Option<u32> {
    if number.is_some_and(|number| !(min..=max).contains(&number)) {
        faults.push(field, Fault::OutOfRange, format!("must be between {min} and {max}"));
    }
    number
}

fn min_age(faults: &mut Violations, message: Option<prost_types::Duration>) -> Option<Duration> {
    let age = duration_of(message?).filter(|age| *age <= MAX_MIN_AGE);
    if age.is_none() {
        let fault = format!("must be between 0 and {}", limit(MAX_MIN_AGE));
        faults.push("policy.min_age", Fault::OutOfRange, fault);
    }
    age
}

fn preset(number: i32) -> std::result::Result<Option<PolicyPreset>, Wrong> {
    match v1::SignInPolicyPreset::try_from(number).map_err(|_| Wrong::Number)? {
        v1::SignInPolicyPreset::Unspecified => Ok(None),
        v1::SignInPolicyPreset::Nist => Ok(Some(PolicyPreset::Nist)),
        v1::SignInPolicyPreset::Pci => Ok(Some(PolicyPreset::Pci)),
    }
}

fn throttle_set(faults: &mut Violations, policy: &v1::SignInPolicy) -> ThrottleRulesSet {
    let (min, max) = ThrottleRules::THRESHOLD.into_inner();
    ThrottleRulesSet {
        threshold: within(faults, "policy.throttle_threshold", policy.throttle_threshold, min, max),
        initial: time(faults, "policy.throttle_initial", policy.throttle_initial, &ThrottleRules::INITIAL),
        max: time(faults, "policy.throttle_max", policy.throttle_max, &ThrottleRules::MAX),
        lockout_threshold: within(faults, "policy.lockout_threshold", policy.lockout_threshold, min, max),
        lockout_duration: time(
            faults,
            "policy.lockout_duration",
            policy.lockout_duration,
            &ThrottleRules::LOCKOUT_DURATION,
        ),
        failure_memory: time(faults, "policy.failure_memory", policy.failure_memory, &ThrottleRules::FAILURE_MEMORY),
    }
}

/// Returns a length of time that may be absent. One outside of the bounds adds a violation, and so does one that the database
/// cannot store: rounded down to zero, it would mean something else.
fn time(
    faults: &mut Violations,
    field: &str,
    message: Option<prost_types::Duration>,
    bounds: &RangeInclusive<Duration>,
) -> Option<Duration> {
    let time = duration_of(message?).filter(|time| bounds.contains(time));
    let is_storable = |time: &Duration| time.subsec_nanos().is_multiple_of(1000);
    match time {
        Some(time) if !is_storable(&time) => {
            faults.push(field, Fault::OutOfRange, "must be in whole microseconds");
        }
        Some(_) => {}
        None => {
            let (min, max) = (limit(*bounds.start()), limit(*bounds.end()));
            faults.push(field, Fault::OutOfRange, format!("must be between {min} and {max}"));
        }
    }
    time
}

fn limit(length: Duration) -> String {
    if length.is_zero() { "0".to_owned() } else { in_words(length) }
}

fn max_age(faults: &mut Violations, field: &str, message: Option<prost_types::Duration>) -> Option<Duration> {
    let age = duration_of(message?).filter(|age| age.is_zero() || (MIN_MAX_AGE..=MAX_MAX_AGE).contains(age));
    if age.is_none() {
        let (min, max) = (limit(MIN_MAX_AGE), limit(MAX_MAX_AGE));
        faults.push(field, Fault::OutOfRange, format!("must be 0, or between {min} and {max}"));
    }
    age
}

/// Returns warnings that may be absent. A wrong one adds a violation.
fn warnings(faults: &mut Violations, field: &str, message: Option<v1::ExpiryWarnings>) -> Option<Option<Warnings>> {
    let Some(v1::ExpiryWarnings { before }) = message else { return Some(None) };
    let field = &format!("{field}.before");
    if before.len() > Warnings::MAX {
        faults.push(field, Fault::TooMany, format!("at most {}", Warnings::MAX));
        return None;
    }
    let times: Vec<Option<Duration>> = before
        .iter()
        .enumerate()
        .map(|(index, before)| time(faults, &format!("{field}[{index}]"), Some(*before), &(SOONEST_WARNING..=YEAR)))
        .collect();
    times.into_iter().collect::<Option<_>>().map(|times| Some(Warnings::new(times)))
}

/// Converts the policy, with the rules that are in force.
pub(in crate::grpc) fn policy(
    policy: &SignInPolicy,
    password_rules: PasswordRules,
    throttle: ThrottleRules,
) -> v1::SignInPolicy {
    let names = policy.second_factor_roles.iter().map(ToString::to_string).collect();
    let max_age = &policy.password_max_age;
    let told = |warnings: &Warnings| v1::ExpiryWarnings {
        before: warnings.before().iter().copied().map(duration_message).collect(),
    };
    v1::SignInPolicy {
        password_rules: Some(rules(password_rules)),
        history_size: Some(policy.password_history),
        max_age: Some(duration_message(max_age.age)),
        max_age_rollout: Some(duration_message(max_age.rollout)),
        expiry_warnings: Some(told(&max_age.warnings)),
        max_inactivity: Some(duration_message(policy.inactivity.max)),
        inactivity_warnings: Some(told(&policy.inactivity.warnings)),
        min_age: Some(duration_message(policy.password_min_age)),
        throttle_threshold: Some(throttle.threshold),
        throttle_initial: Some(duration_message(throttle.initial)),
        throttle_max: Some(duration_message(throttle.max)),
        lockout_threshold: Some(throttle.lockout_threshold),
        lockout_duration: Some(duration_message(throttle.lockout_duration)),
        failure_memory: Some(duration_message(throttle.failure_memory)),
        check_breached_at_sign_in: Some(policy.checks_breached),
        judge_existing: Some(policy.judges_existing_since.is_some()),
        second_factor_required: Some(policy.second_factor_required),
        second_factor_roles: Some(v1::RoleNames { names }),
        second_factor_required_from_time: policy.second_factor_from.map(stamp),
        etag: policy.etag().to_string(),
    }
}

pub(in crate::grpc) fn impact(impact: PolicyImpact) -> v1::PolicyImpact {
    let has_max_age = impact.passwords.is_some();
    let passwords = impact.passwords.unwrap_or(Expiries { is_complete: true, ..Expiries::default() });
    v1::PolicyImpact {
        users: number(passwords.counted),
        passwords_expired: has_max_age.then(|| expiring(None, passwords.expired)),
        second_factors_missing: number(impact.second_factors_missing),
        passwords_unjudged: number(impact.unjudged),
        api_tokens_of_users_without_factor: number(impact.api_tokens),
        passwords_expiring: passwords.weeks.into_iter().map(|(begin, group)| expiring(Some(begin), group)).collect(),
        passwords_expiring_later: number(passwords.later),
        users_untold: number(passwords.untold),
        passwords_incomplete: !passwords.is_complete,
        inactive_locked: number(impact.inactive),
    }
}

fn number(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn expiring(begin: Option<Timestamp>, group: Group) -> v1::ExpiringPasswords {
    v1::ExpiringPasswords { begin_time: begin.map(stamp), users: number(group.users), usernames: group.usernames }
}

pub(in crate::grpc) fn breach_list(list: BreachListInUse) -> v1::BreachList {
    let size = i64::try_from(list.passwords).unwrap_or(i64::MAX);
    let problem = list.problem.unwrap_or_default();
    v1::BreachList { size, digest: list.digest, build_time: Some(stamp(list.built_at)), problem }
}

pub(in crate::grpc) fn check_strength(
    message: v1::CheckPasswordStrengthRequest,
) -> Result<(CheckPasswordStrength, Language)> {
    let mut faults = Violations::new();
    let language = bounded(&mut faults, "language", message.language, MAX_LANGUAGE_BYTES);
    let inputs = each(&mut faults, "user_inputs", &message.user_inputs, MAX_USER_INPUTS, |input| {
        let fits = input.len() <= MAX_USER_INPUT_BYTES;
        if fits { Ok(input.clone()) } else { Err(super::Wrong::TooLong { max_bytes: MAX_USER_INPUT_BYTES }) }
    });
    let password = PlainPassword::parse(message.password);
    if let Err(fault) = &password
        && *fault != crate::domain::password::PasswordFault::NotText
    {
        faults.push_error("password", fault);
    }
    finish(faults, || {
        let command = CheckPasswordStrength { password: password.ok(), user_inputs: inputs? };
        Some((command, Language::of_tag(&language?).unwrap_or_default()))
    })
}

pub(in crate::grpc) fn strength(judged: &Judged, language: Language) -> v1::CheckPasswordStrengthResponse {
    let hint = judged.strength.hint;
    let is_weak = judged.broken.iter().any(|broken| matches!(broken, RuleBroken::TooWeak { .. }));
    let advice = is_weak.then(|| hint.advice.text(language).to_owned());
    v1::CheckPasswordStrengthResponse {
        acceptable: judged.broken.is_empty(),
        score: u32::from(judged.strength.score),
        guesses_log10: judged.strength.guesses_log10,
        violations: judged.broken.iter().map(|broken| rule(*broken).into()).collect(),
        warning: hint.weakness.map(|weakness| weakness.text(language).to_owned()).unwrap_or_default(),
        suggestions: advice.into_iter().collect(),
    }
}

fn rule(broken: RuleBroken) -> v1::PasswordRule {
    match broken {
        RuleBroken::TooShort { .. } => v1::PasswordRule::TooShort,
        RuleBroken::TooLong { .. } => v1::PasswordRule::TooLong,
        RuleBroken::LetterAndDigit => v1::PasswordRule::LetterAndDigit,
        RuleBroken::UserInfo => v1::PasswordRule::ContainsUserInfo,
        RuleBroken::TooWeak { .. } => v1::PasswordRule::TooWeak,
        RuleBroken::Breached => v1::PasswordRule::Breached,
        RuleBroken::Reused => v1::PasswordRule::Reused,
        RuleBroken::NotText => v1::PasswordRule::NotText,
    }
}
