//! Access rules: every method of the contract with every kind of caller, against one table.

use std::collections::BTreeSet;
use std::time::Duration;

use latchkey::domain::role::{Role, Scope};
use latchkey::proto::v1;
use prost_reflect::MethodDescriptor;
use tonic::{Code, Status};

use self::Demand::{Anyone, OneSelf, OneSelfOrTicket, Principal, Scoped};
use crate::harness::actors::named;
use crate::harness::raw::{methods, short_name};
use crate::harness::{Client, Harness, PASSWORD, Refusal, refused};

/// The requirement on callers of a method.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// None: a credential is ignored.
    Anyone,
    /// A user with a session.
    OneSelf,
    /// A user with a session, or a ticket.
    OneSelfOrTicket,
    /// Any principal.
    Principal,
    /// A scope, which these roles have.
    Scoped(&'static str, &'static [&'static str]),
}

const READERS: &[&str] = &["admin", "auditor", "helpdesk", "operator", "viewer"];
const LOOKERS: &[&str] = &["admin", "helpdesk", "operator", "viewer"];
const HELPERS: &[&str] = &["admin", "helpdesk", "operator"];
const OPERATORS: &[&str] = &["admin", "operator"];
const ADMINS: &[&str] = &["admin"];
const AUDITORS: &[&str] = &["admin", "auditor"];
const VERIFIERS: &[&str] = &["admin", "app", "verifier"];

/// The expected rules. Written by hand instead of read from the contract, so that a changed rule must be changed here
/// too.
const TABLE: &[(&str, Demand)] = &[
    ("Audit/GetEvent", Scoped("audit.read", AUDITORS)),
    ("Audit/ListEvents", Scoped("audit.read", AUDITORS)),
    ("Auth/CancelLink", Anyone),
    ("Auth/ChangePassword", OneSelf),
    ("Auth/CheckPasswordStrength", Anyone),
    ("Auth/CompletePasswordChange", Anyone),
    ("Auth/CompletePasswordReset", Anyone),
    ("Auth/ConfirmTotp", Anyone),
    ("Auth/DisableTotp", OneSelf),
    ("Auth/EnrollTotp", OneSelfOrTicket),
    ("Auth/GetPasswordRules", Anyone),
    ("Auth/GetSigningKeys", Anyone),
    ("Auth/InspectLink", Anyone),
    ("Auth/IntrospectToken", Scoped("tokens.introspect", VERIFIERS)),
    ("Auth/ListSessions", OneSelf),
    ("Auth/Reauthenticate", OneSelf),
    ("Auth/RefreshTokens", Anyone),
    ("Auth/RegenerateRecoveryCodes", OneSelf),
    ("Auth/RequestPasswordReset", Anyone),
    ("Auth/RevokeSession", OneSelf),
    ("Auth/SignIn", Anyone),
    ("Auth/VerifyEmail", Anyone),
    ("Auth/VerifySecondFactor", Anyone),
    ("Auth/WhoAmI", Principal),
    ("UserAdmin/CancelDelivery", Scoped("deliveries.resend", HELPERS)),
    ("UserAdmin/CreateApiToken", Scoped("tokens.write", ADMINS)),
    ("UserAdmin/CreateUser", Scoped("users.write", OPERATORS)),
    ("UserAdmin/DeleteUser", Scoped("users.delete", ADMINS)),
    ("UserAdmin/DiagnoseSignIn", Scoped("users.diagnose", LOOKERS)),
    ("UserAdmin/GetDelivery", Scoped("deliveries.read", LOOKERS)),
    ("UserAdmin/GetMailStatus", Scoped("deliveries.read", LOOKERS)),
    ("UserAdmin/GetSignInPolicy", Scoped("policy.read", READERS)),
    ("UserAdmin/GetUser", Scoped("users.read", READERS)),
    ("UserAdmin/ListApiTokens", Scoped("tokens.read", LOOKERS)),
    ("UserAdmin/ListDeliveries", Scoped("deliveries.read", LOOKERS)),
    ("UserAdmin/ListRoles", Scoped("users.read", READERS)),
    ("UserAdmin/ListUserSessions", Scoped("sessions.read", LOOKERS)),
    ("UserAdmin/ListUsers", Scoped("users.read", READERS)),
    ("UserAdmin/LockUser", Scoped("users.lock", HELPERS)),
    ("UserAdmin/RequirePasswordChange", Scoped("users.reset", HELPERS)),
    ("UserAdmin/ResendDelivery", Scoped("deliveries.resend", HELPERS)),
    ("UserAdmin/ResetPassword", Scoped("users.reset", HELPERS)),
    ("UserAdmin/ResetSecondFactor", Scoped("mfa.reset", OPERATORS)),
    ("UserAdmin/RevokeApiToken", Scoped("tokens.revoke", OPERATORS)),
    ("UserAdmin/RevokeUserSessions", Scoped("sessions.revoke", HELPERS)),
    ("UserAdmin/SendEmailVerification", Scoped("deliveries.resend", HELPERS)),
    ("UserAdmin/UnlockUser", Scoped("users.lock", HELPERS)),
    ("UserAdmin/UpdateSignInPolicy", Scoped("policy.write", ADMINS)),
    ("UserAdmin/UpdateUser", Scoped("users.write", OPERATORS)),
    ("UserAdmin/WaivePasswordChange", Scoped("users.reset", HELPERS)),
];

/// Methods that require a password verified within the last fifteen minutes, whatever the request. `recent_sign_in.rs` has
/// those for which it depends on the target, and fields.
const FRESH: &[&str] = &[
    "Auth/DisableTotp",
    "Auth/EnrollTotp",
    "Auth/RegenerateRecoveryCodes",
    "UserAdmin/CreateApiToken",
    "UserAdmin/DeleteUser",
    "UserAdmin/ResetSecondFactor",
    "UserAdmin/UpdateSignInPolicy",
];

/// Methods with their expected rules. `RevokeSession` comes last, because it ends the caller's session.
fn rows() -> Vec<(MethodDescriptor, Demand)> {
    let mut methods = methods();
    methods.sort_by_key(|method| method.name() == "RevokeSession");
    let demand = |method: &MethodDescriptor| {
        let row = TABLE.iter().find(|row| row.0 == short_name(method));
        row.unwrap_or_else(|| panic!("{} has no row in the table", method.full_name())).1
    };
    methods.into_iter().map(|method| (method.clone(), demand(&method))).collect()
}

/// Why an empty request was refused by the access rule. `None` if it passed the rule, whatever its outcome.
fn verdict(answer: Result<Vec<u8>, Status>) -> Option<(Code, String)> {
    let refusal = Refusal::of(&answer.err()?);
    let by_rule = matches!(refusal.code, Code::Unauthenticated | Code::PermissionDenied);
    by_rule.then_some((refusal.code, refusal.reason))
}

/// Calls every method and lists unexpected outcomes.
async fn check(who: &str, client: &Client, expected: impl Fn(&str, Demand) -> Option<(Code, &'static str)>) {
    let mut wrong = Vec::new();
    for (method, demand) in rows() {
        let name = short_name(&method);
        let seen = verdict(client.call_empty(&method).await);
        let expected = expected(&name, demand).map(|(code, reason)| (code, reason.to_owned()));
        if seen != expected {
            wrong.push(format!("{who} × {name}: expected {expected:?}, got {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const SCOPE_MISSING: Option<(Code, &str)> = Some((Code::PermissionDenied, "SCOPE_MISSING"));

#[test]
fn the_table_and_the_contract_have_the_same_methods() {
    let of_table: BTreeSet<String> = TABLE.iter().map(|row| row.0.to_owned()).collect();
    let of_contract: BTreeSet<String> = methods().iter().map(short_name).collect();
    assert_eq!(of_table, of_contract);
}

#[tokio::test]
async fn a_user_may_call_what_their_roles_permit_and_nothing_else() {
    let h = Harness::start().await;
    check("a user without roles", &h.user("nobody").await.client, |_, demand| match demand {
        Scoped(..) => SCOPE_MISSING,
        Anyone | OneSelf | OneSelfOrTicket | Principal => None,
    })
    .await;
    for role in Role::ALL {
        let role = role.as_str();
        let person = h.person(&format!("the-{role}"), &[role]).await;
        check(role, &person.client, |_, demand| match demand {
            Scoped(_, roles) if !roles.contains(&role) => SCOPE_MISSING,
            _ => None,
        })
        .await;
    }
}

#[tokio::test]
async fn an_api_token_may_call_what_its_scopes_permit_and_nothing_about_oneself() {
    let h = Harness::start().await;
    let all: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let forbidden =
        |demand| matches!(demand, OneSelf | OneSelfOrTicket).then_some((Code::PermissionDenied, "API_TOKEN_FORBIDDEN"));
    check("a token with all scopes", &h.token(&all).await, |_, demand| forbidden(demand)).await;

    for without in &all {
        let others: Vec<&str> = all.iter().copied().filter(|scope| scope != without).collect();
        let token = h.token(&others).await;
        check(&format!("a token without {without}"), &token, |_, demand| match demand {
            Scoped(scope, _) if scope == *without => SCOPE_MISSING,
            _ => forbidden(demand),
        })
        .await;
    }
}

#[tokio::test]
async fn the_local_operator_may_call_everything_but_what_is_about_oneself() {
    let h = Harness::start().await;
    check("the local operator", &h.operator().await, |_, demand| match demand {
        OneSelf => Some((Code::PermissionDenied, "USER_REQUIRED")),
        OneSelfOrTicket => Some((Code::Unauthenticated, "CREDENTIALS_MISSING")),
        _ => None,
    })
    .await;
}

/// A token for another audience, which carries no latchkey scopes.
async fn token_for_another_audience(h: &Harness) -> String {
    let request = v1::SignInRequest {
        login: "root".to_owned(),
        password: PASSWORD.to_owned(),
        audiences: vec!["https://billing.example".to_owned()],
        ..Default::default()
    };
    let answer = h.stranger().await.auth().sign_in(request).await.expect("a sign-in").into_inner();
    match answer.progress.and_then(|progress| progress.step) {
        Some(v1::sign_in_progress::Step::Tokens(tokens)) => tokens.access_token,
        other => panic!("no tokens: {other:?}"),
    }
}

/// Invalid credentials with their expected reasons. Some are still valid when created and expire when the clock is
/// advanced.
async fn bad_credentials(h: &Harness) -> Vec<(&'static str, Client, &'static str)> {
    let stranger = h.stranger().await;
    let operator = h.operator().await;
    let root = h.admin().await;
    let bearing = |token: &str| stranger.bearing(token);

    let signed_out = h.person("signed-out", &["admin"]).await;
    signed_out.client.auth().revoke_session(v1::RevokeSessionRequest::default()).await.expect("a sign-out");
    let locked = h.person("locked", &["admin"]).await;
    let of_locked = operator.api_token("locked", &["users.read"]).await;
    operator.lock("locked").await.expect("a lock");
    let gone = h.person("gone", &["admin"]).await;
    let of_gone = operator.api_token("gone", &["users.read"]).await;
    let etag = operator.user("gone").await.etag;
    let request = v1::DeleteUserRequest { user: Some(named("gone")), etag, ..Default::default() };
    operator.user_admin().delete_user(request).await.expect("a deletion");
    h.create("newcomer", &["admin"], PASSWORD).await;
    let temporary = operator.reset("newcomer").await.expect("a reset").secret.expect("a secret");
    let v1::reset_password_response::Secret::TemporaryPassword(temporary) = temporary else { panic!("a link") };
    let ticket = stranger.change_step("newcomer", &temporary).await.expect("a step").ticket;

    let revoked = operator.api_token("root", &["users.read"]).await;
    let id = revoked.split('_').nth(1).expect("an id").to_owned();
    let request = v1::RevokeApiTokenRequest { api_token_id: id.clone(), ..Default::default() };
    operator.user_admin().revoke_api_token(request).await.expect("a revocation");
    let good = operator.api_token("root", &["users.read"]).await;
    let forged = format!("{}{}", &good[..good.len() - 43], "A".repeat(43));

    vec![
        ("nobody", stranger.clone(), "CREDENTIALS_MISSING"),
        ("garbage", bearing("garbage"), "TOKEN_INVALID"),
        ("another scheme", stranger.with("authorization", "Basic cm9vdDpyb290"), "TOKEN_INVALID"),
        ("no token at all", stranger.with("authorization", "Bearer"), "TOKEN_INVALID"),
        ("two headers", root.client.with("authorization", &format!("Bearer {good}")), "TOKEN_INVALID"),
        ("a header twice", bearing(&good).with("authorization", &format!("Bearer {good}")), "TOKEN_INVALID"),
        ("garbage on the local socket", operator.bearing("garbage"), "TOKEN_INVALID"),
        ("two headers on the local socket", operator.bearing(&good).with("authorization", "x"), "TOKEN_INVALID"),
        ("a refresh token", bearing(&root.tokens.refresh_token), "TOKEN_INVALID"),
        ("the id of a session", bearing(&root.tokens.session_id), "TOKEN_INVALID"),
        ("a ticket", bearing(&ticket), "TOKEN_INVALID"),
        ("a password", stranger.with("authorization", "Bearer correcthorsec4narystaple"), "TOKEN_INVALID"),
        ("another audience", bearing(&token_for_another_audience(h).await), "TOKEN_INVALID"),
        ("a forged API token", bearing(&forged), "TOKEN_INVALID"),
        ("the id of an API token", bearing(&format!("lka_{id}")), "TOKEN_INVALID"),
        ("a revoked session", signed_out.client, "SESSION_REVOKED"),
        ("a locked user", locked.client, "SESSION_REVOKED"),
        ("an API token of a locked user", bearing(&of_locked), "SESSION_REVOKED"),
        ("a deleted user", gone.client, "SESSION_REVOKED"),
        ("an API token of a deleted user", bearing(&of_gone), "TOKEN_INVALID"),
        ("a revoked API token", bearing(&revoked), "SESSION_REVOKED"),
    ]
}

#[tokio::test]
async fn a_bad_credential_opens_no_method_and_closes_none_that_is_open_to_all() {
    let h = Harness::start().await;
    for (who, client, reason) in bad_credentials(&h).await {
        check(who, &client, |_, demand| (demand != Anyone).then_some((Code::Unauthenticated, reason))).await;
    }
}

#[tokio::test]
async fn a_credential_is_over_when_its_time_is() {
    let h = Harness::start().await;
    let root = h.admin().await;
    let operator = h.operator().await;
    let request = v1::CreateApiTokenRequest {
        user: Some(named("root")),
        name: "short".to_owned(),
        scopes: vec!["users.read".to_owned()],
        ttl: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
    };
    let answer = operator.user_admin().create_api_token(request).await.expect("an API token").into_inner();
    let program = h.stranger().await.bearing(&answer.secret);
    for client in [&root.client, &program] {
        client.auth().who_am_i(v1::WhoAmIRequest {}).await.expect("still good");
    }

    h.clock.advance(Duration::from_secs(301));

    for (who, client) in [("an access token", &root.client), ("an API token", &program)] {
        check(who, client, |_, demand| (demand != Anyone).then_some((Code::Unauthenticated, "TOKEN_EXPIRED"))).await;
    }
}

#[tokio::test]
async fn an_old_proof_of_the_password_is_not_enough_for_some_methods() {
    let h = Harness::start().await;
    let root = h.admin().await;
    let program = h.token(&["mfa.reset", "policy.write", "tokens.write", "users.delete"]).await;
    // Sessions of administrators end after fifteen idle minutes, so this one refreshes in between.
    h.clock.advance(Duration::from_mins(8));
    let tokens = root.client.refresh(&root.tokens.refresh_token).await.expect("tokens");
    h.clock.advance(Duration::from_mins(6));
    let tokens = root.client.refresh(&tokens.refresh_token).await.expect("tokens");
    check("just in time", &root.client.bearing(&tokens.access_token), |_, _| None).await;

    let root = h.signed_in("root", PASSWORD).await;
    h.clock.advance(Duration::from_mins(8));
    let tokens = root.client.refresh(&root.tokens.refresh_token).await.expect("tokens");
    h.clock.advance(Duration::from_mins(8));
    let tokens = root.client.refresh(&tokens.refresh_token).await.expect("tokens");
    let stale = root.client.bearing(&tokens.access_token);
    check("too late", &stale, |name, _| {
        FRESH.contains(&name).then_some((Code::Unauthenticated, "REAUTHENTICATION_REQUIRED"))
    })
    .await;
    let again = h.signed_in("root", PASSWORD).await;
    let tokens = again.client.refresh(&again.tokens.refresh_token).await.expect("tokens");
    check("after another sign-in", &again.client.bearing(&tokens.access_token), |_, _| None).await;

    for name in FRESH.iter().filter(|name| !name.starts_with("Auth/")) {
        for (who, client) in [("a program", &program), ("the local operator", &h.operator().await)] {
            let seen = verdict(client.call_empty(&crate::harness::raw::method(name)).await);
            assert_eq!(seen, None, "{who} proves itself with every call: {name}");
        }
    }
}

#[tokio::test]
async fn the_refusal_says_how_fresh_the_proof_must_be() {
    let h = Harness::start().await;
    let root = h.admin().await;
    h.clock.advance(Duration::from_mins(14));
    let tokens = root.client.refresh(&root.tokens.refresh_token).await.expect("tokens");
    h.clock.advance(Duration::from_mins(2));
    let client = root.client.bearing(&tokens.access_token);
    let answer = client.user_admin().delete_user(v1::DeleteUserRequest::default()).await;
    let refusal = refused(answer, Code::Unauthenticated, "REAUTHENTICATION_REQUIRED");
    assert_eq!(refusal.metadata("maxAuthAgeSeconds"), "900");
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_said_to_be_so_to_everybody() {
    let h = Harness::start().await;
    let callers = [
        h.stranger().await,
        h.stranger().await.bearing("garbage"),
        h.user("bob").await.client,
        h.admin().await.client,
        h.operator().await,
    ];
    let paths = [
        "latchkey.v1.UserAdmin/Nonsense",
        "latchkey.v1.UserAdmin/listusers",
        "latchkey.v1.UserAdmin/ListUsers/",
        "latchkey.v1.UserAdmin/",
        "latchkey.v2.UserAdmin/ListUsers",
        "latchkey.v1.Nonsense/ListUsers",
        "UserAdmin/ListUsers",
        "nonsense",
        "",
    ];
    for client in &callers {
        for path in paths {
            refused(client.call_path(path, Vec::new()).await, Code::Unimplemented, "METHOD_UNAVAILABLE");
        }
    }
}
