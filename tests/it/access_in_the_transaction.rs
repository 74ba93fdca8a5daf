//! Callers that lose their rights between the access check and the transaction: the transaction checks again on the
//! locked row.
//!
//! A client cannot hit that moment, so these tests call the use cases of a second `App` on the server's database and
//! change the caller over the wire in between.

use std::sync::Arc;
use std::time::Duration;

use latchkey::app::{App, LockUser, MailSettings, MailTransport, Settings, UnlockUser, open_keys};
use latchkey::config::Database;
use latchkey::crypto::{Hasher, HasherSettings};
use latchkey::domain::caller::{AccessRule, Call, Caller, Demand, Denied};
use latchkey::domain::horizon::Retention;
use latchkey::domain::link::LinkLifetimes;
use latchkey::domain::lockout::{LockCause, ThrottleRules};
use latchkey::domain::password::PasswordRules;
use latchkey::domain::role::Scope;
use latchkey::domain::session::SessionLimits;
use latchkey::domain::user::UserRef;
use latchkey::domain::username::Username;
use latchkey::environment::Environment;
use latchkey::error::{Error, Unauthenticated};
use latchkey::metrics::Metrics;
use latchkey::proto::v1::{self, EventOutcome, EventType, UserState};
use latchkey::store::sources::SourceRules;
use latchkey::store::{Location, Store};
use serde_json::json;

use crate::harness::{Client, Harness, PASSWORD, TestClock};

/// The use cases on the server's database, without the gRPC layer.
async fn app(h: &Harness) -> App {
    app_with(h, settings_of(h)).await
}

/// The same with other settings.
pub async fn app_with(h: &Harness, settings: Settings) -> App {
    let environment = Environment { clock: Arc::<TestClock>::clone(&h.clock), ..Environment::system() };
    let location = match &h.config.database {
        Database::Sqlite { path } => Location::Sqlite(path.clone()),
        Database::Postgres { url } => Location::Postgres(url.clone()),
    };
    let store = Store::connect(&location).await.expect("a database");
    let keys = open_keys(&store, &environment, &h.config.seal_key_file).await.expect("keys");
    let metrics = Arc::new(Metrics::new());
    let hashing = HasherSettings { memory_kib: 64, iterations: 1, parallelism: 1, threads: Some(1) };
    let hasher = Hasher::start(hashing, environment.clone(), Arc::clone(&metrics)).expect("a hasher");
    App::new(environment, metrics, settings, store, hasher, keys)
}

pub fn settings_of(h: &Harness) -> Settings {
    let minute = Duration::from_mins(1);
    let limits = SessionLimits { idle: minute, absolute: minute };
    Settings {
        organisation: "Example Ltd".to_owned(),
        issuer: h.config.issuer.clone(),
        throttle: ThrottleRules {
            threshold: 5,
            initial: minute,
            max: minute,
            lockout_threshold: 100,
            lockout_duration: minute,
            failure_memory: minute,
        },
        sources: SourceRules {
            failures: 0,
            failures_window: minute,
            accounts: 0,
            accounts_window: minute,
            block: minute,
        },
        unknown_names: 16,
        retention: Retention { operators: Duration::ZERO, sign_ins: Duration::ZERO, strangers: Duration::ZERO },
        password_rules: PasswordRules::default(),
        temporary_password_ttl: minute,
        sessions: limits,
        admin_sessions: limits,
        max_sessions: 10,
        sign_ins_per_minute: 0,
        access_ttl: minute,
        mail: MailSettings {
            transport: MailTransport::Off,
            notices: Vec::new(),
            temporary_passwords: false,
            urls: None,
            lifetimes: LinkLifetimes { self_service: minute, operator: minute, invite: minute, verification: minute },
        },
    }
}

/// A caller with this token that the rule of `LockUser` has just admitted.
async fn admitted(app: &App, client: &Client) -> Caller {
    let token = client.metadata.bearer.as_deref().expect("a token");
    let who = app.authenticate(token).await.expect("a good token");
    let rule = AccessRule { demand: Demand::Scope(Scope::UsersLock), recent_sign_in: None };
    let call = Call { method: "latchkey.v1.UserAdmin/LockUser".to_owned(), ..Call::default() };
    app.admit(Some(who), rule, call).await.expect("the rule lets them in")
}

fn bob() -> UserRef {
    UserRef::Username(Username::parse("bob").expect("a name"))
}

/// The caller locks bob.
async fn lock_bob(app: &App, caller: &Caller) -> Result<(), Error> {
    app.lock_user(
        caller,
        LockUser {
            user: bob(),
            cause: LockCause::Operator,
            note: None,
            end: None,
            remove_second_factors: false,
            etag: None,
        },
    )
    .await
    .map(|_| ())
}

async fn is_untouched(h: &Harness) -> bool {
    h.operator().await.user("bob").await.state() == UserState::Active
}

#[tokio::test]
async fn an_unchanged_caller_may_proceed() {
    let h = Harness::start().await;
    h.user("bob").await;
    let ann = h.person("ann", &["helpdesk"]).await;
    let app = app(&h).await;
    let caller = admitted(&app, &ann.client).await;
    lock_bob(&app, &caller).await.expect("a lock");
    assert!(!is_untouched(&h).await);
}

#[tokio::test]
async fn a_caller_signed_out_after_the_access_check_changes_nothing() {
    let h = Harness::start().await;
    h.user("bob").await;
    let ann = h.person("ann", &["helpdesk"]).await;
    let app = app(&h).await;
    let caller = admitted(&app, &ann.client).await;

    h.operator()
        .await
        .call("UserAdmin/RevokeUserSessions", json!({"user": {"username": "ann"}}))
        .await
        .expect("an end");

    let refused = lock_bob(&app, &caller).await;
    assert!(matches!(refused, Err(Error::Unauthenticated(Unauthenticated::SessionRevoked))), "{refused:?}");
    assert!(is_untouched(&h).await);
}

#[tokio::test]
async fn a_caller_that_lost_the_role_after_the_access_check_changes_nothing_and_is_recorded() {
    let h = Harness::start().await;
    h.user("bob").await;
    h.create("ann", &["helpdesk"], PASSWORD).await;
    // A program, because a person's session would end with the role.
    let secret = h.operator().await.api_token("ann", &["users.lock"]).await;
    let app = app(&h).await;
    let caller = admitted(&app, &h.stranger().await.bearing(&secret)).await;

    let demotion = json!({"user": {"username": "ann"}, "removeRoles": ["helpdesk"], "addRoles": ["viewer"]});
    h.operator().await.call("UserAdmin/UpdateUser", demotion).await.expect("a demotion");

    let refused = lock_bob(&app, &caller).await;
    assert!(matches!(refused, Err(Error::Denied(Denied::ScopeMissing(Scope::UsersLock)))), "{refused:?}");
    assert!(is_untouched(&h).await);
    let events = h.operator().await.events().await;
    let last = events.last().expect("an event");
    assert_eq!((last.r#type(), last.outcome()), (EventType::AccessDenied, EventOutcome::Denied));
    assert_eq!(last.reason(), v1::ErrorReason::ScopeMissing);
    let actor = last.actor.as_ref().map(|actor| actor.name.as_str());
    assert_eq!((actor, last.target_username.as_str()), (Some("ann"), "bob"));
}

#[tokio::test]
async fn a_caller_locked_after_the_access_check_changes_nothing() {
    let h = Harness::start().await;
    h.user("bob").await;
    let ann = h.person("ann", &["helpdesk"]).await;
    let app = app(&h).await;
    let caller = admitted(&app, &ann.client).await;

    h.operator().await.lock("ann").await.expect("a lock");

    let refused = lock_bob(&app, &caller).await;
    assert!(matches!(refused, Err(Error::Unauthenticated(Unauthenticated::SessionRevoked))), "{refused:?}");
    assert!(is_untouched(&h).await);
}

#[tokio::test]
async fn a_caller_deleted_after_the_access_check_changes_nothing() {
    let h = Harness::start().await;
    h.user("bob").await;
    let ann = h.person("ann", &["helpdesk"]).await;
    let app = app(&h).await;
    let caller = admitted(&app, &ann.client).await;

    let operator = h.operator().await;
    let deletion = json!({"user": {"username": "ann"}, "etag": operator.user("ann").await.etag});
    operator.call("UserAdmin/DeleteUser", deletion).await.expect("a deletion");

    let refused = lock_bob(&app, &caller).await;
    assert!(matches!(refused, Err(Error::Unauthenticated(Unauthenticated::SessionRevoked))), "{refused:?}");
    assert!(is_untouched(&h).await);
}

#[tokio::test]
async fn rank_is_judged_by_the_rows_of_the_transaction_too() {
    let h = Harness::start().await;
    h.user("bob").await;
    let ann = h.person("ann", &["helpdesk"]).await;
    let app = app(&h).await;
    let caller = admitted(&app, &ann.client).await;

    let promotion = json!({"user": {"username": "bob"}, "addRoles": ["operator"]});
    h.operator().await.call("UserAdmin/UpdateUser", promotion).await.expect("a promotion");

    let refused = app.unlock_user(&caller, UnlockUser { user: bob(), note: None, etag: None }).await;
    assert!(matches!(refused, Err(Error::Denied(Denied::TargetOutranksCaller { .. }))), "{refused:?}");
}

#[tokio::test]
async fn a_program_whose_user_lost_the_role_is_refused_as_well() {
    let h = Harness::start().await;
    h.user("bob").await;
    h.create("ann", &["helpdesk"], crate::harness::PASSWORD).await;
    let operator = h.operator().await;
    let program = h.stranger().await.bearing(&operator.api_token("ann", &["users.lock"]).await);
    let app = app(&h).await;
    let caller = admitted(&app, &program).await;

    let demotion = json!({"user": {"username": "ann"}, "removeRoles": ["helpdesk"]});
    operator.call("UserAdmin/UpdateUser", demotion).await.expect("a demotion");

    let refused = lock_bob(&app, &caller).await;
    assert!(matches!(refused, Err(Error::Denied(Denied::ScopeMissing(Scope::UsersLock)))), "{refused:?}");
    assert!(is_untouched(&h).await);
}
