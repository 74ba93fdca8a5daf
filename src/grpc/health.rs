//! Readiness over `grpc.health.v1`. It needs no credential and reveals nothing else.
//!
//! tonic-health ends the watch of an unknown service with `NOT_FOUND`. By the protocol such a watch says `SERVICE_UNKNOWN` and
//! stays open, so the service is implemented here.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::error::{Error, Outage};
use crate::proto::v1::{audit_server, auth_server, user_admin_server};

/// The names that have a health status: the server (empty) and each service.
const NAMES: &[&str] = &["", audit_server::SERVICE_NAME, auth_server::SERVICE_NAME, user_admin_server::SERVICE_NAME];

/// Reports whether clients should send calls to this server.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotServing,
    Serving,
    /// As `NotServing`, and all watches end.
    Ended,
}

impl Health {
    /// Begins with `NOT_SERVING`.
    pub(super) fn begin() -> Health {
        Health(Arc::new(watch::Sender::new(State::NotServing)))
    }

    /// Sets the status that checks and watches report.
    pub fn set_serving(&self, serving: bool) {
        self.set(if serving { State::Serving } else { State::NotServing });
    }

    /// Ends all watches, which a graceful shutdown would otherwise wait for. Each reports `NOT_SERVING` first.
    pub fn end_watches(&self) {
        self.set(State::Ended);
    }

    fn set(&self, state: State) {
        self.0.send_if_modified(|current| {
            let changes = *current != State::Ended && *current != state;
            if changes {
                *current = state;
            }
            changes
        });
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(request.get_ref()) {
            return Err(Status::not_found("this server has no such service"));
        }
        Ok(Response::new(response(status(*self.0.borrow()))))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watch = Watch { state: self.0.subscribe(), is_known: is_known(request.get_ref()), told: None };
        let told = stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Some(status) => Some((Ok(response(status)), Some(watch))),
                None => Some((Err(Error::Unavailable(Outage::ShuttingDown).into()), None)),
            }
        });
        Ok(Response::new(told.boxed()))
    }
}

/// A watch in progress.
struct Watch {
    state: watch::Receiver<State>,
    /// Whether the service has a status. The services of a running server never change.
    is_known: bool,
    /// The status that the client was told last.
    told: Option<ServingStatus>,
}

impl Watch {
    /// Waits for a status that the client was not told yet. Returns `None` when the watch ends.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let state = *self.state.borrow_and_update();
            let status = if self.is_known { status(state) } else { ServingStatus::ServiceUnknown };
            if self.told != Some(status) {
                self.told = Some(status);
                return Some(status);
            }
            if state == State::Ended || self.state.changed().await.is_err() {
                return None;
            }
        }
    }
}

fn is_known(request: &HealthCheckRequest) -> bool {
    NAMES.contains(&request.service.as_str())
}

fn status(state: State) -> ServingStatus {
    match state {
        State::Serving => ServingStatus::Serving,
        State::NotServing | State::Ended => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
mod tests {
    use super::health_server::Health as _;
    use super::*;

    async fn watch(health: &Health, service: &str) -> <Health as health_server::Health>::WatchStream {
        let request = Request::new(HealthCheckRequest { service: service.to_owned() });
        match health.watch(request).await {
            Ok(watch) => watch.into_inner(),
            Err(status) => stream::once(async { Err(status) }).boxed(),
        }
    }

    async fn next(watch: &mut <Health as health_server::Health>::WatchStream) -> Option<ServingStatus> {
        watch.next().await?.ok().map(|told| told.status())
    }

    #[tokio::test]
    async fn a_watch_is_told_each_change_and_not_serving_before_it_ends() {
        let health = Health::begin();
        let mut auth = watch(&health, auth_server::SERVICE_NAME).await;
        assert_eq!(next(&mut auth).await, Some(ServingStatus::NotServing));
        health.set_serving(true);
        assert_eq!(next(&mut auth).await, Some(ServingStatus::Serving));
        health.end_watches();
        health.set_serving(true);
        assert_eq!(next(&mut auth).await, Some(ServingStatus::NotServing));
        let last = auth.next().await;
        assert!(last.is_some_and(|last| last.is_err_and(|status| status.code() == tonic::Code::Unavailable)));
        assert!(auth.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watch_of_an_unknown_service_stays_open_until_the_server_ends() {
        use futures_util::FutureExt as _;
        let health = Health::begin();
        let mut unknown = watch(&health, "latchkey.v1.Nonsense").await;
        assert_eq!(next(&mut unknown).await, Some(ServingStatus::ServiceUnknown));
        health.set_serving(true);
        assert!(unknown.next().now_or_never().is_none(), "nothing else is told");
        health.end_watches();
        assert!(unknown.next().await.is_some_and(|last| last.is_err()));
    }
}
