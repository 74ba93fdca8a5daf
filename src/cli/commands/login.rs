//! `latchkey login`: signs in, step by step as the server asks, and stores the login.

use std::io::{self, IsTerminal};

use clap::Args;
use jiff::Timestamp;
use prost_reflect::DynamicMessage;
use secrecy::{ExposeSecret, SecretString};

use super::mfa::{confirm, show_confirmed, show_key};
use super::passwd::ATTEMPTS;
use crate::cli::args::Confirmation;
use crate::cli::client::Client;
use crate::cli::client::call::Call;
use crate::cli::client::login::{Login, LoginStore};
use crate::cli::error::{Error, Exit};
use crate::cli::factor::Codes;
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::time::instant;
use crate::cli::output::words::{count, shell_word};
use crate::cli::setting::Cli;
use crate::proto::v1::sign_in_progress::Step;
use crate::proto::v1::{
    CompletePasswordChangeRequest, ConfirmTotpRequest, EnrollTotpRequest, EnrollmentStep, PasswordChangeCause,
    PasswordChangeStep, SecondFactorStep, SignInProgress, SignInRequest, TokenSet, VerifySecondFactorRequest,
    VerifySecondFactorResponse,
};

/// More steps than any sign-in has.
const STEPS: usize = 8;

const HELP: &str = "\
Asks for a code, too, if you have an authenticator: `latchkey mfa enroll`.
Keeps the login in $XDG_STATE_HOME/latchkey/, for you alone, and renews it.
Later than 15 minutes, commands such as `tokens create` ask for it again.
With --output json the tokens are printed as well: keep them out of logs.

Examples:
  latchkey login ada
  latchkey login ada --server id.example.org:50051
  printf '%s\\n' \"$PASSWORD\" | latchkey login ada --password-stdin";

/// Sign in and stay signed in.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct SignIn {
    /// Username or address; asked for if absent.
    user: Option<String>,
    /// Read lines from standard input: the password, then a code and a new password where asked for.
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl SignIn {
    /// Signs in.
    pub(crate) async fn run(self, cli: &Cli, store: &LoginStore) -> Result<(), Error> {
        let login = match &self.user {
            Some(user) => user.clone(),
            None => ask_user(cli)?,
        };
        cli.client.warn_if_overheard(&cli.screen);
        let password = if self.password_stdin {
            cli.read_required_secret("the password")?
        } else {
            cli.ask_secret(&format!("Password of {login} at {}", cli.client.target().place()))?
        };
        let request = SignInRequest {
            login: login.clone(),
            password: password.expose_secret().to_owned(),
            client_name: "latchkey".to_owned(),
            device_token: store.device_token(&cli.client.target().to_string(), &login),
            ..SignInRequest::default()
        };
        let answer = cli.client.call(request).await?;
        let mut stage = Stage::of::<SignInRequest>(answer.progress.clone(), &answer)?;
        let mut codes_left = None;
        for _ in 0..STEPS {
            let (step, required_from) = stage.step()?;
            stage = match step {
                Step::Tokens(tokens) => {
                    keep(cli, store, login, tokens, &Told { codes_left, required_from }).await?;
                    return print_json(cli, &stage.answer);
                }
                Step::SecondFactor(factor) => {
                    let answer = self.verify(cli, &login, factor).await?;
                    codes_left = answer.recovery_codes_left;
                    Stage::of::<VerifySecondFactorRequest>(answer.progress.clone(), &answer)?
                }
                Step::Enrollment(enrollment) => self.enroll(cli, &login, enrollment).await?,
                Step::PasswordChange(change) => self.change(cli, &login, change).await?,
            };
        }
        Err(Error::unexpected("the server asks for a step twice"))
    }

    /// Asks for a code. The ticket stays valid after a wrong one, so it asks again.
    async fn verify(
        &self,
        cli: &Cli,
        login: &str,
        step: SecondFactorStep,
    ) -> Result<VerifySecondFactorResponse, Error> {
        let verify = async |proof| {
            let request = VerifySecondFactorRequest { ticket: step.ticket.clone(), second_factor: Some(proof) };
            cli.client.call(request).await
        };
        cli.prove(Codes::of(self.password_stdin), verify).await.map_err(|error| refused(error, login))
    }

    /// Sets up an authenticator at the terminal. A script could not compute a code of a key that it has not seen.
    async fn enroll(&self, cli: &Cli, login: &str, step: EnrollmentStep) -> Result<Stage, Error> {
        let again = format!("latchkey login {}", shell_word(login));
        if self.password_stdin || cli.screen.is_json() {
            let message = "this server asks for a second factor, and you have set up none";
            return Err(Error::stopped(Exit::Stopped, message).hint(format!("sign in at a terminal: `{again}`")));
        }
        cli.screen.note(Text::toned(Tone::Warn, "This server asks you for a second factor. Set up an authenticator:"));
        let begun = cli.client.call(EnrollTotpRequest { ticket: step.ticket, ..EnrollTotpRequest::default() }).await?;
        show_key(&cli.screen, &begun, false, true)?;
        let answer = confirm(cli, &begun.ticket, Codes::Asked, &again).await?;
        let stage = Stage::of::<ConfirmTotpRequest>(answer.progress.clone(), &answer)?;
        show_confirmed(cli, answer)?;
        cli.screen.line("")?;
        Ok(stage)
    }

    /// Prints why a new password is needed and asks for one. The ticket stays valid after a rejected password, so it asks
    /// again.
    async fn change(&self, cli: &Cli, login: &str, step: PasswordChangeStep) -> Result<Stage, Error> {
        cli.screen.note(Text::toned(Tone::Warn, why(step.cause())));
        cli.screen.note(rules(&step));
        let attempts = if self.password_stdin { 1 } else { ATTEMPTS };
        let mut rejected = None;
        for _ in 0..attempts {
            let new = self.new_password(cli, login).await?;
            let request = CompletePasswordChangeRequest {
                ticket: step.ticket.clone(),
                new_password: new.expose_secret().to_owned(),
                validate_only: false,
            };
            match cli.client.call(request).await {
                Ok(answer) => return Stage::of::<CompletePasswordChangeRequest>(answer.progress.clone(), &answer),
                Err(error) if error.reason() == "PASSWORD_REJECTED" => {
                    if !self.password_stdin {
                        cli.screen.error(&error);
                    }
                    rejected = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(rejected.filter(|_| self.password_stdin).unwrap_or_else(|| {
            Error::stopped(Exit::Stopped, "no new password was accepted").hint("`latchkey login` starts again")
        }))
    }

    async fn new_password(&self, cli: &Cli, login: &str) -> Result<SecretString, Error> {
        if !self.password_stdin {
            return cli.ask_new_password(&[login.to_owned()]).await;
        }
        cli.read_secret("the new password")?.ok_or_else(|| {
            Error::stopped(Exit::Stopped, "the password has to be changed")
                .hint("give the new one as the next line of standard input")
        })
    }
}

/// Where a sign-in is.
struct Stage {
    progress: Option<SignInProgress>,
    /// The last answer of the server.
    answer: DynamicMessage,
}

impl Stage {
    fn of<C: Call>(progress: Option<SignInProgress>, answer: &C::Answer) -> Result<Stage, Error> {
        Ok(Stage { progress, answer: Client::reflected::<C>(answer)? })
    }

    /// The next step, and from when on the server asks for a second factor that there is not yet.
    fn step(&self) -> Result<(Step, Option<Timestamp>), Error> {
        let progress = self.progress.clone().unwrap_or_default();
        let required_from = instant(progress.second_factor_required_from_time.as_ref());
        let step = progress.step.ok_or_else(|| {
            Error::unexpected("the server asks for a step that this client does not know").hint("update latchkey")
        })?;
        Ok((step, required_from))
    }
}

/// What to tell a user who is signed in.
struct Told {
    /// How many recovery codes are left, if one was used.
    codes_left: Option<i32>,
    /// From when on a second factor is asked for, if there is none yet.
    required_from: Option<Timestamp>,
}

/// Adds what helps when no code was accepted.
fn refused(error: Error, login: &str) -> Error {
    let name = shell_word(login);
    match error.reason() {
        "SECOND_FACTOR_REJECTED" => error.hint(format!(
            "start again with `latchkey login {name}`; if every code is refused, let the phone set its clock by the network"
        )),
        "THROTTLED" => error.hint(format!(
            "wait, then `latchkey login {name}`; an operator can lift the wait with `latchkey users unlock {name}`"
        )),
        _ => error,
    }
}

/// Prints the tokens as JSON, after the login is stored: a failure to print must not lose the session.
fn print_json(cli: &Cli, answer: &DynamicMessage) -> Result<(), Error> {
    if !cli.screen.is_json() {
        return Ok(());
    }
    cli.screen.secret_json(answer).map_err(|error| match error {
        Error::Lost(fault) => {
            let message = format!("you are signed in, but the tokens could not be written to standard output: {fault}");
            Error::stopped(Exit::Stopped, message).hint("the login is stored; `latchkey logout` ends it")
        }
        error => error,
    })
}

/// Stores the login, under the lock: another process may be renewing the login that this one replaces.
async fn keep(cli: &Cli, store: &LoginStore, login: String, tokens: TokenSet, told: &Told) -> Result<(), Error> {
    let lock = store.lock().await?;
    let ends = instant(tokens.refresh_expire_time.as_ref());
    let (server, device_token) = (cli.client.target().to_string(), tokens.device_token.clone());
    store.write(&Login::new(server.clone(), cli.client.trust().clone(), login.clone(), tokens))?;
    store.keep_device_token(&server, &login, device_token)?;
    drop(lock);
    if cli.screen.is_json() {
        return Ok(());
    }
    let until = ends.map(|end| format!(", until {} if unused", cli.screen.clock().moment(end))).unwrap_or_default();
    cli.screen.done(format!("signed in as {login} at {}{until}", cli.client.target().place()))?;
    // The stored login has the server.
    let screen = cli.screen.clone().reaching(Vec::new());
    if let Some(from) = told.required_from {
        let from = cli.screen.clock().moment(from);
        cli.screen.caution(format!("from {from} on, this server asks you for a second factor"))?;
        return screen.next("latchkey mfa enroll");
    }
    let Some(left) = told.codes_left else { return screen.next("latchkey whoami") };
    let left = if left == 0 { "none is left".to_owned() } else { format!("{} left", count(left, "recovery code")) };
    cli.screen.caution(format!("a recovery code signs in once; {left}"))?;
    screen.next("latchkey mfa codes, for new recovery codes")?;
    screen.next("latchkey mfa enroll, if the authenticator is lost")
}

fn ask_user(cli: &Cli) -> Result<String, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::usage("no user given").hint("latchkey login USER --password-stdin"));
    }
    let user = cli.ask("User:")?;
    if user.is_empty() { Err(Error::Silent(Exit::Stopped)) } else { Ok(user) }
}

fn why(cause: PasswordChangeCause) -> &'static str {
    match cause {
        PasswordChangeCause::Temporary => "This password was given to you by an operator. Choose one of your own.",
        PasswordChangeCause::Breached => "This password is in a list of leaked ones, which attackers try first.",
        PasswordChangeCause::Expired => "Your password has reached the age at which this service asks for a new one.",
        PasswordChangeCause::Policy => "The rules for passwords have changed, and this one no longer keeps them.",
        PasswordChangeCause::Operator => "An operator asks you to change your password.",
        PasswordChangeCause::Unspecified => "Your password has to be changed.",
    }
}

fn rules(step: &PasswordChangeStep) -> String {
    let rules = step.rules.unwrap_or_default();
    let least = rules.min_length.map(|length| format!("at least {length} characters")).unwrap_or_default();
    let most = rules.max_length.map(|length| format!(", at most {length}")).unwrap_or_default();
    let signs = if rules.require_letter_and_digit() { ", with a letter and a digit" } else { "" };
    format!("It needs {least}{most}{signs}, and must differ from the old one. Several words are fine.")
}
