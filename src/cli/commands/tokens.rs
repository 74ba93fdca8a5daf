//! `latchkey tokens`: creates, lists and revokes API tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Loss, may};
use crate::cli::args::{self, Confirmation, Paging};
use crate::cli::error::Error;
use crate::cli::output::table::{Column, Table};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{Clock, instant};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{
    ApiToken, CreateApiTokenRequest, CreateApiTokenResponse, ListApiTokensRequest, ListApiTokensResponse,
    ListUsersRequest, RevokeApiTokenRequest, UserFilter, UserRef,
};

const HELP: &str = "\
Examples:
  latchkey tokens list
  latchkey tokens create mailer --name \"production mailer\" --scope tokens.introspect";

/// Create, list and revoke API tokens.
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub(crate) enum Tokens {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

impl Tokens {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Tokens::Create(create) => create.run(cli).await,
            Tokens::List(list) => list.run(cli).await,
            Tokens::Revoke(revoke) => revoke.run(cli).await,
        }
    }
}

const CREATE_HELP: &str = "\
The token is shown once. It may do what its user may, within its scopes.

Examples:
  latchkey tokens create mailer --name \"production mailer\" --scope tokens.introspect
  latchkey tokens create ci --name ci --scope users.read --scope users.lock --ttl 30d";

/// Create an API token for a user.
#[derive(Debug, Args)]
#[command(after_help = CREATE_HELP)]
pub(crate) struct Create {
    /// The user whose rights it carries.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// What it is for, to be told from others.
    #[arg(long, value_name = "TEXT")]
    name: String,
    /// What it may do; more than once for more. `latchkey roles` names the scopes.
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
    scopes: Vec<String>,
    /// How long it works; 90 days if absent, 400 at most.
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Create {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = CreateApiTokenRequest {
            user: Some(self.user),
            name: self.name,
            scopes: self.scopes,
            ttl: self.ttl.map(args::wire_duration),
        };
        let loss = |answer: &CreateApiTokenResponse| {
            let id = answer.api_token.as_ref().map(|token| token.id.as_str()).unwrap_or_default();
            Some(Loss {
                done: format!("the API token {id} is created"),
                secret: "text",
                remedy: format!("end it with `latchkey tokens revoke {id}` and create another"),
            })
        };
        cli.answer_once(request, loss, |screen, answer| {
            let end = answer.api_token.as_ref().and_then(|token| instant(token.expire_time.as_ref()));
            let end = end.map(|end| format!("good until {}. ", screen.clock().moment(end))).unwrap_or_default();
            let secret = Text::toned(Tone::Strong, &answer.secret);
            let line = Text::toned(Tone::Good, "✔ ").join(secret).and(Tone::Dim, format!("    {end}Shown once."));
            screen.secret(line)?;
            let id = answer.api_token.map(|token| token.id).unwrap_or_default();
            screen.next(&format!("latchkey tokens revoke {id}, when it is no longer needed"))
        })
        .await
    }
}

const LIST_HELP: &str = "\
Examples:
  latchkey tokens list
  latchkey tokens list mailer";

/// List API tokens, newest first, without their secrets.
#[derive(Debug, Args)]
#[command(after_help = LIST_HELP)]
pub(crate) struct List {
    /// The user; all users if absent.
    #[arg(value_parser = user_ref::parse)]
    user: Option<UserRef>,
    #[command(flatten)]
    paging: Paging,
}

impl List {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = ListApiTokensRequest {
            user: self.user,
            page_size: self.paging.page_size(),
            ..ListApiTokensRequest::default()
        };
        let page = async |answer: &ListApiTokensResponse| {
            let names = names(cli, &answer.api_tokens).await;
            table(&answer.api_tokens, &names, cli.screen.clock())
        };
        let listed = cli.pages(&self.paging, request, page).await?;
        let may_create = !cli.screen.is_json() && may(&cli.scopes().await, "tokens.write");
        let next = may_create.then_some("latchkey tokens create USER --name TEXT --scope SCOPE");
        cli.list_footer(&listed, "token", next)
    }
}

/// The usernames of the tokens' users by id, in one call per page. Empty if the caller may not read users.
async fn names(cli: &Cli, tokens: &[ApiToken]) -> BTreeMap<String, String> {
    let mut user_ids: Vec<String> = tokens.iter().map(|token| token.user_id.clone()).collect();
    user_ids.sort_unstable();
    user_ids.dedup();
    if user_ids.is_empty() {
        return BTreeMap::new();
    }
    let filter = UserFilter { user_ids, ..UserFilter::default() };
    let request = ListUsersRequest { page_size: 500, filter: Some(filter), ..ListUsersRequest::default() };
    let users = cli.client.call(request).await.map(|answer| answer.users).unwrap_or_default();
    users.into_iter().map(|user| (user.id, user.username)).collect()
}

fn table(tokens: &[ApiToken], names: &BTreeMap<String, String>, clock: &Clock) -> Table {
    let mut table = Table::new(&[
        Column::fixed("TOKEN"),
        Column::fixed("USER"),
        Column::free("NAME").left_out(3),
        Column::fixed("LAST USED").left_out(1),
        Column::fixed("STATE"),
        Column::note("SCOPES").left_out(2),
    ]);
    for token in tokens {
        let used = instant(token.last_used_time.as_ref());
        table.row([
            token.id.as_str().into(),
            names.get(&token.user_id).unwrap_or(&token.user_id).as_str().into(),
            token.name.as_str().into(),
            used.map_or_else(|| Text::toned(Tone::Dim, "never"), |at| clock.ago(at).into()),
            state(token, clock),
            token.scopes.join(" ").into(),
        ]);
    }
    table
}

fn state(token: &ApiToken, clock: &Clock) -> Text {
    if let Some(at) = instant(token.revoke_time.as_ref()) {
        return Text::toned(Tone::Dim, format!("revoked {}", clock.ago(at)));
    }
    match instant(token.expire_time.as_ref()) {
        Some(end) if clock.is_past(end) => Text::toned(Tone::Dim, format!("expired {}", clock.ago(end))),
        Some(end) => Text::toned(Tone::Good, "● ").and(Tone::Plain, clock.left(end)),
        None => Text::toned(Tone::Good, "●"),
    }
}

const REVOKE_HELP: &str = "\
The id stands in the token itself: lka_ID_…

Examples:
  latchkey tokens revoke 01jq3m8d7hw4zk9x6c2v5b1n0t --note \"found in a log\"";

/// End an API token at once.
#[derive(Debug, Args)]
#[command(after_help = REVOKE_HELP)]
pub(crate) struct Revoke {
    /// Its id.
    id: String,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Revoke {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        if self.id.starts_with("lka_") {
            return Err(
                Error::usage("this is a token, not its id").hint("the id is the part between lka_ and the next _")
            );
        }
        let request = RevokeApiTokenRequest { api_token_id: self.id, note: self.note };
        if cli.asks(self.confirmation.yes)? {
            cli.rehearse(&request).await?;
            let question = Question::new(format!("End the API token {}", request.api_token_id));
            cli.confirm(question.row("ends", "the token, now and for good").row("stays", "its user")).await?;
        }
        cli.answer(request, |screen, answer| {
            let name = answer.api_token.map(|token| format!("{} ({})", token.name, token.id)).unwrap_or_default();
            let before = if answer.changed { "is revoked" } else { "was revoked before" };
            screen.done(format!("{name} {before}"))
        })
        .await
    }
}
