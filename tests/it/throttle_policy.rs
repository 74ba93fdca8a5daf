//! The numbers of throttle and lockout that the policy sets: in force without a restart, on all replicas.

use std::time::Duration;

use latchkey::proto::v1::{self, EventType, LockCause, SignInAbilityKind, SignInPolicyPreset, UserState};
use tonic::Code;

use crate::cli::terminal;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Refusal, eventually, refused};

/// The first delay, longer than a test takes.
const FIRST: Duration = Duration::from_mins(2);

const REJECTED: &str = "CREDENTIALS_REJECTED";
const THROTTLED: &str = "THROTTLED";

impl Client {
    async fn policy_in_force(&self) -> v1::SignInPolicy {
        let request = v1::GetSignInPolicyRequest::default();
        let answer = self.user_admin().get_sign_in_policy(request).await.expect("a policy");
        answer.into_inner().policy.expect("a policy")
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the fields of the contract are optional")]
fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn thresholds(throttle: u32, lockout: u32) -> v1::SignInPolicy {
    v1::SignInPolicy { throttle_threshold: Some(throttle), lockout_threshold: Some(lockout), ..Default::default() }
}

/// Guesses one after the other. Returns the reasons of the answers.
async fn guess(client: &Client, login: &str, times: usize) -> Vec<String> {
    let mut reasons = Vec::new();
    for _ in 0..times {
        reasons.push(Refusal::of(&client.sign_in(login, OTHER_PASSWORD).await.expect_err("a refusal")).reason);
    }
    reasons
}

async fn with_bob() -> (Harness, Client, Client) {
    let h = Harness::with(|config| config.throttle.initial = FIRST).await;
    h.create("bob", &[], PASSWORD).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    (h, operator, stranger)
}

async fn events_of(operator: &Client, kind: EventType) -> Vec<v1::Event> {
    operator.events().await.into_iter().filter(|event| event.r#type() == kind).collect()
}

#[tokio::test]
async fn a_threshold_holds_at_once_and_on_other_replicas_for_known_and_unknown_names_alike() {
    let (h, operator, stranger) = with_bob().await;
    h.create("carl", &[], PASSWORD).await;
    let other = h.replica().await;
    let policy = operator.change_policy(thresholds(3, 100)).await.expect("a policy");
    assert_eq!((policy.throttle_threshold, policy.throttle_initial), (Some(3), seconds(120)));
    let expected = [REJECTED, REJECTED, REJECTED, THROTTLED];
    for login in ["bob", "nobody"] {
        assert_eq!(guess(&stranger, login, 4).await, expected, "{login}");
    }
    let throttle = operator.user("bob").await.throttle.expect("a throttle");
    assert_eq!(throttle.failures, 3);
    if let Some(other) = other {
        let stranger = other.stranger().await;
        let number = std::sync::atomic::AtomicU32::new(0);
        eventually("the threshold on the other replica", || async {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            (guess(&stranger, &format!("nobody{number}"), 4).await == expected).then_some(())
        })
        .await;
        for login in ["carl", "carla"] {
            assert_eq!(guess(&stranger, login, 4).await, expected, "{login}");
        }
        other.stop().await;
    }
    // A restart reads the policy before the first attempt.
    let h = h.restart().await;
    assert_eq!(guess(&h.stranger().await, "nobody-yet", 4).await, expected);
}

#[tokio::test]
async fn ten_failures_lock_for_half_an_hour_and_the_lock_ends_by_itself() {
    let (h, operator, stranger) = with_bob().await;
    h.create("carl", &[], PASSWORD).await;
    // Carl has signed in from here, so only his account is locked.
    stranger.tokens("carl", PASSWORD).await.expect("tokens");
    let policy = v1::SignInPolicy {
        throttle_initial: seconds(1),
        throttle_max: seconds(1),
        lockout_duration: seconds(1800),
        ..thresholds(5, 10)
    };
    operator.change_policy(policy).await.expect("a policy");
    for _ in 0..10 {
        for login in ["bob", "carl", "nobody"] {
            assert_eq!(guess(&stranger, login, 1).await, [REJECTED], "{login}");
        }
        h.clock.advance(Duration::from_secs(1));
    }
    let (bob, carl) = (operator.user("bob").await, operator.user("carl").await);
    assert_eq!(bob.sign_in_ability.expect("an answer").kind(), SignInAbilityKind::NotUntil);
    let lock = carl.lock.clone().expect("a lock");
    assert_eq!((carl.state(), lock.cause()), (UserState::Locked, LockCause::FailedSignIns));
    let (from, until) = (lock.lock_time.expect("a time"), lock.expire_time.expect("an end"));
    assert_eq!(until.seconds - from.seconds, 1800);
    for login in ["bob", "carl"] {
        refused(stranger.sign_in(login, PASSWORD).await, Code::Unauthenticated, REJECTED);
    }
    h.clock.advance(Duration::from_mins(30));
    for login in ["bob", "carl"] {
        stranger.tokens(login, PASSWORD).await.expect("the lock has ended");
    }
}

#[tokio::test]
async fn a_limit_that_is_turned_off_ends_what_it_began_and_can_be_turned_on_again() {
    let (_h, operator, stranger) = with_bob().await;
    for login in ["bob", "nobody"] {
        assert_eq!(guess(&stranger, login, 6).await.last().map(String::as_str), Some(THROTTLED), "{login}");
    }
    operator.change_policy(thresholds(0, 0)).await.expect("a policy");
    for login in ["bob", "nobody"] {
        assert_eq!(guess(&stranger, login, 12).await, [REJECTED; 12], "{login}");
    }
    stranger.tokens("bob", PASSWORD).await.expect("nothing waits");
    let ended = || async { (events_of(&operator, EventType::ThrottleEnded).await.len() == 1).then_some(()) };
    eventually("the end of the throttle, from a job", ended).await;
    assert_eq!(operator.user("bob").await.throttle, None);
    operator.change_policy(thresholds(2, 0)).await.expect("a policy");
    for login in ["bob@example.com", "carl"] {
        assert_eq!(guess(&stranger, login, 3).await, [REJECTED, REJECTED, THROTTLED], "{login}");
    }
}

#[tokio::test]
async fn a_policy_can_return_to_what_the_configuration_says() {
    let (_h, operator, stranger) = with_bob().await;
    let configured = operator.policy_in_force().await;
    assert_eq!((configured.throttle_threshold, configured.lockout_threshold), (Some(5), Some(100)));
    operator.change_policy(thresholds(2, 4)).await.expect("a policy");
    let returned = operator.change_policy(thresholds(5, 100)).await.expect("a policy");
    assert_eq!(v1::SignInPolicy { etag: configured.etag.clone(), ..returned }, configured);
    for login in ["bob", "nobody"] {
        assert_eq!(guess(&stranger, login, 6).await[4..], [REJECTED, THROTTLED], "{login}");
    }
}

#[tokio::test]
async fn a_number_out_of_its_bounds_is_refused_by_name() {
    let (_h, operator, _) = with_bob().await;
    let above = v1::SignInPolicy {
        throttle_initial: seconds(3601),
        throttle_max: seconds(86_401),
        lockout_duration: seconds(365 * 86_400 + 1),
        failure_memory: seconds(365 * 86_400 + 1),
        ..thresholds(101, 101)
    };
    let below = v1::SignInPolicy {
        throttle_initial: seconds(0),
        throttle_max: Some(prost_types::Duration { seconds: 0, nanos: 999_999_999 }),
        lockout_duration: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
        failure_memory: seconds(59),
        ..Default::default()
    };
    let thresholds = ["policy.throttle_threshold", "policy.lockout_threshold"];
    let times = ["policy.throttle_initial", "policy.throttle_max", "policy.lockout_duration", "policy.failure_memory"];
    for (policy, fields) in [(above, [&thresholds[..], &times].concat()), (below, times.to_vec())] {
        let refusal = refused(operator.change_policy(policy).await, Code::InvalidArgument, "FIELD_INVALID");
        let mut expected: Vec<String> = fields.iter().map(|field| format!("{field}: OUT_OF_RANGE")).collect();
        let mut violations = refusal.violations();
        expected.sort();
        violations.sort();
        assert_eq!(violations, expected);
    }
    let widest = v1::SignInPolicy {
        throttle_initial: seconds(3600),
        throttle_max: seconds(86_400),
        lockout_duration: seconds(365 * 86_400),
        failure_memory: seconds(365 * 86_400),
        ..Default::default()
    };
    operator.change_policy(widest.clone()).await.expect("a policy");
    let stored = operator.policy_in_force().await;
    assert_eq!((stored.throttle_initial, stored.throttle_max), (widest.throttle_initial, widest.throttle_max));
    assert_eq!((stored.lockout_duration, stored.failure_memory), (widest.lockout_duration, widest.failure_memory));
}

#[tokio::test]
async fn contradictions_of_policy_and_configuration_are_all_refused_at_once() {
    let h = Harness::with(|config| {
        config.throttle.initial = FIRST;
        config.throttle.lockout_threshold = 20;
    })
    .await;
    let operator = h.operator().await;
    let before = operator.policy_in_force().await;
    let (threshold, wait) = ("policy.lockout_threshold: CONFLICT", "policy.throttle_initial: CONFLICT");
    let memory = "policy.failure_memory: CONFLICT";
    let all = v1::SignInPolicy {
        throttle_initial: seconds(3600),
        throttle_max: seconds(1800),
        failure_memory: seconds(60),
        ..thresholds(9, 9)
    };
    for (policy, expected) in [
        (v1::SignInPolicy { throttle_threshold: Some(20), ..Default::default() }, vec![threshold]),
        (v1::SignInPolicy { lockout_threshold: Some(5), ..Default::default() }, vec![threshold]),
        (v1::SignInPolicy { throttle_max: seconds(60), ..Default::default() }, vec![wait]),
        (v1::SignInPolicy { failure_memory: seconds(3599), ..Default::default() }, vec![memory]),
        (all, vec![wait, memory, threshold]),
    ] {
        let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
        for validate_only in [true, false] {
            let request = v1::UpdateSignInPolicyRequest { validate_only, ..request.clone() };
            let answer = operator.user_admin().update_sign_in_policy(request).await;
            let refusal = refused(answer, Code::InvalidArgument, "FIELD_INVALID");
            assert_eq!(refusal.violations(), expected);
        }
    }
    assert_eq!(operator.policy_in_force().await, before);
    for goes_together in [thresholds(5, 6), thresholds(100, 0), thresholds(0, 1), thresholds(0, 0)] {
        operator.change_policy(goes_together).await.expect("a policy");
    }
}

#[tokio::test]
async fn a_configuration_that_contradicts_the_policy_prevents_no_other_change() {
    let mut h = Harness::start().await;
    let policy = v1::SignInPolicy { throttle_threshold: Some(8), ..Default::default() };
    h.operator().await.change_policy(policy).await.expect("a policy");
    h.config.throttle.lockout_threshold = 8;
    let h = h.restart().await;
    let operator = h.operator().await;
    let other = v1::SignInPolicy { history_size: Some(1), ..Default::default() };
    operator.change_policy(other).await.expect("it is not the fault of this change");
    let further = v1::SignInPolicy { throttle_initial: seconds(2), ..Default::default() };
    let refusal = refused(operator.change_policy(further).await, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(refusal.violations(), ["policy.lockout_threshold: CONFLICT"]);
}

#[tokio::test]
async fn a_broken_number_is_reported_and_leaves_the_configured_ones_in_force() {
    let (mut h, operator, _) = with_bob().await;
    operator.change_policy(thresholds(0, 0)).await.expect("a policy");
    for how in [
        "throttle_threshold = 101",
        "throttle_initial = 0",
        "throttle_max = -1",
        "lockout_threshold = -1",
        "lockout_duration = -1",
        "failure_memory = 1",
    ] {
        h.sql(&format!("UPDATE sign_in_policy SET {how}")).await;
        let operator = h.operator().await;
        let read = operator.user_admin().get_sign_in_policy(v1::GetSignInPolicyRequest::default()).await;
        assert_eq!(read.expect_err(how).code(), Code::DataLoss, "{how}");
        assert_eq!(operator.change_policy(thresholds(3, 9)).await.expect_err(how).code(), Code::DataLoss, "{how}");
        if how.starts_with("throttle_threshold") {
            h = h.restart().await;
            let stranger = h.stranger().await;
            stranger.tokens("bob", PASSWORD).await.expect("the numbers say nothing of who may sign in");
            assert_eq!(guess(&stranger, "nobody", 6).await[4..], [REJECTED, THROTTLED]);
        }
        let unset = how.split_once(' ').expect("a column").0;
        h.sql(&format!("UPDATE sign_in_policy SET {unset} = NULL")).await;
    }
    let policy = h.operator().await.change_policy(thresholds(3, 9)).await.expect("a policy");
    assert_eq!((policy.throttle_threshold, policy.lockout_threshold), (Some(3), Some(9)));
}

#[tokio::test]
async fn after_an_upgrade_the_numbers_are_as_configured_until_a_policy_sets_them() {
    let (mut h, operator, _) = with_bob().await;
    let before = operator.policy_in_force().await;
    h.halt().await;
    for column in [
        "throttle_threshold",
        "throttle_initial",
        "throttle_max",
        "lockout_threshold",
        "lockout_duration",
        "failure_memory",
    ] {
        h.sql(&format!("ALTER TABLE sign_in_policy DROP COLUMN {column}")).await;
    }
    h.sql("DELETE FROM seaql_migrations WHERE version = 'm0014_throttle_policy'").await;
    let h = h.resume().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    assert_eq!(operator.policy_in_force().await, before);
    assert_eq!(guess(&stranger, "nobody", 6).await[4..], [REJECTED, THROTTLED]);
    operator.change_policy(thresholds(2, 100)).await.expect("a policy");
    assert_eq!(guess(&stranger, "bob", 3).await, [REJECTED, REJECTED, THROTTLED]);
}

#[tokio::test]
async fn the_audit_log_has_the_numbers_before_and_after() {
    let (_h, operator, _) = with_bob().await;
    operator.change_policy(thresholds(3, 9)).await.expect("a policy");
    let policy = v1::SignInPolicy {
        throttle_initial: seconds(90),
        throttle_max: seconds(7200),
        lockout_duration: seconds(1800),
        failure_memory: seconds(86_400),
        ..Default::default()
    };
    operator.change_policy(policy).await.expect("a policy");
    let forever = v1::SignInPolicy { lockout_duration: seconds(0), ..Default::default() };
    operator.change_policy(forever).await.expect("a policy");
    let events = events_of(&operator, EventType::PolicyUpdated).await;
    let told: Vec<_> = events.iter().map(|event| (&*event.details["before"], &*event.details["after"])).collect();
    let thresholds = "second factor: none; throttle after: 3; lock after: 9";
    let all = |lock: &str| {
        format!(
            "second factor: none; throttle after: 3; first wait: 90s; longest wait: 2h; lock after: 9; \
             lock for: {lock}; forget after: 24h"
        )
    };
    let (ends, stays) = (all("30m"), all("until unlocked"));
    let expected = [("second factor: none", thresholds), (thresholds, &ends), (&ends, &stays)];
    assert_eq!(told, expected);
}

async fn preset(operator: &Client, preset: SignInPolicyPreset, policy: Option<v1::SignInPolicy>) -> v1::SignInPolicy {
    let request = v1::UpdateSignInPolicyRequest { policy, preset: preset.into(), ..Default::default() };
    let answer = operator.user_admin().update_sign_in_policy(request).await.expect("a policy");
    answer.into_inner().policy.expect("a policy")
}

#[tokio::test]
async fn the_preset_nist_is_what_a_server_does_by_default() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let default = operator.policy_in_force().await;
    let other = v1::SignInPolicy {
        password_rules: Some(v1::PasswordRules {
            min_length: Some(12),
            reject_breached: Some(false),
            reject_user_info: Some(false),
            require_letter_and_digit: Some(true),
            ..Default::default()
        }),
        history_size: Some(4),
        min_age: seconds(86_400),
        throttle_initial: seconds(7),
        throttle_max: seconds(70),
        lockout_duration: seconds(700),
        failure_memory: seconds(7000),
        ..thresholds(7, 77)
    };
    operator.change_policy(other).await.expect("a policy");
    let nist = preset(&operator, SignInPolicyPreset::Nist, None).await;
    assert_eq!(v1::SignInPolicy { etag: default.etag.clone(), ..nist }, default);
}

#[tokio::test]
async fn a_preset_comes_first_and_the_fields_of_the_policy_after_it() {
    // The numbers of the configuration must not contradict those of a preset.
    let h = Harness::with(|config| config.throttle.threshold = 50).await;
    let operator = h.operator().await;
    let before = operator.policy_in_force().await;
    let pci = preset(&operator, SignInPolicyPreset::Pci, None).await;
    let rules = pci.password_rules.expect("rules");
    assert_eq!((rules.min_length, rules.require_letter_and_digit), (Some(12), Some(true)));
    assert_eq!(rules.max_length, before.password_rules.expect("rules").max_length, "PCI DSS does not say");
    assert_eq!((pci.max_age, pci.expiry_warnings.expect("warnings").before.len()), (seconds(90 * 86_400), 1));
    assert_eq!((pci.history_size, pci.lockout_threshold, pci.lockout_duration), (Some(4), Some(10), seconds(1800)));
    assert_eq!((pci.throttle_threshold, pci.throttle_initial, pci.throttle_max), (Some(5), seconds(5), seconds(3600)));

    let mixed = preset(&operator, SignInPolicyPreset::Pci, Some(thresholds(3, 6))).await;
    assert_eq!((mixed.throttle_threshold, mixed.lockout_threshold, mixed.history_size), (Some(3), Some(6), Some(4)));
    let events = events_of(&operator, EventType::PolicyUpdated).await;
    let last = events.last().expect("an event");
    assert!(last.details["before"].contains("lock after: 10; lock for: 30m"), "{last:?}");
    let after = "history: 4; max age: 90 days, rolled out in 30 days, warned 14 days before; \
        max inactivity: 90 days, warned 14 days before; throttle after: 3;";
    assert!(last.details["after"].contains(after), "{last:?}");

    for (number, policy, expected) in
        [(0, None, "policy: REQUIRED"), (7, Some(v1::SignInPolicy::default()), "preset: UNKNOWN")]
    {
        let request = v1::UpdateSignInPolicyRequest { policy, preset: number, ..Default::default() };
        let answer = operator.user_admin().update_sign_in_policy(request).await;
        assert_eq!(refused(answer, Code::InvalidArgument, "FIELD_INVALID").violations(), [expected]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_sets_the_numbers_and_shows_them() {
    let h = Harness::start().await;
    let shell = terminal(&h);
    let shown = shell.latchkey(&["--local", "policy", "show"]).good();
    for line in [
        "throttle       after 5 wrong passwords: 5 s, doubling to 1 h; forgotten after 24 h\n",
        "lock           after 100 wrong passwords, until unlocked or reset\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let set = |options: &[&str]| shell.latchkey(&[&["--local", "policy", "set", "--yes"], options].concat());
    let numbers = ["--throttle-after", "3", "--first-wait", "90s", "--longest-wait", "2h", "--lock-after", "9"];
    let rest = ["--lock-for", "30m", "--forget-after", "7d"];
    let shown = set(&[&numbers[..], &rest].concat()).good();
    for line in [
        "throttle       after 3 wrong passwords: 90 s, doubling to 2 h; forgotten after 7 d\n",
        "lock           after 9 wrong passwords, for 30 m\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let shown = set(&["--preset", "pci", "--lock-for", "ever"]).good();
    assert!(shown.contains("passwords      12 to 256 characters"), "{shown}");
    assert!(shown.contains("lock           after 10 wrong passwords, until unlocked or reset\n"), "{shown}");
    let shown = set(&["--throttle-after", "0", "--lock-after", "0"]).good();
    assert!(shown.contains("throttle       no wait after wrong passwords; forgotten after 24 h\n"), "{shown}");
    assert!(shown.contains("lock           not by wrong passwords\n"), "{shown}");
    assert_eq!(set(&["--preset", "iso"]).code, 2);
    assert_eq!(set(&[]).code, 2);
}
