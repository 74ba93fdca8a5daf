//! `latchkey email`: proves that an address is the user's.

use clap::{Args, Subcommand};

use super::idempotency_key;
use super::mail::{BeforeUse, MailRoute, Sent, Waiting, mail_limit, show_advice, show_sent};
use super::password::dead_link;
use crate::cli::args::Confirmation;
use crate::cli::client::Client;
use crate::cli::error::Error;
use crate::cli::output::words::shell_word;
use crate::cli::setting::{Cli, Setting};
use crate::cli::user_ref;
use crate::proto::v1::{SendEmailVerificationRequest, UserRef, VerifyEmailRequest};

const GROUP_HELP: &str = "\
Examples:
  latchkey email verify ada --wait
  latchkey email confirm";

/// Prove that an address is the user's.
#[derive(Debug, Subcommand)]
#[command(after_help = GROUP_HELP)]
pub(crate) enum Email {
    Verify(Verify),
    Confirm(Confirm),
}

impl Email {
    /// An operator is known to the server; the owner of an address need not be.
    pub(crate) async fn run(self, setting: &Setting) -> Result<(), Error> {
        match self {
            Email::Verify(verify) => verify.run(&setting.caller()?).await,
            Email::Confirm(confirm) => confirm.run(&setting.stranger()?).await,
        }
    }
}

const VERIFY_HELP: &str = "\
Examples:
  latchkey email verify ada --wait";

/// Send a user a link that proves the address.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_HELP)]
pub(crate) struct Verify {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    #[command(flatten)]
    waiting: Waiting,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Verify {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let name = shell_word(&user_ref::text(&self.user).unwrap_or_default());
        let request = SendEmailVerificationRequest {
            user: Some(self.user),
            note: self.note,
            idempotency_key: idempotency_key()?,
        };
        let is_for_people = !cli.client.is_showing() && !cli.screen.is_json();
        let route = if is_for_people { cli.mail_route(&cli.scopes().await).await } else { MailRoute::Open };
        let answer = cli.call(request).await.map_err(mail_limit)?;
        if cli.screen.is_json() {
            cli.screen.json(&Client::reflected::<SendEmailVerificationRequest>(&answer)?)?;
        } else if let Some(delivery) = &answer.delivery {
            show_sent(&cli.screen, delivery, None, BeforeUse::Nothing)?;
            show_advice(&cli.screen, delivery, &route, self.waiting.wait.is_some())?;
        }
        cli.follow_sent(Sent { done: "the link is made", user: &name, tells: true }, answer.delivery, self.waiting)
            .await
    }
}

const CONFIRM_HELP: &str = "\
Asks for the link, without showing it. The whole link will do, or what stands behind `token=` in it.

Examples:
  latchkey email confirm
  latchkey email confirm --token-stdin < link.txt";

/// How a user gets another link for an address.
const ANOTHER: &str = "an operator sends another one with `latchkey email verify USER`";

/// Confirm your address with a link from a mail.
#[derive(Debug, Args)]
#[command(after_help = CONFIRM_HELP)]
pub(crate) struct Confirm {
    /// Read the link or its token from standard input.
    #[arg(long)]
    token_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Confirm {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = VerifyEmailRequest { link_token: cli.link_token(self.token_stdin)? };
        let done = cli.answer(request, |screen, _| screen.done("your address is confirmed"));
        done.await.map_err(|error| dead_link(error, ANOTHER))
    }
}
