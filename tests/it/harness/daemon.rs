//! The server as operators run it: a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Stdio};

use super::transcript::Shell;

/// A `latchkeyd` that serves. It ends with the value.
pub struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
    /// What it has logged up to the line that says that it serves.
    pub started: Vec<String>,
    /// `127.0.0.1:…` of gRPC.
    pub address: String,
    /// `127.0.0.1:…` of metrics and probes.
    pub http_address: String,
}

impl Daemon {
    /// Starts it on free ports, and waits until it serves: the log says where.
    pub fn start(shell: &Shell, args: &[&str]) -> Daemon {
        let mut command = shell.command("latchkeyd");
        command.args(args).env("LATCHKEY_LISTEN", "127.0.0.1:0").env("LATCHKEY_HTTP_LISTEN", "127.0.0.1:0");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("a process");
        let log = BufReader::new(child.stderr.take().expect("a log"));
        let mut daemon =
            Daemon { child, log, started: Vec::new(), address: String::new(), http_address: String::new() };
        while daemon.address.is_empty() {
            let line = daemon.next_line();
            assert!(!line.is_empty(), "it has ended: {:#?}", daemon.started);
            let field =
                |name: &str| line.split_once(name).and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
            field(" grpc=").clone_into(&mut daemon.address);
            field(" http=")
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .trim_matches('"')
                .clone_into(&mut daemon.http_address);
            daemon.started.push(line);
        }
        daemon
    }

    /// How much memory it uses, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// The next line of the log.
    pub fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).expect("a log");
        line.trim_end().to_owned()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, as a service manager does.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }

    /// Asks it to stop, and waits. Answers with its exit code and the rest of the log.
    pub fn stop(self) -> (Option<i32>, String) {
        self.terminate();
        self.end()
    }

    /// Waits until it has ended. Answers with its exit code and the rest of the log.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.log, &mut rest).expect("a log");
        (self.child.wait().expect("an end").code(), rest)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
