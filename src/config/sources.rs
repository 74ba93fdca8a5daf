//! Gathers the values of keys from the file, the environment and the flags.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use toml_edit::{Document, Item, TableLike, Value as TomlValue};

use super::flags::Flags;
use super::given::Given;
use super::key::Key;
use super::keys;
use super::problem::{Origin, Problems, quote_name, suggestion};
use super::removed::RemovedKey;

/// The variable that names the file.
const CONFIG_VARIABLE: &str = "LATCHKEY_CONFIG";

/// Variables that only the client, `latchkey`, reads. They may be set in the server's environment.
const CLIENT_VARIABLES: [&str; 3] = ["LATCHKEY_SERVER", "LATCHKEY_TOKEN", "LATCHKEY_TLS_CA"];

/// Reads all three sources in ascending order of precedence.
pub(super) fn gather(
    flags: &Flags,
    environment: impl Iterator<Item = (OsString, OsString)>,
    read_file: &impl Fn(&Path) -> io::Result<String>,
    problems: &mut Problems,
) -> Given {
    let variables = decode(environment, problems);
    let mut given = Given::default();
    if let Some((path, origin)) = file_to_read(flags, &variables) {
        match read_file(&path) {
            Ok(text) => gather_file(&path, &text, &mut given, problems),
            Err(error) => {
                problems.add(origin, format!("cannot read {}: {error}", path.display().to_string().escape_debug()));
            }
        }
        given.file = Some(path);
    }
    gather_environment(&variables, &mut given, problems);
    gather_flags(flags, &mut given, problems);
    given
}

/// Our variables, sorted by name.
fn decode(environment: impl Iterator<Item = (OsString, OsString)>, problems: &mut Problems) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for (name, value) in environment {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with("LATCHKEY_") {
            continue;
        }
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) => problems.add(Origin::Variable(name), "must be UTF-8"),
        }
    }
    variables.sort();
    variables
}

fn file_to_read(flags: &Flags, variables: &[(String, String)]) -> Option<(PathBuf, Origin)> {
    if let Some(path) = &flags.config {
        return Some((path.clone(), Origin::Flag("--config".to_owned())));
    }
    let (name, path) = variables.iter().find(|(name, _)| name == CONFIG_VARIABLE)?;
    Some((PathBuf::from(path), Origin::Variable(name.clone())))
}

fn gather_file(path: &Path, text: &str, given: &mut Given, problems: &mut Problems) {
    let line_of = |offset: usize| {
        let before = text.bytes().take(offset);
        1 + before.filter(|byte| *byte == b'\n').count()
    };
    let origin_at =
        |offset: Option<usize>| Origin::File { path: path.to_owned(), line: line_of(offset.unwrap_or_default()) };
    match Document::parse(text) {
        Ok(document) => gather_table("", document.as_table(), &origin_at, given, problems),
        // The Display text of the error repeats the line, which may contain a password.
        Err(error) => {
            problems.add(origin_at(error.span().map(|span| span.start)), format!("is not TOML: {}", error.message()));
        }
    }
}

/// Recurses into sections. The parser limits the depth of tables to 80.
fn gather_table(
    prefix: &str,
    table: &dyn TableLike,
    origin_at: &impl Fn(Option<usize>) -> Origin,
    given: &mut Given,
    problems: &mut Problems,
) {
    for (word, item) in table.iter() {
        let name = format!("{prefix}{word}");
        let span = table.key(word).and_then(toml_edit::Key::span);
        let origin = origin_at(span.or_else(|| item.span()).map(|span| span.start));
        let key = keys::all().find(|key| key.name == name);
        match (key, item.as_table_like()) {
            (Some(key), _) => match toml_text(key, item) {
                Some(text) => given.push(key, &text, origin),
                None => problems.add(origin, wrong_type(key, item)),
            },
            (None, Some(inner)) if !inner.is_empty() => {
                gather_table(&format!("{name}."), inner, origin_at, given, problems);
            }
            (None, _) if let Some(removed) = RemovedKey::named(&name) => given.warnings.push(removed.warning(&origin)),
            // An empty section is allowed: its keys may be commented out.
            (None, Some(_)) if is_section(&name) => {}
            (None, _) => problems.add(origin, unknown_key(&name)),
        }
    }
}

/// The value as it would be written in the environment, or `None` if its TOML type is wrong.
fn toml_text(key: &Key, item: &Item) -> Option<String> {
    match (item.as_value()?, key.allowed.toml_type()) {
        (TomlValue::String(text), "string") => Some(text.value().clone()),
        (TomlValue::Integer(number), "integer") => Some(number.value().to_string()),
        (TomlValue::Boolean(switch), "boolean") => Some(switch.value().to_string()),
        _ => None,
    }
}

fn wrong_type(key: &Key, item: &Item) -> String {
    format!("{} has the TOML type {}, not {}; it {}", key.name, item.type_name(), key.allowed.toml_type(), key.rule())
}

fn is_section(name: &str) -> bool {
    keys::all().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn unknown_key(name: &str) -> String {
    if is_section(name) {
        return format!("{} is a section, not a key", quote_name(name));
    }
    let near = suggestion(name, keys::all().map(|key| key.name.to_owned()));
    format!("there is no key {}{near}", quote_name(name))
}

fn gather_environment(variables: &[(String, String)], given: &mut Given, problems: &mut Problems) {
    for (name, value) in variables {
        let origin = Origin::Variable(name.clone());
        if let Some(key) = keys::all().find(|key| key.variable() == *name) {
            given.push(key, value, origin);
        } else if let Some(removed) = RemovedKey::of_variable(name) {
            given.warnings.push(removed.warning(&origin));
        } else if name != CONFIG_VARIABLE && !CLIENT_VARIABLES.contains(&name.as_str()) {
            problems.add(origin, unknown_variable(name));
        }
    }
}

fn unknown_variable(name: &str) -> String {
    let candidates = keys::all().map(Key::variable);
    let near = suggestion(name, candidates.chain([CONFIG_VARIABLE.to_owned()]));
    // Kubernetes sets variables such as `LATCHKEY_SERVICE_HOST` and `LATCHKEY_PORT_50051_TCP_ADDR`.
    let is_service_link = name.contains("_SERVICE_") || name.contains("_PORT");
    let remedy = if is_service_link {
        "; if Kubernetes set it for a service called latchkey, give the pod `enableServiceLinks: \
         false`"
    } else {
        ""
    };
    format!("there is no key for this variable{near}{remedy}")
}

fn gather_flags(flags: &Flags, given: &mut Given, problems: &mut Problems) {
    for (name, value) in flags.given() {
        let key = keys::all().find(|key| key.name == name);
        if let (Some(key), Some(value)) = (key, value) {
            given.push(key, value, Origin::Flag(key.flag().unwrap_or_default()));
        }
    }
    for assignment in &flags.set {
        let assignment = assignment.expose_secret();
        let Some((name, value)) = assignment.split_once('=') else {
            let origin = Origin::Flag("--set".to_owned());
            problems.add(origin, "must be KEY=VALUE, such as `--set session.idle=30m`");
            continue;
        };
        let origin = Origin::Flag(format!("--set {name}"));
        if let Some(removed) = RemovedKey::named(name) {
            given.warnings.push(removed.warning(&origin));
            continue;
        }
        let Some(key) = keys::all().find(|key| key.name == name) else {
            problems.add(Origin::Flag("--set".to_owned()), unknown_key(name));
            continue;
        };
        if matches!(given.origin(name), Origin::Flag(_)) {
            problems.add(origin, format!("{name} is given twice on the command line"));
            continue;
        }
        given.push(key, value, origin);
    }
}
