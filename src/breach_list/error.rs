//! Why a list cannot be used or built.

use std::io;
use std::path::{Path, PathBuf};

use super::format::VERSION;

/// Why a list cannot be used. Each message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BreachListError {
    /// The file cannot be read.
    #[error("cannot read the list of leaked passwords {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a list of leaked passwords; make one with: latchkeyd breach-list build", .0.display())]
    Foreign(PathBuf),
    /// Another version of latchkeyd wrote the file.
    #[error(
        "{} is a list of leaked passwords of version {found}, but this latchkeyd reads version {VERSION}; build it again \
         with this latchkeyd",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file is shorter or longer than it was when it was built.
    #[error(
        "the list of leaked passwords {} has {found} bytes instead of {expected}; copy or build it again",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The length that its header states.
        expected: u64,
    },
    /// A checksum is wrong.
    #[error("the list of leaked passwords {} is damaged in {part}; copy or build it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit its checksum.
        part: String,
    },
}

impl BreachListError {
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> BreachListError {
        move |source| BreachListError::Io { path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, part: impl Into<String>) -> BreachListError {
        BreachListError::Damaged { path: path.to_owned(), part: part.into() }
    }
}

/// Why a list was not built. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An input cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line of an input is not a hash.
    #[error("{}:{line}: {fault}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// A folder of range files has a folder in it.
    #[error("{} is a folder within a folder; name it on the command line, or move it away", .0.display())]
    FolderInFolder(PathBuf),
    /// No hash is left.
    #[error("the input has no hash of a password that was leaked{}; a list of nothing is not written", times(*min_count))]
    Empty {
        /// The minimum.
        min_count: u32,
    },
    /// The list, or a temporary file beside it, cannot be written.
    #[error("cannot write {}, or a temporary file beside it: {source}", path.display())]
    Write {
        /// The path of the list.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is something at the path of the list.
    #[error("{} is not a list of leaked passwords and is not replaced; choose another path for --out", .0.display())]
    NotReplaced(PathBuf),
    /// Another process builds the same list.
    #[error("another build of {} is running; wait until it ends", .0.display())]
    Busy(PathBuf),
    /// A filter cannot be built.
    #[error("the filter of shard {0} cannot be built; this is a bug, please report it")]
    Filter(u32),
}

impl BuildError {
    pub(super) fn read(path: &Path) -> impl Fn(io::Error) -> BuildError {
        move |source| BuildError::Read { path: path.to_owned(), source }
    }

    pub(super) fn write(path: &Path) -> impl Fn(io::Error) -> BuildError {
        move |source| BuildError::Write { path: path.to_owned(), source }
    }
}

/// The end of a sentence about passwords that were leaked so often.
fn times(min_count: u32) -> String {
    if min_count > 1 { format!(" {min_count} times or more") } else { String::new() }
}

/// Why a line is not one. Completes the sentence "in line 7: …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Digits of another kind of hash.
    #[error("this is an NTLM hash; download the SHA-1 hashes instead")]
    Ntlm,
    /// Not a hash, or too long a line.
    #[error("expected the 40 hexadecimal digits of a SHA-1, then nothing, or a colon and a number")]
    NoHash,
    /// A line of a range file in a file with another name.
    #[error("35 digits belong into a range file, named by the first 5 digits, such as 0A1B2 or 0A1B2.txt")]
    NoRange,
    /// Nothing or something else than a number after the colon.
    #[error("expected a number after the colon")]
    NoCount,
}
