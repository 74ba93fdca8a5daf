//! `latchkey users create`.

use std::time::Duration;

use clap::{ArgGroup, Args};
use secrecy::ExposeSecret;

use super::reset::{show_secret, shown_once};
use crate::cli::args::{self, Confirmation, enum_parser};
use crate::cli::commands::mail::{BeforeUse, MailRoute, Sent, Waiting, mail_limit, show_advice, show_sent};
use crate::cli::commands::{Loss, idempotency_key, may};
use crate::cli::error::Error;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::words::{person, reset_command, reset_scope, shell_word};
use crate::cli::setting::Cli;
use crate::proto::v1::create_user_request::Credential;
use crate::proto::v1::create_user_response::Secret;
use crate::proto::v1::{CreateUserRequest, CreateUserResponse, SendLink, TemporaryPassword, UserState};

const HELP: &str = "\
Without a password the account waits for `latchkey users invite`.

Examples:
  latchkey users create grace --email grace@example.com --invite --wait
  latchkey users create alan --name \"Alan Turing\" --temporary-password
  latchkey users create ada --role helpdesk,auditor --set-password --lasting
  pass show latchkey/bob | latchkey users create bob --password-stdin --lasting";

/// Create an account.
#[derive(Debug, Args)]
#[command(after_help = HELP, group = ArgGroup::new("chosen").args(["set_password", "password_stdin"]).multiple(true), group = ArgGroup::new("sent").args(["invite", "temporary_password"]))]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Create {
    /// The sign-in name.
    #[arg(hide = true)]
    username: String,
    /// For people to read.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    name: String,
    /// The address.
    #[arg(long, default_value = "", hide_default_value = true)]
    email: String,
    /// A role; `latchkey roles` lists them.
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<String>,
    /// A person, or a service, which acts with API tokens.
    #[arg(long, default_value = "person", hide_possible_values = true, hide_default_value = true, value_parser = enum_parser("latchkey.v1.UserKind", "USER_KIND_"))]
    kind: i32,
    /// A note that other systems read. Not for secrets.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = args::label)]
    labels: Vec<(String, String)>,
    /// The language to greet the user in, as a BCP 47 tag.
    #[arg(long, value_name = "TAG", default_value = "", hide_default_value = true)]
    locale: String,
    /// The id that another system gave the user.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    external_id: String,
    /// Send a link to choose a password.
    #[arg(long, requires = "email", conflicts_with_all = ["temporary_password", "chosen"])]
    invite: bool,
    /// Generate a password, and show it once.
    #[arg(long, conflicts_with = "chosen")]
    temporary_password: bool,
    /// How long the link or the temporary password works; 72h at most.
    #[arg(long, value_name = "TIME", requires = "sent", conflicts_with_all = ["password_stdin", "set_password"], value_parser = args::duration)]
    ttl: Option<Duration>,
    /// Use a password of your choice; it is asked for.
    #[arg(long)]
    set_password: bool,
    /// Read that password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Let that password last after the first sign-in.
    #[arg(long, requires = "chosen", conflicts_with = "temporary_password")]
    lasting: bool,
    /// Use a name or address that is reserved for another account.
    #[arg(long)]
    take_reserved: bool,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Create {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let (generated, waiting) = (self.temporary_password, self.waiting);
        if waiting.wait.is_some() && !self.invite {
            return Err(
                Error::usage("--wait follows a mail, and none is sent").hint("leave out --wait, or add --invite")
            );
        }
        let invites = self.invite;
        let ttl = self.ttl.map(args::wire_duration);
        let credential = if self.invite {
            Some(Credential::Invite(SendLink { ttl }))
        } else if self.temporary_password {
            Some(Credential::TemporaryPassword(TemporaryPassword { ttl, ..TemporaryPassword::default() }))
        } else if self.password_stdin {
            let password = cli.read_required_secret("the password")?;
            Some(Credential::Password(password.expose_secret().to_owned()))
        } else if self.set_password {
            let names = [&self.username, &self.email, &self.name].map(Clone::clone);
            let password = cli.ask_new_password(&names).await?;
            Some(Credential::Password(password.expose_secret().to_owned()))
        } else {
            None
        };
        let request = CreateUserRequest {
            username: self.username,
            kind: self.kind,
            email: self.email,
            display_name: self.name,
            locale: self.locale,
            external_id: self.external_id,
            labels: self.labels.into_iter().collect(),
            roles: self.roles,
            credential,
            password_change_required: self.lasting.then_some(false),
            note: self.note,
            idempotency_key: idempotency_key()?,
            validate_only: false,
            take_reserved: self.take_reserved,
        };
        let name = shell_word(&request.username);
        let mut sent = None;
        let loss = |answer: &CreateUserResponse| {
            sent.clone_from(&answer.delivery);
            answer.secret.is_some().then(|| Loss {
                done: format!("{name} is created"),
                secret: "temporary password",
                remedy: format!("give it another one with `latchkey users reset {name} --temporary-password`"),
            })
        };
        let is_for_people = !cli.client.is_showing() && !cli.screen.is_json();
        let scopes = if is_for_people { cli.scopes().await } else { Vec::new() };
        let route = if invites { cli.mail_route(&scopes).await } else { MailRoute::Open };
        cli.answer_once(request, loss, |screen, answer| {
            let user = answer.user.unwrap_or_default();
            let created = Text::toned(Tone::Good, "✔ ").and(Tone::Plain, format!("{} is created", person(&user)));
            let secret = answer.secret.map(|secret| match secret {
                Secret::TemporaryPassword(secret) | Secret::InviteLink(secret) => secret,
            });
            if let Some(secret) = secret {
                // If this line cannot be written, the next one cannot either.
                screen.secret(created)?;
                let shown = shown_once(screen, &secret, answer.expire_time.as_ref());
                screen.secret(Text::from("  ").join(shown))?;
            } else {
                screen.line(created)?;
                if answer.delivery.is_none() {
                    show_secret(screen, None, answer.expire_time.as_ref(), answer.replayed && generated)?;
                }
            }
            if let Some(delivery) = &answer.delivery {
                show_sent(screen, delivery, answer.expire_time.as_ref(), BeforeUse::Nothing)?;
                return show_advice(screen, delivery, &route, waiting.wait.is_some());
            }
            let name = shell_word(&user.username);
            match user.state() {
                UserState::Pending if may(&scopes, reset_scope(&user)) => screen.next(&reset_command(&user)),
                _ if user.kind() == crate::proto::v1::UserKind::Service && may(&scopes, "tokens.write") => {
                    screen.next(&format!("latchkey tokens create {name} --name TEXT --scope SCOPE"))
                }
                _ => screen.next(&format!("latchkey users show {name}")),
            }
        })
        .await
        .map_err(mail_limit)?;
        cli.follow_sent(Sent { done: "the invitation is made", user: &name, tells: true }, sent, waiting).await
    }
}
