//! The service `Audit`: each method decodes the request, calls the use case and encodes the response.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::audit;
use super::{decode, run};
use crate::app::App;
use crate::proto::v1;
use crate::proto::v1::audit_server::Audit;

type Answer<T> = Result<Response<T>, Status>;

/// Implements `Audit`.
pub(super) struct Service {
    app: Arc<App>,
}

impl Service {
    pub(super) fn new(app: Arc<App>) -> Service {
        Service { app }
    }
}

#[tonic::async_trait]
impl Audit for Service {
    async fn list_events(&self, request: Request<v1::ListEventsRequest>) -> Answer<v1::ListEventsResponse> {
        let (caller, query) = decode(request, audit::list_events)?;
        let page = run(&self.app, |app| async move { app.list_events(&caller, query).await }).await?;
        Ok(Response::new(v1::ListEventsResponse {
            events: page.events.into_iter().map(audit::event).collect(),
            next_page_token: page.next_page_token,
            horizons: page.horizons.into_iter().map(audit::horizon).collect(),
        }))
    }

    async fn get_event(&self, request: Request<v1::GetEventRequest>) -> Answer<v1::GetEventResponse> {
        let (caller, id) = decode(request, audit::show_event)?;
        let event = self.app.show_event(&caller, id).await?;
        Ok(Response::new(v1::GetEventResponse { event: Some(audit::event(event)) }))
    }
}
