//! What all commands have in common: help, examples, options.

use latchkey::proto::DESCRIPTORS;
use prost_reflect::DescriptorPool;

use crate::cli::terminal_of;
use crate::harness::transcript::Shell;
use crate::harness::{Harness, OTHER_PASSWORD, PASSWORD};

#[test]
fn completions_and_manual_pages_are_made() {
    let shell = Shell::default();
    for (name, mark) in [("bash", "_latchkey()"), ("zsh", "#compdef latchkey"), ("fish", "--command latchkey")] {
        assert!(shell.latchkey(&["completions", name]).good().contains(mark), "{name}");
    }
    let parsed = shell.bash("latchkey completions bash > completions && bash -n completions");
    assert!(parsed.status.success(), "{parsed:?}");
    assert!(shell.latchkey(&["man"]).good().contains(".TH latchkey"));
    let directory = shell.path("man").display().to_string();
    shell.latchkey(&["man", "--dir", &directory]).good();
    assert!(shell.path("man/latchkey-users-reset.1").exists());
}

#[test]
fn every_command_explains_itself_with_examples() {
    let commands = commands(&Shell::default());
    for (command, help) in &commands {
        assert!(help.contains("Examples:"), "{command:?}: {help}");
    }
    assert!(commands.len() >= 28, "{} commands", commands.len());
}

/// All commands and groups of commands, with their help.
fn commands(shell: &Shell) -> Vec<(Vec<String>, String)> {
    let mut unseen = vec![Vec::<String>::new()];
    let mut seen = Vec::new();
    while let Some(command) = unseen.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = shell.latchkey(&arguments).good();
        let names =
            help.split_once("Commands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or_default());
        let names = names.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        unseen.extend(names.map(|name| command.iter().cloned().chain([name.to_owned()]).collect()));
        seen.push((command, help));
    }
    seen
}

/// Arguments with which each command calls the server.
const CALLS: &[(&str, &[&str])] = &[
    ("status", &[]),
    ("users list", &[]),
    ("users show", &["bob"]),
    ("users diagnose", &["bob", "--from", "192.0.2.7"]),
    ("users recover", &["bob"]),
    ("users create", &["bob"]),
    ("users history", &["bob"]),
    ("users invite", &["bob", "--email", "bob@example.com"]),
    ("users update", &["bob", "--remove-role", "helpdesk"]),
    ("users delete", &["bob"]),
    ("users lock", &["bob"]),
    ("users contain", &["bob"]),
    ("users unlock", &["bob"]),
    ("users reset", &["bob", "--temporary-password"]),
    ("users require-change", &["bob", "--end-sessions"]),
    ("users waive-change", &["bob"]),
    ("sessions list", &["bob"]),
    ("sessions revoke", &["bob"]),
    ("tokens create", &["bob", "--name", "x", "--scope", "users.read"]),
    ("tokens list", &[]),
    ("tokens revoke", &["01jq3m8d7hw4zk9x6c2v5b1n0t"]),
    ("roles", &[]),
    ("roles list", &[]),
    ("audit list", &[]),
    ("deliveries list", &[]),
    ("deliveries show", &["01jq3m8d7hw4zk9x6c2v5b1n0t"]),
    ("deliveries resend", &["01jq3m8d7hw4zk9x6c2v5b1n0t"]),
    ("deliveries cancel", &["01jq3m8d7hw4zk9x6c2v5b1n0t"]),
    ("deliveries watch", &[]),
    ("email verify", &["bob"]),
    ("email confirm", &["--token-stdin"]),
    ("password forgot", &["bob"]),
    ("password reset", &["--token-stdin"]),
    ("password cancel", &["--token-stdin"]),
    ("password check", &["--password-stdin"]),
    ("mfa enroll", &[]),
    ("mfa confirm", &["--ticket-stdin"]),
    ("mfa disable", &[]),
    ("mfa codes", &[]),
    ("mfa missing", &[]),
    ("policy show", &[]),
    ("policy preview", &["--second-factor", "all"]),
    ("policy set", &["--second-factor", "all"]),
    ("policy report", &[]),
    ("mfa reset", &["bob"]),
    ("login", &["ada", "--password-stdin"]),
    ("logout", &[]),
    ("whoami", &[]),
    ("passwd", &["--password-stdin"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_takes_output_and_every_change_takes_yes() {
    let h = Harness::start().await;
    h.create("ada", &["admin"], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
    let changes = |method: &str| {
        let (service, name) = method.split_once('/').expect("a method");
        let service = pool.get_service_by_name(service).expect("a service");
        let method = service.methods().find(|method| method.name() == name).expect("a method");
        let level = method.options().get_field_by_name("idempotency_level").expect("a level").as_enum_number();
        level != Some(1)
    };
    let mut changing = 0;
    for (command, help) in commands(&shell) {
        let name = command.join(" ");
        let group = help.contains("Commands:\n") && name != "roles";
        if group || ["completions", "man"].contains(&name.as_str()) {
            continue;
        }
        let (_, arguments) = CALLS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}: no row"));
        let run = |flags: &[&str]| {
            let words: Vec<&str> = command.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
            let flags = [flags, &["--show-grpcurl"]].concat();
            shell.feed("latchkey", &[words, flags].concat(), &format!("{PASSWORD}\n{OTHER_PASSWORD}\n")).good()
        };
        let shown = run(&["-o", "json"]);
        let methods = shown.split_whitespace().filter(|word| word.starts_with("latchkey.v1.") && word.contains('/'));
        if methods.clone().any(changes) {
            changing += 1;
            run(&["--yes"]);
            run(&["-y"]);
        }
    }
    assert!(changing >= 15, "{changing} commands change something");
}
