//! What is known of one configuration key, and the macro that declares a section of them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// A configuration key, as `keys.rs` declares it.
#[derive(Debug)]
pub(super) struct Key {
    /// The name in a TOML file, with the section: `argon2.memory_kib`.
    pub(super) name: &'static str,
    /// The default, as one would write it.
    pub(super) default: fn() -> String,
    /// What the key is for.
    pub(super) doc: &'static str,
    /// Which values are accepted.
    pub(super) allowed: Allowed,
    /// Why no others are.
    pub(super) why: &'static str,
    /// What else is special about it.
    pub(super) marks: &'static [Mark],
}

/// A property that few keys have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// There is a command-line flag for it; every other key can be given with `--set`.
    Flag,
    /// The value can hold a password, so no message repeats it.
    Secret,
}

/// The values that a key accepts.
#[derive(Debug)]
pub(super) enum Allowed {
    /// A whole number, and its unit (may be empty).
    Count(RangeInclusive<u32>, &'static str),
    /// A duration.
    Time(RangeInclusive<Duration>),
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A text that the function accepts, and how such a text is described.
    Form(&'static str, fn(&str) -> bool),
}

impl Allowed {
    /// Whether `text` is such a value.
    fn accepts(&self, text: &str) -> bool {
        match self {
            Self::Count(range, _) => u32::read(text).is_some_and(|count| range.contains(&count)),
            Self::Time(range) => Duration::read(text).is_some_and(|time| range.contains(&time)),
            Self::Switch => bool::read(text).is_some(),
            Self::Words(words) => words.contains(&text),
            Self::Form(_, accepts) => accepts(text),
        }
    }

    /// What to write, as it follows "must be".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Count(range, unit) => {
                let numbers = format!("a number from {} to {}", range.start(), range.end());
                format!("{numbers} {unit}").trim_end().to_owned()
            }
            Self::Time(range) => format!("a duration from {} to {}", range.start().write(), range.end().write()),
            Self::Switch => "`true` or `false`".to_owned(),
            Self::Words(words) => format!("one of `{}`", words.join("`, `")),
            Self::Form(form, _) => (*form).to_owned(),
        }
    }

    /// The TOML type that holds such a value.
    pub(super) fn toml_type(&self) -> &'static str {
        match self {
            Self::Count(..) => "integer",
            Self::Switch => "boolean",
            Self::Time(_) | Self::Words(_) | Self::Form(..) => "string",
        }
    }
}

impl Key {
    /// The environment variable: `LATCHKEY_ARGON2_MEMORY_KIB`.
    pub(super) fn variable(&self) -> String {
        variable(self.name)
    }

    /// The flag, if the key has one: `--log-level`.
    pub(super) fn flag(&self) -> Option<String> {
        self.is(Mark::Flag).then(|| format!("--{}", self.name.replace(['.', '_'], "-")))
    }

    /// Whether the key carries this mark.
    pub(super) fn is(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }

    /// The value that `text` stands for, if the key accepts it.
    pub(super) fn read<T: Value>(&self, text: &str) -> Option<T> {
        if !self.allowed.accepts(text) {
            return None;
        }
        T::read(text)
    }

    /// What to tell somebody who wrote `text`.
    pub(super) fn refusal(&self, text: &str) -> String {
        let written = if self.is(Mark::Secret) {
            String::new()
        } else {
            let start: String = text.chars().take(80).collect();
            format!(" = {start:?}")
        };
        format!("{}{written}: {}", self.name, self.rule())
    }

    /// What is allowed, and why.
    pub(super) fn rule(&self) -> String {
        format!("must be {}: {}", self.allowed.describe(), self.why)
    }
}

/// The environment variable of the key with this name.
pub(super) fn variable(name: &str) -> String {
    format!("LATCHKEY_{}", name.replace('.', "_").to_ascii_uppercase())
}

/// A type that a key can have. `read(&write(value))` is the value again, passwords apart.
pub(super) trait Value: Sized {
    /// The value that `text` stands for, or none.
    fn read(text: &str) -> Option<Self>;
    /// The value as one would write it, with any password masked.
    fn write(&self) -> String;
}

/// Implements [`Value`] for types whose text form is what an operator writes.
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

/// A count in which 0 means that the server chooses.
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

    /// One whole number of the largest unit that fits, and hours rather than days: `90m`, `24h`.
    fn write(&self) -> String {
        let seconds = self.as_secs();
        if self.subsec_nanos() > 0 {
            humantime::format_duration(*self).to_string()
        } else if seconds == 0 || !seconds.is_multiple_of(60) {
            format!("{seconds}s")
        } else if !seconds.is_multiple_of(3600) {
            format!("{}m", seconds / 60)
        } else {
            format!("{}h", seconds / 3600)
        }
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

/// An address that can be switched off.
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

/// A file that there may be.
impl Value for Option<PathBuf> {
    fn read(text: &str) -> Option<Self> {
        Some((text != "off").then(|| PathBuf::from(text)))
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string())
    }
}

/// Declares a section: the struct, its defaults, and the [`Key`] behind each field.
///
/// A field reads `name: Type = default, allowed, "why no other value", marks…;` and its doc
/// comment is also what the printed configuration and the manual say about the key.
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
            /// What the section is about.
            pub(super) const DOC: &'static str = concat!($($section_doc),+);

            /// The keys, in the order of the fields.
            pub(super) const KEYS: &'static [Key] = &[$(Key {
                name: concat!($prefix, stringify!($field)),
                default: || <$type as Value>::write(&$default),
                doc: concat!($($doc),+),
                allowed: $allowed,
                why: $why,
                marks: &[$(Mark::$mark),*],
            },)+];

            /// The section as it was given, or none where a value is refused.
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

            /// Each value as one would write it, in the order of the keys.
            pub(super) fn write(&self) -> Vec<String> {
                vec![$(Value::write(&self.$field),)+]
            }
        }
    };
}
pub(super) use section;
