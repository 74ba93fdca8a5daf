//! The problems of a configuration, collected so that all are reported at once.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// Where a value comes from, in ascending order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// No source: the value is the default.
    Default,
    /// A line of the TOML file, counted from 1.
    File { path: PathBuf, line: usize },
    /// An environment variable.
    Variable(String),
    /// A command-line flag, such as `--listen` or `--set issuer`.
    Flag(String),
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => {
                // A line break in a file name must not end the comment that `config print` writes.
                write!(f, "{}:{line}", path.display().to_string().escape_debug())
            }
            Self::Variable(name) | Self::Flag(name) => write!(f, "{}", name.escape_debug()),
        }
    }
}

/// All problems of a configuration. The text gives the origin of each, the accepted values and the reason. It never repeats
/// a value that could contain a password.
#[derive(Debug, Default)]
pub struct Problems(Vec<(Origin, String)>);

impl Problems {
    pub(super) fn add(&mut self, origin: Origin, message: impl Into<String>) {
        self.0.push((origin, message.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sorts the problems: the file from the top, then the environment, then the flags.
    pub(super) fn sorted(mut self) -> Self {
        self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        self
    }
}

impl Display for Problems {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "1 problem in the configuration:")?,
            count => writeln!(f, "{count} problems in the configuration:")?,
        }
        for (origin, message) in &self.0 {
            writeln!(f, "  {origin}: {message}")?;
        }
        f.write_str(
            "\nhint: `latchkeyd config check` reads the configuration and starts nothing; \
             `latchkeyd config print` shows every key",
        )
    }
}

impl Error for Problems {}

/// A name from a source, for a message. A name that no key can have is not repeated: it may be a secret in the wrong place.
pub(super) fn quote_name(name: &str) -> String {
    let is_name = name.len() <= 80 && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if is_name && !name.is_empty() { format!("`{name}`") } else { "a name that no key can have".to_owned() }
}

/// The text ` (did you mean …?)` with the candidate that is most similar to `name`; empty if none is similar.
pub(super) fn suggestion(name: &str, candidates: impl IntoIterator<Item = String>) -> String {
    let wanted = fold(name);
    // No key is that long. This also limits the work below.
    if wanted.len() > 80 {
        return String::new();
    }
    let nearest = candidates
        .into_iter()
        .map(|candidate| {
            let folded = fold(&candidate);
            // The section was probably left out.
            let distance =
                if folded.ends_with(&format!("_{wanted}")) { 1 } else { strsim::levenshtein(&wanted, &folded) };
            (distance, candidate)
        })
        .min();
    match nearest {
        Some((distance, candidate)) if distance <= 1 + wanted.len() / 5 => {
            format!(" (did you mean `{candidate}`?)")
        }
        _ => String::new(),
    }
}

/// Removes differences that are easily overlooked: `-`, `_`, `.` and the case of letters.
fn fold(name: &str) -> String {
    name.replace(['-', '.'], "_").to_ascii_lowercase()
}
