//! The hashes on disk, while they are sorted: in buckets by their first bits, so that one bucket fits into memory.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::format::HashStart;

/// The bits that select the bucket.
const BUCKET_BITS: u32 = 10;
/// The number of buckets. Of a billion hashes, one holds a million, which take 16 MB to sort.
pub(super) const BUCKETS: usize = 1 << BUCKET_BITS;
/// The length of a hash on disk.
const RECORD: usize = HashStart::BITS as usize / 8;
/// The length of a block, the unit in which buckets are written. All buckets together have 12 MB of blocks in memory.
const BLOCK: usize = 1024 * RECORD;

/// Hashes in buckets.
pub(super) struct Spool {
    /// Without a name, so that nothing is left of it if the process is killed.
    file: File,
    buckets: Vec<Bucket>,
    /// The number of blocks on disk.
    blocks: u32,
    last: Option<HashStart>,
    is_sorted: bool,
    /// The number of hashes that equal the one before.
    repeated: u64,
    /// The number of hashes in all buckets.
    kept: u64,
}

#[derive(Default)]
struct Bucket {
    /// The blocks on disk, by number.
    blocks: Vec<u32>,
    /// What is not yet a block.
    tail: Vec<u8>,
}

impl Spool {
    /// Creates an empty spool in this folder.
    pub(super) fn new(folder: &Path) -> io::Result<Spool> {
        let buckets = std::iter::repeat_with(Bucket::default).take(BUCKETS).collect();
        let file = tempfile::tempfile_in(folder)?;
        Ok(Spool { file, buckets, blocks: 0, last: None, is_sorted: true, repeated: 0, kept: 0 })
    }

    /// Adds a hash, unless it equals the one before.
    pub(super) fn push(&mut self, hash: HashStart) -> io::Result<()> {
        if self.last == Some(hash) {
            self.repeated += 1;
            return Ok(());
        }
        self.is_sorted &= self.last < Some(hash);
        self.last = Some(hash);
        self.kept += 1;
        let Some(bucket) = self.buckets.get_mut(hash.leading(BUCKET_BITS)) else { return Ok(()) };
        let [_, _, _, _, record @ ..] = hash.bits().to_be_bytes();
        bucket.tail.extend_from_slice(&record);
        if bucket.tail.len() == BLOCK {
            self.file.write_all(&bucket.tail)?;
            bucket.tail.clear();
            bucket.blocks.push(self.blocks);
            self.blocks = self.blocks.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        }
        Ok(())
    }

    /// The number of hashes pushed.
    pub(super) fn pushed(&self) -> u64 {
        self.kept + self.repeated
    }

    /// The number of different hashes, if they came in order. Otherwise they must be counted.
    pub(super) fn different(&self) -> Option<u64> {
        self.is_sorted.then_some(self.kept)
    }

    /// Reads a bucket: its different hashes in order.
    pub(super) fn bucket(&self, number: usize, hashes: &mut Vec<HashStart>) -> io::Result<()> {
        hashes.clear();
        let Some(bucket) = self.buckets.get(number) else { return Ok(()) };
        let mut block = vec![0; BLOCK];
        for number in &bucket.blocks {
            self.file.read_exact_at(&mut block, u64::from(*number) * BLOCK as u64)?;
            hashes.extend(records(&block));
        }
        hashes.extend(records(&bucket.tail));
        hashes.sort_unstable();
        hashes.dedup();
        Ok(())
    }
}

fn records(block: &[u8]) -> impl Iterator<Item = HashStart> {
    let number = |record: &[u8; RECORD]| record.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte));
    block.as_chunks::<RECORD>().0.iter().map(move |record| HashStart::from_bits(number(record)))
}
