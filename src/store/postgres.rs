//! Connections to `PostgreSQL`: their settings, and when they are replaced.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode};
use sea_orm::sqlx::{self, Connection, Executor, Row};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout};

use super::ACQUIRE_TIMEOUT;
use super::list_connection::ListConnection;
use crate::error::{Error, Outage, Result};

/// Maximum number of connections. Enough for the hashing threads and operators of one replica, and few enough that nine
/// replicas fit into the 100 connections that `PostgreSQL` accepts by default, of which it reserves 3 for itself.
const CONNECTIONS: u32 = 10;

/// A connection that was idle for this long is tested before it is used. One that was returned more recently was tested then.
const TEST_AFTER: Duration = Duration::from_secs(1);

/// How long a test of a connection may take. Half of the time that a caller waits for a connection, so that the other half is
/// left to open another.
const TEST_TIMEOUT: Duration = Duration::from_secs(1);

/// The instant since which opened connections are trusted. If one connection leads nowhere, or to a server that takes no
/// writes, all that were opened before this was noticed lead there too: a network failure cuts all of them, and a failover
/// moves the database away from all of them.
pub(super) struct Doubt {
    began: Instant,
    /// Milliseconds after `began`. Connections opened before are discarded.
    raised: AtomicU64,
}

impl Doubt {
    pub(super) fn new() -> Doubt {
        Doubt { began: Instant::now(), raised: AtomicU64::new(0) }
    }

    /// Discards every connection that is open now, as soon as it is not in use.
    pub(super) fn raise(&self) {
        self.raised.fetch_max(self.millis(), Ordering::Relaxed);
    }

    fn covers(&self, age: Duration) -> bool {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.millis().saturating_sub(age) < self.raised.load(Ordering::Relaxed)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doubt").finish_non_exhaustive()
    }
}

/// The pool, and how much of it lists may use.
pub(super) struct Connected {
    pub(super) pool: DatabaseConnection,
    pub(super) lists: Vec<ListConnection>,
    pub(super) doubt: Arc<Doubt>,
}

/// Connects to a server that responds and takes writes. Reads and writes share a pool. It is no larger than the server permits:
/// callers would wait for a connection that the server refuses although another becomes free. One connection is left for
/// [`probe`], to find out why the others are not usable.
pub(super) async fn connect(url: &SecretString) -> Result<Connected> {
    let allowed = check_server(url).await?;
    let doubt = Arc::new(Doubt::new());
    let of_pool = Arc::clone(&doubt);
    let mut options = ConnectOptions::new(url.expose_secret().to_owned());
    let connections = allowed.saturating_sub(1).clamp(1, CONNECTIONS);
    options
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_timeout(ACQUIRE_TIMEOUT)
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(connect_options)
        .map_sqlx_postgres_pool_opts(move |options| pool_options(options, &of_pool));
    let pool = Database::connect(options).await?;
    warn_of_lost_settings(&pool).await?;
    let list = ListConnection { pool: pool.clone(), interrupt: None };
    Ok(Connected { lists: vec![list; lists_at_once(connections)], pool, doubt })
}

/// Returns how many connections of the pool may read lists: at least two, and never all.
fn lists_at_once(connections: u32) -> usize {
    let lists = (connections / 4).max(2).min(connections.saturating_sub(1)).max(1);
    usize::try_from(lists).unwrap_or(1)
}

/// The settings that every connection asks for when it opens.
const SETTINGS: [(&str, &str); 4] = [
    // The isolation level for which the row locks are designed, whatever the default of the database.
    ("default_transaction_isolation", "read committed"),
    ("statement_timeout", "5s"),
    ("lock_timeout", "2s"),
    ("idle_in_transaction_session_timeout", "10s"),
];

/// Warns of settings that are not in force. A pooler between the server and the database may drop them: `PgBouncer` does if
/// `ignore_startup_parameters` lists `options`.
async fn warn_of_lost_settings(database: &DatabaseConnection) -> Result<()> {
    for (name, wanted) in SETTINGS {
        let show = Statement::from_string(DbBackend::Postgres, format!("SHOW {name}"));
        let row = database.query_one_raw(show).await?;
        let found = row.map(|row| row.try_get_by_index::<String>(0)).transpose()?.unwrap_or_default();
        if found != wanted {
            tracing::warn!(
                "the database ignores {name} = '{wanted}', which the server asks for, and has '{found}'; a pooler in between may \
                 drop it. Connect directly, or let the owner run: ALTER ROLE … SET {name} = '{wanted}'"
            );
        }
    }
    Ok(())
}

/// The settings of every connection.
fn connect_options(options: PgConnectOptions) -> PgConnectOptions {
    let local = options.get_socket().is_some() || is_loopback(options.get_host());
    let options = options.application_name("latchkeyd").options(SETTINGS);
    // The driver's default would continue in plain text if TLS fails.
    if !local && matches!(options.get_ssl_mode(), PgSslMode::Prefer) {
        options.ssl_mode(PgSslMode::VerifyFull)
    } else {
        options
    }
}

/// How the pool tests its connections. By default it tests a returned connection without a timeout, so a dead one would occupy
/// its slot for ever.
fn pool_options(options: PgPoolOptions, doubt: &Arc<Doubt>) -> PgPoolOptions {
    let (taken, returned) = (Arc::clone(doubt), Arc::clone(doubt));
    options
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async {
                refuse_read_only(connection).await?;
                require_durable_commits(connection).await
            })
        })
        .before_acquire(move |connection, history| {
            let doubt = Arc::clone(&taken);
            Box::pin(async move {
                if doubt.covers(history.age) || history.idle_for < TEST_AFTER {
                    return Ok(!doubt.covers(history.age));
                }
                is_alive(connection, &doubt).await
            })
        })
        .after_release(move |connection, history| {
            let doubt = Arc::clone(&returned);
            Box::pin(
                async move { if doubt.covers(history.age) { Ok(false) } else { is_alive(connection, &doubt).await } },
            )
        })
}

async fn is_alive(connection: &mut PgConnection, doubt: &Doubt) -> sqlx::Result<bool> {
    match timeout(TEST_TIMEOUT, connection.ping()).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            doubt.raise();
            Err(sqlx::Error::PoolTimedOut)
        }
    }
}

/// Refuses a server that is read-only. After a failover the database's host name may still lead to the old server, now a
/// standby. Its data is out of date: a session that was revoked in the meantime would still be live there.
async fn refuse_read_only(connection: &mut PgConnection) -> sqlx::Result<()> {
    // Covers both a standby and a server that was made read-only.
    let row = connection.fetch_one("SHOW transaction_read_only").await?;
    match row.try_get::<&str, _>(0)? {
        "off" => Ok(()),
        _ => Err(sqlx::Error::Protocol("the server is read-only, as a standby is".to_owned())),
    }
}

/// Makes commits wait until they are durable. The database may be configured to confirm them earlier, for this role or for all,
/// but what we acknowledge must persist. Other values determine whether commits wait for standbys, and stay as they are.
async fn require_durable_commits(connection: &mut PgConnection) -> sqlx::Result<()> {
    let row = connection.fetch_one("SHOW synchronous_commit").await?;
    if row.try_get::<&str, _>(0)? == "off" {
        connection.execute("SET synchronous_commit = on").await?;
    }
    Ok(())
}

/// Checks with a new connection whether the database is usable, and says why not. The pool would only report that it waited in
/// vain.
pub(super) async fn probe(url: &SecretString) -> Result<()> {
    check_server(url).await.map(|_| ())
}

/// As [`probe`], and returns how many connections this role may open to the database.
async fn check_server(url: &SecretString) -> Result<u32> {
    let unreachable = |text: String| Error::Unavailable(Outage::Storage(text.into()));
    let options: PgConnectOptions =
        url.expose_secret().parse().map_err(|_| unreachable("the database URL cannot be read".to_owned()))?;
    let options = connect_options(options);
    let address = format!("{}:{}", options.get_host(), options.get_port());
    let connecting = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        refuse_read_only(&mut connection).await?;
        // A compatible engine may not have such limits.
        let allowed = connection_limit(&mut connection).await.unwrap_or(u32::MAX);
        // The result is known, so a failure to close does not matter.
        let _ = connection.close().await;
        Ok(allowed)
    };
    match timeout(ACQUIRE_TIMEOUT, connecting).await {
        Ok(Ok(allowed)) => Ok(allowed),
        // Without the line of PostgreSQL's source code, which the driver would add.
        Ok(Err(sqlx::Error::Database(error))) => Err(unreachable(format!("{address}: {}", error.message()))),
        Ok(Err(sqlx::Error::Protocol(text))) => Err(unreachable(format!("{address}: {text}"))),
        Ok(Err(sqlx::Error::Io(error))) => Err(unreachable(format!("{address}: {error}"))),
        Ok(Err(error)) => Err(unreachable(format!("{address}: {error}"))),
        Err(_) => Err(unreachable(format!("{address} does not answer"))),
    }
}

/// Returns the lower of the limits of the role and of the database (`CONNECTION LIMIT`). -1 means no limit, and a superuser has
/// none.
async fn connection_limit(connection: &mut PgConnection) -> sqlx::Result<u32> {
    let sql = "SELECT LEAST(NULLIF(r.rolconnlimit, -1), NULLIF(d.datconnlimit, -1)) FROM pg_roles r, pg_database d \
        WHERE r.rolname = session_user AND NOT r.rolsuper AND d.datname = current_database()";
    let limit = match connection.fetch_optional(sql).await? {
        Some(row) => row.try_get::<Option<i32>, _>(0)?,
        None => None,
    };
    Ok(limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(u32::MAX))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_leave_connections_for_other_calls() {
        assert_eq!([1, 2, 3, 8, 10, 16].map(lists_at_once), [1, 1, 2, 2, 2, 4]);
    }

    #[test]
    fn a_doubt_is_about_what_was_opened_before_it() {
        let ten_seconds = Duration::from_secs(10);
        let Some(began) = Instant::now().checked_sub(ten_seconds) else { return };
        let doubt = Doubt { began, raised: AtomicU64::new(0) };
        assert!(!doubt.covers(Duration::ZERO) && !doubt.covers(ten_seconds));
        doubt.raise();
        assert!(doubt.covers(Duration::from_secs(1)) && doubt.covers(ten_seconds));
        assert!(!doubt.covers(Duration::ZERO), "opened afterwards");
    }
}
