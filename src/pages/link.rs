//! The pages that a link leads to: choosing a password, confirming an address, and cancelling links.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use http::StatusCode;
use minijinja::context;

use super::done::{TOO_LATE, done};
use super::fields::Fields;
use super::form::Form;
use super::link_page::LinkPage;
use super::mistakes::mistakes_of;
use super::problem::{Cause, Problem, retry_after, set_retry_after, status_of};
use super::view::{Mistake, Page, Span};
use super::visit::{Place, Visit};
use super::{Pages, code};
use crate::app::{CompletePasswordReset, LinkView};
use crate::domain::caller::Demand;
use crate::domain::email::EmailAddress;
use crate::domain::language::Language;
use crate::domain::password::{PasswordFault, PlainPassword};
use crate::domain::second_factor::SecondFactorCode;
use crate::domain::secret::{CancelSecret, LinkSecret};
use crate::error::{Error, Result, Unauthenticated};

/// A link that can be used.
struct OpenLink<'a> {
    page: LinkPage,
    /// The token as it was sent.
    token: &'a str,
    /// `None` for a token that cancels: it is not looked up, so that the page says nothing about accounts.
    view: Option<LinkView>,
}

impl OpenLink<'_> {
    /// Returns whether the user has a second factor, which the link does not replace.
    fn needs_code(&self) -> bool {
        self.view.as_ref().is_some_and(|view| !view.second_factors.is_empty())
    }

    /// The language that was chosen, or else that of the user or the browser.
    fn language(&self, visit: &Visit, fields: &Fields) -> Language {
        let locale = self.view.as_ref().and_then(|view| view.locale.as_ref());
        visit.language(fields.get("lang").parse().ok(), locale)
    }
}

/// What a user chose and typed to set a password.
struct Chosen {
    password: PlainPassword,
    code: Option<SecondFactorCode>,
}

/// Shows what the link is for. Changes nothing.
pub(super) async fn show(State(pages): State<Arc<Pages>>, Extension(visit): Extension<Visit>) -> Response {
    match pages.open(&visit, visit.query()).await {
        Ok(link) => pages.show_link(&visit, visit.query(), &link, StatusCode::OK, &[]).await,
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
    let chosen = match link.page {
        LinkPage::Reset | LinkPage::Invite => match pages.chosen(&visit, &form, &link).await {
            Err(error) => return pages.refuse(&visit, &form, &link, error).await,
            Ok(Ok(chosen)) => Some(chosen),
            Ok(Err(mistakes)) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                let mut response = pages.show_link(&visit, &form, &link, status, &mistakes).await;
                response.extensions_mut().insert(Cause::of_mistakes(&mistakes));
                return response;
            }
        },
        LinkPage::Verify | LinkPage::Cancel => None,
    };
    match pages.use_link(&visit, &link, chosen).await {
        Ok(what) => done(what, form.get("lang")),
        Err(error) => pages.refuse(&visit, &form, &link, error).await,
    }
}

impl Pages {
    /// Looks at a link. Fails if it is dead, or for another page.
    async fn open<'a>(&self, visit: &Visit, fields: &'a Fields) -> Result<OpenLink<'a>, Problem> {
        let Place::Link(page) = visit.place() else { return Err(Problem::NotFound) };
        let dead = || Error::Unauthenticated(Unauthenticated::LinkInvalid);
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

    /// Returns the password of the form, and the code if the link needs one; or every mistake that shows before they are
    /// checked.
    async fn chosen(
        &self,
        visit: &Visit,
        form: &Fields,
        link: &OpenLink<'_>,
    ) -> Result<std::result::Result<Chosen, Vec<Mistake>>> {
        let (app, secret) = (Arc::clone(&self.app), LinkSecret::parse(link.token).ok());
        let caller = visit.caller(self, "CompletePasswordReset", Demand::Ticket).await?;
        let judge = async |password| {
            visit.run(self, async move { app.judge_for_link(&caller, secret.as_ref(), password).await }).await
        };
        let password = self.chosen_password(form, link.language(visit, form), judge).await?;
        let code = code::typed(form.get("code"));
        let is_missing = link.needs_code() && code.is_none();
        let missing = is_missing.then(|| Mistake::of("code", "required"));
        Ok(match (password, missing) {
            (Ok(password), None) => Ok(Chosen { password, code }),
            (password, missing) => Err(password.err().into_iter().flatten().chain(missing).collect()),
        })
    }

    /// Returns which page tells what was done.
    async fn use_link(&self, visit: &Visit, link: &OpenLink<'_>, chosen: Option<Chosen>) -> Result<&'static str> {
        let done = link.page.as_str();
        let (app, secret) = (Arc::clone(&self.app), LinkSecret::parse(link.token).ok());
        match (link.page, chosen) {
            (LinkPage::Verify, _) => {
                let caller = visit.caller(self, "VerifyEmail", Demand::Ticket).await?;
                visit.run(self, async move { app.verify_email(&caller, secret).await }).await.map(|()| done)
            }
            (LinkPage::Cancel, _) => {
                let (caller, secret) =
                    (visit.caller(self, "CancelLink", Demand::Ticket).await?, CancelSecret::parse(link.token));
                let used_at = visit.run(self, async move { app.cancel_link(&caller, secret.ok()).await }).await?;
                Ok(if used_at.is_some() { TOO_LATE } else { done })
            }
            (LinkPage::Reset | LinkPage::Invite, chosen) => {
                let caller = visit.caller(self, "CompletePasswordReset", Demand::Ticket).await?;
                let (new_password, code) = match chosen {
                    Some(Chosen { password, code }) => (Ok(password), code),
                    None => (Err(PasswordFault::Empty), None),
                };
                let command = CompletePasswordReset { link: secret, new_password, code, validate_only: false };
                visit.run(self, async move { app.complete_password_reset(&caller, command).await }).await.map(|_| done)
            }
        }
    }

    /// Shows the form again if another try can help.
    async fn refuse(&self, visit: &Visit, form: &Fields, link: &OpenLink<'_>, error: Error) -> Response {
        let Some(mistakes) = mistakes_of(&error) else { return self.problem(Some(visit), &error.into()) };
        let mut response = self.show_link(visit, form, link, status_of(&error), &mistakes).await;
        set_retry_after(&mut response, retry_after(&error));
        response.extensions_mut().insert(Cause::of(&error));
        response
    }

    async fn show_link(
        &self,
        visit: &Visit,
        fields: &Fields,
        link: &OpenLink<'_>,
        status: StatusCode,
        mistakes: &[Mistake],
    ) -> Response {
        let (page, token, lang) = (link.page.as_str(), link.token, fields.get("lang"));
        let remaining =
            link.view.as_ref().map(|view| Span::remaining(view.expires_at.duration_since(self.app.environment.now())));
        self.views.respond(&Page {
            status,
            template: match link.page {
                LinkPage::Reset | LinkPage::Invite => "choose.html",
                LinkPage::Verify => "verify.html",
                LinkPage::Cancel => "cancel.html",
            },
            language: link.language(visit, fields),
            here: format!("{page}?token={token}&"),
            values: context! {
                page,
                token,
                lang,
                mistakes => mistakes.to_vec(),
                remaining,
                is_invitation => link.page == LinkPage::Invite,
                username => link.view.as_ref().map(|view| view.username.as_str()),
                address => link.view.as_ref().and_then(|view| view.address.as_ref()).map(EmailAddress::as_str),
                rules => self.shown_rules().await,
                needs_code => link.needs_code(),
            },
        })
    }
}
