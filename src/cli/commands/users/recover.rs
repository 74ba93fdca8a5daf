//! `latchkey users recover`.

use std::time::Duration;

use clap::Args;

use super::diagnose::{SPEAK_FIRST, end, labelled, of_returned_link, reason, show, steps, title, told};
use super::lock::{Contain, Unlock};
use super::means::{Means, lacking};
use super::recovery::{
    Factor, Given, Progress, Step, Way, has_lost_password, has_second_factor, may_be_taken_over, stands, ways,
};
use super::reset::Reset;
use super::update::Update;
use crate::cli::client::Client;
use crate::cli::commands::deliveries::Resend;
use crate::cli::commands::mfa_reset;
use crate::cli::error::{Error, Exit};
use crate::cli::output::delivery::{WRITTEN, kind, state};
use crate::cli::output::text::{Text, Tone};
use crate::cli::output::words::{person, shell_word, signed_in};
use crate::cli::setting::Cli;
use crate::cli::user_ref;
use crate::proto::v1::sign_in_finding::{Code, Severity};
use crate::proto::v1::{
    DiagnoseSignInRequest, DiagnoseSignInResponse, SignInFinding, SignInVerdict, User, UserKind, UserRef,
};

/// How long a mail is followed before the next step.
const PATIENCE: Duration = Duration::from_secs(30);

/// The labels of the ways to choose from.
const NUMBERS: [&str; 4] = ["1", "2", "3", "4"];

const HELP: &str = "\
At a terminal goes through all that stands in the way, asks before each step, and ends with what to
tell the user. Elsewhere prints the commands, in order. Exits with 0 if the user can sign in or was
given a way to, else with 1.

Examples:
  latchkey users recover grace --note \"ticket 4711\"
  latchkey users recover grace@example.com --from 192.0.2.7";

/// Help a user to sign in again, step by step.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Recover {
    /// The user.
    #[arg(value_parser = user_ref::parse)]
    user: UserRef,
    /// The user's IP address: it may be blocked, or not be a familiar place.
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    from: String,
    /// Why, for the audit log: goes with each step.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
}

impl Recover {
    pub(super) async fn run(self, cli: &Cli) -> Result<(), Error> {
        let answer = self.diagnose(cli, self.user.clone()).await?;
        let typed = user_ref::text(&self.user).unwrap_or_default();
        if cli.screen.is_json() {
            cli.screen.json(&Client::reflected::<DiagnoseSignInRequest>(&answer)?)?;
            return outcome(&answer);
        }
        let means = Means::of(cli).await;
        let is_person = |user: &&User| user.kind() == UserKind::Person;
        match answer.user.as_ref().filter(is_person).cloned() {
            Some(user) if cli.asks(false).is_ok() => {
                // The future has those of all commands in it.
                let walk = Walk::new(cli, &self, &user, means);
                Box::pin(walk.run(answer)).await
            }
            Some(_) => {
                let clock = cli.screen.clock();
                cli.screen.line(title(&typed, &self.from, &answer, clock))?;
                let mut steps = steps(&typed, &answer, &means, clock);
                // To speak with the user by such a way is to make sure.
                if !steps.iter().any(|step| step == SPEAK_FIRST) {
                    steps.insert(0, "Make sure that it is the user: call back on a number that you know.".to_owned());
                }
                cli.screen.steps("DO", &steps)?;
                outcome(&answer)
            }
            // A service has no password, and a record that is missing or corrupt names no user to call back.
            None => {
                show(&cli.screen, &typed, &self.from, &answer, &means)?;
                outcome(&answer)
            }
        }
    }

    async fn diagnose(&self, cli: &Cli, user: UserRef) -> Result<DiagnoseSignInResponse, Error> {
        let client_address = self.from.clone();
        cli.call(DiagnoseSignInRequest { user: Some(user), client_address, max_attempts: 10 }).await
    }
}

/// The exit code without steps: whether the user can sign in.
fn outcome(answer: &DiagnoseSignInResponse) -> Result<(), Error> {
    match answer.verdict() {
        SignInVerdict::Can | SignInVerdict::CanAfterSteps if !has_lost_password(answer) => Ok(()),
        _ => Err(Error::Silent(Exit::Stopped)),
    }
}

/// The checklist at a terminal.
struct Walk<'a> {
    cli: &'a Cli,
    recover: &'a Recover,
    user: UserRef,
    name: String,
    means: Means,
    progress: Progress,
    /// The number of the step before.
    number: usize,
}

impl<'a> Walk<'a> {
    fn new(cli: &'a Cli, recover: &'a Recover, user: &User, means: Means) -> Walk<'a> {
        let name = user.username.clone();
        let user = user_ref::parse(&name).unwrap_or_else(|_| user_ref::of_id(&user.id));
        Walk { cli, recover, user, name, means, progress: Progress::default(), number: 0 }
    }

    async fn run(mut self, mut answer: DiagnoseSignInResponse) -> Result<(), Error> {
        let (screen, clock) = (&self.cli.screen, self.cli.screen.clock());
        screen.line(title(&self.name, &self.recover.from, &answer, clock))?;
        let matters = answer.findings.iter().filter(|finding| finding.severity() > Severity::Info);
        let why = matters.map(|finding| reason(finding, clock)).chain(of_returned_link(&answer, clock));
        screen.fields(labelled("WHY", why))?;
        self.identify(&answer)?;
        if may_be_taken_over(&answer) && self.contain(&answer).await? {
            answer = self.again().await?;
        }
        loop {
            let step = match self.progress.next(&answer) {
                Some(Step::AskForFactor) => {
                    let question =
                        "Can the user still prove the second factor, by the authenticator or a recovery code?";
                    self.progress.factor = if self.is_so(question, true)? { Factor::Usable } else { Factor::Lost };
                    continue;
                }
                Some(Step::AskForPassword) => {
                    self.progress.knows_password = Some(self.is_so("Does the user know the password?", true)?);
                    continue;
                }
                Some(step) => step,
                None => return self.close(&answer),
            };
            let is_done = match step {
                Step::Unlock(finding) => self.unlock(&finding).await?,
                Step::GiveAccess(finding) => self.give_access(&answer, finding.as_ref()).await?,
                Step::RemoveFactor => self.remove_factor().await?,
                Step::AskForFactor | Step::AskForPassword => false,
            };
            if is_done {
                answer = self.again().await?;
            }
        }
    }

    /// Shows the user, and stops unless the operator has checked who it is that asks.
    fn identify(&self, answer: &DiagnoseSignInResponse) -> Result<(), Error> {
        let user = answer.user.clone().unwrap_or_default();
        let (screen, clock) = (&self.cli.screen, self.cli.screen.clock());
        let mail = answer
            .deliveries
            .first()
            .map(|sent| state(sent, clock).and(Tone::Plain, format!(", {} to {}", kind(sent.kind()), sent.address)));
        let address = if user.email.is_empty() { "none" } else { &user.email };
        screen.note("");
        screen.note("Call the user back, on a number that you know and not on one that the caller gave.");
        screen.note_fields([
            ("username", user.username.as_str().into()),
            ("name", user.display_name.as_str().into()),
            ("address", address.into()),
            ("roles", user.roles.join(", ").into()),
            ("signed in", signed_in(&user, clock)),
            ("last mail", mail.unwrap_or_default()),
        ]);
        if self.is_so("Is it this user?", false)? {
            return Ok(());
        }
        screen.note("Nothing was changed.");
        Err(Error::Silent(Exit::Stopped))
    }

    /// Asks whether somebody else may have the account, and contains it. Returns whether it is contained.
    async fn contain(&mut self, answer: &DiagnoseSignInResponse) -> Result<bool, Error> {
        self.cli.screen.note("");
        let question = "Could somebody else have the password: a false page, a lost device, a strange sign-in?";
        if !self.is_so(question, false)? {
            return Ok(false);
        }
        if self.lacks(&["users.lock"]) {
            return Ok(false);
        }
        let question = "Could they have the authenticator or the recovery codes, too?";
        let may_remove = has_second_factor(answer) && lacking(&self.means.scopes, &["mfa.reset"]).is_none();
        let removes = may_remove && self.is_so(question, false)?;
        let done = Contain::step(self.user.clone(), self.recover.note.clone(), removes).run(self.cli).await;
        self.progress.is_contained = self.settled(done)? == Exit::Done;
        Ok(self.progress.is_contained)
    }

    /// Removes the second factor, which is lost. Returns whether something may have changed.
    async fn remove_factor(&mut self) -> Result<bool, Error> {
        self.progress.factor = Factor::LostAndAsked;
        self.announce("Remove the second factor, which is lost", None);
        if self.lacks(&["mfa.reset"]) {
            return Ok(false);
        }
        let done = mfa_reset::Reset::step(self.user.clone(), self.recover.note.clone()).run(self.cli).await;
        self.settled(done).map(|exit| exit == Exit::Done)
    }

    /// Lifts a lock, or the throttle. Returns whether something may have changed.
    async fn unlock(&mut self, finding: &SignInFinding) -> Result<bool, Error> {
        self.progress.asked_to_unlock = true;
        let (what, scopes): (_, &[&str]) = match finding.code() {
            Code::SecondFactorRejectedLately => ("Lift the wait after wrong codes", &["users.lock"]),
            Code::ThrottledAccount => ("Lift the throttle", &["users.lock"]),
            Code::LockedAsDeactivated => ("Unlock the account, if the user is back", &["users.lock", "users.write"]),
            _ => ("Unlock the account", &["users.lock"]),
        };
        self.announce(what, Some(finding));
        if self.lacks(scopes) || !self.is_so("Do it?", false)? {
            return Ok(false);
        }
        let done = Unlock::step(self.user.clone(), self.recover.note.clone()).run(self.cli).await;
        self.settled(done).map(|exit| exit == Exit::Done)
    }

    /// Gives the user a way to choose a password, of those that are open. Returns whether something may have changed.
    async fn give_access(
        &mut self,
        answer: &DiagnoseSignInResponse,
        finding: Option<&SignInFinding>,
    ) -> Result<bool, Error> {
        let unlock = answer.user.as_ref().is_some_and(|user| user.lock.is_some());
        let ways = ways(answer, &self.means);
        self.announce("Have the user choose a new password", finding);
        if ways.is_empty() {
            self.lacks(&["users.reset"]);
            self.progress.skips_access = true;
            return Ok(false);
        }
        let rows = NUMBERS.into_iter().zip(ways.iter().map(|(_, text)| Text::from(text.as_str())));
        self.cli.screen.note_fields(rows);
        let Some(way) = self.choice(&ways)? else {
            self.progress.skips_access = true;
            return Ok(false);
        };
        let (user, note) = (self.user.clone(), self.recover.note.clone());
        let address = answer.user.as_ref().map(|user| user.email.clone()).unwrap_or_default();
        let (done, given) = match way {
            Way::Address => return self.correct_address().await,
            Way::Link => (Reset::link_step(user, unlock, note, PATIENCE).run(self.cli).await, Given::Link(address)),
            Way::Again(id) => (Resend::step(id, note, PATIENCE).run(self.cli).await, Given::Link(address)),
            Way::Password => (Reset::password_step(user, unlock, note).run(self.cli).await, Given::Password),
        };
        let exit = self.settled(done)?;
        if matches!(exit, Exit::Done | Exit::UnderWay) {
            self.progress.given = Some(given);
        }
        // A mail that failed is a new finding.
        Ok(true)
    }

    /// Asks for an address and sets it. Returns whether something may have changed.
    async fn correct_address(&self) -> Result<bool, Error> {
        let address = self.cli.ask("The right address (Enter keeps it as it is):")?;
        if address.is_empty() {
            return Ok(false);
        }
        let done = Update::address_step(self.user.clone(), address, self.recover.note.clone()).run(self.cli).await;
        self.settled(done).map(|exit| exit == Exit::Done)
    }

    /// Says what still stands in the way, or what to tell the user.
    fn close(&self, answer: &DiagnoseSignInResponse) -> Result<(), Error> {
        let (screen, clock) = (&self.cli.screen, self.cli.screen.clock());
        let user = answer.user.clone().unwrap_or_default();
        let (person, name) = (person(&user), shell_word(&user.username));
        screen.line("")?;
        let left: Vec<&SignInFinding> = stands(answer, self.progress.given.as_ref());
        let says = self.progress.tell(answer, &self.name).filter(|_| left.is_empty());
        if let Some((what, tell)) = &says {
            screen.done(format!("{person} {what}"))?;
            let is_link = matches!(self.progress.given, Some(Given::Link(_)));
            if is_link && self.means.writes_files() {
                screen.caution(format!("the mail with the link was {WRITTEN}"))?;
            } else {
                screen.fields([("tell the user", tell.as_str().into())])?;
            }
        } else {
            screen.line(title(&self.name, &self.recover.from, answer, clock))?;
            screen.fields(labelled("WHY", left.iter().map(|finding| reason(finding, clock))))?;
            let remedies = left.iter().map(|finding| Text::from(finding.remedy.as_str()));
            screen.fields(labelled("HELPS", remedies))?;
            if let Some(at) = end(answer) {
                let tell = format!("wait until {}, then sign in as {}", clock.moment(at), self.name);
                screen.fields([("tell the user", tell.into())])?;
            }
        }
        let elsewhere = |finding: &&SignInFinding| {
            finding.code() == Code::ThrottledSource && finding.severity() == Severity::Warning
        };
        answer.findings.iter().filter(elsewhere).try_for_each(|finding| screen.caution(told(finding, clock)))?;
        if self.progress.is_contained {
            super::contain::look_back(screen, &name, &self.means.scopes)?;
        }
        screen.next(&format!("latchkey users diagnose {name}, if it fails again"))?;
        if says.is_some() { Ok(()) } else { Err(Error::Silent(Exit::Stopped)) }
    }

    async fn again(&self) -> Result<DiagnoseSignInResponse, Error> {
        self.recover.diagnose(self.cli, self.user.clone()).await
    }

    /// Prints the title of a step, and why it is one.
    fn announce(&mut self, what: &str, finding: Option<&SignInFinding>) {
        self.number += 1;
        let screen = &self.cli.screen;
        screen.note("");
        screen.note(Text::toned(Tone::Strong, format!("{}. {what}", self.number)));
        screen.note_fields([("why", finding.map(|finding| told(finding, screen.clock())).unwrap_or_default())]);
    }

    /// Says which of these scopes the caller lacks. Returns whether one is.
    fn lacks(&self, scopes: &[&str]) -> bool {
        let Some(scope) = lacking(&self.means.scopes, scopes) else { return false };
        let text = format!("This needs the scope {scope}: ask an operator who has it.");
        self.cli.screen.note(Text::toned(Tone::Warn, "! ").and(Tone::Plain, text));
        true
    }

    /// Asks a question whose answer is yes or no. Enter is `default`.
    fn is_so(&self, question: &str, default: bool) -> Result<bool, Error> {
        let choices = if default { "[Y/n]" } else { "[y/N]" };
        Ok(match self.cli.ask(&format!("{question} {choices}"))?.to_ascii_lowercase().as_str() {
            "y" | "yes" => true,
            "" => default,
            _ => false,
        })
    }

    /// Asks which of the ways to take. `None` takes none of them.
    fn choice(&self, ways: &[(Way, String)]) -> Result<Option<Way>, Error> {
        loop {
            let typed = self.cli.ask(&format!("Which? [1-{}, Enter skips]", ways.len()))?;
            if typed.is_empty() {
                return Ok(None);
            }
            let chosen = NUMBERS.iter().zip(ways).find(|(number, _)| **number == typed);
            if let Some((_, (way, _))) = chosen {
                return Ok(Some(way.clone()));
            }
            let text = format!("There is no choice {typed}.");
            self.cli.screen.note(Text::toned(Tone::Warn, "! ").and(Tone::Plain, text));
        }
    }

    /// Prints why a step failed, so that the next one can be taken. Returns how it ended, or the error that ends the command.
    fn settled(&self, done: Result<(), Error>) -> Result<Exit, Error> {
        let Err(error) = done else { return Ok(Exit::Done) };
        match (error.exit(), error.reason()) {
            (Exit::Unexpected | Exit::Done, _) => return Err(error),
            // The next step is better than the hint of the command.
            (_, "") if !error.message().is_empty() => self.cli.screen.caution(error.message())?,
            (_, "") => {}
            _ => self.cli.screen.error(&error),
        }
        Ok(error.exit())
    }
}
