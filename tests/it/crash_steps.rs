//! Single faults at single failpoints: a kill during the creation of the database, a step that fails, a kill between
//! commit and answer. `crash_loop.rs` does the same at random.

use std::path::Path;

use latchkey::clock::{Clock as _, SystemClock};
use latchkey::domain::second_factor::TotpStep;
use latchkey::proto::v1::{self, UserState, create_user_request::Credential, reset_password_request::Method};
use tonic::{Code, Response, Status};

use crate::harness::actors::named;
use crate::harness::calls::Shown;
use crate::harness::child::{Site, Victim};
use crate::harness::factor::{Authenticator, recovery};
use crate::harness::{Client, OTHER_PASSWORD, PASSWORD, Refusal, refused};

const KEY: &str = "6f1d2c1e-0f3b-4c55-9a38-0d6bb1c6b4f7";

/// The failpoints in `src`, sorted by name; those named after a method begin with `.`.
pub fn places() -> Vec<String> {
    fn collect(dir: &Path, places: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, places);
            } else if !path.ends_with("src/failpoint.rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                places.extend(text.split("failpoint!(").skip(1).map(|rest| {
                    let (arguments, _) = rest.split_once(')').expect("an end");
                    let dot = if arguments.contains(',') { "." } else { "" };
                    format!("{dot}{}", arguments.split('"').nth(1).expect("a name"))
                }));
            }
        }
    }
    let mut places = Vec::new();
    collect(Path::new("src"), &mut places);
    places.sort();
    places
}

#[test]
fn the_table_in_contributing_lists_every_failpoint() {
    let text = std::fs::read_to_string("CONTRIBUTING.md").expect("CONTRIBUTING.md");
    let (_, section) = text.split_once("## Faults on demand").expect("the section");
    let rows = section.lines().skip_while(|line| !line.starts_with("| ---")).skip(1);
    let mut listed: Vec<String> = rows
        .take_while(|line| line.starts_with('|'))
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        .map(|name| name.trim_start_matches("METHOD").to_owned())
        .collect();
    listed.sort();
    assert_eq!(listed, places());
}

#[test]
fn no_release_build_has_failpoints() {
    let manifest = std::fs::read_to_string("Cargo.toml").expect("Cargo.toml");
    assert!(!manifest.contains("debug-assertions"), "a profile that turns them on or off decides about failpoints");
    let condition = r#"#[cfg(all(feature = "failpoints", debug_assertions))]"#;
    let module = std::fs::read_to_string("src/failpoint.rs").expect("the module");
    assert!(module.contains(&format!("{condition}\npub(crate) mod enabled")));
    let daemon = std::fs::read_to_string("src/daemon.rs").expect("the module");
    assert!(daemon.contains(&format!("{condition}\n    let _armed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_at_any_step_is_made_good_by_the_next() {
    for place in [
        "migrate.locked=return(kill)",
        "migrate.statement=return(kill)",
        "migrate.statement=7*off->return(kill)",
        "migrate.statement=20*off->return(kill)",
        "migrate.schema=return(kill)",
        "migrate.seal_key=return(kill)",
        "store.key_insert=return(kill)",
        "store.key_insert=1*off->return(kill)",
        "migrate.commit=return(kill)",
        "migrate.committed=return(kill)",
    ] {
        let site = Site::new().await;
        if place.starts_with("migrate.seal_key") && site.database.is_shared() {
            continue;
        }
        let ended = site.fail_to_start(place);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{place}");
        let server = site.start("").await;
        server.operator().await.create(with_password("bob")).await.expect(place);
        server.stranger().await.tokens("bob", PASSWORD).await.expect(place);
        assert_eq!(site.database.query("SELECT COUNT(*) FROM sealed_key").await, ["2"], "{place}");
    }
}

fn with_password(name: &str) -> v1::CreateUserRequest {
    v1::CreateUserRequest {
        username: name.to_owned(),
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    }
}

/// Everything that a change could leave behind, except reserved attempts.
async fn state(site: &Site) -> Vec<String> {
    let mut rows = Vec::new();
    for statement in [
        r#"SELECT id || version || COALESCE(password_hash, '') || COALESCE(password_ended_at, 0)
            || COALESCE(ended_password_hash, '') || COALESCE(devices_valid_after, 0) || COALESCE(lock_cause, 0)
            || change_demanded || roles || COALESCE(last_sign_in_at, 0) FROM "user" ORDER BY id"#,
        "SELECT id || generation || auth_at || COALESCE(ended_at, 0) FROM session ORDER BY id",
        "SELECT user_id || expires_at FROM sign_in_ticket ORDER BY user_id",
        "SELECT id || COALESCE(revoked_at, 0) FROM api_token ORDER BY id",
        "SELECT user_id || place FROM familiar_place ORDER BY user_id, place",
        "SELECT id || COALESCE(ended_at, 0) FROM link ORDER BY id",
        "SELECT id FROM delivery ORDER BY id",
        "SELECT user_id || last_step || failures || COALESCE(waits_until, 0) FROM totp ORDER BY user_id",
        "SELECT user_id FROM recovery_code ORDER BY user_id",
        "SELECT second_factor_roles || version || second_factor_required FROM sign_in_policy",
        "SELECT username FROM username_reservation ORDER BY username",
        "SELECT idempotency_key FROM idempotency_key ORDER BY idempotency_key",
        "SELECT id FROM audit_event ORDER BY id",
    ] {
        rows.extend(site.database.query(statement).await);
    }
    rows
}

/// Makes a call that fails once at each of these steps and then succeeds.
async fn fails_whole<T, F: Future<Output = Result<T, Status>>>(site: &Site, steps: usize, call: impl Fn() -> F) -> T {
    for step in 0..steps {
        let before = state(site).await;
        let status = call().await.err().unwrap_or_else(|| panic!("step {step} did not fail"));
        let reason = Refusal::of(&status).reason;
        assert_eq!((status.code(), reason.as_str()), (Code::Unavailable, "STORAGE_UNAVAILABLE"), "step {step}");
        assert_eq!(state(site).await, before, "step {step}: something is half done");
    }
    call().await.unwrap_or_else(|status| panic!("the last try: {status:?}"))
}

/// Faults at the steps of these methods, one after another. A check before the change may start a transaction too.
fn each_step_fails(methods: &[&str]) -> String {
    let of =
        |method: &&str| ["begin", "audit", "commit"].map(|step| format!("{method}.{step}=1*return(error)")).join(";");
    methods.iter().map(of).collect::<Vec<_>>().join(";")
}

#[tokio::test]
async fn a_change_whose_audit_event_cannot_be_written_is_not_made() {
    let site = Site::new().await;
    let methods = ["CreateUser", "LockUser", "UnlockUser", "ResetPassword", "RequirePasswordChange", "UpdateUser"];
    let more = ["SignIn", "CompletePasswordChange", "ChangePassword", "Reauthenticate", "DeleteUser"];
    let faults = each_step_fails(&[&methods[..], &more[..]].concat());
    let refresh = "RefreshTokens.begin=1*return(error);RefreshTokens.commit=1*return(error)";
    let proof = "store.session_reauthenticate=1*return(error)";
    let server = site.start(&format!("{faults};{refresh};{proof}")).await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);

    fails_whole(&site, 3, || operator.create(with_password("bob"))).await;
    let tokens = fails_whole(&site, 3, || stranger.tokens("bob", PASSWORD)).await;
    let tokens = fails_whole(&site, 2, || stranger.refresh(&tokens.refresh_token)).await;
    let bob = stranger.bearing(&tokens.access_token);
    fails_whole(&site, 4, || bob.reauthenticate(PASSWORD)).await;
    fails_whole(&site, 3, || bob.change_password(PASSWORD, OTHER_PASSWORD)).await;
    fails_whole(&site, 3, || operator.lock("bob")).await;
    fails_whole(&site, 3, || operator.unlock("bob")).await;
    fails_whole(&site, 3, || operator.require_change("bob")).await;
    let update = || {
        operator.update(v1::UpdateUserRequest {
            user: Some(named("bob")),
            add_roles: vec!["viewer".to_owned()],
            ..Default::default()
        })
    };
    fails_whole(&site, 3, update).await;
    let reset = fails_whole(&site, 3, || operator.reset_with(keyed_reset(KEY, "bob"))).await;
    assert!(!reset.replayed, "a reset that failed is not remembered");
    let ticket = stranger.change_step("bob", reset.shown()).await.expect("a step").ticket;
    fails_whole(&site, 3, || stranger.complete(&ticket, OTHER_PASSWORD)).await;
    let etag = operator.user("bob").await.etag;
    fails_whole(&site, 3, || operator.delete("bob", &etag)).await;
}

#[tokio::test]
async fn a_link_whose_statements_fail_is_made_and_used_whole_or_not_at_all() {
    let site = Site::new().await;
    let of_link = ["link_insert", "delivery_insert", "link_consume", "link_end_all", "delivery_cancel"];
    let faults = of_link.map(|statement| format!("store.{statement}=1*return(error)")).join(";");
    let server = site.start(&faults).await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);
    let bob = v1::CreateUserRequest { email: "bob@example.org".to_owned(), ..with_password("bob") };
    operator.create(bob).await.expect("bob");

    let mailed = v1::ResetPasswordRequest { method: None, ..keyed_reset(KEY, "bob") };
    let sent = fails_whole(&site, 2, || operator.reset_with(mailed.clone())).await;
    assert!(!sent.replayed && sent.delivery.is_some(), "{sent:?}");

    let method = Some(Method::ReturnLink(v1::ReturnLink::default()));
    let returned = v1::ResetPasswordRequest { user: Some(named("bob")), method, ..Default::default() };
    let url = match operator.reset_with(returned).await.expect("a link").secret {
        Some(v1::reset_password_response::Secret::ResetLink(url)) => url,
        other => panic!("no link: {other:?}"),
    };
    let request = v1::CompletePasswordResetRequest {
        link_token: url.split_once("token=").expect("a token").1.to_owned(),
        new_password: OTHER_PASSWORD.to_owned(),
        second_factor: None,
        validate_only: false,
    };
    let choose = || async { stranger.auth().complete_password_reset(request.clone()).await };
    fails_whole(&site, 3, choose).await;
    stranger.tokens("bob", OTHER_PASSWORD).await.expect("the chosen password");
    assert_eq!(site.database.query("SELECT count(*) FROM link WHERE ended_at IS NULL").await, ["0"]);
}

#[tokio::test]
async fn a_second_factor_is_set_up_proved_and_removed_whole_or_not_at_all() {
    let site = Site::new().await;
    let methods = ["ConfirmTotp", "VerifySecondFactor", "RegenerateRecoveryCodes", "DisableTotp", "ResetSecondFactor"];
    let of_factor = ["second_factor_replace", "recovery_codes_replace", "recovery_code_use", "second_factor_remove"];
    let statements = of_factor.map(|statement| format!("store.{statement}=1*return(error)")).join(";");
    let faults = each_step_fails(&[&methods[..], &["UpdateSignInPolicy"]].concat());
    let server = site.start(&format!("{faults};{statements};store.policy_save=1*return(error)")).await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);
    operator.create(with_password("bob")).await.expect("bob");
    let tokens = stranger.tokens("bob", PASSWORD).await.expect("tokens");
    let bob = &stranger.bearing(&tokens.access_token);
    let confirm = |started: v1::EnrollTotpResponse| {
        let code = Authenticator::with(&started.secret, Vec::new()).at(TotpStep::at(SystemClock.now()));
        let request = v1::ConfirmTotpRequest { ticket: started.ticket, code };
        async move { bob.auth().confirm_totp(request).await.map(Response::into_inner) }
    };

    let started = bob.enroll(None).await.expect("an enrolment");
    let codes = fails_whole(&site, 5, || confirm(started.clone())).await.recovery_codes;
    let ticket = stranger.factor_step("bob", PASSWORD).await.expect("a step").ticket;
    fails_whole(&site, 4, || stranger.prove(&ticket, recovery(&codes[0]))).await;
    let codes = fails_whole(&site, 3, || bob.regenerate(Some(recovery(&codes[1])))).await;
    fails_whole(&site, 4, || bob.disable(Some(recovery(&codes[0])))).await;

    let again = bob.enroll(None).await.expect("an enrolment");
    confirm(again).await.expect("a confirmation");
    fails_whole(&site, 3, || operator.reset_factor("bob")).await;
    let policy = v1::SignInPolicy { second_factor_required: Some(true), ..Default::default() };
    let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
    fails_whole(&site, 4, || async { operator.user_admin().update_sign_in_policy(request.clone()).await }).await;
}

fn keyed_reset(key: &str, name: &str) -> v1::ResetPasswordRequest {
    v1::ResetPasswordRequest {
        user: Some(named(name)),
        method: Some(Method::TemporaryPassword(v1::TemporaryPassword::default())),
        idempotency_key: key.to_owned(),
        ..Default::default()
    }
}

/// A server with the user bob and these faults.
async fn with_bob(site: &Site, failpoints: &str) -> Victim {
    let server = site.start("").await;
    server.operator().await.create(with_password("bob")).await.expect("bob");
    drop(server);
    site.start(failpoints).await
}

#[tokio::test]
async fn a_kill_while_a_weak_hash_is_renewed_leaves_it_to_the_next_sign_in() {
    let mut site = Site::new().await;
    drop(with_bob(&site, "").await);
    site.config.argon2.memory_kib = 128;
    let mut server = site.start("store.user_rehash=return(kill)").await;
    assert!(server.stranger().await.tokens("bob", PASSWORD).await.is_err());
    server.is_killed().await;

    let server = site.start("").await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);
    let is_pending = async || operator.user("bob").await.password_status.expect("a status").rehash_pending;
    assert!(is_pending().await, "half a renewal");
    stranger.tokens("bob", PASSWORD).await.expect("the password is what it was");
    assert!(!is_pending().await, "the next sign-in has renewed it");
    stranger.tokens("bob", PASSWORD).await.expect("the same password under the new hash");
}

async fn resets(operator: &Client) -> usize {
    let events = operator.events().await;
    events.iter().filter(|event| event.r#type() == v1::EventType::PasswordResetByOperator).count()
}

#[tokio::test]
async fn a_reset_whose_answer_was_lost_is_replayed_without_the_secret() {
    let site = Site::new().await;
    let mut server = with_bob(&site, "ResetPassword.committed=return(kill)").await;
    let lost = server.operator().await.reset_with(keyed_reset(KEY, "bob")).await;
    assert!(lost.is_err(), "{lost:?}");
    server.is_killed().await;

    let server = site.start("").await;
    let operator = server.operator().await;
    assert_eq!(resets(&operator).await, 1, "it was committed before the answer was lost");
    let again = operator.reset_with(keyed_reset(KEY, "bob")).await.expect("a replay");
    assert!(again.replayed && again.secret.is_none(), "{again:?}");
    assert_eq!(resets(&operator).await, 1);
    let old = server.stranger().await.sign_in("bob", PASSWORD).await;
    refused(old, Code::Unauthenticated, "CREDENTIALS_REJECTED");
}

#[tokio::test]
async fn a_reset_that_was_killed_before_its_commit_has_not_happened() {
    let site = Site::new().await;
    let mut server = with_bob(&site, "ResetPassword.commit=return(kill)").await;
    assert!(server.operator().await.reset_with(keyed_reset(KEY, "bob")).await.is_err());
    server.is_killed().await;

    let server = site.start("").await;
    let (operator, stranger) = (server.operator().await, server.stranger().await);
    assert_eq!(resets(&operator).await, 0);
    stranger.tokens("bob", PASSWORD).await.expect("the password as it was");
    let again = operator.reset_with(keyed_reset(KEY, "bob")).await.expect("a reset");
    assert!(!again.replayed);
    stranger.change_step("bob", again.shown()).await.expect("the temporary password");
}

/// Kills during a reset, in order, and whether the reset has happened by then.
const INSIDE_A_RESET: [(&str, bool); 12] = [
    ("ResetPassword.begin=return(kill)", false),
    // The first transaction dry-runs the reset before the expensive hash.
    ("ResetPassword.begin=1*off->return(kill)", false),
    ("store.user_save=return(kill)", false),
    ("store.session_end=return(kill)", false),
    ("store.ticket_end_all=return(kill)", false),
    ("store.throttle_clear=return(kill)", false),
    ("store.idempotency_insert=return(kill)", false),
    ("ResetPassword.audit=return(kill)", false),
    ("store.event_insert=return(kill)", false),
    ("ResetPassword.commit=return(kill)", false),
    // A start itself flushes once. A process's commits survive the process, flushed or not.
    ("store.flush=1*off->return(kill)", true),
    ("ResetPassword.committed=return(kill)", true),
];

#[tokio::test]
async fn a_reset_that_is_killed_at_any_step_has_happened_whole_or_not_at_all() {
    let site = Site::new().await;
    let mut server = site.start("").await;
    for (number, (fault, has_happened)) in INSIDE_A_RESET.into_iter().enumerate() {
        let (name, key) = (format!("u{number}"), format!("00000000-0000-4000-8000-{number:012}"));
        let (operator, stranger) = (server.operator().await, server.stranger().await);
        // One of everything that a reset ends.
        operator.create(with_password(&name)).await.expect("a user");
        let tokens = stranger.tokens(&name, PASSWORD).await.expect("tokens");
        operator.require_change(&name).await.expect("a demand");
        let ticket = stranger.change_step(&name, PASSWORD).await.expect("a step").ticket;
        refused(stranger.sign_in(&name, OTHER_PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        drop(server);

        server = site.start(fault).await;
        let before = state(&site).await;
        assert!(server.operator().await.reset_with(keyed_reset(&key, &name)).await.is_err(), "{fault}");
        server.is_killed().await;
        assert_eq!(state(&site).await != before, has_happened, "{fault}: half a reset");
        drop(server);

        server = site.start("").await;
        let (operator, stranger) = (server.operator().await, server.stranger().await);
        let again = operator.reset_with(keyed_reset(&key, &name)).await.expect(fault);
        assert_eq!(again.replayed, has_happened, "{fault}");
        assert_eq!(resets(&operator).await, number + 1, "{fault}");
        refused(stranger.sign_in(&name, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        refused(stranger.refresh(&tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
        refused(stranger.complete(&ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
    }
}

/// Kills during a containment, in order, and whether it has happened by then.
const INSIDE_A_CONTAINMENT: [(&str, bool); 10] = [
    ("LockUser.begin=return(kill)", false),
    ("store.user_end_password=return(kill)", false),
    ("store.user_save=return(kill)", false),
    ("store.session_end=return(kill)", false),
    ("store.ticket_end_all=return(kill)", false),
    ("store.place_forget_all=return(kill)", false),
    ("store.api_token_revoke_all=return(kill)", false),
    ("LockUser.audit=return(kill)", false),
    ("LockUser.commit=return(kill)", false),
    ("LockUser.committed=return(kill)", true),
];

#[tokio::test]
async fn a_containment_that_is_killed_at_any_step_has_happened_whole_or_not_at_all() {
    let site = Site::new().await;
    let mut server = site.start("").await;
    for (number, (fault, has_happened)) in INSIDE_A_CONTAINMENT.into_iter().enumerate() {
        let name = format!("u{number}");
        let (operator, stranger) = (server.operator().await, server.stranger().await);
        // One of everything that a containment ends.
        let roles = vec!["viewer".to_owned()];
        operator.create(v1::CreateUserRequest { roles, ..with_password(&name) }).await.expect("a user");
        let tokens = stranger.tokens(&name, PASSWORD).await.expect("tokens");
        let api_token = operator.api_token(&name, &["users.read"]).await;
        operator.require_change(&name).await.expect("a demand");
        let ticket = stranger.change_step(&name, PASSWORD).await.expect("a step").ticket;
        drop(server);

        server = site.start(fault).await;
        let before = state(&site).await;
        assert!(server.operator().await.contain(&name).await.is_err(), "{fault}");
        server.is_killed().await;
        assert_eq!(state(&site).await != before, has_happened, "{fault}: half a containment");
        drop(server);

        server = site.start("").await;
        let (operator, stranger) = (server.operator().await, server.stranger().await);
        let effects = operator.contain(&name).await.expect(fault).effects.expect("effects");
        assert_eq!(effects.password_ended, !has_happened, "{fault}");
        assert_eq!((effects.sessions_revoked, effects.api_tokens_revoked), if has_happened { (0, 0) } else { (1, 1) });
        operator.unlock(&name).await.expect("an unlock");
        refused(stranger.sign_in(&name, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        refused(stranger.refresh(&tokens.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
        refused(stranger.complete(&ticket, OTHER_PASSWORD).await, Code::Unauthenticated, "TICKET_INVALID");
        refused(stranger.bearing(&api_token).who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    }
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_replayed_and_a_lock_can_be_sent_again() {
    let site = Site::new().await;
    let mut server = site.start("CreateUser.committed=return(kill)").await;
    let create = || v1::CreateUserRequest { idempotency_key: KEY.to_owned(), ..with_password("bob") };
    assert!(server.operator().await.create(create()).await.is_err());
    server.is_killed().await;

    let mut server = site.start("LockUser.committed=return(kill)").await;
    let operator = server.operator().await;
    assert!(operator.create(create()).await.expect("a replay").replayed);
    assert!(operator.lock("bob").await.is_err());
    server.is_killed().await;

    let server = site.start("").await;
    let operator = server.operator().await;
    assert_eq!(operator.user("bob").await.state(), UserState::Locked);
    operator.lock("bob").await.expect("the same again");
}

#[tokio::test]
async fn a_kill_while_a_judgement_is_recorded_leaves_it_to_the_next_sign_in() {
    let site = Site::new().await;
    let mut server = with_bob(&site, "store.user_judged=return(kill)").await;
    let policy = v1::SignInPolicy {
        judge_existing: Some(true),
        max_age_rollout: Some(prost_types::Duration::default()),
        ..Default::default()
    };
    let request = v1::UpdateSignInPolicyRequest { policy: Some(policy), ..Default::default() };
    server.operator().await.user_admin().update_sign_in_policy(request).await.expect("a policy");
    assert!(server.stranger().await.tokens("bob", PASSWORD).await.is_err());
    server.is_killed().await;

    let server = site.start("").await;
    let judged = || site.database.query(r#"SELECT username FROM "user" WHERE password_judged_at IS NOT NULL"#);
    assert_eq!(judged().await, [""; 0], "half a sign-in");
    server.stranger().await.tokens("bob", PASSWORD).await.expect("tokens");
    assert_eq!(judged().await, ["bob"]);
}
