//! The rules of throttle and lockout in force: those of the policy, and where it has none, those of the configuration.
//!
//! An attempt must not wait for another query, so each replica keeps a copy. It is replaced with the policy on the replica that
//! changes it, and read again each second by the others.

use std::sync::{PoisonError, RwLock};

use super::App;
use crate::domain::lockout::{Contradiction, ThrottleRules};
use crate::domain::sign_in_policy::ThrottleRulesSet;
use crate::domain::time::written;
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Result};
use crate::store::sign_in_policy::policy_read;

/// A copy of the rules in force.
pub(super) struct RulesInForce {
    rules: RwLock<ThrottleRules>,
    /// Held while the policy is read and the copy replaced, so that an older policy never replaces a newer one.
    reading: tokio::sync::Mutex<()>,
}

impl RulesInForce {
    pub(super) fn new(configured: ThrottleRules) -> RulesInForce {
        RulesInForce { rules: RwLock::new(configured), reading: tokio::sync::Mutex::default() }
    }

    pub(super) fn rules(&self) -> ThrottleRules {
        *self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the copy, and returns whether it changed.
    fn replace(&self, rules: ThrottleRules) -> bool {
        let mut current = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let has_changed = *current != rules;
        *current = rules;
        has_changed
    }
}

impl App {
    /// The rules that are in force if the policy has these.
    pub fn throttle_rules_of(&self, set: ThrottleRulesSet) -> ThrottleRules {
        set.over(self.settings.throttle)
    }

    /// Reads the rules of the policy. If they are not readable, the copy stays as it is: a broken row must not turn a limit off.
    pub async fn follow_throttle_rules(&self) -> Result<()> {
        let _reading = self.throttle.reading.lock().await;
        let rules = self.throttle_rules_of(policy_read(self.store.reader()).await?.throttle);
        if self.throttle.replace(rules) && !rules.contradictions().is_empty() {
            // Each is checked where it is set, so the configuration was changed after the policy.
            tracing::warn!(
                "the limits on wrong passwords in the policy and in the configuration contradict each other; \
                 see `latchkey policy show`"
            );
        }
        Ok(())
    }

    /// Does the same for the changes of other replicas. While the database is not usable, no replica makes one.
    pub async fn follow_other_replicas(&self) -> Result<()> {
        if self.ready() { self.follow_throttle_rules().await } else { Ok(()) }
    }

    /// Reads the rules before the first attempt. A broken row leaves those of the configuration in force.
    pub async fn first_throttle_rules(&self) -> Result<()> {
        match self.follow_throttle_rules().await {
            Err(error) if !matches!(error, Error::Unavailable(_)) => {
                tracing::error!(
                    reason = error.reason().as_str(),
                    "the policy is not readable; the limits on wrong passwords are as configured"
                );
                Ok(())
            }
            result => result,
        }
    }
}

/// Adds a violation for each contradiction of the rules that a change of the policy would put in force.
pub(super) fn check_contradictions(rules: ThrottleRules, faults: &mut Violations) {
    for contradiction in rules.contradictions() {
        let (field, fault) = match contradiction {
            Contradiction::InitialAboveMax => {
                ("policy.throttle_initial", format!("is more than throttle_max, which is {}", written(rules.max)))
            }
            Contradiction::MemoryBelowMax => {
                let fault = format!(
                    "is less than throttle_max, which is {}: a wait would outlast its cause",
                    written(rules.max)
                );
                ("policy.failure_memory", fault)
            }
            Contradiction::LockoutBeforeThrottle => {
                let fault = format!("is not more than throttle_threshold, which is {}", rules.threshold);
                ("policy.lockout_threshold", fault)
            }
        };
        faults.push(field, Fault::Conflict, fault);
    }
}
