//! `latchkey whoami`: shows how the server identifies the caller.

use clap::Args;

use crate::cli::client::own_name;
use crate::cli::error::Error;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::instant;
use crate::cli::output::words::{person, second_factor};
use crate::cli::setting::Cli;
use crate::proto::v1::who_am_i_response::Kind;
use crate::proto::v1::{WhoAmIRequest, WhoAmIResponse};

const HELP: &str = "\
Examples:
  latchkey whoami
  latchkey whoami --output json | jq -r '.scopes[]'";

/// Say who you are to the server, and what you may do.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct WhoAmI {}

impl WhoAmI {
    /// Prints the caller's identity and rights.
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let place = cli.client.target().place();
        cli.answer(WhoAmIRequest {}, |screen, answer| {
            let clock = screen.clock();
            let session = answer.session.as_ref();
            let signed_in = session.and_then(|session| instant(session.auth_time.as_ref()));
            let ends = session.and_then(|session| instant(session.expire_time.as_ref()));
            let ends = ends.map(|at| format!("{} at the latest, {}", clock.full(at), clock.left(at)));
            screen.fields([
                ("you are", Text::toned(Tone::Strong, name(&answer))),
                ("known by", known_by(answer.kind()).into()),
                ("at", place.into()),
                ("id", answer.principal_id.as_str().into()),
                ("roles", answer.user.as_ref().map(|user| user.roles.join(", ")).unwrap_or_default().into()),
                ("scopes", scopes(&answer)),
                ("second factor", answer.user.as_ref().map(|user| second_factor(user, clock)).unwrap_or_default()),
                ("signed in", signed_in.map(|at| clock.full_and_ago(at)).unwrap_or_default().into()),
                ("until", ends.unwrap_or_default().into()),
            ])
        })
        .await
    }
}

/// The caller's name, for people.
fn name(answer: &WhoAmIResponse) -> String {
    match (answer.kind(), &answer.user) {
        (Kind::Local, _) => format!("{} (local)", own_name()),
        (_, Some(user)) => person(user),
        (_, None) => answer.principal_id.clone(),
    }
}

/// The caller's scopes.
fn scopes(answer: &WhoAmIResponse) -> Text {
    if answer.scopes.is_empty() { Text::toned(Tone::Dim, "none") } else { answer.scopes.join(" ").into() }
}

fn known_by(kind: Kind) -> &'static str {
    match kind {
        Kind::User => "a session",
        Kind::ApiToken => "an API token",
        Kind::Local => "the local socket",
        Kind::Unspecified => "a way newer than this client",
    }
}
