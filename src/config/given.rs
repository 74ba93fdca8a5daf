//! The values that the sources give for each key, as text that was not parsed yet.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::key::{Key, Value};
use super::problem::{Origin, Problems};

/// A value for a key. The text may contain a password.
struct Setting {
    key: &'static str,
    text: SecretString,
    origin: Origin,
}

/// All values from all sources. The last of several values for a key wins.
#[derive(Default)]
pub(super) struct Given {
    settings: Vec<Setting>,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// One for each removed key that is still set.
    pub(super) warnings: Vec<String>,
}

impl Given {
    pub(super) fn push(&mut self, key: &'static Key, text: &str, origin: Origin) {
        self.settings.push(Setting { key: key.name, text: SecretString::from(text), origin });
    }

    /// The value of a key, or `None` if it is invalid. Values that a later one overrides are checked too: they would take
    /// effect once the later one is removed.
    pub(super) fn value<T: Value>(&self, key: &Key, default: T, problems: &mut Problems) -> Option<T> {
        let mut value = Some(default);
        for setting in self.settings.iter().filter(|setting| setting.key == key.name) {
            let text = setting.text.expose_secret();
            value = key.read(text);
            if value.is_none() {
                problems.add(setting.origin.clone(), key.refusal(text));
            }
        }
        value
    }

    /// The origin of the value of a key.
    pub(super) fn origin(&self, key: &str) -> Origin {
        let setting = self.settings.iter().rfind(|setting| setting.key == key);
        setting.map_or(Origin::Default, |setting| setting.origin.clone())
    }
}
