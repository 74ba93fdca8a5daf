//! `latchkey sessions`: lists and ends sessions.

use clap::{Args, Subcommand};

use super::may;
use crate::cli::args::{Confirmation, Paging};
use crate::cli::error::Error;
use crate::cli::output::table::{Column, Table};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::{Clock, instant};
use crate::cli::output::words::{count, person, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::revoke_session_request::Target;
use crate::proto::v1::{
    Effects, ListSessionsRequest, ListSessionsResponse, ListUserSessionsRequest, ListUserSessionsResponse,
    RevokeSessionRequest, RevokeUserSessionsRequest, Session, UserRef,
};

const HELP: &str = "\
Examples:
  latchkey sessions list ada
  latchkey sessions revoke ada";

/// List and end sessions.
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub(crate) enum Sessions {
    List(List),
    Revoke(Revoke),
}

impl Sessions {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Sessions::List(list) => list.run(cli).await,
            Sessions::Revoke(revoke) => revoke.run(cli).await,
        }
    }
}

const LIST_HELP: &str = "\
Examples:
  latchkey sessions list
  latchkey sessions list ada --ended";

/// List a user's sessions, newest first, or your own.
#[derive(Debug, Args)]
#[command(after_help = LIST_HELP)]
pub(crate) struct List {
    /// The user; you if absent.
    #[arg(value_parser = user_ref::parse)]
    user: Option<UserRef>,
    /// Also those that have ended, for 30 days.
    #[arg(long, requires = "user")]
    ended: bool,
    #[command(flatten)]
    paging: Paging,
}

impl List {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let clock = cli.screen.clock();
        let page_size = self.paging.page_size();
        let listed = if let Some(user) = self.user.clone() {
            let request = ListUserSessionsRequest {
                user: Some(user),
                page_size,
                include_ended: self.ended,
                ..ListUserSessionsRequest::default()
            };
            let page = async |answer: &ListUserSessionsResponse| table(&answer.sessions, clock);
            cli.pages(&self.paging, request, page).await?
        } else {
            let request = ListSessionsRequest { page_size, ..ListSessionsRequest::default() };
            let page = async |answer: &ListSessionsResponse| table(&answer.sessions, clock);
            cli.pages(&self.paging, request, page).await?
        };
        let next = match self.user.as_ref().and_then(user_ref::text) {
            _ if listed.count == 0 || cli.screen.is_json() => None,
            Some(user) => may(&cli.scopes().await, "sessions.revoke")
                .then(|| format!("latchkey sessions revoke {}", shell_word(&user))),
            None => Some("latchkey sessions revoke --mine --others".to_owned()),
        };
        cli.list_footer(&listed, "session", next.as_deref())
    }
}

fn table(sessions: &[Session], clock: &Clock) -> Table {
    let mut table = Table::new(&[
        Column::fixed("SESSION"),
        Column::free("APPLICATION").left_out(2),
        Column::free("CLIENT").left_out(3),
        Column::fixed("BY").left_out(0),
        Column::fixed("ADDRESS").left_out(5),
        Column::fixed("BEGAN").left_out(1),
        Column::fixed("LAST USED").left_out(4),
        Column::fixed("STATE"),
    ]);
    let ago = |at: Option<&prost_types::Timestamp>| instant(at).map(|at| clock.ago(at)).unwrap_or_default();
    for session in sessions {
        table.row([
            session.id.as_str().into(),
            session.app.as_str().into(),
            session.client_name.as_str().into(),
            how(session).into(),
            session.client_address.as_str().into(),
            ago(session.create_time.as_ref()).into(),
            ago(session.last_used_time.as_ref()).into(),
            state(session, clock),
        ]);
    }
    table
}

/// How the user signed in: `pwd`, `pwd otp`, `pwd mfa`.
fn how(session: &Session) -> String {
    let methods = session.auth_methods.iter().map(String::as_str);
    let has_otp = session.auth_methods.iter().any(|method| method == "otp");
    // A code of the authenticator says it better.
    methods.filter(|method| !(has_otp && *method == "mfa")).collect::<Vec<_>>().join(" ")
}

fn state(session: &Session, clock: &Clock) -> Text {
    if let Some(at) = instant(session.end_time.as_ref()) {
        return Text::toned(Tone::Dim, format!("ended {}", clock.ago(at)));
    }
    let left = instant(session.expire_time.as_ref()).map(|at| clock.left(at)).unwrap_or_default();
    let this = if session.current { ", this one" } else { "" };
    Text::toned(Tone::Good, "● ").and(Tone::Plain, format!("{left}{this}"))
}

const REVOKE_HELP: &str = "\
Examples:
  latchkey sessions revoke ada
  latchkey sessions revoke ada 01jq3m8d7hw4zk9x6c2v5b1n0t
  latchkey sessions revoke --mine --others";

/// End a user's sessions: all of them, or those named. Or your own.
#[derive(Debug, Args)]
#[command(after_help = REVOKE_HELP, override_usage = "latchkey sessions revoke [OPTIONS] USER [ID]...\n       \
    latchkey sessions revoke --mine [ID...|--others]")]
pub(crate) struct Revoke {
    /// The user, then the ids of the sessions to end; without ids, all end. With --mine only ids.
    #[arg(value_name = "USER|ID", required_unless_present = "mine")]
    names: Vec<String>,
    /// Your own sessions.
    #[arg(long)]
    mine: bool,
    /// All of yours but the current one.
    #[arg(long, requires = "mine", conflicts_with = "names")]
    others: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, conflicts_with = "mine")]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Revoke {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        if self.mine { self.own(cli).await } else { self.of_user(cli).await }
    }

    async fn own(self, cli: &Cli) -> Result<(), Error> {
        let ids = self.names.into_iter().map(Target::SessionId);
        let targets: Vec<Target> = if self.others { vec![Target::AllOthers(true)] } else { ids.collect() };
        if targets.is_empty() {
            return Err(Error::usage("give session ids, or --others").hint("`latchkey logout` ends this session"));
        }
        for target in targets {
            let request = RevokeSessionRequest { target: Some(target) };
            cli.answer(request, |screen, answer| {
                screen.done(format!("{} ended", ended_sessions(answer.sessions_revoked)))
            })
            .await?;
        }
        Ok(())
    }

    async fn of_user(self, cli: &Cli) -> Result<(), Error> {
        let mut names = self.names.into_iter();
        let name = names.next().unwrap_or_default();
        let user = user_ref::parse(&name).map_err(Error::usage)?;
        let session_ids: Vec<String> = names.collect();
        let request = RevokeUserSessionsRequest { user: Some(user.clone()), session_ids, note: self.note };
        if cli.asks(self.confirmation.yes)? {
            cli.rehearse(&request).await?;
            let user = cli.user(user).await?;
            let all = cli.sessions_of(&user).await.unwrap_or_else(|| "no session".to_owned());
            let (which, ends) = match request.session_ids.as_slice() {
                [] => ("all sessions".to_owned(), all),
                ids => (count(ids.len(), "session"), ids.join(", ")),
            };
            let question = Question::new(format!("End {which} of {}", person(&user))).row("ends", ends);
            cli.confirm(question.row("stays", "the password and API tokens")).await?;
        }
        cli.answer(request, |screen, answer| {
            let ended = answer.effects.as_ref().map_or(0, |effects| effects.sessions_revoked);
            screen.done(format!("{} of {name} ended", ended_sessions(ended)))?;
            let rest = answer.effects.map(|effects| Effects { sessions_revoked: 0, ..effects });
            Cli::effects(screen, rest.as_ref(), None)
        })
        .await
    }
}

fn ended_sessions(number: i32) -> String {
    if number == 0 { "no session".to_owned() } else { count(number, "session") }
}
