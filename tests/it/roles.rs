//! Rank: no caller can act on a user with more rights, grant such rights, or perform an operator's action on their own
//! account.

use latchkey::domain::role::{Role, Scope};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::harness::raw::short_name;
use crate::harness::{Client, Harness, PASSWORD, Refusal, refused};

/// Actions of operators on an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Reset,
    SetPassword,
    Lock,
    Unlock,
    RequireChange,
    WaiveChange,
    UpdateName,
    UpdateEmail,
    RevokeSessions,
    RevokeToken,
    CreateToken,
    SendLink,
    ReturnLink,
    Verify,
    Resend,
    CancelDelivery,
    ResetFactor,
    Delete,
}

use Act::{
    CancelDelivery, CreateToken, Delete, Lock, RequireChange, Resend, Reset, ResetFactor, ReturnLink, RevokeSessions,
    RevokeToken, SendLink, SetPassword, Unlock, UpdateEmail, UpdateName, Verify, WaiveChange,
};

/// All actions, ordered so that none prevents the next.
const ACTS: &[Act] = &[
    UpdateName,
    UpdateEmail,
    RequireChange,
    WaiveChange,
    RevokeSessions,
    RevokeToken,
    CreateToken,
    SendLink,
    ReturnLink,
    // Before another message of its kind.
    Resend,
    Verify,
    CancelDelivery,
    Lock,
    Unlock,
    Reset,
    SetPassword,
    ResetFactor,
    Delete,
];

/// The actions that each role permits, on permitted targets.
const MAY: &[(&str, &[Act])] = &[
    (
        "helpdesk",
        &[RequireChange, WaiveChange, RevokeSessions, SendLink, Verify, Resend, CancelDelivery, Lock, Unlock, Reset],
    ),
    (
        "operator",
        &[
            UpdateName,
            UpdateEmail,
            RequireChange,
            WaiveChange,
            RevokeSessions,
            RevokeToken,
            SendLink,
            ReturnLink,
            Verify,
            Resend,
            CancelDelivery,
            Lock,
            Unlock,
            Reset,
            SetPassword,
            ResetFactor,
        ],
    ),
    ("admin", ACTS),
];

/// The permitted targets of each role.
const TO: &[(&str, &[&str])] = &[
    ("helpdesk", &["", "viewer", "helpdesk"]),
    ("operator", &["", "viewer", "helpdesk", "operator"]),
    ("admin", &["", "viewer", "helpdesk", "operator", "auditor", "verifier", "app", "admin"]),
];

const TARGETS: &[&str] = &["", "viewer", "helpdesk", "operator", "auditor", "verifier", "app", "admin"];

/// What an action names besides the target.
struct Ids {
    api_token: String,
    /// A message to an earlier address, which may be sent again at once.
    delivery: String,
}

impl Act {
    /// Performs the action. Deletes only with `validate_only`, so that the target remains.
    async fn perform(self, client: &Client, username: &str, ids: &Ids) -> Result<Value, Status> {
        let user = json!({"username": username});
        let (method, request) = match self {
            Reset => ("ResetPassword", json!({"user": user, "temporaryPassword": {}})),
            SetPassword => ("ResetPassword", json!({"user": user, "setPassword": {"password": PASSWORD}})),
            SendLink => ("ResetPassword", json!({"user": user})),
            ReturnLink => ("ResetPassword", json!({"user": user, "returnLink": {}})),
            Verify => ("SendEmailVerification", json!({"user": user})),
            Resend => ("ResendDelivery", json!({"deliveryId": ids.delivery})),
            CancelDelivery => ("CancelDelivery", json!({"deliveryId": ids.delivery})),
            Lock => ("LockUser", json!({"user": user})),
            Unlock => ("UnlockUser", json!({"user": user})),
            ResetFactor => ("ResetSecondFactor", json!({"user": user})),
            RequireChange => ("RequirePasswordChange", json!({"user": user})),
            WaiveChange => ("WaivePasswordChange", json!({"user": user})),
            UpdateName => ("UpdateUser", json!({"user": user, "displayName": "Somebody"})),
            UpdateEmail => ("UpdateUser", json!({"user": user, "email": format!("{username}@example.org")})),
            RevokeSessions => ("RevokeUserSessions", json!({"user": user})),
            RevokeToken => ("RevokeApiToken", json!({"apiTokenId": ids.api_token})),
            CreateToken => ("CreateApiToken", json!({"user": user, "name": "x", "scopes": ["users.read"]})),
            Delete => {
                // A caller that may read gets the etag; for the others it does not matter.
                let shown = client.call("UserAdmin/GetUser", json!({"user": user})).await?;
                let etag = shown["user"]["etag"].as_str().unwrap_or_default().to_owned();
                ("DeleteUser", json!({"user": user, "etag": etag, "validateOnly": true}))
            }
        };
        client.call(&format!("UserAdmin/{method}"), request).await
    }
}

fn of<T: Copy>(table: &[(&str, T)], role: &str) -> T {
    table.iter().find(|row| row.0 == role).expect("a row").1
}

/// The reason for which a call was refused, or nothing.
fn reason(answer: Result<Value, Status>) -> Option<String> {
    answer.err().map(|status| Refusal::of(&status).reason)
}

/// A username for a target with this role.
fn target_name(role: &str) -> String {
    format!("target-{}", if role.is_empty() { "nobody" } else { role })
}

/// Whether a role grants the scope that tests give to API tokens.
fn may_read(role: &str) -> bool {
    Role::parse(role).is_some_and(|role| role.scopes().contains(Scope::UsersRead))
}

/// The id of a new API token of a target. A target whose role grants nothing for it has another role while it is made.
async fn api_token_id(operator: &Client, name: &str, role: &str) -> String {
    let change = async |key: &str| {
        if !may_read(role) {
            let request = json!({"user": {"username": name}, key: ["viewer"]});
            operator.call("UserAdmin/UpdateUser", request).await.expect("other roles");
        }
    };
    change("addRoles").await;
    let secret = operator.api_token(name, &["users.read"]).await;
    change("removeRoles").await;
    secret.split('_').nth(1).expect("an id").to_owned()
}

/// The id of a message that a target got before the address changed to this one.
async fn delivery_id(operator: &Client, name: &str, address: &str) -> String {
    let user = json!({"username": name});
    let moves = async |address: String| {
        let request = json!({"user": user, "email": address});
        operator.call("UserAdmin/UpdateUser", request).await.expect("an address");
    };
    moves(format!("old.{address}")).await;
    let request = json!({"user": user});
    let sent = operator.call("UserAdmin/SendEmailVerification", request).await.expect("a message");
    moves(address.to_owned()).await;
    sent["delivery"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_caller_cannot_act_on_a_user_with_more_rights() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    for target in TARGETS {
        let roles: Vec<&str> = target.split_whitespace().collect();
        let name = target_name(target);
        h.create(&name, &roles, PASSWORD).await;
    }
    let mut wrong = Vec::new();
    for (caller, acts) in MAY {
        // A user gets ten messages an hour.
        h.clock.advance(std::time::Duration::from_hours(1));
        let client = h.person(&format!("the-{caller}"), &[caller]).await.client;
        for target in TARGETS {
            let name = target_name(target);
            let api_token = api_token_id(&operator, &name, target).await;
            let delivery = delivery_id(&operator, &name, &format!("{name}@example.org")).await;
            let ids = Ids { api_token, delivery };
            for act in ACTS {
                let expected = if !acts.contains(act) {
                    Some("SCOPE_MISSING")
                } else if !of(TO, caller).contains(target) {
                    Some("TARGET_OUTRANKS_CALLER")
                } else if *act == CreateToken && !may_read(target) {
                    Some("FIELD_INVALID")
                } else {
                    None
                };
                let seen = reason(act.perform(&client, &name, &ids).await);
                if seen.as_deref() != expected {
                    wrong.push(format!("{caller}, {act:?}, {target:?}: expected {expected:?}, got {seen:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn the_refusal_names_the_scopes_that_the_caller_lacks() {
    let h = Harness::start().await;
    let ann = h.person("ann", &["operator"]).await;
    h.create("bob", &["auditor", "verifier"], PASSWORD).await;
    let refusal = refused(ann.client.lock("bob").await, Code::PermissionDenied, "TARGET_OUTRANKS_CALLER");
    assert_eq!(refusal.metadata("missingScopes"), "audit.read tokens.introspect");
}

/// The scopes of a viewer.
const VIEWER: [&str; 6] =
    ["deliveries.read", "policy.read", "sessions.read", "tokens.read", "users.diagnose", "users.read"];

#[tokio::test]
async fn rank_is_of_what_the_token_may_do_and_not_of_what_its_user_may() {
    let h = Harness::start().await;
    h.create("bob", &["viewer"], PASSWORD).await;
    let narrow = h.token(&["users.lock"]).await;
    refused(narrow.lock("bob").await, Code::PermissionDenied, "TARGET_OUTRANKS_CALLER");
    let wide = h.token(&[&["users.lock"], &VIEWER[..]].concat()).await;
    wide.lock("bob").await.expect("a lock");
}

#[tokio::test]
async fn granting_a_role_needs_all_its_scopes() {
    let h = Harness::start().await;
    h.create("bob", &[], PASSWORD).await;
    let program = h.token(&[&["users.write", "roles.write"], &VIEWER[..]].concat()).await;
    let grant = |role: &str| json!({"user": {"username": "bob"}, "addRoles": [role]});
    let create = |name: &str, role: &str| json!({"username": name, "roles": [role]});
    for role in Role::ALL.iter().filter(|role| **role != Role::Viewer) {
        for (method, request) in
            [("UserAdmin/UpdateUser", grant(role.as_str())), ("UserAdmin/CreateUser", create("eve", role.as_str()))]
        {
            refused(program.call(method, request).await, Code::PermissionDenied, "TARGET_OUTRANKS_CALLER");
        }
    }
    assert!(h.operator().await.user("bob").await.roles.is_empty());
    program.call("UserAdmin/UpdateUser", grant("viewer")).await.expect("a role");
    program.call("UserAdmin/CreateUser", create("eve", "viewer")).await.expect("a user with a role");
}

#[tokio::test]
async fn taking_a_role_away_needs_its_scopes_as_well() {
    let h = Harness::start().await;
    h.create("bob", &["auditor"], PASSWORD).await;
    let program = h.token(&["users.write", "roles.write", "users.read"]).await;
    let takes = json!({"user": {"username": "bob"}, "removeRoles": ["auditor"]});
    let answer = program.call("UserAdmin/UpdateUser", takes).await;
    refused(answer, Code::PermissionDenied, "TARGET_OUTRANKS_CALLER");
}

#[tokio::test]
async fn an_api_token_gets_no_scope_that_its_maker_lacks() {
    let h = Harness::start().await;
    h.create("root", &["admin"], PASSWORD).await;
    h.create("bob", &["viewer"], PASSWORD).await;
    let scopes = [&["tokens.write"], &VIEWER[..]].concat();
    let narrow = json!({"login": "root", "password": PASSWORD, "scopes": scopes});
    let answer = h.stranger().await.call("Auth/SignIn", narrow).await.expect("a sign-in");
    let token = answer["progress"]["tokens"]["accessToken"].as_str().expect("a token");
    let root = h.stranger().await.bearing(token);
    let make = |whose: &str, scope: &str| json!({"user": {"username": whose}, "name": "x", "scopes": [scope]});
    for whose in ["bob", "root"] {
        let answer = root.call("UserAdmin/CreateApiToken", make(whose, "users.lock")).await;
        let refusal = refused(answer, Code::PermissionDenied, "TARGET_OUTRANKS_CALLER");
        assert_eq!(refusal.metadata("missingScopes"), "users.lock");
        root.call("UserAdmin/CreateApiToken", make(whose, "users.read")).await.expect("a token");
    }
}

/// A request about the caller's own account, and whether an operator may make it.
fn own_acts(user: &Value, etag: &str, delivery_id: &str) -> Vec<(&'static str, Value, bool)> {
    vec![
        ("ResetPassword", json!({"user": user}), false),
        ("ResetPassword", json!({"user": user, "returnLink": {}}), false),
        ("SendEmailVerification", json!({"user": user}), false),
        ("ResendDelivery", json!({"deliveryId": delivery_id}), false),
        ("CancelDelivery", json!({"deliveryId": delivery_id}), false),
        ("ResetPassword", json!({"user": user, "temporaryPassword": {}}), false),
        ("ResetPassword", json!({"user": user, "setPassword": {"password": PASSWORD}}), false),
        ("ResetPassword", json!({"user": user, "temporaryPassword": {}, "validateOnly": true}), false),
        ("RequirePasswordChange", json!({"user": user}), false),
        ("WaivePasswordChange", json!({"user": user}), false),
        ("ResetSecondFactor", json!({"user": user}), false),
        ("LockUser", json!({"user": user}), false),
        ("DeleteUser", json!({"user": user, "etag": etag}), false),
        ("UpdateUser", json!({"user": user, "removeRoles": ["admin"]}), false),
        ("UpdateUser", json!({"user": user, "addRoles": ["viewer"]}), false),
        ("UpdateUser", json!({"user": user, "addRoles": ["admin"], "validateOnly": true}), true),
        ("UpdateUser", json!({"user": user, "displayName": "Root", "validateOnly": true}), true),
        ("UpdateUser", json!({"user": user, "email": "root@example.org", "validateOnly": true}), false),
        ("GetUser", json!({"user": user}), true),
        ("DiagnoseSignIn", json!({"user": user}), true),
        ("ListUserSessions", json!({"user": user}), true),
        ("UnlockUser", json!({"user": user}), false),
    ]
}

#[tokio::test]
async fn operators_do_to_themselves_only_what_gives_a_thief_no_more() {
    let h = Harness::start().await;
    let operator = h.operator().await;
    let create = json!({
        "username": "root", "roles": ["admin"], "password": PASSWORD, "passwordChangeRequired": false,
        "email": "me@example.org", "externalId": "hr-1",
    });
    operator.call("UserAdmin/CreateUser", create).await.expect("an administrator");
    h.create("other", &["admin"], PASSWORD).await;
    let delivery = delivery_id(&operator, "root", "me@example.org").await;
    let known = operator.user("root").await;
    let all: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let program = h.stranger().await.bearing(&operator.api_token("root", &all).await);
    let person = h.signed_in("root", PASSWORD).await.client;
    let names = [
        json!({"username": "root"}),
        json!({"username": "ROOT"}),
        json!({"id": known.id}),
        json!({"email": "ME@example.org"}),
        json!({"externalId": "hr-1"}),
    ];
    for client in [&person, &program] {
        for name in &names {
            for (method, request, may) in own_acts(name, &known.etag, &delivery) {
                let seen = reason(client.call(&format!("UserAdmin/{method}"), request.clone()).await);
                let expected = (!may).then_some("SELF_ACTION_FORBIDDEN");
                assert_eq!(seen.as_deref(), expected, "{method} {request}");
            }
        }
    }
    assert_eq!(operator.user("root").await.etag, known.etag, "nothing was changed");
}

#[tokio::test]
async fn operators_may_end_their_own_sessions_and_make_and_end_their_own_tokens() {
    let h = Harness::start().await;
    let root = h.admin().await.client;
    let own = json!({"username": "root"});
    let request = json!({"user": own, "name": "mine", "scopes": ["users.read"]});
    let made = root.call("UserAdmin/CreateApiToken", request).await.expect("a token");
    let end = json!({"apiTokenId": made["apiToken"]["id"]});
    root.call("UserAdmin/RevokeApiToken", end).await.expect("its end");
    root.call("UserAdmin/RevokeUserSessions", json!({"user": own})).await.expect("the end of all sessions");
    refused(root.call("Auth/WhoAmI", json!({})).await, Code::Unauthenticated, "SESSION_REVOKED");
}

#[tokio::test]
async fn roles_are_listed_with_their_scopes() {
    let h = Harness::start().await;
    let answer = h.operator().await.call("UserAdmin/ListRoles", json!({})).await.expect("roles");
    let listed: Vec<(String, String)> = answer["roles"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|role| {
            assert!(!role["description"].as_str().unwrap_or_default().is_empty(), "{role}");
            let scopes: Vec<&str> =
                role["scopes"].as_array().expect("scopes").iter().filter_map(Value::as_str).collect();
            (role["name"].as_str().unwrap_or_default().to_owned(), scopes.join(" "))
        })
        .collect();
    let expected = [
        (
            "admin",
            "audit.read auth.proxy deliveries.read deliveries.resend mfa.reset policy.read policy.write roles.write \
             sessions.read sessions.revoke \
             tokens.introspect tokens.read tokens.revoke tokens.write users.delete users.diagnose users.email users.lock \
             users.read users.reset users.reset.secrets users.reset.temporary users.write",
        ),
        ("app", "auth.proxy tokens.introspect"),
        ("auditor", "audit.read policy.read users.read"),
        (
            "helpdesk",
            "deliveries.read deliveries.resend policy.read sessions.read sessions.revoke tokens.read users.diagnose users.lock \
             users.read users.reset users.reset.temporary",
        ),
        (
            "operator",
            "deliveries.read deliveries.resend mfa.reset policy.read sessions.read sessions.revoke tokens.read tokens.revoke users.diagnose \
             users.email users.lock users.read users.reset users.reset.secrets users.reset.temporary users.write",
        ),
        ("verifier", "tokens.introspect"),
        ("viewer", "deliveries.read policy.read sessions.read tokens.read users.diagnose users.read"),
    ];
    let expected: Vec<(String, String)> = expected.iter().map(|(n, s)| ((*n).to_owned(), (*s).to_owned())).collect();
    assert_eq!(listed, expected);
}

#[test]
fn every_method_that_changes_an_account_is_in_the_tables_of_this_file() {
    // The methods that name a user and change something. A new one belongs in `Act`, and in `own_acts` if it applies.
    let changing: Vec<String> = crate::harness::raw::methods()
        .iter()
        .filter(|method| method.parent_service().name() == "UserAdmin")
        .map(short_name)
        .filter(|name| !["/List", "/Get", "/Diagnose"].iter().any(|reads| name.contains(reads)))
        .collect();
    let known = [
        "CancelDelivery",
        "CreateApiToken",
        "CreateUser",
        "DeleteUser",
        "LockUser",
        "RequirePasswordChange",
        "ResendDelivery",
        "ResetPassword",
        "ResetSecondFactor",
        "RevokeApiToken",
        "RevokeUserSessions",
        "SendEmailVerification",
        "UnlockUser",
        // Of no account.
        "UpdateSignInPolicy",
        "UpdateUser",
        "WaivePasswordChange",
    ];
    for name in &changing {
        assert!(known.iter().any(|known| name.ends_with(&format!("/{known}"))), "{name} is in no table");
    }
}
