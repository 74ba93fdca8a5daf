//! The layers of `lib.rs`, held by the imports of every file.

use std::collections::BTreeSet;
use std::path::Path;

/// A source file: its path under `src`, and its code without comments.
struct File {
    path: String,
    code: String,
}

fn files() -> Vec<File> {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 50, "too few files to be all");
    files
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a file");
            let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
            let path = path.strip_prefix(&src).expect("under src").to_string_lossy().into_owned();
            files.push(File { path, code: without_comments(&text) });
        }
    }
}

fn without_comments(text: &str) -> String {
    let code = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    code.collect::<Vec<_>>().join("\n")
}

/// The identifiers of a text.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The modules of ours that a text names by `crate::…`, also within braces.
fn modules(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            modules.extend(heads(list));
        } else {
            modules.extend(words(rest).next().map(str::to_owned));
        }
    }
    modules
}

/// The first name of each item of a list in braces.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut item, mut heads) = (0, String::new(), Vec::new());
    for symbol in list.chars() {
        match symbol {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(words(&std::mem::take(&mut item)).next().map(str::to_owned)),
            _ => item.push(symbol),
        }
    }
    heads.extend(words(&item).next().map(str::to_owned));
    heads
}

/// Whether a file is in one of these places: a folder, or a file.
fn is_in(file: &File, places: &[&str]) -> bool {
    places.iter().any(|place| file.path == *place || file.path.starts_with(&format!("{place}/")))
}

/// A crate stays in its layer.
fn stays_in(prefixes: &[&str], places: &[&str]) {
    for file in files().iter().filter(|file| !is_in(file, places)) {
        let stray = words(&file.code).find(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
        assert_eq!(stray, None, "src/{} names a crate that belongs into {places:?}", file.path);
    }
    assert!(files().iter().any(|file| is_in(file, places)), "nothing is in {places:?}");
}

/// A layer names no module of ours but these.
fn knows_only(layer: &str, known: &[&str]) {
    let files = files();
    let of_layer: Vec<&File> = files.iter().filter(|file| is_in(file, &[layer])).collect();
    assert!(!of_layer.is_empty(), "nothing is in {layer}");
    for file in of_layer {
        let strange: Vec<_> = modules(&file.code).into_iter().filter(|m| !known.contains(&m.as_str())).collect();
        assert!(strange.is_empty(), "src/{} names {strange:?}; {layer} knows {known:?} only", file.path);
    }
}

#[test]
fn only_the_store_speaks_sql() {
    stays_in(&["sea_orm", "sea_query", "sqlx"], &["store"]);
}

#[test]
fn only_the_edges_speak_grpc() {
    stays_in(&["tonic", "prost"], &["grpc", "cli", "server", "proto.rs"]);
}

#[test]
fn only_the_edges_speak_http() {
    stays_in(&["axum", "hyper", "tower"], &["grpc", "cli", "server"]);
}

#[test]
fn the_domain_does_no_input_and_no_output() {
    knows_only("domain", &["domain"]);
    for file in files().iter().filter(|file| is_in(file, &["domain"])) {
        let busy = words(&file.code).find(|word| ["async", "await", "tokio", "File", "TcpStream"].contains(word));
        assert_eq!(busy, None, "src/{}", file.path);
    }
}

#[test]
fn the_store_knows_the_domain_and_errors() {
    knows_only("store", &["store", "domain", "error"]);
}

#[test]
fn the_use_cases_know_no_edge() {
    knows_only("app", &["app", "crypto", "domain", "effects", "error", "metrics", "store"]);
    for file in files().iter().filter(|file| is_in(file, &["app"])) {
        let vocabulary: Vec<_> = file.code.match_indices("metrics::").map(|(at, _)| &file.code[at..]).collect();
        assert!(
            vocabulary.iter().all(|used| used.starts_with("metrics::Metrics")),
            "src/{} names a label of the metrics; give the metric a method of its own",
            file.path
        );
    }
}

#[test]
fn cryptography_knows_no_database() {
    knows_only("crypto", &["crypto", "domain", "effects", "error", "metrics"]);
}

#[test]
fn one_module_uses_the_hasher() {
    for file in files().iter().filter(|file| !is_in(file, &["app/mod.rs", "app/proving.rs", "crypto"])) {
        assert!(!file.code.contains("self.hasher"), "src/{} hashes; app/proving.rs does that", file.path);
    }
}

/// A change goes through `Writer`. The others begin transactions for what has no caller, or for the event of a refusal.
#[test]
fn only_the_unit_of_work_begins_transactions_that_write() {
    for file in files().iter().filter(|file| !is_in(file, &["app/writer.rs", "app/start.rs", "store"])) {
        for begins in ["store.begin()", "store.begin_long()", "store.migrate()"] {
            assert!(!file.code.contains(begins), "src/{} has {begins}", file.path);
        }
    }
}

/// The statements that are a transaction of their own, which no answer may depend on.
#[test]
fn few_functions_write_outside_a_transaction() {
    let mut found = BTreeSet::new();
    for file in files().iter().filter(|file| is_in(file, &["store"])) {
        for function in file.code.split("pub async fn ").skip(1) {
            let (name, rest) = function.split_once('(').expect("parameters");
            let parameters = rest.split_once("-> ").map_or(rest, |(parameters, _)| parameters);
            if parameters.contains("&Autocommit") {
                found.insert(name.to_owned());
            }
        }
    }
    let listed = [
        "api_token_used",
        "idempotency_sweep",
        "keys_sweep",
        "reservations_sweep",
        "sessions_sweep",
        "sources_sweep",
        "throttle_release",
        "throttle_reserve",
        "throttle_sweep",
        "tickets_sweep",
    ];
    assert_eq!(found, listed.map(str::to_owned).into());
}

#[test]
fn the_edge_reaches_the_store_through_the_use_cases() {
    knows_only("grpc", &["grpc", "app", "config", "domain", "effects", "error", "metrics", "proto"]);
}

#[test]
fn the_command_line_knows_the_contract_and_nothing_else() {
    knows_only("cli", &["cli", "proto"]);
}

#[test]
fn errors_know_the_domain_only() {
    knows_only("error.rs", &["domain"]);
}

#[test]
fn imports_are_seen_in_every_form() {
    let code = "use crate::{app::App, domain::{id::UserId, role::Role}, error};\nlet x = crate::store::text::of(1);";
    let seen: Vec<String> = modules(code).into_iter().collect();
    assert_eq!(seen, ["app", "domain", "error", "store"]);
    assert_eq!(without_comments("use a::b; // crate::c\n//! crate::d").trim_end(), "use a::b;");
}
