//! Several servers in separate processes on one PostgreSQL: they start at the same time, see each other's changes at
//! once, lose one of them, and are replaced one by one.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use latchkey::proto::v1;
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::harness::calls::Shown;
use crate::harness::daemon::Daemon;
use crate::harness::database::TestDatabase;
use crate::harness::transcript::Shell;
use crate::harness::{Client, OTHER_PASSWORD, PASSWORD, Refusal, at_once, eventually, refused};

/// "latchkey" in ASCII: the key of the advisory lock for migrations.
const MIGRATION_LOCK: i64 = 0x6c61_7463_686b_6579;

/// Three servers and their shared state.
struct Fleet {
    shell: Shell,
    database: TestDatabase,
    addresses: Vec<String>,
    daemons: Vec<Option<Daemon>>,
    _dir: TempDir,
}

impl Fleet {
    /// Starts three at once on an empty database. Returns `None` on SQLite, which allows only one server.
    async fn start() -> Option<Fleet> {
        let dir = tempfile::tempdir().expect("a directory");
        let database = TestDatabase::create(dir.path()).await;
        if !database.is_shared() {
            eprintln!("skipped: one server owns the embedded database; set TEST_DATABASE_URL");
            return None;
        }
        let mut shell = Shell::default();
        shell.feed("latchkeyd", &["key", "new", "seal.key"], "").good();
        shell.set("LATCHKEY_SEAL_KEY_FILE", "seal.key").set("LATCHKEY_DATABASE_URL", &database.url());
        shell.set("LATCHKEY_ARGON2_ALLOW_WEAK", "true").set("LATCHKEY_ARGON2_MEMORY_KIB", "64");
        shell.set("LATCHKEY_ARGON2_ITERATIONS", "1");
        shell.set("LATCHKEY_THROTTLE_SOURCE_FAILURES", "0").set("LATCHKEY_THROTTLE_SOURCE_ACCOUNTS", "0");
        let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
        let mut fleet = Fleet { shell, database, addresses, daemons: Vec::new(), _dir: dir };
        let started = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..3)
                .map(|number| {
                    scope.spawn({
                        let fleet = &fleet;
                        move || fleet.daemon(number)
                    })
                })
                .collect();
            starts.into_iter().map(|start| Some(start.join().expect("a start"))).collect()
        });
        fleet.daemons = started;
        Some(fleet)
    }

    fn daemon(&self, number: usize) -> Daemon {
        Daemon::start(&self.shell, &["--data-dir", &format!("replica{number}"), "--listen", &self.addresses[number]])
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.shell.path(&format!("replica{number}/latchkey.sock"))
    }

    /// The local operator of one of them.
    async fn operator(&self, number: usize) -> Client {
        Client::on_socket(&self.socket(number)).await
    }

    /// An anonymous client of each.
    async fn strangers(&self) -> Vec<Client> {
        at_once(self.addresses.iter().map(|address| Client::at(address))).await
    }
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

async fn create(operator: &Client, name: &str) {
    let request = v1::CreateUserRequest {
        username: name.to_owned(),
        credential: Some(v1::create_user_request::Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    operator.create(request).await.expect("a new user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_did_the_others_know_at_once_and_the_loss_of_one_harms_no_other() {
    let Some(mut fleet) = Fleet::start().await else { return };
    assert_eq!(fleet.database.query("SELECT COUNT(*) FROM sealed_key").await, ["2"], "one of them made the keys");
    let at = fleet.strangers().await;
    let operators = at_once((0..3).map(|number| fleet.operator(number))).await;

    for round in 0..5 {
        let (here, there, elsewhere) = (round % 3, (round + 1) % 3, (round + 2) % 3);
        let name = format!("u{round}");
        create(&operators[here], &name).await;
        let tokens = at[there].tokens(&name, PASSWORD).await.expect("tokens");
        for client in &at {
            client.bearing(&tokens.access_token).who_am_i().await.expect("the session, everywhere");
        }
        let refreshed = at[elsewhere].refresh(&tokens.refresh_token).await.expect("new tokens");
        let latest = at[here].refresh(&refreshed.refresh_token).await.expect("newer tokens");
        let old = at[there].refresh(&tokens.refresh_token).await;
        refused(old, Code::Unauthenticated, "REFRESH_REUSED");
        for client in &at {
            refused(client.bearing(&latest.access_token).who_am_i().await, Code::Unauthenticated, "SESSION_REVOKED");
        }
        operators[there].lock(&name).await.expect("a lock");
        for client in &at {
            refused(client.sign_in(&name, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        }
        operators[elsewhere].unlock(&name).await.expect("no lock");
        let reset = operators[here].reset(&name).await.expect("a reset");
        refused(at[there].sign_in(&name, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_REJECTED");
        let step = at[elsewhere].change_step(&name, reset.shown()).await.expect("a step");
        at[here].complete(&step.ticket, OTHER_PASSWORD).await.expect("a password of one's own");
        at[there].tokens(&name, OTHER_PASSWORD).await.expect("tokens");
    }
    one_is_killed(&mut fleet, &at).await;
}

async fn one_is_killed(fleet: &mut Fleet, at: &[Client]) {
    create(&fleet.operator(0).await, "ann").await;
    let tokens = at[1].tokens("ann", PASSWORD).await.expect("tokens");
    // Twice: a client that lost the answer may send the previous token again.
    let rotated = at[1].refresh(&tokens.refresh_token).await.expect("new tokens");
    let rotated = at[1].refresh(&rotated.refresh_token).await.expect("newer tokens");
    // Kill one with SIGKILL during many sign-ins.
    let attempts: Vec<_> = (0..60)
        .map(|number| {
            let (client, name) = (at[number % 3].clone(), format!("u{}", number % 5));
            tokio::spawn(async move { (number % 3, client.tokens(&name, OTHER_PASSWORD).await) })
        })
        .collect();
    eventually("a sign-in", || async { attempts.iter().any(tokio::task::JoinHandle::is_finished).then_some(()) }).await;
    fleet.daemons[1] = None;
    for attempt in attempts {
        let (replica, answer) = attempt.await.expect("an end");
        match answer {
            Ok(_) => {}
            Err(status) if replica == 1 => assert!(status.details().is_empty(), "it said something: {status:?}"),
            // Its reserved attempts lapse; until then they count.
            Err(status) => assert_eq!(Refusal::of(&status).reason, "THROTTLED", "{status:?}"),
        }
    }
    fleet.operator(0).await.who_am_i().await.expect("the others go on");
    at[2].bearing(&rotated.access_token).who_am_i().await.expect("its sessions live on");
    let names = (0..5).map(|number| format!("u{number}"));
    at_once(names.map(|name| async move {
        eventually("a sign-in", || async { at[0].tokens(&name, OTHER_PASSWORD).await.ok() }).await;
    }))
    .await;

    fleet.daemons[1] = Some(fleet.daemon(1));
    let back = Client::at(&fleet.addresses[1]).await;
    back.bearing(&rotated.access_token).who_am_i().await.expect("it knows the session that it gave out");
    refused(back.refresh(&tokens.refresh_token).await, Code::Unauthenticated, "REFRESH_REUSED");
    refused(at[0].refresh(&rotated.refresh_token).await, Code::Unauthenticated, "SESSION_REVOKED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_keys_are_replaced_a_replica_that_still_runs_stops_by_itself() {
    let Some(mut fleet) = Fleet::start().await else { return };
    let tokens = {
        create(&fleet.operator(0).await, "bob").await;
        fleet.strangers().await[0].tokens("bob", PASSWORD).await.expect("tokens")
    };
    // An attacker has the seal key and a copy of the database, and the operator forgets to stop one replica.
    (fleet.daemons[1], fleet.daemons[2]) = (None, None);
    let stolen = fleet.shell.path("stolen.key");
    std::fs::rename(fleet.shell.path("seal.key"), stolen).expect("a move");
    fleet.shell.feed("latchkeyd", &["key", "replace", "--discard-sealed", "--data-dir", "replica1"], "").good();
    let forgotten = fleet.daemons[0].take().expect("a replica");
    let (code, log) = tokio::task::block_in_place(|| forgotten.end());
    assert_eq!(code, Some(1), "for its supervisor to start it again: {log}");
    assert!(log.contains("the keys of the database were replaced under another seal key; this server stops"), "{log}");
    // After a restart, it has the new key.
    fleet.daemons[0] = Some(tokio::task::block_in_place(|| fleet.daemon(0)));
    let stranger = Client::at(&fleet.addresses[0]).await;
    let who = stranger.bearing(&tokens.access_token).who_am_i().await;
    refused(who, Code::Unauthenticated, "TOKEN_INVALID");
    stranger.tokens("bob", PASSWORD).await.expect("tokens");
}

/// Returns whether the server never processed a call because the connection was closed gracefully before. tonic's
/// client reports this as cancelled or, after a GOAWAY without an error, as internal, where others report UNAVAILABLE.
/// Only errors of the client have a source.
fn never_processed(status: &Status) -> bool {
    let Some(source) = std::error::Error::source(status).map(|source| format!("{source:?}")) else { return false };
    match status.code() {
        Code::Cancelled => true,
        Code::Internal => source.contains("GoAway") && source.contains("NO_ERROR"),
        _ => false,
    }
}

/// A client that works constantly, with whichever replica accepts the call: after UNAVAILABLE it tries the next one.
struct Customer {
    name: String,
    at: Vec<Client>,
    retried: Arc<AtomicU64>,
}

impl Customer {
    async fn work(&self, stop: &AtomicBool) -> u64 {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            let tokens = self.call(|client| async move { client.tokens(&self.name, PASSWORD).await }).await;
            let bearer = &tokens.access_token;
            self.call(|client| async move { client.bearing(bearer).who_am_i().await }).await;
            rounds += 1;
        }
        rounds
    }

    async fn call<T, F: Future<Output = Result<T, Status>>>(&self, call: impl Fn(Client) -> F) -> T {
        for client in self.at.iter().cycle().take(300) {
            match call(client.clone()).await {
                Ok(answer) => return answer,
                Err(status) => {
                    assert!(status.code() == Code::Unavailable || never_processed(&status), "{status:?}");
                }
            }
            self.retried.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        panic!("no replica takes calls")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_roll_to_the_next_version_under_load_and_clients_that_retry_notice_nothing() {
    let Some(mut fleet) = Fleet::start().await else { return };
    let operator = fleet.operator(0).await;
    let (stop, retried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut customers = Vec::new();
    for number in 0..3 {
        let name = format!("u{number}");
        create(&operator, &name).await;
        let mut at: Vec<Client> = fleet.addresses.iter().map(|address| Client::lazily_at(address)).collect();
        at.rotate_left(number);
        let customer = Customer { name, at, retried: Arc::clone(&retried) };
        let stop = Arc::clone(&stop);
        customers.push(tokio::spawn(async move { customer.work(&stop).await }));
    }

    // The next version has migrated: it has a step and a column that these servers do not know.
    let next = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_next', 0)";
    fleet.database.execute(next).await;
    fleet.database.execute("ALTER TABLE \"user\" ADD COLUMN of_the_next_version TEXT NOT NULL DEFAULT 'x'").await;
    for number in 0..3 {
        let operator = fleet.operator(number).await;
        create(&operator, &format!("new{number}")).await;
        operator.lock(&format!("new{number}")).await.expect("a lock");
        operator.list(v1::ListUsersRequest::default()).await.expect("a list");
    }
    // A new server of this version refuses to start, and says why.
    let refused = fleet.shell.feed("latchkeyd", &["--data-dir", "late", "--listen", "127.0.0.1:0"], "");
    assert!(refused.code == 1 && refused.stderr.contains("belongs to a newer latchkeyd"), "{refused:?}");

    // The next version replaces this one, replica by replica.
    fleet.database.execute("DELETE FROM seaql_migrations WHERE version = 'm9999_next'").await;
    for number in 0..3 {
        let old = fleet.daemons[number].take().expect("a replica");
        let (code, log) = tokio::task::block_in_place(|| old.stop());
        assert_eq!(code, Some(0), "{log}");
        fleet.daemons[number] = Some(tokio::task::block_in_place(|| fleet.daemon(number)));
        eventually("calls at the new one", || async {
            Client::at(&fleet.addresses[number]).await.tokens("u0", PASSWORD).await.ok()
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for customer in customers {
        assert!(customer.await.expect("no other error than UNAVAILABLE") > 0);
    }
    assert!(retried.load(Ordering::Relaxed) > 0, "no client met a replica that went");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_starts_while_another_one_migrates_waits_and_says_so() {
    use sea_orm::{ConnectionTrait, TransactionTrait};
    let Some(mut fleet) = Fleet::start().await else { return };
    let database = fleet.database.connect().await;
    let migrating = database.begin().await.expect("a transaction");
    let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
    migrating.execute_unprepared(&lock).await.expect("the lock of migrations");

    fleet.daemons[0] = None;
    let mut starting = Daemon::launch(&fleet.shell, &["--data-dir", "replica0", "--listen", &fleet.addresses[0]]);
    tokio::task::block_in_place(|| {
        starting.until("another latchkeyd is bringing the schema up to date; waiting for it");
    });
    fleet.operator(1).await.who_am_i().await.expect("the others serve");
    migrating.rollback().await.expect("an end");
    tokio::task::block_in_place(|| starting.until(" grpc="));
    fleet.operator(0).await.who_am_i().await.expect("it serves");
}
