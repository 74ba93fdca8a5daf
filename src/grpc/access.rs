//! The layer that authenticates the caller and checks the rule of the method. A request that passes carries a [`Caller`].
//!
//! Denies by default: only methods without a rule (health, open reflection) pass without a `Caller`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts;
use http::{Extensions, HeaderMap};
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};

use super::call_log::CallContext;
use super::table::Method;
use crate::app::{App, Authenticated};
use crate::domain::caller::{AccessRule, Call, Caller, CallingApp, Demand};
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Result, Unauthenticated};

/// Metadata that identifies the calling application by its API token.
const APP: &str = "latchkey-app";

/// Metadata with the IP address of the person for whom a calling application acts.
const CLIENT_ADDRESS: &str = "latchkey-client-address";

/// The maximum length of a user agent that is kept, in bytes.
const MAX_USER_AGENT_BYTES: usize = 128;

/// Runs the layer.
pub(super) async fn access(
    State(app): State<Arc<App>>,
    Extension(method): Extension<Arc<Method>>,
    Extension(context): Extension<CallContext>,
    request: Request,
    next: Next,
) -> Result<Response> {
    let Some(rule) = method.rule else { return Ok(next.run(request).await) };
    let (mut parts, body) = request.into_parts();
    let caller = admit(&app, &method.name, rule, &context, &parts).await?;
    parts.extensions.insert(caller);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn admit(app: &App, method: &str, rule: AccessRule, context: &CallContext, parts: &Parts) -> Result<Caller> {
    let calling_app = calling_app(app, &parts.headers).await?;
    if let Some(calling_app) = &calling_app {
        context.set_app(calling_app.name.clone());
    }
    let client_address = client_address(parts, calling_app.as_ref())?;
    if let Some(address) = client_address {
        context.set_stated_address(address);
    }
    let who = identify(app, parts, rule).await?;
    context.set_principal(who.as_ref().map(|who| who.principal.id()).unwrap_or_default());

    let call = Call {
        request_id: context.request_id().to_owned(),
        client_request_id: context.client_request_id().to_owned(),
        method: method.to_owned(),
        client_address,
        is_shared_address: calling_app.as_ref().is_some_and(|app| !states_address(parts, app)),
        user_agent: user_agent(&parts.headers),
        app: calling_app,
    };
    app.admit(who, rule, call).await
}

/// Authenticates by the bearer token, or else by the peer of the local socket. An invalid token is an error: falling back
/// to the peer would let the client act as a principal that it did not choose.
async fn identify(app: &App, parts: &Parts, rule: AccessRule) -> Result<Option<Authenticated>> {
    if matches!(rule.demand, Demand::Anyone | Demand::Ticket) {
        return Ok(None);
    }
    if let Some(token) = bearer(&parts.headers)? {
        return app.authenticate(token).await.map(Some);
    }
    Ok(trusted_peer(parts).map(|uid| app.local(uid)))
}

async fn calling_app(app: &App, headers: &HeaderMap) -> Result<Option<CallingApp>> {
    match single(headers, APP)? {
        None => Ok(None),
        Some(token) => app.calling_app(token).await.map(Some),
    }
}

/// Returns the token of `authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(value) = single(headers, http::header::AUTHORIZATION.as_str())? else { return Ok(None) };
    let (scheme, token) = value.split_once(' ').ok_or(Unauthenticated::TokenInvalid)?;
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if scheme.eq_ignore_ascii_case("bearer") && is_token {
        Ok(Some(token))
    } else {
        Err(Unauthenticated::TokenInvalid.into())
    }
}

/// Returns the value of a credential header. A duplicated header is rejected: a proxy in front of us may have checked the
/// other one.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Unauthenticated::TokenInvalid.into()),
        (Some(_), Some(_)) => Err(Unauthenticated::TokenInvalid.into()),
    }
}

/// Returns the user id of the peer process on the local socket, if it is the server's own or root's. Other users may reach
/// the socket if its directory is open to them; they are unauthenticated.
fn trusted_peer(parts: &Parts) -> Option<u32> {
    let uid = parts.extensions.get::<UdsConnectInfo>()?.peer_cred?.uid();
    is_trusted(uid, rustix::process::geteuid().as_raw()).then_some(uid)
}

/// Returns whether a process of user `uid` has full access to a server that runs as user `own`.
fn is_trusted(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// Returns the address of the peer, or the one that a calling application with the scope `auth.proxy` states.
fn client_address(parts: &Parts, app: Option<&CallingApp>) -> Result<Option<IpAddr>> {
    if app.is_some_and(|app| states_address(parts, app)) {
        return stated_address(&parts.headers).map(Some);
    }
    Ok(peer(&parts.extensions))
}

/// Returns whether the calling application states the address of the person it calls for, and may do so.
fn states_address(parts: &Parts, app: &CallingApp) -> bool {
    app.is_proxy && parts.headers.contains_key(CLIENT_ADDRESS)
}

/// Returns the remote address of the connection. `None` on the local socket.
pub(super) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    let peer = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    peer.map(|address| address.ip().to_canonical())
}

fn stated_address(headers: &HeaderMap) -> Result<IpAddr> {
    let mut values = headers.get_all(CLIENT_ADDRESS).iter();
    let first = values.next().filter(|_| values.next().is_none());
    let address = first.and_then(|value| value.to_str().ok()?.parse::<IpAddr>().ok());
    address.map(|address| address.to_canonical()).ok_or_else(|| {
        Error::InvalidInput(Violations::of(CLIENT_ADDRESS, Fault::Malformed, "one IP address, without a port"))
    })
}

/// Returns the user agent without control characters, so that it fits on one line of the log.
fn user_agent(headers: &HeaderMap) -> String {
    let value = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.chars().filter(|symbol| !symbol.is_control()).take(MAX_USER_AGENT_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        pairs.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    fn parts(pairs: &[(&'static str, &'static str)]) -> Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers = headers(pairs);
        parts
    }

    #[test]
    fn one_bearer_is_a_bearer() {
        let value = |text| bearer(&headers(&[("authorization", text)])).map(|token| token.map(str::to_owned)).ok();
        assert_eq!(bearer(&headers(&[])).ok(), Some(None));
        assert_eq!(value("Bearer abc.def"), Some(Some("abc.def".to_owned())));
        assert_eq!(value("bearer abc"), Some(Some("abc".to_owned())));
        for wrong in ["Bearer", "Bearer ", "Bearer  abc", "Bearer a b", "Basic YTpi", "abc", ""] {
            assert_eq!(value(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn two_credentials_are_none() {
        let two = headers(&[("authorization", "Bearer abc"), ("authorization", "Bearer abc")]);
        assert!(matches!(bearer(&two), Err(Error::Unauthenticated(Unauthenticated::TokenInvalid))));
    }

    #[test]
    fn only_a_proxy_is_believed_whom_it_speaks_for() -> Result<()> {
        let proxy = CallingApp { name: "portal".to_owned(), is_proxy: true };
        let other = CallingApp { name: "portal".to_owned(), is_proxy: false };
        let stated = parts(&[("latchkey-client-address", "::ffff:192.0.2.7")]);
        assert_eq!(client_address(&stated, Some(&proxy))?, Some(IpAddr::from([192, 0, 2, 7])));
        assert_eq!(client_address(&stated, Some(&other))?, None);
        assert_eq!(client_address(&stated, None)?, None);

        for wrong in ["192.0.2.7:80", "localhost", "192.0.2.7, 10.0.0.1", ""] {
            let stated = parts(&[("latchkey-client-address", wrong)]);
            let refused = client_address(&stated, Some(&proxy));
            assert!(matches!(refused, Err(Error::InvalidInput(_))), "{wrong}");
            assert_eq!(client_address(&stated, Some(&other))?, None, "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn a_peer_is_trusted_only_on_the_local_socket() {
        assert_eq!(trusted_peer(&parts(&[])), None);
        assert!(is_trusted(0, 1000) && is_trusted(1000, 1000) && is_trusted(0, 0));
        assert!(!is_trusted(1001, 1000), "who can reach the socket is not yet an operator");
        assert!(!is_trusted(1000, 0), "nor is anybody that of a server of root");
    }
}
