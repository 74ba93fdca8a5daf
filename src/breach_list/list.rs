//! Reads a list in place.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use super::BreachListError;
use super::format::{self, HEADER_LEN, HashStart, Header, MAGIC, SHA1_LEN, Shard, Unreadable, checksum, decode_table};

/// Differs once a file was written to or replaced: device, inode number and length, and the times of the last write and of the
/// last change of the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileVersion([u64; 3], [i64; 4]);

impl FileVersion {
    pub(super) fn of(found: &std::fs::Metadata) -> FileVersion {
        let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
        FileVersion([found.dev(), found.ino(), found.len()], times)
    }
}

/// An open list.
///
/// The checksum of a shard is compared when the shard is first used, and again once the file was written to. So a damaged file
/// gives an error, never a wrong answer.
#[derive(Debug)]
pub struct BreachList {
    path: PathBuf,
    file: File,
    /// The file as it was when it was opened.
    version: FileVersion,
    header: Header,
    table: Vec<u8>,
    shards: Vec<Shard>,
    /// The file as it was when it was last used, and how many times it has changed until then.
    seen: Mutex<(FileVersion, u64)>,
    /// For each shard, the number of changes at which its checksum was right.
    verified: Vec<AtomicU64>,
}

/// What a shard has whose checksum was never compared.
const NEVER: u64 = u64::MAX;

impl BreachList {
    /// Opens a list. Checks its header, its table and its length.
    pub fn open(path: &Path) -> Result<BreachList, BreachListError> {
        let io = BreachListError::io(path);
        // To open a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(&io)?.is_file() {
            return Err(BreachListError::Foreign(path.to_owned()));
        }
        let file = File::open(path).map_err(&io)?;
        let found = file.metadata().map_err(&io)?;
        let version = FileVersion::of(&found);
        let head = read_head(&file, path, found.len())?;
        let header = Header::decode(&head).map_err(|fault| match fault {
            Unreadable::Foreign => BreachListError::Foreign(path.to_owned()),
            Unreadable::Version(found) => BreachListError::Version { path: path.to_owned(), found },
            Unreadable::Damaged => BreachListError::damaged(path, "its header"),
        })?;
        let length = |expected| BreachListError::Length { path: path.to_owned(), found: found.len(), expected };
        if found.len() < Header::first_offset(header.shards) {
            return Err(length(header.length));
        }
        let mut table = vec![0; header.table_len()];
        file.read_exact_at(&mut table, HEADER_LEN as u64).map_err(&io)?;
        if !Header::is_intact(&head, &table) {
            return Err(BreachListError::damaged(path, "its header"));
        }
        if header.length != found.len() {
            return Err(length(header.length));
        }
        let shards = decode_table(&header, &table).ok_or_else(|| BreachListError::damaged(path, "its table"))?;
        let verified = shards.iter().map(|_| AtomicU64::new(NEVER)).collect();
        let seen = Mutex::new((version, 0));
        Ok(BreachList { path: path.to_owned(), file, version, header, table, shards, seen, verified })
    }

    /// The path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file as it was when it was opened.
    pub(super) fn version(&self) -> FileVersion {
        self.version
    }

    /// Returns whether a password was leaked. One in 57 000 others is taken for leaked too.
    pub fn contains(&self, password: &str) -> Result<bool, BreachListError> {
        self.has(HashStart::of_password(password))
    }

    /// Returns whether a password with this SHA-1 was leaked.
    pub fn contains_sha1(&self, sha1: &[u8; SHA1_LEN]) -> Result<bool, BreachListError> {
        self.has(HashStart::of_sha1(sha1))
    }

    fn has(&self, hash: HashStart) -> Result<bool, BreachListError> {
        let number = hash.leading(self.header.shard_bits());
        let Some(shard) = self.shards.get(number).filter(|shard| shard.keys > 0) else { return Ok(false) };
        let (mut fingerprint, slots) = shard.probe(hash.key());
        let changes = self.changes()?;
        if self.verified.get(number).is_some_and(|verified| verified.load(Ordering::Relaxed) == changes) {
            for slot in slots {
                let mut found = [0; 2];
                self.file.read_exact_at(&mut found, shard.offset + 2 * slot).map_err(self.io())?;
                fingerprint ^= u16::from_le_bytes(found);
            }
            return Ok(fingerprint == 0);
        }
        let bytes = self.read_shard(number, shard, changes)?;
        let (found, _) = bytes.as_chunks::<2>();
        for slot in slots {
            let found = usize::try_from(slot).ok().and_then(|slot| found.get(slot));
            let found = found.ok_or_else(|| self.damaged(number))?;
            fingerprint ^= u16::from_le_bytes(*found);
        }
        Ok(fingerprint == 0)
    }

    /// Reads the whole file. Compares every checksum and the digest.
    pub fn verify(&self) -> Result<(), BreachListError> {
        let mut digest = Context::new(&SHA256);
        let changes = self.changes()?;
        for (number, shard) in self.shards.iter().enumerate() {
            digest.update(&self.read_shard(number, shard, changes)?);
        }
        digest.update(&self.table);
        if format::finished(digest) != self.header.digest {
            return Err(BreachListError::damaged(&self.path, "its contents: the digest is another"));
        }
        // What was read is what is in the file now.
        if self.changes()? == changes {
            return Ok(());
        }
        Err(BreachListError::damaged(&self.path, "its contents: it was written to meanwhile"))
    }

    /// Reads a shard and compares its checksum. `changes` are those before.
    fn read_shard(&self, number: usize, shard: &Shard, changes: u64) -> Result<Vec<u8>, BreachListError> {
        let mut bytes = vec![0; usize::try_from(shard.len()).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, shard.offset).map_err(self.io())?;
        if checksum(&[&bytes]) != shard.checksum {
            return Err(self.damaged(number));
        }
        if let Some(verified) = self.verified.get(number) {
            verified.store(changes, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    /// Returns how many times the file has changed since it was opened, as far as was noticed.
    fn changes(&self) -> Result<u64, BreachListError> {
        let found = FileVersion::of(&self.file.metadata().map_err(self.io())?);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != found {
            *seen = (found, seen.1 + 1);
        }
        Ok(seen.1)
    }

    fn io(&self) -> impl Fn(io::Error) -> BreachListError {
        BreachListError::io(&self.path)
    }

    fn damaged(&self, shard: usize) -> BreachListError {
        BreachListError::damaged(&self.path, format!("shard {shard}"))
    }
}

/// Reads the header. A file that begins like a list, but ends before the header does, is incomplete.
fn read_head(file: &File, path: &Path, length: u64) -> Result<[u8; HEADER_LEN], BreachListError> {
    let mut head = [0; HEADER_LEN];
    let available = usize::try_from(length).unwrap_or(HEADER_LEN).min(HEADER_LEN);
    let start = head.get_mut(..available).unwrap_or_default();
    file.read_exact_at(start, 0).map_err(BreachListError::io(path))?;
    if available == HEADER_LEN {
        return Ok(head);
    }
    Err(if start.starts_with(&MAGIC) {
        BreachListError::Length { path: path.to_owned(), found: length, expected: HEADER_LEN as u64 }
    } else {
        BreachListError::Foreign(path.to_owned())
    })
}
