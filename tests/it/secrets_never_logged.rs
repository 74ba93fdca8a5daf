//! Secrets reach only their holder: neither the log, nor the database, nor answers to other readers contain them.
//!
//! One scenario calls every method of the contract with secrets. The harness searches all log output at TRACE; see
//! `harness/log.rs`.

use std::collections::BTreeSet;
use std::sync::Mutex;

use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER};
use latchkey::proto::v1;
use serde_json::{Value, json};
use tonic::Status;

use crate::harness::factor::Authenticator;
use crate::harness::raw::{methods, short_name};
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD, eventually, log};

/// Texts read by someone other than the holder of the secrets.
const READS: &[&str] = &[
    "Audit/GetEvent",
    "Audit/ListEvents",
    "Auth/GetPasswordRules",
    "Auth/GetSigningKeys",
    "Auth/InspectLink",
    "Auth/IntrospectToken",
    "Auth/ListSessions",
    "Auth/WhoAmI",
    "UserAdmin/DiagnoseSignIn",
    "UserAdmin/GetDelivery",
    "UserAdmin/GetMailStatus",
    "UserAdmin/GetSignInPolicy",
    "UserAdmin/GetUser",
    "UserAdmin/ListApiTokens",
    "UserAdmin/ListDeliveries",
    "UserAdmin/ListRoles",
    "UserAdmin/ListUserSessions",
    "UserAdmin/ListUsers",
];

/// What a scenario has called, received, and read.
#[derive(Default)]
struct Record {
    called: Mutex<BTreeSet<String>>,
    secrets: Mutex<Vec<(&'static str, String)>>,
    read: Mutex<Vec<String>>,
}

impl Record {
    async fn call(&self, client: &Client, method: &str, request: Value) -> Result<Value, Status> {
        self.called.lock().expect("a lock").insert(method.to_owned());
        let answer = client.call(method, request).await;
        let text = match &answer {
            Ok(answer) if READS.contains(&method) => answer.to_string(),
            Ok(_) => String::new(),
            // The message of an error.
            Err(status) => {
                format!("{} {:?} {}", status.message(), status.metadata(), String::from_utf8_lossy(status.details()))
            }
        };
        self.read.lock().expect("a lock").push(format!("{method}: {text}"));
        answer
    }

    async fn done(&self, client: &Client, method: &str, request: Value) -> Value {
        self.call(client, method, request).await.unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    /// Records a secret and returns it.
    fn secret(&self, what: &'static str, value: &Value) -> String {
        let text = value.as_str().unwrap_or_else(|| panic!("no {what}")).to_owned();
        assert!(!text.is_empty(), "no {what}");
        self.secrets.lock().expect("a lock").push((what, text.clone()));
        text
    }
}

fn bob() -> Value {
    json!({"username": "bob"})
}

/// Passwords of every kind, tickets and tokens.
async fn passwords(h: &Harness, record: &Record, root: &Client) -> String {
    let stranger = h.stranger().await;
    let create = json!({"username": "bob", "email": "bob@example.org", "roles": ["viewer"], "temporaryPassword": {}, "note": "new"});
    let created = record.done(root, "UserAdmin/CreateUser", create).await;
    let temporary = record.secret("temporary password", &created["temporaryPassword"]);
    record.done(&stranger, "Auth/RequestPasswordReset", json!({"login": "bob"})).await;
    let mail = eventually("the mail", || async { h.mails().pop() }).await;
    record.secret("link", &json!(mail.token("reset")));
    record.secret("cancel token", &json!(mail.token("cancel")));
    let signed_in = record.done(&stranger, "Auth/SignIn", json!({"login": "bob", "password": temporary})).await;
    let ticket = record.secret("ticket", &signed_in["progress"]["passwordChange"]["ticket"]);
    let short = json!({"ticket": ticket, "newPassword": "c4nary"});
    record.call(&stranger, "Auth/CompletePasswordChange", short).await.expect_err("too short");
    let complete = json!({"ticket": ticket, "newPassword": PASSWORD});
    let completed = record.done(&stranger, "Auth/CompletePasswordChange", complete).await;
    let tokens = &completed["progress"]["tokens"];
    record.secret("access token", &tokens["accessToken"]);
    let device = record.secret("device token", &tokens["deviceToken"]);
    let again = json!({"login": "bob", "password": PASSWORD, "deviceToken": device});
    let again = record.done(&stranger, "Auth/SignIn", again).await;
    record.secret("device token", &again["progress"]["tokens"]["deviceToken"]);
    let garbled = json!({"login": "bob", "password": PASSWORD, "deviceToken": format!("{device}x")});
    record.done(&stranger, "Auth/SignIn", garbled).await;
    let wrong = json!({"login": "bob", "password": "a wrong c4nary of some length", "deviceToken": device});
    record.call(&stranger, "Auth/SignIn", wrong).await.expect_err("wrong");
    let refresh = record.secret("refresh token", &tokens["refreshToken"]);
    let refreshed = record.done(&stranger, "Auth/RefreshTokens", json!({"refreshToken": refresh})).await;
    record.secret("refresh token", &refreshed["tokens"]["refreshToken"]);
    let access = record.secret("access token", &refreshed["tokens"]["accessToken"]);

    let wrong = json!({"login": "bob", "password": "a wrong c4nary of some length"});
    record.call(&stranger, "Auth/SignIn", wrong).await.expect_err("wrong");
    // People type passwords into name fields and other wrong places.
    let misplaced = json!({"login": "c4nary typed as a name", "password": PASSWORD});
    record.call(&stranger, "Auth/SignIn", misplaced).await.expect_err("unknown");
    let not_text = json!({"login": "bob", "password": "c4nary\u{0}\u{7}".repeat(4)});
    record.call(&stranger, "Auth/SignIn", not_text).await.expect_err("wrong");
    let user = stranger.bearing(&access);
    let wrong = json!({"currentPassword": "a wrong c4nary of some length", "newPassword": OTHER_PASSWORD});
    record.call(&user, "Auth/ChangePassword", wrong).await.expect_err("wrong");
    let proved = record.done(&user, "Auth/Reauthenticate", json!({"password": PASSWORD})).await;
    record.secret("access token", &proved["tokens"]["accessToken"]);
    record.secret("refresh token", &proved["tokens"]["refreshToken"]);
    let wrong = json!({"password": "a wrong c4nary of some length"});
    record.call(&user, "Auth/Reauthenticate", wrong).await.expect_err("wrong");
    let change = json!({"currentPassword": PASSWORD, "newPassword": OTHER_PASSWORD});
    record.done(&user, "Auth/ChangePassword", change).await;
    access
}

/// A second factor that is set up, used, lost and reset. Returns the key of the authenticator and a recovery code.
async fn second_factor(h: &Harness, record: &Record, root: &Client) -> [String; 2] {
    let stranger = h.stranger().await;
    let eve = h.user("eve").await.client;
    let started = record.done(&eve, "Auth/EnrollTotp", json!({})).await;
    let key = record.secret("key of an authenticator", &started["secret"]);
    let authenticator = Authenticator::with(&key, Vec::new());
    let ticket = record.secret("ticket", &started["ticket"]);
    let confirm = |code: String| json!({"ticket": ticket, "code": code});
    record.call(&stranger, "Auth/ConfirmTotp", confirm("c4nary".to_owned())).await.expect_err("wrong");
    let confirmed = record.done(&stranger, "Auth/ConfirmTotp", confirm(authenticator.shows(h, 0))).await;
    let codes = confirmed["recoveryCodes"].as_array().expect("codes").clone();
    let recovery: Vec<String> = codes.iter().map(|code| record.secret("recovery code", code)).collect();
    let sign_in = async |proof: Value| {
        let answer = record.done(&stranger, "Auth/SignIn", json!({"login": "eve", "password": PASSWORD})).await;
        let ticket = record.secret("ticket", &answer["progress"]["secondFactor"]["ticket"]);
        record.call(&stranger, "Auth/VerifySecondFactor", json!({"ticket": ticket, "secondFactor": proof})).await
    };
    sign_in(json!({"totp": "a c4nary instead of a code"})).await.expect_err("wrong");
    sign_in(json!({"recoveryCode": "a c4nary instead of a code"})).await.expect_err("wrong");
    sign_in(json!({"recoveryCode": recovery[0]})).await.expect("a session");
    h.next_code();
    let code = json!({"secondFactor": {"totp": authenticator.shows(h, 0)}});
    let codes = record.done(&eve, "Auth/RegenerateRecoveryCodes", code).await;
    let code = record.secret("recovery code", &codes["recoveryCodes"][0]);
    h.next_code();
    let disable = json!({"secondFactor": {"totp": authenticator.shows(h, 0)}});
    record.done(&eve, "Auth/DisableTotp", disable).await;
    record.done(root, "UserAdmin/ResetSecondFactor", json!({"user": {"username": "eve"}})).await;
    record.done(root, "UserAdmin/GetSignInPolicy", json!({"includeImpact": true})).await;
    let policy = json!({"policy": {"secondFactorRequired": false}});
    record.done(root, "UserAdmin/UpdateSignInPolicy", policy).await;
    [key, code]
}

/// The mail of a message, whose tokens are secrets; `page` is what its link opens.
async fn mailed(h: &Harness, record: &Record, answer: &Value, page: &str) -> (String, String) {
    let id = answer["delivery"]["id"].as_str().expect("an id").to_owned();
    let mail = h.mail_of(&v1::Delivery { id, ..Default::default() }).await;
    let link = record.secret("link", &json!(mail.token(page)));
    let cancel = record.secret("cancel token", &json!(mail.token("cancel")));
    (link, cancel)
}

/// Links and passwords that go by mail, and links that an operator passes on.
async fn mail_and_links(h: &Harness, record: &Record, root: &Client) -> [String; 2] {
    let stranger = h.stranger().await;
    let invite = |name: &str, how: &str| json!({"username": name, "email": format!("{name}@example.org"), how: {}});
    let invited = record.done(root, "UserAdmin/CreateUser", invite("carol", "invite")).await;
    mailed(h, record, &invited, "invite").await;
    let invited = record.done(root, "UserAdmin/CreateUser", invite("dave", "returnInvite")).await;
    record.secret("link", &json!(token_of(&invited["inviteLink"])));

    let password = record.secret("password", &json!("a c4nary that is only judged"));
    record.done(&stranger, "Auth/CheckPasswordStrength", json!({"password": password})).await;
    record.done(&stranger, "Auth/GetPasswordRules", json!({})).await;
    let sent = record.done(root, "UserAdmin/SendEmailVerification", json!({"user": bob()})).await;
    let (verify, _) = mailed(h, record, &sent, "verify").await;
    record.done(&stranger, "Auth/InspectLink", json!({"linkToken": verify})).await;
    record.done(&stranger, "Auth/VerifyEmail", json!({"linkToken": verify})).await;
    record.call(&stranger, "Auth/VerifyEmail", json!({"linkToken": verify})).await.expect_err("used up");

    let sent = record.done(root, "UserAdmin/ResetPassword", json!({"user": bob(), "sendLink": {}})).await;
    let (_, cancel) = mailed(h, record, &sent, "reset").await;
    record.done(&stranger, "Auth/CancelLink", json!({"cancelToken": cancel})).await;
    let id = json!({"deliveryId": sent["delivery"]["id"]});
    record.done(root, "UserAdmin/GetDelivery", id.clone()).await;
    h.clock.advance(std::time::Duration::from_mins(1));
    let again = record.done(root, "UserAdmin/ResendDelivery", id).await;
    mailed(h, record, &again, "reset").await;
    record.done(root, "UserAdmin/CancelDelivery", json!({"deliveryId": again["delivery"]["id"]})).await;

    let by_mail = json!({"user": bob(), "temporaryPassword": {"handover": "HANDOVER_MAIL"}});
    let reset = record.done(root, "UserAdmin/ResetPassword", by_mail).await;
    assert!(reset["temporaryPassword"].is_null(), "it is only mailed");
    let id = reset["delivery"]["id"].as_str().expect("an id").to_owned();
    let mail = h.mail_of(&v1::Delivery { id, ..Default::default() }).await;
    let is_one = |word: &&str| word.len() == 17 && word.split('-').all(|group| group.len() == 5);
    let temporary = mail.text.split_whitespace().find(is_one).expect("a password");
    record.secret("temporary password", &json!(temporary));

    let reset = record.done(root, "UserAdmin/ResetPassword", json!({"user": bob(), "returnLink": {}})).await;
    let link = record.secret("link", &json!(token_of(&reset["resetLink"])));
    let short = json!({"linkToken": link, "newPassword": "c4nary"});
    record.call(&stranger, "Auth/CompletePasswordReset", short).await.expect_err("too short");
    let complete = json!({"linkToken": link, "newPassword": PASSWORD});
    record.done(&stranger, "Auth/CompletePasswordReset", complete).await;
    record.done(root, "UserAdmin/ListDeliveries", json!({})).await;
    record.done(root, "UserAdmin/GetMailStatus", json!({})).await;
    [link, cancel]
}

/// The token behind `token=` in a link.
fn token_of(url: &Value) -> &str {
    url.as_str().and_then(|url| url.split_once("token=")).expect("a link").1
}

/// What operators do and read.
async fn administration(record: &Record, root: &Client, user: &Client, access: &str) -> String {
    let request = json!({"user": bob(), "name": "bob's", "scopes": ["users.read"]});
    let made = record.done(root, "UserAdmin/CreateApiToken", request).await;
    let api_token = record.secret("API token", &made["secret"]);
    for token in [access, api_token.as_str(), "lka_garbage"] {
        record.done(root, "Auth/IntrospectToken", json!({"token": token})).await;
    }
    for (client, method) in [
        (user, "Auth/WhoAmI"),
        (user, "Auth/ListSessions"),
        (user, "Auth/GetSigningKeys"),
        (root, "UserAdmin/ListUsers"),
        (root, "UserAdmin/ListRoles"),
        (root, "UserAdmin/ListApiTokens"),
    ] {
        record.done(client, method, json!({})).await;
    }
    for method in [
        "GetUser",
        "DiagnoseSignIn",
        "ListUserSessions",
        "RequirePasswordChange",
        "WaivePasswordChange",
        "LockUser",
        "UnlockUser",
    ] {
        record.done(root, &format!("UserAdmin/{method}"), json!({"user": bob()})).await;
    }
    record.done(root, "UserAdmin/UpdateUser", json!({"user": bob(), "displayName": "Bob"})).await;
    record.done(root, "UserAdmin/RevokeUserSessions", json!({"user": bob()})).await;
    let set = json!({"user": bob(), "setPassword": {"password": "chosen by an operator c4nary"}});
    record.done(root, "UserAdmin/ResetPassword", set).await;
    let reset = json!({"user": bob(), "temporaryPassword": {}});
    let reset = record.done(root, "UserAdmin/ResetPassword", reset).await;
    record.secret("temporary password", &reset["temporaryPassword"]);
    record.done(root, "UserAdmin/RevokeApiToken", json!({"apiTokenId": made["apiToken"]["id"]})).await;
    let events = record.done(root, "Audit/ListEvents", json!({"pageSize": 500})).await;
    record.done(root, "Audit/GetEvent", json!({"eventId": events["events"][0]["id"]})).await;
    api_token
}

/// Calls every method and returns the record.
async fn scenario(h: &Harness) -> Record {
    let record = Record::default();
    let root = h.admin().await;
    let access = passwords(h, &record, &root.client).await;
    let [link, cancel] = mail_and_links(h, &record, &root.client).await;
    let [key, recovery] = second_factor(h, &record, &root.client).await;
    let signed_in = json!({"login": "bob@example.org", "password": PASSWORD, "clientName": "phone"});
    let answer = record.done(&h.stranger().await, "Auth/SignIn", signed_in).await;
    let again = record.secret("access token", &answer["progress"]["tokens"]["accessToken"]);
    let user = h.stranger().await.bearing(&again);
    let api_token = administration(&record, &root.client, &user, &access).await;

    // Secrets in places where they are invalid.
    for misused in
        [&access, &api_token, &link, &cancel, &key, &recovery, &"a password c4nary as a token".replace(' ', "-")]
    {
        let client = h.stranger().await.bearing(misused).with("latchkey-app", misused);
        record.call(&client, "UserAdmin/ListUsers", json!({})).await.expect_err("not good");
        let fields = json!({"user": {"username": misused}, "etag": misused, "note": ""});
        record.call(&root.client, "UserAdmin/LockUser", fields).await.expect_err("not a name");
        record.call(&root.client, "UserAdmin/ListUsers", json!({"pageToken": misused})).await.expect_err("no page");
    }
    let etag = record.done(&root.client, "UserAdmin/GetUser", json!({"user": bob()})).await["user"]["etag"].clone();
    // Read before the user is deleted, because deletion removes the rows.
    h.assert_no_secret_is_stored(&record).await;
    record.done(&root.client, "UserAdmin/DeleteUser", json!({"user": bob(), "etag": etag})).await;
    record.done(&root.client, "Auth/RevokeSession", json!({})).await;
    record
        .secrets
        .lock()
        .expect("a lock")
        .extend([("password", PASSWORD), ("password", OTHER_PASSWORD)].map(|(w, s)| (w, s.to_owned())));
    record
}

/// The forms in which a secret could appear: unchanged, in parts, and each of them encoded.
fn forms(secret: &str) -> BTreeSet<String> {
    let mut plain = vec![secret.as_bytes().to_vec(), secret.replace('-', "").into_bytes()];
    // The random part of a token, also as raw bytes.
    let random = match secret.split_at_checked(4) {
        Some(("lka_", rest)) => &rest[27..],
        Some(("lkt_" | "lkr_" | "lkd_" | "lkl_" | "lkc_", rest)) => rest,
        _ => secret.rsplit_once('.').map_or(secret, |(_, signature)| signature),
    };
    plain.push(random.as_bytes().to_vec());
    let mut forms = BTreeSet::new();
    if let Ok(bytes) = BASE64URL_NOPAD.decode(random.as_bytes()) {
        for encoded in [HEXLOWER.encode(&bytes), BASE64.encode(&bytes), BASE64URL.encode(&bytes)] {
            forms.insert(encoded);
        }
    }
    for bytes in plain {
        forms.insert(String::from_utf8_lossy(&bytes).into_owned());
        forms.insert(HEXLOWER.encode(&bytes));
        forms.insert(BASE64.encode(&bytes));
        forms.insert(BASE64URL_NOPAD.encode(&bytes));
        forms.insert(BASE32_NOPAD.encode(&bytes));
    }
    // The end of an encoding depends on what follows, and a different case does not hide a secret.
    forms.into_iter().map(|form| form.trim_end_matches('=').to_lowercase()).filter(|form| form.len() >= 15).collect()
}

impl Harness {
    /// All text and blob values of all tables. Blobs as hex.
    async fn dump(&self) -> Vec<(String, String)> {
        let (columns, blob): (&str, fn(&str) -> String) = if self.is_postgres() {
            (
                "SELECT table_name || '.' || column_name || '.' || data_type FROM information_schema.columns \
                 WHERE table_schema = current_schema()",
                |column| format!("encode({column}, 'hex')"),
            )
        } else {
            (
                "SELECT m.name || '.' || c.name || '.' || c.type FROM sqlite_master m JOIN pragma_table_info(m.name) c \
                 WHERE m.type = 'table'",
                |column| format!("hex({column})"),
            )
        };
        let mut dump = Vec::new();
        for name in self.query(columns).await {
            let [table, column, kind] = name.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
            let quoted = format!("\"{column}\"");
            let is_blob = ["blob", "bytea"].contains(&kind.to_lowercase().as_str());
            let value = if is_blob { blob(&quoted) } else { format!("CAST({quoted} AS TEXT)") };
            let rows = self.query(&format!("SELECT {value} FROM \"{table}\" WHERE {quoted} IS NOT NULL")).await;
            dump.extend(rows.into_iter().map(|row| (format!("{table}.{column}"), row)));
        }
        dump
    }

    async fn assert_no_secret_is_stored(&self, record: &Record) {
        let dump = self.dump().await;
        assert!(dump.iter().any(|(place, text)| place == "user.username" && text == "bob"), "an empty dump");
        assert!(dump.iter().any(|(place, text)| place == "user.password_hash" && text.starts_with("$argon2")));
        assert!(dump.iter().any(|(place, text)| place == "api_token.digest" && text.len() == 64));
        let secrets = record.secrets.lock().expect("a lock").clone();
        let passwords = [PASSWORD, OTHER_PASSWORD].map(|password| ("password", password.to_owned()));
        for (what, secret) in secrets.iter().chain(&passwords) {
            for form in forms(secret) {
                let found = dump.iter().find(|(_, text)| text.to_lowercase().contains(&form));
                assert!(found.is_none(), "a {what} is stored, as {form}: {found:?}");
            }
        }
        for (place, text) in &dump {
            assert!(!text.contains("c4nary"), "{place}: {text}");
        }
    }
}

#[tokio::test]
async fn a_scenario_of_every_method_leaves_no_secret_where_it_does_not_belong() {
    let h = Harness::start().await;
    let lines = log::lines();
    let record = scenario(&h).await;
    assert!(log::lines() > lines, "nothing was logged, so nothing was searched");
    log::assert_clean();

    let called = record.called.lock().expect("a lock").clone();
    assert_eq!(called, methods().iter().map(short_name).collect(), "a method that the scenario does not call");
    let kinds: BTreeSet<&str> = record.secrets.lock().expect("a lock").iter().map(|secret| secret.0).collect();
    let all = [
        "API token",
        "access token",
        "cancel token",
        "device token",
        "key of an authenticator",
        "link",
        "password",
        "recovery code",
        "refresh token",
        "temporary password",
        "ticket",
    ];
    assert_eq!(kinds, BTreeSet::from(all));

    let read = record.read.lock().expect("a lock").clone();
    for text in &read {
        assert!(!text.contains("$argon2") && !text.contains("c4nary"), "{text}");
        for (what, secret) in record.secrets.lock().expect("a lock").iter() {
            let found = forms(secret).into_iter().find(|form| text.to_lowercase().contains(form));
            assert_eq!(found, None, "a {what} in {text}");
        }
    }
    h.stop().await;
}

#[test]
fn the_search_of_the_log_finds_every_kind_of_secret() {
    let random = "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE";
    let secrets = [
        "login failed for c4nary".to_owned(),
        format!("password=\"{PASSWORD}\""),
        "hash=$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaA".to_owned(),
        format!("ticket: lkt_{random}"),
        format!("refresh lkr_{random}{random}"),
        format!("device lkd_{random}"),
        format!("https://id.example/reset?token=lkl_{random}"),
        format!("https://id.example/cancel?token=lkc_{random}"),
        format!("[\"lka_{}_{random}\"]", "0".repeat(26)),
        format!("Bearer eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJFZERTQSJ9.eyJ{random}.{random}"),
        "the new password is K7QF9-WXM3T-RH4PD.".to_owned(),
    ];
    for line in &secrets {
        assert!(log::has_secret(line), "{line}");
    }
    let harmless = [
        "rpc latchkey.v1.Auth/SignIn UNAUTHENTICATED CREDENTIALS_REJECTED request.id=6f1d2c1e0f3b4c55",
        "api token lka_01hzx8q9b3v7m2n4p6r8s0t1wx was revoked",
        "a lkr_ or a lkt_ or an eyJ alone are no secrets",
        "2026-11-25T08:50:40.123456Z TRACE hyper::proto::h2 frame=HEADERS-CONTINUED-TO-END",
        "argon2 m=19456 t=2 p=1",
    ];
    for line in harmless {
        assert!(!log::has_secret(line), "{line}");
    }
}

#[test]
fn the_search_of_the_database_knows_the_forms_of_a_secret() {
    let random = [0xfb_u8; 32];
    let secret = format!("lkt_{}", BASE64URL_NOPAD.encode(&random));
    let forms = forms(&secret);
    for form in [
        HEXLOWER.encode(&random),
        BASE64.encode(&random),
        BASE64URL_NOPAD.encode(&random),
        HEXLOWER.encode(secret.as_bytes()),
    ] {
        assert!(forms.contains(&form.trim_end_matches('=').to_lowercase()), "{form}");
    }
}
