//! What the sources give for each key, before it is understood.

use secrecy::{ExposeSecret, SecretString};

use super::key::{Key, Value};
use super::problem::{Origin, Problems};

/// What was given for a key. The text may hold a password.
struct Setting {
    key: &'static str,
    text: SecretString,
    origin: Origin,
}

/// Everything that was given; of two settings of one key the later one wins.
#[derive(Default)]
pub(super) struct Given {
    settings: Vec<Setting>,
    /// One for each removed key that is still set.
    pub(super) warnings: Vec<String>,
}

impl Given {
    pub(super) fn push(&mut self, key: &'static Key, text: &str, origin: Origin) {
        self.settings.push(Setting { key: key.name, text: SecretString::from(text), origin });
    }

    /// The value of a key. Values that lose to a later one are checked too: they would be wrong
    /// on the day when the later one goes.
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

    /// Where the value of a key comes from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        let setting = self.settings.iter().rfind(|setting| setting.key == key);
        setting.map_or(Origin::Default, |setting| setting.origin.clone())
    }
}
