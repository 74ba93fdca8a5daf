//! `latchkey users reset`.

use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret;
use tonic::Code;

use super::diagnose::told;
use crate::cli::args::{self, Confirmation};
use crate::cli::commands::mail::{BeforeUse, MailRoute, Sent, Waiting, mail_limit, show_advice, show_sent};
use crate::cli::commands::{Loss, idempotency_key, may};
use crate::cli::error::{Error, Refusal};
use crate::cli::output::Screen;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::instant;
use crate::cli::output::words::{count, locked, person, shell_word};
use crate::cli::prompt::Question;
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::reset_password_request::Method;
use crate::proto::v1::reset_password_response::Secret;
use crate::proto::v1::temporary_password::Handover;
use crate::proto::v1::{
    LockCause, ResetPasswordRequest, ResetPasswordResponse, ReturnLink, SendLink, SetPassword, TemporaryPassword, User,
    UserLock, UserRef, UserState,
};

const HELP: &str = "\
Without more, the user gets a link by mail. Until it is used the old password works.
A temporary or a chosen password ends the old one and all sessions at once, and the next
sign-in must change it. A lock after wrong passwords is lifted, others stay.

Examples:
  latchkey users reset ada --note \"ticket 4711\" --wait
  latchkey users reset ada --temporary-password --ttl 4h --unlock
  latchkey users reset ada --temporary-password --mail --yes";

/// Let a user choose a new password, by a link; or give one.
#[derive(Debug, Default, Args)]
#[command(after_help = HELP)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Reset {
    /// The user.
    #[arg(hide = true, value_parser = user_ref::parse)]
    user: UserRef,
    #[command(flatten)]
    way: Way,
    /// Whether the temporary password is this program's proposal, because no mail can be sent.
    #[arg(skip)]
    is_offered: bool,
    /// Whether it is a step of `users recover`, which says what to tell the user.
    #[arg(skip)]
    is_step: bool,
    /// Send the temporary password by mail, unseen by you.
    #[arg(long, requires = "temporary_password")]
    mail: bool,
    /// Show it as well.
    #[arg(long, requires = "mail")]
    show: bool,
    /// With a link, end the password and all sessions now.
    #[arg(long, conflicts_with_all = ["temporary_password", "set_password"])]
    now: bool,
    /// How long it works: 24h at most, a password 72h.
    #[arg(long, value_name = "TIME", conflicts_with = "set_password", value_parser = args::duration)]
    ttl: Option<Duration>,
    /// Read the password from standard input.
    #[arg(long, conflicts_with_all = ["temporary_password", "return_link"], requires = "set_password")]
    password_stdin: bool,
    /// Lift a lock as well, whatever its cause.
    #[arg(long)]
    unlock: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only if the account is still as it was with this etag.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

/// The kind of the new password.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
struct Way {
    /// Generate a password and show it once.
    #[arg(long)]
    temporary_password: bool,
    /// Show a link once, to hand over yourself.
    #[arg(long)]
    return_link: bool,
    /// Use a password of your choice; it is asked for.
    #[arg(long)]
    set_password: bool,
}

impl Reset {
    /// A link by mail as a step of `users recover`, which follows the mail.
    pub(super) fn link_step(user: UserRef, unlock: bool, note: String, wait: Duration) -> Reset {
        let waiting = Waiting { wait: Some(wait) };
        Reset { user, is_step: true, unlock, waiting, note, ..Reset::default() }
    }

    /// A temporary password as a step of `users recover`. It is asked for.
    pub(super) fn password_step(user: UserRef, unlock: bool, note: String) -> Reset {
        let way = Way { temporary_password: true, ..Way::default() };
        Reset { user, way, is_offered: true, is_step: true, unlock, note, ..Reset::default() }
    }

    pub(super) async fn run(mut self, cli: &Cli) -> Result<(), Error> {
        self.check()?;
        if self.is_by_mail() || self.way.return_link {
            return match self.link(cli).await {
                Err(error) if !self.way.return_link && cannot_be_mailed(&error) => {
                    self.offer_a_password(cli, error).await?;
                    (self.way.temporary_password, self.is_offered) = (true, true);
                    self.password(cli).await
                }
                outcome => outcome,
            };
        }
        self.password(cli).await
    }

    /// Refuses options that contradict each other in a way that their declaration cannot tell.
    fn check(&self) -> Result<(), Error> {
        let mails = self.is_by_mail() || self.mail;
        if self.waiting.wait.is_some() && !mails {
            return Err(Error::usage("--wait follows a mail, and none is sent").hint("leave out --wait, or add --mail"));
        }
        Ok(())
    }

    /// Whether the user gets a link by mail.
    fn is_by_mail(&self) -> bool {
        !self.way.temporary_password && !self.way.set_password && !self.way.return_link
    }

    /// Sends a link, or shows one. It changes nothing at once, so there is no question, unless something ends now.
    async fn link(&self, cli: &Cli) -> Result<(), Error> {
        let request = self.request();
        if self.now && cli.asks(self.confirmation.yes)? {
            cli.rehearse(&request).await?;
            let user = cli.user(self.user.clone()).await?;
            self.stop_at_lock(&user)?;
            cli.confirm(self.question(cli, &user).await).await?;
        }
        self.reset(cli, request).await
    }

    /// Gives a password. The old one ends at once.
    async fn password(&self, cli: &Cli) -> Result<(), Error> {
        let mut request = self.request();
        let mut names = Vec::new();
        if cli.asks(self.confirmation.yes)? {
            // A dry run would need the password, which is asked for last.
            if self.way.set_password {
                cli.check_scopes(&request).await?;
            } else {
                cli.rehearse(&request).await?;
            }
            let user = cli.user(self.user.clone()).await?;
            self.stop_at_lock(&user)?;
            cli.confirm(self.question(cli, &user).await).await?;
            names.extend([user.username, user.email, user.display_name]);
        }
        if self.way.set_password {
            request.method = Some(self.chosen(cli, &names).await?);
        }
        self.reset(cli, request).await
    }

    /// After a mail that cannot be sent: at a terminal goes on to a temporary password, which is asked for; elsewhere returns
    /// the refusal with the ways that are left.
    async fn offer_a_password(&self, cli: &Cli, error: Error) -> Result<(), Error> {
        let name = self.name();
        let offers = !cli.screen.is_json()
            && !self.confirmation.yes
            && !self.now
            && self.waiting.wait.is_none()
            && cli.asks(false).is_ok()
            && may(&cli.scopes().await, "users.reset.temporary");
        if offers {
            cli.screen.note(Text::toned(Tone::Warn, "! ").and(Tone::Plain, error.message()));
            return Ok(());
        }
        let password = format!("`latchkey users reset {name} --temporary-password`");
        Err(if error.reason() == "NO_DELIVERY_ADDRESS" {
            error.hint(format!(
                "give a password with {password}, or set one with `latchkey users update {name} --email ADDRESS`"
            ))
        } else {
            error.hint(format!("give a password with {password}"))
        })
    }

    /// The call, and what it did.
    async fn reset(&self, cli: &Cli, mut request: ResetPasswordRequest) -> Result<(), Error> {
        request.idempotency_key = idempotency_key()?;
        let name = self.name();
        let is_for_people = !cli.client.is_showing() && !cli.screen.is_json();
        let mails = self.is_by_mail() || self.mail;
        let asks = is_for_people && mails;
        let route = if asks { cli.mail_route(&cli.scopes().await).await } else { MailRoute::Open };
        let mut sent = None;
        let loss = |answer: &ResetPasswordResponse| {
            sent.clone_from(&answer.delivery);
            let (secret, way) = match answer.secret {
                Some(Secret::ResetLink(_)) => ("link", "--return-link"),
                _ => ("temporary password", "--temporary-password"),
            };
            answer.secret.is_some().then(|| Loss {
                done: format!("the password of {name} is reset"),
                secret,
                remedy: format!("reset it once more with `latchkey users reset {name} {way}`"),
            })
        };
        cli.answer_once(request, loss, |screen, answer| {
            let expire_time = answer.expire_time.as_ref();
            match &answer.secret {
                Some(Secret::ResetLink(link)) => show_link(screen, link, expire_time)?,
                Some(Secret::TemporaryPassword(password)) => show_secret(screen, Some(password), expire_time, false)?,
                None if answer.delivery.is_none() => {
                    show_secret(screen, None, expire_time, answer.replayed && !self.way.set_password)?;
                }
                None => {}
            }
            if let Some(delivery) = &answer.delivery {
                let before = match (self.now, &answer.lifted_lock) {
                    (true, _) => BeforeUse::AccessEnded,
                    (false, Some(_)) => BeforeUse::LockLifted,
                    (false, None) => BeforeUse::Nothing,
                };
                show_sent(screen, delivery, expire_time, before)?;
            }
            Cli::effects(screen, answer.effects.as_ref(), answer.lifted_lock.as_ref())?;
            answer.remaining.iter().try_for_each(|finding| screen.caution(told(finding, screen.clock())))?;
            match &answer.delivery {
                Some(delivery) if !self.is_step => show_advice(screen, delivery, &route, self.waiting.wait.is_some()),
                _ => Ok(()),
            }
        })
        .await
        .map_err(mail_limit)?;
        cli.follow_sent(Sent { done: "the reset is done", user: &name, tells: !self.is_step }, sent, self.waiting).await
    }

    /// The user, as the next command names it.
    fn name(&self) -> String {
        shell_word(&user_ref::text(&self.user).unwrap_or_default())
    }

    /// Refuses the reset of an account that an operator locked, as the server would, before asking for confirmation.
    fn stop_at_lock(&self, user: &User) -> Result<(), Error> {
        let stays = user.lock.as_ref().map(UserLock::cause).filter(|cause| *cause != LockCause::FailedSignIns);
        let Some(cause) = stays.filter(|_| !self.unlock) else { return Ok(()) };
        let message = "the account is locked; unlock it first";
        let mut refusal =
            Refusal::foreseen(Code::FailedPrecondition, "USER_LOCKED", message, user_ref::text(&self.user));
        let cause = cause.as_str_name().trim_start_matches("LOCK_CAUSE_").to_owned();
        refusal.metadata.insert("lockCause".to_owned(), cause);
        Err(Error::Refused(Box::new(refusal)))
    }

    /// The request, without a chosen password.
    fn request(&self) -> ResetPasswordRequest {
        let ttl = self.ttl.map(args::wire_duration);
        let method = if self.way.set_password {
            Method::SetPassword(SetPassword::default())
        } else if self.way.return_link {
            Method::ReturnLink(ReturnLink { ttl })
        } else if self.way.temporary_password {
            let handover = match (self.mail, self.show) {
                (false, _) => Handover::Unspecified,
                (true, false) => Handover::Mail,
                (true, true) => Handover::Both,
            };
            Method::TemporaryPassword(TemporaryPassword { handover: handover.into(), ttl })
        } else {
            Method::SendLink(SendLink { ttl })
        };
        ResetPasswordRequest {
            user: Some(self.user.clone()),
            method: Some(method),
            end_access_now: self.now,
            unlock: self.unlock,
            note: self.note.clone(),
            etag: self.etag.clone(),
            ..ResetPasswordRequest::default()
        }
    }

    async fn chosen(&self, cli: &Cli, names: &[String]) -> Result<Method, Error> {
        let password = if self.password_stdin {
            cli.read_required_secret("the password")?
        } else {
            cli.ask_new_password(names).await?
        };
        Ok(Method::SetPassword(SetPassword { password: password.expose_secret().to_owned() }))
    }

    async fn question(&self, cli: &Cli, user: &User) -> Question {
        let ends = match user.state() {
            UserState::Pending => String::new(),
            _ if user.password_status.as_ref().is_some_and(|status| !status.password_set) => String::new(),
            _ => match cli.sessions_of(user).await {
                Some(sessions) => format!("the old password and {sessions}, now"),
                None => "the old password, now".to_owned(),
            },
        };
        let lock = user.lock.as_ref();
        let falls = lock.is_some_and(|lock| self.unlock || lock.cause() == LockCause::FailedSignIns);
        let lock = lock.map(|lock| locked(lock, cli.screen.clock()));
        let mut lifts = Vec::new();
        if let Some(lock) = lock.as_ref().filter(|_| falls) {
            lifts.push(format!("the lock ({lock})"));
        }
        if let Some(throttle) = &user.throttle {
            lifts.push(format!("the throttle after {}", count(throttle.failures, "wrong password")));
        }
        let way = match (self.now, self.is_offered) {
            (true, _) => " by a link",
            (false, true) => " by a temporary password",
            (false, false) => "",
        };
        Question::new(format!("Reset the password of {}{way}", person(user)))
            .row("sends", if self.mail { format!("the password to {}", user.email) } else { String::new() })
            .row("ends", ends)
            .row("lifts", lifts.join(", "))
            .row("stays", cli.api_tokens_of(user).await.unwrap_or_default())
    }
}

/// Returns whether a mail is what is wrong, so that another way may work.
fn cannot_be_mailed(error: &Error) -> bool {
    matches!(error.reason(), "NO_DELIVERY_ADDRESS" | "DELIVERY_DISABLED")
}

/// Prints a link, and below it its expiry.
pub(super) fn show_link(
    screen: &Screen,
    link: &str,
    expire_time: Option<&prost_types::Timestamp>,
) -> Result<(), Error> {
    screen.secret(Text::toned(Tone::Good, "✔ ").and(Tone::Strong, link))?;
    let good = instant(expire_time).map(|end| format!("good until {}, or until used. ", screen.clock().moment(end)));
    screen.line(Text::toned(Tone::Dim, format!("  {}Shown once.", good.unwrap_or_default())))
}

/// Prints `✔ K7QF9-WXM3T-RH4PD    good until tomorrow 02:14, or until changed. Shown once.` With `lost`, the generated
/// password was in an answer that never arrived.
pub(super) fn show_secret(
    screen: &Screen,
    secret: Option<&str>,
    expire_time: Option<&prost_types::Timestamp>,
    lost: bool,
) -> Result<(), Error> {
    let good = good_until(screen, expire_time);
    match (secret, good) {
        (Some(secret), _) => screen.secret(Text::toned(Tone::Good, "✔ ").join(shown_once(screen, secret, expire_time))),
        (None, _) if lost => {
            let lost = "it was done, but the answer with the password was lost, and a password is shown only once";
            screen.caution(lost)?;
            screen.next("the same `latchkey users reset` once more")
        }
        (None, Some(good)) => screen.done(format!("the password is set: {good}")),
        (None, None) => Ok(()),
    }
}

/// A secret, its expiry, and the note that it is shown only once.
pub(super) fn shown_once(screen: &Screen, secret: &str, expire_time: Option<&prost_types::Timestamp>) -> Text {
    let good = good_until(screen, expire_time).map(|good| format!("{good} ")).unwrap_or_default();
    Text::toned(Tone::Strong, secret).and(Tone::Dim, format!("    {good}Shown once."))
}

fn good_until(screen: &Screen, expire_time: Option<&prost_types::Timestamp>) -> Option<String> {
    instant(expire_time).map(|end| format!("good until {}, or until changed.", screen.clock().moment(end)))
}
