//! The bytes of the file. All numbers are little endian.
//!
//! ```text
//! header    magic (16), version (u32), bits of a fingerprint (u32), number of shards (u32), minimum count (u32), number of
//!           keys (u64), when it was built (i64, seconds since 1970), length of the file (u64), digest (32), checksum of
//!           all of this and of the table (8)
//! table     for each shard: offset (u64), seed (u64), segment length (u32), segment count × segment length (u32), number
//!           of keys (u64), checksum (8)
//! shards    the fingerprints of each (u16), one shard after the other
//! ```
//!
//! The shard of a password is given by the first bits of its SHA-1, and its key in the filter by bits 32 to 95. Two passwords
//! with both in common would be one; there are none. A checksum is the beginning of a SHA-256. The digest is the SHA-256 of the
//! shards, then of the table: equal digests mean equal passwords.

use aws_lc_rs::digest::{Context, SHA256, digest};
use data_encoding::HEXLOWER;

/// The first bytes of the file.
pub(super) const MAGIC: [u8; 16] = *b"latchkey-leaked\n";

/// The version of the format.
pub const VERSION: u32 = 1;

/// The bits of a fingerprint. With 8, one good password in 256 would be refused.
pub(super) const FINGERPRINT_BITS: u32 = 16;

/// The length of the header in bytes.
pub(super) const HEADER_LEN: usize = 96;

/// The length of the header without its checksum.
const HEADER_BODY: usize = HEADER_LEN - size_of::<Checksum>();

/// The length of an entry of the table in bytes.
pub(super) const ENTRY_LEN: usize = 40;

/// The most shards: 16 bits of the hash.
pub(super) const MAX_SHARDS: u32 = 1 << 16;

/// The keys of a shard, at most, on average. Smaller filters take more bytes a key, larger ones more memory to build.
const SHARD_KEYS: u64 = 250_000;

/// The longest segment that the filter is built with.
const MAX_SEGMENT: u32 = 1 << 18;

/// The length of a SHA-1.
pub(super) const SHA1_LEN: usize = 20;

/// The first bytes of a SHA-256.
pub(super) type Checksum = [u8; 8];

/// Returns the checksum of some bytes, given in parts.
pub(super) fn checksum(parts: &[&[u8]]) -> Checksum {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// Finishes the digest of a list.
pub(super) fn finished(context: Context) -> [u8; 32] {
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

/// The first 96 bits of a SHA-1: all that the list knows of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HashStart(u128);

impl HashStart {
    /// Bits of it.
    pub(super) const BITS: u32 = 96;

    /// Takes the lowest 96 bits of a number.
    pub(super) fn from_bits(bits: u128) -> HashStart {
        HashStart(bits & ((1 << Self::BITS) - 1))
    }

    /// The beginning of a SHA-1.
    pub(super) fn of_sha1(sha1: &[u8; SHA1_LEN]) -> HashStart {
        let bits = sha1.iter().take(12).fold(0, |bits, byte| bits << 8 | u128::from(*byte));
        HashStart(bits)
    }

    /// The beginning of the SHA-1 of a password.
    pub(super) fn of_password(password: &str) -> HashStart {
        let sha1 = digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
        HashStart::of_sha1(sha1.as_ref().first_chunk().unwrap_or(&[0; SHA1_LEN]))
    }

    /// The number that the first `bits` bits are, at most 32.
    pub(super) fn leading(self, bits: u32) -> usize {
        usize::try_from(self.0 >> (Self::BITS - bits)).unwrap_or_default()
    }

    /// The key in the filter.
    pub(super) fn key(self) -> u64 {
        self.0.to_be_bytes().last_chunk().copied().map(u64::from_be_bytes).unwrap_or_default()
    }

    /// The 96 bits.
    pub(super) fn bits(self) -> u128 {
        self.0
    }
}

/// What the header says about a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The number of passwords.
    pub keys: u64,
    /// The number of shards, a power of two.
    pub shards: u32,
    /// Passwords that were leaked fewer times than this are not in the list.
    pub min_count: u32,
    /// When it was built, in seconds since 1970.
    pub built_at: i64,
    /// The length of the file in bytes.
    pub length: u64,
    /// The SHA-256 of the contents. It does not depend on when the list was built, or on the order of the input.
    pub digest: [u8; 32],
}

impl Header {
    /// The digest in hexadecimal digits.
    pub fn digest_text(&self) -> String {
        HEXLOWER.encode(&self.digest)
    }

    /// Returns how many bits of a hash select the shard.
    pub(super) fn shard_bits(&self) -> u32 {
        self.shards.trailing_zeros()
    }

    /// The bytes of the header and the table.
    pub(super) fn encode(&self, table: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + table.len());
        bytes.extend_from_slice(&MAGIC);
        for number in [VERSION, FINGERPRINT_BITS, self.shards, self.min_count] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.keys.to_le_bytes());
        bytes.extend_from_slice(&self.built_at.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.digest);
        bytes.extend_from_slice(&checksum(&[&bytes, table]));
        bytes.extend_from_slice(table);
        bytes
    }

    /// Reads a header. Its checksum is compared when the table is known.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Header, Unreadable> {
        let mut fields = Fields(bytes);
        let mut read = || -> Option<Result<Header, Unreadable>> {
            if fields.take::<16>()? != MAGIC {
                return Some(Err(Unreadable::Foreign));
            }
            let version = fields.number_32()?;
            if version != VERSION {
                return Some(Err(Unreadable::Version(version)));
            }
            let (bits, shards, min_count) = (fields.number_32()?, fields.number_32()?, fields.number_32()?);
            let (keys, built_at) = (fields.number_64()?, i64::from_le_bytes(fields.take()?));
            let (length, digest) = (fields.number_64()?, fields.take()?);
            let is_sound = bits == FINGERPRINT_BITS && shards.is_power_of_two() && shards <= MAX_SHARDS;
            let header = Header { keys, shards, min_count, built_at, length, digest };
            Some(if is_sound { Ok(header) } else { Err(Unreadable::Damaged) })
        };
        read().unwrap_or(Err(Unreadable::Damaged))
    }

    /// Returns whether header and table have this header's checksum.
    pub(super) fn is_intact(bytes: &[u8; HEADER_LEN], table: &[u8]) -> bool {
        bytes.split_at_checked(HEADER_BODY).is_some_and(|(body, sum)| checksum(&[body, table]) == sum)
    }

    /// The length of the table in bytes.
    pub(super) fn table_len(&self) -> usize {
        ENTRY_LEN * usize::try_from(self.shards).unwrap_or_default()
    }

    /// Where the first shard begins.
    pub(super) fn first_offset(shards: u32) -> u64 {
        u64::try_from(HEADER_LEN + ENTRY_LEN * usize::try_from(shards).unwrap_or_default()).unwrap_or_default()
    }
}

/// Returns the number of shards for this number of keys.
pub(super) fn shards_for(keys: u64) -> u32 {
    let mut shards = 1;
    while shards < MAX_SHARDS && keys / u64::from(shards) > SHARD_KEYS {
        shards *= 2;
    }
    shards
}

/// Why the beginning of a file is not a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Foreign,
    Version(u32),
    Damaged,
}

/// A shard: where its filter is, and what it is built with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) offset: u64,
    pub(super) seed: u64,
    pub(super) segment_length: u32,
    /// The number of segments in which a key has its first fingerprint, times their length. Two more segments follow.
    pub(super) segment_count_length: u32,
    pub(super) keys: u64,
    pub(super) checksum: Checksum,
}

impl Shard {
    pub(super) fn encode(&self, table: &mut Vec<u8>) {
        table.extend_from_slice(&self.offset.to_le_bytes());
        table.extend_from_slice(&self.seed.to_le_bytes());
        table.extend_from_slice(&self.segment_length.to_le_bytes());
        table.extend_from_slice(&self.segment_count_length.to_le_bytes());
        table.extend_from_slice(&self.keys.to_le_bytes());
        table.extend_from_slice(&self.checksum);
    }

    fn decode(bytes: &[u8]) -> Option<Shard> {
        let mut fields = Fields(bytes);
        Some(Shard {
            offset: fields.number_64()?,
            seed: fields.number_64()?,
            segment_length: fields.number_32()?,
            segment_count_length: fields.number_32()?,
            keys: fields.number_64()?,
            checksum: fields.take()?,
        })
    }

    /// The number of fingerprints.
    pub(super) fn slots(&self) -> u64 {
        if self.keys == 0 { 0 } else { u64::from(self.segment_count_length) + 2 * u64::from(self.segment_length) }
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> u64 {
        2 * self.slots()
    }

    /// Returns whether the filter can be read without looking beside it.
    fn is_sound(&self) -> bool {
        let is_filter = self.segment_length.is_power_of_two()
            && self.segment_length <= MAX_SEGMENT
            && self.segment_count_length > 0
            && self.segment_count_length.is_multiple_of(self.segment_length);
        self.keys == 0 || is_filter
    }

    /// Returns the fingerprint of a key, and its three slots in the filter: the exclusive or of what is there is the
    /// fingerprint if the key is in the filter.
    ///
    /// This is `BinaryFuse16::contains` of the crate xorf, by Graf and Lemire ("Binary Fuse Filters", 2022, section 3).
    pub(super) fn probe(&self, key: u64) -> (u16, [u64; 3]) {
        let hash = murmur_mix(key.wrapping_add(self.seed));
        let [fingerprint @ .., _, _, _, _, _, _] = (hash ^ hash >> 32).to_le_bytes();
        let first = u64::try_from((u128::from(hash) * u128::from(self.segment_count_length)) >> 64).unwrap_or_default();
        let (segment, mask) = (u64::from(self.segment_length), u64::from(self.segment_length).saturating_sub(1));
        let second = (first + segment) ^ (hash >> 18 & mask);
        let third = (first + 2 * segment) ^ (hash & mask);
        (u16::from_le_bytes(fingerprint), [first, second, third])
    }
}

/// The finaliser of `MurmurHash3`.
fn murmur_mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// Reads the table. Returns `None` unless the shards lie one after the other and end where the file does.
pub(super) fn decode_table(header: &Header, table: &[u8]) -> Option<Vec<Shard>> {
    let shards: Vec<Shard> = table.chunks_exact(ENTRY_LEN).map(Shard::decode).collect::<Option<_>>()?;
    let (mut end, mut keys) = (Header::first_offset(header.shards), 0_u64);
    for shard in &shards {
        if shard.offset != end || !shard.is_sound() {
            return None;
        }
        end = end.checked_add(shard.len())?;
        keys = keys.checked_add(shard.keys)?;
    }
    (end == header.length && keys == header.keys).then_some(shards)
}

/// The fields of a record that are not yet read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn number_32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn number_64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
