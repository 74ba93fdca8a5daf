//! A small HTTP service that verifies access tokens itself, without a call to latchkey for each of them.
//!
//! It is fast, and works while latchkey is not available. The price is that a token stays valid until it expires (5 minutes
//! unless `token.access_ttl` says otherwise), even if its user was locked a moment ago. `examples/introspect.rs` asks
//! latchkey instead.
//!
//! ```text
//! cargo run --example offline_check -- --audience notes
//! curl -H "authorization: Bearer $TOKEN" http://127.0.0.1:8080/hello
//! ```
//!
//! where `TOKEN` is the access token of a sign-in that asked for the audience `notes`:
//!
//! ```text
//! grpcurl -plaintext -d '{"login": "ada", "password": "…", "audiences": ["notes"]}' \
//!     127.0.0.1:50051 latchkey.v1.Auth/SignIn
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Parser as _;
use data_encoding::BASE64URL_NOPAD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use latchkey::proto::v1;
use latchkey::proto::v1::auth_client::AuthClient;
use serde::Deserialize;
use tonic::transport::{Channel, Endpoint};

/// Tolerated difference between the clocks of latchkey and this machine for `nbf`, in seconds.
const CLOCK_SKEW: u64 = 30;

/// Deadline of a call to latchkey.
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(clap::Parser)]
#[command(about = "A service that checks access tokens offline")]
struct Arguments {
    /// URL of latchkey's gRPC listener
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    latchkey: Endpoint,
    /// The name of this service in the `aud` claim
    #[arg(long)]
    audience: String,
    /// Address that this service listens on
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { latchkey, audience, listen } = Arguments::parse();
    let latchkey = AuthClient::new(latchkey.timeout(DEADLINE).connect_timeout(DEADLINE).connect_lazy());
    let verifier = Arc::new(Verifier::connect(latchkey, audience).await?);

    let routes = Router::new().route("/hello", get(hello)).with_state(verifier);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    axum::serve(listener, routes).await?;
    Ok(())
}

async fn hello(State(verifier): State<Arc<Verifier>>, headers: HeaderMap) -> Response {
    match verifier.check(bearer(&headers)).await {
        Ok(claims) => format!("hello {}\n", claims.username).into_response(),
        // The reason is not sent: it would help an attacker who guesses.
        Err(refused) => {
            let _ = writeln!(std::io::stderr(), "refused: {refused:?}");
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], "unauthorized\n").into_response()
        }
    }
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

/// The header of an access token (RFC 9068). Any other field makes the token invalid: headers that name their own key,
/// or a URL to fetch it from, have been used to bypass the signature.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
    kid: String,
}

/// The claims that this service reads; a token has more.
#[derive(Deserialize)]
struct Claims {
    username: String,
    nbf: u64,
}

#[derive(Debug)]
#[expect(dead_code, reason = "printed, field by field, for the operator of the service")]
enum Refused {
    /// Not a token, or not of this kind.
    Malformed,
    /// Not signed by a key that latchkey publishes.
    UnknownKey,
    /// A wrong signature, issuer or audience, or expired.
    Invalid(jsonwebtoken::errors::Error),
    /// Not valid yet.
    TooEarly,
}

struct Verifier {
    latchkey: AuthClient<Channel>,
    audience: String,
    keys: RwLock<Arc<Keys>>,
    /// Held by the one call that fetches keys; the others use the keys they have.
    fetching: tokio::sync::Mutex<()>,
}

/// A snapshot of the published keys.
struct Keys {
    issuer: String,
    by_id: HashMap<String, DecodingKey>,
    /// From this instant on, the keys are fetched again.
    stale_at: Instant,
}

impl Verifier {
    /// Fails if latchkey cannot be reached: without keys the service could accept no token.
    async fn connect(latchkey: AuthClient<Channel>, audience: String) -> Result<Verifier, Box<dyn Error>> {
        let keys = fetch_keys(latchkey.clone()).await?;
        let keys = RwLock::new(Arc::new(keys));
        Ok(Verifier { latchkey, audience, keys, fetching: tokio::sync::Mutex::new(()) })
    }

    async fn check(&self, token: &str) -> Result<Claims, Refused> {
        let header = header(token).ok_or(Refused::Malformed)?;
        let keys = self.keys().await;
        // An unknown key does not trigger a fetch: new keys are published a day before they are used, and a stranger
        // could trigger any number of fetches.
        let key = keys.by_id.get(&header.kid).ok_or(Refused::UnknownKey)?;
        let validation = validation(&keys.issuer, &self.audience);
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation).map_err(Refused::Invalid)?.claims;
        if claims.nbf > jsonwebtoken::get_current_timestamp() + CLOCK_SKEW {
            return Err(Refused::TooEarly);
        }
        Ok(claims)
    }

    /// The keys, fetched again when they are stale. If latchkey is not available, the old keys stay in use: a public key
    /// does not expire, and a new one is not used for a day.
    async fn keys(&self) -> Arc<Keys> {
        let keys = self.cached();
        if Instant::now() < keys.stale_at {
            return keys;
        }
        let Ok(_fetching) = self.fetching.try_lock() else { return keys };
        match fetch_keys(self.latchkey.clone()).await {
            Ok(fetched) => *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fetched),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "the keys were not renewed: {error}");
            }
        }
        self.cached()
    }

    fn cached(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Fetches the keys. A client without gRPC finds the same set at `/.well-known/jwks.json` of the HTTP listener.
async fn fetch_keys(mut latchkey: AuthClient<Channel>) -> Result<Keys, Box<dyn Error>> {
    let answer = latchkey.get_signing_keys(v1::GetSigningKeysRequest::default()).await?.into_inner();
    let set: JwkSet = serde_json::from_str(&answer.jwks_json)?;
    let mut by_id = HashMap::new();
    for key in &set.keys {
        let id = key.common.key_id.clone().ok_or("a key without an id")?;
        by_id.insert(id, DecodingKey::from_jwk(key)?);
    }
    let max_age: Duration = answer.max_age.ok_or("no max_age")?.try_into()?;
    Ok(Keys { issuer: answer.issuer, by_id, stale_at: Instant::now() + max_age })
}

fn header(token: &str) -> Option<Header> {
    let (encoded, _) = token.split_once('.')?;
    let header: Header = serde_json::from_slice(&BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?).ok()?;
    (header.typ == "at+jwt" && header.alg == "EdDSA").then_some(header)
}

/// Checks signature, issuer, audience and expiry. By default the library accepts a token for a minute after its expiry,
/// and a token that lacks a claim.
fn validation(issuer: &str, audience: &str) -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.leeway = 0;
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    validation
}
