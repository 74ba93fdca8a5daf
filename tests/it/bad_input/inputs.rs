//! What is wrong, or at least odd, in a value: by its type, and on the wire whatever the type.

use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use crate::harness::raw::{comments, is_redacted};

/// A limit that no field has, for those that state none.
const FAR_TOO_LONG: usize = 40_000;

/// Begins whatever is tried where a secret belongs: logs are searched for it.
const MARK: &str = "c4nary";

/// What the texts for a field begin with.
fn mark_of(field: &FieldDescriptor) -> &'static str {
    if is_redacted(field) { MARK } else { "" }
}

/// Texts, each with a name, that begin with `mark`, but for those that are nothing at all. `limit` is the most bytes that
/// the contract allows.
fn texts(limit: usize, mark: &str) -> Vec<(&'static str, String)> {
    let within = |symbols: &str| format!("{mark}a{symbols}b");
    let marked = |text: &str| format!("{mark}{text}");
    let mut texts = vec![
        ("empty", String::new()),
        ("one byte too long", marked(&"a".repeat(limit + 1 - mark.len()))),
        ("too long in bytes alone", marked(&"é".repeat(limit / 2 + 1))),
        ("far too long", marked(&"a".repeat(FAR_TOO_LONG))),
        ("combining flood", marked(&format!("a{}", "\u{301}".repeat(FAR_TOO_LONG / 2)))),
        ("short combining flood", marked(&format!("a{}", "\u{301}".repeat(20)))),
        ("not NFC", within("e\u{301}")),
        ("emoji", within("👩\u{200d}🚀")),
        ("leading space", format!(" {mark}ab")),
        ("trailing space", marked("ab ")),
        ("space", " ".to_owned()),
        ("no-break space", within("\u{a0}")),
        ("SQL", marked("' OR 1=1; DROP TABLE session --")),
        ("LIKE", within("%_\\")),
        ("format", marked("%s%n{}{0}${jndi:ldap://127.0.0.1/a}")),
        ("path", marked("../../etc/passwd")),
        ("markup", marked("<script>alert(1)</script>")),
    ];
    let symbols = [
        ("NUL", "\0"),
        ("C0", "\u{1}"),
        ("escape", "\u{1b}[31m"),
        ("CR", "\r"),
        ("LF", "\n"),
        ("TAB", "\t"),
        ("DEL", "\u{7f}"),
        ("C1", "\u{9b}"),
        ("NEL", "\u{85}"),
        ("U+061C", "\u{61c}"),
        ("U+200B", "\u{200b}"),
        ("U+200D", "\u{200d}"),
        ("U+200E", "\u{200e}"),
        ("U+2028", "\u{2028}"),
        ("U+202A", "\u{202a}"),
        ("U+202E", "\u{202e}"),
        ("U+2066", "\u{2066}"),
        ("U+2069", "\u{2069}"),
        ("U+FEFF", "\u{feff}"),
        ("U+FFFE", "\u{fffe}"),
        ("U+E0001", "\u{e0001}"),
        ("U+10FFFF", "\u{10ffff}"),
    ];
    texts.extend(symbols.map(|(name, symbol)| (name, within(symbol))));
    texts
}

/// Bytes that are no UTF-8: they exist on the wire alone.
const NO_TEXT: &[(&str, &[u8])] = &[
    ("invalid UTF-8", &[0x61, 0xff, 0x62]),
    ("lone surrogate", &[0xed, 0xa0, 0x80]),
    ("overlong UTF-8", &[0xc0, 0x80]),
    ("half a symbol", &[0x61, 0xe2, 0x82]),
];

const NUMBERS: &[(&str, i32)] = &[("0", 0), ("-1", -1), ("the least", i32::MIN), ("the most", i32::MAX)];

/// Seconds and nanoseconds, of instants and of lengths of time alike.
const TIMES: &[(&str, i64, i32)] = &[
    ("0", 0, 0),
    ("-1 s", -1, 0),
    ("1 ns", 0, 1),
    ("-1 ns", 0, -1),
    ("the least seconds", i64::MIN, 0),
    ("the most seconds", i64::MAX, 0),
    ("the least of both", i64::MIN, i32::MIN),
    ("the most of both", i64::MAX, i32::MAX),
    ("the most nanos", 1, i32::MAX),
    ("a whole second of nanos", 1, 1_000_000_000),
    ("a hundred years", 3_155_760_000, 0),
    ("the end of 9999", 253_402_300_799, 999_999_999),
    ("year 10000", 253_402_300_800, 0),
    ("year 0", -62_135_596_801, 0),
];

/// The value of a field, however it is put there.
pub enum Input {
    /// In place of what the example has.
    Set(Value),
    /// Not at all.
    Unset,
    /// After what the example has, in these bytes: the message with the field has them at its end.
    Wire(Vec<u8>),
}

/// Everything that is tried for a field.
pub fn inputs(field: &FieldDescriptor, example: &Value) -> Vec<(String, Input)> {
    let mut inputs: Vec<(String, Input)> = Vec::new();
    if field.is_map() {
        inputs.extend(maps(field));
    } else if field.is_list() {
        inputs.extend(lists(field, example));
    } else {
        inputs.extend(values(field).into_iter().map(|(name, value)| (name, Input::Set(value))));
    }
    if field.kind() == Kind::String && !field.is_map() {
        let marked = |bytes: &[u8]| delimited(field, &[mark_of(field).as_bytes(), bytes].concat());
        inputs.extend(NO_TEXT.iter().map(|(name, bytes)| ((*name).to_owned(), Input::Wire(marked(bytes)))));
    }
    // A flag that is not set is a good request, and may be one that does what was only to be checked.
    if field.kind() != Kind::Bool {
        inputs.push(("unset".to_owned(), Input::Unset));
    }
    inputs.extend(wrong_types(field));
    inputs
}

/// Single values of the type of the field.
fn values(field: &FieldDescriptor) -> Vec<(String, Value)> {
    match field.kind() {
        Kind::String => {
            let texts = texts(limit_of(field), mark_of(field)).into_iter();
            texts.map(|(name, text)| (name.to_owned(), Value::String(text))).collect()
        }
        Kind::Bytes => vec![("empty".to_owned(), Value::Bytes(Vec::new().into()))],
        Kind::Int32 => NUMBERS.iter().map(|(name, number)| ((*name).to_owned(), Value::I32(*number))).collect(),
        Kind::Enum(_) => {
            let unknown = ("unknown", 7_777);
            let numbers = NUMBERS.iter().chain([&unknown]);
            numbers.map(|(name, number)| ((*name).to_owned(), Value::EnumNumber(*number))).collect()
        }
        Kind::Bool => Vec::new(),
        Kind::Message(message) if is_time(&message) => {
            TIMES.iter().map(|(name, seconds, nanos)| ((*name).to_owned(), time(&message, *seconds, *nanos))).collect()
        }
        Kind::Message(message) => vec![("empty".to_owned(), Value::Message(DynamicMessage::new(message)))],
        other => panic!("{}: nothing is known of what can be wrong with {other:?}", field.full_name()),
    }
}

fn lists(field: &FieldDescriptor, example: &Value) -> Vec<(String, Input)> {
    let item = example.as_list().and_then(<[Value]>::first).cloned();
    let item = item.unwrap_or_else(|| panic!("{}: an example has an element", field.full_name()));
    let list = |count: usize| Input::Set(Value::List(vec![item.clone(); count]));
    let mut inputs = vec![
        ("none".to_owned(), list(0)),
        ("twice the same".to_owned(), list(2)),
        ("one too many".to_owned(), list(items_of(field) + 1)),
    ];
    let singles = values(field).into_iter();
    inputs.extend(singles.map(|(name, value)| (format!("[{name}]"), Input::Set(Value::List(vec![value])))));
    inputs
}

fn maps(field: &FieldDescriptor) -> Vec<(String, Input)> {
    let one = |key: String, value: String| {
        Input::Set(Value::Map([(MapKey::String(key), Value::String(value))].into_iter().collect()))
    };
    let many =
        (0..=items_of(field)).map(|number| (MapKey::String(format!("k{number}")), Value::String("v".to_owned())));
    let mut inputs = vec![("one too many".to_owned(), Input::Set(Value::Map(many.collect())))];
    for (name, text) in texts(63, "") {
        inputs.push((format!("key {name}"), one(text, "v".to_owned())));
    }
    for (name, text) in texts(256, "") {
        inputs.push((format!("value {name}"), one("team".to_owned(), text)));
    }
    let entry = |key: &[u8], value: &[u8]| {
        let mut inner = Vec::new();
        for (number, bytes) in [(1, key), (2, value)] {
            encode_key(number, WireType::LengthDelimited, &mut inner);
            encode_varint(bytes.len() as u64, &mut inner);
            inner.extend_from_slice(bytes);
        }
        delimited(field, &inner)
    };
    inputs.push(("twice the same key".to_owned(), Input::Wire([entry(b"k", b"v"), entry(b"k", b"w")].concat())));
    inputs.push(("entry without a key".to_owned(), Input::Wire(delimited(field, &[]))));
    for (name, bytes) in NO_TEXT {
        inputs.push((format!("key {name}"), Input::Wire(entry(bytes, b"v"))));
        inputs.push((format!("value {name}"), Input::Wire(entry(b"k", bytes))));
    }
    inputs
}

/// The field in the wire types that it does not have, and cut off.
fn wrong_types(field: &FieldDescriptor) -> Vec<(String, Input)> {
    let number = field.number();
    let mut inputs = Vec::new();
    let mut push = |name: &str, wire_type: WireType, bytes: &[u8]| {
        let mut wire = Vec::new();
        encode_key(number, wire_type, &mut wire);
        wire.extend_from_slice(bytes);
        inputs.push((name.to_owned(), Input::Wire(wire)));
    };
    push("64 bits on the wire", WireType::SixtyFourBit, &[1; 8]);
    push("32 bits on the wire", WireType::ThirtyTwoBit, &[1; 4]);
    push("a group on the wire", WireType::StartGroup, &[]);
    match field.kind() {
        Kind::String | Kind::Bytes | Kind::Message(_) => {
            push("a number on the wire", WireType::Varint, &[1]);
            push("cut off on the wire", WireType::LengthDelimited, &[100, 1, 2]);
        }
        // Numbers may come packed, so bytes are fine where there are many.
        _ => push("an endless number on the wire", WireType::Varint, &[0xff; 11]),
    }
    inputs
}

/// The field with these bytes.
pub fn delimited(field: &FieldDescriptor, bytes: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    encode_key(field.number(), WireType::LengthDelimited, &mut wire);
    encode_varint(bytes.len() as u64, &mut wire);
    wire.extend_from_slice(bytes);
    wire
}

/// What can be wrong with a message as a whole, in bytes that follow those of an example. `limit` is how long a request
/// may be.
pub fn whole(example: &[u8], limit: usize) -> Vec<(String, Vec<u8>)> {
    let mut wholes: Vec<(String, Vec<u8>)> = Vec::new();
    let mut push = |name: &str, more: &[u8]| wholes.push((name.to_owned(), [example, more].concat()));
    let key = |number: u32, wire_type: WireType| {
        let mut wire = Vec::new();
        encode_key(number, wire_type, &mut wire);
        wire
    };
    push("as it is", &[]);
    push("an unknown field", &[key(1000, WireType::Varint), vec![1]].concat());
    push("the highest field", &[key(536_870_911, WireType::LengthDelimited), vec![3], b"abc".to_vec()].concat());
    push("field 0", &[0, 1]);
    push("wire type 6", &[0x0e, 1]);
    push("half a key", &[0x80]);
    push("an endless key", &[0xff; 11]);
    push("an unknown field cut off", &[key(1000, WireType::LengthDelimited), vec![9, 1]].concat());
    push("the end of no group", &key(1000, WireType::EndGroup));
    let nested = |depth: usize| {
        [key(1000, WireType::StartGroup).repeat(depth), key(1000, WireType::EndGroup).repeat(depth)].concat()
    };
    push("groups in groups", &nested(10));
    push("groups a thousand deep", &nested(1000));
    for (name, length) in [("as long as may be", limit), ("one byte too long", limit + 1)] {
        let mut more = key(1000, WireType::LengthDelimited);
        // The length takes four bytes, whatever it is.
        let padding = length - example.len() - more.len() - 4;
        let seven_bits = |shift: u32| u8::try_from((padding >> shift) & 0x7f).expect("seven bits");
        more.extend([0, 7, 14].map(|shift| 0x80 | seven_bits(shift)));
        more.push(seven_bits(21));
        more.resize(length - example.len(), 0);
        push(name, &more);
    }
    wholes
}

/// Whether it is an instant or a length of time.
pub fn is_time(message: &MessageDescriptor) -> bool {
    ["google.protobuf.Timestamp", "google.protobuf.Duration"].contains(&message.full_name())
}

fn time(message: &MessageDescriptor, seconds: i64, nanos: i32) -> Value {
    let mut time = DynamicMessage::new(message.clone());
    time.set_field_by_name("seconds", Value::I64(seconds));
    time.set_field_by_name("nanos", Value::I32(nanos));
    Value::Message(time)
}

/// The number before a word in the comment of a field: `At most 64 bytes.`
fn stated(field: &FieldDescriptor, unit: &str) -> Option<usize> {
    let comment = comments(&field.parent_file(), field.path());
    let words: Vec<&str> = comment.split_whitespace().collect();
    let at = words.windows(2).position(|pair| pair[1].trim_end_matches(['.', ',', ';', ':']) == unit)?;
    words[at].parse().ok()
}

/// The most bytes that the contract states. Names of roles and scopes have no limit of their own: they are known or not.
fn limit_of(field: &FieldDescriptor) -> usize {
    stated(field, "bytes").unwrap_or_else(|| {
        assert!(field.is_list(), "{} does not say how long it may be", field.full_name());
        256
    })
}

/// The most elements that the contract states.
fn items_of(field: &FieldDescriptor) -> usize {
    stated(field, "items").unwrap_or_else(|| panic!("{} does not say how many it may have", field.full_name()))
}
