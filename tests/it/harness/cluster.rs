//! PostgreSQL servers that a test can stop, kill and fail over.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use sea_orm::{ConnectionTrait, Statement};
use tempfile::TempDir;

/// A PostgreSQL server, stopped when dropped.
pub struct Cluster {
    bin: PathBuf,
    dir: TempDir,
    /// `127.0.0.1:…`.
    pub address: String,
}

impl Cluster {
    /// Creates and starts a server. Returns `None` if PostgreSQL is not installed.
    pub fn start() -> Option<Cluster> {
        let Some(bin) = find_bin() else {
            assert!(std::env::var("TEST_REQUIRE_ALL").is_err(), "TEST_REQUIRE_ALL: initdb is missing");
            eprintln!("skipped: there is no initdb here");
            return None;
        };
        let cluster = Cluster::prepare(bin);
        cluster.run("initdb", &["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        cluster.resume();
        Some(cluster)
    }

    /// Creates a synchronous standby, for which this server waits before it acknowledges a commit.
    pub async fn standby(&self) -> Cluster {
        let standby = Cluster::prepare(self.bin.clone());
        let port = self.address.rsplit(':').next().expect("a port");
        let from = ["-R", "--no-sync", "-c", "fast", "-h", "127.0.0.1", "-p", port, "-U", "postgres"];
        standby.run("pg_basebackup", &from);
        standby.resume();
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        self.execute("SELECT pg_reload_conf()").await;
        standby
    }

    /// The URL for `--database-url`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address)
    }

    /// Restarts the server on the same address.
    pub fn resume(&self) {
        let port = self.address.rsplit(':').next().expect("a port");
        let dir = self.dir.path().display();
        let options =
            format!("-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={dir} -c fsync=off");
        let log = self.dir.path().join("log");
        self.run("pg_ctl", &["-w", "-t", "60", "-l", &log.to_string_lossy(), "-o", &options, "start"]);
    }

    /// Kills the server without notifying its clients, as if the machine were lost.
    pub fn kill(&self) {
        self.run("pg_ctl", &["-m", "immediate", "-w", "stop"]);
    }

    /// Promotes a standby to primary.
    pub fn promote(&self) {
        self.run("pg_ctl", &["-w", "promote"]);
    }

    /// Makes the server a standby of another one from its next start.
    pub fn follow(&self, primary: &Cluster) {
        let port = primary.address.rsplit(':').next().expect("a port");
        let signal = self.dir.path().join("data/standby.signal");
        let line = format!("primary_conninfo = 'host=127.0.0.1 port={port} user=postgres'\n");
        let settings = self.dir.path().join("data/postgresql.auto.conf");
        std::fs::write(signal, "").expect("a file");
        std::fs::write(settings, line).expect("a file");
    }

    /// Runs an SQL statement.
    pub async fn execute(&self, sql: &str) {
        let mut options = sea_orm::ConnectOptions::new(self.url());
        options.max_connections(1).sqlx_logging(false);
        let connection = sea_orm::Database::connect(options).await.expect("a database");
        let statement = Statement::from_string(connection.get_database_backend(), sql);
        connection.execute_raw(statement).await.expect("a statement that works");
        connection.close().await.expect("an end");
    }

    fn prepare(bin: PathBuf) -> Cluster {
        let dir = tempfile::Builder::new().prefix("latchkey-pg").tempdir_in("/tmp").expect("a directory");
        // If the test runs as root, the server runs as another user.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("a mode");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        Cluster { bin, dir, address: format!("127.0.0.1:{port}") }
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) {
        let program = self.bin.join(program);
        // The server refuses to run as root.
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // The output is a file: the server started by pg_ctl keeps it open, so a pipe would never end.
        let printed = tempfile::tempfile().expect("a file");
        let output = || Stdio::from(printed.try_clone().expect("a file"));
        command.arg("-D").arg(self.dir.path().join("data")).args(arguments).current_dir("/");
        let status = command.stdin(Stdio::null()).stdout(output()).stderr(output()).status().expect("a program");
        assert!(status.success(), "{command:?}: {}", read_again(printed));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.dir.path().join("data/postmaster.pid").exists() {
            self.kill();
        }
    }
}

fn read_again(mut file: std::fs::File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("text");
    text
}

/// The directory that contains `initdb`, which Debian does not put on PATH. If there are several versions, the newest.
fn find_bin() -> Option<PathBuf> {
    let has_all =
        |dir: &PathBuf| ["initdb", "pg_ctl", "pg_basebackup"].iter().all(|program| dir.join(program).exists());
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').map(PathBuf::from).find(has_all).or_else(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path());
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
        Some(versions.max_by_key(number)?.join("bin")).filter(has_all)
    })
}
