//! Sends invalid values in every field of every request. The fields come from the descriptors, so new fields are
//! covered automatically.
//!
//! `outcomes.txt` lists the outcome of each input, which is the same on both databases. After an intended change,
//! `TEST_BLESS=1 cargo test --test it bad_input::` rewrites the file: review the difference.

pub mod examples;
mod inputs;
mod terminal;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::path::Path;

use futures_util::{StreamExt as _, stream};
use latchkey::domain::reason::Reason;
use prost::Message as _;
use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
use tonic::{Code, Status};

use self::examples::World;
use self::inputs::{Input, delimited, inputs, is_time, whole};
use crate::harness::raw::{PACKAGE, is_redacted, methods, short_name};
use crate::harness::{Client, Refusal, log};

/// Number of concurrent calls. On SQLite, calls that write wait for each other, but for at most two seconds.
const AT_ONCE: usize = 16;

/// Inputs for a field of a shared message that another method has already tested fully.
const SAMPLE: &[&str] =
    &["empty", "unset", "one byte too long", "NUL", "U+202E", "invalid UTF-8", "cut off on the wire"];

/// The path from a request to one of its fields.
type FieldPath = Vec<FieldDescriptor>;

/// One call.
struct Case {
    method: String,
    /// The path of the field, or `whole`.
    field: String,
    input: String,
    /// Name of the `oneof` that contains the field. Errors name it if no member is set.
    one_of: String,
    client: Client,
    body: Vec<u8>,
}

impl Case {
    fn key(&self) -> String {
        format!("{} {} {}", self.method, self.field, self.input)
    }

    async fn call(&self) -> String {
        let answer = self.client.call_path(&format!("{PACKAGE}.{}", self.method), self.body.clone()).await;
        answer.map_or_else(|status| self.told(&status), |_| "OK".to_owned())
    }

    /// Describes the refusal, after checking that it has the form of every refusal by latchkey.
    fn told(&self, status: &Status) -> String {
        let key = self.key();
        let never = [Code::Internal, Code::Unknown, Code::Unimplemented, Code::Unavailable, Code::DeadlineExceeded];
        assert!(!never.contains(&status.code()), "{key}: {status:?}");
        let refusal = Refusal::of(status);
        assert!(Reason::parse(&refusal.reason).is_some(), "{key}: {refusal:?}");
        assert!(!status.message().chars().any(char::is_control), "{key}: {status:?}");
        let violations = refusal.violations();
        if refusal.reason == "FIELD_INVALID" {
            let named = violations.iter().any(|violation| self.is_named(violation));
            assert!(named, "{key} is not named in {violations:?}");
        }
        let mut told = format!("{:?} {}", refusal.code, refusal.reason);
        for violation in violations {
            // Map keys that are too long are not in this file.
            let _ = write!(told, " {}", violation.replace(": ", "="));
        }
        told
    }

    /// Returns whether a violation concerns this field, one of its parents or one of its children. A conflict is
    /// reported at one of the conflicting fields.
    fn is_named(&self, violation: &str) -> bool {
        let (field, reason) = violation.split_once(": ").expect("a field and a reason");
        let within = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        within(&self.field, field) || within(field, &self.field) || field == self.one_of || reason == "CONFLICT"
    }
}

/// The paths of all fields of a message and its nested messages.
fn paths(message: &MessageDescriptor) -> Vec<FieldPath> {
    let mut paths = Vec::new();
    for field in message.fields() {
        paths.push(vec![field.clone()]);
        if let Kind::Message(inner) = field.kind()
            && !is_time(&inner)
            && field.cardinality() != Cardinality::Repeated
        {
            paths.extend(self::paths(&inner).into_iter().map(|path| [vec![field.clone()], path].concat()));
        }
    }
    paths
}

fn name(path: &FieldPath) -> String {
    path.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".")
}

/// The value in the example.
fn value_at(message: &DynamicMessage, path: &[FieldDescriptor]) -> Option<Value> {
    let (first, rest) = path.split_first()?;
    if !message.has_field(first) {
        return None;
    }
    let value = message.get_field(first).into_owned();
    if rest.is_empty() { Some(value) } else { value_at(value.as_message()?, rest) }
}

/// Sets or clears a field, creating the messages that contain it.
fn set_at(message: &mut DynamicMessage, path: &[FieldDescriptor], value: Option<Value>) {
    match (path, value) {
        ([field], Some(value)) => message.set_field(field, value),
        ([field], None) => message.clear_field(field),
        ([first, rest @ ..], value) => {
            let inner = message.get_field_mut(first).as_message_mut().expect("a message");
            set_at(inner, rest, value);
        }
        ([], _) => panic!("a path leads somewhere"),
    }
}

/// Wraps these bytes in the messages that contain the field.
fn wrapped(path: &[FieldDescriptor], wire: Vec<u8>) -> Vec<u8> {
    let outer = path.iter().rev().skip(1);
    outer.fold(wire, |wire, field| delimited(field, &wire))
}

/// The body of a call with this input. Returns `None` if the example already has this value.
fn body(example: &DynamicMessage, path: &FieldPath, input: Input) -> Option<Vec<u8>> {
    let mut message = example.clone();
    match input {
        Input::Set(value) => set_at(&mut message, path, Some(value)),
        Input::Unset => {
            value_at(example, path)?;
            set_at(&mut message, path, None);
        }
        Input::Wire(wire) => return Some([example.encode_to_vec(), wrapped(path, wire)].concat()),
    }
    Some(message.encode_to_vec())
}

/// All cases of a method. Fields of a shared message are tested fully only once; other methods use a sample of the
/// inputs.
fn cases(
    (method, client, example): &(MethodDescriptor, Client, DynamicMessage),
    tried: &mut HashSet<String>,
) -> Vec<Case> {
    let case = |field: &str, input: String, one_of: String, body: Vec<u8>| Case {
        method: short_name(method),
        field: field.to_owned(),
        input,
        one_of,
        client: client.clone(),
        body,
    };
    let limit = if method.parent_service().name() == "UserAdmin" { 1 << 20 } else { 64 << 10 };
    let wholes = whole(&example.encode_to_vec(), limit).into_iter();
    let mut cases: Vec<Case> = wholes.map(|(input, body)| case("whole", input, String::new(), body)).collect();
    for path in paths(&method.input()) {
        let last = path.last().expect("a field");
        let one_of = last.containing_oneof().map(|one_of| one_of.name().to_owned()).unwrap_or_default();
        let value = value_at(example, &path).unwrap_or_else(|| Value::default_value_for_field(last));
        let is_new = tried.insert(last.full_name().to_owned());
        for (input, value) in inputs(last, &value) {
            if !is_new && !SAMPLE.contains(&input.as_str()) {
                continue;
            }
            // The hashes of a link are limited. `ChangePassword` has the same field.
            if short_name(method) == "Auth/CompletePasswordReset" && name(&path).starts_with("second_factor.") {
                continue;
            }
            // Without a target, the call revokes the caller's own session, which would end this test.
            if short_name(method) == "Auth/RevokeSession" && input == "unset" {
                continue;
            }
            let body = body(example, &path, value);
            cases.extend(body.map(|body| case(&name(&path), input, one_of.clone(), body)));
        }
    }
    cases
}

/// The outcomes of all cases.
type Outcomes = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

async fn run(cases: &[&Case]) -> Outcomes {
    let calls = cases.iter().map(|case| async { (*case, case.call().await) });
    let answers: Vec<(&Case, String)> = stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;
    let mut outcomes = Outcomes::new();
    for (case, outcome) in answers {
        let of_field = outcomes.entry(format!("{} {}", case.method, case.field)).or_default();
        of_field.entry(outcome).or_default().insert(case.input.clone());
    }
    outcomes
}

/// The file format: one line per outcome of a field, with the inputs that lead to it.
fn written(outcomes: &Outcomes) -> String {
    let mut text = String::new();
    for (field, outcomes) in outcomes {
        let _ = writeln!(text, "# {field}");
        for (outcome, inputs) in outcomes {
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let _ = writeln!(text, "{outcome}: {}", inputs.join("; "));
        }
    }
    text
}

/// The keys of the cases that the file lists as refused.
fn refused_ones(file: &str) -> HashSet<String> {
    let mut keys = HashSet::new();
    let mut field = "";
    for line in file.lines() {
        if let Some(name) = line.strip_prefix("# ") {
            field = name;
        } else if let Some((outcome, inputs)) = line.split_once(": ")
            && outcome != "OK"
        {
            keys.extend(inputs.split("; ").map(|input| format!("{field} {input}")));
        }
    }
    keys
}

/// The tables that refusals may write: counts of wrong passwords, and events and counts of refusals. The last one is a job's.
const CHANGING: [&str; 7] =
    ["audit_event", "throttle", "source_failure", "source_block", "event_count", "row_budget", "event_horizon"];

/// The contents of the database, except what refusals may write.
async fn contents(world: &World) -> Vec<String> {
    let h = &world.h;
    let tables = if h.is_postgres() {
        "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1"
    } else {
        "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
    };
    let mut contents = h.query("SELECT id FROM audit_event WHERE outcome = 1 ORDER BY 1").await;
    for table in h.query(tables).await {
        if CHANGING.contains(&table.as_str()) {
            continue;
        }
        let rows = if h.is_postgres() {
            format!("SELECT CAST(t AS TEXT) FROM \"{table}\" t ORDER BY 1")
        } else {
            let columns = h.query(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid")).await;
            let quoted: Vec<String> = columns.iter().map(|column| format!("quote(\"{column}\")")).collect();
            format!("SELECT {} FROM \"{table}\" ORDER BY 1", quoted.join(" || ',' || "))
        };
        contents.extend(h.query(&rows).await.into_iter().map(|row| format!("{table}: {row}")));
    }
    contents
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_it_is_told_and_nothing_changes() {
    let _quiet = log::of_latchkey_alone();
    let lines = log::lines();
    let world = World::open().await;
    let methods = world.methods();
    let mut tried = HashSet::new();
    let all: Vec<Case> = methods.iter().flat_map(|method| cases(method, &mut tried)).collect();
    assert!(all.len() > 3000, "{} cases", all.len());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/bad_input/outcomes.txt");
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    let refused = refused_ones(&file);
    let (refused, others): (Vec<&Case>, Vec<&Case>) = all.iter().partition(|case| refused.contains(&case.key()));

    let before = contents(&world).await;
    let mut outcomes = run(&refused).await;
    assert_eq!(contents(&world).await, before, "a refused call changed something");
    for (field, found) in run(&others).await {
        let of_field = outcomes.entry(field).or_default();
        for (outcome, inputs) in found {
            of_field.entry(outcome).or_default().extend(inputs);
        }
    }
    let found = written(&outcomes);
    if std::env::var("TEST_BLESS").is_ok() {
        std::fs::write(&path, &found).expect("a file");
    }
    let known: HashSet<&str> = file.lines().collect();
    let strange: Vec<&str> = found.lines().filter(|line| !known.contains(line)).collect();
    assert!(found == file, "{} lines are not as outcomes.txt has them: {strange:#?}", strange.len());

    every_wrong_field_is_named_at_once(&methods, &outcomes).await;
    // Afterwards the valid requests still succeed, except for those whose token or link has been used, and the link with which
    // ten passwords were tried within a minute.
    // The valid ticket may have been tried ten times.
    world.h.sql("UPDATE sign_in_ticket SET tries = 0").await;
    let used = ["Auth/RefreshTokens", "Auth/VerifyEmail", "Auth/CompletePasswordReset"];
    // Those whose example has no real ticket or code.
    let refused = ["Auth/VerifySecondFactor", "Auth/ConfirmTotp", "Auth/DisableTotp", "Auth/RegenerateRecoveryCodes"];
    let is_good = |case: &&Case| {
        let method = case.method.as_str();
        case.input == "as it is" && !used.contains(&method) && !refused.contains(&method)
    };
    let good: Vec<&Case> = all.iter().filter(is_good).collect();
    for (field, outcomes) in run(&good).await {
        assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["OK"], "{field}");
    }
    assert!(log::lines() > lines + all.len() as u64, "a call without its line, so not everything was searched");
    log::assert_clean();
}

#[test]
fn of_whatever_is_tried_for_a_secret_the_log_can_be_searched() {
    let mut secrets = 0;
    let fields = methods().into_iter().flat_map(|method| paths(&method.input()));
    for field in fields.filter_map(|mut path| path.pop()).filter(is_redacted) {
        secrets += 1;
        for (input, value) in inputs(&field, &Value::default_value_for_field(&field)) {
            let sent = match value {
                Input::Set(value) => value.as_str().expect("text").to_owned(),
                Input::Wire(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Input::Unset => continue,
            };
            // These inputs contain no text, so they contain no secret.
            let is_none = ["empty", "space"].contains(&input.as_str()) || input.ends_with(" on the wire");
            assert!(is_none || log::has_secret(&sent), "{}: {input}", field.full_name());
        }
    }
    assert!(secrets > 8, "{secrets} fields");
}

/// Sends all invalid inputs at once.
async fn every_wrong_field_is_named_at_once(methods: &[(MethodDescriptor, Client, DynamicMessage)], known: &Outcomes) {
    let mut most = 0;
    for (method, client, example) in methods {
        let mut message = example.clone();
        let mut wrong = Vec::new();
        for path in paths(&method.input()) {
            let Some(value) = value_at(example, &path) else { continue };
            let Some(of_field) = known.get(&format!("{} {}", short_name(method), name(&path))) else { continue };
            let is_wrong = |input: &str| {
                let own = format!(" {}", name(&path));
                let mut told = of_field.iter().filter(|(_, inputs)| inputs.contains(input));
                told.any(|(outcome, _)| {
                    outcome.contains("FIELD_INVALID") && outcome.contains(&own) && !outcome.contains("CONFLICT")
                })
            };
            let mut inputs = inputs(path.last().expect("a field"), &value).into_iter();
            let found = inputs.find_map(|(input, value)| match value {
                // An empty or missing message would hide its fields.
                Input::Set(value) if is_wrong(&input) && input != "empty" => Some(value),
                _ => None,
            });
            if let Some(value) = found {
                set_at(&mut message, &path, Some(value));
                wrong.push(name(&path));
            }
        }
        if wrong.is_empty() {
            continue;
        }
        most = most.max(wrong.len());
        let answer = client.call_path(&format!("{PACKAGE}.{}", short_name(method)), message.encode_to_vec()).await;
        let refusal = crate::harness::refused(answer, Code::InvalidArgument, "FIELD_INVALID");
        let violations = refusal.violations();
        for field in wrong {
            assert!(violations.iter().any(|told| told.starts_with(&field)), "{field} is not in {violations:?}");
        }
    }
    assert!(most > 7, "a request with many fields has {most} that can be wrong");
}

#[tokio::test]
async fn a_limit_in_the_contract_is_the_limit_of_the_server() {
    let file = include_str!("outcomes.txt");
    for block in file.split("# ") {
        for line in block.lines().skip(1).filter(|line| line.starts_with("OK: ")) {
            let field = block.lines().next().unwrap_or_default();
            for input in ["one byte too long", "too long in bytes alone", "far too long", "one too many"] {
                assert!(
                    !line.split([':', ';']).any(|known| known.trim().ends_with(input)),
                    "{field}: {input} is taken"
                );
            }
        }
    }
}
