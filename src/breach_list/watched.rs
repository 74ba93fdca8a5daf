//! The list that a server uses, which follows its file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::list::FileVersion;
use super::{BreachList, BreachListError};

/// The list in use, if one is configured.
#[derive(Debug, Default)]
pub struct BreachLists {
    path: Option<PathBuf>,
    current: RwLock<Option<Arc<BreachList>>>,
    refused: Mutex<Option<Refusal>>,
}

/// A file that was found unusable, so that it is neither read nor reported again and again.
#[derive(Debug, Clone)]
struct Refusal {
    /// `None` if there was no file.
    version: Option<FileVersion>,
    error: String,
    /// Whether the file may become usable without a change, as when it could not be opened.
    may_pass: bool,
}

/// What a look at the file led to.
#[derive(Debug)]
pub enum Reloaded {
    /// The list stays.
    Unchanged,
    /// There is a new list.
    Taken(Arc<BreachList>),
    /// The new file is not usable, and the old list stays. Returned once for each file.
    Refused(BreachListError),
}

impl BreachLists {
    /// Opens the list at this path. Without a path there is none.
    pub fn open(path: Option<&Path>) -> Result<BreachLists, BreachListError> {
        let current = path.map(BreachList::open).transpose()?.map(Arc::new);
        Ok(BreachLists { path: path.map(Path::to_owned), current: RwLock::new(current), refused: Mutex::default() })
    }

    /// The list in use; `None` if none is configured.
    pub fn current(&self) -> Option<Arc<BreachList>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the file at the path was not usable at the last look. `None` if it was.
    pub fn problem(&self) -> Option<String> {
        self.refused().map(|refusal| refusal.error)
    }

    /// Looks whether there is another file at the path. Reads it wholly, and uses it from then on if it is good.
    ///
    /// A file that was refused is read again only once it has changed, or `again`.
    pub fn reload_if_changed(&self, again: bool) -> Reloaded {
        let (Some(path), Some(current)) = (&self.path, self.current()) else { return Reloaded::Unchanged };
        let version = std::fs::metadata(path).ok().map(|found| FileVersion::of(&found));
        if version == Some(current.version()) {
            self.set_refused(None);
            return Reloaded::Unchanged;
        }
        let known = self.refused().filter(|refusal| refusal.version == version && !again);
        if known.as_ref().is_some_and(|refusal| !refusal.may_pass) {
            return Reloaded::Unchanged;
        }
        match BreachList::open(path).and_then(|list| list.verify().map(|()| Arc::new(list))) {
            Ok(list) => {
                self.set_refused(None);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&list));
                Reloaded::Taken(list)
            }
            Err(error) => {
                let text = error.to_string();
                let is_known = known.is_some_and(|refusal| refusal.error == text);
                let may_pass = matches!(error, BreachListError::Io { .. });
                self.set_refused(Some(Refusal { version, error: text, may_pass }));
                if is_known { Reloaded::Unchanged } else { Reloaded::Refused(error) }
            }
        }
    }

    fn refused(&self) -> Option<Refusal> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_refused(&self, refusal: Option<Refusal>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }
}
