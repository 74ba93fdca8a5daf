//! Judging new passwords: every way to set one asks [`App::accept`].

use crate::app::App;
use crate::crypto::HashPermit;
use crate::domain::caller::Caller;
use crate::domain::password::{
    AcceptedPassword, ContextWords, Evidence, Hint, PasswordFault, PasswordRules, PlainPassword, RuleBroken, Strength,
    strength_of,
};
use crate::domain::user::User;
use crate::domain::violation::{Describe as _, Violations};
use crate::error::{Error, Result};
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

impl App {
    /// Reads the rules for new passwords: those of the policy, and where it has none, those of the configuration.
    pub async fn password_rules(&self) -> Result<PasswordRules> {
        self.password_rules_in(self.store.reader()).await
    }

    /// Does the same in a transaction.
    pub(in crate::app) async fn password_rules_in(&self, c: &impl Connection) -> Result<PasswordRules> {
        Ok(policy_read(c).await?.password_rules.over(self.settings.password_rules))
    }

    /// The words that an attacker tries first for a user.
    pub(in crate::app) fn words_of(&self, user: &User) -> ContextWords {
        self.words().of_user(&user.username, user.email.as_ref(), user.display_name.as_ref())
    }

    /// The words that an attacker tries first for anybody.
    pub fn words(&self) -> ContextWords {
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
        let rules = self.password_rules().await?;
        let accepted = self.run_permitted(permit, move || {
            let strength = strength_of(&password, &words);
            rules.accept(password, Evidence { words: &words, strength, is_breached: false })
        });
        accepted.await?.map_err(|broken| rejected(field, &broken))
    }

    /// The rules for new passwords where the policy has none.
    pub fn configured_password_rules(&self) -> PasswordRules {
        self.settings.password_rules
    }

    /// Judges a password for a caller whom nobody knows. One source can do so thirty times a minute.
    pub async fn check_password_strength(&self, caller: &Caller, command: CheckPasswordStrength) -> Result<Judged> {
        let _turn = self.enter_strength_check(caller).await?;
        let Some(password) = command.password else {
            let strength = Strength { score: 0, guesses_log10: 0.0, hint: Hint::default() };
            return Ok(Judged { strength, broken: vec![RuleBroken::NotText] });
        };
        let words = command.user_inputs.iter().fold(self.words(), |words, input| words.and(input));
        self.judge_password(password, words).await
    }

    /// Judges a password that is not set. Passwords of before are not compared: this would be a way to guess them.
    pub async fn judge_password(&self, password: PlainPassword, words: ContextWords) -> Result<Judged> {
        let rules = self.password_rules().await?;
        let permit = self.admit_to_judge()?;
        self.run_permitted(&permit, move || {
            let strength = strength_of(&password, &words);
            let evidence = Evidence { words: &words, strength, is_breached: false };
            Judged { strength, broken: rules.broken_by(&password, evidence) }
        })
        .await
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

/// The error for a password that breaks these rules.
fn rejected(field: &str, broken: &[RuleBroken]) -> Error {
    let mut violations = Violations::new();
    broken.iter().for_each(|broken| violations.push_error(field, broken));
    Error::PasswordRejected(violations)
}
