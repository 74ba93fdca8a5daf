//! A small HTTP service that asks latchkey about each token.
//!
//! A lock, a reset or a sign-out counts at once. The price is a call for each request, and no service while latchkey is
//! not available. `examples/offline_check.rs` verifies tokens offline.
//!
//! The service needs an API token with the scope `tokens.introspect`, which the role `verifier` has:
//!
//! ```text
//! latchkey users create notes --kind service --role verifier
//! latchkey tokens create notes --name introspection --scope tokens.introspect --output json | jq -r .secret > token
//! chmod 600 token
//! cargo run --example introspect -- --audience notes --api-token-file token
//! curl -H "authorization: Bearer $TOKEN" http://127.0.0.1:8080/hello
//! ```
//!
//! where `TOKEN` is the access token of a sign-in that asked for the audience `notes`:
//!
//! ```text
//! grpcurl -plaintext -d '{"login": "ada", "password": "…", "audiences": ["notes"]}' \
//!     127.0.0.1:50051 latchkey.v1.Auth/SignIn
//! ```

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Parser as _;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use latchkey::proto::v1;
use latchkey::proto::v1::auth_client::AuthClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Deadline of a call to latchkey.
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(clap::Parser)]
#[command(about = "A service that asks latchkey about each token")]
struct Arguments {
    /// URL of latchkey's gRPC listener
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    latchkey: Endpoint,
    /// The name of this service in the `aud` claim
    #[arg(long)]
    audience: String,
    /// File with an API token that has the scope `tokens.introspect`
    ///
    /// A file, because everyone on the machine can list the arguments of a process.
    #[arg(long)]
    api_token_file: PathBuf,
    /// Address that this service listens on
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { latchkey, audience, api_token_file, listen } = Arguments::parse();
    let api_token = std::fs::read_to_string(api_token_file)?;
    let mut credential: MetadataValue<Ascii> = format!("Bearer {}", api_token.trim()).parse()?;
    // A sensitive value is not printed, and not stored in the header table of HTTP/2.
    credential.set_sensitive(true);
    let latchkey = AuthClient::new(latchkey.timeout(DEADLINE).connect_timeout(DEADLINE).connect_lazy());
    let inspector = Arc::new(Inspector { latchkey, credential, audience });

    let routes = Router::new().route("/hello", get(hello)).with_state(inspector);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    axum::serve(listener, routes).await?;
    Ok(())
}

async fn hello(State(inspector): State<Arc<Inspector>>, headers: HeaderMap) -> Response {
    match inspector.inspect(bearer(&headers)).await {
        Ok(Some(token)) => format!("hello {}\n", token.username).into_response(),
        Ok(None) => (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], "unauthorized\n").into_response(),
        // If latchkey does not answer, every request is refused.
        Err(status) => {
            let _ =
                writeln!(std::io::stderr(), "latchkey could not be asked: {:?} {}", status.code(), status.message());
            (StatusCode::SERVICE_UNAVAILABLE, "try again\n").into_response()
        }
    }
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

struct Inspector {
    latchkey: AuthClient<Channel>,
    credential: MetadataValue<Ascii>,
    audience: String,
}

impl Inspector {
    /// Returns latchkey's answer about the token, or `None` if the token is invalid or for another service.
    async fn inspect(&self, token: &str) -> Result<Option<v1::IntrospectTokenResponse>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let question = v1::IntrospectTokenRequest { token: token.to_owned(), audience: self.audience.clone() };
        let mut request = Request::new(question);
        request.metadata_mut().insert("authorization", self.credential.clone());
        let answer = match self.latchkey.clone().introspect_token(request).await {
            Ok(answer) => answer.into_inner(),
            // The token is longer than any valid one.
            Err(status) if status.code() == tonic::Code::InvalidArgument => return Ok(None),
            Err(status) => return Err(status),
        };
        // latchkey accepts API tokens here, which have no audience. This service accepts only users' access tokens.
        let is_for_us = answer.audiences.contains(&self.audience);
        Ok((answer.active && is_for_us).then_some(answer))
    }
}
