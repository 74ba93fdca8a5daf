//! Reads forms.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::response::Response;
use futures_util::StreamExt as _;
use http::header::CONTENT_TYPE;
use zeroize::Zeroizing;

use super::Pages;
use super::fields::Fields;
use super::problem::Problem;
use super::visit::Visit;

/// The largest body of a form, in bytes: two passwords of 256 characters, each of up to twelve bytes when encoded.
const MAX_BYTES: usize = 16 << 10;

/// A form that was sent.
pub(super) struct Form(pub(super) Fields);

impl FromRequest<Arc<Pages>> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, pages: &Arc<Pages>) -> Result<Form, Response> {
        let visit = request.extensions().get::<Visit>().cloned();
        read(request).await.map(Form).map_err(|problem| pages.problem(visit.as_ref(), &problem))
    }
}

async fn read(request: Request) -> Result<Fields, Problem> {
    let sent = request.headers().get(CONTENT_TYPE).and_then(|sent| sent.to_str().ok()).unwrap_or_default();
    let media_type = sent.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Problem::NotAForm);
    }
    let mut pieces = request.into_body().into_data_stream();
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| Problem::Unreadable)?;
        if bytes.len() + piece.len() > MAX_BYTES {
            return Err(Problem::TooLarge);
        }
        bytes.extend_from_slice(&piece);
    }
    Fields::parse(&bytes).ok_or(Problem::Unreadable)
}
