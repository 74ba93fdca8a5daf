//! `latchkey users delete`.

use clap::Args;

use crate::cli::args::Confirmation;
use crate::cli::error::Error;
use crate::cli::output::words::{person, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{DeleteUserRequest, User, UserRef};

const HELP: &str = "\
To take an account out of use and keep it, lock it: `latchkey users lock`.

Examples:
  latchkey users delete bob --note \"left the company\"
  latchkey users delete id:01jq3m8d7hw4zk9x6c2v5b1n0t --yes";

/// Remove an account for good.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Delete {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    /// Only if the account is still as it was with this etag. Read first if absent.
    #[arg(long)]
    etag: Option<String>,
}

impl Delete {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let named = user_ref::text(&self.user).unwrap_or_default();
        let asks = cli.asks(self.confirmation.yes)?;
        let mut request =
            DeleteUserRequest { user: Some(self.user.clone()), note: self.note, ..DeleteUserRequest::default() };
        request.etag = match self.etag {
            Some(etag) => {
                if asks {
                    cli.rehearse(&DeleteUserRequest { etag: etag.clone(), ..request.clone() }).await?;
                    cli.confirm(Question::new(format!("Delete {named}")).row("ends", ENDS).row("stays", STAYS)).await?;
                }
                etag
            }
            None if cli.client.is_showing() => format!("<etag of: latchkey users show {}>", shell_word(&named)),
            None => {
                let user = cli.user(self.user).await?;
                if asks {
                    cli.rehearse(&DeleteUserRequest { etag: user.etag.clone(), ..request.clone() }).await?;
                    cli.confirm(question(cli, &user).await).await?;
                }
                user.etag
            }
        };
        cli.answer(request, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            let name = if user.username.is_empty() { named } else { person(&user) };
            screen.done(format!("{name} is deleted"))?;
            let given_up = [user.username, user.email].into_iter().filter(|given_up| !given_up.is_empty());
            let given_up = given_up.collect::<Vec<_>>().join(" and ");
            Cli::effects_with(screen, answer.effects.as_ref(), None, &given_up)
        })
        .await
    }
}

const ENDS: &str = "the account, its password, sessions and API tokens, for good";
const STAYS: &str = "what the audit log says of it; its username and address stay reserved for 30 days";

async fn question(cli: &Cli, user: &User) -> Question {
    let sessions = cli.sessions_of(user).await.map(|sessions| format!(" {sessions}")).unwrap_or_default();
    Question::new(format!("Delete {}", person(user)))
        .row("ends", format!("the account, its password,{sessions} and its API tokens, for good"))
        .row("stays", STAYS)
        .row("roles", user.roles.join(", "))
}
