//! Servers that a test can kill: child processes with failpoints, all on one directory or schema.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use latchkey::config::Config;
use latchkey::crypto::SealKey;
use latchkey::environment::Environment;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::database::TestDatabase;
use super::{Client, log, test_config};

/// The environment in which servers are started, one after another or, on PostgreSQL, several at once.
pub struct Site {
    dir: TempDir,
    pub database: TestDatabase,
    pub config: Config,
    /// Additional environment variables.
    pub variables: Vec<(String, String)>,
}

/// A running `latchkeyd`, killed when dropped.
pub struct Victim {
    child: Child,
    /// Address of gRPC, `127.0.0.1:…`.
    pub address: String,
    socket: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Site {
    /// Creates a directory or schema and the configuration of tests.
    pub async fn new() -> Site {
        let dir = tempfile::tempdir().expect("a directory");
        let database = TestDatabase::create(dir.path()).await;
        let config = test_config(dir.path(), &database);
        if database.is_shared() {
            SealKey::create(&config.seal_key_file, &Environment::system()).expect("a seal key");
        }
        Site { dir, database, config, variables: Vec::new() }
    }

    /// Throttles accounts as late as possible: for tests that try old passwords on purpose, or kill the server between
    /// an attempt and its end, which counts as a failure.
    pub fn tolerate_failures(&mut self) {
        for (name, value) in [("THRESHOLD", "100"), ("LOCKOUT_THRESHOLD", "0"), ("INITIAL", "1s")] {
            self.variables.push((format!("LATCHKEY_THROTTLE_{name}"), value.to_owned()));
        }
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, name: &str, failpoints: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkeyd"));
        let argon2 = &self.config.argon2;
        command.env_clear().current_dir(self.dir.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        command.env("FAILPOINTS", failpoints).env("LATCHKEY_DATABASE_URL", self.database.url());
        command.env("LATCHKEY_DATA_DIR", self.dir.path()).env("LATCHKEY_SOCKET", self.path(&format!("{name}.sock")));
        command.env("LATCHKEY_SEAL_KEY_FILE", &self.config.seal_key_file);
        command.env("LATCHKEY_LISTEN", "127.0.0.1:0").env("LATCHKEY_HTTP_LISTEN", "127.0.0.1:0");
        command.env("LATCHKEY_PAGES_LISTEN", "127.0.0.1:0");
        command.env("LATCHKEY_ARGON2_MEMORY_KIB", argon2.memory_kib.to_string());
        command.env("LATCHKEY_ARGON2_ITERATIONS", argon2.iterations.to_string());
        command.env("LATCHKEY_ARGON2_ALLOW_WEAK", "true").env("LATCHKEY_LOG_LEVEL", "info,latchkey::grpc=warn");
        command.env("LATCHKEY_CONNECTIONS_FAILED_CALLS", "0");
        command.env("LATCHKEY_THROTTLE_SOURCE_FAILURES", "0").env("LATCHKEY_THROTTLE_SOURCE_ACCOUNTS", "0");
        // By default a server on PostgreSQL sends none.
        command.env("LATCHKEY_MAIL_TRANSPORT", "file");
        command.envs(self.variables.iter().cloned());
        command
    }

    /// Starts a server that fails to start, and returns its exit status.
    pub fn fail_to_start(&self, failpoints: &str) -> ExitStatus {
        self.command("latchkey", failpoints).stderr(Stdio::null()).status().expect("a process")
    }

    /// Starts a server and waits until it serves.
    pub async fn start(&self, failpoints: &str) -> Victim {
        self.start_as("latchkey", failpoints).await
    }

    /// Starts a second server on the same database.
    pub async fn start_as(&self, name: &str, failpoints: &str) -> Victim {
        let mut child = self.command(name, failpoints).spawn().expect("a process");
        let lines = BufReader::new(child.stderr.take().expect("a log")).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, served) = oneshot::channel();
        let kept = Arc::clone(&log);
        // Reads to the end, because a full pipe would block the server.
        let reader = std::thread::spawn(move || {
            let mut sender = Some(sender);
            for line in lines.map_while(Result::ok) {
                let address = line.split_once(" grpc=").and_then(|(_, rest)| rest.split(' ').next());
                if let (Some(address), Some(sender)) = (address, sender.take_if(|_| address.is_some())) {
                    let _ = sender.send(address.to_owned());
                }
                kept.lock().expect("a log").push(line);
            }
        });
        let Ok(address) = served.await else { panic!("it did not serve: {:#?}", log.lock().unwrap()) };
        Victim { child, address, socket: self.path(&format!("{name}.sock")), log, reader: Some(reader) }
    }

    /// Creates a barrier, at which a failpoint can hold a server.
    pub fn barrier(&self, name: &str) -> Barrier {
        let path = self.path(&format!("{name}.barrier"));
        Barrier { listener: UnixListener::bind(&path).expect("a socket"), path }
    }
}

impl Victim {
    /// An anonymous client on the network.
    pub async fn stranger(&self) -> Client {
        Client::at(&self.address).await
    }

    /// The local operator.
    pub async fn operator(&self) -> Client {
        Client::on_socket(&self.socket).await
    }

    /// Waits until the process has ended. Returns false if it is still running after this time.
    pub async fn dies_within(&mut self, time: std::time::Duration) -> bool {
        let deadline = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a process") {
                assert_eq!(status.signal(), Some(9), "not killed but ended: {:#?}", self.log());
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        false
    }

    /// Waits until a failpoint has killed the process.
    pub async fn is_killed(&mut self) {
        assert!(self.dies_within(std::time::Duration::from_secs(30)).await, "nothing killed it");
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("an end");
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("a log").clone()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The last lines may still be in the pipe.
        let _ = self.reader.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            log::assert_harmless(self.log().iter().map(String::as_str));
        }
    }
}

/// A Unix socket at which a failpoint holds its task until the test releases it.
pub struct Barrier {
    listener: UnixListener,
    path: PathBuf,
}

/// A task held at a failpoint. It continues when this value is dropped.
pub struct Held(#[expect(dead_code, reason = "held until dropped")] UnixStream);

impl Barrier {
    /// The configuration for `FAILPOINTS`.
    pub fn action(&self) -> String {
        format!("return(wait {})", self.path.display())
    }

    /// Waits until a task has reached the failpoint.
    pub async fn reached(&self) -> Held {
        let arrived = tokio::time::timeout(std::time::Duration::from_secs(30), self.listener.accept());
        Held(arrived.await.expect("no process came").expect("a connection").0)
    }
}
