//! PostgreSQL roles with few rights, and poolers that drop settings.

use latchkey::config::Database;
use latchkey::crypto::SealKey;
use latchkey::environment::Environment;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::cluster::Cluster;
use crate::harness::daemon::Daemon;
use crate::harness::transcript::{Shell, blocks};
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD};

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// A PostgreSQL with the roles of docs/operations.md.
async fn with_documented_roles() -> Option<Cluster> {
    let cluster = Cluster::start()?;
    let documented = blocks(OPERATIONS, &["sql least privilege"]);
    let [(_, sql)] = documented.as_slice() else { panic!("one block, not {documented:?}") };
    for statement in sql.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        cluster.execute(statement).await;
    }
    Some(cluster)
}

fn url_of(role: &str, address: &str) -> String {
    format!("postgres://{role}@{address}/postgres")
}

/// Runs `latchkeyd`, and returns its exit code and output.
fn latchkeyd(shell: &Shell, args: &[&str]) -> (Option<i32>, String) {
    let output = shell.command("latchkeyd").args(args).output().expect("an end");
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_role_serves_with_reading_and_writing_alone() {
    let Some(cluster) = with_documented_roles().await else { return };
    let shell = Shell::default();
    let owner = url_of("latchkey_owner", &cluster.address);
    let (code, printed) = latchkeyd(&shell, &["migrate", "--database-url", &owner]);
    assert_eq!(code, Some(0), "{printed}");

    let h = Harness::with(|config| {
        config.database = Database::Postgres { url: url_of("latchkey", &cluster.address).into() };
        SealKey::create(&config.seal_key_file, &Environment::system()).expect("a seal key");
    })
    .await;
    let operator = h.operator().await;
    let bob = h.user("bob").await;
    bob.client.change_password(PASSWORD, OTHER_PASSWORD).await.expect("a new password");
    operator.lock("bob").await.expect("a lock");
    operator.unlock("bob").await.expect("an unlock");
    operator.reset("bob").await.expect("a reset");
    operator.delete("bob", &operator.user("bob").await.etag).await.expect("an end");
    assert!(!operator.events().await.is_empty());
    h.restart().await.operator().await.who_am_i().await.expect("it starts again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_migrate_is_told_to_run_migrate_as_the_owner() {
    let Some(cluster) = with_documented_roles().await else { return };
    let shell = Shell::default();
    let (code, printed) = latchkeyd(&shell, &["migrate", "--database-url", &url_of("latchkey", &cluster.address)]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("this role of the database may not change it"), "{printed}");
    assert!(printed.contains("run `latchkeyd migrate` as the role that owns the tables"), "{printed}");
}

/// Forwards connections to PostgreSQL and drops the `options` that they ask for, as a pooler may.
async fn without_options(upstream: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&upstream).await.expect("PostgreSQL");
            tokio::spawn(async move {
                let first = first_message(&mut client).await?;
                server.write_all(&first).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    address
}

/// Reads the start-up message, and returns it without `options`. Refuses a request for TLS.
async fn first_message(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    const TLS: u32 = 80_877_103;
    loop {
        let length = client.read_u32().await?;
        let mut body = vec![0; usize::try_from(length).expect("a length") - 4];
        client.read_exact(&mut body).await?;
        let (code, parameters) = body.split_at(4);
        if code == TLS.to_be_bytes() {
            client.write_all(b"N").await?;
            continue;
        }
        let fields: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
        let mut kept = code.to_vec();
        for pair in fields.chunks(2).filter(|pair| pair.len() == 2 && !pair[0].is_empty() && pair[0] != b"options") {
            kept.extend_from_slice(&[pair[0], b"\0", pair[1], b"\0"].concat());
        }
        kept.push(0);
        let length = u32::try_from(kept.len() + 4).expect("a length").to_be_bytes();
        return Ok([length.as_slice(), &kept].concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_says_which_limits_a_pooler_has_dropped_and_how_to_restore_them() {
    let Some(cluster) = Cluster::start() else { return };
    let shell = Shell::default();
    let url =
        format!("postgres://postgres@{}/postgres?sslmode=disable", without_options(cluster.address.clone()).await);
    let (code, printed) = latchkeyd(&shell, &["key", "new", "seal.key"]);
    assert_eq!(code, Some(0), "{printed}");
    let started = |settings: &'static [&str]| {
        let daemon = Daemon::start(&shell, &["serve", "--database-url", &url, "--seal-key-file", "seal.key"]);
        let lost =
            daemon.started.iter().filter(|line| line.contains("the database ignores")).cloned().collect::<Vec<_>>();
        daemon.stop();
        assert_eq!(lost.len(), settings.len(), "{lost:?}");
        for (line, setting) in lost.iter().zip(settings) {
            assert!(line.contains(&format!("ALTER ROLE … SET {setting}")), "{line}");
        }
    };
    started(&["statement_timeout = '5s'", "lock_timeout = '2s'", "idle_in_transaction_session_timeout = '10s'"]);
    for setting in ["statement_timeout = '5s'", "lock_timeout = '2s'", "idle_in_transaction_session_timeout = '10s'"] {
        cluster.execute(&format!("ALTER ROLE postgres SET {setting}")).await;
    }
    started(&[]);
}
