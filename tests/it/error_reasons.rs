//! Error reasons agree in the contract, the code, the comments of the contract and docs/errors.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use latchkey::domain::audit::EventType;
use latchkey::domain::caller::Denied;
use latchkey::domain::lockout::LockCause;
use latchkey::domain::password::{Hint, RuleBroken};
use latchkey::domain::reason::Reason;
use latchkey::domain::role::{Scope, ScopeSet};
use latchkey::domain::time::Timestamp;
use latchkey::domain::user::Etag;
use latchkey::domain::violation::{Describe as _, Fault, Violations};
use latchkey::error::{Error, Limit, Narrowing, Outage, Resource, Taken, Unauthenticated, Unmet};
use tonic::{Code, Status};

use crate::harness::raw::{PACKAGE, comments, contract, methods};

/// Reasons that appear only in the audit log.
const AUDIT_ONLY: &[&str] = &["PASSWORD_WRONG", "TEMPORARY_PASSWORD_EXPIRED"];

/// An error for every reason that clients can receive.
fn errors() -> Vec<Error> {
    let unauthenticated = [
        Unauthenticated::Missing,
        Unauthenticated::Rejected,
        Unauthenticated::TokenInvalid,
        Unauthenticated::TokenExpired,
        Unauthenticated::SessionRevoked,
        Unauthenticated::RefreshReused,
        Unauthenticated::TicketInvalid,
        Unauthenticated::SecondFactorRequired,
        Unauthenticated::SecondFactorRejected,
        Unauthenticated::TooOld { max_auth_age: Duration::from_mins(15) },
    ];
    let denied = [
        Denied::ScopeMissing(Scope::UsersRead),
        Denied::TargetOutranksCaller { missing: ScopeSet::ALL },
        Denied::SelfActionForbidden,
        Denied::UserRequired,
        Denied::ApiTokenForbidden,
    ];
    let missing = [Resource::User, Resource::Session, Resource::ApiToken, Resource::Delivery, Resource::Event];
    let reserved = Taken::UsernameReserved(Timestamp::from_micros(0));
    let taken = [Taken::Username, reserved, Taken::Email, Taken::ExternalId];
    let unmet = [
        Unmet::UserLocked(LockCause::Operator),
        Unmet::UserPending,
        Unmet::UserIsService,
        Unmet::LastAdministrator,
        Unmet::PasswordTooYoung(Timestamp::from_micros(0)),
        Unmet::SecondFactorMissing,
        Unmet::SecondFactorMandatory,
        Unmet::NoDeliveryAddress,
        Unmet::DeliveryDisabled,
        Unmet::DeliveryNotRepeatable("it is a notice"),
        Unmet::PasswordEnded,
    ];
    let limits = [Limit::Source, Limit::Account, Limit::Hashing, Limit::Lane("operators")];
    let corrupt = Error::Corrupt { resource: Resource::User, id: "u1".to_owned(), etag: None };
    let mut errors = vec![
        Error::InvalidInput(Violations::of("user", Fault::Required, "must be set")),
        Error::MessageMalformed,
        Error::PageTokenInvalid,
        Error::PageTokenMismatch,
        Error::IdempotencyKeyReused,
        Error::PasswordRejected(Violations::of("password", Fault::TooShort, "longer")),
        Error::Stale { resource: Resource::User, current: Etag(1) },
        Error::QueryTooBroad { narrowing: vec![Narrowing::LeaveOut("order")] },
        Error::RequestTooLarge,
        Error::DeadlinePassed,
        Error::Unavailable(Outage::ShuttingDown),
        Error::Unavailable(Outage::Storage("gone".into())),
        corrupt,
        Error::internal("odd"),
        Error::MethodUnavailable,
        Error::CompressionUnsupported { encoding: "gzip".to_owned() },
    ];
    errors.extend(unauthenticated.map(Error::Unauthenticated));
    errors.extend(denied.map(Error::Denied));
    errors.extend(missing.map(|resource| Error::NotFound { resource, field: "id" }));
    errors.extend(taken.map(Error::AlreadyExists));
    errors.extend(unmet.map(Error::Precondition));
    errors.extend(limits.map(|limit| Error::Exhausted { limit, retry_after: Duration::from_secs(1) }));
    errors
}

/// The status code of every reason that clients can receive.
fn codes() -> BTreeMap<&'static str, String> {
    let of = |error: Error| (error.reason().as_str(), code_name(Status::from(error).code()));
    errors().into_iter().map(of).collect()
}

/// `INVALID_ARGUMENT`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The values of an enum of the contract without their prefix, in order. The unspecified value is left out.
fn values(name: &str, prefix: &str) -> Vec<String> {
    let found = contract().get_enum_by_name(&format!("{PACKAGE}.{name}")).expect("an enum");
    let values = found.values().filter(|value| value.number() != 0);
    values.map(|value| value.name().strip_prefix(prefix).expect("the prefix").to_owned()).collect()
}

fn reasons() -> Vec<String> {
    values("ErrorReason", "ERROR_REASON_")
}

#[test]
fn the_code_has_the_reasons_and_event_types_of_the_contract() {
    let reasons_of_code: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(reasons_of_code, reasons());
    let types_of_code: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(types_of_code, values("EventType", "EVENT_TYPE_"));
    let broken = [
        RuleBroken::TooShort { min: 15 },
        RuleBroken::TooLong { max: 256 },
        RuleBroken::LetterAndDigit,
        RuleBroken::UserInfo,
        RuleBroken::TooWeak { hint: Hint::default() },
        RuleBroken::Breached,
        RuleBroken::Reused,
        RuleBroken::NotText,
    ];
    for rule in broken {
        let name = rule.fault().as_str().to_owned();
        assert!(values("PasswordRule", "PASSWORD_RULE_").contains(&name), "{name}");
    }
    assert_eq!(values("PasswordRule", "PASSWORD_RULE_").len(), broken.len());
}

#[test]
fn every_reason_is_told_to_callers_or_is_for_the_audit_log_alone() {
    let told: BTreeSet<String> = codes().keys().map(|reason| (*reason).to_owned()).collect();
    let audit_only: BTreeSet<String> = AUDIT_ONLY.iter().map(|reason| (*reason).to_owned()).collect();
    assert!(told.is_disjoint(&audit_only));
    assert_eq!(&told | &audit_only, reasons().into_iter().collect());
}

/// Every `CODE (REASON, REASON; …)` in a comment.
fn pairs(comment: &str) -> Vec<(String, String)> {
    let text = comment.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut pairs = Vec::new();
    for (at, _) in text.match_indices(" (") {
        let code = text[..at].rsplit(|c: char| !c.is_ascii_uppercase() && c != '_').next().unwrap_or_default();
        if !codes().values().any(|known| known == code) {
            continue;
        }
        let inside = text[at + 2..].split(')').next().unwrap_or_default();
        let names = inside.split([',', ';', ' ']).filter(|word| reasons().iter().any(|reason| reason == word));
        pairs.extend(names.map(|reason| (code.to_owned(), reason.to_owned())));
    }
    pairs
}

#[test]
fn comments_name_each_reason_with_its_code() {
    let codes = codes();
    let mut named = BTreeSet::new();
    let methods = methods();
    let of_services = methods.iter().map(prost_reflect::MethodDescriptor::parent_service);
    let of_services = of_services.map(|s| (s.full_name().to_owned(), comments(&s.parent_file(), s.path())));
    let of_methods =
        methods.iter().map(|m| (m.full_name().to_owned(), comments(&m.parent_service().parent_file(), m.path())));
    for (place, comment) in of_services.chain(of_methods) {
        for (code, reason) in pairs(&comment) {
            assert_eq!(codes.get(reason.as_str()), Some(&code), "{place} on {reason}");
            named.insert(reason);
        }
    }
    let told: BTreeSet<String> = codes.keys().map(|reason| (*reason).to_owned()).collect();
    assert_eq!(named, told, "a reason that no method or service names");
}

#[test]
fn pairs_are_seen_in_prose() {
    let comment = "Errors: NOT_FOUND (USER_NOT_FOUND), PERMISSION_DENIED\n (TARGET_OUTRANKS_CALLER; \
                   SELF_ACTION_FORBIDDEN for one's own), and (not this).";
    let seen: Vec<String> = pairs(comment).into_iter().map(|(code, reason)| format!("{code} {reason}")).collect();
    assert_eq!(
        seen,
        [
            "NOT_FOUND USER_NOT_FOUND",
            "PERMISSION_DENIED TARGET_OUTRANKS_CALLER",
            "PERMISSION_DENIED SELF_ACTION_FORBIDDEN"
        ]
    );
}

/// Words such as `PAGE_TOKEN_INVALID`.
fn upper_case_names(comment: &str) -> impl Iterator<Item = &str> {
    let words = comment.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| {
        let is_shouted = word.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_');
        is_shouted && word.trim_matches('_').contains('_')
    })
}

#[test]
fn comments_promise_no_name_that_does_not_exist() {
    let pool = contract();
    let mut known: BTreeSet<String> = codes().into_values().collect();
    for of_enum in pool.all_enums().filter(|of_enum| of_enum.full_name().starts_with(PACKAGE)) {
        let prefix = of_enum.values().next().map(|first| first.name().replace("UNSPECIFIED", ""));
        let prefix = prefix.expect("a first value");
        for value in of_enum.values() {
            known.insert(value.name().trim_start_matches(&prefix).to_owned());
            known.insert(value.name().to_owned());
        }
        known.insert(prefix);
    }
    for file in pool.files().filter(|file| file.package_name() == PACKAGE) {
        let info = file.file_descriptor_proto().source_code_info.clone().expect("comments");
        for location in &info.location {
            for comment in [location.leading_comments(), location.trailing_comments()] {
                let strange: Vec<&str> = upper_case_names(comment).filter(|word| !known.contains(*word)).collect();
                assert!(strange.is_empty(), "{}: {strange:?} in {comment}", file.name());
            }
        }
    }
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    std::fs::read_to_string(path).expect("docs/errors.md")
}

/// The rows of all tables whose header begins with this text.
fn rows(document: &str, head: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut is_inside = false;
    for line in document.lines() {
        if line.starts_with(head) {
            is_inside = true;
        } else if !line.starts_with('|') {
            is_inside = false;
        } else if is_inside && !line.starts_with("| ---") {
            let cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', ""));
            rows.push(cells.collect());
        }
    }
    rows
}

#[test]
fn the_document_has_one_row_for_each_reason() {
    let rows = rows(&document(), "| Reason | Code |");
    let documented: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(documented, reasons(), "in the order of the contract");
    let codes = codes();
    for row in &rows {
        let [reason, code, meaning, remedy] = row.as_slice() else { panic!("four cells: {row:?}") };
        let expected = codes.get(reason.as_str()).map_or("—", String::as_str);
        assert_eq!(code, expected, "{reason}");
        for prose in [meaning, remedy] {
            assert!(prose.len() > 10 && prose.ends_with('.'), "{reason}: {prose:?} is no sentence");
        }
    }
}

#[test]
fn the_document_names_what_can_be_wrong_with_a_field() {
    let faults = [
        Fault::Required,
        Fault::TooShort,
        Fault::TooLong,
        Fault::TooMany,
        Fault::Malformed,
        Fault::ForbiddenCharacter,
        Fault::Unknown,
        Fault::OutOfRange,
        Fault::Conflict,
        Fault::Reused,
        Fault::Breached,
        Fault::ContainsUserInfo,
        Fault::LetterAndDigit,
        Fault::TooWeak,
        Fault::NotText,
    ];
    let rows = rows(&document(), "| Reason of a field |");
    let documented: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(documented, faults.map(Fault::as_str));
}

#[test]
fn the_document_names_what_varies_in_an_error() {
    let document = document();
    for error in errors() {
        use tonic_types::StatusExt as _;
        let info = latchkey::grpc::status_of(&error, "r-1").get_details_error_info().expect("an ErrorInfo");
        for name in info.metadata.keys() {
            let row = document.lines().find(|line| line.starts_with(&format!("| `{}` |", info.reason)));
            let row = row.expect("a row");
            assert!(row.contains(&format!("`{name}`")), "{} does not name {name}", info.reason);
        }
    }
}
