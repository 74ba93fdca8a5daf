//! Starts the listener of the pages.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::error::ServeError;
use super::{Acceptors, bind, http, listen};
use crate::app::App;
use crate::config::Config;
use crate::pages::{Logo, Pages, PagesSettings};

/// The listener of the pages, bound and not served yet.
pub(super) struct BoundPages {
    listener: TcpListener,
    /// Where it listens.
    pub(super) address: SocketAddr,
    settings: PagesSettings,
}

impl BoundPages {
    /// Binds the listener and reads the logo. Returns `None` if the pages are off.
    pub(super) async fn bind(config: &Config) -> Result<Option<BoundPages>, ServeError> {
        let Some(listen) = config.pages.listen else { return Ok(None) };
        let logo = match &config.pages.logo {
            Some(path) => Some(Logo::read(path).await?),
            None => None,
        };
        let (listener, address) = bind("--pages-listen", listen)?;
        let settings = PagesSettings {
            url: config.pages_url(address),
            trusted_proxies: config.pages.trusted_proxies.0.clone(),
            organisation: config.organisation.clone(),
            support: config.support.clone().unwrap_or_default(),
            logo,
        };
        Ok(Some(BoundPages { listener, address, settings }))
    }

    /// Serves the pages until the server stops.
    pub(super) fn serve(self, app: &Arc<App>, acceptors: &Acceptors<'_>, listeners: &TaskTracker, jobs: &TaskTracker) {
        let stop = acceptors.stop;
        let pages = Arc::new(Pages::new(Arc::clone(app), self.settings));
        jobs.spawn(Arc::clone(&pages).report_gathered(stop.clone()));
        let incoming = listen::accept_tcp(self.listener, acceptors.pages(), listeners);
        listeners.spawn(http::serve(incoming, http::pages(pages), stop.clone(), listeners.clone()));
    }
}
