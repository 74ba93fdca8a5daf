//! The list of leaked passwords: a file that tells whether a password is among billions of known ones.
//!
//! The file has a binary fuse filter for each of up to 65 536 shards, which takes 2.3 bytes a password. A password that is in
//! the list is always found; of the others, one in 57 000 is taken for leaked. The file is built once, by
//! `latchkeyd breach-list build`, and read in place: a question takes three reads of two bytes.
//!
//! | file | what |
//! | --- | --- |
//! | `error.rs` | what can go wrong |
//! | `format.rs` | the bytes of the file |
//! | `input.rs` | the hashes that a list is built from |
//! | `output.rs` | the file of a list that is being built |
//! | `spool.rs` | the hashes on disk, while they are sorted |
//! | `build.rs` | writes a list |
//! | `list.rs` | reads one |
//! | `watched.rs` | the list that a server uses, which follows its file |
//!
//! Everything here blocks. Nothing here logs.

mod build;
mod error;
mod format;
mod input;
mod list;
mod output;
mod spool;
mod watched;

pub use self::build::{Build, Built, Progress, build};
pub use self::error::{BreachListError, BuildError, LineFault};
pub use self::format::{Header, VERSION};
pub use self::list::BreachList;
pub use self::watched::{BreachLists, Reloaded};

#[cfg(test)]
mod tests;
