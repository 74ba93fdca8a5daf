//! Readiness over `grpc.health.v1`. It needs no credential and reveals nothing else.

use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use crate::proto::v1::{audit_server, auth_server, user_admin_server};

/// The names that have a health status: the server (empty) and each service.
const NAMES: &[&str] = &["", audit_server::SERVICE_NAME, auth_server::SERVICE_NAME, user_admin_server::SERVICE_NAME];

/// Reports whether clients should send calls to this server.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

impl Health {
    /// Begins with `NOT_SERVING`. (A new reporter begins with `SERVING` and does not know our services.)
    pub(super) async fn begin() -> Health {
        let health = Health(HealthReporter::new());
        health.set_serving(false).await;
        health
    }

    /// Sets the status that checks and watches report.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in NAMES {
            self.0.set_service_status(*name, status).await;
        }
    }

    /// Ends all watches, which a graceful shutdown would otherwise wait for. Call it after `set_serving(false)`.
    pub async fn end_watches(&mut self) {
        for name in NAMES {
            self.0.clear_service_status(name).await;
        }
    }

    pub(super) fn service(&self) -> HealthService {
        HealthService::from_health_reporter(self.0.clone())
    }
}
