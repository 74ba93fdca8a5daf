//! docs/clients.md names only what exists, and its Python program runs word for word.

use std::collections::BTreeSet;

use latchkey::proto::{code_name, descriptors};
use prost_reflect::DescriptorPool;
use tonic::Code;

use crate::harness::daemon::Daemon;
use crate::harness::raw::{PACKAGE, contract};
use crate::harness::transcript::{Shell, blocks, prose, steps};

const CLIENTS: &str = include_str!("../../docs/clients.md");

/// The only block with this mark.
fn block(mark: &str) -> String {
    let [(_, block)] = blocks(CLIENTS, &[mark]).try_into().unwrap_or_else(|found| panic!("{mark}: {found:?}"));
    block
}

/// The names in backticks outside of programs and tables. Tables also name what belongs to the libraries.
fn names() -> Vec<String> {
    let prose: String = prose(CLIENTS).split_inclusive('\n').filter(|line| !line.starts_with('|')).collect();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let spans = prose.split('`').skip(1).step_by(2);
    spans.filter(|span| span.chars().all(is_of_name)).map(str::to_owned).collect()
}

/// The identifiers that follow this text in a program.
fn after<'a>(program: &'a str, text: &str) -> BTreeSet<&'a str> {
    let end = |rest: &str| rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    program.split(text).skip(1).map(|rest| &rest[..end(rest)]).collect()
}

/// The status codes and the reasons of errors.
fn codes_and_reasons() -> BTreeSet<String> {
    let reasons = contract().get_enum_by_name(&format!("{PACKAGE}.ErrorReason")).expect("the enum");
    let reasons = reasons.values().map(|value| value.name().trim_start_matches("ERROR_REASON_").to_owned());
    (0..=16).map(|code| code_name(Code::from(code)).to_owned()).chain(reasons).collect()
}

/// The short names of messages, services and methods.
fn types_and_methods(pool: &DescriptorPool) -> BTreeSet<String> {
    let messages = pool.all_messages().map(|message| message.name().to_owned());
    let methods = pool.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().map(|method| method.name().to_owned()).collect();
        methods.into_iter().chain([service.name().to_owned()])
    });
    messages.chain(methods).collect()
}

/// The names of fields, alone and after their message: `reason` and `ErrorInfo.reason`.
fn fields(pool: &DescriptorPool) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for message in pool.all_messages() {
        for field in message.fields() {
            fields.extend([field.name().to_owned(), format!("{}.{}", message.name(), field.name())]);
        }
    }
    fields
}

#[test]
fn the_page_for_clients_names_only_reasons_methods_and_fields_that_exist() {
    let pool = descriptors().expect("descriptors");
    let (shouted, types, fields) = (codes_and_reasons(), types_and_methods(&pool), fields(&pool));
    let packages = [PACKAGE, "google.rpc", "latchkeyv1", "Latchkey.V1"];
    let mut checked = 0;
    for name in names().iter().filter(|name| !packages.contains(&name.as_str())) {
        let is_upper = |c: char| c.is_ascii_uppercase() || c == '_';
        let known = if name.chars().all(is_upper) {
            &shouted
        } else if name.contains(['_', '.']) {
            &fields
        } else if name.starts_with(is_upper) {
            &types
        } else {
            continue;
        };
        assert!(known.contains(name), "there is no {name}");
        checked += 1;
    }
    assert!(checked > 12, "only {checked} names were found");
}

#[test]
fn the_programs_for_clients_use_only_types_and_fields_that_exist() {
    let pool = descriptors().expect("descriptors");
    let types = types_and_methods(&pool);
    let stubs: BTreeSet<String> = pool.services().map(|service| format!("{}Stub", service.name())).collect();
    let python = block("python");
    let used: BTreeSet<&str> = ["_pb2.", "_pb2_grpc."].iter().flat_map(|text| after(&python, text)).collect();
    assert!(used.len() >= 6, "{used:?}");
    for name in used {
        assert!(types.contains(name) || stubs.contains(name), "Python: there is no {name}");
    }

    let camel = |name: &str| name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect::<String>();
    let mut known: BTreeSet<String> = pool.services().map(|service| format!("New{}Client", service.name())).collect();
    for message in contract().all_messages() {
        known.insert(message.name().to_owned());
        known.extend(message.fields().map(|field| format!("{}_{}", message.name(), camel(field.name()))));
    }
    let go = block("go");
    let used = after(&go, "latchkeyv1.");
    assert!(used.len() >= 5, "{used:?}");
    for name in used {
        assert!(known.contains(name), "Go: there is no {name}");
    }

    let request = pool.get_message_by_name(&format!("{PACKAGE}.ResetPasswordRequest")).expect("a message");
    let mut members: BTreeSet<String> = request.fields().map(|field| camel(field.name())).collect();
    members.extend(request.oneofs().map(|oneof| camel(oneof.name())));
    let set = go.lines().filter_map(|line| line.strip_prefix("\t\t")?.split_once(": "));
    let set: Vec<&str> = set.map(|(name, _)| name).filter(|name| name.chars().all(char::is_alphanumeric)).collect();
    assert_eq!(set.len(), 3, "{set:?}");
    for name in set {
        assert!(members.contains(name), "Go: ResetPasswordRequest has no {name}");
    }
}

/// Returns whether Python has the packages that the page installs. If it has not, says so, and fails with
/// `TEST_REQUIRE_ALL`.
pub fn has_python_packages(shell: &Shell) -> bool {
    let found = shell.bash("python3 -c 'import grpc_tools, grpc_status'").status.success();
    let missing = "python3 lacks grpcio-tools or grpcio-status";
    assert!(found || std::env::var("TEST_REQUIRE_ALL").is_err(), "TEST_REQUIRE_ALL: {missing}");
    if !found {
        eprintln!("skipped: {missing}");
    }
    found
}

#[test]
fn the_python_program_for_clients_runs_word_for_word_on_the_local_socket_and_over_tcp() {
    let mut shell = Shell::default();
    if !has_python_packages(&shell) || !shell.has("jq") {
        return;
    }
    let daemon = Daemon::start(&shell, &[]);
    shell.reach(&daemon.address);
    shell.latchkey(&["users", "create", "ada"]).good();

    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/proto"), shell.path("proto")).expect("a link");
    let setup = block("sh python");
    let (install, generate) = setup.split_once('\n').expect("two commands");
    assert!(install.starts_with("pip install "), "{install}");
    let generated = shell.bash(generate);
    assert!(generated.status.success(), "{generated:?}");

    std::fs::write(shell.path("reset.py"), block("python")).expect("a file");
    shell.play(&steps(&block("console")));
}
