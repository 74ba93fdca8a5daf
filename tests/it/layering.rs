//! Checks by the imports of every file that the layers of `lib.rs` hold, and that no files use each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A source file: its path under `src`, its text, and its text without comments.
struct File {
    path: String,
    text: String,
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
            files.push(File { path, code: without_comments(&text), text });
        }
    }
}

fn without_comments(text: &str) -> String {
    let code = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    code.collect::<Vec<_>>().join("\n")
}

/// The identifiers in a text.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// A path in the code, such as `crate::domain::role::Role`, name by name.
type Names = Vec<String>;

/// A path in the code.
struct Mention {
    path: Names,
    /// The name that a `use` gives it.
    alias: Option<String>,
    is_reexport: bool,
}

/// Every path of a `use`, and every other path of two names or more.
fn mentions(code: TokenStream) -> Vec<Mention> {
    let trees: Vec<TokenTree> = code.into_iter().collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(tree) = trees.get(at) {
        let rest = &trees[at + 1..];
        at += 1;
        match tree {
            TokenTree::Group(group) => found.extend(mentions(group.stream())),
            TokenTree::Ident(word) if word == "use" && !is_symbol(rest.first(), '<') => {
                let end = rest.iter().position(|tree| is_symbol(Some(tree), ';')).expect("the end of a `use`");
                let before = &trees[at.saturating_sub(3)..at];
                let is_reexport = before.iter().any(|tree| tree.to_string() == "pub");
                let paths = expanded(&rest[..end], &[]);
                found.extend(paths.into_iter().map(|(path, alias)| Mention { path, alias: Some(alias), is_reexport }));
                at += end;
            }
            TokenTree::Ident(word) => {
                let steps: Names = rest.chunks(3).map_while(step).collect();
                at += 3 * steps.len();
                if !steps.is_empty() {
                    let path = [vec![word.to_string()], steps].concat();
                    found.push(Mention { path, alias: None, is_reexport: false });
                }
            }
            _ => {}
        }
    }
    found
}

fn is_symbol(tree: Option<&TokenTree>, symbol: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == symbol)
}

/// The name in `::name`.
fn step(trees: &[TokenTree]) -> Option<String> {
    match trees {
        [a, b, TokenTree::Ident(name)] if is_symbol(Some(a), ':') && is_symbol(Some(b), ':') => Some(name.to_string()),
        _ => None,
    }
}

/// The paths of a `use` without braces, and their aliases: `a::{self, b as c}` is `a` as `a` and `a::b` as `c`.
fn expanded(trees: &[TokenTree], prefix: &[String]) -> Vec<(Names, String)> {
    let mut paths = Vec::new();
    for item in trees.split(|tree| is_symbol(Some(tree), ',')).filter(|item| !item.is_empty()) {
        let mut words: Names =
            item.iter().filter(|tree| !is_symbol(Some(tree), ':')).map(ToString::to_string).collect();
        if let Some(TokenTree::Group(list)) = item.last() {
            words.pop();
            let list: Vec<TokenTree> = list.stream().into_iter().collect();
            paths.extend(expanded(&list, &[prefix, &words].concat()));
            continue;
        }
        let alias = words.iter().position(|word| word == "as").map(|at| words.drain(at..).next_back());
        let mut path = [prefix, &words].concat();
        if path.len() > 1 && path.ends_with(&["self".to_owned()]) {
            path.pop();
        }
        let alias = alias.flatten().or_else(|| path.last().cloned()).expect("a name");
        paths.push((path, alias));
    }
    paths
}

/// The code without the items marked `#[cfg(test)]`.
fn without_tests(code: TokenStream) -> TokenStream {
    let is_end = |tree: &TokenTree| match tree {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        tree => is_symbol(Some(tree), ';'),
    };
    let mut trees = code.into_iter();
    let mut kept = Vec::new();
    while let Some(tree) = trees.next() {
        if tree.to_string().replace(' ', "") == "[cfg(test)]" {
            trees.by_ref().find(is_end);
        } else {
            kept.push(tree);
        }
    }
    kept.into_iter().collect()
}

/// The modules of ours that a text names by `crate::…`, also within braces.
fn modules(code: &str) -> BTreeSet<String> {
    let mentions = mentions(code.parse().expect("Rust"));
    let of_crate = mentions.into_iter().map(|mention| mention.path).filter(|path| path[0] == "crate");
    of_crate.filter_map(|path| path.into_iter().nth(1)).collect()
}

/// The modules of the crate, each with what its file mentions outside of tests.
fn tree() -> BTreeMap<Names, Vec<Mention>> {
    let files = files().into_iter().filter(|file| !file.path.ends_with("tests.rs") && !is_in(file, &["bin"]));
    let module = |file: File| {
        let mut path: Names = file.path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        path.pop_if(|name| name == "mod" || name == "lib");
        (path, mentions(without_tests(file.text.parse().expect("Rust"))))
    };
    files.map(module).collect()
}

/// The module that defines what the module `here` means by `path`. `None` if it is of another crate.
fn resolved(tree: &BTreeMap<Names, Vec<Mention>>, here: &[String], path: &[String]) -> Option<Names> {
    let (mut module, mut rest) = (here.to_vec(), path);
    while let Some((name, after)) = rest.split_first() {
        let child = [module.as_slice(), std::slice::from_ref(name)].concat();
        match name.as_str() {
            "self" => {}
            "super" => drop(module.pop()),
            "crate" => module.clear(),
            _ if tree.contains_key(&child) => module = child,
            _ => {
                let mentions = tree.get(&module)?;
                let imported = mentions.iter().find(|mention| mention.alias.as_ref() == Some(name));
                return match imported {
                    Some(Mention { path, .. }) if path[0] == *name => None,
                    Some(Mention { path, .. }) => resolved(tree, &module, &[path, after].concat()),
                    None => (rest.len() < path.len()).then_some(module),
                };
            }
        }
        rest = after;
    }
    Some(module)
}

/// The modules that each module uses, apart from its ancestors. Re-exports do not count.
fn uses(tree: &BTreeMap<Names, Vec<Mention>>) -> BTreeMap<&Names, BTreeSet<Names>> {
    let of_module = |(module, mentions): (_, &Vec<Mention>)| {
        let module: &Names = module;
        let used = mentions.iter().filter(|mention| !mention.is_reexport);
        let used = used.filter_map(|mention| resolved(tree, module, &mention.path));
        (module, used.filter(|used| !module.starts_with(used)).collect())
    };
    tree.iter().map(of_module).collect()
}

/// The modules that a module uses, directly or through others.
fn reached<'a>(uses: &'a BTreeMap<&Names, BTreeSet<Names>>, module: &'a Names) -> BTreeSet<&'a Names> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![module]);
    while let Some(module) = open.pop() {
        open.extend(uses[module].iter().filter(|used| seen.insert(*used)));
    }
    seen
}

/// Returns whether a file is in one of these folders, or is one of these files.
fn is_in(file: &File, places: &[&str]) -> bool {
    places.iter().any(|place| file.path == *place || file.path.starts_with(&format!("{place}/")))
}

/// A crate may only be used in its layer.
fn stays_in(prefixes: &[&str], places: &[&str]) {
    for file in files().iter().filter(|file| !is_in(file, places)) {
        let stray = words(&file.code).find(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
        assert_eq!(stray, None, "src/{} names a crate that belongs into {places:?}", file.path);
    }
    assert!(files().iter().any(|file| is_in(file, places)), "nothing is in {places:?}");
}

/// A layer may only use these modules.
fn knows_only(layer: &str, known: &[&str]) {
    let files = files();
    let of_layer: Vec<&File> = files.iter().filter(|file| is_in(file, &[layer])).collect();
    assert!(!of_layer.is_empty(), "nothing is in {layer}");
    for file in of_layer {
        let strange: Vec<_> = modules(&file.text).into_iter().filter(|m| !known.contains(&m.as_str())).collect();
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
    stays_in(&["axum", "hyper", "tower"], &["grpc", "pages", "cli", "server"]);
}

#[test]
fn only_mail_composes_and_sends_mail() {
    stays_in(&["lettre"], &["mail"]);
    knows_only("mail", &["mail", "config", "domain", "environment"]);
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
    knows_only("store", &["store", "domain", "error", "priority"]);
}

#[test]
fn the_use_cases_know_no_edge() {
    let known =
        ["breach_list", "crypto", "domain", "environment", "error", "metrics", "priority", "store", "token_bucket"];
    knows_only("app", &[&["app"], known.as_slice()].concat());
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
fn the_list_of_leaked_passwords_knows_files_only() {
    knows_only("breach_list", &["breach_list"]);
    for file in files().iter().filter(|file| is_in(file, &["breach_list"])) {
        let busy = words(&file.code).find(|word| ["async", "await", "tokio", "tracing"].contains(word));
        assert_eq!(busy, None, "src/{}", file.path);
    }
}

#[test]
fn cryptography_knows_no_database() {
    knows_only("crypto", &["crypto", "domain", "environment", "error", "metrics", "priority"]);
}

#[test]
fn only_the_gate_hashes_and_proves() {
    for file in files().iter().filter(|file| !is_in(file, &["app/proving", "crypto"])) {
        let path = &file.path;
        // These hand the hasher to the gate.
        let is_start = is_in(file, &["app/mod.rs", "server/mod.rs"]);
        assert!(is_start || !words(&file.code).any(|word| word == "Hasher"), "src/{path} names the hasher");
        for step in [".hasher", ".reserve(", ".attempt_failed(", ".or_release(", "ticket_try(", "gate.turns"] {
            let is_definition = is_in(file, &["app/throttle.rs", "app/turns.rs", "store"]);
            assert!(is_definition || !file.code.contains(step), "src/{path} has {step}; app/proving/ does that");
        }
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
        "budgets_sweep",
        "deliveries_sweep",
        "events_sweep",
        "horizon_save",
        "idempotency_sweep",
        "keys_sweep",
        "links_sweep",
        "old_passwords_sweep",
        "places_sweep",
        "reservations_sweep",
        "reset_requests_sweep",
        "sessions_sweep",
        "source_blocks_sweep",
        "source_failures_sweep",
        "throttle_release",
        "throttle_reserve",
        "throttle_sweep",
        "ticket_try",
        "tickets_sweep",
    ];
    assert_eq!(found, listed.map(str::to_owned).into());
}

#[test]
fn the_edges_reach_the_store_through_the_use_cases() {
    knows_only(
        "grpc",
        &[
            "grpc",
            "app",
            "call_lines",
            "config",
            "domain",
            "environment",
            "error",
            "lanes",
            "metrics",
            "proto",
            "token_bucket",
        ],
    );
    knows_only("pages", &["pages", "app", "call_lines", "domain", "error", "lanes", "metrics"]);
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
fn no_two_files_use_each_other_not_even_through_others() {
    let tree = tree();
    let uses = uses(&tree);
    let reached: BTreeMap<_, _> = uses.keys().map(|module| (*module, reached(&uses, module))).collect();
    let mut circles = Vec::new();
    for (user, used) in uses.iter().flat_map(|(user, used)| used.iter().map(move |used| (*user, used))) {
        if reached[used].contains(user) {
            circles.push(format!("{} uses {}", user.join("::"), used.join("::")));
        }
    }
    assert!(circles.is_empty(), "these are parts of circles:\n{}", circles.join("\n"));
}

#[test]
fn imports_are_seen_in_every_form() {
    let code = "use crate::{app::App, domain::{id::UserId, role::Role}, error};\nlet x = crate::store::text::of(1);";
    let seen: Vec<String> = modules(code).into_iter().collect();
    assert_eq!(seen, ["app", "domain", "error", "store"]);
    let tree = BTreeMap::from([
        (vec![], mentions("pub use a::{self as first, b::B as Second};".parse().expect("Rust"))),
        (vec!["a".to_owned()], Vec::new()),
        (vec!["a".to_owned(), "b".to_owned()], Vec::new()),
        (vec!["c".to_owned()], mentions("use crate::{first, Second}; use std::fmt;".parse().expect("Rust"))),
    ]);
    let of = |path: &str| resolved(&tree, &["c".to_owned()], &path.split("::").map(str::to_owned).collect::<Names>());
    let of = |path: &str| of(path).map(|module| module.join("::"));
    assert_eq!(of("super::first::X").as_deref(), Some("a"));
    assert_eq!(of("Second::new").as_deref(), Some("a::b"));
    assert_eq!(of("self::Second").as_deref(), Some("a::b"));
    assert_eq!(of("crate::first::b::X").as_deref(), Some("a::b"));
    assert_eq!(of("fmt::Display"), None);
    assert_eq!(of("std::fmt"), None);
    let code = without_tests("use a::b; #[cfg(test)] mod tests { use c::d; } fn f() {}".parse().expect("Rust"));
    assert_eq!(mentions(code).into_iter().map(|mention| mention.path.join("::")).collect::<Vec<_>>(), ["a::b"]);
    assert_eq!(without_comments("use a::b; // crate::c\n//! crate::d").trim_end(), "use a::b;");
}
