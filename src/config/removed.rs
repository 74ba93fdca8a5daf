//! Keys that earlier versions had.

use super::key::variable;
use super::problem::Origin;

/// A key that no longer exists. A start that finds it warns and goes on.
pub(super) struct RemovedKey {
    /// The name that it had, with its section.
    name: &'static str,
    /// The first version without it.
    version: &'static str,
    /// Why it is gone, as it follows a colon.
    reason: &'static str,
}

/// Every removed key.
const REMOVED: [RemovedKey; 1] = [RemovedKey {
    name: "argon2.only_when_idle",
    version: "0.1.0",
    reason: "it gained little, and beside a busy program no user could sign in; hashing always has the lowest priority",
}];

impl RemovedKey {
    /// The removed key with this name.
    pub(super) fn named(name: &str) -> Option<&'static RemovedKey> {
        REMOVED.iter().find(|key| key.name == name)
    }

    /// The removed key that was set by this environment variable.
    pub(super) fn of_variable(name: &str) -> Option<&'static RemovedKey> {
        REMOVED.iter().find(|key| variable(key.name) == name)
    }

    /// The warning for an operator who still sets the key.
    pub(super) fn warning(&self, origin: &Origin) -> String {
        let RemovedKey { name, version, reason } = self;
        format!("{origin}: {name} was removed in version {version} and is ignored: {reason}")
    }
}
