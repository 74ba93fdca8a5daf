//! Recent sign-in: what outlives a stolen access token needs a password that was verified within fifteen minutes.

use std::collections::BTreeSet;
use std::time::Duration;

use latchkey::domain::role::Scope;
use latchkey::proto::v1;
use prost_reflect::{DynamicMessage, ExtensionDescriptor, MethodDescriptor};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::bad_input::examples::World;
use crate::harness::raw::{PACKAGE, contract, methods, short_name};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, Person, Refusal, refused};

const ALWAYS: &str = "RECENT_SIGN_IN_ALWAYS";
const IF_TARGET_HAS_SCOPES: &str = "RECENT_SIGN_IN_IF_TARGET_HAS_SCOPES";

/// The expected marks of methods, and of fields of their requests. Written by hand instead of read from the contract, so
/// that a changed mark must be changed here too.
const TABLE: &[(&str, &str, &str)] = &[
    ("Auth/DisableTotp", "", ALWAYS),
    ("Auth/EnrollTotp", "", ALWAYS),
    ("Auth/RegenerateRecoveryCodes", "", ALWAYS),
    ("UserAdmin/CreateApiToken", "", ALWAYS),
    ("UserAdmin/CreateUser", "roles", ALWAYS),
    ("UserAdmin/DeleteUser", "", ALWAYS),
    ("UserAdmin/RequirePasswordChange", "", IF_TARGET_HAS_SCOPES),
    ("UserAdmin/ResendDelivery", "", IF_TARGET_HAS_SCOPES),
    ("UserAdmin/ResetPassword", "", IF_TARGET_HAS_SCOPES),
    ("UserAdmin/ResetSecondFactor", "", ALWAYS),
    ("UserAdmin/UnlockUser", "", IF_TARGET_HAS_SCOPES),
    ("UserAdmin/UpdateSignInPolicy", "", ALWAYS),
    ("UserAdmin/UpdateUser", "add_roles", ALWAYS),
    ("UserAdmin/UpdateUser", "email", IF_TARGET_HAS_SCOPES),
    ("UserAdmin/WaivePasswordChange", "", IF_TARGET_HAS_SCOPES),
];

/// The value of an option that says when a recent sign-in is needed.
fn when(options: &DynamicMessage, option: &ExtensionDescriptor) -> Option<String> {
    let number = options.get_extension(option).as_enum_number().filter(|number| *number != 0)?;
    Some(v1::RecentSignIn::try_from(number).expect("a known value").as_str_name().to_owned())
}

/// The marks of a method and of the fields of its request.
fn marks_of(method: &MethodDescriptor) -> Vec<(String, String)> {
    let option = |name: &str| contract().get_extension_by_name(&format!("{PACKAGE}.{name}")).expect("the option");
    let (of_method, of_field) = (option("recent_sign_in"), option("needs_recent_sign_in"));
    let own = when(&method.options(), &of_method).map(|when| (String::new(), when));
    let fields = method.input().fields().collect::<Vec<_>>();
    let fields = fields.iter().filter_map(|field| Some((field.name().to_owned(), when(&field.options(), &of_field)?)));
    own.into_iter().chain(fields).collect()
}

#[test]
fn the_table_and_the_contract_mark_the_same_methods_and_fields() {
    let of_method = |method: MethodDescriptor| {
        let name = short_name(&method);
        marks_of(&method).into_iter().map(move |(field, when)| (name.clone(), field, when))
    };
    let of_contract: BTreeSet<_> = methods().into_iter().flat_map(of_method).collect();
    let owned =
        |(method, field, when): &(&str, &str, &str)| ((*method).to_owned(), (*field).to_owned(), (*when).to_owned());
    let of_table: BTreeSet<_> = TABLE.iter().map(owned).collect();
    assert_eq!(of_contract, of_table);
}

/// A server whose tokens outlive a test that advances the clock by hours.
async fn patient() -> Harness {
    Harness::with(|config| {
        config.token.access_ttl = Duration::from_hours(8);
        config.session.admin_idle = Duration::from_hours(8);
        config.session.idle = Duration::from_hours(8);
    })
    .await
}

/// An administrator who signed in three hours ago.
async fn stale_admin(h: &Harness) -> Person {
    let root = h.admin().await;
    h.clock.advance(Duration::from_hours(3));
    root
}

/// The id of a message that this user got at an earlier address, which may be sent again at once.
async fn delivery_id(h: &Harness, user: &str) -> String {
    let operator = h.operator().await;
    let moves = async |host: &str| {
        let address = json!({"user": {"username": user}, "email": format!("{user}@{host}")});
        operator.call("UserAdmin/UpdateUser", address).await.expect("an address");
    };
    moves("example.com").await;
    let sent = operator.call("UserAdmin/SendEmailVerification", json!({"user": {"username": user}})).await;
    moves("example.net").await;
    sent.expect("a message")["delivery"]["id"].as_str().expect("an id").to_owned()
}

/// A request that sets the marked field, or calls the marked method, for this user.
async fn request(h: &Harness, method: &str, field: &str, user: &str) -> Value {
    let target = json!({"username": user});
    match (method, field) {
        ("UserAdmin/CreateApiToken", "") => json!({"user": target, "name": "a tool", "scopes": ["users.read"]}),
        ("UserAdmin/CreateUser", "roles") => json!({"username": "eve", "roles": ["viewer"], "password": PASSWORD}),
        ("UserAdmin/DeleteUser", "") => json!({"user": target, "etag": h.operator().await.user(user).await.etag}),
        ("UserAdmin/ResendDelivery", "") => json!({"deliveryId": delivery_id(h, user).await}),
        ("UserAdmin/ResetPassword", "") => json!({"user": target, "setPassword": {"password": OTHER_PASSWORD}}),
        ("UserAdmin/UpdateUser", "add_roles") => json!({"user": target, "addRoles": ["helpdesk"]}),
        ("UserAdmin/UpdateUser", "email") => json!({"user": target, "email": format!("{user}@example.org")}),
        ("UserAdmin/UpdateSignInPolicy", "") => json!({"policy": {"secondFactorRequired": false}}),
        (_, "") => json!({"user": target}),
        (method, field) => panic!("{method}.{field} has no request in this test"),
    }
}

/// All marks, in an order in which each request succeeds: a deletion comes last.
fn marks() -> Vec<(&'static str, &'static str, &'static str)> {
    // The ones about the caller's own second factor: `second_factor_attacks.rs`.
    let of_others = |method: &str| method.starts_with("UserAdmin/");
    let mut marks: Vec<_> = TABLE.iter().copied().filter(|(method, ..)| of_others(method)).collect();
    marks.sort_by_key(|(method, ..)| *method == "UserAdmin/DeleteUser");
    marks
}

/// Everything that a call could change.
async fn state(h: &Harness) -> Vec<String> {
    let mut rows = Vec::new();
    for statement in [
        r#"SELECT id || version || username || COALESCE(email, '') || COALESCE(password_hash, '') || roles
            || COALESCE(lock_cause, 0) || change_demanded FROM "user" ORDER BY id"#,
        "SELECT id || generation || auth_at || COALESCE(ended_at, 0) FROM session ORDER BY id",
        "SELECT user_id || last_step || failures FROM totp ORDER BY user_id",
        "SELECT version FROM sign_in_policy",
        "SELECT id || scopes || COALESCE(revoked_at, 0) FROM api_token ORDER BY id",
        "SELECT user_id || expires_at FROM sign_in_ticket ORDER BY user_id",
        "SELECT idempotency_key FROM idempotency_key ORDER BY idempotency_key",
        "SELECT id FROM audit_event ORDER BY id",
    ] {
        rows.extend(h.query(statement).await);
    }
    rows
}

#[track_caller]
fn is_refused<T: std::fmt::Debug>(answer: Result<T, Status>, what: &str) {
    let refusal = Refusal::of(&answer.expect_err(what));
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unauthenticated, "REAUTHENTICATION_REQUIRED"), "{what}");
    assert_eq!(refusal.metadata("maxAuthAgeSeconds"), "900");
}

#[tokio::test]
async fn what_is_marked_is_refused_with_an_old_sign_in_and_done_after_a_reauthentication() {
    let h = patient().await;
    h.create("ada", &["viewer"], PASSWORD).await;
    let root = stale_admin(&h).await.client;
    for (method, field, _) in marks() {
        let request = request(&h, method, field, "ada").await;
        let before = state(&h).await;
        is_refused(root.call(method, request).await, &format!("{method} {field}"));
        assert_eq!(state(&h).await, before, "{method} {field}: something was changed");
    }
    root.reauthenticate(PASSWORD).await.expect("the password");
    for (method, field, _) in marks() {
        let request = request(&h, method, field, "ada").await;
        root.call(method, request).await.unwrap_or_else(|error| panic!("{method} {field}: {error:?}"));
    }
}

#[tokio::test]
async fn an_account_without_scopes_needs_no_recent_sign_in_except_to_be_given_some_or_deleted() {
    let h = patient().await;
    h.create("bob", &[], PASSWORD).await;
    let root = stale_admin(&h).await.client;
    for (method, field, when) in marks() {
        let request = request(&h, method, field, "bob").await;
        let answer = root.call(method, request).await;
        if when == ALWAYS {
            is_refused(answer, &format!("{method} {field}"));
        } else {
            answer.unwrap_or_else(|error| panic!("{method} {field}: {error:?}"));
        }
    }
}

#[tokio::test]
async fn every_other_method_accepts_an_old_sign_in() {
    let world = World::open().await;
    world.h.clock.advance(Duration::from_mins(16));
    let mut refused = Vec::new();
    for (method, client, message) in world.methods() {
        let name = short_name(&method);
        let marks = marks_of(&method);
        let is_marked = marks.iter().any(|(field, _)| {
            field.is_empty() || method.input().get_field_by_name(field).is_some_and(|field| message.has_field(&field))
        });
        let mut json = serde_json::to_value(&message).expect("JSON");
        // A repeated call is answered as before, without a recent sign-in.
        json.as_object_mut().expect("an object").remove("idempotencyKey");
        let reason = client.call(&name, json).await.err().map(|status| Refusal::of(&status).reason);
        let is_refused = reason.as_deref() == Some("REAUTHENTICATION_REQUIRED");
        assert_eq!(is_refused, is_marked, "{name}: {reason:?}");
        refused.extend(is_refused.then_some(name));
    }
    let marked: BTreeSet<&str> = TABLE.iter().map(|(method, ..)| *method).collect();
    assert_eq!(refused.iter().map(String::as_str).collect::<BTreeSet<_>>(), marked, "every mark was tried");
}

#[tokio::test]
async fn every_other_field_accepts_an_old_sign_in() {
    let h = patient().await;
    h.create("ada", &["viewer", "auditor"], PASSWORD).await;
    let root = stale_admin(&h).await.client;
    let value = |method: &str, field: &str| match field {
        "username" => json!(format!("{}.lovelace", method.to_ascii_lowercase().replace('/', "."))),
        "kind" => json!("USER_KIND_PERSON"),
        "email" => json!("new@example.org"),
        "display_name" => json!("Ada"),
        "locale" => json!("de-CH"),
        "external_id" => json!(method),
        "labels" => json!({"team": "night"}),
        "remove_roles" => json!(["auditor"]),
        "temporary_password" | "invite" | "return_invite" => json!({}),
        "password" => json!(PASSWORD),
        "password_change_required" | "validate_only" | "take_reserved" => json!(true),
        "idempotency_key" => json!("6f1d2c1e-4b1f-4a6e-9d3c-0a7e5b2f8c11"),
        "etag" => Value::Null,
        "note" => json!("a note"),
        other => panic!("{other} has no value in this test"),
    };
    let id = h.operator().await.user("ada").await.id;
    for (name, base) in [("UserAdmin/UpdateUser", json!({"user": {"id": id}})), ("UserAdmin/CreateUser", json!({}))] {
        let method = crate::harness::raw::method(name);
        let marked: Vec<String> = marks_of(&method).into_iter().map(|(field, _)| field).collect();
        for (number, field) in method.input().fields().enumerate() {
            if field.name() == "user" || marked.iter().any(|marked| marked == field.name()) {
                continue;
            }
            let mut request = base.clone();
            if name == "UserAdmin/CreateUser" {
                request["username"] = json!(format!("eve{number}"));
            }
            if field.name() == "invite" {
                request["email"] = json!("invited@example.org");
            }
            if field.name() == "password_change_required" {
                request["password"] = json!(PASSWORD);
            }
            request[field.json_name()] = value(name, field.name());
            root.call(name, request).await.unwrap_or_else(|error| panic!("{name} {}: {error:?}", field.name()));
        }
    }
}

/// Refreshes the tokens of a session for three hours, as its owner's client or a thief does.
async fn kept_alive(h: &Harness, person: &Person) -> Client {
    let mut tokens = person.tokens.clone();
    for _ in 0..18 {
        h.clock.advance(Duration::from_mins(10));
        tokens = person.client.refresh(&tokens.refresh_token).await.expect("tokens");
    }
    person.client.bearing(&tokens.access_token)
}

#[tokio::test]
async fn a_token_stolen_hours_after_the_sign_in_gives_no_power_that_outlives_it() {
    let h = Harness::start().await;
    let root = h.admin().await;
    for (name, roles) in [("ann", &["admin"][..]), ("bob", &[])] {
        h.create(name, roles, PASSWORD).await;
    }
    let thief = kept_alive(&h, &root).await;
    let ann = || json!({"username": "ann"});
    let etag = h.operator().await.user("ann").await.etag;
    let before = state(&h).await;
    let attack = [
        (
            "UserAdmin/CreateUser",
            json!({"username": "mallory", "roles": ["admin"], "password": OTHER_PASSWORD, "passwordChangeRequired": false}),
        ),
        ("UserAdmin/UpdateUser", json!({"user": {"username": "bob"}, "addRoles": ["admin"]})),
        ("UserAdmin/UpdateUser", json!({"user": ann(), "email": "mallory@example.org"})),
        ("UserAdmin/UpdateUser", json!({"user": {"username": "root"}, "email": "mallory@example.org"})),
        ("UserAdmin/ResetPassword", json!({"user": ann(), "temporaryPassword": {}})),
        ("UserAdmin/ResetPassword", json!({"user": ann(), "setPassword": {"password": OTHER_PASSWORD}})),
        ("UserAdmin/ResetPassword", json!({"user": ann(), "temporaryPassword": {}, "validateOnly": true})),
        ("UserAdmin/CreateApiToken", json!({"user": {"username": "root"}, "name": "mine", "scopes": ["roles.write"]})),
        ("UserAdmin/DeleteUser", json!({"user": ann(), "etag": etag})),
        // The account has scopes before the change, though not after it.
        ("UserAdmin/UpdateUser", json!({"user": ann(), "email": "mallory@example.org", "removeRoles": ["admin"]})),
    ];
    for (method, request) in attack {
        is_refused(thief.call(method, request.clone()).await, &format!("{method} {request}"));
    }
    assert_eq!(state(&h).await, before, "nothing was changed");
    h.stranger().await.tokens("ann", PASSWORD).await.expect("the password of the other administrator");
}

#[tokio::test]
async fn containment_works_with_an_old_sign_in() {
    let h = patient().await;
    let ann = h.person("ann", &["admin", "viewer"]).await;
    let api_token = h.operator().await.api_token("ann", &["users.read"]).await;
    let root = stale_admin(&h).await.client;
    let ann_ref = || json!({"username": "ann"});
    let revoked = root.call("UserAdmin/RevokeUserSessions", json!({"user": ann_ref()})).await.expect("a revocation");
    assert_eq!(revoked["effects"]["sessionsRevoked"], json!(1));
    refused(ann.client.who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
    let id = api_token.split('_').nth(1).expect("an id");
    let revoked = root.call("UserAdmin/RevokeApiToken", json!({"apiTokenId": id})).await.expect("a revocation");
    assert_eq!(revoked["changed"], json!(true));
    let taken = json!({"user": ann_ref(), "removeRoles": ["admin"]});
    let taken = root.call("UserAdmin/UpdateUser", taken).await.expect("a role taken");
    assert_eq!(taken["user"]["roles"], json!(["viewer"]));
    root.lock("ann").await.expect("a lock");
    assert_eq!(h.operator().await.user("ann").await.state(), v1::UserState::Locked);
}

#[tokio::test]
async fn api_tokens_and_the_local_operator_need_no_recent_sign_in() {
    let h = patient().await;
    h.create("ada", &["viewer"], PASSWORD).await;
    let all: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let program = h.token(&all).await;
    h.clock.advance(Duration::from_hours(3));
    for (method, field, _) in marks() {
        let answer = program.call(method, request(&h, method, field, "ada").await).await;
        if method == "UserAdmin/CreateApiToken" {
            refused(answer, Code::PermissionDenied, "API_TOKEN_FORBIDDEN");
        } else {
            answer.unwrap_or_else(|error| panic!("{method} {field}: {error:?}"));
        }
    }
    h.create("bea", &["viewer"], PASSWORD).await;
    let operator = h.operator().await;
    operator.delete("eve", &operator.user("eve").await.etag).await.expect("a deletion");
    for (method, field, _) in marks().into_iter().filter(|(method, ..)| *method != "UserAdmin/CreateUser") {
        let done = operator.call(method, request(&h, method, field, "bea").await).await;
        done.unwrap_or_else(|error| panic!("{method} {field}: {error:?}"));
    }
}

#[tokio::test]
async fn ones_own_address_is_changed_by_another_operator_however_recent_the_sign_in() {
    let h = patient().await;
    let ada = h.person("ada", &["operator"]).await.client;
    h.clock.advance(Duration::from_mins(16));
    let own = || json!({"user": {"username": "ada"}, "email": "ada@example.org"});
    is_refused(ada.call("UserAdmin/UpdateUser", own()).await, "the own address");
    ada.reauthenticate(PASSWORD).await.expect("the password");
    // Links go to the address, so a stolen token would become a password.
    refused(ada.call("UserAdmin/UpdateUser", own()).await, Code::PermissionDenied, "SELF_ACTION_FORBIDDEN");
    h.operator().await.call("UserAdmin/UpdateUser", own()).await.expect("the address");
}

#[tokio::test]
async fn a_refused_call_can_be_repeated_with_the_same_idempotency_key() {
    let h = patient().await;
    h.create("ada", &["viewer"], PASSWORD).await;
    let root = stale_admin(&h).await.client;
    let reset = json!({
        "user": {"username": "ada"}, "temporaryPassword": {}, "idempotencyKey": "6f1d2c1e-4b1f-4a6e-9d3c-0a7e5b2f8c11",
    });
    is_refused(root.call("UserAdmin/ResetPassword", reset.clone()).await, "a reset");
    root.reauthenticate(PASSWORD).await.expect("the password");
    let done = root.call("UserAdmin/ResetPassword", reset).await.expect("a reset");
    assert_eq!(done["replayed"], json!(false));
    assert!(done["temporaryPassword"].as_str().is_some_and(|password| !password.is_empty()));
}
