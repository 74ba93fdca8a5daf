//! `latchkey users`: lists and changes accounts.

mod change;
mod contain;
mod create;
mod delete;
mod diagnose;
mod history;
mod invite;
mod list;
mod lock;
mod means;
mod recover;
mod recovery;
mod reset;
mod show;
mod update;

use clap::Subcommand;

use crate::cli::args::Paging;
use crate::cli::error::Error;
use crate::cli::output::time::instant;
use crate::cli::output::words::count;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{GetUserRequest, ListApiTokensRequest, ListUserSessionsRequest, User, UserRef};

const HELP: &str = "\
Examples:
  latchkey users recover ada --note \"ticket 4711\"
  latchkey users invite grace --email grace@example.com";

/// List, create and change accounts; lock, unlock and reset them.
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub(crate) enum Users {
    List(list::List),
    Show(show::Show),
    Diagnose(diagnose::Diagnose),
    Recover(recover::Recover),
    History(history::History),
    Create(Box<create::Create>),
    Invite(Box<invite::Invite>),
    Update(Box<update::Update>),
    Delete(delete::Delete),
    Lock(lock::Lock),
    Contain(lock::Contain),
    Unlock(lock::Unlock),
    Reset(Box<reset::Reset>),
    RequireChange(change::Require),
    WaiveChange(change::Waive),
}

impl Users {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Users::List(list) => list.run(cli).await,
            Users::Show(show) => show.run(cli).await,
            Users::Diagnose(diagnose) => diagnose.run(cli).await,
            Users::Recover(recover) => recover.run(cli).await,
            Users::History(history) => history.run(cli).await,
            Users::Create(create) => create.run(cli).await,
            Users::Invite(invite) => invite.run(cli).await,
            Users::Update(update) => update.run(cli).await,
            Users::Delete(delete) => delete.run(cli).await,
            Users::Lock(lock) => lock.run(cli).await,
            Users::Contain(contain) => contain.run(cli).await,
            Users::Unlock(unlock) => unlock.run(cli).await,
            Users::Reset(reset) => reset.run(cli).await,
            Users::RequireChange(require) => require.run(cli).await,
            Users::WaiveChange(waive) => waive.run(cli).await,
        }
    }
}

/// Lists the users whom the policy asks for a second factor, and who have none.
pub(super) async fn list_without_required_factor(cli: &Cli, paging: Paging) -> Result<(), Error> {
    list::List::without_required_factor(paging).run(cli).await
}

impl Cli {
    /// Reads one account.
    pub(in crate::cli::commands) async fn user(&self, user: UserRef) -> Result<User, Error> {
        let answer = self.client.call(GetUserRequest { user: Some(user) }).await?;
        answer.user.ok_or_else(|| Error::unexpected("the server sent no user"))
    }

    /// `2 sessions`: the number of a user's sessions. `None` if there are none; "all sessions" if the number is unknown.
    pub(in crate::cli::commands) async fn sessions_of(&self, user: &User) -> Option<String> {
        let request = ListUserSessionsRequest {
            user: Some(user_ref::of_id(&user.id)),
            page_size: 500,
            ..ListUserSessionsRequest::default()
        };
        match self.client.call(request).await {
            Ok(answer) if answer.sessions.is_empty() => None,
            Ok(answer) if answer.next_page_token.is_empty() => Some(count(answer.sessions.len(), "session")),
            Ok(answer) => Some(format!("more than {}", count(answer.sessions.len(), "session"))),
            Err(_) => Some("all sessions".to_owned()),
        }
    }

    /// `2 API tokens`: the number of a user's live API tokens. `None` if there are none; "all API tokens" if the number is
    /// unknown.
    pub(in crate::cli::commands) async fn api_tokens_of(&self, user: &User) -> Option<String> {
        let request = ListApiTokensRequest {
            user: Some(user_ref::of_id(&user.id)),
            page_size: 500,
            ..ListApiTokensRequest::default()
        };
        let answer = self.client.call(request).await.ok().filter(|answer| answer.next_page_token.is_empty());
        let Some(answer) = answer else { return Some("all API tokens".to_owned()) };
        let expires =
            |at: Option<&prost_types::Timestamp>| instant(at).is_some_and(|at| self.screen.clock().is_past(at));
        let live = answer
            .api_tokens
            .iter()
            .filter(|token| token.revoke_time.is_none() && !expires(token.expire_time.as_ref()))
            .count();
        (live > 0).then(|| count(live, "API token"))
    }
}
