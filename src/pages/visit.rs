//! A request of the pages: which page, from where, in which language, and the caller for a use case.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use data_encoding::HEXLOWER;
use http::header::{ACCEPT_LANGUAGE, USER_AGENT};
use http::{HeaderMap, HeaderName};

use super::fields::Fields;
use super::link_page::LinkPage;
use super::{Pages, Peer, client};
use crate::domain::caller::{AccessRule, Call, Caller, Demand};
use crate::domain::language::Language;
use crate::domain::profile::Locale;
use crate::error::Result;
use crate::lanes::Permit;

/// The maximum length of a user agent that is kept, in characters.
const MAX_USER_AGENT: usize = 128;

/// What a path leads to. It names the path in the log and the metrics, so that clients cannot create values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Link(LinkPage),
    Forgot,
    Security,
    Done,
    /// How strong a password is, asked while it is typed.
    Strength,
    Asset,
    Unknown,
}

impl Place {
    fn of(path: &str) -> Place {
        match path.strip_prefix('/').unwrap_or_default() {
            "" | "forgot" => Place::Forgot,
            "security" => Place::Security,
            "done" => Place::Done,
            "strength" => Place::Strength,
            "style.css" | "password.js" | "once.js" | "logo" => Place::Asset,
            name => name.parse().map_or(Place::Unknown, Place::Link),
        }
    }

    /// Its name in URLs, the log and the metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Place::Link(page) => page.as_str(),
            Place::Forgot => "forgot",
            Place::Security => "security",
            Place::Done => "done",
            Place::Strength => "strength",
            Place::Asset => "asset",
            Place::Unknown => "unknown",
        }
    }
}

/// What the handlers need to know of a request.
#[derive(Clone)]
pub(super) struct Visit {
    known: Arc<Known>,
    /// Held until the work is done, even if the client hangs up.
    permit: Option<Arc<Permit>>,
}

struct Known {
    place: Place,
    request_id: String,
    address: Option<IpAddr>,
    user_agent: String,
    accepted: Option<Language>,
    query: Fields,
}

impl Visit {
    /// Begins with a request, without a permit.
    pub(super) fn begin(pages: &Pages, request: &Request) -> Visit {
        let headers = request.headers();
        let peer = request.extensions().get::<Peer>();
        let query = request.uri().query().and_then(|query| Fields::parse(query.as_bytes()));
        let known = Known {
            place: Place::of(request.uri().path()),
            request_id: HEXLOWER.encode(&pages.app.environment.bytes::<16>()),
            address: peer.map(|peer| client::address(peer.0, headers, &pages.trusted_proxies)),
            user_agent: text(headers, &USER_AGENT).chars().take(MAX_USER_AGENT).collect(),
            accepted: Language::accepted(text(headers, &ACCEPT_LANGUAGE)),
            query: query.unwrap_or_default(),
        };
        Visit { known: Arc::new(known), permit: None }
    }

    /// The visit with the permit of its lane.
    pub(super) fn with_permit(&self, permit: Option<Permit>) -> Visit {
        Visit { permit: permit.map(Arc::new), ..self.clone() }
    }

    /// Where the request leads.
    pub(super) fn place(&self) -> Place {
        self.known.place
    }

    /// The address of the client. `None` only if a layer is missing.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.known.address
    }

    /// The id of the request, in the log, the response and audit events.
    pub(super) fn request_id(&self) -> &str {
        &self.known.request_id
    }

    /// The fields of the query.
    pub(super) fn query(&self) -> &Fields {
        &self.known.query
    }

    /// The language that the user chose with the switch.
    pub(super) fn chosen(&self) -> Option<Language> {
        self.query().get("lang").parse().ok()
    }

    /// The language of the page: that of the switch, of the user, or of the browser.
    pub(super) fn language(&self, chosen: Option<Language>, user: Option<&Locale>) -> Language {
        chosen.or_else(|| user.and_then(Language::of_locale)).or(self.known.accepted).unwrap_or_default()
    }

    /// The caller of a use case, which has the name of an RPC of `Auth`.
    pub(super) async fn caller(&self, pages: &Pages, rpc: &str, demand: Demand) -> Result<Caller> {
        let call = Call {
            request_id: self.request_id().to_owned(),
            method: format!("latchkey.v1.Auth/{rpc}"),
            client_address: self.known.address,
            user_agent: self.known.user_agent.clone(),
            ..Call::default()
        };
        pages.app.admit(None, AccessRule { demand, recent_sign_in: None }, call).await
    }

    /// Runs a change to its end, even if the client hangs up. The permit is held until then.
    pub(super) async fn run<T, F>(&self, pages: &Pages, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (work, permit) = (Box::pin(work), self.permit.clone());
        pages
            .app
            .detached(async move {
                let done = work.await;
                drop(permit);
                done
            })
            .await
    }
}

/// The text of a header; empty if it is missing or has other characters than printable ASCII.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
