//! The template files: the built-in ones, each replaced by the file of the same name in a folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use strum::VariantArray;

use super::mistake::Mistake;
use crate::domain::delivery::LetterKind;

/// Largest template in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// What the first line of a `.txt` template of a kind begins with.
const SUBJECT: &str = "Subject: ";

macro_rules! built_in {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("files/", $name)))),+]
    };
}

/// The built-in templates.
const BUILT_IN: &[(&str, &str)] = built_in![
    "account_inactive.de.html",
    "account_inactive.de.txt",
    "account_inactive.en.html",
    "account_inactive.en.txt",
    "address_changed.de.html",
    "address_changed.de.txt",
    "address_changed.en.html",
    "address_changed.en.txt",
    "closing.de.html",
    "closing.de.txt",
    "closing.en.html",
    "closing.en.txt",
    "compromised.de.html",
    "compromised.de.txt",
    "compromised.en.html",
    "compromised.en.txt",
    "email_verification.de.html",
    "email_verification.de.txt",
    "email_verification.en.html",
    "email_verification.en.txt",
    "invite.de.html",
    "invite.de.txt",
    "invite.en.html",
    "invite.en.txt",
    "layout.html",
    "parts.html",
    "password_changed.de.html",
    "password_changed.de.txt",
    "password_changed.en.html",
    "password_changed.en.txt",
    "password_expiring.de.html",
    "password_expiring.de.txt",
    "password_expiring.en.html",
    "password_expiring.en.txt",
    "password_reset.de.html",
    "password_reset.de.txt",
    "password_reset.en.html",
    "password_reset.en.txt",
    "password_reset_done.de.html",
    "password_reset_done.de.txt",
    "password_reset_done.en.html",
    "password_reset_done.en.txt",
    "recovery_code_used.de.html",
    "recovery_code_used.de.txt",
    "recovery_code_used.en.html",
    "recovery_code_used.en.txt",
    "second_factor_reset.de.html",
    "second_factor_reset.de.txt",
    "second_factor_reset.en.html",
    "second_factor_reset.en.txt",
    "temporary_password.de.html",
    "temporary_password.de.txt",
    "temporary_password.en.html",
    "temporary_password.en.txt",
    "totp_disabled.de.html",
    "totp_disabled.de.txt",
    "totp_disabled.en.html",
    "totp_disabled.en.txt",
    "totp_enrolled.de.html",
    "totp_enrolled.de.txt",
    "totp_enrolled.en.html",
    "totp_enrolled.en.txt",
    "wrong_codes.de.html",
    "wrong_codes.de.txt",
    "wrong_codes.en.html",
    "wrong_codes.en.txt",
];

/// A template file.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Its text.
    pub(super) text: String,
    /// Its path, if it is not built in.
    path: Option<PathBuf>,
    /// The kind of mail that it is for; `None` if all kinds share it.
    pub(super) kind: Option<LetterKind>,
}

/// The template files by name.
#[derive(Debug, Clone)]
pub(super) struct Files(pub(super) BTreeMap<&'static str, Source>);

impl Files {
    /// Reads the files of `folder` in place of the built-in ones. Hidden files are left out, as Kubernetes puts some beside
    /// mounted ones.
    pub(super) fn load(folder: Option<&Path>) -> Result<Files, Vec<Mistake>> {
        let source = |name, text: &str| Source { text: text.to_owned(), path: None, kind: kind_of(name) };
        let mut files = Files(BUILT_IN.iter().map(|(name, text)| (*name, source(name, text))).collect());
        let mut mistakes = Vec::new();
        for path in folder.map_or(Ok(Vec::new()), list)? {
            if let Err(mistake) = files.replace(path) {
                mistakes.push(mistake);
            }
        }
        if mistakes.is_empty() { Ok(files) } else { Err(mistakes) }
    }

    fn replace(&mut self, path: PathBuf) -> Result<(), Mistake> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mistake = |problem: String| Mistake { file: path.display().to_string(), line: None, problem };
        let Some(source) = self.0.get_mut(name.as_str()) else {
            // A part of the name may have been left out.
            let distance = |known: &&str| (!known.contains(&name), strsim::damerau_levenshtein(known, &name));
            let nearest = BUILT_IN.iter().map(|(known, _)| *known).min_by_key(distance).unwrap_or_default();
            return Err(mistake(format!("no template has this name; the nearest is {nearest}")));
        };
        source.text = read(&path).map_err(|error| mistake(format!("cannot be read: {error}")))?;
        source.path = Some(path);
        Ok(())
    }

    /// The path of a template, or its name if it is built in.
    pub(super) fn shown(&self, name: &str) -> String {
        match self.0.get(name).and_then(|source| source.path.as_deref()) {
            Some(path) => path.display().to_string(),
            None => format!("{name} (built in)"),
        }
    }
}

impl Source {
    /// The subject and the text after it, both as templates. Lines keep their numbers. `None` if the file does not begin with a
    /// subject and an empty line.
    pub(super) fn subject_and_text(&self) -> Option<(String, String)> {
        let (first, rest) = self.text.split_once('\n')?;
        let subject = first.strip_prefix(SUBJECT)?.trim();
        let text = rest.strip_prefix('\n')?;
        (!subject.is_empty()).then(|| (subject.to_owned(), format!("{{#\n\n-#}}{text}")))
    }
}

/// The kind whose name, followed by a dot, begins the name of a template.
fn kind_of(name: &str) -> Option<LetterKind> {
    let stem = name.split('.').next().unwrap_or_default();
    LetterKind::VARIANTS.iter().copied().find(|kind| kind.to_string() == stem)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Vec<Mistake>> {
    let mistake = |error: io::Error| {
        let problem = format!("cannot be read: {error}; check mail.templates_dir");
        vec![Mistake { file: folder.display().to_string(), line: None, problem }]
    };
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(mistake)?;
    let is_hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<PathBuf> =
        entries.into_iter().map(|entry| entry.path()).filter(|path| !is_hidden(path)).collect();
    paths.sort();
    Ok(paths)
}

/// Reads a template, with line feeds as ends of lines.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {} KiB", MAX_BYTES / 1024)));
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))?;
    Ok(text.trim_start_matches('\u{feff}').replace("\r\n", "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::language::Language;

    #[test]
    fn every_kind_has_its_templates_in_every_language_and_no_file_is_left_over() {
        let mut expected = vec!["layout.html".to_owned(), "parts.html".to_owned()];
        for format in ["txt", "html"] {
            for code in Language::VARIANTS.iter().map(|language| language.code()) {
                expected.push(format!("closing.{code}.{format}"));
                expected.extend(LetterKind::VARIANTS.iter().map(|kind| format!("{kind}.{code}.{format}")));
            }
        }
        expected.sort();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mail/templates/files");
        let files = list(&folder).unwrap_or_default();
        let files: Vec<_> = files.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>(), expected);
        assert_eq!(files, expected);
    }
}
