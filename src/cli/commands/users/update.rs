//! `latchkey users update`.

use clap::Args;

use crate::cli::args::{self, Confirmation};
use crate::cli::error::Error;
use crate::cli::output::time::instant;
use crate::cli::output::words::{count, person, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{UpdateUserRequest, UserRef};

const HELP: &str = "\
What is not named stays as it is; an empty value clears.

Examples:
  latchkey users update ada --email ada@example.org
  latchkey users update ada --add-role operator --remove-role helpdesk
  latchkey users update ada --label team=engine --label desk=";

/// Change fields of an account.
#[derive(Debug, Default, Args)]
#[command(after_help = HELP)]
pub(crate) struct Update {
    /// The user.
    #[arg(hide = true, value_parser = user_ref::parse)]
    user: UserRef,
    /// Whether it is a step of `users recover`, which proposes the next one.
    #[arg(skip)]
    is_step: bool,
    /// A new sign-in name.
    #[arg(long)]
    username: Option<String>,
    /// For people to read.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// A new address.
    #[arg(long)]
    email: Option<String>,
    /// The language to greet the user in, as a BCP 47 tag.
    #[arg(long, value_name = "TAG")]
    locale: Option<String>,
    /// The id that another system gave the user.
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// A label to add or replace; an empty value removes it.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = args::label)]
    labels: Vec<(String, String)>,
    /// A role to give; more than once for more.
    #[arg(long = "add-role", value_name = "ROLE", value_delimiter = ',')]
    add_roles: Vec<String>,
    /// A role to take away, which ends the user's sessions.
    #[arg(long = "remove-role", value_name = "ROLE", value_delimiter = ',')]
    remove_roles: Vec<String>,
    /// Use a name or address that is reserved for another account.
    #[arg(long)]
    take_reserved: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Update {
    /// A change of the address as a step of `users recover`.
    pub(super) fn address_step(user: UserRef, email: String, note: String) -> Update {
        Update { user, is_step: true, email: Some(email), note, ..Update::default() }
    }

    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        if !self.changes_anything() {
            return Err(Error::usage("say what to change").hint("`latchkey users update --help` lists the fields"));
        }
        let wanted = self.username.clone();
        let request = UpdateUserRequest {
            user: Some(self.user.clone()),
            username: self.username,
            email: self.email,
            display_name: self.name,
            locale: self.locale,
            external_id: self.external_id,
            labels: self.labels.into_iter().collect(),
            add_roles: self.add_roles,
            remove_roles: self.remove_roles,
            note: self.note,
            etag: self.etag,
            validate_only: false,
            take_reserved: self.take_reserved,
        };
        let given_up = match (&request.username, &request.email) {
            (Some(_), Some(_)) => "the earlier name and address, if they differ",
            (Some(_), None) => "the earlier name",
            _ => "the earlier address",
        };
        // Only the loss of a role ends something.
        if !request.remove_roles.is_empty() && cli.asks(self.confirmation.yes)? {
            cli.rehearse(&request).await?;
            let user = cli.user(self.user).await?;
            let roles = count(request.remove_roles.len(), "role");
            let ends = cli.sessions_of(&user).await.map(|sessions| format!("{sessions}, now"));
            let question = Question::new(format!("Take {roles} from {}", person(&user)));
            let question = question.row("roles", request.remove_roles.join(", ")).row("ends", ends.unwrap_or_default());
            cli.confirm(question).await?;
        }
        cli.answer(request, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            screen.done(format!("{} is changed", person(&user)))?;
            let mut effects = answer.effects.unwrap_or_default();
            // Without an end of sessions, only a change of the username concerns access tokens.
            if effects.sessions_revoked == 0
                && let Some(end) = instant(effects.access_expire_time.take().as_ref())
            {
                let end = format!("access tokens with the old name, until {}", screen.clock().moment(end));
                screen.fields([("stays", end.into())])?;
            }
            Cli::effects_with(screen, Some(&effects), None, given_up)?;
            if self.is_step {
                return Ok(());
            }
            screen.next(&format!("latchkey users show {}", shell_word(&user.username)))
        })
        .await
        .map_err(|error| match wanted {
            // The hint is about the user who has the name, not the user who should get it.
            Some(name) if error.reason() == "USERNAME_TAKEN" => {
                error.hint(format!("see who has it with `latchkey users show {}`", shell_word(&name)))
            }
            _ => error,
        })
    }

    fn changes_anything(&self) -> bool {
        let texts = [&self.username, &self.name, &self.email, &self.locale, &self.external_id];
        let lists = [&self.add_roles, &self.remove_roles];
        texts.iter().any(|text| text.is_some()) || lists.iter().any(|list| !list.is_empty()) || !self.labels.is_empty()
    }
}
