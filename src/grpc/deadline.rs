//! The layer that ends a call at its deadline with `DEADLINE_EXCEEDED`: the client's `grpc-timeout` or the deadline of the
//! method, whichever is shorter.
//!
//! tonic has its own timer for `grpc-timeout` around all layers, which returns `CANCELLED`. Ours must never fire later: it
//! starts at [`arrived`], which runs before tonic starts its timer, and tonic polls its timer only after it has polled us.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::table::Method;
use crate::error::{Error, Result};

/// The maximum time until a stream begins. Until then its request is held in memory.
const STREAM_BEGINS: Duration = Duration::from_secs(20);

/// The time at which a call arrived.
#[derive(Debug, Clone, Copy)]
struct Arrived(Instant);

/// Stores the time at which a call arrived, before any timer is started for it.
pub(super) fn arrived<B>(mut request: http::Request<B>) -> http::Request<B> {
    request.extensions_mut().insert(Arrived(Instant::now()));
    request
}

/// The deadline of a response stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndsAt(pub(super) Instant);

/// Runs the layer. A change that has begun continues in its own task after the deadline: see `App::detached`.
pub(super) async fn deadline(
    Extension(method): Extension<Arc<Method>>,
    request: Request,
    next: Next,
) -> Result<Response> {
    let arrived = request.extensions().get::<Arrived>().map_or_else(Instant::now, |arrived| arrived.0);
    let limit = method.deadline;
    let end = arrived + client_limit(request.headers()).map_or(limit, |client| client.min(limit));
    let head_due = if method.is_streaming { end.min(arrived + STREAM_BEGINS) } else { end };
    let mut response = timeout_at(head_due, next.run(request)).await.map_err(|_| Error::DeadlinePassed)?;
    if method.is_streaming {
        // `body.rs` enforces it.
        response.extensions_mut().insert(EndsAt(end));
    }
    Ok(response)
}

/// Parses `grpc-timeout`: up to eight digits and a unit. A malformed value is ignored, as in tonic.
fn client_limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &'static str) -> Option<Duration> {
        client_limit(&HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-timeout"),
            http::HeaderValue::from_static(text),
        )]))
    }

    #[test]
    fn the_timeout_of_a_client_is_read_as_the_protocol_has_it() {
        assert_eq!(client("1H"), Some(Duration::from_hours(1)));
        assert_eq!(client("99999999H"), Some(Duration::from_hours(99_999_999)));
        assert_eq!(client("2M"), Some(Duration::from_mins(2)));
        assert_eq!(client("3S"), Some(Duration::from_secs(3)));
        assert_eq!(client("4m"), Some(Duration::from_millis(4)));
        assert_eq!(client("5u"), Some(Duration::from_micros(5)));
        assert_eq!(client("6n"), Some(Duration::from_nanos(6)));
        for wrong in ["", "m", "5", "5x", "-5m", "+5m", "5 m", "123456789S"] {
            assert_eq!(client(wrong), None, "{wrong:?}");
        }
    }
}
