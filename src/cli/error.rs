//! The errors of the command line, with their exit codes and their JSON form.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use strum::IntoStaticStr;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto::code_name;

/// The exit code of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Refused by the server, or by "no" at the prompt.
    Stopped = 1,
    /// Wrong usage. Also a confirmation without a terminal and without `--yes`.
    Usage = 2,
    /// The server cannot be reached, or something unexpected happened.
    Unexpected = 3,
    /// Done, but the mail that was followed is still under way.
    UnderWay = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// The reason why a command ended early.
#[derive(Debug)]
pub(crate) enum Error {
    /// This program found the error.
    Stopped(Box<Complaint>),
    /// The server returned an error.
    Refused(Box<Refusal>),
    /// Everything is printed already; only the exit code is left.
    Silent(Exit),
    /// A secret that the server shows only once could not be written to standard output.
    Lost(io::Error),
    /// With `--show-grpcurl`: the call to print. It was not made.
    Shown(String),
}

/// An error that this program found.
#[derive(Debug)]
pub(crate) struct Complaint {
    exit: Exit,
    message: String,
    /// What the person can do about it.
    pub(crate) hint: Option<String>,
}

/// An error that the server returned.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The gRPC status code.
    pub(crate) code: Code,
    /// A value of `ErrorReason` without its prefix. Empty if the status did not come from latchkey.
    pub(crate) reason: String,
    /// The message, for people.
    pub(crate) message: String,
    /// The variable parts of the message.
    pub(crate) metadata: BTreeMap<String, String>,
    /// The invalid fields.
    pub(crate) violations: Vec<Violation>,
    /// The time to wait before a retry.
    pub(crate) retry_after: Option<Duration>,
    /// The id of the request in the server's log.
    pub(crate) request_id: String,
    /// The user that the call was about, as a USER argument.
    pub(crate) subject: Option<String>,
    /// The roles that include the missing scope, if they are known.
    pub(crate) roles: Vec<String>,
    /// The usernames that are like the subject's, best first. `None` if they are unknown.
    pub(crate) alike: Option<Vec<String>>,
    /// A better hint than the one that follows from the reason.
    pub(crate) hint: Option<String>,
}

/// An invalid field.
#[derive(Debug, Serialize)]
pub(crate) struct Violation {
    /// The path of the field.
    pub(crate) field: String,
    /// What is wrong with it, for people.
    pub(crate) description: String,
    /// What is wrong with it, for machines.
    pub(crate) reason: String,
}

impl Error {
    /// An error in the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Error {
        Error::stopped(Exit::Usage, message)
    }

    /// An error that should not happen.
    pub(crate) fn unexpected(message: impl Into<String>) -> Error {
        Error::stopped(Exit::Unexpected, message)
    }

    /// A failure to write to standard output.
    pub(crate) fn unwritten(fault: &io::Error) -> Error {
        Error::unexpected(format!("cannot write to standard output: {fault}"))
    }

    /// An error that this program found.
    pub(crate) fn stopped(exit: Exit, message: impl Into<String>) -> Error {
        Error::Stopped(Box::new(Complaint { exit, message: message.into(), hint: None }))
    }

    /// Adds what the person can do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        match &mut self {
            Error::Stopped(complaint) => complaint.hint = Some(hint.into()),
            Error::Refused(refusal) => refusal.hint = Some(hint.into()),
            Error::Silent(_) | Error::Lost(_) | Error::Shown(_) => {}
        }
        self
    }

    /// The reason that the server gave. Empty if the server did not return this error.
    pub(crate) fn reason(&self) -> &str {
        if let Error::Refused(refusal) = self { &refusal.reason } else { "" }
    }

    /// Which limit on messages was reached. Empty if none was.
    pub(crate) fn limit(&self) -> &str {
        if let Error::Refused(refusal) = self { refusal.metadata.get("limit").map_or("", String::as_str) } else { "" }
    }

    /// Returns whether the server refused the token of the call.
    pub(crate) fn is_signed_out(&self) -> bool {
        matches!(self, Error::Refused(refusal) if refusal.is_of_token())
    }

    /// The exit code of a command that ends with this error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Error::Stopped(complaint) => complaint.exit,
            Error::Silent(exit) => *exit,
            Error::Lost(_) => Exit::Stopped,
            Error::Shown(_) => Exit::Done,
            Error::Refused(refusal) => refusal.exit(),
        }
    }

    /// The message.
    pub(crate) fn message(&self) -> &str {
        match self {
            Error::Stopped(complaint) => &complaint.message,
            Error::Refused(refusal) => &refusal.message,
            Error::Silent(_) | Error::Lost(_) | Error::Shown(_) => "",
        }
    }

    /// The error as JSON. `None` if there is nothing to report.
    pub(crate) fn to_json(&self) -> Option<Report<'_>> {
        let error = match self {
            Error::Stopped(complaint) => {
                ReportBody { code: complaint.exit.into(), message: &complaint.message, ..ReportBody::default() }
            }
            Error::Refused(refusal) => refusal.report(),
            Error::Silent(_) | Error::Lost(_) | Error::Shown(_) => return None,
        };
        Some(Report { error })
    }
}

/// An error as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    error: ReportBody<'a>,
}

/// An error of this program has only a code and a message.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportBody<'a> {
    code: &'static str,
    reason: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a BTreeMap<String, String>>,
    violations: &'a [Violation],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<String>,
    request_id: &'a str,
}

impl Refusal {
    /// Reads the details of a status.
    pub(crate) fn from_status(status: &Status, subject: Option<String>) -> Refusal {
        if is_own_timeout(status) {
            return Refusal::foreseen(Code::DeadlineExceeded, "DEADLINE_PASSED", TOO_LATE, subject);
        }
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        Refusal {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: message(status),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            violations: violations
                .iter()
                .map(|violation| Violation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                    reason: violation.reason.clone(),
                })
                .collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            request_id: details.request_info().map(|request| request.request_id.clone()).unwrap_or_default(),
            subject,
            roles: Vec::new(),
            alike: None,
            hint: None,
        }
    }

    /// The error that the server would return, when this program knows it beforehand.
    pub(crate) fn foreseen(code: Code, reason: &str, message: &str, subject: Option<String>) -> Refusal {
        let mut refusal = Refusal::from_status(&Status::new(code, message), subject);
        reason.clone_into(&mut refusal.reason);
        refusal
    }

    fn exit(&self) -> Exit {
        match self.code {
            Code::Unavailable
            | Code::Internal
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::DataLoss
            | Code::Unimplemented
            | Code::Cancelled => Exit::Unexpected,
            _ => Exit::Stopped,
        }
    }

    /// The scope that the caller lacks, if that is the reason.
    pub(crate) fn scope_missing(&self) -> Option<&str> {
        self.metadata.get("scope").filter(|_| self.reason == "SCOPE_MISSING").map(String::as_str)
    }

    /// Returns whether a field is invalid for this reason.
    pub(crate) fn has_violation(&self, field: &str, reason: &str) -> bool {
        self.violations.iter().any(|violation| violation.field == field && violation.reason == reason)
    }

    /// Returns whether the server cannot read the list of leaked passwords, until its operator mends it.
    pub(crate) fn is_of_breach_list(&self) -> bool {
        self.metadata.get("storage").is_some_and(|storage| storage == "breach_list")
    }

    /// Returns whether the error is about an object of this type.
    pub(crate) fn is_about(&self, resource: &str) -> bool {
        self.metadata.get("resource").is_some_and(|about| about == resource)
    }

    /// Returns whether the call names a user whom the server does not know.
    pub(crate) fn names_unknown_user(&self) -> bool {
        let of_filter = ["filter.actors[0]", "filter.targets[0]"];
        self.reason == "USER_NOT_FOUND" || of_filter.iter().any(|field| self.has_violation(field, "UNKNOWN"))
    }

    /// Returns whether the server refused the token.
    pub(crate) fn is_of_token(&self) -> bool {
        matches!(self.reason.as_str(), "TOKEN_EXPIRED" | "TOKEN_INVALID" | "SESSION_REVOKED")
    }

    /// Returns whether the server is at fault. The request id then helps its operator.
    pub(crate) fn is_unexpected(&self) -> bool {
        self.exit() == Exit::Unexpected
    }

    fn report(&self) -> ReportBody<'_> {
        ReportBody {
            code: code_name(self.code),
            reason: &self.reason,
            message: &self.message,
            metadata: Some(&self.metadata),
            violations: &self.violations,
            retry_after: self.retry_after.map(|wait| format!("{}s", wait.as_secs())),
            request_id: &self.request_id,
        }
    }
}

/// The server's message for a passed deadline, used when this program's own timer ends a call.
const TOO_LATE: &str = "the call did not finish before the deadline; a change may have been made anyway";

/// Returns whether this program's own timer ended the call. tonic reports that as CANCELLED.
fn is_own_timeout(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

/// The server's message, or the innermost cause if the call did not reach the server.
fn message(status: &Status) -> String {
    let cause = std::error::Error::source(status).map(innermost);
    match cause {
        Some(cause) if status.details().is_empty() => format!("the call failed: {cause}"),
        _ if status.message().is_empty() => format!("the server answered {}", code_name(status.code())),
        _ => status.message().to_owned(),
    }
}

/// The last error in a chain of causes. Chains are short; the bound guards against a cyclic one.
pub(crate) fn innermost<'a>(fault: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = fault;
    for _ in 0..16 {
        let Some(inner) = cause.source() else { break };
        cause = inner;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_the_client_is_reported_like_one_of_the_server() {
        // The status that tonic's client makes when its timer ends a call.
        let own = Refusal::from_status(&Status::cancelled("Timeout expired"), None);
        assert_eq!(
            (own.code, own.reason.as_str(), own.exit()),
            (Code::DeadlineExceeded, "DEADLINE_PASSED", Exit::Unexpected)
        );
        assert!(own.message.contains("may have been made"), "{}", own.message);
        let other = Refusal::from_status(&Status::cancelled("stream closed"), None);
        assert_eq!(other.code, Code::Cancelled);
    }
}
