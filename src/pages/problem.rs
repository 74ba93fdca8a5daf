//! What a page says if it cannot do what was asked.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use minijinja::context;

use super::Pages;
use super::link_page::LinkPage;
use super::view::{Mistake, Page, Span};
use super::visit::{Place, Visit};
use crate::domain::reason::Reason;
use crate::error::{Error, Limit, Outage, Unauthenticated, Unmet};

/// The delay before another try while the server is not available: a restart or a failover takes seconds.
const RETRY_WHEN_UNAVAILABLE: Duration = Duration::from_secs(5);

/// Why a request has no good end.
#[derive(Debug)]
pub(super) enum Problem {
    /// Another site sent the form.
    OtherSite,
    /// The body is no form.
    NotAForm,
    /// The form is too large.
    TooLarge,
    /// The form broke off, or is not UTF-8.
    Unreadable,
    /// There is no such page.
    NotFound,
    /// The page takes no form.
    MethodNotAllowed,
    /// A use case failed.
    Failed(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Failed(error)
    }
}

/// Why a response is not a success, for the log. An extension of the response.
#[derive(Debug, Clone, Default)]
pub(super) struct Cause {
    pub(super) reason: &'static str,
    /// The error with its causes, if an operator should look at it.
    pub(super) fault: Option<String>,
}

impl Cause {
    /// The cause of mistakes that no use case has seen.
    pub(super) fn of_mistakes(mistakes: &[Mistake]) -> Cause {
        let reason = match mistakes {
            [Mistake { field: "login", .. }, ..] => Reason::FieldInvalid,
            [Mistake { field: "code", .. }, ..] => Reason::SecondFactorRequired,
            _ => Reason::PasswordRejected,
        };
        Cause { reason: reason.as_str(), fault: None }
    }

    pub(super) fn of(error: &Error) -> Cause {
        let fault = error.is_our_fault().then(|| error.with_source());
        Cause { reason: error.reason().as_str(), fault }
    }
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Problem::OtherSite => StatusCode::FORBIDDEN,
            Problem::NotAForm => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Problem::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::Unreadable => StatusCode::BAD_REQUEST,
            Problem::NotFound => StatusCode::NOT_FOUND,
            Problem::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Problem::Failed(error) => status_of(error),
        }
    }

    /// The name of the text that explains it.
    fn kind(&self) -> &'static str {
        match self {
            Problem::OtherSite => "other_site",
            Problem::NotAForm | Problem::TooLarge | Problem::Unreadable | Problem::MethodNotAllowed => "form",
            Problem::NotFound => "not_found",
            Problem::Failed(error) => match status_of(error) {
                StatusCode::GONE => "dead_link",
                StatusCode::NOT_IMPLEMENTED => "no_mail",
                StatusCode::TOO_MANY_REQUESTS => "too_often",
                StatusCode::SERVICE_UNAVAILABLE => "unavailable",
                _ => "internal",
            },
        }
    }
}

/// The status of a failure. Input that the user can correct has a page of its own.
pub(super) fn status_of(error: &Error) -> StatusCode {
    match error {
        Error::InvalidInput(_)
        | Error::PasswordRejected(_)
        | Error::Unauthenticated(
            Unauthenticated::Rejected | Unauthenticated::SecondFactorRequired | Unauthenticated::SecondFactorRejected,
        ) => StatusCode::UNPROCESSABLE_ENTITY,
        // A dead link or ticket: unknown, used, replaced, cancelled or expired. Which one is not disclosed.
        Error::Unauthenticated(_) => StatusCode::GONE,
        Error::Exhausted { limit: Limit::Hashing | Limit::Lane(_), .. }
        | Error::Unavailable(_)
        | Error::DeadlinePassed => StatusCode::SERVICE_UNAVAILABLE,
        Error::Exhausted { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::Precondition(Unmet::DeliveryDisabled) => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// How long to wait before another try, if one may help.
pub(super) fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::Exhausted { retry_after, .. } => Some(*retry_after),
        Error::Unavailable(
            Outage::ShuttingDown
            | Outage::Storage(_)
            | Outage::ReadOnly(_)
            | Outage::Unconfirmed(_)
            | Outage::BreachList(_),
        )
        | Error::DeadlinePassed => Some(RETRY_WHEN_UNAVAILABLE),
        _ => None,
    }
}

/// Sets `Retry-After`, in whole seconds.
pub(super) fn set_retry_after(response: &mut Response, wait: Option<Duration>) {
    if let Some(wait) = wait {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(Span::until_retry(wait).seconds()));
    }
}

impl Pages {
    /// The page of a problem. There is no visit only if a layer is missing.
    pub(super) fn problem(&self, visit: Option<&Visit>, problem: &Problem) -> Response {
        let Some(visit) = visit else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
        let (cause, wait) = match problem {
            Problem::Failed(error) => (Cause::of(error), retry_after(error)),
            other => (Cause { reason: other.kind(), fault: None }, None),
        };
        let place = visit.place();
        let page = Page {
            status: problem.status(),
            template: match (problem.kind(), place) {
                ("dead_link", Place::Security) => "again.html",
                ("dead_link", _) => "dead.html",
                _ => "problem.html",
            },
            language: visit.language(visit.chosen(), None),
            here: match place {
                Place::Link(_) | Place::Security => format!("{}?", place.as_str()),
                _ => "forgot?".to_owned(),
            },
            values: context! {
                kind => problem.kind(),
                is_confirmation => place == Place::Link(LinkPage::Verify),
                wait => wait.map(Span::until_retry),
                request_id => visit.request_id(),
            },
        };
        let mut response = self.views.respond(&page);
        set_retry_after(&mut response, wait);
        response.extensions_mut().insert(cause);
        response
    }
}

pub(super) async fn not_found(State(pages): State<Arc<Pages>>, Extension(visit): Extension<Visit>) -> Response {
    pages.problem(Some(&visit), &Problem::NotFound)
}

pub(super) async fn method_not_allowed(
    State(pages): State<Arc<Pages>>,
    Extension(visit): Extension<Visit>,
) -> Response {
    let mut response = pages.problem(Some(&visit), &Problem::MethodNotAllowed);
    let allowed = match visit.place() {
        Place::Link(_) | Place::Forgot | Place::Security => "GET, HEAD, POST",
        _ => "GET, HEAD",
    };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
