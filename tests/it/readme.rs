//! The commands of README.md and docs/grpcurl.md, run word for word.

use crate::harness::daemon::Daemon;
use crate::harness::transcript::{Shell, Step, blocks, steps, text_matches};

const README: &str = include_str!("../../README.md");
const GRPCURL: &str = include_str!("../../docs/grpcurl.md");
const CARGO_RUN: &str = "$ cargo run\n";
const CARGO_BUILD: &str = "cargo build";

/// A server started as in the tour, and a second shell.
fn two_terminals() -> (Daemon, Shell) {
    let mut shell = Shell::default();
    let daemon = Daemon::start(&shell, &[]);
    shell.reach(&daemon.address);
    (daemon, shell)
}

fn tour() -> &'static str {
    let (_, rest) = README.split_once("## A tour in five minutes").expect("the tour");
    rest.split_once("\n## ").expect("the next section").0
}

fn play(shell: &Shell, document: &str) {
    // Consecutive commands share a shell, as in a terminal, up to one that needs the terminal itself.
    let mut together = Vec::new();
    for (mark, block) in blocks(document, &["console", "console terminal", "console oathtool"]) {
        if block.starts_with(CARGO_RUN) || (mark == "console oathtool" && !shell.has("oathtool")) {
            continue;
        }
        if mark == "console terminal" {
            shell.play(&std::mem::take(&mut together));
            for step in steps(&block) {
                shell.play_at_terminal(&step);
            }
        } else {
            // The binaries are already built for the test.
            together.extend(steps(&block).into_iter().filter(|step| step.command != CARGO_BUILD));
        }
    }
    shell.play(&together);
}

#[test]
fn the_tour_runs_word_for_word() {
    let (mut daemon, shell) = two_terminals();
    let tour = tour();

    let (_, first) = blocks(tour, &["console"]).into_iter().next().expect("a block");
    let printed = &steps(&first)[0].prints;
    let serving = daemon.started.last().expect("a line").replace(&daemon.address, "127.0.0.1:50051");
    assert!(first.starts_with(CARGO_RUN) && text_matches(&printed[1], &serving), "{serving}");
    let next = daemon.next_line();
    assert!(text_matches(&printed[2], &next), "{next}");

    // `cargo run` only builds the server.
    let all: Vec<Step> = blocks(tour, &["console"]).iter().flat_map(|(_, block)| steps(block)).collect();
    let first_of = |wanted: &dyn Fn(&str) -> bool| all.iter().position(|step| wanted(&step.command));
    let built = first_of(&|command| command == CARGO_BUILD).expect("the command is built");
    let used = first_of(&|command| command.contains("latchkey ")).expect("the command is used");
    assert!(built < used, "latchkey is used before it is built");

    if shell.has("jq") && shell.has("curl") && shell.has("script") {
        play(&shell, tour);
        for secret in ["enroll.json", "codes.txt"] {
            assert!(!shell.path(secret).exists(), "{secret} is left behind");
        }
    }
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(
        !log.contains("otters") && !log.contains("lanterns") && !log.contains("lkr_") && !log.contains("eyJ"),
        "{log}"
    );
}

/// A row of the table: the command, its output, and its exit code.
fn rows(document: &str) -> Vec<(String, String, String)> {
    let rows = document.lines().filter(|line| line.starts_with("| ") && line.contains("$A") || line.contains("-unix"));
    rows.map(|line| {
        let line = line.replace(r"\|", "\u{1e}");
        let cells: Vec<String> =
            line.split('|').map(|cell| cell.trim().trim_matches('`').replace('\u{1e}', "|")).collect();
        let [_, _, command, prints, exit, _] = cells.as_slice() else { panic!("not four cells: {line}") };
        (command.clone(), prints.clone(), exit.clone())
    })
    .collect()
}

#[test]
fn the_calls_of_grpcurl_run_word_for_word() {
    let (_daemon, shell) = two_terminals();
    if !shell.has("grpcurl") || !shell.has("jq") {
        return;
    }
    let of_readme = blocks(README, &["console grpcurl"]);
    assert_eq!(of_readme.len(), 1);
    shell.latchkey(&["users", "create", "ada", "--temporary-password"]).good();
    shell.play(&steps(&of_readme[0].1));

    let rows = rows(GRPCURL);
    assert!(rows.len() >= 15, "{} rows", rows.len());

    let (_, setup) = blocks(GRPCURL, &["console"]).into_iter().next().expect("a block");
    let rows = rows.into_iter().map(|(command, prints, exit)| Step {
        command,
        exit: exit.parse().expect("an exit code"),
        prints: vec![prints],
        in_a_cell: true,
    });
    shell.play(&steps(&setup).into_iter().chain(rows).collect::<Vec<_>>());
}
