//! The hashes that a list is built from: files of lines `SHA1` or `SHA1:COUNT`, and folders of range files.
//!
//! A range file is named by the first five hexadecimal digits of its hashes, and has the other 35 in each line.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::{BuildError, LineFault};
use super::format::HashStart;

/// The hexadecimal digits of a SHA-1.
const SHA1_DIGITS: usize = 40;
/// The digits that name a range file.
const RANGE_DIGITS: usize = 5;
/// The digits of an NTLM hash.
const NTLM_DIGITS: usize = 32;
/// The ranges of a complete download.
pub(super) const ALL_RANGES: u64 = 1 << (4 * RANGE_DIGITS);
/// The longest line: a hash and a count take 60 bytes.
const MAX_LINE: usize = 256;
/// How much of a file is read at a time.
const CHUNK: usize = 1 << 20;

/// What the command line names, in the order in which it is read.
pub(super) struct Inputs {
    parts: Vec<Part>,
    /// The length of all files together, in bytes.
    pub(super) bytes: u64,
    /// How many range files there are.
    pub(super) ranges: u64,
}

enum Part {
    File(PathBuf),
    /// Range files of a folder. A name has 5 bytes or 9, as in `00000.txt`; a million paths would take 100 MB.
    Ranges(PathBuf, Vec<[u8; 9]>),
}

/// A line of the input that was understood.
pub(super) struct Leak {
    pub(super) hash: HashStart,
    /// How many times the password was leaked.
    pub(super) count: u64,
}

impl Inputs {
    /// Looks at all inputs, so that a typing error is found before an hour of reading.
    pub(super) fn find(paths: &[PathBuf]) -> Result<Inputs, BuildError> {
        let mut inputs = Inputs { parts: Vec::new(), bytes: 0, ranges: 0 };
        for path in paths {
            let found = std::fs::metadata(path).map_err(BuildError::read(path))?;
            if found.is_dir() {
                inputs.add_folder(path)?;
            } else {
                inputs.ranges += u64::from(path.file_name().and_then(range_name).is_some());
                inputs.bytes += found.len();
                inputs.parts.push(Part::File(path.clone()));
            }
        }
        Ok(inputs)
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), BuildError> {
        let (mut names, mut files) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(folder).map_err(BuildError::read(folder))? {
            let entry = entry.map_err(BuildError::read(folder))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let found = std::fs::metadata(&path).map_err(BuildError::read(&path))?;
            if found.is_dir() {
                return Err(BuildError::FolderInFolder(path));
            }
            self.bytes += found.len();
            match range_name(&name) {
                Some(range) => names.push(range),
                None => files.push(path),
            }
        }
        names.sort_unstable();
        files.sort_unstable();
        self.ranges += u64::try_from(names.len()).unwrap_or_default();
        self.parts.push(Part::Ranges(folder.to_owned(), names));
        self.parts.extend(files.into_iter().map(Part::File));
        Ok(())
    }

    /// Passes every hash to `take`. Tells `progress` how many bytes are read.
    pub(super) fn read(
        &self,
        take: &mut dyn FnMut(Leak) -> Result<(), BuildError>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), BuildError> {
        let mut lines = Lines { chunk: vec![0; CHUNK], bytes: 0 };
        for part in &self.parts {
            match part {
                Part::File(path) => lines.read(path, take, progress)?,
                Part::Ranges(folder, names) => {
                    for name in names {
                        let name = String::from_utf8_lossy(name);
                        lines.read(&folder.join(name.trim_end_matches('\0')), take, progress)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the name of a range file, filled up with zeros; `None` for another name.
fn range_name(name: &std::ffi::OsStr) -> Option<[u8; 9]> {
    let bytes = name.as_encoded_bytes();
    let (digits, ending) = bytes.split_at_checked(RANGE_DIGITS)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) || !(ending.is_empty() || ending == b".txt") {
        return None;
    }
    let mut range = [0; 9];
    range.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Some(range)
}

/// Splits files into lines, with one buffer for all of them.
struct Lines {
    chunk: Vec<u8>,
    /// The bytes read so far, of all files.
    bytes: u64,
}

impl Lines {
    fn read(
        &mut self,
        path: &Path,
        take: &mut dyn FnMut(Leak) -> Result<(), BuildError>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), BuildError> {
        let name = path.file_name().and_then(range_name);
        let range = name.and_then(|name| digits(name.get(..RANGE_DIGITS)?));
        let fault = |line, fault| BuildError::Line { path: path.to_owned(), line, fault };
        let mut file = File::open(path).map_err(BuildError::read(path))?;
        // The bytes of the buffer that are the beginning of a line.
        let (mut kept, mut line, mut is_first) = (0, 0_u64, true);
        loop {
            let read = read_some(&mut file, self.chunk.get_mut(kept..).unwrap_or_default());
            let read = read.map_err(BuildError::read(path))?;
            self.bytes += u64::try_from(read).unwrap_or_default();
            let filled = self.chunk.get(..kept + read).unwrap_or_default();
            let mut rest = filled;
            if std::mem::take(&mut is_first) {
                rest = rest.strip_prefix("\u{feff}".as_bytes()).unwrap_or(rest);
            }
            while let Some((text, after)) = next_line(rest, read == 0) {
                (line, rest) = (line + 1, after);
                if let Some(leak) = parse(text, range).map_err(|found| fault(line, found))? {
                    take(leak)?;
                }
            }
            if rest.len() > MAX_LINE {
                return Err(fault(line + 1, LineFault::NoHash));
            }
            if read == 0 {
                return Ok(());
            }
            progress(self.bytes);
            let left: Range<usize> = filled.len() - rest.len()..filled.len();
            kept = left.len();
            self.chunk.copy_within(left, 0);
        }
    }
}

/// Reads as much as there is, up to the length of the buffer. Returns 0 at the end.
fn read_some(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Splits the next line off. The last one may lack its line feed.
fn next_line(text: &[u8], is_last: bool) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| *byte == b'\n');
    match end {
        Some(end) => Some((text.get(..end)?, text.get(end + 1..)?)),
        None if is_last && !text.is_empty() => Some((text, &[])),
        None => None,
    }
}

/// Reads a line. `range` is the number that names the file. Returns `None` for an empty line.
fn parse(line: &[u8], range: Option<u128>) -> Result<Option<Leak>, LineFault> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let (hash, count) = line.split_at_checked(colon).unwrap_or((line, &[]));
    let hash = match (hash.len(), range) {
        (SHA1_DIGITS, _) => start_of(0, 0, hash),
        (35, Some(range)) => start_of(range, RANGE_DIGITS, hash),
        (35, None) if digits(hash).is_some() => return Err(LineFault::NoRange),
        (NTLM_DIGITS, _) | (27, Some(_)) if digits(hash).is_some() => return Err(LineFault::Ntlm),
        _ => None,
    };
    let hash = hash.ok_or(LineFault::NoHash)?;
    let count = match count.split_first() {
        Some((_, count)) => number(count).ok_or(LineFault::NoCount)?,
        None => 1,
    };
    Ok(Some(Leak { hash, count }))
}

/// The beginning of a hash, of which `known` digits are given by a number and the others as text.
fn start_of(range: u128, known: usize, text: &[u8]) -> Option<HashStart> {
    const START_DIGITS: usize = HashStart::BITS as usize / 4;
    let (start, rest) = text.split_at_checked(START_DIGITS - known)?;
    digits(rest)?;
    Some(HashStart::from_bits(range << (4 * start.len()) | digits(start)?))
}

/// Reads up to 32 hexadecimal digits; of more, the last 32.
fn digits(text: &[u8]) -> Option<u128> {
    let mut value = 0;
    for digit in text {
        value = value << 4 | u128::from(char::from(*digit).to_digit(16)?);
    }
    Some(value)
}

/// Reads a number. One that is too large is the largest.
fn number(text: &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for digit in text {
        value = value.saturating_mul(10).saturating_add(u64::from(char::from(*digit).to_digit(10)?));
    }
    (!text.is_empty()).then_some(value)
}
