//! Checks of refused calls.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A status with its details decoded.
#[derive(Debug)]
pub struct Refusal {
    pub code: Code,
    pub reason: String,
    pub message: String,
    pub details: ErrorDetails,
}

impl Refusal {
    pub fn of(status: &Status) -> Refusal {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
        assert_eq!(info.domain, "latchkey.v1");
        assert!(details.request_info().is_some_and(|info| !info.request_id.is_empty()), "no RequestInfo: {status:?}");
        Refusal { code: status.code(), reason: info.reason.clone(), message: status.message().to_owned(), details }
    }

    /// A value of `ErrorInfo.metadata`.
    pub fn metadata(&self, name: &str) -> &str {
        let info = self.details.error_info().expect("an ErrorInfo");
        info.metadata.get(name).map_or("", String::as_str)
    }

    /// `field: REASON` of every violation.
    pub fn violations(&self) -> Vec<String> {
        let all = self.details.bad_request().map(|all| all.field_violations.as_slice()).unwrap_or_default();
        all.iter().map(|violation| format!("{}: {}", violation.field, violation.reason)).collect()
    }

    /// The delay in `RetryInfo`.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.details.retry_info().and_then(|info| info.retry_delay)
    }
}

/// The reason of a status, after checking that it has a `RequestInfo`. Empty for a success.
#[track_caller]
pub fn reason_of(status: &Status) -> String {
    if status.code() == Code::Ok { String::new() } else { Refusal::of(status).reason }
}

/// Checks that a call was refused with this code and reason.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str) -> Refusal {
    let refusal = Refusal::of(&result.expect_err("a refusal"));
    assert_eq!((refusal.code, refusal.reason.as_str()), (code, reason), "{refusal:?}");
    refusal
}
