//! Builds a list: reads the hashes into a spool, then makes one filter after the other.
//!
//! Memory does not grow with the input, apart from a bucket of the spool, which takes 16 MB of a billion hashes. The disk needs
//! 12 bytes a hash until the end.

use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use xorf::BinaryFuse16;

use super::error::BuildError;
use super::format::{self, HashStart, Header, Shard, checksum, shards_for};
use super::input::{ALL_RANGES, Inputs, Leak};
use super::output::Output;
use super::spool::{BUCKETS, Spool};

/// How many times a filter that cannot be built is given more keys.
const ATTEMPTS: u32 = 12;

/// What to build.
#[derive(Debug)]
pub struct Build<'a> {
    /// Files of hashes, and folders of them.
    pub inputs: &'a [PathBuf],
    /// The path of the list. An earlier list is replaced when the new one is complete.
    pub out: &'a Path,
    /// Passwords that were leaked fewer times are left out.
    pub min_count: u32,
    /// The time, in seconds since 1970.
    pub now: i64,
}

/// A list that was built.
#[derive(Debug)]
pub struct Built {
    /// What its header says.
    pub header: Header,
    /// The number of hashes that were there more than once, each time but one.
    pub duplicates: u64,
    /// The number of hashes that were leaked too few times.
    pub rare: u64,
    /// The number of range files that a complete download has and that are missing; 0 if there are none at all.
    pub missing_ranges: u64,
}

/// How far a build is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is being done: a verb.
    pub step: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// How much it is.
    pub total: u64,
}

/// Builds a list.
///
/// # Errors
///
/// Nothing is then left at the path, or the earlier list.
pub fn build(job: &Build<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Built, BuildError> {
    let inputs = Inputs::find(job.inputs)?;
    let output = Output::create(job.out)?;
    let failed = BuildError::write(job.out);
    let mut spool = Spool::new(Output::folder(job.out)).map_err(&failed)?;
    let mut rare = 0;
    let mut take = |leak: Leak| {
        if leak.count < u64::from(job.min_count.max(1)) {
            // Range files can be padded with hashes that were leaked 0 times.
            rare += u64::from(leak.count > 0);
            return Ok(());
        }
        spool.push(leak.hash).map_err(&failed)
    };
    let total = inputs.bytes;
    inputs.read(&mut take, &mut |done| progress(Progress { step: "reading", done, total }))?;

    let keys = match spool.different() {
        Some(keys) => keys,
        None => count(&spool, progress).map_err(&failed)?,
    };
    if keys == 0 {
        return Err(BuildError::Empty { min_count: job.min_count.max(1) });
    }
    let mut writer = Writer::new(&output, shards_for(keys)).map_err(&failed)?;
    let mut hashes = Vec::new();
    for number in 0..BUCKETS {
        progress(Progress { step: "building", done: number as u64, total: BUCKETS as u64 });
        spool.bucket(number, &mut hashes).map_err(&failed)?;
        for hash in &hashes {
            writer.add(*hash).map_err(|fault| fault.at(job.out))?;
        }
    }
    let header = writer.finish(job).map_err(|fault| fault.at(job.out))?;
    let duplicates = spool.pushed() - header.keys;
    output.finish().map_err(&failed)?;
    let missing_ranges = if inputs.ranges == 0 { 0 } else { ALL_RANGES.saturating_sub(inputs.ranges) };
    Ok(Built { header, duplicates, rare, missing_ranges })
}

/// Counts the different hashes, on which the number of shards depends.
fn count(spool: &Spool, progress: &mut dyn FnMut(Progress)) -> io::Result<u64> {
    let (mut hashes, mut keys) = (Vec::new(), 0);
    for number in 0..BUCKETS {
        progress(Progress { step: "sorting", done: number as u64, total: BUCKETS as u64 });
        spool.bucket(number, &mut hashes)?;
        keys += hashes.len() as u64;
    }
    Ok(keys)
}

/// Why a shard was not written.
enum Fault {
    Io(io::Error),
    Filter(u32),
}

impl Fault {
    fn at(self, path: &Path) -> BuildError {
        match self {
            Fault::Io(source) => BuildError::write(path)(source),
            Fault::Filter(shard) => BuildError::Filter(shard),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

/// Writes the shards one after the other, then header and table before them.
struct Writer<'a> {
    out: &'a Output,
    file: BufWriter<&'a std::fs::File>,
    shards: u32,
    /// The keys of the shard that is being gathered.
    keys: Vec<u64>,
    /// The table of the shards before it.
    table: Vec<u8>,
    written: u32,
    all_keys: u64,
    /// The end of the last shard.
    end: u64,
    digest: Context,
}

impl Writer<'_> {
    fn new(out: &Output, shards: u32) -> io::Result<Writer<'_>> {
        let end = Header::first_offset(shards);
        let mut file = BufWriter::with_capacity(1 << 20, &out.file);
        file.seek(SeekFrom::Start(end))?;
        let (keys, table, digest) = (Vec::new(), Vec::new(), Context::new(&SHA256));
        Ok(Writer { out, file, shards, keys, table, written: 0, all_keys: 0, end, digest })
    }

    /// Adds a hash. Hashes come in order.
    fn add(&mut self, hash: HashStart) -> Result<(), Fault> {
        let shard = u32::try_from(hash.leading(self.shards.trailing_zeros())).unwrap_or(u32::MAX);
        while self.written < shard {
            self.write_shard()?;
        }
        self.keys.push(hash.key());
        Ok(())
    }

    /// Writes the shard that is gathered, and begins the next.
    fn write_shard(&mut self) -> Result<(), Fault> {
        let mut keys = std::mem::take(&mut self.keys);
        keys.sort_unstable();
        keys.dedup();
        let mut shard = Shard { offset: self.end, keys: keys.len() as u64, ..Shard::default() };
        let mut bytes = Vec::new();
        if !keys.is_empty() {
            let filter = filter_of(&mut keys, |keys| BinaryFuse16::try_from(keys).ok());
            let filter = filter.ok_or(Fault::Filter(self.written))?;
            (shard.seed, shard.segment_length) = (filter.descriptor.seed, filter.descriptor.segment_length);
            shard.segment_count_length = filter.descriptor.segment_count_length;
            bytes.extend(filter.fingerprints.iter().flat_map(|slot| slot.to_le_bytes()));
            if bytes.len() as u64 != shard.len() {
                return Err(Fault::Filter(self.written));
            }
        }
        shard.checksum = checksum(&[&bytes]);
        self.digest.update(&bytes);
        self.file.write_all(&bytes)?;
        self.end += bytes.len() as u64;
        shard.encode(&mut self.table);
        self.all_keys += shard.keys;
        self.written += 1;
        keys.clear();
        self.keys = keys;
        Ok(())
    }

    /// Writes the last shards, the header and the table.
    fn finish(mut self, job: &Build<'_>) -> Result<Header, Fault> {
        while self.written < self.shards {
            self.write_shard()?;
        }
        self.file.flush()?;
        self.digest.update(&self.table);
        let header = Header {
            keys: self.all_keys,
            shards: self.shards,
            min_count: job.min_count.max(1),
            built_at: job.now,
            length: self.end,
            digest: format::finished(self.digest),
        };
        self.out.file.write_all_at(&header.encode(&self.table), 0)?;
        Ok(header)
    }
}

/// Builds a filter of keys that are sorted. A few sets cannot be built (some of about 11 500 keys), so keys are added until one
/// can. Such a key stands for one more password in 2^64 that is taken for leaked.
pub(super) fn filter_of<T>(keys: &mut Vec<u64>, construct: impl Fn(&[u64]) -> Option<T>) -> Option<T> {
    let sorted = keys.len();
    let mut spare = 0_u64;
    for attempt in 0..ATTEMPTS {
        if let Some(filter) = construct(keys) {
            return Some(filter);
        }
        for _ in 0..1 << attempt {
            while keys.get(..sorted)?.binary_search(&spare).is_ok() {
                spare += 1;
            }
            keys.push(spare);
            spare += 1;
        }
    }
    None
}
