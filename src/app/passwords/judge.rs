//! Judging new passwords: every way to set one asks [`App::accept`].

use crate::app::App;
use crate::app::proving::Proof;
use crate::breach_list::BreachList;
use crate::crypto::HashPermit;
use crate::domain::caller::Caller;
use crate::domain::password::{
    AcceptedPassword, ContextWords, Evidence, Hint, PasswordFault, PasswordRules, PlainPassword, RuleBroken, Strength,
    strength_of,
};
use crate::domain::secret::{LinkSecret, TicketSecret};
use crate::domain::sign_in_policy::PasswordRulesSet;
use crate::domain::time::Timestamp;
use crate::domain::user::{ChangeCause, PasswordFlaw, User};
use crate::domain::violation::{Describe as _, Violations};
use crate::error::{Error, Outage, Result};
use crate::store::Connection;
use crate::store::sign_in_policy::policy_read;

/// A command to judge a password that is not set.
#[derive(Debug)]
pub struct CheckPasswordStrength {
    /// The password. `None` if what was sent cannot be one.
    pub password: Option<PlainPassword>,
    /// Words that an attacker would try first.
    pub user_inputs: Vec<String>,
}

/// What was found out about a password.
#[derive(Debug)]
pub struct Judged {
    /// How hard it is to guess.
    pub strength: Strength,
    /// The rules that it breaks, except reuse.
    pub broken: Vec<RuleBroken>,
}

/// What a sign-in found out about the password that it proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::app) enum Review {
    /// It did not look, or it will at the next sign-in.
    NotDue,
    /// The password keeps the rules.
    Fit {
        /// When the rules were read.
        judged_at: Timestamp,
    },
    /// The password must be changed.
    Flawed(PasswordFlaw),
}

impl App {
    /// Reads the rules for new passwords: those of the policy, and where it has none, those of the configuration.
    pub async fn password_rules(&self) -> Result<PasswordRules> {
        self.password_rules_in(self.store.reader()).await
    }

    /// Does the same in a transaction.
    pub(in crate::app) async fn password_rules_in(&self, c: &impl Connection) -> Result<PasswordRules> {
        Ok(self.in_force(policy_read(c).await?.password_rules))
    }

    /// The rules that are in force if the policy has these. Without a list, no password is known to be leaked.
    pub fn in_force(&self, set: PasswordRulesSet) -> PasswordRules {
        let rules = self.rules_of(set);
        PasswordRules { reject_breached: rules.reject_breached && self.breach_list().is_some(), ..rules }
    }

    /// The rules that the policy has with these, and the configuration where it has none.
    pub fn rules_of(&self, set: PasswordRulesSet) -> PasswordRules {
        set.over(self.settings.password_rules)
    }

    /// The words that an attacker tries first for a user.
    pub(in crate::app) fn words_of(&self, user: &User) -> ContextWords {
        self.words().of_user(&user.username, user.email.as_ref(), user.display_name.as_ref())
    }

    /// The words that an attacker tries first for anybody.
    pub(in crate::app) fn words(&self) -> ContextWords {
        ContextWords::of_organisation(&self.settings.organisation)
    }

    /// Checks a new password against the rules. The error names every rule that it breaks.
    pub(in crate::app) async fn accept(
        &self,
        permit: &HashPermit,
        field: &str,
        parsed: Result<PlainPassword, PasswordFault>,
        words: ContextWords,
    ) -> Result<AcceptedPassword> {
        let password = match parsed {
            Ok(password) => password,
            Err(PasswordFault::NotText) => return Err(rejected(field, &[RuleBroken::NotText])),
            Err(fault) => return Err(Error::InvalidInput(Violations::of(field, fault.fault(), fault.to_string()))),
        };
        let accepted =
            self.weigh(permit, password, words, |rules, password, evidence| rules.accept(password, evidence));
        accepted.await?.map_err(|broken| rejected(field, &broken))
    }

    /// Judges a password for any caller. One source can do so thirty times a minute.
    pub async fn check_password_strength(&self, caller: &Caller, command: CheckPasswordStrength) -> Result<Judged> {
        let _turn = self.enter_strength_check(caller).await?;
        let Some(password) = command.password else {
            let strength = Strength { score: 0, guesses_log10: 0.0, hint: Hint::default() };
            return Ok(Judged { strength, broken: vec![RuleBroken::NotText] });
        };
        let words = command.user_inputs.iter().fold(self.words(), |words, input| words.and(input));
        self.judge_password(password, words).await
    }

    /// Judges a password for the holder of a ticket that changes it, before the ticket is used. Fails with
    /// [`Unauthenticated::TicketInvalid`] if the ticket is invalid.
    pub async fn judge_for_ticket(
        &self,
        caller: &Caller,
        ticket: Option<&TicketSecret>,
        password: PlainPassword,
    ) -> Result<Judged> {
        let _entry = self.enter(caller).await?;
        match self.live_ticket(ticket).await? {
            Some((_, _, account)) => self.judge_password(password, self.words_of(&account.user)).await,
            None => self.ticket_invalid(caller).await,
        }
    }

    /// Does the same for the holder of a link.
    pub async fn judge_for_link(
        &self,
        caller: &Caller,
        link: Option<&LinkSecret>,
        password: PlainPassword,
    ) -> Result<Judged> {
        let _entry = self.enter(caller).await?;
        let (_, user) = self.live_link(caller, link).await?;
        self.judge_password(password, self.words_of(&user)).await
    }

    /// Judges a password that is not set. Passwords of before are not compared: this would be a way to guess them.
    async fn judge_password(&self, password: PlainPassword, words: ContextWords) -> Result<Judged> {
        let permit = self.admit_to_judge()?;
        let judged = self.weigh(&permit, password, words, |rules, password, evidence| Judged {
            strength: evidence.strength,
            broken: rules.broken_by(&password, evidence),
        });
        judged.await
    }

    /// Finds out about a password what the rules ask for, and has `judge` apply them, on a hashing thread.
    async fn weigh<T: Send + 'static>(
        &self,
        permit: &HashPermit,
        password: PlainPassword,
        words: ContextWords,
        judge: impl FnOnce(PasswordRules, PlainPassword, Evidence<'_>) -> T + Send + 'static,
    ) -> Result<T> {
        let rules = self.password_rules().await?;
        let list = self.breach_list().filter(|_| rules.reject_breached);
        let judged = self.run_permitted(permit, move || {
            let is_breached = is_breached(list.as_deref(), &password)?;
            let strength = strength_of(&password, &words);
            Ok(judge(rules, password, Evidence { words: &words, strength, is_breached }))
        });
        judged.await?
    }

    /// Looks at a password that was just proved, as far as the policy has sign-ins do so. A list of leaked ones that cannot be read
    /// refuses new passwords, but no sign-in: the next one looks again.
    pub(in crate::app) async fn review(&self, proof: &Proof<'_>, password: Option<&PlainPassword>) -> Review {
        let (user, now) = (&proof.account.user, self.now());
        let (Some(password), None | Some(ChangeCause::Policy)) = (password, user.change_cause(now)) else {
            return Review::NotDue;
        };
        if user.policy.checks_breached && self.is_leaked(proof, password).await {
            return Review::Flawed(PasswordFlaw::Breached);
        }
        if !user.is_judgement_due(now) {
            return Review::NotDue;
        }
        let words = self.words_of(user);
        let judged = self.weigh(proof.attempt.permit(), password.copy(), words, |rules, password, evidence| {
            rules.broken_by(&password, evidence)
        });
        match judged.await {
            Ok(broken) if broken.is_empty() => Review::Fit { judged_at: now },
            Ok(broken) if broken.contains(&RuleBroken::Breached) => Review::Flawed(PasswordFlaw::Breached),
            Ok(_) => Review::Flawed(PasswordFlaw::AgainstPolicy),
            Err(_) => Review::NotDue,
        }
    }

    async fn is_leaked(&self, proof: &Proof<'_>, password: &PlainPassword) -> bool {
        let (Some(list), password) = (self.breach_list(), password.copy()) else { return false };
        let found = self.run_permitted(proof.attempt.permit(), move || is_breached(Some(&list), &password)).await;
        found.and_then(|found| found).unwrap_or(false)
    }

    /// Loads the lists of common words, which takes a tenth of a second the first time.
    pub async fn warm_up(&self) {
        let words = self.words();
        if let Ok(permit) = self.admit_to_judge() {
            // Without it, the first password takes longer.
            let _ = self.run_permitted(&permit, move || strength_of(&PlainPassword::decoy(), &words)).await;
        }
    }
}

/// Returns whether a password is in the list. A list that cannot be read refuses new passwords: it must not pass for empty.
fn is_breached(list: Option<&BreachList>, password: &PlainPassword) -> Result<bool> {
    let Some(list) = list else { return Ok(false) };
    list.contains(password.expose()).map_err(|error| Error::Unavailable(Outage::BreachList(Box::new(error))))
}

/// The error for a password that breaks these rules.
fn rejected(field: &str, broken: &[RuleBroken]) -> Error {
    let mut violations = Violations::new();
    for rule in broken {
        violations.push_error(field, rule);
    }
    Error::PasswordRejected(violations)
}
