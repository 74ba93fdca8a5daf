//! What went wrong, what to do about it, and the exit code.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use strum::IntoStaticStr;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto::code_name;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Refused by the server, or by "no" at the prompt.
    Stopped = 1,
    /// Wrong usage; also `--yes` missing without a terminal.
    Usage = 2,
    /// The server cannot be reached, or something unexpected happened.
    Unexpected = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Error {
    /// This program stopped.
    Stopped(Box<Complaint>),
    /// The server said no.
    Refused(Box<Refusal>),
    /// All has been said already; only the exit code is left.
    Silent(Exit),
    /// The call was not made but is to be printed: `--show-grpcurl`.
    Shown(String),
}

/// Why this program stopped.
#[derive(Debug)]
pub(crate) struct Complaint {
    exit: Exit,
    message: String,
    /// A way out.
    pub(crate) hint: Option<String>,
}

/// What the server answered, taken apart.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The status code of gRPC.
    pub(crate) code: Code,
    /// A value of `ErrorReason` without its prefix. Empty if the answer was not latchkey's.
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
    /// What varies in the message.
    pub(crate) metadata: BTreeMap<String, String>,
    /// The fields that are wrong, each.
    pub(crate) violations: Vec<Violation>,
    /// When to try again.
    pub(crate) retry_after: Option<Duration>,
    /// What finds the call in the server's log.
    pub(crate) request_id: String,
    /// The user that the call was about, as it may be typed.
    pub(crate) subject: Option<String>,
    /// Roles that have the scope that was missing, as far as they are known.
    pub(crate) roles: Vec<String>,
    /// A better way out than the reason alone suggests.
    pub(crate) hint: Option<String>,
}

/// One field that is wrong.
#[derive(Debug, Serialize)]
pub(crate) struct Violation {
    /// Its path.
    pub(crate) field: String,
    /// What is wrong.
    pub(crate) description: String,
    /// The same, for machines.
    pub(crate) reason: String,
}

impl Error {
    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Error {
        Error::stopped(Exit::Usage, message)
    }

    /// Something that should not happen.
    pub(crate) fn unexpected(message: impl Into<String>) -> Error {
        Error::stopped(Exit::Unexpected, message)
    }

    /// This program will not go on.
    pub(crate) fn stopped(exit: Exit, message: impl Into<String>) -> Error {
        Error::Stopped(Box::new(Complaint { exit, message: message.into(), hint: None }))
    }

    /// With a way out.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        match &mut self {
            Error::Stopped(complaint) => complaint.hint = Some(hint.into()),
            Error::Refused(refusal) => refusal.hint = Some(hint.into()),
            Error::Silent(_) | Error::Shown(_) => {}
        }
        self
    }

    /// The reason that the server gave; empty if it was not the server.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Error::Refused(refusal) => &refusal.reason,
            Error::Stopped(_) | Error::Silent(_) | Error::Shown(_) => "",
        }
    }

    /// Whether the session that was called with is over.
    pub(crate) fn is_signed_out(&self) -> bool {
        match self {
            Error::Refused(refusal) => refusal.is_of_token(),
            Error::Stopped(_) | Error::Silent(_) | Error::Shown(_) => false,
        }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Error::Stopped(complaint) => complaint.exit,
            Error::Silent(exit) => *exit,
            Error::Shown(_) => Exit::Done,
            Error::Refused(refusal) => refusal.exit(),
        }
    }

    /// What went wrong, in a sentence.
    pub(crate) fn message(&self) -> &str {
        match self {
            Error::Stopped(complaint) => &complaint.message,
            Error::Refused(refusal) => &refusal.message,
            Error::Silent(_) | Error::Shown(_) => "",
        }
    }

    /// For machines.
    pub(crate) fn to_json(&self) -> Option<Report<'_>> {
        let error = match self {
            Error::Stopped(complaint) => {
                ReportBody { code: complaint.exit.into(), message: &complaint.message, ..ReportBody::default() }
            }
            Error::Refused(refusal) => refusal.report(),
            Error::Silent(_) | Error::Shown(_) => return None,
        };
        Some(Report { error })
    }
}

/// An error as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    error: ReportBody<'a>,
}

/// What came from the server is complete; an error of this program has a code and a message.
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
    /// Takes a status apart.
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
            hint: None,
        }
    }

    /// What the server would answer, known before it is asked.
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

    /// The scope that the caller lacks, if that is why.
    pub(crate) fn scope_missing(&self) -> Option<&str> {
        self.metadata.get("scope").filter(|_| self.reason == "SCOPE_MISSING").map(String::as_str)
    }

    /// Whether it is about the token that was sent.
    pub(crate) fn is_of_token(&self) -> bool {
        matches!(self.reason.as_str(), "TOKEN_EXPIRED" | "TOKEN_INVALID" | "SESSION_REVOKED")
    }

    /// Whether the server is at fault, so that whoever runs it wants the id of the request.
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

/// What is said when this program gives up waiting, as the server would say it.
const TOO_LATE: &str = "there was no answer before the deadline; a change may have been made all the same";

/// Whether it is the timer of this program that ended the call. tonic calls that CANCELLED.
fn is_own_timeout(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

/// What the server said, or the innermost cause if the call never got there.
fn message(status: &Status) -> String {
    let cause = std::error::Error::source(status).map(innermost);
    match cause {
        Some(cause) if status.details().is_empty() => format!("the call failed: {cause}"),
        _ if status.message().is_empty() => format!("the server answered {}", code_name(status.code())),
        _ => status.message().to_owned(),
    }
}

/// The last cause. Chains are short; the bound is for one that bites its tail.
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
    fn a_call_that_took_too_long_is_told_as_such_whoever_gave_up() {
        // tonic's own client, when its timer ends a call.
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
