//! Startup: the schema, the seal key, the lock file of SQLite, the local socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use latchkey::clock::Clock as _;
use latchkey::config::{Config, Database};
use latchkey::crypto::SealKey;
use latchkey::environment::Environment;
use latchkey::proto::v1;
use latchkey::server;
use tonic::Code;

use crate::harness::database::TestDatabase;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD, Refusal, at_once, eventually, refused, test_config};

/// Returns whether the database is a file, which no two servers share.
fn is_embedded(config: &Config) -> bool {
    matches!(config.database, Database::Sqlite { .. })
}

/// Runs a server command on the files of a harness. Returns its exit code and output.
fn latchkeyd(h: &Harness, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_latchkeyd"))
        .args(arguments)
        .args(["--data-dir", &h.dir().to_string_lossy(), "--database-url", &h.database_url()])
        .args(["--seal-key-file", &h.config.seal_key_file.to_string_lossy()])
        .output()
        .expect("the command runs");
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).expect("text"))
}

async fn key_ids(h: &Harness) -> Vec<String> {
    let request = v1::GetSigningKeysRequest::default();
    let answer = h.stranger().await.auth().get_signing_keys(request).await.expect("keys").into_inner();
    answer.keys.into_iter().map(|key| key.key_id).collect()
}

#[tokio::test]
async fn a_second_start_finds_users_sessions_and_keys_as_they_were() {
    let h = Harness::start().await;
    let bob = h.user("bob").await;
    let (user, keys) = (h.operator().await.user("bob").await, key_ids(&h).await);
    let h = h.restart().await;
    let stranger = h.stranger().await;
    assert_eq!((h.operator().await.user("bob").await, key_ids(&h).await), (user, keys));
    stranger.bearing(&bob.tokens.access_token).who_am_i().await.expect("the session lives");
    stranger.refresh(&bob.tokens.refresh_token).await.expect("and can be refreshed");
    stranger.tokens("bob", PASSWORD).await.expect("the password is the same");
}

#[tokio::test]
async fn a_second_server_on_one_file_is_refused() {
    let h = Harness::start().await;
    if !is_embedded(&h.config) {
        return;
    }
    let mut config = h.config.clone();
    config.socket = h.dir().join("other.sock");
    let error = Harness::start_error(&config).await;
    assert!(error.starts_with("another latchkeyd uses the database beside "), "{error}");
    assert!(error.contains("stop it first, or use PostgreSQL for several replicas"), "{error}");
    let (code, printed) = latchkeyd(&h, &["migrate", "--check"]);
    assert!(code == Some(1) && printed.starts_with("error: another latchkeyd"), "{printed}");
    h.user("bob").await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_no_other_file_is() {
    let h = Harness::with(|config| {
        drop(std::os::unix::net::UnixListener::bind(&config.socket).expect("a socket"));
        assert!(config.socket.exists());
    })
    .await;
    h.operator().await.who_am_i().await.expect("the new socket answers");

    let mut h = h;
    h.halt().await;
    std::fs::write(&h.config.socket, "precious").expect("a file");
    let error = Harness::start_error(&h.config).await;
    assert!(error.contains("there is another file of this name"), "{error}");
    assert_eq!(std::fs::read_to_string(&h.config.socket).expect("the file"), "precious");
}

#[tokio::test]
async fn a_live_socket_is_not_taken_away() {
    let h = Harness::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let database = TestDatabase::create(dir.path()).await;
    let mut config = test_config(dir.path(), &database);
    SealKey::create(&config.seal_key_file, &Environment::system()).expect("a key");
    config.socket.clone_from(&h.config.socket);
    Harness::start_error(&config).await;
    h.operator().await.who_am_i().await.expect("the socket still answers");
}

#[tokio::test]
async fn without_its_seal_key_a_database_is_not_opened_and_the_error_names_the_key() {
    let mut h = Harness::start().await;
    h.halt().await;
    let path = h.config.seal_key_file.clone();
    let right = SealKey::read(&path).expect("the key").fingerprint().to_owned();
    let kept = h.dir().join("kept.key");
    std::fs::rename(&path, &kept).expect("a move");
    let error = Harness::start_error(&h.config).await;
    let expected = format!("there is no seal key at {}, but the database was sealed with {right}\n", path.display());
    assert!(error.starts_with(&expected), "{error}");
    assert!(error.contains("Restore the right key from the backup."), "{error}");
    assert!(error.contains("latchkeyd key replace --discard-sealed"), "{error}");
    assert!(!path.exists(), "none was made in its place");

    let wrong = SealKey::create(&path, &Environment::system()).expect("another key").fingerprint().to_owned();
    let error = Harness::start_error(&h.config).await;
    let expected = format!(
        "the seal key {} has the fingerprint {wrong}, but the database was sealed with {right}\n",
        path.display()
    );
    assert!(error.starts_with(&expected), "{error}");

    std::fs::write(&path, "no key").expect("a file");
    assert!(Harness::start_error(&h.config).await.contains("does not hold a seal key"));
    std::fs::rename(&kept, &path).expect("a move");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let error = Harness::start_error(&h.config).await;
    assert!(error.contains("can be read by others (mode 0644); run: chmod 600 "), "{error}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    h.resume().await.operator().await.who_am_i().await.expect("well again");
}

#[tokio::test]
async fn a_lost_seal_key_is_replaced_at_the_price_of_all_sessions() {
    let mut h = Harness::start().await;
    let bob = h.user("bob").await;
    let old = key_ids(&h).await;
    h.halt().await;
    let (code, printed) = latchkeyd(&h, &["key", "replace", "--discard-sealed"]);
    assert!(code == Some(1) && printed.contains("move it away first"), "a stolen key must not seal again: {printed}");
    std::fs::remove_file(&h.config.seal_key_file).expect("a loss");
    let (code, printed) = latchkeyd(&h, &["key", "replace"]);
    assert!(code == Some(2) && printed.contains("--discard-sealed"), "it has to be said: {printed}");
    let (code, printed) = latchkeyd(&h, &["key", "replace", "--discard-sealed"]);
    assert!(code == Some(0) && printed.starts_with("discarded 2 sealed keys"), "{printed}");

    let h = h.resume().await;
    assert!(key_ids(&h).await.iter().all(|id| !old.contains(id)));
    let stranger = h.stranger().await;
    let who = stranger.bearing(&bob.tokens.access_token).who_am_i().await;
    refused(who, Code::Unauthenticated, "TOKEN_INVALID");
    refused(stranger.refresh(&bob.tokens.refresh_token).await, Code::Unauthenticated, "TOKEN_INVALID");
    stranger.tokens("bob", PASSWORD).await.expect("passwords are not sealed");
    let events = h.operator().await.events().await;
    let replaced = events.iter().find(|event| event.method == "latchkeyd key replace").expect("an event");
    assert_eq!((replaced.r#type(), replaced.details["sessionsRevoked"].as_str()), (v1::EventType::KeyRotated, "1"));
}

/// The `kid` in the header of a token.
fn kid(token: &str) -> String {
    let header = token.split('.').next().expect("a header");
    let header = data_encoding::BASE64URL_NOPAD.decode(header.as_bytes()).expect("base64url");
    let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}

#[tokio::test]
async fn a_revoked_signing_key_signs_and_verifies_nothing_and_sessions_go_on() {
    let mut h = Harness::start().await;
    let bob = h.user("bob").await;
    let old = kid(&bob.tokens.access_token);
    let replica = h.replica().await;
    if replica.is_none() {
        let (code, printed) = latchkeyd(&h, &["key", "revoke", &old]);
        assert!(code == Some(1) && printed.contains("another latchkeyd"), "{printed}");
        h.halt().await;
    }
    let (code, printed) = latchkeyd(&h, &["key", "revoke", "nonsense"]);
    assert!(code == Some(1) && printed.contains(&format!("there are {old}")), "{printed}");
    let (code, printed) = latchkeyd(&h, &["key", "revoke", &old]);
    assert!(code == Some(0) && printed.starts_with(&format!("revoked the signing key {old}; ")), "{printed}");

    let h = if replica.is_some() { h } else { h.resume().await };
    for server in [Some(&h), replica.as_ref()].into_iter().flatten() {
        let stranger = server.stranger().await;
        eventually("the server follows", || async {
            let who = stranger.bearing(&bob.tokens.access_token).who_am_i().await;
            who.is_err_and(|status| Refusal::of(&status).reason == "TOKEN_INVALID").then_some(())
        })
        .await;
        assert!(!key_ids(server).await.contains(&old));
    }
    let renewed = h.stranger().await.refresh(&bob.tokens.refresh_token).await.expect("the session goes on");
    assert_ne!(kid(&renewed.access_token), old);
    h.stranger().await.bearing(&renewed.access_token).who_am_i().await.expect("a good token");
    let events = h.operator().await.events().await;
    let revoked = events.iter().find(|event| event.method == "latchkeyd key revoke").expect("an event");
    assert_eq!((revoked.r#type(), &revoked.subject_id), (v1::EventType::KeyRotated, &old));
    assert_eq!(revoked.details["successor"], kid(&renewed.access_token));
    if let Some(replica) = replica {
        replica.stop().await;
    }
}

#[tokio::test]
async fn a_published_successor_begins_when_the_key_before_it_is_revoked() {
    let mut h = Harness::start().await;
    let old = kid(&h.user("bob").await.tokens.access_token);
    h.clock.advance(Duration::from_hours(29 * 24 + 1));
    eventually("a successor", || async { (key_ids(&h).await.len() == 2).then_some(()) }).await;
    let next = key_ids(&h).await.into_iter().find(|id| *id != old).expect("a successor");
    h.halt().await;
    let (code, printed) = latchkeyd(&h, &["key", "revoke", &old]);
    assert!(code == Some(0) && printed.contains(&format!("{next} signs from now on")), "{printed}");
    let h = h.resume().await;
    let tokens = h.stranger().await.tokens("bob", PASSWORD).await.expect("tokens");
    assert_eq!(kid(&tokens.access_token), next);
}

#[tokio::test]
async fn a_schema_of_a_newer_server_is_refused() {
    let mut h = Harness::start().await;
    assert_eq!(latchkeyd_check(&mut h).await, (Some(0), "the schema is up to date\n".to_owned()));
    h.sql("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_from_the_future', 0)").await;
    let error = Harness::start_error(&h.config).await;
    assert!(error.contains("belongs to a newer latchkeyd"), "{error}");
    let (code, printed) = latchkeyd(&h, &["migrate", "--check"]);
    assert!(code == Some(1) && printed.contains("newer latchkeyd"), "{printed}");
}

async fn latchkeyd_check(h: &mut Harness) -> (Option<i32>, String) {
    h.halt().await;
    latchkeyd(h, &["migrate", "--check"])
}

#[tokio::test]
async fn replicas_share_a_key_so_none_is_made_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = TestDatabase::create(dir.path()).await;
    if !database.is_shared() {
        return;
    }
    let config = test_config(dir.path(), &database);
    let error = Harness::start_error(&config).await;
    let path = config.seal_key_file.display();
    assert!(error.starts_with(&format!("the database is empty and there is no seal key at {path}\n")), "{error}");
    assert!(error.contains(&format!("    latchkeyd key new {path}\n")), "{error}");
    assert!(error.contains(&format!("    latchkeyd serve --seal-key-file {path}")), "{error}");
    assert!(!config.seal_key_file.exists());
}

#[tokio::test]
async fn three_replicas_that_start_at_once_migrate_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = TestDatabase::create(dir.path()).await;
    if !database.is_shared() {
        return;
    }
    let config = test_config(dir.path(), &database);
    SealKey::create(&config.seal_key_file, &Environment::system()).expect("a key");
    let starts = (0..3).map(|number| {
        let mut config = config.clone();
        config.socket = dir.path().join(format!("replica{number}.sock"));
        async move { server::start(&config, Environment::system()).await }
    });
    for replica in at_once(starts).await {
        replica.unwrap_or_else(|error| panic!("{error}")).shutdown().await;
    }
    let steps = database.query("SELECT COUNT(*) FROM seaql_migrations").await;
    assert_eq!(database.query("SELECT COUNT(DISTINCT version) FROM seaql_migrations").await, steps);
    assert_eq!(database.query("SELECT COUNT(*) FROM sealed_key").await, ["2"]);
}

/// What the first version wrote, and the secrets that it gave to its clients.
const FIRST_VERSION: &str = include_str!("m0001.sql");
const FIRST_SEAL_KEY: &str = "latchkey-seal-key-1:WeQIZvnlpeHmUT_V6Gu41Xb3bYo85n8fDJrl2uPD6uM";
const FIRST_REFRESH_TOKEN: &str = "lkr_yHFXJM01ods61vZfkVAxBwABAAAAAJyXOt_bRIag0kxZxzoSpQxCyBaxUhozN3V1DMeEOjHt";
const FIRST_TICKET: &str = "lkt_4pxMESRTb0tLPLsIfpic34AEiae-4wZYuUnIcm7djGk";
const FIRST_API_TOKEN: &str = "lka_0d6nv5b0efb1vjqceefxjg7bws_es1xr0nZXGAWgbm42i7FjhkIlOIW0giVNs_Wv75PhOI";
/// When it wrote the last row, in microseconds.
const FIRST_VERSION_ENDED: i64 = 1_795_913_013_655_799;

/// A server on the database of the first version, a minute after that ended.
async fn upgraded() -> Harness {
    let mut h = Harness::start().await;
    h.halt().await;
    let is_postgres = h.is_postgres();
    let list = if is_postgres {
        "SELECT tablename::TEXT FROM pg_tables WHERE schemaname = current_schema()"
    } else {
        "SELECT name FROM sqlite_master WHERE type = 'table'"
    };
    for table in h.query(list).await {
        h.sql(&format!(r#"DROP TABLE "{table}"{}"#, if is_postgres { " CASCADE" } else { "" })).await;
    }
    let dialect = if is_postgres {
        [
            ("{key}", "TEXT COLLATE \"C\""),
            ("{bytes}", "BYTEA"),
            ("{hex ", "'\\x"),
            ("{true}", "TRUE"),
            ("{false}", "FALSE"),
        ]
    } else {
        [("{key}", "TEXT"), ("{bytes}", "BLOB"), ("{hex ", "X'"), ("{true}", "1"), ("{false}", "0")]
    };
    let sql = FIRST_VERSION.split_once("\n\n").expect("a comment").1.to_owned();
    let sql = dialect.into_iter().fold(sql, |sql, (from, to)| sql.replace(from, to));
    // What is left of `{hex …}`; JSON in the rows has no brace after a digit.
    let sql = sql.replace("}, ", "', ").replace("})", "')");
    h.sql(&sql).await;
    std::fs::write(&h.config.seal_key_file, FIRST_SEAL_KEY).expect("the seal key");
    let gone_by = h.clock.now().as_micros() - FIRST_VERSION_ENDED - 60_000_000;
    let step = Duration::from_micros(gone_by.unsigned_abs());
    if gone_by > 0 {
        h.clock.turn_back(step);
    } else {
        h.clock.advance(step);
    }
    h.resume().await
}

#[tokio::test]
async fn a_database_of_the_first_version_is_served_after_the_upgrade() {
    let h = Box::pin(upgraded()).await;
    let (operator, stranger) = (h.operator().await, h.stranger().await);
    let applied = h.query("SELECT version FROM seaql_migrations ORDER BY version").await;
    assert!(applied.len() > 1 && applied[0] == "m0001_first", "{applied:?}");

    let all = operator.list(v1::ListUsersRequest { page_size: 500, ..Default::default() }).await.expect("users").users;
    let names: Vec<&str> = all.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(names, ["ada", "bob", "carl", "dora", "eve", "mailer", "temp"]);
    let ada = operator.user("ada").await;
    assert_eq!((ada.display_name.as_str(), ada.email.as_str()), ("Ada Lovelace", "ada@example.com"));
    assert_eq!((ada.labels["team"].as_str(), ada.roles.as_slice()), ("engine", &["operator".to_owned()][..]));
    let needs_attention = Some(v1::UserFilter { needs_attention: true, ..Default::default() });
    let request = v1::ListUsersRequest { filter: needs_attention, ..Default::default() };
    let worst = operator.list(request).await.expect("users").users;
    let names: Vec<&str> = worst.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(names, ["dora", "carl", "eve", "temp", "bob"]);
    let text = Some(v1::UserFilter { text: "lovel".to_owned(), ..Default::default() });
    let found = operator.list(v1::ListUsersRequest { filter: text, ..Default::default() }).await.expect("users").users;
    assert_eq!(found.len(), 1);
    assert_eq!(operator.sessions_of("ada").await.len(), 1);
    assert_eq!(operator.events().await.len(), 19);

    stranger.tokens("ada", PASSWORD).await.expect("the password is the same");
    stranger.refresh(FIRST_REFRESH_TOKEN).await.expect("the session lives");
    stranger.bearing(FIRST_API_TOKEN).who_am_i().await.expect("the API token works");
    stranger.complete(FIRST_TICKET, OTHER_PASSWORD).await.expect("the ticket works");
    // Her account is throttled. The version before counted nothing for her name.
    refused(stranger.sign_in("eve", PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
    let again = v1::CreateUserRequest { username: "gone".to_owned(), ..Default::default() };
    refused(operator.create(again).await, Code::AlreadyExists, "USERNAME_RESERVED");
    operator.unlock("dora").await.expect("an unlock");
    stranger.tokens("dora", PASSWORD).await.expect("no lock is left");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[tokio::test]
async fn what_the_server_keeps_is_for_its_owner_alone() {
    let h = Harness::with(|config| {
        let data = config.data_dir.join("data");
        config.socket = data.join("latchkey.sock");
        if is_embedded(config) {
            config.seal_key_file = data.join("seal.key");
            config.database = Database::Sqlite { path: data.join("latchkey.db") };
        }
        config.data_dir = data;
    })
    .await;
    let data = &h.config.data_dir;
    assert_eq!(mode(data), 0o700);
    assert_eq!((mode(&h.config.socket), mode(&h.config.seal_key_file)), (0o600, 0o600));
    if is_embedded(&h.config) {
        for name in ["latchkey.db", "latchkey.db-wal", "latchkey.db-shm", "lock"] {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
    }
}
