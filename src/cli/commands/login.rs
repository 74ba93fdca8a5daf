//! `latchkey login`: signs in, step by step as the server asks, and stores the login.

use std::io::{self, IsTerminal};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

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
    CompletePasswordChangeRequest, CompletePasswordChangeResponse, PasswordChangeCause, PasswordChangeStep,
    SecondFactorStep, SignInProgress, SignInRequest, TokenSet, VerifySecondFactorRequest,
};

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
        match step(answer.progress.clone())? {
            Step::Tokens(tokens) => {
                keep(cli, store, login, tokens, None).await?;
                print_json::<SignInRequest>(cli, &answer)
            }
            Step::SecondFactor(factor) => self.verify(cli, store, login, factor).await,
            Step::Enrollment(_) => Err(Error::unexpected("the server asks for a second factor")),
            Step::PasswordChange(change) => self.change(cli, store, login, change, None).await,
        }
    }

    /// Asks for a code. The ticket stays valid after a wrong one, so it asks again.
    async fn verify(&self, cli: &Cli, store: &LoginStore, login: String, step: SecondFactorStep) -> Result<(), Error> {
        let verify = async |proof| {
            let request = VerifySecondFactorRequest { ticket: step.ticket.clone(), second_factor: Some(proof) };
            cli.client.call(request).await
        };
        let answer = cli.prove(Codes::of(self.password_stdin), verify).await.map_err(|error| refused(error, &login))?;
        let left = answer.recovery_codes_left;
        match self::step(answer.progress.clone())? {
            Step::Tokens(tokens) => {
                keep(cli, store, login, tokens, left).await?;
                print_json::<VerifySecondFactorRequest>(cli, &answer)
            }
            Step::PasswordChange(change) => self.change(cli, store, login, change, left).await,
            Step::SecondFactor(_) | Step::Enrollment(_) => Err(asked_twice()),
        }
    }

    /// Prints why a new password is needed and asks for one. The ticket stays valid after a rejected password, so it asks
    /// again.
    async fn change(
        &self,
        cli: &Cli,
        store: &LoginStore,
        login: String,
        step: PasswordChangeStep,
        codes_left: Option<i32>,
    ) -> Result<(), Error> {
        cli.screen.note(Text::toned(Tone::Warn, why(step.cause())));
        cli.screen.note(rules(&step));
        let attempts = if self.password_stdin { 1 } else { ATTEMPTS };
        let mut rejected = None;
        for _ in 0..attempts {
            let new = self.new_password(cli)?;
            match complete(cli, &step, &new).await {
                Ok((answer, tokens)) => {
                    keep(cli, store, login, tokens, codes_left).await?;
                    return print_json::<CompletePasswordChangeRequest>(cli, &answer);
                }
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

    fn new_password(&self, cli: &Cli) -> Result<SecretString, Error> {
        if !self.password_stdin {
            return cli.ask_new_password();
        }
        cli.read_secret("the new password")?.ok_or_else(|| {
            Error::stopped(Exit::Stopped, "the password has to be changed")
                .hint("give the new one as the next line of standard input")
        })
    }
}

async fn complete(
    cli: &Cli,
    step: &PasswordChangeStep,
    new: &SecretString,
) -> Result<(CompletePasswordChangeResponse, TokenSet), Error> {
    let request = CompletePasswordChangeRequest {
        ticket: step.ticket.clone(),
        new_password: new.expose_secret().to_owned(),
        validate_only: false,
    };
    let answer = cli.client.call(request).await?;
    match self::step(answer.progress.clone())? {
        Step::Tokens(tokens) => Ok((answer, tokens)),
        Step::SecondFactor(_) | Step::PasswordChange(_) | Step::Enrollment(_) => Err(asked_twice()),
    }
}

fn asked_twice() -> Error {
    Error::unexpected("the server asks for a step twice")
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

fn step(progress: Option<SignInProgress>) -> Result<Step, Error> {
    progress.and_then(|progress| progress.step).ok_or_else(|| {
        Error::unexpected("the server asks for a step that this client does not know").hint("update latchkey")
    })
}

/// Prints the tokens as JSON, after the login is stored: a failure to print must not lose the session.
fn print_json<C: Call>(cli: &Cli, answer: &C::Answer) -> Result<(), Error> {
    if !cli.screen.is_json() {
        return Ok(());
    }
    cli.screen.secret_json(&Client::reflected::<C>(answer)?).map_err(|error| match error {
        Error::Lost(fault) => {
            let message = format!("you are signed in, but the tokens could not be written to standard output: {fault}");
            Error::stopped(Exit::Stopped, message).hint("the login is stored; `latchkey logout` ends it")
        }
        error => error,
    })
}

/// Stores the login, under the lock: another process may be renewing the login that this one replaces. `codes_left` is how many
/// recovery codes are left, if one was used.
async fn keep(
    cli: &Cli,
    store: &LoginStore,
    login: String,
    tokens: TokenSet,
    codes_left: Option<i32>,
) -> Result<(), Error> {
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
    let Some(left) = codes_left else { return cli.screen.next("latchkey whoami") };
    let left = if left == 0 { "none is left".to_owned() } else { format!("{} left", count(left, "recovery code")) };
    cli.screen.caution(format!("a recovery code signs in once; {left}"))?;
    cli.screen.next("latchkey mfa codes, for new recovery codes")?;
    cli.screen.next("latchkey mfa enroll, if the authenticator is lost")
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
        PasswordChangeCause::Operator => "An operator asks you to change your password.",
        PasswordChangeCause::Unspecified => "Your password has to be changed.",
    }
}

fn rules(step: &PasswordChangeStep) -> String {
    let rules = step.rules.unwrap_or_default();
    let least = rules.min_length.map(|length| format!("at least {length} characters")).unwrap_or_default();
    let most = rules.max_length.map(|length| format!(", at most {length}")).unwrap_or_default();
    format!("It needs {least}{most}, and must differ from the old one. Several words are fine.")
}
