//! `latchkey mfa reset`: removes the second factor of a user who has lost it.

use clap::Args;

use crate::cli::args::Confirmation;
use crate::cli::error::Error;
use crate::cli::output::Screen;
use crate::cli::output::text::Text;
use crate::cli::output::words::{person, second_factor, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::{ResetSecondFactorRequest, User, UserRef};

const HELP: &str = "\
For a user who has lost the authenticator and the recovery codes. Make sure
that it is the user: call back on a number that you know. Sessions, unfinished
sign-ins and unused links end. At the next sign-in the password is enough, and
has to be changed.

Examples:
  latchkey mfa reset ada --note \"ticket 4711, called back\"";

/// Remove the second factor of a user who has lost it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Reset {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// Whether it is a step of `users recover`, which proposes the next one.
    #[arg(skip)]
    is_step: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

impl Reset {
    /// The reset as a step of `users recover`.
    pub(super) fn step(user: UserRef, note: String) -> Reset {
        Reset { user, is_step: true, note, confirmation: Confirmation { yes: false }, etag: String::new() }
    }

    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = ResetSecondFactorRequest { user: Some(self.user.clone()), note: self.note, etag: self.etag };
        if cli.asks(self.confirmation.yes)? {
            cli.rehearse(&request).await?;
            let user = cli.user(self.user).await?;
            cli.confirm(question(cli, &user).await).await?;
        }
        cli.answer(request, |screen, answer| {
            let (user, effects) = (answer.user.unwrap_or_default(), answer.effects.unwrap_or_default());
            if !effects.second_factors_removed {
                return screen.done(format!("{} had no second factor; nothing was changed", person(&user)));
            }
            screen.done(format!("the second factor of {} is removed", person(&user)))?;
            Cli::effects(screen, Some(&effects), None)?;
            if self.is_step { Ok(()) } else { advise(screen, &user) }
        })
        .await
    }
}

async fn question(cli: &Cli, user: &User) -> Question {
    let clock = cli.screen.clock();
    let has_factor = user.second_factor_status.is_some_and(|status| status.totp_enrolled);
    let has_link = user.pending_link.is_some();
    let ends = [
        has_factor.then(|| "the second factor and its recovery codes".to_owned()),
        cli.sessions_of(user).await,
        has_link.then(|| "the unused link".to_owned()),
    ];
    let ends: Vec<String> = ends.into_iter().flatten().collect();
    let ends = if ends.is_empty() { String::new() } else { format!("{}, now", ends.join(", ")) };
    let tokens = cli.api_tokens_of(user).await.map(|tokens| format!(", and {tokens}")).unwrap_or_default();
    Question::new(format!("Remove the second factor of {}", person(user)))
        .row("set up", second_factor(user, clock))
        .row("ends", ends)
        .row("stays", format!("the password, for one sign-in{tokens}"))
        .row("roles", user.roles.join(", "))
}

/// Prints what to tell the user, and what helps one who does not know the password either.
fn advise(screen: &Screen, user: &User) -> Result<(), Error> {
    let has_password = user.password_status.as_ref().is_some_and(|status| status.password_set);
    let name = &user.username;
    if has_password {
        let tell = format!(
            "sign in as {name} with the password, choose another one then, and set up an authenticator again: \
             `latchkey mfa enroll`"
        );
        screen.fields([("tell the user", Text::from(tell))])?;
    }
    screen.next(&format!("latchkey users show {}", shell_word(name)))
}
