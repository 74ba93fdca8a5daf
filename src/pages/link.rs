//! The pages that a link leads to: choosing a password, confirming an address, and cancelling links.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use http::StatusCode;
use minijinja::context;

use super::Pages;
use super::done::done;
use super::fields::Fields;
use super::form::Form;
use super::link_page::LinkPage;
use super::problem::{Cause, Problem, retry_after, set_retry_after, status_of};
use super::view::{Mistake, Page, Span};
use super::visit::{Place, Visit};
use crate::app::{CompletePasswordReset, LinkView};
use crate::domain::caller::Demand;
use crate::domain::password::{PasswordFault, PlainPassword, RuleBroken};
use crate::domain::secret::{CancelSecret, LinkSecret};
use crate::domain::violation::{Describe, Fault};
use crate::error::{Error, Result, Unauthenticated};

/// A link that can be used.
struct OpenLink<'a> {
    page: LinkPage,
    /// The token as it was sent.
    token: &'a str,
    /// `None` for a token that cancels: it is not looked up, so that the page says nothing about accounts.
    view: Option<LinkView>,
}

/// Shows what the link is for. Changes nothing.
pub(super) async fn show(State(pages): State<Arc<Pages>>, Extension(visit): Extension<Visit>) -> Response {
    match pages.open(&visit, visit.query()).await {
        Ok(link) => pages.show_link(&visit, visit.query(), &link, StatusCode::OK, &[]),
        Err(problem) => pages.problem(Some(&visit), &problem),
    }
}

/// Does what the link is for.
pub(super) async fn act(
    State(pages): State<Arc<Pages>>,
    Extension(visit): Extension<Visit>,
    Form(form): Form,
) -> Response {
    let link = match pages.open(&visit, &form).await {
        Ok(link) => link,
        Err(problem) => return pages.problem(Some(&visit), &problem),
    };
    let new_password = match link.page {
        LinkPage::Reset | LinkPage::Invite => match pages.chosen_password(&form) {
            Ok(new_password) => Some(new_password),
            Err(mistakes) => {
                let mut response = pages.show_link(&visit, &form, &link, StatusCode::UNPROCESSABLE_ENTITY, &mistakes);
                response.extensions_mut().insert(Cause { reason: "PASSWORD_REJECTED", fault: None });
                return response;
            }
        },
        LinkPage::Verify | LinkPage::Cancel => None,
    };
    match pages.use_link(&visit, &link, new_password).await {
        Ok(()) => done(link.page.as_str(), form.get("lang")),
        Err(error) => pages.refuse(&visit, &form, &link, error),
    }
}

impl Pages {
    /// Looks at a link. Fails if it is dead, or for another page.
    async fn open<'a>(&self, visit: &Visit, fields: &'a Fields) -> Result<OpenLink<'a>, Problem> {
        let Place::Link(page) = visit.place() else { return Err(Problem::NotFound) };
        let dead = || Error::Unauthenticated(Unauthenticated::TicketInvalid);
        let token = fields.get("token");
        if page == LinkPage::Cancel {
            CancelSecret::parse(token).map_err(|_| dead())?;
            return Ok(OpenLink { page, token, view: None });
        }
        let caller = visit.caller(self, "InspectLink", Demand::Ticket).await?;
        let view = self.app.inspect_link(&caller, LinkSecret::parse(token).ok()).await?;
        if LinkPage::from(view.purpose) != page {
            return Err(dead().into());
        }
        Ok(OpenLink { page, token, view: Some(view) })
    }

    /// Returns the password of the form, or every mistake that shows without a look at the old one.
    fn chosen_password(&self, form: &Fields) -> Result<PlainPassword, Vec<Mistake>> {
        let rules = self.app.password_rules();
        let password = PlainPassword::parse(form.get("password").to_owned());
        let mut mistakes = match &password {
            Err(PasswordFault::TooLong) => vec![mistake(&RuleBroken::TooLong { max: rules.max_length })],
            Err(fault) => vec![mistake(fault)],
            Ok(password) => match rules.accept(password.copy()) {
                Ok(_) => Vec::new(),
                Err(broken) => broken.iter().map(mistake).collect(),
            },
        };
        for found in &mut mistakes {
            found.number = match found.kind {
                "too_short" => Some(rules.min_length),
                _ => Some(rules.max_length),
            };
        }
        if password.is_ok() && form.get("password") != form.get("repeat") {
            mistakes.push(Mistake::of("repeat", "differs"));
        }
        password.ok().filter(|_| mistakes.is_empty()).ok_or(mistakes)
    }

    async fn use_link(&self, visit: &Visit, link: &OpenLink<'_>, new_password: Option<PlainPassword>) -> Result<()> {
        let (app, secret) = (Arc::clone(&self.app), LinkSecret::parse(link.token).ok());
        match (link.page, new_password) {
            (LinkPage::Verify, _) => {
                let caller = visit.caller(self, "VerifyEmail", Demand::Ticket).await?;
                visit.run(self, async move { app.verify_email(&caller, secret).await }).await
            }
            (LinkPage::Cancel, _) => {
                let (caller, secret) =
                    (visit.caller(self, "CancelLink", Demand::Ticket).await?, CancelSecret::parse(link.token));
                visit.run(self, async move { app.cancel_link(&caller, secret.ok()).await }).await
            }
            (LinkPage::Reset | LinkPage::Invite, new_password) => {
                let caller = visit.caller(self, "CompletePasswordReset", Demand::Ticket).await?;
                let new_password = new_password.ok_or(PasswordFault::Empty);
                let command = CompletePasswordReset { link: secret, new_password, code: None, validate_only: false };
                visit.run(self, async move { app.complete_password_reset(&caller, command).await.map(drop) }).await
            }
        }
    }

    /// Shows the form again if another try can help.
    fn refuse(&self, visit: &Visit, form: &Fields, link: &OpenLink<'_>, error: Error) -> Response {
        let wait = retry_after(&error);
        let mistakes = match (&error, wait) {
            (Error::InvalidInput(violations) | Error::PasswordRejected(violations), _) => {
                violations.iter().map(|violation| Mistake::of("password", kind(violation.reason))).collect()
            }
            (_, Some(wait)) => {
                let kind = if matches!(error, Error::Exhausted { .. }) { "too_often" } else { "unavailable" };
                vec![Mistake { span: Some(Span::until_retry(wait)), ..Mistake::of("", kind) }]
            }
            _ => return self.problem(Some(visit), &error.into()),
        };
        let mut response = self.show_link(visit, form, link, status_of(&error), &mistakes);
        set_retry_after(&mut response, wait);
        response.extensions_mut().insert(Cause::of(&error));
        response
    }

    fn show_link(
        &self,
        visit: &Visit,
        fields: &Fields,
        link: &OpenLink<'_>,
        status: StatusCode,
        mistakes: &[Mistake],
    ) -> Response {
        let (page, token, lang) = (link.page.as_str(), link.token, fields.get("lang"));
        let locale = link.view.as_ref().and_then(|view| view.locale.as_ref());
        let remaining =
            link.view.as_ref().map(|view| Span::remaining(view.expires_at.duration_since(self.app.environment.now())));
        self.views.respond(&Page {
            status,
            template: match link.page {
                LinkPage::Reset | LinkPage::Invite => "choose.html",
                LinkPage::Verify => "verify.html",
                LinkPage::Cancel => "cancel.html",
            },
            language: visit.language(lang.parse().ok(), locale),
            here: format!("{page}?token={token}&"),
            values: context! {
                page,
                token,
                lang,
                mistakes => mistakes.to_vec(),
                remaining,
                is_invitation => link.page == LinkPage::Invite,
                username => link.view.as_ref().map(|view| view.username.as_str()),
                min_length => self.app.password_rules().min_length,
            },
        })
    }
}

fn mistake(fault: &impl Describe) -> Mistake {
    Mistake::of("password", kind(fault.fault()))
}

/// The name of the text for a fault of a password.
fn kind(fault: Fault) -> &'static str {
    match fault {
        Fault::Required => "required",
        Fault::TooShort => "too_short",
        Fault::TooLong => "too_long",
        Fault::Reused => "reused",
        Fault::NotText => "not_text",
        _ => "malformed",
    }
}
