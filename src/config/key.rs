//! The declaration of a configuration key, and the macro that declares a section of keys.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::RelayUrl;
use crate::domain::time::written;

/// A configuration key, as `keys.rs` declares it.
#[derive(Debug)]
pub(super) struct Key {
    /// The name with its section, such as `argon2.memory_kib`.
    pub(super) name: &'static str,
    /// The default as text.
    pub(super) default: fn() -> String,
    /// The description.
    pub(super) doc: &'static str,
    /// Which values are accepted.
    pub(super) allowed: Allowed,
    /// Why other values are not accepted.
    pub(super) why: &'static str,
    /// Further properties.
    pub(super) marks: &'static [Mark],
}

/// A property that only some keys have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// The key has a command-line flag of its own. Other keys are set with `--set`.
    Flag,
    /// The value may contain a password, so no message repeats it.
    Secret,
}

/// The values that a key accepts.
#[derive(Debug)]
pub(super) enum Allowed {
    /// A whole number, and its unit, which may be empty.
    Number(RangeInclusive<u32>, &'static str),
    /// A duration.
    Duration(RangeInclusive<Duration>),
    /// `true` or `false`.
    Boolean,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A description of the accepted texts, and the function that accepts them.
    Text(&'static str, fn(&str) -> bool),
}

impl Allowed {
    /// Returns whether `text` is accepted.
    fn accepts(&self, text: &str) -> bool {
        match self {
            Self::Number(range, _) => u32::read(text).is_some_and(|count| range.contains(&count)),
            Self::Duration(range) => Duration::read(text).is_some_and(|time| range.contains(&time)),
            Self::Boolean => bool::read(text).is_some(),
            Self::Choice(texts) => texts.contains(&text),
            Self::Text(_, accepts) => accepts(text),
        }
    }

    /// The accepted values, in words that follow "must be".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Number(range, unit) => {
                let numbers = format!("a number from {} to {}", range.start(), range.end());
                format!("{numbers} {unit}").trim_end().to_owned()
            }
            Self::Duration(range) => format!("a duration from {} to {}", range.start().write(), range.end().write()),
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Choice(texts) => format!("one of `{}`", texts.join("`, `")),
            Self::Text(form, _) => (*form).to_owned(),
        }
    }

    /// The TOML type of the value.
    pub(super) fn toml_type(&self) -> &'static str {
        match self {
            Self::Number(..) => "integer",
            Self::Boolean => "boolean",
            Self::Duration(_) | Self::Choice(_) | Self::Text(..) => "string",
        }
    }
}

impl Key {
    /// The environment variable, such as `LATCHKEY_ARGON2_MEMORY_KIB`.
    pub(super) fn variable(&self) -> String {
        variable(self.name)
    }

    /// The flag, such as `--log-level`, if the key has one.
    pub(super) fn flag(&self) -> Option<String> {
        self.is(Mark::Flag).then(|| format!("--{}", self.name.replace(['.', '_'], "-")))
    }

    /// Returns whether the key has this property.
    pub(super) fn is(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }

    /// Parses `text`. Returns `None` if the key does not accept it.
    pub(super) fn read<T: Value>(&self, text: &str) -> Option<T> {
        if !self.allowed.accepts(text) {
            return None;
        }
        T::read(text)
    }

    /// The error message for an invalid `text`.
    pub(super) fn refusal(&self, text: &str) -> String {
        let written = if self.is(Mark::Secret) {
            String::new()
        } else {
            let start: String = text.chars().take(80).collect();
            format!(" = {start:?}")
        };
        format!("{}{written}: {}", self.name, self.rule())
    }

    /// The accepted values and the reason for them.
    pub(super) fn rule(&self) -> String {
        format!("must be {}: {}", self.allowed.describe(), self.why)
    }
}

/// The environment variable of the key with this name.
pub(super) fn variable(name: &str) -> String {
    format!("LATCHKEY_{}", name.replace('.', "_").to_ascii_uppercase())
}

/// The type of a key's value. `read(&write(value))` gives the same value, except for passwords.
pub(super) trait Value: Sized {
    /// Parses a value. Returns `None` if `text` is not valid.
    fn read(text: &str) -> Option<Self>;
    /// The value as an operator would write it, with passwords masked.
    fn write(&self) -> String;
}

/// Implements [`Value`] by `FromStr` and `Display`.
macro_rules! parsed_values {
    ($($type:ty),+) => {
        $(impl Value for $type {
            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn write(&self) -> String {
                self.to_string()
            }
        })+
    };
}
pub(super) use parsed_values;

parsed_values!(bool, u32, String, SocketAddr);

/// A number where 0 means that the server chooses.
impl Value for Option<usize> {
    fn read(text: &str) -> Option<Self> {
        let count: usize = text.parse().ok()?;
        Some((count > 0).then_some(count))
    }

    fn write(&self) -> String {
        self.unwrap_or(0).to_string()
    }
}

impl Value for Duration {
    fn read(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }

    fn write(&self) -> String {
        written(*self)
    }
}

impl Value for PathBuf {
    fn read(text: &str) -> Option<Self> {
        Some(Self::from(text))
    }

    fn write(&self) -> String {
        self.display().to_string()
    }
}

/// An address, or `off`.
impl Value for Option<SocketAddr> {
    fn read(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(None);
        }
        text.parse().ok().map(Some)
    }

    fn write(&self) -> String {
        self.map_or_else(|| "off".to_owned(), |address| address.to_string())
    }
}

/// A path, or `off`.
impl Value for Option<PathBuf> {
    fn read(text: &str) -> Option<Self> {
        Some((text != "off").then(|| PathBuf::from(text)))
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string())
    }
}

/// A text, or `off`.
impl Value for Option<String> {
    fn read(text: &str) -> Option<Self> {
        Some((text != "off").then(|| text.to_owned()))
    }

    fn write(&self) -> String {
        self.clone().unwrap_or_else(|| "off".to_owned())
    }
}

/// A relay, or `off`.
impl Value for Option<RelayUrl> {
    fn read(text: &str) -> Option<Self> {
        if text == "off" { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string)
    }
}

/// Declares a section: the struct, its defaults, and the [`Key`] behind each field.
///
/// A field is written `name: Type = default, allowed, "why no other value", marks…;`. Its doc comment is also the description
/// of the key in the printed configuration and in the manual.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])+
        $vis:vis struct $section:ident = $prefix:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $type:ty = $default:expr, $allowed:expr, $why:literal $(, $mark:ident)*;
            )+
        }
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Debug, Clone)]
        $vis struct $section {
            $($(#[doc = $doc])+ $vis $field: $type,)+
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $section {
            /// The description of the section.
            pub(super) const DOC: &'static str = concat!($($section_doc),+);

            /// The keys in the order of the fields.
            pub(super) const KEYS: &'static [Key] = &[$(Key {
                name: concat!($prefix, stringify!($field)),
                default: || <$type as Value>::write(&$default),
                doc: concat!($($doc),+),
                allowed: $allowed,
                why: $why,
                marks: &[$(Mark::$mark),*],
            },)+];

            /// Reads the section from the given values. Returns `None` if one is invalid.
            pub(super) fn read(given: &Given, problems: &mut Problems) -> Option<Self> {
                let default = Self::default();
                let mut keys = Self::KEYS.iter();
                $(
                    let $field = keys
                        .next()
                        .and_then(|key| given.value(key, default.$field, problems));
                )+
                Some(Self { $($field: $field?,)+ })
            }

            /// The values as text, in the order of the keys.
            pub(super) fn write(&self) -> Vec<String> {
                vec![$(Value::write(&self.$field),)+]
            }
        }
    };
}
pub(super) use section;
