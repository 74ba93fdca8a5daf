//! A server with test data for each method, and a valid request for each method.

use latchkey::proto::v1;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::{Value, json};

use crate::harness::actors::named;
use crate::harness::raw::{methods, request, short_name};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, eventually};

/// The server and its callers. Each method changes its own users, so that the methods do not affect each other.
pub struct World {
    pub h: Harness,
    examples: Vec<(&'static str, Client, Value)>,
}

impl World {
    /// No limits on wrong passwords, because there are thousands, and tokens that outlive the test on a slow machine.
    pub async fn open() -> World {
        let h = Harness::with(|config| {
            config.throttle.threshold = 0;
            config.throttle.lockout_threshold = 0;
            config.token.access_ttl = std::time::Duration::from_hours(1);
            config.session.admin_idle = config.session.idle;
        })
        .await;
        let examples = examples(&h).await;
        World { h, examples }
    }

    /// Every method with its caller and a valid request.
    pub fn methods(&self) -> Vec<(MethodDescriptor, Client, DynamicMessage)> {
        let of = |method: MethodDescriptor| {
            let name = short_name(&method);
            let example = self.examples.iter().find(|(short, ..)| *short == name);
            let (_, client, json) = example.unwrap_or_else(|| panic!("{name} has no example"));
            let message = request(&method, json);
            (method, client.clone(), message)
        };
        methods().into_iter().map(of).collect()
    }
}

async fn person(h: &Harness, username: &str) -> Client {
    h.user(username).await.client
}

/// A valid request for each method, with a value in every field that can be combined with the others.
async fn examples(h: &Harness) -> Vec<(&'static str, Client, Value)> {
    let root = h.admin().await.client;
    let mut examples = of_users(h, &root).await;
    examples.extend(of_passwords_and_tokens(h, &root).await);
    examples.extend(of_oneself(h, &root).await);
    examples.extend(of_mail(h, &root).await);
    examples.extend(of_second_factors(h, &root).await);
    // All mail has gone out, so that no table changes any more by itself.
    let waiting =
        || async { (h.query("SELECT id FROM delivery WHERE contents IS NOT NULL").await).is_empty().then_some(()) };
    eventually("all mail has gone out", waiting).await;
    examples.extend(of_events(h, &root).await);
    examples
}

fn user(name: &str) -> Value {
    json!({"username": name})
}

async fn of_users(h: &Harness, root: &Client) -> Vec<(&'static str, Client, Value)> {
    for name in ["bob", "locked", "unlocked", "demanded", "waived", "reset", "revoked"] {
        h.create(name, &["viewer"], PASSWORD).await;
    }
    let address = json!({"user": user("reset"), "email": "reset@example.org"});
    root.call("UserAdmin/UpdateUser", address).await.expect("an address");
    let bob = root.user("bob").await;
    let session = h.signed_in("revoked", PASSWORD).await.tokens.session_id;
    let list = json!({
        "pageSize": 10, "order": "USER_ORDER_USERNAME", "includeTotal": true,
        "filter": {
            "text": "b", "states": ["USER_STATE_ACTIVE"], "kinds": ["USER_KIND_PERSON"],
            "lockCauses": ["LOCK_CAUSE_OPERATOR"], "flags": ["USER_FLAG_MUST_CHANGE"],
            "withoutFlags": ["USER_FLAG_THROTTLED"], "roles": ["viewer"], "userIds": [bob.id], "needsAttention": true,
            "signInAbilities": ["SIGN_IN_ABILITY_KIND_NO"],
        },
    });
    let profile = json!({
        "username": "carol", "email": "carol@example.org", "displayName": "Carol", "locale": "de-CH",
        "externalId": "hr-7", "labels": {"team": "night"}, "note": "a note", "validateOnly": true,
    });
    let with = |more: Value| {
        let mut all = profile.clone();
        let Value::Object(more) = more else { panic!("an object") };
        all.as_object_mut().expect("an object").extend(more);
        all
    };
    let create = with(json!({
        "kind": "USER_KIND_PERSON", "roles": ["viewer"], "password": PASSWORD, "passwordChangeRequired": true,
    }));
    let update = with(json!({
        "user": user("bob"), "addRoles": ["auditor"], "removeRoles": ["viewer"], "etag": bob.etag,
    }));
    let calls = [
        ("UserAdmin/ListUsers", list),
        ("UserAdmin/GetUser", json!({"user": user("bob")})),
        ("UserAdmin/DiagnoseSignIn", json!({"user": user("bob"), "clientAddress": "192.0.2.7", "maxAttempts": 3})),
        ("UserAdmin/CreateUser", create),
        ("UserAdmin/UpdateUser", update),
        ("UserAdmin/DeleteUser", json!({"user": user("bob"), "etag": bob.etag, "note": "a", "validateOnly": true})),
        (
            "UserAdmin/LockUser",
            json!({"user": user("locked"), "cause": "LOCK_CAUSE_OPERATOR", "note": "a", "duration": "60s"}),
        ),
        ("UserAdmin/UnlockUser", json!({"user": user("unlocked"), "note": "a"})),
        ("UserAdmin/RequirePasswordChange", json!({"user": user("demanded"), "revokeSessions": true, "note": "a"})),
        ("UserAdmin/WaivePasswordChange", json!({"user": user("waived"), "note": "a"})),
        ("UserAdmin/ListUserSessions", json!({"user": user("bob"), "pageSize": 10, "includeEnded": true})),
        ("UserAdmin/RevokeUserSessions", json!({"user": user("revoked"), "sessionIds": [session], "note": "a"})),
        ("UserAdmin/ListRoles", json!({})),
    ];
    calls.into_iter().map(|(method, json)| (method, root.clone(), json)).collect()
}

async fn of_passwords_and_tokens(h: &Harness, root: &Client) -> Vec<(&'static str, Client, Value)> {
    let service = v1::CreateUserRequest {
        username: "robot".to_owned(),
        kind: v1::UserKind::Service.into(),
        roles: vec!["verifier".to_owned()],
        ..Default::default()
    };
    h.operator().await.create(service).await.expect("a service");
    let token = |name: &str| v1::CreateApiTokenRequest {
        user: Some(named("robot")),
        name: name.to_owned(),
        scopes: vec!["tokens.introspect".to_owned()],
        ttl: None,
    };
    let made = root.user_admin().create_api_token(token("good")).await.expect("a token").into_inner();
    let revoked = root.user_admin().create_api_token(token("revoked")).await.expect("a token").into_inner();
    let revoked = revoked.api_token.expect("a token").id;
    let reset = json!({
        "user": user("reset"), "setPassword": {"password": OTHER_PASSWORD}, "unlock": true, "note": "a",
        "validateOnly": true,
    });
    let creation = json!({"user": user("robot"), "name": "a tool", "scopes": ["tokens.introspect"], "ttl": "3600s"});
    let calls = [
        ("UserAdmin/ResetPassword", reset),
        ("UserAdmin/CreateApiToken", creation),
        ("UserAdmin/ListApiTokens", json!({"user": user("robot"), "pageSize": 10})),
        ("UserAdmin/RevokeApiToken", json!({"apiTokenId": revoked, "note": "a"})),
        ("Auth/IntrospectToken", json!({"token": made.secret, "audience": "latchkey"})),
    ];
    calls.into_iter().map(|(method, json)| (method, root.clone(), json)).collect()
}

async fn of_oneself(h: &Harness, root: &Client) -> Vec<(&'static str, Client, Value)> {
    let stranger = h.stranger().await;
    for name in ["signer", "refresher", "changer"] {
        h.create(name, &["viewer"], PASSWORD).await;
    }
    root.require_change("changer").await.expect("a demand");
    let ticket = stranger.change_step("changer", PASSWORD).await.expect("a step").ticket;
    let refresh = h.signed_in("refresher", PASSWORD).await.tokens.refresh_token;
    let device = h.signed_in("signer", PASSWORD).await.tokens.device_token;
    let sign_in = json!({
        "login": "signer", "password": PASSWORD, "clientName": "a test", "audiences": ["billing"], "scopes": ["users.read"],
        "deviceToken": device,
    });
    let refresh = json!({"refreshToken": refresh, "audiences": ["latchkey"], "scopes": ["users.read"]});
    let change = json!({"currentPassword": PASSWORD, "newPassword": OTHER_PASSWORD, "validateOnly": true});
    let complete = json!({"ticket": ticket, "newPassword": OTHER_PASSWORD, "validateOnly": true});
    let leaver = person(h, "leaver").await;
    let ended = h.signed_in("leaver", PASSWORD).await.tokens.session_id;
    vec![
        ("Auth/SignIn", stranger.clone(), sign_in),
        ("Auth/CompletePasswordChange", stranger.clone(), complete),
        ("Auth/RequestPasswordReset", stranger.clone(), json!({"login": "signer", "locale": "de"})),
        ("Auth/ChangePassword", person(h, "changes").await, change),
        ("Auth/Reauthenticate", person(h, "proves").await, json!({"password": PASSWORD})),
        ("Auth/RefreshTokens", stranger.clone(), refresh),
        ("Auth/ListSessions", person(h, "lists").await, json!({"pageSize": 10})),
        ("Auth/RevokeSession", leaver, json!({"sessionId": ended})),
        ("Auth/WhoAmI", person(h, "asks").await, json!({})),
        ("Auth/GetSigningKeys", stranger, json!({"etag": "abc"})),
    ]
}

/// No ticket is real, and no user has a second factor: a code works once, and thousands of requests repeat it.
async fn of_second_factors(h: &Harness, root: &Client) -> Vec<(&'static str, Client, Value)> {
    let stranger = h.stranger().await;
    h.create("factorless", &["viewer"], PASSWORD).await;
    let ticket = "lkt_0000000000000000000000000000000000000000000";
    let code = json!({"totp": "000000"});
    let policy = json!({
        "policy": {"secondFactorRequired": false, "secondFactorRoles": {"names": ["auditor"]},
            "secondFactorRequiredFromTime": "2126-01-01T00:00:00Z",
            "maxAge": "7776000s", "expiryWarnings": {"before": ["86400s"]},
            "maxInactivity": "15552000s", "inactivityWarnings": {"before": ["86400s"]}},
        "preset": "SIGN_IN_POLICY_PRESET_NIST", "note": "a", "validateOnly": true, "includeImpact": true,
    });
    vec![
        ("Auth/VerifySecondFactor", stranger.clone(), json!({"ticket": ticket, "secondFactor": code})),
        ("Auth/EnrollTotp", person(h, "enrols").await, json!({"accountLabel": "a label"})),
        ("Auth/ConfirmTotp", stranger, json!({"ticket": ticket, "code": "000000"})),
        ("Auth/DisableTotp", person(h, "disables").await, json!({"secondFactor": code})),
        ("Auth/RegenerateRecoveryCodes", person(h, "regenerates").await, json!({"secondFactor": code})),
        ("UserAdmin/ResetSecondFactor", root.clone(), json!({"user": user("factorless"), "note": "a"})),
        ("UserAdmin/GetSignInPolicy", root.clone(), json!({"includeImpact": true})),
        ("UserAdmin/UpdateSignInPolicy", root.clone(), policy),
    ]
}

/// A user gets ten messages an hour, so the valid calls that send one repeat an earlier call.
async fn of_mail(h: &Harness, root: &Client) -> Vec<(&'static str, Client, Value)> {
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    for name in ["mailed", "resent", "linked", "verified", "canceller"] {
        h.create(name, &["viewer"], PASSWORD).await;
        let request = json!({"user": user(name), "email": format!("{name}@example.org")});
        operator.call("UserAdmin/UpdateUser", request).await.expect("an address");
    }
    let sent = async |name: &str| {
        let sent = operator.call("UserAdmin/SendEmailVerification", json!({"user": user(name)})).await;
        let id = sent.expect("a message")["delivery"]["id"].as_str().expect("an id").to_owned();
        h.mail_of(&v1::Delivery { id: id.clone(), ..Default::default() }).await;
        id
    };
    let key = "6f1d2c1e-4b1f-4a6e-9d3c-0a7e5b2f8c11";
    let verification = json!({"user": user("mailed"), "note": "a", "idempotencyKey": key});
    root.call("UserAdmin/SendEmailVerification", verification.clone()).await.expect("a message");
    let delivery = sent("resent").await;
    let moved = json!({"user": user("resent"), "email": "resent@example.net"});
    operator.call("UserAdmin/UpdateUser", moved).await.expect("another address");
    let resent = json!({"deliveryId": delivery, "note": "a", "idempotencyKey": key.replace("11", "12")});
    root.call("UserAdmin/ResendDelivery", resent.clone()).await.expect("a message");

    let returned = json!({"user": user("linked"), "returnLink": {}});
    let answer = operator.call("UserAdmin/ResetPassword", returned).await.expect("a link");
    let link = answer["resetLink"].as_str().and_then(|url| url.split_once("token=")).expect("a token").1.to_owned();
    let mail_to = async |name: &str| h.mail_of(&v1::Delivery { id: sent(name).await, ..Default::default() }).await;
    // The link works once, so it is used.
    let verify = json!({"linkToken": mail_to("verified").await.token("verify")});
    stranger.call("Auth/VerifyEmail", verify.clone()).await.expect("an address that is confirmed");
    let cancel = json!({"cancelToken": mail_to("canceller").await.token("cancel")});
    stranger.call("Auth/CancelLink", cancel.clone()).await.expect("no link");

    let list = json!({
        "pageSize": 10, "user": user("mailed"), "kinds": ["DELIVERY_KIND_EMAIL_VERIFICATION"],
        "states": ["DELIVERY_STATE_ACCEPTED"],
    });
    let choose = json!({"linkToken": link, "newPassword": OTHER_PASSWORD, "validateOnly": true});
    vec![
        ("Auth/InspectLink", stranger.clone(), json!({"linkToken": link})),
        ("Auth/GetPasswordRules", stranger.clone(), json!({})),
        (
            "Auth/CheckPasswordStrength",
            // The local socket has no source that is limited.
            h.operator().await,
            json!({"password": PASSWORD, "userInputs": ["ada"], "language": "de"}),
        ),
        ("Auth/CompletePasswordReset", stranger.clone(), choose),
        ("Auth/VerifyEmail", stranger.clone(), verify),
        ("Auth/CancelLink", stranger, cancel),
        ("UserAdmin/SendEmailVerification", root.clone(), verification),
        ("UserAdmin/ResendDelivery", root.clone(), resent),
        ("UserAdmin/GetDelivery", root.clone(), json!({"deliveryId": delivery})),
        ("UserAdmin/ListDeliveries", root.clone(), list),
        ("UserAdmin/CancelDelivery", root.clone(), json!({"deliveryId": delivery, "note": "a"})),
        ("UserAdmin/GetMailStatus", root.clone(), json!({})),
    ]
}

async fn of_events(h: &Harness, root: &Client) -> Vec<(&'static str, Client, Value)> {
    let event = h.operator().await.events().await.pop().expect("an event").id;
    let list = json!({
        "pageSize": 10,
        "filter": {
            "time": {"startTime": "2020-01-01T00:00:00Z", "endTime": "2120-01-01T00:00:00Z"},
            "types": ["EVENT_TYPE_USER_CREATED"], "outcomes": ["EVENT_OUTCOME_SUCCEEDED"], "actors": ["root"],
            "targets": ["bob"], "requestId": "abc",
        },
    });
    let calls = [("Audit/ListEvents", list), ("Audit/GetEvent", json!({"eventId": event}))];
    calls.into_iter().map(|(method, json)| (method, root.clone(), json)).collect()
}
