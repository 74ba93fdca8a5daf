//! `latchkey policy`: what the server asks of everybody who signs in.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use prost_types::Timestamp;

use super::policy_report::{
    Report, expiring, inactive as would_be_locked, missing, passwords as expire, unjudged as not_judged,
};
use crate::cli::args::{Confirmation, duration, enum_parser, number, wire_duration};
use crate::cli::error::Error;
use crate::cli::output::Screen;
use crate::cli::output::time::{instant, length, stamp};
use crate::cli::output::words::count;
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::proto::v1::{
    ExpiryWarnings, GetSignInPolicyRequest, PasswordRules, PolicyImpact, RoleNames, SignInPolicy,
    UpdateSignInPolicyRequest,
};

/// The default of `SignInPolicy.max_age_rollout`, in seconds, as the contract says.
const ROLLOUT: i64 = 30 * 86_400;

const GROUP_HELP: &str = "\
Examples:
  latchkey policy show
  latchkey policy preview --second-factor all
  latchkey policy set --second-factor operator,admin --from 2027-01-01
  latchkey policy set --lock-after 10 --lock-for 30m
  latchkey policy report";

/// See and change what the server asks of everybody who signs in.
#[derive(Debug, Subcommand)]
#[command(after_help = GROUP_HELP)]
pub(crate) enum Policy {
    Show(Show),
    Preview(Preview),
    Set(Set),
    Report(Report),
}

impl Policy {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Policy::Show(_) => {
                let request = GetSignInPolicyRequest { include_impact: true };
                cli.answer(request, |screen, answer| show(screen, answer.policy, answer.impact)).await
            }
            Policy::Preview(preview) => {
                let request = preview.change.request(cli)?;
                let request = UpdateSignInPolicyRequest { validate_only: true, ..request };
                cli.answer(request, |screen, answer| {
                    screen.note("Nothing was changed. The policy would be:");
                    let impact = answer.impact.clone().unwrap_or_default();
                    show(screen, answer.policy, answer.impact)?;
                    expiring(screen, &impact)
                })
                .await
            }
            Policy::Set(set) => set.run(cli).await,
            Policy::Report(report) => report.run(cli).await,
        }
    }
}

const SHOW_HELP: &str = "\
Examples:
  latchkey policy show
  latchkey policy show --output json | jq .policy";

/// Show the policy, and for whom it means something.
#[derive(Debug, Args)]
#[command(after_help = SHOW_HELP)]
pub(crate) struct Show {}

/// What to change.
#[derive(Debug, Args)]
struct Change {
    /// The users to ask: `all`, `none`, or roles.
    #[arg(long, help_heading = "Second factor", value_name = "WHOM", value_delimiter = ',')]
    second_factor: Vec<String>,
    /// From when on: `2027-01-01`, `7d` or `now`.
    #[arg(long, help_heading = "Second factor", value_name = "TIME")]
    from: Option<String>,
    /// Shortest password, in characters: 8 to 64.
    #[arg(long, help_heading = "New passwords", value_name = "N", value_parser = number)]
    min_length: Option<u32>,
    /// Longest password, in characters: 64 to 256.
    #[arg(long, help_heading = "New passwords", value_name = "N", value_parser = number)]
    max_length: Option<u32>,
    /// Lowest strength: 0 to 4 (`password check`).
    #[arg(long, help_heading = "New passwords", value_name = "N", value_parser = number)]
    min_score: Option<u32>,
    /// Refuse leaked passwords (needs a list).
    #[arg(long, help_heading = "New passwords", value_name = "on|off", hide_possible_values = true)]
    reject_leaked: Option<Switch>,
    /// Have leaked ones changed at sign-in, too.
    #[arg(long, help_heading = "New passwords", value_name = "on|off", hide_possible_values = true)]
    leaked_at_sign_in: Option<Switch>,
    /// Judge those of today at sign-in, too.
    #[arg(long, help_heading = "New passwords", value_name = "on|off", hide_possible_values = true)]
    judge_existing: Option<Switch>,
    /// Refuse little more than the user's names.
    #[arg(long, help_heading = "New passwords", value_name = "on|off", hide_possible_values = true)]
    reject_names: Option<Switch>,
    /// Ask for a letter and a digit (PCI DSS 8.3.6).
    #[arg(long, help_heading = "New passwords", value_name = "on|off", hide_possible_values = true)]
    letter_and_digit: Option<Switch>,
    /// Old ones to refuse besides the last: 0 to 10.
    #[arg(long, help_heading = "New passwords", value_name = "N", value_parser = number)]
    history: Option<u32>,
    /// Time between changes, such as `1d`, or `0`.
    #[arg(long, help_heading = "New passwords", value_name = "TIME", value_parser = age)]
    min_age: Option<Duration>,
    /// Age at which passwords must be changed, such as `90d`; `0` for never.
    #[arg(long, help_heading = "Passwords that expire", value_name = "TIME", value_parser = age)]
    max_age: Option<Duration>,
    /// Time over which passwords of today expire, such as `30d`.
    #[arg(long, help_heading = "Passwords that expire", value_name = "TIME", value_parser = age)]
    rollout: Option<Duration>,
    /// How long before users are told, such as `14d,3d`; or `none`.
    #[arg(long, help_heading = "Passwords that expire", value_name = "TIMES", value_delimiter = ',', value_parser = warning)]
    warn: Vec<Option<Duration>>,
    /// Lock accounts unused for so long: `180d`.
    #[arg(long, help_heading = "Accounts that are not used", value_name = "TIME", value_parser = age)]
    max_inactivity: Option<Duration>,
    /// How long before users are told of it.
    #[arg(long, help_heading = "Accounts that are not used", value_name = "TIMES", value_delimiter = ',', value_parser = warning)]
    warn_inactive: Vec<Option<Duration>>,
    #[command(flatten)]
    throttle: ThrottleChange,
    /// Values of NIST SP 800-63B or PCI DSS first.
    #[arg(long, value_name = "nist|pci", hide_possible_values = true, value_parser = enum_parser("latchkey.v1.SignInPolicyPreset", "SIGN_IN_POLICY_PRESET_"))]
    preset: Option<i32>,
}

/// What to change of throttle and lockout.
#[derive(Debug, Args)]
struct ThrottleChange {
    /// Wrong passwords that lead to waits; 0: never.
    #[arg(long, help_heading = "Wrong passwords", value_name = "N", value_parser = number)]
    throttle_after: Option<u32>,
    /// First wait, such as `5s`; then it doubles.
    #[arg(long, help_heading = "Wrong passwords", value_name = "TIME", value_parser = duration)]
    first_wait: Option<Duration>,
    /// Longest wait, such as `1h`.
    #[arg(long, help_heading = "Wrong passwords", value_name = "TIME", value_parser = duration)]
    longest_wait: Option<Duration>,
    /// Wrong passwords that lock; 0: never.
    #[arg(long, help_heading = "Wrong passwords", value_name = "N", value_parser = number)]
    lock_after: Option<u32>,
    /// How long; `ever` is until it is unlocked.
    #[arg(long, help_heading = "Wrong passwords", value_name = "TIME|ever", value_parser = lock_time)]
    lock_for: Option<Duration>,
    /// When wrong passwords are forgotten: `24h`.
    #[arg(long, help_heading = "Wrong passwords", value_name = "TIME", value_parser = duration)]
    forget_after: Option<Duration>,
}

impl ThrottleChange {
    /// Adds the change to those of a policy.
    fn add_to(self, policy: SignInPolicy) -> SignInPolicy {
        SignInPolicy {
            throttle_threshold: self.throttle_after,
            throttle_initial: self.first_wait.map(wire_duration),
            throttle_max: self.longest_wait.map(wire_duration),
            lockout_threshold: self.lock_after,
            lockout_duration: self.lock_for.map(wire_duration),
            failure_memory: self.forget_after.map(wire_duration),
            ..policy
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Parses a length of time that may be zero.
fn age(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

/// Parses the time of a warning, or `none`.
fn warning(text: &str) -> Result<Option<Duration>, String> {
    if text == "none" { Ok(None) } else { duration(text).map(Some) }
}

/// Parses how long a lock lasts. Zero: until it is unlocked.
fn lock_time(text: &str) -> Result<Duration, String> {
    if text == "ever" { Ok(Duration::ZERO) } else { duration(text) }
}

fn warnings(times: &[Option<Duration>]) -> Option<ExpiryWarnings> {
    let before = times.iter().flatten().copied().map(wire_duration).collect();
    (!times.is_empty()).then_some(ExpiryWarnings { before })
}

impl Change {
    fn request(self, cli: &Cli) -> Result<UpdateSignInPolicyRequest, Error> {
        let preset = self.preset.unwrap_or_default();
        let policy = self.policy(cli)?;
        if preset == 0 && policy == SignInPolicy::default() {
            let hint = "`--second-factor WHOM`, `--min-length N` or another option of `--help`";
            return Err(Error::usage("say what to change").hint(hint));
        }
        Ok(UpdateSignInPolicyRequest { policy: Some(policy), preset, include_impact: true, ..Default::default() })
    }

    fn policy(self, cli: &Cli) -> Result<SignInPolicy, Error> {
        let whom: Vec<&str> = self.second_factor.iter().map(String::as_str).collect();
        let (required, roles) = match whom.as_slice() {
            [] => (None, None),
            ["all"] => (Some(true), Some(Vec::new())),
            ["none"] => (Some(false), Some(Vec::new())),
            _ => (Some(false), Some(self.second_factor.clone())),
        };
        let from = match self.from.as_deref() {
            None => None,
            // The server takes a time that has passed as at once.
            Some("now") => Some(Timestamp::default()),
            Some(text) => {
                let at = cli.screen.clock().parse_future(text);
                Some(stamp(at.map_err(|fault| Error::usage(format!("--from: {fault}")))?))
            }
        };
        let is_on = |switch: Option<Switch>| switch.map(|switch| switch == Switch::On);
        let password_rules = PasswordRules {
            min_length: self.min_length,
            max_length: self.max_length,
            min_score: self.min_score,
            reject_breached: is_on(self.reject_leaked),
            reject_user_info: is_on(self.reject_names),
            require_letter_and_digit: is_on(self.letter_and_digit),
        };
        Ok(self.throttle.add_to(SignInPolicy {
            password_rules: Some(password_rules).filter(|rules| *rules != PasswordRules::default()),
            history_size: self.history,
            max_age: self.max_age.map(wire_duration),
            max_age_rollout: self.rollout.map(wire_duration),
            expiry_warnings: warnings(&self.warn),
            max_inactivity: self.max_inactivity.map(wire_duration),
            inactivity_warnings: warnings(&self.warn_inactive),
            min_age: self.min_age.map(wire_duration),
            check_breached_at_sign_in: is_on(self.leaked_at_sign_in),
            judge_existing: is_on(self.judge_existing),
            second_factor_required: required,
            second_factor_roles: roles.map(|names| RoleNames { names }),
            second_factor_required_from_time: from,
            ..SignInPolicy::default()
        }))
    }
}

const PREVIEW_HELP: &str = "\
Examples:
  latchkey policy preview --max-age 90d --warn 14d,3d
  latchkey policy preview --max-inactivity 180d --warn-inactive 30d,7d";

/// Say what a change would mean, and change nothing.
#[derive(Debug, Args)]
#[command(after_help = PREVIEW_HELP)]
pub(crate) struct Preview {
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    confirmation: Confirmation,
}

const SET_HELP: &str = "\
Users who are asked for a second factor set one up at the next sign-in. Sessions
without one end at their next refresh. Rules for passwords are for new ones, unless
--judge-existing is on: then users change those that break them, over --rollout.

Examples:
  latchkey policy set --second-factor all --from 2027-01-01 --note \"decision 12\"
  latchkey policy set --preset pci --lock-after 6";

/// Change the policy.
#[derive(Debug, Args)]
#[command(after_help = SET_HELP)]
pub(crate) struct Set {
    #[command(flatten)]
    change: Change,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the policy still has this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Set {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = UpdateSignInPolicyRequest { note: self.note, etag: self.etag, ..self.change.request(cli)? };
        if cli.asks(self.confirmation.yes)? {
            let dry = cli.call(UpdateSignInPolicyRequest { validate_only: true, ..request.clone() }).await?;
            let (policy, impact) = (dry.policy.unwrap_or_default(), dry.impact.unwrap_or_default());
            let question = Question::new("Change the policy of signing in".to_owned())
                .row("second factor", format!("{}; {}", asks(&cli.screen, &policy), missing(&impact)))
                .row("passwords", passwords(&policy))
                .row("old passwords", existing(&policy, &impact))
                .row("changes", changes(&policy))
                .row("maximum age", max_age(&policy))
                .row("expiring", expire(&impact))
                .row("throttle", throttle(&policy))
                .row("lock", lock(&policy))
                .row("inactivity", inactivity(&policy, &impact));
            cli.confirm(question).await?;
        }
        cli.answer(request, |screen, answer| {
            let outcome = if answer.changed { "the policy is changed" } else { "the policy is as it was" };
            screen.done(outcome.to_owned())?;
            show(screen, answer.policy, answer.impact)
        })
        .await
    }
}

fn show(screen: &Screen, policy: Option<SignInPolicy>, impact: Option<PolicyImpact>) -> Result<(), Error> {
    let (policy, impact) = (policy.unwrap_or_default(), impact.unwrap_or_default());
    screen.fields([
        ("second factor", asks(screen, &policy).into()),
        ("missing", missing(&impact).into()),
        ("passwords", passwords(&policy).into()),
        ("old passwords", existing(&policy, &impact).into()),
        ("changes", changes(&policy).into()),
        ("maximum age", max_age(&policy).into()),
        ("expiring", impact.passwords_expired.as_ref().map(|_| expire(&impact)).unwrap_or_default().into()),
        ("throttle", throttle(&policy).into()),
        ("lock", lock(&policy).into()),
        ("inactivity", inactivity(&policy, &impact).into()),
        ("etag", policy.etag.as_str().into()),
    ])?;
    if impact.second_factors_missing > 0 {
        screen.next("latchkey mfa missing")?;
    }
    Ok(())
}

/// What makes a new password acceptable.
fn passwords(policy: &SignInPolicy) -> String {
    let rules = policy.password_rules.unwrap_or_default();
    let refused = [
        rules.reject_breached().then_some("leaked ones (with a list)"),
        rules.reject_user_info().then_some("names of the user"),
        rules.require_letter_and_digit().then_some("those without a letter or a digit"),
    ];
    let refused: Vec<&str> = refused.into_iter().flatten().collect();
    let refused = if refused.is_empty() { String::new() } else { format!("; refuses {}", refused.join(", ")) };
    format!(
        "{} to {} characters, strength {} of 4 or more{refused}",
        rules.min_length(),
        rules.max_length(),
        rules.min_score()
    )
}

/// What becomes of passwords that are older than the rules.
fn existing(policy: &SignInPolicy, impact: &PolicyImpact) -> String {
    let leaked = "changed at the next sign-in if leaked";
    let spread = match policy.max_age_rollout {
        Some(rollout) if rollout.seconds > 0 => format!(", spread over {}", whole(Some(rollout))),
        _ => String::new(),
    };
    let left = not_judged(impact).unwrap_or_else(|| "all are judged".to_owned());
    let judged = || format!("judged by these rules at a sign-in{spread}; {left}");
    match (policy.judge_existing(), policy.check_breached_at_sign_in()) {
        (false, false) => "kept: the rules are for new passwords".to_owned(),
        (false, true) => leaked.to_owned(),
        (true, false) => judged(),
        (true, true) => format!("{}; {leaked}", judged()),
    }
}

/// What a new password is compared with, and how soon it may follow.
fn changes(policy: &SignInPolicy) -> String {
    let old = match policy.history_size() {
        0 => "refuse the password of before".to_owned(),
        size => format!("refuse the password of before, and {} before it", count(size, "other")),
    };
    let seconds = policy.min_age.map_or(0, |age| age.seconds);
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => format!("{old}; at most one in {}", length(Duration::from_secs(seconds))),
        _ => old,
    }
}

/// When passwords expire, and when users are told.
fn max_age(policy: &SignInPolicy) -> String {
    let warnings = policy.expiry_warnings.as_ref();
    if is_zero(policy.max_age) {
        return format!("none: passwords do not expire{}", kept([kept_rollout(policy), kept_warnings(warnings)]));
    }
    format!("{}, {}; {}", whole(policy.max_age), rollout(policy), warned(warnings))
}

/// How passwords expire that are old when the maximum age is set.
fn rollout(policy: &SignInPolicy) -> String {
    match policy.max_age_rollout {
        Some(rollout) if rollout.seconds > 0 => format!("rolled out over {}", whole(Some(rollout))),
        _ => "rolled out at once".to_owned(),
    }
}

/// The roll-out if it is not the default one.
fn kept_rollout(policy: &SignInPolicy) -> Option<String> {
    policy.max_age_rollout.is_some_and(|time| time.seconds != ROLLOUT).then(|| rollout(policy))
}

fn kept_warnings(warnings: Option<&ExpiryWarnings>) -> Option<String> {
    warnings.is_some_and(|warnings| !warnings.before.is_empty()).then(|| warned(warnings))
}

/// What is set for a maximum that is off, in parentheses.
fn kept(set: impl IntoIterator<Item = Option<String>>) -> String {
    let set: Vec<String> = set.into_iter().flatten().collect();
    if set.is_empty() { String::new() } else { format!(" (kept: {})", set.join("; ")) }
}

/// When accounts are locked that are not used, when users are told, and how many that means.
fn inactivity(policy: &SignInPolicy, impact: &PolicyImpact) -> String {
    let warnings = policy.inactivity_warnings.as_ref();
    if is_zero(policy.max_inactivity) {
        return format!("accounts are not locked for it{}", kept([kept_warnings(warnings)]));
    }
    format!("locked after {}; {}; {}", whole(policy.max_inactivity), warned(warnings), would_be_locked(impact))
}

fn warned(warnings: Option<&ExpiryWarnings>) -> String {
    let before = warnings.map(|warnings| warnings.before.as_slice()).unwrap_or_default();
    let before: Vec<String> = before.iter().map(|before| whole(Some(*before))).collect();
    match before.as_slice() {
        [] => "users are not told before".to_owned(),
        before => format!("users are told {} before", before.join(" and ")),
    }
}

fn is_zero(time: Option<prost_types::Duration>) -> bool {
    time.is_none_or(|time| time.seconds == 0)
}

/// How long sign-ins wait after wrong passwords.
fn throttle(policy: &SignInPolicy) -> String {
    let memory = format!("forgotten after {}", whole(policy.failure_memory));
    match policy.throttle_threshold() {
        0 => format!("no wait after wrong passwords; {memory}"),
        failures => format!(
            "after {}: {}, doubling to {}; {memory}",
            count(failures, "wrong password"),
            whole(policy.throttle_initial),
            whole(policy.throttle_max)
        ),
    }
}

/// When wrong passwords lock an account, and for how long.
fn lock(policy: &SignInPolicy) -> String {
    let failures = match policy.lockout_threshold() {
        0 => return "not by wrong passwords".to_owned(),
        failures => count(failures, "wrong password"),
    };
    match policy.lockout_duration {
        Some(length) if length.seconds > 0 => format!("after {failures}, for {}", whole(Some(length))),
        _ => format!("after {failures}, until unlocked or reset"),
    }
}

/// A length of time as a whole number of the largest unit that fits: `90 m`.
fn whole(length: Option<prost_types::Duration>) -> String {
    let seconds = length.map_or(0, |length| length.seconds);
    let (unit, name) = match seconds {
        _ if seconds > 86_400 && seconds % 86_400 == 0 => (86_400, "d"),
        _ if seconds > 0 && seconds % 3600 == 0 => (3600, "h"),
        _ if seconds > 0 && seconds % 60 == 0 => (60, "m"),
        _ => (1, "s"),
    };
    format!("{} {name}", seconds / unit)
}

/// The users whom the policy asks for a second factor, and from when on.
fn asks(screen: &Screen, policy: &SignInPolicy) -> String {
    let roles = policy.second_factor_roles.clone().unwrap_or_default().names;
    let whom = match (policy.second_factor_required(), roles.is_empty()) {
        (true, _) => "of everybody".to_owned(),
        (false, true) => return "of no user; each may set one up".to_owned(),
        (false, false) => format!("of members of {}", roles.join(", ")),
    };
    match instant(policy.second_factor_required_from_time.as_ref()) {
        Some(from) => format!("{whom}, from {}", screen.clock().moment(from)),
        None => whom,
    }
}
