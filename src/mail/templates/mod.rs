//! The text of mails: templates in every language, built in or from a folder.
//!
//! ```text
//! files.rs     the files: built in (files/), or of `mail.templates_dir`
//! check.rs     finds every mistake at the start (mistake.rs)
//! values.rs    kinds of mails, and the variables of each
//! words.rs     times and durations in a language
//! preview.rs   writes them all to a folder, to be looked at
//! ```
//!
//! A name or any other value is never a template, so nothing in it is evaluated.

mod check;
mod files;
mod mistake;
mod preview;
mod values;
mod words;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::Write as _;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, Value, escape_formatter};

use self::check::{check_names, check_rendering, known_variables};
use self::files::Files;
use self::mistake::Mistake;
pub use self::mistake::TemplateError;
pub use self::preview::{PreviewError, preview};
use self::values::context;
pub use self::values::{Rendered, Values};
use crate::domain::delivery::LetterKind;
use crate::domain::language::Language;
use crate::domain::profile::Locale;

/// Instructions that one template may take. The built-in ones take some hundreds.
const FUEL: u64 = 50_000;

/// The variables of a subject. A user's text is never part of it.
const IN_SUBJECT: &str = "organisation";

/// All templates, checked.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    files: Files,
    organisation: String,
    support: Option<String>,
}

/// A mail cannot be rendered. The message has no value of a variable.
#[derive(Debug, thiserror::Error)]
#[error("the template {template} cannot be rendered: {kind}, line {line}")]
pub struct RenderError {
    template: String,
    line: usize,
    kind: minijinja::ErrorKind,
    /// More about the cause, which may contain a value of a variable. Shown for samples only.
    detail: Option<String>,
}

impl Templates {
    /// Loads and checks all templates. A file in `folder` replaces the built-in template of the same name. `organisation` and
    /// `support` are what mails call the sender and the contact; without a contact they name the administrator.
    ///
    /// # Errors
    ///
    /// All mistakes that were found, with file and line.
    pub fn load(folder: Option<&Path>, organisation: &str, support: Option<&str>) -> Result<Templates, TemplateError> {
        let files = Files::load(folder).map_err(TemplateError)?;
        let (environment, mistakes) = compile(&files);
        let (organisation, support) = (organisation.to_owned(), support.map(str::to_owned));
        let templates = Templates { environment, files, organisation, support };
        // Rendering would find the same mistakes again.
        let mistakes = if mistakes.is_empty() { check_rendering(&templates) } else { mistakes };
        if mistakes.is_empty() { Ok(templates) } else { Err(TemplateError(mistakes)) }
    }

    /// The mail of this kind, in the language of `locale` or in English.
    ///
    /// # Errors
    ///
    /// A value that the template shows is missing.
    pub fn render(&self, kind: LetterKind, locale: Option<&Locale>, values: &Values) -> Result<Rendered, RenderError> {
        let language = locale.and_then(Language::of_locale).unwrap_or_default();
        self.render_in(kind, language, values)
    }

    fn render_in(&self, kind: LetterKind, language: Language, values: &Values) -> Result<Rendered, RenderError> {
        let mut context = context(kind, language, values, &self.organisation, self.support.as_deref());
        let render = |format: &str, context: &BTreeMap<_, String>| {
            let name = format!("{kind}.{}.{format}", language.code());
            let context = Value::from_pairs(context.iter().map(|(name, value)| (*name, value.as_str())));
            let rendered = self.environment.get_template(&name).and_then(|template| template.render(context));
            rendered.map(|text| text.trim().to_owned()).map_err(|error| RenderError::new(&name, &error))
        };
        let subject = render("subject", &context)?;
        let text = render("txt", &context)? + "\n";
        context.insert("subject", subject.clone());
        let html = render("html", &context)? + "\n";
        Ok(Rendered { subject, text, html })
    }
}

/// Compiles all files and checks the variables that they name.
fn compile(files: &Files) -> (Environment<'static>, Vec<Mistake>) {
    let mut environment = Environment::new();
    // A variable that is missing may be tested for, but not shown.
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(escape);
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    let mut mistakes = Vec::new();
    for (name, source) in &files.0 {
        let is_html = name.rsplit_once('.').is_some_and(|(_, format)| format == "html");
        let mut add = |template: String, text: String, known: &[&str]| {
            if let Err(error) = environment.add_template_owned(template.clone(), text) {
                mistakes.push(RenderError::new(name, &error).into_mistake(files));
                return;
            }
            let found = environment.get_template(&template).map(|template| template.undeclared_variables(true));
            let found = found.unwrap_or_default().into_iter();
            mistakes.extend(check_names(files, name, found, |found| known.contains(&found), &known.join(", ")));
        };
        let known = known_variables(source.kind, is_html);
        if source.kind.is_none() || is_html {
            add((*name).to_owned(), source.text.clone(), &known);
        } else if let Some((subject, text)) = source.subject_and_text() {
            add(name.replace(".txt", ".subject"), subject, &[IN_SUBJECT]);
            add((*name).to_owned(), text, &known);
        } else {
            let problem = "must begin with `Subject: ` and the subject, and an empty line".to_owned();
            mistakes.push(Mistake { file: files.shown(name), line: Some(1), problem });
        }
    }
    (environment, mistakes)
}

/// Escapes a value for HTML. Slashes stay, because not every program that looks for links in a mail decodes them.
fn escape(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), minijinja::Error> {
    let is_html = matches!(state.auto_escape(), AutoEscape::Html);
    let Some(text) = value.as_str().filter(|_| is_html && !value.is_safe()) else {
        return escape_formatter(out, state, value);
    };
    for c in text.chars() {
        match c {
            '<' => out.write_str("&lt;")?,
            '>' => out.write_str("&gt;")?,
            '&' => out.write_str("&amp;")?,
            '"' => out.write_str("&quot;")?,
            '\'' => out.write_str("&#39;")?,
            c => out.write_char(c)?,
        }
    }
    Ok(())
}

impl RenderError {
    /// The place of the error, in the innermost template.
    fn new(template: &str, error: &minijinja::Error) -> RenderError {
        let mut innermost = error;
        while let Some(inner) = innermost.source().and_then(|source| source.downcast_ref()) {
            innermost = inner;
        }
        RenderError {
            template: innermost.name().unwrap_or(template).replace(".subject", ".txt"),
            line: innermost.line().unwrap_or(1),
            kind: innermost.kind(),
            detail: innermost.detail().map(str::to_owned),
        }
    }

    fn into_mistake(self, files: &Files) -> Mistake {
        let problem = match self.detail {
            Some(detail) => format!("{}: {detail}", self.kind),
            None => self.kind.to_string(),
        };
        Mistake { file: files.shown(&self.template), line: Some(self.line), problem }
    }
}

#[cfg(test)]
mod tests;
