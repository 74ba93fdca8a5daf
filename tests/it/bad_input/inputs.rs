//! Invalid and unusual values of a field, by its type and on the wire.

use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use crate::harness::raw::{comments, is_redacted};

/// A length above the limit of every field, for fields without a stated limit.
const FAR_TOO_LONG: usize = 40_000;

/// Prefix of values for secret fields. The harness searches the logs for it.
const MARK: &str = "c4nary";

/// The prefix of texts for a field.
fn mark_of(field: &FieldDescriptor) -> &'static str {
    if is_redacted(field) { MARK } else { "" }
}

/// Named texts that begin with `mark`, except for the empty ones. `limit` is the maximum number of bytes in the
/// contract.
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

/// Invalid UTF-8, which can only be sent on the wire.
const NO_TEXT: &[(&str, &[u8])] = &[
    ("invalid UTF-8", &[0x61, 0xff, 0x62]),
    ("lone surrogate", &[0xed, 0xa0, 0x80]),
    ("overlong UTF-8", &[0xc0, 0x80]),
    ("half a symbol", &[0x61, 0xe2, 0x82]),
];

const NUMBERS: &[(&str, i32)] = &[("0", 0), ("-1", -1), ("the least", i32::MIN), ("the most", i32::MAX)];

/// Seconds and nanoseconds, for timestamps and durations.
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

/// How a field is set.
pub enum Input {
    /// Replaces the value of the example.
    Set(Value),
    /// Clears the field.
    Unset,
    /// Appends these bytes to the encoded message that contains the field.
    Wire(Vec<u8>),
}

/// All inputs for a field.
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
    // An unset flag is a valid request, which could carry out what should only be validated.
    if field.kind() != Kind::Bool {
        inputs.push(("unset".to_owned(), Input::Unset));
    }
    inputs.extend(wrong_types(field));
    inputs
}

/// Single values of the field's type.
fn values(field: &FieldDescriptor) -> Vec<(String, Value)> {
    match field.kind() {
        Kind::String => {
            let texts = texts(limit_of(field), mark_of(field)).into_iter();
            texts.map(|(name, text)| (name.to_owned(), Value::String(text))).collect()
        }
        Kind::Bytes => vec![("empty".to_owned(), Value::Bytes(Vec::new().into()))],
        Kind::Int32 => NUMBERS.iter().map(|(name, number)| ((*name).to_owned(), Value::I32(*number))).collect(),
        Kind::Uint32 => {
            let numbers = [("0", 0), ("7", 7), ("the most", u32::MAX)];
            numbers.map(|(name, number)| (name.to_owned(), Value::U32(number))).into()
        }
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

/// The field with wrong wire types, and truncated.
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
        // Repeated numbers can be packed, so bytes are valid there.
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

/// Bytes that make a message invalid as a whole when appended to `example`. `limit` is the maximum size of a request.
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
        // The length prefix takes four bytes for any value used here.
        let padding = length - example.len() - more.len() - 4;
        let seven_bits = |shift: u32| u8::try_from((padding >> shift) & 0x7f).expect("seven bits");
        more.extend([0, 7, 14].map(|shift| 0x80 | seven_bits(shift)));
        more.push(seven_bits(21));
        more.resize(length - example.len(), 0);
        push(name, &more);
    }
    wholes
}

/// Returns whether the message is a timestamp or a duration.
pub fn is_time(message: &MessageDescriptor) -> bool {
    ["google.protobuf.Timestamp", "google.protobuf.Duration"].contains(&message.full_name())
}

fn time(message: &MessageDescriptor, seconds: i64, nanos: i32) -> Value {
    let mut time = DynamicMessage::new(message.clone());
    time.set_field_by_name("seconds", Value::I64(seconds));
    time.set_field_by_name("nanos", Value::I32(nanos));
    Value::Message(time)
}

/// The number before a unit in the comment of a field: `At most 64 bytes.`
fn stated(field: &FieldDescriptor, unit: &str) -> Option<usize> {
    let comment = comments(&field.parent_file(), field.path());
    let words: Vec<&str> = comment.split_whitespace().collect();
    let at = words.windows(2).position(|pair| pair[1].trim_end_matches(['.', ',', ';', ':']) == unit)?;
    words[at].parse().ok()
}

/// The maximum number of bytes in the contract. Names of roles and scopes have no limit, because unknown names are
/// rejected.
fn limit_of(field: &FieldDescriptor) -> usize {
    stated(field, "bytes").unwrap_or_else(|| {
        assert!(field.is_list(), "{} does not say how long it may be", field.full_name());
        256
    })
}

/// The maximum number of elements in the contract.
fn items_of(field: &FieldDescriptor) -> usize {
    stated(field, "items").unwrap_or_else(|| panic!("{} does not say how many it may have", field.full_name()))
}
