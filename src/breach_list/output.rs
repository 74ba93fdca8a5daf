//! A file that gets its name when it is complete.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::error::BuildError;
use super::format::MAGIC;

/// A list that is being written, beside its final path and locked. Deleted if it is dropped unfinished.
///
/// A process that is killed leaves its file, and the next build to the same path writes over it.
pub(super) struct Output {
    pub(super) file: File,
    temporary: PathBuf,
    path: PathBuf,
    is_finished: bool,
}

impl Output {
    /// Creates the file. Fails if `path` is something that is not a list: it could be the input.
    pub(super) fn create(path: &Path) -> Result<Output, BuildError> {
        check_replaceable(path)?;
        let name = path.file_name().ok_or_else(|| BuildError::NotReplaced(path.to_owned()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".building");
        let temporary = path.with_file_name(hidden);
        let file = open_locked(&temporary, path)?;
        let output = Output { file, temporary, path: path.to_owned(), is_finished: false };
        output.file.set_len(0).map_err(BuildError::write(path))?;
        Ok(output)
    }

    /// The folder of the file.
    pub(super) fn folder(path: &Path) -> &Path {
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// Gives the file its name, durably.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        self.is_finished = true;
        File::open(Output::folder(&self.path))?.sync_all()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.is_finished {
            // The next build would write over it.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Opens the file and locks it, so that only one build writes to it.
fn open_locked(temporary: &Path, path: &Path) -> Result<File, BuildError> {
    let failed = BuildError::write(path);
    loop {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(temporary);
        let file = options.map_err(&failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BuildError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Another build may have finished or failed since: the file then has another name, or none.
        let (own, found) = (file.metadata().map_err(&failed)?, std::fs::metadata(temporary));
        if found.is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino())) {
            return Ok(file);
        }
    }
}

/// Checks that there is nothing at the path, or an earlier list.
fn check_replaceable(path: &Path) -> Result<(), BuildError> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BuildError::write(path)(error)),
    };
    let mut magic = MAGIC.map(|_| 0);
    let is_list = found.is_file()
        && File::open(path).and_then(|file| file.read_exact_at(&mut magic, 0)).is_ok()
        && magic == MAGIC;
    if is_list { Ok(()) } else { Err(BuildError::NotReplaced(path.to_owned())) }
}
