//! Runs the shell sessions in documents and compares the output.
//!
//! In a block marked `console`, a line that begins with `$ ` is a command, a line that begins with `> ` continues it,
//! and the lines below are the output of both streams. `…` stands for any text within a line, and on its own line for
//! any lines. A command that ends with `# exit 1` must exit with that code; the others with 0.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::PASSWORD;

/// A command and its expected output.
#[derive(Debug, Default, Clone)]
pub struct Step {
    pub command: String,
    pub exit: i32,
    pub prints: Vec<String>,
    /// `prints` is a single line, as in a table cell, regardless of line breaks in the output.
    pub in_a_cell: bool,
}

/// The blocks of a document that have one of these marks, with their marks: `console`, `console terminal`.
pub fn blocks(document: &str, marks: &[&str]) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in document.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(mark)) => open = Some((mark.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|(mark, _)| marks.contains(&mark.as_str()))),
            (Some((_, body)), None) => body.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    blocks
}

/// The text of a document outside of its blocks.
pub fn prose(document: &str) -> String {
    let mut prose = String::new();
    let mut is_block = false;
    for line in document.lines() {
        if line.starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            prose.extend([line, "\n"]);
        }
    }
    prose
}

/// The steps of a block.
pub fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), ..Step::default() });
            continue;
        }
        let step = steps.last_mut().unwrap_or_else(|| panic!("no command before {line:?}"));
        match line.strip_prefix("> ").filter(|_| step.prints.is_empty()) {
            Some(more) => step.command.extend(["\n", more]),
            None => step.prints.push(line.to_owned()),
        }
    }
    for step in &mut steps {
        let code = step.command.rsplit_once("# exit ").map(|(_, code)| code.parse().expect("an exit code"));
        step.exit = code.unwrap_or_default();
    }
    steps
}

/// The working directory and environment of commands.
pub struct Shell {
    home: TempDir,
    variables: Vec<(String, String)>,
    replacements: Vec<(String, String)>,
    /// Bash commands that run first.
    prelude: String,
}

impl Default for Shell {
    fn default() -> Shell {
        let home = tempfile::tempdir().expect("a directory");
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).expect("a directory");
        for binary in [env!("CARGO_BIN_EXE_latchkey"), env!("CARGO_BIN_EXE_latchkeyd")].map(Path::new) {
            std::os::unix::fs::symlink(binary, bin.join(binary.file_name().expect("a name"))).expect("a link");
        }
        let go = std::env::var("HOME").map(|home| format!(":{home}/go/bin")).unwrap_or_default();
        let path = format!("{}:{}{go}", bin.display(), std::env::var("PATH").expect("a PATH"));
        let mut shell = Shell { home, variables: Vec::new(), replacements: Vec::new(), prelude: String::new() };
        let state = shell.path("state").display().to_string();
        let home = shell.path("").display().to_string();
        for (name, value) in [("PATH", path.as_str()), ("HOME", &home), ("XDG_STATE_HOME", &state), ("TZ", "UTC")] {
            shell.set(name, value);
        }
        shell.set("LC_ALL", "C.UTF-8");
        // Tests run side by side, and only one server can have the default port.
        shell.set("LATCHKEY_PAGES_LISTEN", "127.0.0.1:0");
        shell
    }
}

impl Shell {
    /// Sets an environment variable.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Shell {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the address of the server. Its free port replaces the one in documents, and the default of the commands for
    /// people who are not signed in.
    pub fn reach(&mut self, address: &str) {
        self.replacements.push(("127.0.0.1:50051".to_owned(), address.to_owned()));
        let login = format!("LATCHKEY_SERVER={address} command latchkey");
        self.prelude = format!(
            r#"latchkey() {{ case "$1 $2" in login*|password*|"email confirm") {login} "$@";; *) command latchkey "$@";; esac; }}"#
        );
    }

    /// A path in the working directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A command for a program in this environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/usr/bin/env");
        command.arg(program).env_clear().envs(self.variables.iter().cloned()).current_dir(self.home.path());
        command.stdin(Stdio::null());
        command
    }

    /// Returns whether a program is available. If it is not, says so, and fails with `TEST_REQUIRE_ALL`.
    pub fn has(&self, program: &str) -> bool {
        let found = self.bash(&format!("command -v {program}")).status.success();
        assert!(found || std::env::var("TEST_REQUIRE_ALL").is_err(), "TEST_REQUIRE_ALL: {program} is missing");
        if !found {
            eprintln!("skipped: there is no {program} here");
        }
        found
    }

    /// Runs a line of bash.
    pub fn bash(&self, line: &str) -> Output {
        self.command("bash").args(["-c", line]).output().expect("bash")
    }

    /// Runs a program to completion with this standard input.
    pub fn feed(&self, program: &str, args: &[&str], input: &str) -> Ran {
        let mut command = self.command(program);
        let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        // A command that reads no input may have ended already.
        let _ = child.stdin.take().expect("an input").write_all(input.as_bytes());
        Ran::of(&child.wait_with_output().expect("an end"))
    }

    /// Runs `latchkey`.
    pub fn latchkey(&self, args: &[&str]) -> Ran {
        self.feed("latchkey", args, "")
    }

    /// Runs all steps in one bash, and checks the output and exit code of each.
    pub fn play(&self, steps: &[Step]) {
        let mut script = format!("exec 2>&1\n{}\n", self.prelude);
        for step in steps {
            let _ = write!(script, "{}\nprintf '\\n\\036%d\\036' $?\n", self.here(&step.command));
        }
        let output = self.bash(&script);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let mut fields = text.split('\u{1e}');
        let mut faults = String::new();
        for step in steps {
            let printed = fields.next().unwrap_or_default();
            let printed = printed.strip_suffix('\n').unwrap_or(printed);
            let exit = fields.next().unwrap_or("none: bash stopped before");
            if let Err(fault) = self.compare(step, printed, exit) {
                faults += &fault;
            }
        }
        assert!(faults.is_empty(), "{faults}");
    }

    /// Runs one step on a terminal and types the answers shown after its prompts: `[y/N] y`. Where the caller's password is
    /// asked for, types [`PASSWORD`], which is not shown.
    pub fn play_at_terminal(&self, step: &Step) {
        let answers = step.prints.iter().filter_map(|line| match line.split_once("[y/N] ") {
            Some((_, answer)) => Some(("[y/N] ".to_owned(), answer)),
            None => line.starts_with("Password of ").then(|| (format!("{} ", self.here(line)), PASSWORD)),
        });
        let answers: Vec<(String, &str)> = answers.collect();
        let answers: Vec<(&str, &str)> = answers.iter().map(|(prompt, answer)| (prompt.as_str(), *answer)).collect();
        let command = step.command.split("  # exit").next().unwrap_or_default();
        let (printed, exit) = self.type_at(command, &answers);
        if let Err(fault) = self.compare(step, &printed, &exit.to_string()) {
            panic!("{fault}");
        }
    }

    /// Runs a command on its own terminal. Types each answer when its prompt appears.
    pub fn type_at(&self, command: &str, answers: &[(&str, &str)]) -> (String, i32) {
        self.type_at_width(100, command, answers)
    }

    /// Runs one step on a terminal of this width.
    pub fn play_at_width(&self, columns: usize, step: &Step) {
        let command = step.command.split("  # exit").next().unwrap_or_default();
        let (printed, exit) = self.type_at_width(columns, command, &[]);
        if let Err(fault) = self.compare(step, &printed, &exit.to_string()) {
            panic!("{columns} columns: {fault}");
        }
    }

    /// Runs a command on its own terminal of this width. Types each answer when its prompt appears.
    pub fn type_at_width(&self, columns: usize, command: &str, answers: &[(&str, &str)]) -> (String, i32) {
        let prompts: Vec<&str> = answers.iter().map(|(prompt, _)| *prompt).collect();
        let mut answers = answers.iter().map(|(_, answer)| (*answer).to_owned());
        self.converse(columns, command, &prompts, |_| answers.next().expect("an answer"))
    }

    /// Runs a command on its own terminal of this width. When a prompt appears, types what `answer` makes of all that was
    /// printed so far.
    pub fn converse(
        &self,
        columns: usize,
        command: &str,
        prompts: &[&str],
        mut answer: impl FnMut(&str) -> String,
    ) -> (String, i32) {
        let line = format!("stty cols {columns} rows 50; exec {command}");
        let mut script = self.command("timeout");
        script.args(["60", "script", "-qec", &line, "/dev/null"]).env("NO_COLOR", "1").env("SHELL", "/bin/bash");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script");
        let mut input = child.stdin.take().expect("an input");
        let mut output = child.stdout.take().expect("an output");
        let mut printed = Vec::new();
        let mut read = 0;
        let mut prompts = prompts.iter();
        let mut next = prompts.next();
        let mut buffer = [0; 4096];
        loop {
            let count = output.read(&mut buffer).expect("output");
            if count == 0 {
                break;
            }
            printed.extend_from_slice(&buffer[..count]);
            while let Some(prompt) = next {
                let Some(at) = find(&printed[read..], prompt.as_bytes()) else { break };
                read += at + prompt.len();
                let answer = answer(&String::from_utf8_lossy(&printed));
                input.write_all(format!("{answer}\n").as_bytes()).expect("input");
                next = prompts.next();
            }
        }
        let code = child.wait().expect("an end").code().unwrap_or(-1);
        let text = String::from_utf8_lossy(&printed).replace("\r\n", "\n");
        (text.trim_end().to_owned(), code)
    }

    fn here(&self, written: &str) -> String {
        self.replacements.iter().fold(written.to_owned(), |text, (written, real)| text.replace(written, real))
    }

    fn compare(&self, step: &Step, printed: &str, exit: &str) -> Result<(), String> {
        let expected: Vec<String> = step.prints.iter().map(|line| self.here(line)).collect();
        let one_line = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        let actual: Vec<&str> = if step.in_a_cell { vec![&one_line] } else { printed.lines().collect() };
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        if lines_match(&expected, &actual) && exit == step.exit.to_string() {
            return Ok(());
        }
        let (command, wanted) = (&step.command, expected.join("\n"));
        Err(format!("\n$ {command}\n--- expected, exit {}\n{wanted}\n--- printed, exit {exit}\n{printed}\n", step.exit))
    }
}

/// The result of a process.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks that the process succeeded, and returns its standard output.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// As `good`, parsed as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.good();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Checks the exit code and the whole of standard error, where `…` stands for any text; standard output must be
    /// empty.
    #[track_caller]
    pub fn fails(&self, code: i32, stderr: &str) {
        let expected: Vec<&str> = stderr.lines().collect();
        let actual: Vec<&str> = self.stderr.lines().collect();
        assert!(lines_match(&expected, &actual), "--- expected\n{stderr}\n--- printed\n{}", self.stderr);
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
    }
}

/// Returns whether the lines match: `…` alone stands for any lines, within a line for any text.
pub fn lines_match(expected: &[&str], actual: &[&str]) -> bool {
    match (expected, actual) {
        ([], []) => true,
        (["…", rest @ ..], _) => (0..=actual.len()).any(|skipped| lines_match(rest, &actual[skipped..])),
        ([line, rest @ ..], [printed, others @ ..]) => text_matches(line, printed) && lines_match(rest, others),
        _ => false,
    }
}

/// Returns whether the text matches: `…` stands for any text. Since that shifts columns, the width of gaps is ignored.
pub fn text_matches(expected: &str, actual: &str) -> bool {
    let (expected, actual) = (closed_up(expected), closed_up(actual));
    let Some((first, rest)) = expected.split_once('…') else { return expected == actual };
    let Some(mut remaining) = actual.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('…').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = remaining.find(piece) else { return false };
        remaining = &remaining[at + piece.len()..];
    }
    remaining.ends_with(last)
}

fn closed_up(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let words: Vec<&str> = line.split_whitespace().collect();
    format!("{}{}", " ".repeat(indent), words.join(" "))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[test]
fn an_ellipsis_stands_for_anything_and_nothing_else_does() {
    assert!(text_matches("a … c", "a b c") && text_matches("…", "") && text_matches("a…b…c", "a b c"));
    assert!(!text_matches("a … c", "a b d") && !text_matches("abc", "abcd") && !text_matches("a…bb", "ab"));
    assert!(lines_match(&["a", "…", "c"], &["a", "b", "b", "c"]) && lines_match(&["…", "c"], &["c"]));
    assert!(!lines_match(&["a", "…", "c"], &["a", "b"]) && !lines_match(&["a"], &["a", "b"]));
}
