//! All mails as files, to be looked at in a browser.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use strum::VariantArray;

use super::check::sample;
use super::{RenderError, Templates};
use crate::domain::delivery::{LetterKind, Requester};
use crate::domain::language::Language;

/// The page that lists all mails. By its mark, a folder is one that this module wrote.
const INDEX: &str = "index.html";

/// The mark in the index.
const MARK: &str = "<meta name=\"generator\" content=\"latchkeyd mail preview\">";

/// Why no preview was written.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The folder has files of others.
    #[error("{path} has other files than a preview; name a new folder", path = .0.display())]
    NotEmpty(PathBuf),
    /// A file or folder cannot be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A mail cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
}

/// Writes every mail in every language, with few values and with all, and the templates themselves. Returns how many mails.
pub fn preview(templates: &Templates, folder: &Path) -> Result<usize, PreviewError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PreviewError::Io { path, source }
    };
    if !is_usable(folder).map_err(failed(folder))? {
        return Err(PreviewError::NotEmpty(folder.to_owned()));
    }
    let of_templates = folder.join("templates");
    std::fs::create_dir_all(&of_templates).map_err(failed(&of_templates))?;
    let write = |path: PathBuf, text: &str| std::fs::write(&path, text).map_err(failed(&path));
    // The index comes first: a preview that was cut off is recognised too.
    write(folder.join(INDEX), &index(""))?;
    for (name, source) in &templates.files.0 {
        write(of_templates.join(name), &source.text)?;
    }
    let (mut rows, mut count) = (String::new(), 0);
    for (kind, language, is_full) in all() {
        let values = sample(kind, requester(kind, is_full), is_full);
        let rendered = templates.render_in(kind, language, &values)?;
        let stem = format!("{kind}.{}.{}", language.code(), if is_full { "full" } else { "sparse" });
        write(folder.join(format!("{stem}.txt")), &format!("Subject: {}\n\n{}", rendered.subject, rendered.text))?;
        write(folder.join(format!("{stem}.html")), &rendered.html)?;
        let _ = writeln!(rows, "<li><a href=\"{stem}.html\">{stem}</a> (<a href=\"{stem}.txt\">text</a>)");
        count += 1;
    }
    write(folder.join(INDEX), &index(&rows))?;
    Ok(count)
}

/// Every mail: kind, language, and whether it has all values.
pub(super) fn all() -> impl Iterator<Item = (LetterKind, Language, bool)> {
    LetterKind::VARIANTS.iter().flat_map(|kind| {
        Language::VARIANTS.iter().flat_map(|language| [(*kind, *language, false), (*kind, *language, true)])
    })
}

/// What is most frequent for the kind: users change their passwords, operators lock.
pub(super) fn requester(kind: LetterKind, is_full: bool) -> Requester {
    match kind {
        LetterKind::PasswordReset
        | LetterKind::PasswordChanged
        | LetterKind::PasswordResetDone
        | LetterKind::TotpEnrolled
        | LetterKind::TotpDisabled
        | LetterKind::RecoveryCodeUsed
        | LetterKind::WrongCodes => Requester::Owner { source: is_full.then(|| "198.51.100.7".to_owned()) },
        _ => Requester::Operator { name: is_full.then(|| "Ada Lovelace".to_owned()) },
    }
}

/// Returns whether a folder is missing, empty or a preview.
fn is_usable(folder: &Path) -> io::Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => {
            let is_preview = || std::fs::read_to_string(folder.join(INDEX)).is_ok_and(|index| index.contains(MARK));
            Ok(entries.next().is_none() || is_preview())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn index(rows: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n{MARK}\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Mails of latchkey</title>\n\
         <body style=\"font:16px/1.8 sans-serif;max-width:40em;margin:2em auto;padding:0 1em\">\n\
         <h1>Mails of latchkey</h1>\n<p>Each with few values (sparse) and with all (full). The templates are in \
         <a href=\"templates/\">templates</a>: copy those that you want to change to the folder of \
         <code>mail.templates_dir</code>.\n<ul>\n{rows}</ul>\n"
    )
}
