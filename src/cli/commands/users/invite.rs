//! `latchkey users invite`.

use std::time::Duration;

use clap::Args;

use super::reset::show_link;
use crate::cli::args::{self, Confirmation};
use crate::cli::client::Client;
use crate::cli::commands::mail::{BeforeUse, MailRoute, Sent, Waiting, mail_limit, show_advice, show_sent};
use crate::cli::commands::{Loss, idempotency_key};
use crate::cli::error::{Error, Exit};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::words::{person, shell_word};
use crate::cli::setting::Cli;
use crate::proto::v1::create_user_request::Credential;
use crate::proto::v1::create_user_response::Secret as Created;
use crate::proto::v1::reset_password_request::Method;
use crate::proto::v1::reset_password_response::Secret;
use crate::proto::v1::user_ref::Ref;
use crate::proto::v1::{
    CreateUserRequest, CreateUserResponse, Delivery, ResetPasswordRequest, ReturnLink, SendLink, User, UserRef,
    UserState,
};

const HELP: &str = "\
A user who exists and has no password yet is invited again.

Examples:
  latchkey users invite grace --email grace@example.com --name \"Grace Hopper\" --wait
  latchkey users invite grace";

/// Create an account, and send a link to choose a password.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Invite {
    /// The sign-in name.
    #[arg(hide = true)]
    username: String,
    /// The address, of a new user.
    #[arg(long, default_value = "", hide_default_value = true)]
    email: String,
    /// For people to read.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    name: String,
    /// The language to greet the user in, as a BCP 47 tag.
    #[arg(long, value_name = "TAG", default_value = "", hide_default_value = true)]
    locale: String,
    /// A role; `latchkey roles` lists them.
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<String>,
    /// How long the link works; 72h at most.
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    ttl: Option<Duration>,
    /// Show the link once, to hand over by other means than mail.
    #[arg(long, conflicts_with = "wait")]
    return_link: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// What either call did.
struct Invited {
    done: Text,
    link: Option<String>,
    delivery: Option<Delivery>,
    expire_time: Option<prost_types::Timestamp>,
}

impl Invite {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let known = self.known(cli).await?;
        let is_for_people = !cli.client.is_showing() && !cli.screen.is_json();
        let asks = is_for_people && !self.return_link;
        let route = if asks { cli.mail_route(&cli.scopes().await).await } else { MailRoute::Open };
        let delivery = match known {
            Some(user) => self.again(cli, &user, &route).await,
            None => self.first(cli, &route).await,
        };
        let delivery = delivery.map_err(mail_limit)?;
        let name = shell_word(&self.username);
        cli.follow_sent(Sent { done: "the invitation is made", user: &name, tells: true }, delivery, self.waiting).await
    }

    /// The account, if there is one that can be invited again. With `--show-grpcurl` only the arguments are known.
    async fn known(&self, cli: &Cli) -> Result<Option<User>, Error> {
        let by_name = UserRef { r#ref: Some(Ref::Username(self.username.clone())) };
        if cli.client.is_showing() {
            return Ok(self.email.is_empty().then(User::default));
        }
        let user = match cli.user(by_name).await {
            Err(error) if error.reason() == "USER_NOT_FOUND" && !self.email.is_empty() => return Ok(None),
            Err(error) if error.reason() == "USER_NOT_FOUND" => {
                return Err(error.hint("to create and invite a new user, give --email ADDRESS"));
            }
            user => user?,
        };
        let name = shell_word(&self.username);
        let stopped = |message: String, hint: String| Err(Error::stopped(Exit::Stopped, message).hint(hint));
        if user.state() != UserState::Pending {
            let message = format!("{} exists and is not waiting for an invitation", person(&user));
            return stopped(message, format!("for a new password use `latchkey users reset {name}`"));
        }
        if !self.email.is_empty() && !self.email.eq_ignore_ascii_case(&user.email) {
            let message = format!("{} exists, with another address: {}", person(&user), user.email);
            let email = shell_word(&self.email);
            return stopped(message, format!("change it with `latchkey users update {name} --email {email}`"));
        }
        Ok(Some(user))
    }

    /// Creates the account with an invitation.
    async fn first(&self, cli: &Cli, route: &MailRoute) -> Result<Option<Delivery>, Error> {
        let ttl = self.ttl.map(args::wire_duration);
        let credential = if self.return_link {
            Credential::ReturnInvite(ReturnLink { ttl })
        } else {
            Credential::Invite(SendLink { ttl })
        };
        let request = CreateUserRequest {
            username: self.username.clone(),
            email: self.email.clone(),
            display_name: self.name.clone(),
            locale: self.locale.clone(),
            roles: self.roles.clone(),
            credential: Some(credential),
            note: self.note.clone(),
            idempotency_key: idempotency_key()?,
            ..CreateUserRequest::default()
        };
        let mut sent = None;
        let loss = |answer: &CreateUserResponse| {
            sent.clone_from(&answer.delivery);
            answer.secret.is_some().then(|| self.loss())
        };
        cli.answer_once(request, loss, |screen, answer| {
            let done = format!("{} is created", person(&answer.user.unwrap_or_default()));
            let link = answer.secret.map(|(Created::InviteLink(secret) | Created::TemporaryPassword(secret))| secret);
            let done = Text::from(done);
            let invited = Invited { done, link, delivery: answer.delivery, expire_time: answer.expire_time };
            self.show(screen, &invited, route)
        })
        .await?;
        Ok(sent)
    }

    /// Invites a user who has no password yet.
    async fn again(&self, cli: &Cli, user: &User, route: &MailRoute) -> Result<Option<Delivery>, Error> {
        let ttl = self.ttl.map(args::wire_duration);
        let method =
            if self.return_link { Method::ReturnLink(ReturnLink { ttl }) } else { Method::SendLink(SendLink { ttl }) };
        let by_name = UserRef { r#ref: Some(Ref::Username(self.username.clone())) };
        let request = ResetPasswordRequest {
            user: Some(by_name),
            method: Some(method),
            note: self.note.clone(),
            idempotency_key: idempotency_key()?,
            ..ResetPasswordRequest::default()
        };
        let answer = cli.call(request).await?;
        if cli.screen.is_json() {
            let json = Client::reflected::<ResetPasswordRequest>(&answer)?;
            let shown = if answer.secret.is_some() { cli.screen.secret_json(&json) } else { cli.screen.json(&json) };
            shown.map_err(|error| self.lost(error))?;
            return Ok(answer.delivery);
        }
        let link = answer.secret.map(|(Secret::ResetLink(secret) | Secret::TemporaryPassword(secret))| secret);
        let done = Text::from(format!("{} existed already", person(user)));
        let invited = Invited { done, link, delivery: answer.delivery, expire_time: answer.expire_time };
        self.show(&cli.screen, &invited, route).map_err(|error| self.lost(error))?;
        Ok(invited.delivery)
    }

    fn show(&self, screen: &crate::cli::output::Screen, invited: &Invited, route: &MailRoute) -> Result<(), Error> {
        let Invited { done, link, delivery, expire_time } = invited;
        let done = Text::toned(Tone::Good, "✔ ").join(done.clone());
        if let Some(link) = link {
            // If this line cannot be written, the next one cannot either.
            screen.secret(done)?;
            show_link(screen, link, expire_time.as_ref())?;
        } else {
            screen.line(done)?;
        }
        let Some(delivery) = delivery else { return Ok(()) };
        show_sent(screen, delivery, expire_time.as_ref(), BeforeUse::Nothing)?;
        show_advice(screen, delivery, route, self.waiting.wait.is_some())
    }

    fn lost(&self, error: Error) -> Error {
        match error {
            Error::Lost(fault) => self.loss().error(&fault),
            error => error,
        }
    }

    fn loss(&self) -> Loss {
        let name = shell_word(&self.username);
        let remedy = format!("get another one with `latchkey users invite {name} --return-link`");
        Loss { done: format!("{name} is invited"), secret: "link", remedy }
    }
}
