//! The page on which users set up or replace their authenticator.
//!
//! Each step is a form with the ticket that the step before it got, so there is no session and no cookie:
//!
//! ```text
//! sign-in ─▶ code, if there is a second factor ─▶ password, if it must be changed ─▶ app ─▶ recovery codes
//! ```

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use http::StatusCode;
use minijinja::{Value, context};
use strum::EnumString;
use zeroize::Zeroizing;

use super::fields::Fields;
use super::form::Form;
use super::mistakes::mistakes_of;
use super::problem::{Cause, Problem, retry_after, set_retry_after, status_of};
use super::qr;
use super::view::{Mistake, Page, Span};
use super::visit::Visit;
use super::{Pages, code};
use crate::app::{
    CompletePasswordChange, ConfirmTotp, EnrollBy, EnrollTotp, Progress, SignIn, TotpEnrollment, VerifySecondFactor,
};
use crate::domain::caller::Demand;
use crate::domain::language::Language;
use crate::domain::login::Login;
use crate::domain::password::PlainPassword;
use crate::domain::second_factor::{RecoveryCode, SecondFactorCode, TotpCode};
use crate::domain::secret::TicketSecret;
use crate::domain::session::SignInWish;
use crate::domain::ticket::SignInGoal;
use crate::domain::time::Timestamp;
use crate::domain::username::Username;
use crate::error::{Error, Result};

/// Symbols in a group of the key, for people who type it.
const GROUP: usize = 4;

/// What a form of the page asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case")]
enum Step {
    /// Login and password.
    SignIn,
    /// A code of the second factor that there is.
    Code,
    /// A new password.
    Password,
    /// The first code of the new authenticator.
    App,
}

/// What the user did in a step, without mistakes that show before it is checked.
enum Done {
    SignIn { login: String, password: Option<PlainPassword> },
    Code(SecondFactorCode),
    Password(PlainPassword),
    App(TotpCode),
}

/// What is shown next. All but the first has a ticket.
enum Shown {
    SignIn,
    Code(Zeroizing<String>),
    Password(Zeroizing<String>),
    App(NewApp),
    /// The end.
    Codes {
        username: Username,
        codes: Vec<RecoveryCode>,
    },
}

/// An authenticator that is to be confirmed.
struct NewApp {
    ticket: Zeroizing<String>,
    /// What the authenticator scans. The form brings it back, so that a wrong code does not mean another scan.
    uri: Zeroizing<String>,
    /// When the ticket expires. `None` after a mistake.
    expires_at: Option<Timestamp>,
}

impl From<TotpEnrollment> for NewApp {
    fn from(enrollment: TotpEnrollment) -> NewApp {
        let TotpEnrollment { ticket, uri, expires_at, .. } = enrollment;
        NewApp { ticket: ticket.expose(), uri, expires_at: Some(expires_at) }
    }
}

/// Shows the first step.
pub(super) async fn show(State(pages): State<Arc<Pages>>, Extension(visit): Extension<Visit>) -> Response {
    // A query must not fill in the name.
    let fields = Fields::default();
    pages.show_step(&visit, &fields, &Shown::SignIn, StatusCode::OK, &[]).await
}

/// Takes a step, and shows the next.
pub(super) async fn act(
    State(pages): State<Arc<Pages>>,
    Extension(visit): Extension<Visit>,
    Form(form): Form,
) -> Response {
    let Ok(step) = form.get("step").parse::<Step>() else { return pages.problem(Some(&visit), &Problem::Unreadable) };
    let done = match pages.done_in(step, &visit, &form).await {
        Err(error) => return pages.refuse_step(&visit, &form, step, error).await,
        Ok(Ok(done)) => done,
        Ok(Err(mistakes)) => {
            let (again, status) = (Shown::again(step, &form), StatusCode::UNPROCESSABLE_ENTITY);
            let mut response = pages.show_step(&visit, &form, &again, status, &mistakes).await;
            response.extensions_mut().insert(Cause::of_mistakes(&mistakes));
            return response;
        }
    };
    match pages.take_step(&visit, form.get("ticket"), done).await {
        Ok(next) => pages.show_step(&visit, &form, &next, StatusCode::OK, &[]).await,
        Err(error) => pages.refuse_step(&visit, &form, step, error).await,
    }
}

impl Shown {
    /// The step that a form was sent from.
    fn again(step: Step, form: &Fields) -> Shown {
        let field = |name| Zeroizing::new(form.get(name).to_owned());
        match step {
            Step::SignIn => Shown::SignIn,
            Step::Code => Shown::Code(field("ticket")),
            Step::Password => Shown::Password(field("ticket")),
            Step::App => Shown::App(NewApp { ticket: field("ticket"), uri: field("uri"), expires_at: None }),
        }
    }

    fn template(&self) -> &'static str {
        match self {
            Shown::SignIn => "security.html",
            Shown::Code(_) => "security_code.html",
            Shown::Password(_) => "security_password.html",
            Shown::App(_) => "security_app.html",
            Shown::Codes { .. } => "security_codes.html",
        }
    }
}

/// The language that the user chose on one of the steps.
fn chosen_language(visit: &Visit, fields: &Fields) -> Option<Language> {
    fields.get("lang").parse().ok().or_else(|| visit.chosen())
}

impl Pages {
    /// Returns what the user did, or every mistake that shows before it is checked.
    async fn done_in(
        &self,
        step: Step,
        visit: &Visit,
        form: &Fields,
    ) -> Result<std::result::Result<Done, Vec<Mistake>>> {
        Ok(match step {
            Step::SignIn => signing_in(form),
            Step::Code => code::typed(form.get("code")).map(Done::Code).ok_or(vec![Mistake::of("code", "required")]),
            Step::Password => {
                let (app, ticket) = (Arc::clone(&self.app), TicketSecret::parse(form.get("ticket")).ok());
                let caller = visit.caller(self, "CompletePasswordChange", Demand::Ticket).await?;
                let judge = async |password| {
                    visit.run(self, async move { app.judge_for_ticket(&caller, ticket.as_ref(), password).await }).await
                };
                let language = visit.language(chosen_language(visit, form), None);
                self.chosen_password(form, language, judge).await?.map(Done::Password)
            }
            Step::App => match code::typed(form.get("code")) {
                Some(SecondFactorCode::Totp(Some(code))) => Ok(Done::App(code)),
                _ => Err(vec![Mistake::of("code", "no_digits")]),
            },
        })
    }

    async fn take_step(&self, visit: &Visit, ticket: &str, done: Done) -> Result<Shown> {
        let (app, ticket) = (Arc::clone(&self.app), TicketSecret::parse(ticket).ok());
        let progress = match done {
            Done::SignIn { login, password } => {
                let caller = visit.caller(self, "SignIn", Demand::Anyone).await?;
                let (code, device_token, wish) = (None, None, SignInWish::default());
                let command = SignIn { login, password, code, device_token, wish, goal: SignInGoal::Enrollment };
                visit.run(self, async move { app.sign_in(&caller, command).await }).await?
            }
            Done::Code(code) => {
                let caller = visit.caller(self, "VerifySecondFactor", Demand::Ticket).await?;
                let command = VerifySecondFactor { ticket, code };
                visit.run(self, async move { app.verify_second_factor(&caller, command).await }).await?.progress
            }
            Done::Password(password) => {
                let caller = visit.caller(self, "CompletePasswordChange", Demand::Ticket).await?;
                let command = CompletePasswordChange { ticket, new_password: Ok(password), validate_only: false };
                let changed = visit.run(self, async move { app.complete_password_change(&caller, command).await });
                changed.await?.0.ok_or_else(|| Error::internal("a change of the password led to no step"))?
            }
            Done::App(code) => {
                let caller = visit.caller(self, "ConfirmTotp", Demand::Ticket).await?;
                let command = ConfirmTotp { ticket, code: Some(code) };
                let confirmed = visit.run(self, async move { app.confirm_totp(&caller, command).await }).await?;
                return Ok(Shown::Codes { username: confirmed.user.username, codes: confirmed.recovery_codes });
            }
        };
        self.after(visit, progress).await
    }

    /// What is shown after a step of the sign-in.
    async fn after(&self, visit: &Visit, progress: Progress) -> Result<Shown> {
        match progress {
            Progress::SecondFactor { ticket, .. } => Ok(Shown::Code(ticket.expose())),
            Progress::PasswordChange { ticket, .. } => Ok(Shown::Password(ticket.expose())),
            Progress::Enrollment { ticket, .. } => {
                let app = Arc::clone(&self.app);
                let caller = visit.caller(self, "EnrollTotp", Demand::OneSelfOrTicket).await?;
                let command = EnrollTotp { by: EnrollBy::Ticket(Some(ticket)), label: None };
                let enrolled = visit.run(self, async move { app.enroll_totp(&caller, command).await });
                enrolled.await.map(|enrollment| Shown::App(enrollment.into()))
            }
            Progress::Tokens(_) => Err(Error::internal("a sign-in to set up an authenticator opened a session")),
        }
    }

    /// Shows the step again if another try can help.
    async fn refuse_step(&self, visit: &Visit, form: &Fields, step: Step, error: Error) -> Response {
        let Some(mut mistakes) = mistakes_of(&error) else { return self.problem(Some(visit), &error.into()) };
        for mistake in &mut mistakes {
            if step == Step::App && mistake.kind == "wrong" {
                mistake.kind = "wrong_first";
            }
        }
        let mut response = self.show_step(visit, form, &Shown::again(step, form), status_of(&error), &mistakes).await;
        set_retry_after(&mut response, retry_after(&error));
        response.extensions_mut().insert(Cause::of(&error));
        response
    }

    async fn show_step(
        &self,
        visit: &Visit,
        fields: &Fields,
        shown: &Shown,
        status: StatusCode,
        mistakes: &[Mistake],
    ) -> Response {
        let is_first = matches!(shown, Shown::SignIn);
        let chosen = chosen_language(visit, fields);
        let values = match shown {
            Shown::SignIn => context! { offers_link => self.app.sends_links() },
            Shown::Code(ticket) => context! { ticket => ticket.as_str() },
            Shown::Password(ticket) => {
                context! { ticket => ticket.as_str(), rules => self.shown_rules().await }
            }
            Shown::App(new) => match self.values_of_app(new) {
                Some(values) => values,
                None => return self.problem(Some(visit), &Problem::Unreadable),
            },
            Shown::Codes { username, codes } => {
                let codes: Vec<String> = codes.iter().map(|code| code.expose().to_string()).collect();
                context! { codes, username => username.as_str() }
            }
        };
        self.views.respond(&Page {
            status,
            template: shown.template(),
            language: visit.language(chosen, None),
            // A link would lose the ticket, and the recovery codes.
            here: if is_first { "security?".to_owned() } else { String::new() },
            values: context! {
                mistakes => mistakes.to_vec(),
                login => fields.get("login").trim(),
                lang => chosen.map_or("", Language::code),
                ..values
            },
        })
    }

    /// The key as picture, link and text. `None` if the form has brought back something else.
    fn values_of_app(&self, new: &NewApp) -> Option<Value> {
        let remaining = new.expires_at.map(|at| Span::remaining(at.duration_since(self.app.environment.now())));
        let key = new.uri.strip_prefix("otpauth://totp/")?.split_once("?secret=")?.1.split('&').next()?;
        let picture = qr::draw(&new.uri)?;
        Some(context! {
            ticket => new.ticket.as_str(),
            uri => new.uri.as_str(),
            key => key.as_bytes().chunks(GROUP).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "),
            picture => picture.path,
            side => picture.side,
            remaining,
        })
    }
}

/// Reads login and password. A password that cannot be one is a wrong one.
fn signing_in(form: &Fields) -> Result<Done, Vec<Mistake>> {
    let (login, password) = (form.get("login").trim(), form.get("password"));
    let fault = match Login::parse(login) {
        _ if login.is_empty() => Some("required"),
        Err(_) => Some("malformed"),
        Ok(_) => None,
    };
    let of_login = fault.map(|kind| Mistake::of("login", kind));
    let of_password = password.is_empty().then(|| Mistake::of("password", "required"));
    let mistakes: Vec<Mistake> = of_login.into_iter().chain(of_password).collect();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(Done::SignIn { login: login.to_owned(), password: PlainPassword::parse(password.to_owned()).ok() })
}
