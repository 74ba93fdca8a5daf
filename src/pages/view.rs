//! Renders pages from the templates in `html/`.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use strum::IntoEnumIterator as _;

use super::assets::{self, Logo};
use crate::domain::language::Language;

/// The templates by name. Their texts are in `words.*.html`.
const TEMPLATES: [(&str, &str); 17] = [
    ("layout.html", include_str!("html/layout.html")),
    ("parts.html", include_str!("html/parts.html")),
    ("choose.html", include_str!("html/choose.html")),
    ("verify.html", include_str!("html/verify.html")),
    ("cancel.html", include_str!("html/cancel.html")),
    ("forgot.html", include_str!("html/forgot.html")),
    ("done.html", include_str!("html/done.html")),
    ("dead.html", include_str!("html/dead.html")),
    ("security.html", include_str!("html/security.html")),
    ("security_code.html", include_str!("html/security_code.html")),
    ("security_password.html", include_str!("html/security_password.html")),
    ("security_app.html", include_str!("html/security_app.html")),
    ("security_codes.html", include_str!("html/security_codes.html")),
    ("again.html", include_str!("html/again.html")),
    ("problem.html", include_str!("html/problem.html")),
    ("words.en.html", include_str!("html/words.en.html")),
    ("words.de.html", include_str!("html/words.de.html")),
];

/// A page to render.
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) template: &'static str,
    pub(super) language: Language,
    /// The relative URL of the page up to `?` or `&`, to which the switch adds the language. Empty if a link would lose
    /// what is on the page; then there is no switch.
    pub(super) here: String,
    /// The values of the template.
    pub(super) values: Value,
}

/// Something wrong with a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The id of the field; empty if it is about the whole form.
    pub(super) field: &'static str,
    /// The name of the text that explains it.
    pub(super) kind: &'static str,
    /// The number in the text.
    pub(super) number: Option<u32>,
    /// The time in the text.
    pub(super) span: Option<Span>,
    /// What is weak about the password, and what would help, in the language of the page.
    pub(super) hint: String,
}

impl Mistake {
    pub(super) fn of(field: &'static str, kind: &'static str) -> Mistake {
        Mistake { field, kind, number: None, span: None, hint: String::new() }
    }
}

/// A time in words, such as 55 minutes. Pages name no time of day, since they do not know the time zone of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    number: u64,
    unit: &'static str,
}

impl Span {
    /// How long something still lasts, rounded to the minute or, from two hours on, to the hour. Whole days are rounded down.
    pub(super) fn remaining(time: Duration) -> Span {
        let [minutes, hours] = [60, 3600].map(|unit| (time.as_secs() + unit / 2) / unit);
        match hours {
            _ if minutes < 120 => Span { number: minutes.max(1), unit: "minute" },
            0..48 => Span { number: hours, unit: "hour" },
            _ => Span { number: hours / 24, unit: "day" },
        }
    }

    /// How long to wait, rounded up.
    pub(super) fn until_retry(time: Duration) -> Span {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        match seconds {
            0..120 => Span { number: seconds.max(1), unit: "second" },
            _ => Span { number: seconds.div_ceil(60), unit: "minute" },
        }
    }

    /// The length in seconds.
    pub(super) fn seconds(self) -> u64 {
        match self.unit {
            "day" => self.number * 86_400,
            "hour" => self.number * 3600,
            "minute" => self.number * 60,
            _ => self.number,
        }
    }
}

impl From<Span> for Value {
    fn from(span: Span) -> Value {
        context! { number => span.number, unit => span.unit }
    }
}

impl From<Mistake> for Value {
    fn from(mistake: Mistake) -> Value {
        let Mistake { field, kind, number, span, hint } = mistake;
        context! { field, kind, number, span, hint }
    }
}

/// What a user can know of the rules before a password is judged.
pub(super) struct ShownRules {
    /// The smallest number of characters.
    pub(super) min_length: u32,
    /// Whether a letter and a digit are asked for.
    pub(super) letter_and_digit: bool,
}

impl From<ShownRules> for Value {
    fn from(rules: ShownRules) -> Value {
        context! { min_length => rules.min_length, letter_and_digit => rules.letter_and_digit }
    }
}

/// The templates, and the values that all pages share.
pub(super) struct Views {
    templates: Environment<'static>,
    organisation: String,
    support: String,
    pub(super) logo: Logo,
    has_own_logo: bool,
}

impl Views {
    pub(super) fn new(organisation: &str, support: &str, logo: Option<Logo>) -> Views {
        let mut templates = Environment::new();
        // A name that a template misspells is an error, which the test below finds.
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|_| AutoEscape::Html);
        for (name, source) in TEMPLATES {
            if let Err(error) = templates.add_template(name, source) {
                tracing::error!(%error, template = name, "a template is faulty");
            }
        }
        let has_own_logo = logo.is_some();
        Views {
            templates,
            organisation: organisation.to_owned(),
            support: support.to_owned(),
            logo: logo.unwrap_or_else(Logo::built_in),
            has_own_logo,
        }
    }

    /// Renders a page.
    pub(super) fn respond(&self, page: &Page) -> Response {
        match self.render(page) {
            Ok(html) => (page.status, [(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response(),
            Err(error) => {
                tracing::error!(%error, template = page.template, "a page could not be rendered");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal error\n").into_response()
            }
        }
    }

    fn render(&self, page: &Page) -> Result<String, minijinja::Error> {
        let languages: Vec<Value> = Language::iter()
            .filter(|_| !page.here.is_empty())
            .map(|language| {
                context! {
                    tag => language.code(),
                    name => language.name(),
                    href => format!("{}lang={}", page.here, language.code()),
                    is_current => language == page.language,
                }
            })
            .collect();
        let shared = context! {
            language => page.language.code(),
            languages,
            organisation => self.organisation.as_str(),
            support => self.support.as_str(),
            style => assets::style_url(),
            script => assets::script_url(),
            once => assets::once_url(),
            logo => self.logo.url(),
            has_own_logo => self.has_own_logo,
        };
        self.templates.get_template(page.template)?.render(context! { ..page.values.clone(), ..shared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn a_time_is_told_in_the_unit_that_people_would_use() {
        for (time, number, unit) in [
            (Duration::from_secs(3), 1, "minute"),
            (minutes(59) + Duration::from_secs(59), 60, "minute"),
            (minutes(119), 119, "minute"),
            (minutes(149), 2, "hour"),
            (Duration::from_secs(12 * 3600 - 20), 12, "hour"),
            (minutes(11 * 60 + 29), 11, "hour"),
            (minutes(47 * 60 + 29), 47, "hour"),
            (Duration::from_secs(48 * 3600 - 1), 2, "day"),
            (minutes(71 * 60), 2, "day"),
            (Duration::from_secs(72 * 3600 - 20), 3, "day"),
        ] {
            assert_eq!(Span::remaining(time), Span { number, unit }, "{time:?}");
        }
        for (time, number, unit) in [
            (Duration::from_millis(1), 1, "second"),
            (Duration::from_millis(1500), 2, "second"),
            (Duration::from_secs(121), 3, "minute"),
        ] {
            assert_eq!(Span::until_retry(time), Span { number, unit }, "{time:?}");
        }
    }

    /// The values of each template, sparse and full.
    fn samples() -> Vec<(&'static str, Value)> {
        let span = |unit| Span { number: 1, unit };
        let mistakes: Vec<Mistake> = [
            "required",
            "too_short",
            "too_long",
            "too_weak",
            "user_info",
            "breached",
            "letter_and_digit",
            "not_text",
            "reused",
        ]
        .into_iter()
        .chain(["differs", "malformed", "rejected"])
        .map(|kind| Mistake { number: Some(15), hint: "<hint>".to_owned(), ..Mistake::of("password", kind) })
        .chain(["too_often", "unavailable"].into_iter().flat_map(|kind| {
            let span = Some(Span { number: 2, unit: "second" });
            [Mistake { span, ..Mistake::of("", kind) }, Mistake::of("", kind)]
        }))
        .chain(
            ["required", "wrong", "too_often"]
                .map(|kind| Mistake { span: Some(span("second")), ..Mistake::of("code", kind) }),
        )
        .collect();
        let rules = |letter_and_digit| ShownRules { min_length: 15, letter_and_digit };
        let choose = |is_invitation, mistakes: &[Mistake], unit| {
            let values = context! {
                is_invitation, mistakes => mistakes.to_vec(), page => "reset", token => "t", lang => "de", username => "ada",
                remaining => span(unit), rules => rules(is_invitation), needs_code => !mistakes.is_empty(),
            };
            ("choose.html", values)
        };
        let mut samples = vec![
            choose(true, &[], "minute"),
            choose(false, &mistakes, "hour"),
            (
                "verify.html",
                context! {
                    mistakes => mistakes.clone(), page => "verify", token => "t", lang => "", username => "ada",
                    remaining => span("day"), address => "<b>",
                },
            ),
            (
                "security.html",
                context! { mistakes => mistakes.clone(), login => "<b>", lang => "", offers_link => true },
            ),
            (
                "security_code.html",
                context! { mistakes => mistakes.clone(), ticket => "t", login => "<b>", lang => "de" },
            ),
            (
                "security_password.html",
                context! { mistakes => mistakes.clone(), ticket => "t", login => "<b>", lang => "", rules => rules(true) },
            ),
            (
                "security_codes.html",
                context! { mistakes => [""; 0], codes => ["0123-4567"; 10], username => "ada", login => "ada", lang => "de" },
            ),
            ("again.html", context! {}),
            ("cancel.html", context! { mistakes => mistakes.clone(), page => "cancel", token => "t", lang => "" }),
            ("forgot.html", context! { mistakes => mistakes.clone(), login => "<b>", lang => "" }),
            ("dead.html", context! { is_confirmation => true }),
            ("dead.html", context! { is_confirmation => false }),
        ];
        for (mistakes, remaining) in [(Vec::new(), Some(span("minute"))), (mistakes.clone(), None)] {
            let values = context! {
                mistakes, ticket => "t", login => "<b>", lang => "", uri => "otpauth://totp/<b>", key => "ABCD EFGH",
                picture => "M4 4h7v1h-7z", side => 37, remaining,
            };
            samples.push(("security_app.html", values));
        }
        for of in ["reset", "invite", "verify", "cancel", "too-late", "security", "forgot"] {
            samples.push(("done.html", context! { of }));
        }
        for kind in ["other_site", "form", "not_found", "no_mail", "too_often", "unavailable", "internal"] {
            for wait in [None, Some(span("second"))] {
                samples.push(("problem.html", context! { kind, wait, request_id => "0a" }));
            }
        }
        samples
    }

    #[test]
    fn the_page_after_a_form_names_the_contact() {
        for (contact, parts) in [
            ("", ["the people who help you", "die Stelle, die Ihnen"]),
            ("IT <desk>", ["contact IT &lt;desk&gt;", "an IT &lt;desk&gt;"]),
        ] {
            let views = Views::new("ACME", contact, None);
            for (language, of) in Language::iter().flat_map(|language| [(language, "cancel"), (language, "too-late")]) {
                let values = context! { of };
                let page =
                    Page { status: StatusCode::OK, template: "done.html", language, here: String::new(), values };
                let html = views.render(&page).unwrap_or_else(|error| format!("{error:#}"));
                let (main, _) = html.split_once("</main>").unwrap_or((&html, ""));
                let main = main.to_lowercase();
                assert!(parts.iter().any(|part| main.contains(&part.to_lowercase())), "{of}: {main}");
            }
        }
    }

    #[test]
    fn every_page_renders_in_every_language_with_sparse_and_full_values() {
        let views = [Views::new("", "", None), Views::new("ACME & Söhne", "support@example.org", None)];
        for (views, language) in views.iter().flat_map(|views| Language::iter().map(move |language| (views, language)))
        {
            for (template, values) in samples() {
                let page = Page { status: StatusCode::OK, template, language, here: "reset?".to_owned(), values };
                let html = views.render(&page).unwrap_or_else(|error| format!("{template}: {error:#}"));
                assert!(html.contains(&format!("<html lang=\"{}\">", language.code())), "{html}");
                assert_eq!(html.matches("<h1>").count(), 1, "{template}: {html}");
                assert!(!html.contains("<b>") && !html.contains("ACME & S"), "escaped: {html}");
                assert!(!html.contains("style=\"") && !html.contains("<script>"), "the policy forbids it: {html}");
            }
        }
    }
}
