//! `latchkey password`: chooses a new password with a link from a mail. What judges one is in `password_check.rs`.

use std::time::Duration;

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};

use super::passwd::ATTEMPTS;
use super::password_check::Check;
use crate::cli::args::Confirmation;
use crate::cli::error::Error;
use crate::cli::factor::Codes;
use crate::cli::output::text::Text;
use crate::cli::output::time::{instant, length};
use crate::cli::output::words::{count, shell_word};
use crate::cli::setting::Cli;
use crate::proto::v1::{
    CancelLinkRequest, CompletePasswordResetRequest, CompletePasswordResetResponse, InspectLinkRequest,
    RequestPasswordResetRequest,
};

const GROUP_HELP: &str = "\
Examples:
  latchkey password forgot ada
  latchkey password reset
  latchkey password check";

/// Choose a password with a link from a mail; check one.
#[derive(Debug, Subcommand)]
#[command(after_help = GROUP_HELP)]
pub(crate) enum Password {
    Forgot(Forgot),
    Reset(Reset),
    Cancel(Cancel),
    Check(Check),
}

impl Password {
    pub(crate) async fn run(self, cli: &Cli) -> Result<(), Error> {
        match self {
            Password::Forgot(forgot) => forgot.run(cli).await,
            Password::Reset(reset) => reset.run(cli).await,
            Password::Cancel(cancel) => cancel.run(cli).await,
            Password::Check(check) => check.run(cli).await,
        }
    }
}

const FORGOT_HELP: &str = "\
The answer is the same whether there is such an account or not.

Examples:
  latchkey password forgot ada@example.com --server https://id.example.org:50051";

/// Have a link to choose a password sent to you.
#[derive(Debug, Args)]
#[command(after_help = FORGOT_HELP)]
pub(crate) struct Forgot {
    /// Your sign-in name or address.
    login: String,
    /// The language of the mail, as a BCP 47 tag.
    #[arg(long, value_name = "TAG", default_value = "", hide_default_value = true)]
    locale: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Forgot {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let request = RequestPasswordResetRequest { login: self.login.clone(), locale: self.locale };
        cli.answer(request, |screen, answer| {
            let whole = |duration: Option<prost_types::Duration>| {
                length(Duration::from_secs(u64::try_from(duration.unwrap_or_default().seconds).unwrap_or_default()))
            };
            let works = whole(answer.link_ttl);
            screen.done(format!(
                "if {} has an account with an address, a link goes there; it works for {works}",
                self.login
            ))?;
            let pause = whole(answer.resend_after);
            screen.fields([(
                "nothing came",
                Text::from(format!("look into the spam folder; ask again after {pause}")),
            )])?;
            screen.next("latchkey password reset")
        })
        .await
        .map_err(named_as_here)
    }
}

/// Names the argument of this command: a login is USER in `latchkey login`.
fn named_as_here(error: Error) -> Error {
    let Error::Refused(mut refusal) = error else { return error };
    let logins = refusal.violations.iter_mut().filter(|violation| violation.field == "login");
    logins.for_each(|violation| "LOGIN".clone_into(&mut violation.field));
    Error::Refused(refusal)
}

const RESET_HELP: &str = "\
Asks for the link and for the new password, without showing them, and for a code if you have a
second factor. The whole link will do, or what stands behind `token=` in it.

Examples:
  latchkey password reset --server https://id.example.org:50051
  printf '%s\\n%s\\n' \"$LINK\" \"$NEW\" | latchkey password reset --token-stdin";

/// Choose a password with a link from a mail.
#[derive(Debug, Args)]
#[command(after_help = RESET_HELP)]
pub(crate) struct Reset {
    /// Read lines from standard input: the link or its token, the new password, and a code if you have a second factor.
    #[arg(long)]
    token_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Reset {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        cli.client.warn_if_overheard(&cli.screen);
        if self.token_stdin {
            let token = token(&cli.read_required_secret("the link")?);
            let new = cli.read_required_secret("the new password, its second line")?;
            return complete(cli, &token, &new, Codes::Stdin).await;
        }
        let token = token(&cli.ask_secret("Link, or its token")?);
        let mut names = Vec::new();
        // A dead link is told before a password is thought up.
        if !cli.client.is_showing() {
            let request = InspectLinkRequest { link_token: token.expose_secret().to_owned() };
            let link = cli.client.call(request).await.map_err(dead)?;
            let end = instant(link.expire_time.as_ref()).map(|end| cli.screen.clock().moment(end));
            let end = end.map(|end| format!(", which works until {end}")).unwrap_or_default();
            cli.screen.note(format!("This is a link for {}{end}.", link.username));
            if !link.second_factor_methods.is_empty() {
                cli.screen.note("It needs a code of your authenticator, or a recovery code, after the new password.");
            }
            names.push(link.username);
        }
        for _ in 1..ATTEMPTS {
            match complete(cli, &token, &cli.ask_new_password(&names).await?, Codes::Asked).await {
                Err(error) if error.reason() == "PASSWORD_REJECTED" => cli.screen.error(&error),
                outcome => return outcome,
            }
        }
        complete(cli, &token, &cli.ask_new_password(&names).await?, Codes::Asked).await
    }
}

async fn complete(cli: &Cli, token: &SecretString, new: &SecretString, codes: Codes) -> Result<(), Error> {
    let request = CompletePasswordResetRequest {
        link_token: token.expose_secret().to_owned(),
        new_password: new.expose_secret().to_owned(),
        second_factor: None,
        validate_only: false,
    };
    let answer = cli.call_with_code(request, codes).await.map_err(dead)?;
    cli.print::<CompletePasswordResetRequest>(answer, |screen, CompletePasswordResetResponse { sessions_revoked }| {
        let ended = match sessions_revoked {
            0 => String::new(),
            number => format!("; {} ended", count(number, "session")),
        };
        screen.done(format!("your password is set{ended}"))?;
        screen.next(&format!("latchkey login {}", shell_word("USER")))
    })
}

const CANCEL_HELP: &str = "\
Asks for the second link of the mail, which is there for this. The password stays as it is.

Examples:
  latchkey password cancel
  latchkey password cancel --token-stdin < link.txt";

/// End the links of a mail that you did not ask for.
#[derive(Debug, Args)]
#[command(after_help = CANCEL_HELP)]
pub(crate) struct Cancel {
    /// Read the link or its token from standard input.
    #[arg(long)]
    token_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Cancel {
    async fn run(self, cli: &Cli) -> Result<(), Error> {
        let cancel_token = cli.link_token(self.token_stdin)?;
        let request = CancelLinkRequest { cancel_token };
        let done = cli.answer(request, |screen, answer| {
            let Some(used_at) = instant(answer.used_time.as_ref()) else {
                return screen.done("the links do not work any more; nothing else was changed");
            };
            screen.done("links that were not used do not work any more")?;
            let used_at = screen.clock().moment(used_at);
            screen.caution(format!("a link of the mail was used {used_at}"))?;
            screen.fields([("not you?", "somebody else reads your mail: tell an operator at once".into())])
        });
        done.await.map_err(dead)
    }
}

impl Cli {
    /// Asks for a link, or reads it from standard input. Returns its token.
    pub(super) fn link_token(&self, from_stdin: bool) -> Result<String, Error> {
        self.client.warn_if_overheard(&self.screen);
        let link =
            if from_stdin { self.read_required_secret("the link")? } else { self.ask_secret("Link, or its token")? };
        Ok(token(&link).expose_secret().to_owned())
    }
}

/// The token in a link, or the text itself.
fn token(link: &SecretString) -> SecretString {
    let text = link.expose_secret().trim();
    let token = text.split_once("token=").map_or(text, |(_, token)| token);
    SecretString::from(token.split(['&', '#']).next().unwrap_or_default())
}

fn dead(error: Error) -> Error {
    dead_link(error, "get another one with `latchkey password forgot LOGIN`")
}

/// Adds the hint for a link that does not work: how to get `another`. The reason is also that of tickets, which another hint
/// is for.
pub(super) fn dead_link(error: Error, another: &str) -> Error {
    match error.reason() {
        "TICKET_INVALID" => {
            error.hint(format!("links work once, for a limited time, and the newest mail is the one to use; {another}"))
        }
        "RATE_LIMITED" => error.hint("wait, and check that the link is copied whole"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_a_link() {
        for link in [
            "lkl_abc",
            " lkl_abc\n",
            "https://id.example.org/reset?token=lkl_abc",
            "https://x/?token=lkl_abc&lang=de#a",
        ] {
            assert_eq!(token(&SecretString::from(link)).expose_secret(), "lkl_abc", "{link}");
        }
    }
}
