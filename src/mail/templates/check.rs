//! The check of all templates at the start: a mistake in one should stop the start, not a mail.
//!
//! Every name of a variable is looked up without rendering, so a branch that is rarely taken is checked too. Then every template
//! is rendered with every combination of values that it may get.

use std::time::Duration;

use minijinja::ErrorKind;
use strum::VariantArray;

use super::files::Files;
use super::mistake::Mistake;
use super::values::{Presence, Values, variables};
use super::{RenderError, Templates};
use crate::config::Links;
use crate::domain::delivery::{LetterKind, Requester};
use crate::domain::language::Language;
use crate::domain::time::Timestamp;

/// A name that HTML must escape.
const MARKED: &str = "<latchkey-check>";

/// Checks that a template names only variables that exist. `found` are those that it names.
pub(super) fn check_names(
    files: &Files,
    name: &str,
    found: impl Iterator<Item = String>,
    exists: impl Fn(&str) -> bool,
    known: &str,
) -> Vec<Mistake> {
    let text = files.0.get(name).map_or("", |source| source.text.as_str());
    let mut unknown: Vec<String> = found.filter(|variable| !exists(variable)).collect();
    unknown.sort();
    let mistake = |variable: String| Mistake {
        file: files.shown(name),
        // A tag may have several lines.
        line: line_of(text, &variable).or_else(|| first_line(text, |line| mentions(line, &variable))),
        problem: format!("there is no variable {variable} here; there are {known}"),
    };
    unknown.into_iter().map(mistake).collect()
}

/// The variables that a template may name.
pub(super) fn known_variables(kind: Option<LetterKind>, is_html: bool) -> Vec<&'static str> {
    let subject = is_html.then_some("subject");
    variables(kind).map(|(name, _)| name).chain(subject).collect()
}

/// The first line that mentions a variable in a tag.
fn line_of(text: &str, variable: &str) -> Option<usize> {
    let after_openings =
        |line: &str| line.replace("{%", "{{").split("{{").skip(1).map(str::to_owned).collect::<Vec<_>>();
    let is_in = |tag: &String| tag.split(['}', '%']).next().is_some_and(|tag| mentions(tag, variable));
    first_line(text, |line| after_openings(line).iter().any(is_in))
}

fn first_line(text: &str, is_wanted: impl Fn(&str) -> bool) -> Option<usize> {
    text.lines().position(is_wanted).map(|at| at + 1)
}

fn mentions(line: &str, variable: &str) -> bool {
    let root = variable.split('.').next();
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| Some(word) == root)
}

/// Renders every template with every combination of values.
pub(super) fn check_rendering(templates: &Templates) -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    for kind in LetterKind::VARIANTS {
        for language in Language::VARIANTS {
            let found =
                samples(*kind).iter().find_map(|values| check_letter(templates, *kind, *language, values).err());
            mistakes.extend(found.filter(|mistake| !mistakes.contains(mistake)));
        }
    }
    mistakes
}

fn check_letter(templates: &Templates, kind: LetterKind, language: Language, values: &Values) -> Result<(), Mistake> {
    let rendered = templates.render_in(kind, language, values).map_err(|error| unrendered(templates, kind, error))?;
    let mistake = |format: &str, variable: &str, problem: &str| {
        let name = format!("{kind}.{}.{format}", language.code());
        let text = templates.files.0.get(name.as_str()).map_or("", |source| source.text.as_str());
        let line = line_of(text, variable);
        Err(Mistake { file: templates.files.shown(&name), line, problem: problem.to_owned() })
    };
    if rendered.html.contains(MARKED) {
        return mistake("html", "safe", "the name of a user is not escaped: remove `safe` and `autoescape`");
    }
    let links =
        [("link", &values.link), ("cancel_link", &values.cancel_link), ("security_link", &values.security_link)];
    for (name, value) in links {
        let Some(link) = value else { continue };
        let is_shown = rendered.text.contains(link.as_str());
        if name == "link" && !is_shown {
            return mistake("txt", name, "the mail must show its link: {{ link }}");
        }
        if is_shown && !rendered.text.lines().any(|line| line == link) {
            return mistake("txt", name, "a link must stand alone on its line, so that programs see where it ends");
        }
        if name == "link" && !rendered.html.contains(&format!("href=\"{link}\"")) {
            return mistake("html", name, "the mail must have its link: href=\"{{ link }}\"");
        }
    }
    if let Some(password) = &values.temporary_password {
        for (format, body) in [("txt", &rendered.text), ("html", &rendered.html)] {
            if !body.contains(password.as_str()) {
                return mistake(format, "temporary_password", "the mail must show {{ temporary_password }}");
            }
        }
    }
    Ok(())
}

/// What is wrong with a template that cannot be rendered. Of a value that a mail lacks, the renderer knows the line only.
fn unrendered(templates: &Templates, kind: LetterKind, error: RenderError) -> Mistake {
    let is_undefined = error.kind == ErrorKind::UndefinedError;
    let text = templates.files.0.get(error.template.as_str()).map_or("", |source| source.text.as_str());
    let line = text.lines().nth(error.line.saturating_sub(1)).unwrap_or_default();
    let optional = variables(Some(kind)).filter(|(_, presence)| *presence == Presence::Sometimes);
    let named: Vec<&str> = optional.map(|(name, _)| name).filter(|name| mentions(line, name)).collect();
    let mut mistake = error.into_mistake(&templates.files);
    if let ([name], true) = (named.as_slice(), is_undefined) {
        mistake.problem = format!("some mails have no {name}: show it only within {{% if {name} %}} and {{% endif %}}");
    } else if is_undefined {
        mistake.problem += "; show what some mails do not have only within {% if … %} and {% endif %}";
    }
    mistake
}

/// Values for every branch of a template: with and without what a mail has only sometimes.
fn samples(kind: LetterKind) -> Vec<Values> {
    let name = || Some(MARKED.to_owned());
    let requesters = [
        Requester::Owner { source: None },
        Requester::Owner { source: Some("2001:db8::1".to_owned()) },
        Requester::Operator { name: None },
        Requester::Operator { name: name() },
    ];
    let with = |requester: Requester, is_full: bool| Values { name: name(), ..sample(kind, requester, is_full) };
    requesters.into_iter().flat_map(|requester| [with(requester.clone(), false), with(requester, true)]).collect()
}

/// How long a link or password works by default.
fn lifetime(kind: LetterKind, requester: &Requester) -> Duration {
    let default = Links::default();
    match (kind, requester) {
        (LetterKind::PasswordReset, Requester::Owner { .. }) => default.self_service_ttl,
        (LetterKind::PasswordReset, Requester::Operator { .. }) => default.operator_ttl,
        (LetterKind::Invite, _) => default.invite_ttl,
        _ => Duration::from_hours(24),
    }
}

/// Values of a mail of this kind: either all of them, or only those that it always has.
pub(super) fn sample(kind: LetterKind, requester: Requester, is_full: bool) -> Values {
    let has = |variable: &str| {
        variables(Some(kind)).any(|(name, presence)| name == variable && (is_full || presence == Presence::Always))
    };
    let url = |purpose: &str| format!("https://id.example.org/{purpose}?token=Zk3pV0qYtM1xWnB8sJdR6uHcLfA2gE9o");
    let purpose = match kind {
        LetterKind::Invite => "invite",
        LetterKind::EmailVerification => "verify",
        _ => "reset",
    };
    let requested_at = Timestamp::from_micros(1_795_961_100_000_000);
    Values {
        username: "grace".to_owned(),
        name: is_full.then(|| "Grace Hopper".to_owned()),
        address: "grace@example.org".to_owned(),
        link: has("link").then(|| url(purpose)),
        cancel_link: has("cancel_link").then(|| url("cancel")),
        temporary_password: has("temporary_password").then(|| "K7MQ2-XW9RT-4HZNB".to_owned()),
        expires_at: has("expires").then(|| requested_at.saturating_add(lifetime(kind, &requester))),
        requester,
        requested_at,
        new_address: has("new_address").then(|| "g.hopper@example.com".to_owned()),
        is_new_address: has("is_new_address"),
        forgot_link: has("forgot_link").then(|| "https://id.example.org/forgot".to_owned()),
        security_link: has("security_link").then(|| "https://id.example.org/security".to_owned()),
        second_factor_due: has("second_factor_due").then(|| requested_at.saturating_add(Duration::from_hours(30 * 24))),
    }
}
