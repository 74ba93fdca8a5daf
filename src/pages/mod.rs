//! The pages: the second edge, for the browsers of users who follow a link in a mail or set up an authenticator. They call the
//! same use cases as gRPC.
//!
//! ```text
//! request ─▶ observe ─▶ link, forgot, security, done ─▶ app
//!               │               └─ view ─▶ html/
//!               └─ visit, guard, log, metrics, headers
//! ```
//!
//! GET shows and POST acts, because mail scanners open every link. The token stands in the query of the first GET and in a
//! hidden field of the form. It is the only secret: there are no cookies. No page needs a script.

mod assets;
mod client;
mod code;
mod done;
mod fields;
mod forgot;
mod form;
mod guard;
mod language;
mod link;
mod link_page;
mod mistakes;
mod observe;
mod problem;
mod qr;
mod security;
mod strength;
mod view;
mod visit;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use strum::IntoEnumIterator as _;
use tokio_util::sync::CancellationToken;

pub use self::assets::{Logo, LogoError};
use self::guard::OwnOrigins;
use self::link_page::LinkPage;
use self::view::Views;
use crate::app::App;
use crate::call_lines::{self, CallLines, REPORT_EVERY};
use crate::domain::caller::Network;
use crate::lanes::Lanes;
use crate::metrics::CallLane;

/// Requests at once. Those that hash wait in the queue of sign-ins, which has bounds of its own.
const PAGES_AT_ONCE: usize = 128;

/// Longest request, with its body. Hashing waits for about a second at most.
const DEADLINE: Duration = Duration::from_secs(15);

/// The settings of the pages.
#[derive(Debug)]
pub struct PagesSettings {
    /// The URL under which browsers reach the pages.
    pub url: String,
    /// The networks of proxies that are believed about the address of the client.
    pub trusted_proxies: Vec<Network>,
    /// The name of the company. Empty if there is none.
    pub organisation: String,
    /// Where users find help: an address, a telephone number or a URL. Empty if there is none.
    pub support: String,
    /// The logo, if there is one.
    pub logo: Option<Logo>,
}

/// The address of the connection's peer. The server inserts it into each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The pages and what they need.
pub struct Pages {
    app: Arc<App>,
    lanes: Lanes,
    lines: CallLines,
    own_origins: OwnOrigins,
    trusted_proxies: Vec<Network>,
    views: Views,
}

impl Pages {
    /// The pages of an application.
    pub fn new(app: Arc<App>, settings: PagesSettings) -> Pages {
        let bounds = [(CallLane::Pages, PAGES_AT_ONCE)];
        Pages {
            lanes: Lanes::new(&bounds, app.environment.clone(), Arc::clone(&app.metrics)),
            app,
            lines: CallLines::new(Instant::now()),
            own_origins: OwnOrigins::of(&settings.url),
            trusted_proxies: settings.trusted_proxies,
            views: Views::new(&settings.organisation, &settings.support, settings.logo),
        }
    }

    /// Returns all pages behind their layer. The server inserts a [`Peer`] into each request.
    pub fn router(self: Arc<Self>) -> Router {
        let mut router = Router::new()
            .route("/", get(forgot::front))
            .route("/forgot", get(forgot::show).post(forgot::act))
            .route("/security", get(security::show).post(security::act))
            .route("/strength", post(strength::judge))
            .route("/done", get(done::show))
            .route("/style.css", get(assets::style))
            .route("/password.js", get(assets::script))
            .route("/once.js", get(assets::once))
            .route("/logo", get(assets::logo));
        for page in LinkPage::iter() {
            router = router.route(&format!("/{}", page.as_str()), get(link::show).post(link::act));
        }
        router
            .fallback(problem::not_found)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(from_fn_with_state(Arc::clone(&self), observe::observe))
            .with_state(self)
    }

    /// Logs gathered requests each second, until the server stops.
    pub async fn report_gathered(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(REPORT_EVERY)).await.is_some() {
            for (kind, gathered) in self.lines.due(Instant::now()) {
                call_lines::log(&kind, &gathered);
            }
        }
    }
}
