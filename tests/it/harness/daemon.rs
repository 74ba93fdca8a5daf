//! The server as operators run it, as a child process.

use std::io::{BufRead, BufReader, Read as _};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use super::log;
use super::transcript::Shell;

/// A running `latchkeyd`, stopped when dropped. Its whole log is searched for secrets and panics.
pub struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
    /// The log up to the line that says that the server is serving.
    pub started: Vec<String>,
    /// Address of gRPC, `127.0.0.1:…`.
    pub address: String,
    /// Address of metrics and probes, `127.0.0.1:…`.
    pub http_address: String,
}

impl Daemon {
    /// Starts the server on free ports and waits until the log says that it serves.
    pub fn start(shell: &Shell, args: &[&str]) -> Daemon {
        let mut daemon = Daemon::launch(shell, args);
        daemon.until(" grpc=");
        daemon
    }

    /// As `start`, by a program that replaces itself by the server.
    pub fn start_by(shell: &Shell, program: &str, args: &[&str]) -> Daemon {
        let mut daemon = Daemon::launch_by(shell, program, args);
        daemon.until(" grpc=");
        daemon
    }

    /// Starts the server on free ports.
    pub fn launch(shell: &Shell, args: &[&str]) -> Daemon {
        Daemon::launch_by(shell, "latchkeyd", args)
    }

    fn launch_by(shell: &Shell, program: &str, args: &[&str]) -> Daemon {
        let mut command = shell.command(program);
        command.args(args).env("LATCHKEY_LISTEN", "127.0.0.1:0").env("LATCHKEY_HTTP_LISTEN", "127.0.0.1:0");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("a process");
        let log = BufReader::new(child.stderr.take().expect("a log"));
        Daemon { child, log, started: Vec::new(), address: String::new(), http_address: String::new() }
    }

    /// Waits for a line of the log that contains this text.
    pub fn until(&mut self, wanted: &str) {
        loop {
            let line = self.next_line();
            assert!(!line.is_empty(), "it has ended: {:#?}", self.started);
            if line.contains(" grpc=") {
                let field =
                    |name: &str| line.split_once(name).and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
                field(" grpc=").clone_into(&mut self.address);
                let http = field(" http=").rsplit('/').next().unwrap_or_default();
                http.trim_matches('"').clone_into(&mut self.http_address);
            }
            let found = line.contains(wanted);
            self.started.push(line);
            if found {
                return;
            }
        }
    }

    /// Memory in use, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// The next line of the log.
    pub fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).expect("a log");
        log::assert_harmless([line.as_str()]);
        line.trim_end().to_owned()
    }

    /// The unread rest of the log, after the process has ended.
    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("a log");
        rest
    }

    /// Id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the signal by which a service manager stops the server.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }

    /// Stops the server and waits. Returns its exit code and the rest of the log.
    pub fn stop(self) -> (Option<i32>, String) {
        self.terminate();
        self.end()
    }

    /// Waits for the process to end, for at most a minute. Returns its exit code and the rest of the log.
    pub fn end(mut self) -> (Option<i32>, String) {
        let give_up = Instant::now() + Duration::from_mins(1);
        while self.child.try_wait().expect("a process").is_none() {
            if give_up < Instant::now() {
                self.child.kill().expect("a process");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let rest = self.rest();
        log::assert_harmless(rest.lines());
        (self.child.wait().expect("an end").code(), rest)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let rest = self.rest();
        if !std::thread::panicking() {
            log::assert_harmless(rest.lines());
        }
    }
}
