#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use xorf::{BinaryFuse16, Filter as _};

use super::build::filter_of;
use super::format::{ENTRY_LEN, HEADER_LEN, HashStart, MAX_SHARDS, Shard, decode_table, shards_for};
use super::*;

type Sha1 = [u8; 20];

fn sha1(text: &str) -> Sha1 {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref().try_into().expect("20 bytes")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// The passwords `0`, `1` and so on, in the order of their hashes.
fn hashes(count: u32) -> Vec<Sha1> {
    let mut hashes: Vec<Sha1> = (0..count).map(|number| sha1(&number.to_string())).collect();
    hashes.sort_unstable();
    hashes
}

/// A folder of inputs and lists.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        path
    }

    fn build(&self, inputs: &[PathBuf], min_count: u32) -> Result<Built, BuildError> {
        build(&Build { inputs, out: &self.path("list"), min_count, now: 1_800_000_000 }, &mut |_| {})
    }

    /// Builds `list` of a text.
    fn built(&self, text: &str) -> Built {
        let input = self.write("input", text);
        self.build(&[input], 1).expect("a list")
    }

    /// The error of building `list` of a text.
    fn refused(&self, text: impl AsRef<[u8]>) -> String {
        let input = self.write("input", text);
        let error = self.build(&[input], 1).expect_err("it is refused").to_string();
        error.replace(&format!("{}/", self.0.path().display()), "")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }
}

fn line(hash: &Sha1, count: u32) -> String {
    format!("{}:{count}\n", hex(hash))
}

fn lines(hashes: &[Sha1]) -> String {
    hashes.iter().map(|hash| line(hash, 3)).collect()
}

fn opened(path: &Path) -> Result<BreachList, BreachListError> {
    let list = BreachList::open(path)?;
    list.verify()?;
    Ok(list)
}

#[test]
fn a_shard_has_at_most_250_000_keys_on_average() {
    let million = 1_000_000;
    let cases = [
        (1, 1),
        (250_000, 1),
        (250_001, 2),
        (500_000, 2),
        (million, 4),
        (1_000 * million, 4096),
        (u64::MAX, MAX_SHARDS),
    ];
    for (keys, shards) in cases {
        assert_eq!(shards_for(keys), shards, "{keys}");
    }
}

#[test]
fn a_filter_is_read_as_the_crate_reads_it() {
    let keys: Vec<u64> = hashes(3_000).iter().map(|hash| HashStart::of_sha1(hash).key()).collect();
    let (members, others) = keys.split_at(2_000);
    let filter = BinaryFuse16::try_from(members).expect("a filter");
    let shard = Shard {
        seed: filter.descriptor.seed,
        segment_length: filter.descriptor.segment_length,
        segment_count_length: filter.descriptor.segment_count_length,
        keys: 2_000,
        ..Shard::default()
    };
    assert_eq!(usize::try_from(shard.slots()).expect("a length"), filter.fingerprints.len());
    for key in &keys {
        let (fingerprint, slots) = shard.probe(*key);
        let at = |slot: u64| filter.fingerprints[usize::try_from(slot).expect("an index")];
        let found = slots.into_iter().fold(fingerprint, |rest, slot| rest ^ at(slot)) == 0;
        assert_eq!(found, filter.contains(key));
    }
    assert!(others.iter().filter(|key| filter.contains(key)).count() < 5);
}

#[test]
fn a_filter_that_cannot_be_built_gets_more_keys() {
    let mut keys = vec![0, 1, 4];
    let built = filter_of(&mut keys, |keys| (keys.len() > 6).then(|| keys.to_vec()));
    assert_eq!(built, Some(vec![0, 1, 4, 2, 3, 5, 6, 7, 8, 9][..10].to_vec()));
    assert_eq!(filter_of(&mut vec![7], |_| None::<()>), None);
}

#[test]
fn sizes_that_are_hard_to_build_are_built() {
    let place = Place::new();
    let hashes = hashes(11_521);
    for size in [1, 2, 3, 4, 5, 11_480, 11_490, 11_500, 11_510, 11_520] {
        let input = place.write("input", lines(&hashes[..size]));
        let built = place.build(&[input], 1).expect("a list");
        assert_eq!(built.header.keys, size as u64);
        let list = opened(&place.path("list")).expect("a list");
        assert!(hashes[..size].iter().all(|hash| list.contains_sha1(hash).expect("an answer")), "{size}");
    }
}

#[test]
fn a_leaked_password_is_found_and_hardly_another() {
    let place = Place::new();
    let built = place.built(&lines(&hashes(20_000)));
    assert_eq!((built.header.keys, built.duplicates, built.rare), (20_000, 0, 0));
    assert_eq!((built.header.built_at, built.header.min_count, built.header.shards), (1_800_000_000, 1, 1));
    assert_eq!(fs::metadata(place.path("list")).expect("a file").len(), built.header.length);
    let list = BreachList::open(&place.path("list")).expect("a list");
    assert_eq!(list.header(), &built.header);
    assert!((0..20_000).all(|number| list.contains(&number.to_string()).expect("an answer")));
    let wrong = (20_000..60_000).filter(|number| list.contains(&number.to_string()).expect("an answer")).count();
    assert!(wrong <= 6, "{wrong} of 40 000");
    list.verify().expect("a good list");
}

#[test]
fn every_form_of_the_same_hashes_gives_the_same_digest() {
    let place = Place::new();
    let hashes = hashes(3_000);
    let plain = place.built(&lines(&hashes)).header.digest;
    let mut backwards = hashes.clone();
    backwards.reverse();
    let text = lines(&hashes);
    let twice = text.clone() + &lines(&backwards);
    let forms = [
        ("unsorted", lines(&backwards), 0),
        ("CRLF", text.replace('\n', "\r\n"), 0),
        ("lower case", text.to_lowercase(), 0),
        ("without counts", text.replace(":3", ""), 0),
        ("spaces and empty lines", text.replace('\n', "  \n\n"), 0),
        ("without the last line feed", text.trim_end().to_owned(), 0),
        ("a byte order mark", format!("\u{feff}{text}"), 0),
        ("a huge count", text.replace(":3", ":99999999999999999999999"), 0),
        ("twice", twice, 3_000),
        ("each twice", text.lines().fold(String::new(), |all, line| all + line + "\n" + line + "\n"), 3_000),
    ];
    for (name, text, duplicates) in forms {
        let built = place.built(&text);
        assert_eq!((built.header.digest, built.duplicates), (plain, duplicates), "{name}");
    }
    for (folder, ending) in [("ranges", ""), ("texts", ".txt")] {
        for hash in &hashes {
            let hash = hex(hash);
            let path = place.path(&format!("{folder}/{}{ending}", &hash[..5]));
            let before = fs::read_to_string(&path).unwrap_or_default();
            place.write(path.to_str().expect("a path"), format!("{before}{}:9\r\n", &hash[5..]));
        }
        place.write(&format!("{folder}/.hidden"), "not read");
        let built = place.build(&[place.path(folder)], 1).expect("a list");
        assert_eq!((built.header.digest, built.duplicates), (plain, 0), "{folder}");
        assert!(built.missing_ranges > 1_000_000, "{}", built.missing_ranges);
    }
    let both = place.build(&[place.path("texts"), place.path("ranges"), place.path("input")], 1).expect("a list");
    assert_eq!((both.header.digest, both.duplicates), (plain, 9_000));
}

#[test]
fn lines_may_cross_the_chunks_in_which_a_file_is_read() {
    let place = Place::new();
    let hashes = hashes(40_000);
    let text: String = hashes.iter().zip(1..).map(|(hash, number)| line(hash, number)).collect();
    assert!(text.len() > 1 << 20);
    place.built(&text);
    let list = opened(&place.path("list")).expect("a list");
    assert_eq!(list.header().keys, 40_000);
    assert!(hashes.iter().all(|hash| list.contains_sha1(hash).expect("an answer")));
}

#[test]
fn hashes_that_were_leaked_too_few_times_are_left_out() {
    let place = Place::new();
    let counts = [0, 1, 2, 9, 10, 11];
    let text: String = counts.iter().map(|count| line(&sha1(&count.to_string()), *count)).collect();
    let input = [place.write("input", text)];
    let built = place.build(&input, 10).expect("a list");
    assert_eq!((built.header.keys, built.header.min_count, built.rare), (2, 10, 3));
    // What was never leaked is padding of range files.
    assert_eq!(place.build(&input, 0).expect("a list").header.keys, 5);
    let none = place.build(&input, 12).expect_err("nothing is left").to_string();
    assert!(none.contains("no hash of a password that was leaked 12 times or more"), "{none}");
    let empty = place.build(&[place.write("empty", String::new())], 1).expect_err("nothing is there").to_string();
    assert_eq!(empty, "the input has no hash of a password that was leaked; a list of nothing is not written");
}

#[test]
fn what_is_no_sha1_is_refused_with_its_line() {
    let place = Place::new();
    let good = hex(&sha1("good"));
    place.built(&good);
    let before = fs::read(place.path("list")).expect("a list");
    let (ntlm, suffix) = (&good[..32], &good[..35]);
    let cases = [
        (format!("{good}\n{ntlm}:3\n"), "input:2: this is an NTLM hash"),
        (format!("{good}\n\n{}\n", &good[..39]), "input:3: expected the 40 hexadecimal digits"),
        (format!("{good}0\n"), "input:1: expected the 40"),
        (good.replace(&good[7..8], "G"), "input:1: expected the 40"),
        (format!("{}{}", &good[..39], 'g'), "input:1: expected the 40"),
        (format!("{suffix}:3"), "input:1: 35 digits belong into a range file"),
        (format!("{good}:"), "input:1: expected a number after the colon"),
        (format!("{good}:many"), "input:1: expected a number after the colon"),
        (format!("{good}:-1"), "input:1: expected a number after the colon"),
        ("password\n".to_owned(), "input:1: expected the 40"),
        (" ".repeat(3_000_000), "input:1: expected the 40"),
        (String::new(), "the input has no hash"),
        ("\n\n".to_owned(), "the input has no hash"),
    ];
    for (text, message) in cases {
        let error = place.refused(&text);
        assert!(error.starts_with(message), "{message}: {error}");
    }
    assert!(place.refused(vec![0; 3_000_000]).starts_with("input:1: expected the 40"));
    let range = place.write("ABCDE", format!("{}:7\n", &good[..27]));
    assert!(place.build(&[range], 1).expect_err("NTLM").to_string().contains("NTLM"));
    assert!(place.build(&[place.path("none")], 1).expect_err("no file").to_string().contains("cannot read"));
    fs::create_dir_all(place.path("folder/within")).expect("a folder");
    assert!(place.build(&[place.path("folder")], 1).expect_err("folders").to_string().contains("within"));
    assert_eq!(fs::read(place.path("list")).expect("a list"), before, "the old list stays");
    assert!(!place.names().iter().any(|name| name.contains("building")), "{:?}", place.names());
}

#[test]
fn only_a_list_is_replaced() {
    let place = Place::new();
    let input = place.write("input", hex(&sha1("x")));
    fs::create_dir(place.path("folder")).expect("a folder");
    place.write("empty", "");
    for name in ["input", "empty", "folder", "."] {
        let job = Build { inputs: std::slice::from_ref(&input), out: &place.path(name), min_count: 1, now: 0 };
        let error = build(&job, &mut |_| {}).expect_err("it is something else").to_string();
        assert!(error.contains("is not a list of leaked passwords and is not replaced"), "{error}");
    }
    // What a killed build leaves does not matter, but one that runs does.
    place.write(".list.building", "left over, and longer than the new one will be".repeat(100));
    let length = place.build(std::slice::from_ref(&input), 1).expect("a list").header.length;
    assert_eq!(fs::metadata(place.path("list")).expect("a list").len(), length);
    let other = fs::File::create(place.path(".list.building")).expect("a file");
    other.lock().expect("a lock");
    let error = place.build(&[input], 1).expect_err("it is locked").to_string();
    assert!(error.contains("another build of"), "{error}");
}

#[test]
fn a_list_that_is_cut_off_anywhere_is_refused() {
    let place = Place::new();
    place.built(&lines(&hashes(2_000)));
    let good = fs::read(place.path("list")).expect("a list");
    let near = [HEADER_LEN, HEADER_LEN + ENTRY_LEN, good.len()].map(|end| end - 3..end + 3).into_iter().flatten();
    for length in (0..good.len()).step_by(97).chain(0..HEADER_LEN).chain(near).filter(|length| *length < good.len()) {
        let path = place.write("cut", &good[..length]);
        let error = BreachList::open(&path).expect_err("it is cut off").to_string();
        let says = if length < 16 { "is not a list" } else { "copy or build it again" };
        assert!(error.contains(says), "{length}: {error}");
    }
    let long = place.write("long", [good.as_slice(), b"\0"].concat());
    assert!(matches!(BreachList::open(&long), Err(BreachListError::Length { .. })));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let place = Place::new();
    let hashes = hashes(2_000);
    place.built(&lines(&hashes));
    let good = fs::read(place.path("list")).expect("a list");
    for bit in 0..8 * (HEADER_LEN + ENTRY_LEN) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let path = place.write("bad", bad);
        assert!(BreachList::open(&path).is_err(), "bit {bit}");
    }
    for bit in (8 * (HEADER_LEN + ENTRY_LEN)..8 * good.len()).step_by(1_003) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let path = place.write("bad", bad);
        let list = BreachList::open(&path).expect("header and table are good");
        assert!(list.verify().is_err(), "bit {bit}");
        assert!(matches!(list.contains_sha1(&hashes[0]), Err(BreachListError::Damaged { .. })), "bit {bit}");
    }
}

#[test]
fn what_is_no_list_is_told() {
    let place = Place::new();
    place.built(&lines(&hashes(10)));
    let mut later = fs::read(place.path("list")).expect("a list");
    later[16] = 2;
    place.write("later", later);
    let later = BreachList::open(&place.path("later")).expect_err("another version").to_string();
    assert!(later.contains("of version 2, but this latchkeyd reads version 1; build it again"), "{later}");
    place.write("empty", "");
    place.write("text", lines(&hashes(100)));
    fs::create_dir(place.path("folder")).expect("a folder");
    for name in ["empty", "text", "folder"] {
        assert!(matches!(BreachList::open(&place.path(name)), Err(BreachListError::Foreign(_))), "{name}");
    }
    assert!(matches!(BreachList::open(&place.path("none")), Err(BreachListError::Io { .. })));
}

/// Such files are not damaged: somebody made them.
#[test]
fn a_table_that_leads_beside_the_file_is_refused() {
    let length = Header::first_offset(1) + 2 * 24;
    let header = Header { keys: 3, shards: 1, min_count: 1, built_at: 0, length, digest: [0; 32] };
    let good = Shard {
        offset: Header::first_offset(1),
        segment_length: 8,
        segment_count_length: 8,
        keys: 3,
        ..Shard::default()
    };
    let is_read = |shard: &Shard| {
        let mut table = Vec::new();
        shard.encode(&mut table);
        decode_table(&header, &table).is_some()
    };
    assert!(is_read(&good));
    for bad in [
        Shard { offset: good.offset + 2, ..good.clone() },
        Shard { segment_length: 0, ..good.clone() },
        Shard { segment_length: 7, segment_count_length: 10, ..good.clone() },
        Shard { segment_length: 1 << 31, segment_count_length: 1 << 31, ..good.clone() },
        Shard { segment_length: 4, segment_count_length: 0, ..good.clone() },
        Shard { segment_length: 4, segment_count_length: 8, ..good.clone() },
        Shard { keys: 4, ..good.clone() },
        Shard { keys: 0, ..good.clone() },
    ] {
        assert!(!is_read(&bad), "{bad:?}");
    }
}

#[test]
fn a_list_that_is_written_to_gives_errors_and_no_wrong_answers() {
    let place = Place::new();
    let hashes = hashes(2_000);
    place.built(&lines(&hashes));
    let path = place.path("list");
    let list = opened(&path).expect("a list");
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("a file");
    let length = file.metadata().expect("a file").len();
    // A time alone is no damage.
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
    assert!(hashes.iter().take(20).all(|hash| list.contains_sha1(hash).expect("an answer")));
    file.write_all_at(&[0; 8], length - 8).expect("a file");
    assert!(matches!(list.contains_sha1(&hashes[0]), Err(BreachListError::Damaged { .. })));
    file.set_len(length / 2).expect("a file");
    assert!(matches!(list.contains_sha1(&hashes[0]), Err(BreachListError::Io { .. })));
}

#[test]
fn a_new_file_is_used_and_a_bad_one_is_not() {
    let place = Place::new();
    let path = place.path("list");
    let lists = BreachLists::open(None).expect("none");
    assert!(lists.current().is_none());
    assert!(matches!(lists.reload_if_changed(true), Reloaded::Unchanged));
    assert!(BreachLists::open(Some(&path)).is_err(), "there is no file");

    place.built(&hex(&sha1("old")));
    let lists = BreachLists::open(Some(&path)).expect("a list");
    let says = |password: &str| lists.current().expect("a list").contains(password).expect("an answer");
    assert!(matches!(lists.reload_if_changed(true), Reloaded::Unchanged));
    place.built(&hex(&sha1("new")));
    assert!(says("old") && !says("new"));
    assert!(matches!(lists.reload_if_changed(false), Reloaded::Taken(_)));
    assert!(!says("old") && says("new"));
    assert!(matches!(lists.reload_if_changed(false), Reloaded::Unchanged));

    let good = fs::read(&path).expect("a list");
    let replace = |bytes: &[u8]| fs::rename(place.write("next", bytes), &path).expect("a file");
    let mut flipped = good.clone();
    *flipped.last_mut().expect("a byte") ^= 1;
    for bad in [&good[..good.len() - 1], &flipped, b"", b"another file"] {
        replace(bad);
        assert!(matches!(lists.reload_if_changed(false), Reloaded::Refused(_)));
        assert!(matches!(lists.reload_if_changed(false), Reloaded::Unchanged), "it is told once");
        assert!(matches!(lists.reload_if_changed(true), Reloaded::Refused(_)), "or when asked");
        assert!(!says("old") && says("new"));
    }
    fs::remove_file(&path).expect("a file");
    assert!(matches!(lists.reload_if_changed(false), Reloaded::Refused(_)));
    assert!(matches!(lists.reload_if_changed(false), Reloaded::Unchanged), "it is told once");
    assert!(says("new"), "an open file has no need of a name");
    replace(&good);
    assert!(matches!(lists.reload_if_changed(false), Reloaded::Taken(_)));
}
