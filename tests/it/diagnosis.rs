//! `DiagnoseSignIn` says why a user cannot sign in, agrees with what a sign-in does, and changes nothing.

use std::time::Duration;

use latchkey::clock::Clock as _;
use latchkey::proto::v1::sign_in_finding::{Code, Severity};
use latchkey::proto::v1::{
    self, ErrorReason, LockCause, SignInAbilityKind as Kind, SignInAbilityReason, SignInFinding,
    SignInVerdict as Verdict, user_ref::Ref,
};
use tonic::Code as Status;

use crate::harness::actors::named;
use crate::harness::calls::Shown;
use crate::harness::factor::{recovery, totp};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, eventually, refused};
use crate::sign_in_ability::{
    Account, Credential, EXPIRY, LONG_LOCK, MINUTE, SHORT_LOCK, THROTTLE, every_state, server,
};

type Diagnosis = v1::DiagnoseSignInResponse;

async fn diagnose(client: &Client, user: &str, from: &str) -> Diagnosis {
    let request =
        v1::DiagnoseSignInRequest { user: Some(named(user)), client_address: from.to_owned(), ..Default::default() };
    client.user_admin().diagnose_sign_in(request).await.expect("a diagnosis").into_inner()
}

async fn diagnose_ref(client: &Client, reference: Ref) -> Diagnosis {
    let user = Some(v1::UserRef { r#ref: Some(reference) });
    let request = v1::DiagnoseSignInRequest { user, ..Default::default() };
    client.user_admin().diagnose_sign_in(request).await.expect("a diagnosis").into_inner()
}

/// The finding of this kind.
#[track_caller]
fn found(diagnosis: &Diagnosis, code: Code) -> &SignInFinding {
    let finding = diagnosis.findings.iter().find(|finding| finding.code() == code);
    finding.unwrap_or_else(|| panic!("no {code:?} in {diagnosis:#?}"))
}

fn codes(diagnosis: &Diagnosis) -> Vec<Code> {
    diagnosis.findings.iter().map(SignInFinding::code).collect()
}

fn blocks(finding: &SignInFinding) -> bool {
    finding.severity() == Severity::Blocking
}

/// The verdict that an answer to "can this user sign in?" leads to.
fn verdict_of(kind: Kind) -> Verdict {
    match kind {
        Kind::Yes => Verdict::Can,
        Kind::YesThen => Verdict::CanAfterSteps,
        Kind::NotUntil => Verdict::NotYet,
        Kind::No => Verdict::Cannot,
        Kind::Unspecified => Verdict::Unspecified,
    }
}

/// The kinds of findings that a reason for the answer leads to.
fn codes_of(reason: SignInAbilityReason) -> &'static [Code] {
    match reason {
        SignInAbilityReason::Unspecified => &[],
        SignInAbilityReason::Locked => &[Code::LockedByOperator],
        SignInAbilityReason::PasswordEnded => &[Code::ResetOutstanding],
        SignInAbilityReason::TemporaryPasswordExpired => &[Code::TemporaryPasswordExpired],
        SignInAbilityReason::Pending => &[Code::Pending],
        SignInAbilityReason::Throttled => &[Code::ThrottledAccount],
        SignInAbilityReason::PasswordTemporary | SignInAbilityReason::ChangeRequired => &[Code::PasswordChangeRequired],
        SignInAbilityReason::PasswordExpired => &[Code::PasswordExpired],
    }
}

/// Everything in the database that a call might change.
async fn contents(h: &Harness) -> Vec<Vec<String>> {
    let counted = ["audit_event", "event_count", "row_budget", "source_failure", "familiar_place", "session", "ticket"];
    let mut all = Vec::new();
    for table in counted {
        all.push(h.query(&format!("SELECT COUNT(*) FROM {table}")).await);
    }
    let rows = "id || ' ' || failures || ' ' || pending || ' ' || COALESCE(waits_until, 0) || ' ' || lease_expires_at";
    all.push(h.query(&format!("SELECT {rows} FROM throttle ORDER BY id")).await);
    let rows = "id || ' ' || version || ' ' || COALESCE(last_sign_in_at, 0)";
    all.push(h.query(&format!(r#"SELECT {rows} FROM "user" ORDER BY id"#)).await);
    all.push(h.query("SELECT source || ' ' || blocked_until FROM source_block ORDER BY source").await);
    all
}

#[tokio::test]
async fn the_verdict_agrees_with_the_account_and_with_a_sign_in_in_every_state() {
    let h = server().await;
    let accounts = every_state(&h).await;
    let (operator, stranger, start) = (h.operator().await, h.stranger().await, h.clock.now().as_micros());
    for minutes in [0, SHORT_LOCK, EXPIRY, THROTTLE, LONG_LOCK] {
        let at = start + minutes * MINUTE;
        h.clock.advance(Duration::from_micros(u64::try_from(at - h.clock.now().as_micros()).unwrap_or(0)));
        for account in &accounts {
            let diagnosis = diagnose(&operator, &account.name, "").await;
            let place = format!("{} after {minutes} minutes: {diagnosis:#?}", account.name);
            let user = operator.user(&account.name).await;
            let ability = user.sign_in_ability.as_ref().expect("an answer");
            assert_eq!(diagnosis.verdict(), verdict_of(ability.kind()), "{place}");
            assert_eq!(diagnosis.user.as_ref(), Some(&user), "{place}");
            let can = matches!(diagnosis.verdict(), Verdict::Can | Verdict::CanAfterSteps);
            assert_eq!(diagnosis.findings.iter().any(blocks), !can, "{place}");
            assert!(diagnosis.findings.is_sorted_by_key(|finding| -finding.severity), "{place}");
            let reasons = codes_of(ability.reason());
            let names_reason = codes(&diagnosis).iter().any(|code| reasons.contains(code));
            assert_eq!(names_reason, !reasons.is_empty(), "{place}");
            for finding in &diagnosis.findings {
                assert!(!finding.summary.is_empty() && !finding.remedy.is_empty(), "{place}");
            }
            let happens = account.tries(&stranger).await;
            assert_eq!(happens, if can { ability.kind() } else { Kind::No }, "{place}");
        }
    }
}

#[tokio::test]
async fn the_methods_of_the_blocking_findings_lead_to_a_sign_in() {
    let h = server().await;
    let accounts = every_state(&h).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    for Account { name, mut credential } in accounts {
        let before = diagnose(&operator, &name, "").await;
        let needs = |method: &str| before.findings.iter().any(|it| blocks(it) && it.remedy_method.ends_with(method));
        if needs("/UnlockUser") {
            operator.unlock(&name).await.expect("an unlock");
        }
        // A temporary password may have less time than the lock or the throttle.
        if needs("/ResetPassword") {
            let reset = operator.reset(&name).await.expect("a reset");
            assert!(reset.remaining.is_empty(), "{name}: {:?}", reset.remaining);
            credential = Credential::Password(reset.shown().to_owned());
        }
        let after = diagnose(&operator, &name, "").await;
        assert!(!after.findings.iter().any(blocks), "{name}: {before:#?} {after:#?}");
        let account = Account { name, credential };
        assert_eq!(verdict_of(account.tries(&stranger).await), after.verdict(), "{}: {after:#?}", account.name);
    }
}

#[tokio::test]
async fn a_diagnosis_changes_nothing() {
    let h = Harness::with(|config| config.throttle.source_failures = 6).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let viewer = h.person("viewer", &["viewer"]).await.client;
    h.user("bob").await;
    for login in ["bob", "bob", "bob", "bob", "bob", "nobody"] {
        stranger.sign_in(login, OTHER_PASSWORD).await.unwrap_err();
    }
    let before = contents(&h).await;
    for client in [&operator, &viewer] {
        for user in ["bob", "nobody", "viewer"] {
            for from in ["", "127.0.0.1", "2001:db8::1"] {
                diagnose(client, user, from).await;
            }
        }
    }
    assert_eq!(contents(&h).await, before);
}

#[tokio::test]
async fn a_blocked_address_is_found_with_its_cause_and_its_end() {
    let h = Harness::with(|config| {
        config.throttle.source_failures = 30;
        config.throttle.source_accounts = 0;
        config.throttle.unknown_names = 10_000_000;
    })
    .await;
    let (operator, office) = (h.operator().await, h.stranger_at("127.0.0.2").await);
    h.create("bob", &[], PASSWORD).await;
    office.tokens("bob", PASSWORD).await.expect("tokens");
    for number in 0..30 {
        office.sign_in(&format!("nobody{number}"), PASSWORD).await.unwrap_err();
    }
    refused(office.sign_in("bob", PASSWORD).await, Status::ResourceExhausted, "RATE_LIMITED");
    for same in ["127.0.0.2", "::ffff:127.0.0.2"] {
        let diagnosis = diagnose(&operator, "bob", same).await;
        assert_eq!(diagnosis.verdict(), Verdict::NotYet, "{diagnosis:#?}");
        let finding = found(&diagnosis, Code::ThrottledSource);
        assert!(blocks(finding) && finding.summary.contains("30 failed sign-ins under 30 names"), "{finding:?}");
        let [since, until] = [&finding.since_time, &finding.until_time].map(|at| at.as_ref().expect("a time"));
        assert_eq!((until.seconds - since.seconds, until.nanos), (900, since.nanos), "{finding:?}");
    }
    assert_eq!(diagnose(&operator, "bob", "127.0.0.3").await.verdict(), Verdict::Can, "another address");
    // The operator need not know the address: it is one that the user has signed in from.
    let anywhere = diagnose(&operator, "bob", "").await;
    assert_eq!(anywhere.verdict(), Verdict::Can, "{anywhere:#?}");
    let finding = found(&anywhere, Code::ThrottledSource);
    assert!(finding.severity() == Severity::Warning && finding.summary.contains("127.0.0.2"), "{finding:?}");
    let remaining = operator.reset("bob").await.expect("a reset").remaining;
    assert_eq!(remaining.iter().map(SignInFinding::code).collect::<Vec<_>>(), [Code::ThrottledSource]);
    h.clock.advance(Duration::from_mins(15));
    let later = diagnose(&operator, "bob", "127.0.0.2").await;
    assert_eq!((later.verdict(), codes(&later).contains(&Code::ThrottledSource)), (Verdict::CanAfterSteps, false));
}

#[tokio::test]
async fn a_temporary_password_that_expires_before_the_block_of_the_address_needs_help() {
    let h = Harness::with(|config| config.throttle.source_failures = 1).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    h.create("bob", &[], PASSWORD).await;
    operator.reset("bob").await.expect("a reset");
    stranger.sign_in("nobody", PASSWORD).await.unwrap_err();
    let soon = h.clock.now().as_micros() + MINUTE;
    assert_eq!(diagnose(&operator, "bob", "127.0.0.1").await.verdict(), Verdict::NotYet);
    h.sql(&format!(r#"UPDATE "user" SET password_expires_at = {soon} WHERE username = 'bob'"#)).await;
    assert_eq!(diagnose(&operator, "bob", "127.0.0.1").await.verdict(), Verdict::Cannot);
}

#[tokio::test]
async fn a_throttle_is_judged_by_the_place_of_the_user() {
    let h = Harness::with(|config| config.throttle.initial = Duration::from_hours(1)).await;
    let operator = h.operator().await;
    let [home, away, strange] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    h.create("bob", &[], PASSWORD).await;
    h.stranger_at(home).await.tokens("bob", PASSWORD).await.expect("a familiar place");
    for _ in 0..5 {
        h.stranger_at(strange).await.sign_in("bob", OTHER_PASSWORD).await.unwrap_err();
    }
    for (from, verdict, severity) in [
        ("", Verdict::NotYet, Severity::Blocking),
        (away, Verdict::NotYet, Severity::Blocking),
        (home, Verdict::Can, Severity::Info),
    ] {
        let diagnosis = diagnose(&operator, "bob", from).await;
        let finding = found(&diagnosis, Code::ThrottledAccount);
        assert_eq!((diagnosis.verdict(), finding.severity()), (verdict, severity), "from {from:?}: {diagnosis:#?}");
        assert!(finding.summary.contains("5 wrong passwords") && finding.until_time.is_some(), "{finding:?}");
    }
    refused(h.stranger_at(away).await.sign_in("bob", PASSWORD).await, Status::ResourceExhausted, "THROTTLED");
    h.stranger_at(home).await.tokens("bob", PASSWORD).await.expect("the owner at home");
    for _ in 0..5 {
        h.stranger_at(home).await.sign_in("bob", OTHER_PASSWORD).await.unwrap_err();
    }
    let at_home = diagnose(&operator, "bob", home).await;
    assert_eq!(at_home.verdict(), Verdict::NotYet, "{at_home:#?}");
    assert!(found(&at_home, Code::ThrottledAccount).summary.contains("where the user has signed in before"));
    refused(h.stranger_at(home).await.sign_in("bob", PASSWORD).await, Status::ResourceExhausted, "THROTTLED");
}

#[tokio::test]
async fn every_cause_of_a_lock_is_found_with_what_ends_it() {
    let h = Harness::with(|config| config.throttle.lockout_threshold = 5).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    for name in ["compromise", "deactivated", "operator", "failed"] {
        h.create(name, &[], PASSWORD).await;
    }
    for (name, cause) in [
        ("compromise", LockCause::Compromise),
        ("deactivated", LockCause::Deactivated),
        ("operator", LockCause::Operator),
    ] {
        let request = v1::LockUserRequest {
            user: Some(named(name)),
            cause: cause.into(),
            note: format!("why {name}"),
            ..Default::default()
        };
        operator.user_admin().lock_user(request).await.expect("a lock");
    }
    stranger.tokens("failed", PASSWORD).await.expect("a familiar place");
    while operator.user("failed").await.lock.is_none() {
        stranger.sign_in("failed", OTHER_PASSWORD).await.unwrap_err();
        h.clock.advance(Duration::from_hours(2));
    }
    for (name, expected) in [
        ("compromise", &[Code::LockedAsCompromised, Code::ResetOutstanding][..]),
        ("deactivated", &[Code::LockedAsDeactivated]),
        ("operator", &[Code::LockedByOperator]),
        ("failed", &[Code::LockedAfterFailures, Code::WrongPasswordLately]),
    ] {
        let diagnosis = diagnose(&operator, name, "").await;
        assert_eq!((diagnosis.verdict(), codes(&diagnosis)), (Verdict::Cannot, expected.to_vec()), "{diagnosis:#?}");
        let lock = &diagnosis.findings[0];
        assert!(lock.remedy_method.ends_with("/UnlockUser"), "{lock:?}");
        assert!(name == "failed" || lock.summary.ends_with(&format!("why {name}")), "{lock:?}");
    }
    // An unlock alone gives nobody in: the password has ended.
    operator.unlock("compromise").await.expect("an unlock");
    let unlocked = diagnose(&operator, "compromise", "").await;
    let finding = found(&unlocked, Code::ResetOutstanding);
    assert_eq!((unlocked.verdict(), codes(&unlocked)), (Verdict::Cannot, vec![Code::ResetOutstanding]));
    assert!(finding.remedy_method.ends_with("/ResetPassword") && finding.since_time.is_some(), "{finding:?}");
    operator.reset("compromise").await.expect("a reset");
    assert_eq!(diagnose(&operator, "compromise", "").await.verdict(), Verdict::CanAfterSteps);
}

#[tokio::test]
async fn an_unknown_name_leads_to_similar_ones_and_to_the_account_that_had_it() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let create = |username: &str, email: &str| v1::CreateUserRequest {
        username: username.to_owned(),
        email: email.to_owned(),
        ..Default::default()
    };
    let grace = operator.create(create("grace", "grace@example.org")).await.expect("a user").user.expect("a user");
    let gone = operator.create(create("linus", "linus@example.org")).await.expect("a user").user.expect("a user");
    let typo = diagnose(&operator, "grcae", "").await;
    assert_eq!((typo.verdict(), typo.user.is_none()), (Verdict::NoSuchUser, true));
    assert_eq!((typo.similar_usernames, typo.findings.len()), (vec!["grace".to_owned()], 0));
    let typo = diagnose_ref(&operator, Ref::Email("grace@exmaple.org".to_owned())).await;
    assert_eq!(typo.similar_usernames, ["grace"]);

    operator.delete("linus", &gone.etag).await.expect("a deletion");
    let by_every_name =
        [Ref::Username("linus".to_owned()), Ref::Email("linus@example.org".to_owned()), Ref::Id(gone.id.clone())];
    for reference in by_every_name {
        let diagnosis = diagnose_ref(&operator, reference).await;
        assert_eq!(diagnosis.verdict(), Verdict::NoSuchUser);
        let finding = found(&diagnosis, Code::UserDeleted);
        assert!(finding.since_time.is_some(), "{finding:?}");
    }
    let rename = v1::UpdateUserRequest {
        user: Some(named("grace")),
        username: Some("grace.hopper".to_owned()),
        email: Some("g@example.org".to_owned()),
        ..Default::default()
    };
    operator.update(rename).await.expect("another name");
    for reference in [Ref::Username("grace".to_owned()), Ref::Email("grace@example.org".to_owned())] {
        let diagnosis = diagnose_ref(&operator, reference).await;
        assert!(found(&diagnosis, Code::NameChanged).summary.contains("grace.hopper"), "{diagnosis:#?}");
    }
    // The audit log remembers longer than the reservation.
    h.sql("DELETE FROM username_reservation").await;
    found(&diagnose(&operator, "grace", "").await, Code::NameChanged);
    found(&diagnose(&operator, "linus", "").await, Code::UserDeleted);
    let known = diagnose_ref(&operator, Ref::Id(grace.id)).await;
    assert_eq!(known.user.expect("a user").username, "grace.hopper");
    let nobody = diagnose_ref(&operator, Ref::ExternalId("hr-1".to_owned())).await;
    assert_eq!((nobody.verdict(), nobody.findings.len()), (Verdict::NoSuchUser, 0));
}

/// The reasons of the attempts.
fn reasons(diagnosis: &Diagnosis) -> Vec<ErrorReason> {
    diagnosis.attempts.iter().map(v1::Event::reason).collect()
}

#[tokio::test]
async fn past_attempts_have_their_true_cause_for_callers_who_may_reset_the_password() {
    let h = Harness::start().await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let helpdesk = h.person("helpdesk", &["helpdesk"]).await.client;
    let viewer = h.person("viewer", &["viewer"]).await.client;
    h.create("root", &["admin"], PASSWORD).await;
    h.user("bob").await;
    h.clock.advance(Duration::from_secs(1));
    for name in ["bob", "root", "bbo"] {
        stranger.sign_in(name, OTHER_PASSWORD).await.unwrap_err();
    }
    let wrong = diagnose(&helpdesk, "bob", "").await;
    let finding = found(&wrong, Code::WrongPasswordLately);
    assert!(finding.summary.contains("1 wrong password") && finding.severity() == Severity::Warning, "{finding:?}");
    assert_eq!(reasons(&wrong), [ErrorReason::PasswordWrong, ErrorReason::Unspecified]);
    operator.reset("bob").await.expect("a reset");
    let reset = diagnose(&helpdesk, "bob", "").await;
    assert_eq!(found(&reset, Code::WrongPasswordLately).severity(), Severity::Info, "{reset:#?}");
    operator.lock("bob").await.expect("a lock");
    h.clock.advance(Duration::from_secs(1));
    stranger.sign_in("bob", PASSWORD).await.unwrap_err();
    let locked = diagnose(&helpdesk, "bob", "").await;
    assert_eq!(reasons(&locked)[..2], [ErrorReason::UserLocked, ErrorReason::PasswordWrong]);
    assert!(locked.attempts.iter().all(|event| event.actor.as_ref().expect("an actor").client_address == "127.0.0.1"));
    assert_eq!(reasons(&diagnose(&helpdesk, "bbo", "").await), [ErrorReason::UserNotFound], "under the mistyped name");

    for (client, user) in [(&viewer, "bob"), (&viewer, "bbo"), (&helpdesk, "root")] {
        let diagnosis = diagnose(client, user, "").await;
        assert!(diagnosis.attempts.is_empty() && !codes(&diagnosis).contains(&Code::WrongPasswordLately), "{user}");
    }
    assert_eq!(diagnose(&viewer, "bob", "").await.verdict(), Verdict::Cannot, "the rest is the same");
    assert_eq!(diagnose(&operator, "root", "").await.attempts.len(), 1);
    let request = v1::DiagnoseSignInRequest { user: Some(named("bob")), max_attempts: 1, ..Default::default() };
    let one = operator.user_admin().diagnose_sign_in(request).await.expect("a diagnosis").into_inner();
    assert_eq!(reasons(&one), [ErrorReason::UserLocked]);
    found(&one, Code::WrongPasswordLately);
    h.clock.advance(Duration::from_hours(25));
    assert!(!codes(&diagnose(&operator, "bob", "").await).contains(&Code::WrongPasswordLately));
}

#[tokio::test]
async fn what_the_account_does_not_show_is_found_too() {
    let h = Harness::with(|config| config.session.sign_ins_per_minute = 1).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    for name in ["often", "hash", "broken"] {
        h.create(name, &[], PASSWORD).await;
    }
    while stranger.sign_in("often", PASSWORD).await.is_ok() {}
    let often = diagnose(&operator, "often", "").await;
    let finding = found(&often, Code::SignInsLimited);
    assert!(often.verdict() == Verdict::NotYet && blocks(finding) && finding.until_time.is_some(), "{often:#?}");

    h.sql(r#"UPDATE "user" SET password_hash = '$scrypt$x$y$z$a' WHERE username = 'hash'"#).await;
    refused(stranger.sign_in("hash", PASSWORD).await, Status::Unauthenticated, "CREDENTIALS_REJECTED");
    let hash = diagnose(&operator, "hash", "").await;
    assert!(hash.verdict() == Verdict::Cannot && blocks(found(&hash, Code::HashUnsupported)), "{hash:#?}");

    h.sql(r#"UPDATE "user" SET roles = 'no-such-role' WHERE username = 'broken'"#).await;
    refused(stranger.sign_in("broken", PASSWORD).await, Status::Unauthenticated, "CREDENTIALS_REJECTED");
    let broken = diagnose(&operator, "broken", "").await;
    assert!(broken.verdict() == Verdict::Cannot && broken.user.is_none(), "{broken:#?}");
    assert!(found(&broken, Code::RecordCorrupt).remedy_method.ends_with("/DeleteUser"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_accepts_no_changes_is_found() {
    let h = Harness::start().await;
    if h.is_postgres() {
        return;
    }
    h.create("bob", &[], PASSWORD).await;
    let operator = h.operator().await;
    assert_eq!(diagnose(&operator, "bob", "").await.verdict(), Verdict::Can);
    let held = h.hold_database().await;
    let found = eventually("the finding", || async {
        let diagnosis = diagnose(&operator, "bob", "").await;
        (codes(&diagnosis) == [Code::ServerNotReady]).then_some(diagnosis)
    });
    let found = found.await;
    assert!(found.verdict() == Verdict::Cannot && found.findings.iter().all(blocks), "{found:#?}");
    held.release().await;
    let usable = || async { (diagnose(&operator, "bob", "").await.verdict() == Verdict::Can).then_some(()) };
    eventually("no finding", usable).await;
}

#[tokio::test]
async fn the_request_is_checked() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let wrong = [("office", 0), ("127.0.0.1/8", 0), ("127.0.0.1:80", 0), ("", -1)];
    for (client_address, max_attempts) in wrong {
        let client_address = client_address.to_owned();
        let request = v1::DiagnoseSignInRequest { user: Some(named("bob")), client_address, max_attempts };
        let answer = operator.user_admin().diagnose_sign_in(request).await;
        refused(answer.map(tonic::Response::into_inner), Status::InvalidArgument, "FIELD_INVALID");
    }
}

#[tokio::test]
async fn wrong_codes_of_a_second_factor_are_explained_down_to_the_clock_of_the_telephone() {
    let h = Harness::start().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let rejected = async |code: String| {
        let answer = stranger.sign_in_with("ada", PASSWORD, totp(&code)).await;
        refused(answer, Status::Unauthenticated, "SECOND_FACTOR_REJECTED");
    };
    assert!(!codes(&diagnose(&operator, "ada", "").await).contains(&Code::SecondFactorRejectedLately));

    rejected(factor.shows(&h, 10)).await;
    let diagnosis = diagnose(&operator, "ada", "").await;
    assert_eq!(diagnosis.verdict(), Verdict::Can);
    let wrong = found(&diagnosis, Code::SecondFactorRejectedLately);
    assert_eq!(wrong.severity(), Severity::Warning);
    assert_eq!(wrong.remedy_method, "latchkey.v1.UserAdmin/ResetSecondFactor");
    let skew = found(&diagnosis, Code::SecondFactorClockSkew);
    assert!(skew.summary.contains("300 s ahead"), "{skew:?}");

    let near: Vec<String> = (-25..=25).map(|steps| factor.shows(&h, steps)).collect();
    let wrong = (0..100).map(|number| format!("{number:06}")).find(|code| !near.contains(code)).expect("a code");
    for _ in 0..4 {
        rejected(wrong.clone()).await;
    }
    let diagnosis = diagnose(&operator, "ada", "").await;
    assert!(!codes(&diagnosis).contains(&Code::SecondFactorClockSkew), "the last code is right at no time near now");
    assert!(blocks(found(&diagnosis, Code::SecondFactorRejectedLately)));
    assert_eq!(diagnosis.verdict(), Verdict::NotYet);

    operator.unlock("ada").await.expect("an unlock");
    for code in &factor.recovery_codes {
        stranger.sign_in_with("ada", PASSWORD, recovery(code)).await.expect("a step");
    }
    let diagnosis = diagnose(&operator, "ada", "").await;
    assert_eq!(found(&diagnosis, Code::RecoveryCodesExhausted).severity(), Severity::Info);
}

#[tokio::test]
async fn a_second_factor_that_the_policy_asks_for_is_a_finding_before_and_after_its_date() {
    let h = Harness::start().await;
    let ada = h.user("ada").await;
    let operator = h.operator().await;
    let from = h.clock.now().saturating_add(Duration::from_mins(1)).as_unix_seconds();
    let policy = v1::SignInPolicy {
        second_factor_required: Some(true),
        second_factor_required_from_time: Some(prost_types::Timestamp { seconds: from, nanos: 0 }),
        ..Default::default()
    };
    let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
    operator.user_admin().update_sign_in_policy(request).await.expect("a policy");
    let before = diagnose(&operator, "ada", "").await;
    assert_eq!(before.verdict(), Verdict::Can);
    let finding = found(&before, Code::SecondFactorNotEnrolled);
    assert_eq!((finding.severity(), finding.until_time.is_some()), (Severity::Info, true), "{finding:?}");
    h.clock.advance(Duration::from_mins(1));
    let after = diagnose(&operator, "ada", "").await;
    assert_eq!(found(&after, Code::SecondFactorNotEnrolled).severity(), Severity::Warning);
    assert_eq!(after.verdict(), Verdict::CanAfterSteps);
    let ability = operator.user("ada").await.sign_in_ability.expect("an answer");
    assert_eq!(ability.kind(), Kind::Yes, "it does not consider the second factor");
    h.create("bob", &[], PASSWORD).await;
    operator.lock("bob").await.expect("a lock");
    assert_eq!(diagnose(&operator, "bob", "").await.verdict(), Verdict::Cannot, "what blocks counts more");
    h.enroll(&ada).await;
    let enrolled = diagnose(&operator, "ada", "").await;
    assert_eq!(enrolled.verdict(), Verdict::Can, "{enrolled:?}");
}
