//! Which notices users get.

use super::key::{Allowed, Value};
use crate::domain::delivery::{LetterKind, NAMED_NOTICES};

/// The notices that users get.
#[derive(Debug, Clone)]
pub(super) struct Notices(pub(super) Vec<LetterKind>);

/// The names of notices.
pub(super) const NOTICES: Allowed =
    Allowed::Text("names of notices, separated by commas, or `off`", |text| Notices::read(text).is_some());

impl Default for Notices {
    fn default() -> Notices {
        Notices(NAMED_NOTICES.map(|(_, kind)| kind).to_vec())
    }
}

impl Value for Notices {
    fn read(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Notices(Vec::new()));
        }
        let kind =
            |name: &str| NAMED_NOTICES.into_iter().find(|(known, _)| *known == name.trim()).map(|(_, kind)| kind);
        text.split(',').map(kind).collect::<Option<_>>().map(Notices)
    }

    fn write(&self) -> String {
        let names: Vec<&str> = self.0.iter().filter_map(|kind| kind.notice()).collect();
        if names.is_empty() { "off".to_owned() } else { names.join(",") }
    }
}
