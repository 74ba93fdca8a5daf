//! Second factors: setting one up, signing in with it, and every way that must not lead around it.

use std::io::Write;
use std::process::{Command, Stdio};

use latchkey::domain::second_factor::{TotpKey, TotpStep};
use latchkey::proto::v1::{self, sign_in_progress::Step};
use tonic::Code;

use crate::harness::actors::named;
use crate::harness::factor::{recovery, totp};
use crate::harness::transcript::Shell;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, refused};

#[tokio::test]
async fn a_user_sets_up_an_authenticator_and_signs_in_with_it() {
    let h = Harness::start().await;
    let (ada, other) = (h.user("ada").await, h.signed_in("ada", PASSWORD).await);
    let operator = h.operator().await;
    let before = operator.user("ada").await;
    assert_eq!(before.second_factor_status, Some(v1::SecondFactorStatus::default()));

    let started = ada.client.enroll(None).await.expect("an enrolment");
    assert_eq!(operator.user("ada").await, before, "nothing has changed yet");
    assert!(started.otpauth_uri.starts_with("otpauth://totp/"), "{}", started.otpauth_uri);
    let factor = h.enroll(&ada).await;

    assert_eq!(factor.recovery_codes.len(), 10);
    let after = operator.user("ada").await;
    let status = after.second_factor_status.expect("a status");
    assert!(status.totp_enrolled && status.totp_enroll_time.is_some() && status.recovery_codes_left == 10);
    assert_ne!(after.etag, before.etag);
    refused(other.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    let session = ada.client.who_am_i().await.expect("the session goes on").session.expect("a session");
    assert_eq!(session.auth_methods, ["pwd", "otp", "mfa"]);

    let stranger = h.stranger().await;
    let step = stranger.factor_step("ada", PASSWORD).await.expect("a step");
    assert_eq!(step.methods, [v1::SecondFactorMethod::Totp as i32, v1::SecondFactorMethod::RecoveryCode as i32]);
    assert_eq!(operator.sessions_of("ada").await.iter().filter(|session| session.end_time.is_none()).count(), 1);
    let Step::Tokens(tokens) = stranger.prove(&step.ticket, factor.proof(&h)).await.expect("a step") else {
        panic!("no tokens")
    };
    let me = stranger.bearing(&tokens.access_token).who_am_i().await.expect("who I am");
    assert_eq!(me.session.expect("a session").auth_methods, ["pwd", "otp", "mfa"]);
    refused(stranger.prove(&step.ticket, factor.proof(&h)).await, Code::Unauthenticated, "TICKET_INVALID");
}

#[tokio::test]
async fn a_code_beside_the_password_saves_the_step_and_beside_a_wrong_one_is_not_looked_at() {
    let h = Harness::start().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let stranger = h.stranger().await;
    let wrong = stranger.sign_in_with("ada", OTHER_PASSWORD, factor.proof(&h)).await;
    refused(wrong, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    let right = stranger.sign_in_with("ada", PASSWORD, factor.proof(&h)).await.expect("a step");
    assert!(matches!(right, Step::Tokens(_)), "the code was not used up: {right:?}");
    let again = stranger.sign_in_with("ada", PASSWORD, factor.proof(&h)).await;
    refused(again, Code::Unauthenticated, "SECOND_FACTOR_REJECTED");
}

#[tokio::test]
async fn a_temporary_password_of_a_user_with_a_factor_asks_for_both_one_after_the_other() {
    let h = Harness::start().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let reset = h.operator().await.reset("ada").await.expect("a reset");
    let Some(v1::reset_password_response::Secret::TemporaryPassword(password)) = reset.secret else { panic!("none") };
    let stranger = h.stranger().await;
    let step = stranger.factor_step("ada", &password).await.expect("a step");
    let Step::PasswordChange(change) = stranger.prove(&step.ticket, factor.proof(&h)).await.expect("a step") else {
        panic!("no demand to change the password")
    };
    let done = stranger.complete(&change.ticket, OTHER_PASSWORD).await.expect("a change");
    let Some(Step::Tokens(tokens)) = done.progress.and_then(|progress| progress.step) else { panic!("no tokens") };
    let me = stranger.bearing(&tokens.access_token).who_am_i().await.expect("who I am");
    assert_eq!(me.session.expect("a session").auth_methods, ["pwd", "otp", "mfa"]);
}

#[tokio::test]
async fn an_operator_removes_the_factor_of_a_user_who_lost_it() {
    let h = Harness::start().await;
    let ada = h.user("ada").await;
    h.enroll(&ada).await;
    let step = h.stranger().await.factor_step("ada", PASSWORD).await.expect("a step");
    let operator = h.operator().await;
    let done = operator.reset_factor("ada").await.expect("a reset");
    let effects = done.effects.expect("effects");
    assert!(effects.second_factors_removed && effects.sessions_revoked == 1 && effects.tickets_revoked == 1);
    let user = done.user.expect("a user");
    assert!(!user.second_factor_status.expect("a status").totp_enrolled);
    assert!(user.password_status.expect("a password").change_required);
    refused(ada.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    let stranger = h.stranger().await;
    refused(stranger.prove(&step.ticket, totp("000000")).await, Code::Unauthenticated, "TICKET_INVALID");
    stranger.change_step("ada", PASSWORD).await.expect("the password alone leads to a new one");
    let again = operator.reset_factor("ada").await.expect("nothing to do");
    assert_eq!(again.effects, Some(v1::Effects::default()));
}

#[tokio::test]
async fn a_recovery_code_signs_in_once_and_says_how_many_are_left() {
    let h = Harness::start().await;
    let factor = h.enroll(&h.user("ada").await).await;
    let stranger = h.stranger().await;
    let code = factor.recovery_codes.first().expect("a code");
    let step = stranger.factor_step("ada", PASSWORD).await.expect("a step");
    let request = v1::VerifySecondFactorRequest { ticket: step.ticket, second_factor: Some(recovery(code)) };
    let verified = stranger.auth().verify_second_factor(request).await.expect("a step").into_inner();
    assert_eq!(verified.recovery_codes_left, Some(9));
    let Some(Step::Tokens(tokens)) = verified.progress.and_then(|progress| progress.step) else { panic!("no tokens") };
    let me = stranger.bearing(&tokens.access_token).who_am_i().await.expect("who I am");
    assert_eq!(me.session.expect("a session").auth_methods, ["pwd", "mfa"]);
    let step = stranger.factor_step("ada", PASSWORD).await.expect("a step");
    refused(stranger.prove(&step.ticket, recovery(code)).await, Code::Unauthenticated, "SECOND_FACTOR_REJECTED");
    let contain = v1::LockUserRequest {
        user: Some(named("ada")),
        cause: v1::LockCause::Compromise.into(),
        remove_second_factors: true,
        ..Default::default()
    };
    let locked = h.operator().await.user_admin().lock_user(contain).await.expect("a lock").into_inner();
    assert!(locked.effects.expect("effects").second_factors_removed);
}

#[test]
fn another_program_shows_the_same_code_in_every_step_of_a_day() {
    const STEPS: i64 = 86_400 / 30;
    if !Shell::default().has("oathtool") {
        return;
    }
    let key = [0x5a, 0xff, 0, 0x80, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    // 2026-11-29, 00:00:00 UTC.
    let (began, when) = (1_795_910_400 / 30, "2026-11-29 00:00:00 UTC");
    let window = (STEPS - 1).to_string();
    let key_text = data_encoding::HEXLOWER.encode(&key);
    let mut oathtool = Command::new("oathtool");
    oathtool.args(["--totp", "--window", &window, "--now", when, "-"]);
    let mut shown = oathtool.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("oathtool");
    shown.stdin.take().expect("its input").write_all(key_text.as_bytes()).expect("a key");
    let shown = shown.wait_with_output().expect("codes");
    let shown = String::from_utf8(shown.stdout).expect("text");
    let key = TotpKey::from_bytes(key);
    let ours: Vec<String> = (0..STEPS).map(|step| key.code(TotpStep(began + step)).to_string()).collect();
    assert_eq!(shown.lines().collect::<Vec<_>>(), ours);
}
