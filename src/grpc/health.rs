//! Readiness, as `grpc.health.v1` tells it. It reveals nothing else, and asks nobody who they are.

use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use crate::proto::v1::{audit_server, auth_server, user_admin_server};

/// The names under which health is told: the server's, and each service's.
const NAMES: &[&str] = &["", audit_server::SERVICE_NAME, auth_server::SERVICE_NAME, user_admin_server::SERVICE_NAME];

/// Tells whether calls should be sent here.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

impl Health {
    /// Not serving yet. (The reporter by itself would begin as serving, and not know our services.)
    pub(super) async fn begin() -> Health {
        let health = Health(HealthReporter::new());
        health.set_serving(false).await;
        health
    }

    /// Tells all who ask and all who watch.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in NAMES {
            self.0.set_service_status(*name, status).await;
        }
    }

    /// Ends the streams of those who watch, which a graceful shutdown would wait for. Call it after
    /// `set_serving(false)`.
    pub async fn end_watches(&mut self) {
        for name in NAMES {
            self.0.clear_service_status(name).await;
        }
    }

    pub(super) fn service(&self) -> HealthService {
        HealthService::from_health_reporter(self.0.clone())
    }
}
