//! A small HTTP service that checks access tokens by itself, without a call to latchkey for each of them.
//!
//! Fast, and it goes on while latchkey is away. The price: a token stays good until it expires (5 minutes unless
//! `token.access_ttl` says otherwise), also when its user was locked a moment ago. `examples/introspect.rs` is the
//! other way.
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

/// How far the clocks of latchkey and this machine may be apart for a token that is not in its time yet, in seconds.
const CLOCK_SKEW: u64 = 30;

/// How long latchkey may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(clap::Parser)]
#[command(about = "A service that checks access tokens offline")]
struct Arguments {
    /// Where latchkey serves gRPC
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    latchkey: Endpoint,
    /// What this service is called in the `aud` claim
    #[arg(long)]
    audience: String,
    /// Where this service listens
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
        // The caller learns no more than that: which half was wrong would help somebody who guesses.
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

/// The header of an access token (RFC 9068). Anything else in it makes the token invalid: a header that names its own
/// key or where to fetch one has been a way around the signature before.
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
#[expect(dead_code, reason = "printed, field by field, for whoever runs the service")]
enum Refused {
    /// Not a token, or not of this kind.
    Malformed,
    /// Not signed by a key that latchkey publishes.
    UnknownKey,
    /// A wrong signature, issuer or audience, or expired.
    Invalid(jsonwebtoken::errors::Error),
    /// Not in its time yet.
    TooEarly,
}

struct Verifier {
    latchkey: AuthClient<Channel>,
    audience: String,
    keys: RwLock<Arc<Keys>>,
    /// Held by the one call that fetches keys; the others go on with those they have.
    fetching: tokio::sync::Mutex<()>,
}

/// The published keys, as they were at one moment.
struct Keys {
    issuer: String,
    by_id: HashMap<String, DecodingKey>,
    /// Ask again from then on.
    stale_at: Instant,
}

impl Verifier {
    /// Fails if latchkey cannot be reached: a service without keys could let nobody in.
    async fn connect(latchkey: AuthClient<Channel>, audience: String) -> Result<Verifier, Box<dyn Error>> {
        let keys = fetch_keys(latchkey.clone()).await?;
        let keys = RwLock::new(Arc::new(keys));
        Ok(Verifier { latchkey, audience, keys, fetching: tokio::sync::Mutex::new(()) })
    }

    async fn check(&self, token: &str) -> Result<Claims, Refused> {
        let header = header(token).ok_or(Refused::Malformed)?;
        let keys = self.keys().await;
        // An unknown key is no reason to ask latchkey: new ones are published a day before they are used, and
        // strangers could have this service ask as often as they like.
        let key = keys.by_id.get(&header.kid).ok_or(Refused::UnknownKey)?;
        let validation = validation(&keys.issuer, &self.audience);
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation).map_err(Refused::Invalid)?.claims;
        if claims.nbf > jsonwebtoken::get_current_timestamp() + CLOCK_SKEW {
            return Err(Refused::TooEarly);
        }
        Ok(claims)
    }

    /// The keys, asked for again when their time is over. If latchkey is away, the old ones go on: public keys do not
    /// get worse, and a new one is not in use for a day.
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

/// The same set is at `/.well-known/jwks.json` of the HTTP listener, for whatever speaks no gRPC.
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

/// Signature, issuer, audience and expiry. The library would let an expired token live for another minute, and let one
/// pass that lacks a claim.
fn validation(issuer: &str, audience: &str) -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.leeway = 0;
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    validation
}
