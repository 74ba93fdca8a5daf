//! Mistakes in templates.

use std::fmt;

/// A mistake in a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The path of the template, or its name.
    pub(super) file: String,
    /// The line.
    pub(super) line: Option<usize>,
    /// The mistake and how to mend it.
    pub(super) problem: String,
}

/// Mistakes in templates, all that were found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TemplateError(pub(super) Vec<Mistake>);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the templates of mails have mistakes")?;
        self.0.iter().try_for_each(|Mistake { file, line, problem }| match line {
            Some(line) => write!(f, "\n  {file}:{line}: {problem}"),
            None => write!(f, "\n  {file}: {problem}"),
        })
    }
}
