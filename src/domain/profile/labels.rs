//! Labels: free-form key-value annotations of a user.

use std::collections::BTreeMap;

use crate::domain::text::{TextFault, plain_text};
use crate::domain::violation::{Describe, Fault};

/// Maximum number of labels per user.
const MAX_LABELS: usize = 32;

/// Maximum length of a key in bytes.
const MAX_KEY_BYTES: usize = 63;

/// Maximum length of a value in bytes.
const MAX_VALUE_BYTES: usize = 256;

/// The labels of a user. Keys: 1 to 63 characters of `[a-z0-9._/-]`. Values: 1 to 256 bytes. At most 32 labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

/// Labels to set and to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelChanges(BTreeMap<String, Option<String>>);

/// What is wrong with a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelFault {
    /// Too many labels.
    #[error("a user has at most {MAX_LABELS} labels")]
    TooMany,
    /// A malformed key.
    #[error("a label key has 1 to {MAX_KEY_BYTES} characters: a to z, digits and . _ / -")]
    Key,
    /// An invalid value.
    #[error("{fault}")]
    Value {
        /// The key, which is valid.
        key: String,
        /// What is wrong with the value.
        fault: TextFault,
    },
}

impl Labels {
    /// Parses labels. The error lists every fault, but a malformed key only once.
    pub fn parse<I>(pairs: I) -> Result<Labels, Vec<LabelFault>>
    where
        I: IntoIterator<Item = (String, String)>,
    {
        checked(pairs, false)
            .map(|labels| Labels(labels.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()))
    }

    /// Iterates over the labels, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels as a map, sorted by key.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl LabelChanges {
    /// Parses changes. An empty value removes the label. Errors as in [`Labels::parse`].
    pub fn parse<I>(pairs: I) -> Result<LabelChanges, Vec<LabelFault>>
    where
        I: IntoIterator<Item = (String, String)>,
    {
        checked(pairs, true).map(LabelChanges)
    }

    /// Returns whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies the changes; labels that are not named stay. Returns an error if there would be too many.
    pub fn apply(&self, labels: &Labels) -> Result<Labels, LabelFault> {
        let mut changed = labels.0.clone();
        for (key, value) in &self.0 {
            match value {
                Some(value) => changed.insert(key.clone(), value.clone()),
                None => changed.remove(key),
            };
        }
        if changed.len() > MAX_LABELS { Err(LabelFault::TooMany) } else { Ok(Labels(changed)) }
    }
}

/// Checks at most as many pairs as a user can have labels. If `may_be_empty`, an empty value becomes `None`.
fn checked<I>(pairs: I, may_be_empty: bool) -> Result<BTreeMap<String, Option<String>>, Vec<LabelFault>>
where
    I: IntoIterator<Item = (String, String)>,
{
    let mut sound = BTreeMap::new();
    let mut faults = Vec::new();
    let mut pairs = pairs.into_iter();
    for (key, value) in pairs.by_ref().take(MAX_LABELS) {
        if !is_key(&key) {
            if !faults.contains(&LabelFault::Key) {
                faults.push(LabelFault::Key);
            }
        } else if value.is_empty() && may_be_empty {
            sound.insert(key, None);
        } else if let Err(fault) = value_fault(&value) {
            faults.push(LabelFault::Value { key, fault });
        } else {
            sound.insert(key, Some(value));
        }
    }
    // The remaining pairs are not read, because a request of a megabyte can contain very many.
    if pairs.next().is_some() {
        faults.push(LabelFault::TooMany);
    }
    if faults.is_empty() { Ok(sound) } else { Err(faults) }
}

fn is_key(key: &str) -> bool {
    let is_key_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._/-".contains(&byte);
    (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(is_key_byte)
}

fn value_fault(value: &str) -> Result<(), TextFault> {
    if value.is_empty() { Err(TextFault::Empty) } else { plain_text(value, MAX_VALUE_BYTES) }
}

impl Describe for LabelFault {
    fn fault(&self) -> Fault {
        match self {
            LabelFault::TooMany => Fault::TooMany,
            LabelFault::Key => Fault::Malformed,
            LabelFault::Value { fault, .. } => fault.fault(),
        }
    }

    fn map_key(&self) -> Option<&str> {
        match self {
            LabelFault::Value { key, .. } => Some(key),
            LabelFault::TooMany | LabelFault::Key => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::violation::Violations;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn many(count: usize) -> Vec<(String, String)> {
        (0..count).map(|n| (format!("k{n}"), "v".to_owned())).collect()
    }

    #[test]
    fn changes_are_merged() -> Result<(), Vec<LabelFault>> {
        let labels = Labels::parse(pairs(&[("team", "red"), ("site", "Köln"), ("example.org/cost-centre", "7")]))?;
        let changes = LabelChanges::parse(pairs(&[("team", "blue"), ("site", ""), ("floor", "3"), ("absent", "")]))?;
        let merged = changes.apply(&labels).map_err(|fault| vec![fault])?;
        let expected = [("example.org/cost-centre", "7"), ("floor", "3"), ("team", "blue")];
        assert!(merged.iter().eq(expected));
        Ok(())
    }

    #[test]
    fn every_fault_is_told_and_names_its_label() {
        let wrong = pairs(&[("Team", "red"), ("", "x"), ("site", ""), ("floor", "a\0b"), ("room", &"x".repeat(257))]);
        let mut violations = Violations::new();
        violations.check_all("labels", Labels::parse(wrong));
        let told: Vec<_> = violations.iter().map(|one| (one.field.as_str(), one.reason)).collect();
        let expected = [
            ("labels", Fault::Malformed),
            ("labels[site]", Fault::Required),
            ("labels[floor]", Fault::ForbiddenCharacter),
            ("labels[room]", Fault::TooLong),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_user_has_at_most_32() -> Result<(), Vec<LabelFault>> {
        assert_eq!(Labels::parse(many(33)), Err(vec![LabelFault::TooMany]));
        let full = Labels::parse(many(32))?;
        let one_more = LabelChanges::parse(pairs(&[("one-more", "v")]))?;
        assert_eq!(one_more.apply(&full), Err(LabelFault::TooMany));
        let exchange = LabelChanges::parse(pairs(&[("one-more", "v"), ("k0", "")]))?;
        assert!(exchange.apply(&full).is_ok());
        Ok(())
    }
}
