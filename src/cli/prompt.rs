//! Confirmations and secrets, read from the terminal or from standard input.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use tonic::Code;

use super::client::call::{Call, Method};
use super::error::{Error, Exit, Refusal};
use super::factor::Codes;
use super::output::strength;
use super::output::text::{Text, Tone};
use super::setting::Cli;
use crate::proto::v1::{CheckPasswordStrengthRequest, GetPasswordRulesRequest, WhoAmIRequest};

/// The longest line to read: the contract's 4096 bytes for a password, and the line ending.
const LONGEST_LINE: u64 = 4098;

/// The longest name in bytes that `CheckPasswordStrength` takes.
const LONGEST_NAME: usize = 256;

/// The number of attempts to prove the password, or to choose one, before a command ends.
const PROOFS: usize = 3;

/// Replaces a secret when the call is only printed, so that nothing is asked. It is never printed itself.
const UNASKED: &str = "secret";

/// A confirmation before a command that ends something.
#[derive(Debug)]
pub(crate) struct Question {
    title: String,
    rows: Vec<(&'static str, Text)>,
}

impl Question {
    /// `title` names the action and the user: "Reset the password of Ada Lovelace (ada)".
    pub(crate) fn new(title: impl Into<String>) -> Question {
        Question { title: title.into(), rows: Vec::new() }
    }

    /// Adds a consequence under a verb: `ends`, `lifts`, `stays`. A row without text is not printed.
    #[must_use]
    pub(crate) fn row(mut self, verb: &'static str, text: impl Into<Text>) -> Question {
        self.rows.push((verb, text.into()));
        self
    }
}

impl Cli {
    /// Returns whether to ask for confirmation. Without a terminal, `--yes` is required.
    pub(crate) fn asks(&self, yes: bool) -> Result<bool, Error> {
        if yes || self.client.is_showing() {
            return Ok(false);
        }
        if io::stdin().is_terminal() {
            return Ok(true);
        }
        Err(Error::usage("this needs a confirmation, and there is no terminal").hint("confirm with --yes"))
    }

    /// Makes a call. If the server wants a recent sign-in for it, asks for the caller's password at the terminal, and for a code
    /// if there is a second factor, and makes the same call again. Without a terminal, or without a stored login, the refusal
    /// stands.
    pub(crate) async fn call<C: Call>(&self, request: C) -> Result<C::Answer, Error> {
        match self.client.call(request.clone()).await {
            Err(error) if wants_sign_in(&request, &error)? => {
                if !self.client.has_login() || !has_terminal() {
                    return Err(error);
                }
                self.reauthenticate().await?;
                self.client.call(request).await
            }
            outcome => outcome,
        }
    }

    async fn reauthenticate(&self) -> Result<(), Error> {
        self.screen.note("This needs a recent sign-in.");
        self.client.warn_if_overheard(&self.screen);
        let question = format!("Password of {}", self.client.whom().await);
        let mut rejected = 0;
        loop {
            let password = self.ask_secret(&question)?;
            let outcome = match self.client.reauthenticate(&password, None).await {
                Err(error) if error.reason() == "SECOND_FACTOR_REQUIRED" => {
                    let again = async |proof| self.client.reauthenticate(&password, Some(proof)).await;
                    self.prove(Codes::Asked, again).await
                }
                outcome => outcome,
            };
            match outcome {
                Err(error) if error.reason() == "CREDENTIALS_REJECTED" => {
                    rejected += 1;
                    if rejected == PROOFS {
                        return Err(
                            error.hint("nothing was changed; if you forgot the password, an operator can reset it")
                        );
                    }
                    self.screen.note(Text::toned(Tone::Warn, "The password is wrong. Try again:"));
                }
                outcome => return outcome,
            }
        }
    }

    /// Fails if the server would refuse the call, so that no confirmation is asked for in vain: by a dry run if the method
    /// has one, otherwise by the caller's scopes.
    pub(crate) async fn rehearse<C: Call>(&self, request: &C) -> Result<(), Error> {
        match Method::of::<C>()?.dry_run(request)? {
            Some(dry) => self.call(dry).await.map(drop),
            None => self.check_scopes(request).await,
        }
    }

    /// Fails if the caller lacks a scope that the call needs.
    pub(crate) async fn check_scopes<C: Call>(&self, request: &C) -> Result<(), Error> {
        let method = Method::of::<C>()?;
        let needed = method.scopes(&method.request(request)?);
        let known = self.client.call(WhoAmIRequest {}).await?.scopes;
        let Some(missing) = needed.into_iter().find(|scope| !known.contains(scope)) else { return Ok(()) };
        let message = format!("this needs the scope {missing}");
        let mut refusal = Refusal::foreseen(Code::PermissionDenied, "SCOPE_MISSING", &message, None);
        refusal.metadata.insert("scope".to_owned(), missing);
        Err(Error::Refused(Box::new(refusal)))
    }

    /// Asks for confirmation. Any answer but yes ends the command before it changes anything.
    pub(crate) async fn confirm(&self, question: Question) -> Result<(), Error> {
        let whom = self.client.whom().await;
        self.screen.note(Text::toned(Tone::Strong, format!("{}?", question.title)));
        let rows = question.rows.into_iter().chain([("as", Text::from(whom))]);
        self.screen.note_fields(rows);
        let answer = self.ask("Are you sure? [y/N]")?;
        if matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        self.screen.note("Nothing was changed.");
        Err(Error::Silent(Exit::Stopped))
    }

    /// Asks a question and reads a line from standard input, without the spaces around it.
    pub(crate) fn ask(&self, question: &str) -> Result<String, Error> {
        self.screen.question(question);
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(|fault| unreadable(&fault))?;
        Ok(answer.trim().to_owned())
    }

    /// Asks for a secret without echo.
    pub(crate) fn ask_secret(&self, what: &str) -> Result<SecretString, Error> {
        self.ask_unseen(what, "the password").map_err(|error| match error.exit() {
            Exit::Usage => error.hint("use --password-stdin"),
            _ => error,
        })
    }

    /// Asks a question whose answer is not shown while it is typed. `what` is the answer, for the error without a terminal.
    pub(crate) fn ask_unseen(&self, question: &str, what: &str) -> Result<SecretString, Error> {
        if self.client.is_showing() {
            return Ok(SecretString::from(UNASKED));
        }
        let typed = Unseen::begin().and_then(|_unseen| rpassword::prompt_password(format!("{question}: ")));
        typed.map(SecretString::from).map_err(|fault| match fault.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof => Error::Silent(Exit::Stopped),
            _ => Error::usage(format!("there is no terminal to ask for {what}")),
        })
    }

    /// Asks for a new password, and once more, because typing without echo invites mistakes. Gives up after three attempts.
    /// `names` are those of the user, as far as they are known.
    pub(crate) async fn ask_new_password(&self, names: &[String]) -> Result<SecretString, Error> {
        let mut fault = "";
        for _ in 0..PROOFS {
            let first = self.ask_secret("New password")?;
            if !self.is_acceptable(&first, names).await {
                fault = "the rules refuse the new password";
                continue;
            }
            let second = self.ask_secret("Once more")?;
            if first.expose_secret() == second.expose_secret() {
                return Ok(first);
            }
            fault = "the passwords differ";
            self.screen.note(Text::toned(Tone::Warn, "The passwords differ. Try again:"));
        }
        Err(Error::stopped(Exit::Stopped, fault))
    }

    /// Shows on a terminal how strong a new password is, and which rules refuse it. Returns `true` if that cannot be found out:
    /// the call that sets the password judges it anyway, but may cost a try.
    async fn is_acceptable(&self, password: &SecretString, names: &[String]) -> bool {
        if self.client.is_showing() || !io::stderr().is_terminal() {
            return true;
        }
        let names = names.iter().filter(|name| (1..=LONGEST_NAME).contains(&name.len()));
        let request = CheckPasswordStrengthRequest {
            password: password.expose_secret().to_owned(),
            user_inputs: names.cloned().collect(),
            language: String::new(),
        };
        let Ok(answer) = self.client.call_once(request).await else { return true };
        self.screen.note_fields(strength::fields(&answer));
        if answer.violations.is_empty() {
            return true;
        }
        let rules = self.client.call_once(GetPasswordRulesRequest {}).await;
        let rules = rules.ok().and_then(|answer| answer.rules).unwrap_or_default();
        strength::broken(&answer, &rules).for_each(|line| self.screen.note(line));
        false
    }

    /// Reads a secret from the next line of standard input. Returns `None` at the end of input.
    pub(crate) fn read_secret(&self, what: &str) -> Result<Option<SecretString>, Error> {
        if self.client.is_showing() {
            return Ok(Some(SecretString::from(UNASKED)));
        }
        if io::stdin().is_terminal() {
            self.screen.note(format!("type {what} and press Enter; it will be visible"));
        }
        let mut line = String::new();
        // The buffer of `Stdin` is shared by the whole process, so the next call finds the next line.
        let mut input = io::Read::take(io::stdin().lock(), LONGEST_LINE);
        input.read_line(&mut line).map_err(|fault| unreadable(&fault))?;
        if line.is_empty() {
            return Ok(None);
        }
        let secret = line.strip_suffix('\n').unwrap_or(&line);
        Ok(Some(SecretString::from(secret.strip_suffix('\r').unwrap_or(secret))))
    }

    /// Reads a secret from the next line of standard input. Fails if there is none.
    pub(crate) fn read_required_secret(&self, what: &str) -> Result<SecretString, Error> {
        let missing = || Error::usage(format!("standard input ends before {what}"));
        self.read_secret(what)?.filter(|secret| !secret.expose_secret().is_empty()).ok_or_else(missing)
    }
}

/// Turns the terminal's echo off until it is dropped. It starts before the prompt is printed: the first letters of a
/// secret that is typed or pasted at once would otherwise be visible.
struct Unseen {
    terminal: File,
    before: Termios,
}

/// Opens the terminal of this process, wherever its standard streams lead.
fn open_terminal() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

/// Returns whether a call failed for want of a recent sign-in. A session that lacks the second factor is told with the reason of
/// a call that lacks a code.
fn wants_sign_in<C: Call>(request: &C, error: &Error) -> Result<bool, Error> {
    Ok(match error.reason() {
        "REAUTHENTICATION_REQUIRED" => true,
        "SECOND_FACTOR_REQUIRED" => !Method::of::<C>()?.lacks_code(request)?,
        _ => false,
    })
}

fn has_terminal() -> bool {
    open_terminal().is_ok()
}

impl Unseen {
    fn begin() -> io::Result<Unseen> {
        let terminal = open_terminal()?;
        let before = tcgetattr(&terminal)?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        // Otherwise an end of input that is typed before rpassword does the same is lost.
        unseen.local_modes.remove(LocalModes::ICANON);
        unseen.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Now, &unseen)?;
        Ok(Unseen { terminal, before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

fn unreadable(fault: &io::Error) -> Error {
    Error::unexpected(format!("cannot read standard input: {fault}"))
}
