//! Requests and messages of sign-in.

use secrecy::ExposeSecret as _;

use super::code::{self, optional_code};
use super::passwords::proof;
use super::sessions::session;
use super::user::{change_cause, user};
use super::{bounded, duration_message, each, finish, names, required, scopes, stamp};
use crate::app::{App, Identity, Progress, RefreshTokens, RequestPasswordReset, ResetRequested, SignIn, Tokens};
use crate::domain::caller::{Caller, Principal};
use crate::domain::familiar::{MAX_DEVICE_TOKEN_BYTES, SentDeviceToken};
use crate::domain::login::Login;
use crate::domain::password::PasswordRules;
use crate::domain::profile::{Audience, ClientName, Locale};
use crate::domain::role::ScopeSet;
use crate::domain::secret::RefreshToken;
use crate::domain::session::{OWN_AUDIENCE, SignInWish};
use crate::domain::text::TextFault;
use crate::domain::ticket::SignInGoal;
use crate::domain::violation::{Fault, Violations};
use crate::error::Result;
use crate::proto::v1;

/// The maximum length of a login, in bytes: that of an e-mail address.
const MAX_LOGIN_BYTES: usize = 254;

/// The maximum length of a refresh token, in bytes.
const MAX_REFRESH_TOKEN_BYTES: usize = 1024;

/// The maximum number of audiences of a token.
const MAX_AUDIENCES: usize = 8;

/// The application name of a sign-in without a calling application.
const NO_APP: &str = "latchkey";

pub(in crate::grpc) fn sign_in(message: v1::SignInRequest, caller: &Caller) -> Result<SignIn> {
    let mut faults = Violations::new();
    let login = required(&mut faults, "login", message.login, MAX_LOGIN_BYTES);
    let password = proof(&mut faults, "password", message.password);
    let code = optional_code(&mut faults, message.second_factor);
    let device_token = device_token(&mut faults, message.device_token);
    let client_name = faults.check("client_name", ClientName::parse(&message.client_name));
    let audiences = audiences(&mut faults, &message.audiences);
    let scopes = wanted_scopes(&mut faults, &message.scopes);
    let app = caller.call.app.as_ref().map_or_else(|| NO_APP.to_owned(), |app| app.name.clone());
    finish(faults, || {
        let wish = SignInWish { client_name: client_name?, audiences: audiences?, scopes: scopes?, app };
        Some(SignIn {
            login: login?,
            password: password?,
            code: code?,
            device_token: device_token?,
            wish,
            goal: SignInGoal::Session,
        })
    })
}

pub(in crate::grpc) fn request_reset(message: v1::RequestPasswordResetRequest) -> Result<RequestPasswordReset> {
    let mut faults = Violations::new();
    let login = required(&mut faults, "login", message.login, MAX_LOGIN_BYTES);
    let login = login.filter(|login| faults.check("login", Login::parse(login)).is_some());
    let locale = faults.check("locale", Locale::parse(&message.locale));
    finish(faults, || Some(RequestPasswordReset { login: login?, locale: locale? }))
}

pub(in crate::grpc) fn reset_requested(requested: ResetRequested) -> v1::RequestPasswordResetResponse {
    v1::RequestPasswordResetResponse {
        link_ttl: Some(duration_message(requested.link_ttl)),
        resend_after: Some(duration_message(requested.resend_after)),
    }
}

/// Reads a device token; empty means none. Whether it is valid is no matter of the request.
fn device_token(faults: &mut Violations, text: String) -> Option<Option<SentDeviceToken>> {
    let text = bounded(faults, "device_token", text, MAX_DEVICE_TOKEN_BYTES)?;
    Some((!text.is_empty()).then(|| text.into()))
}

fn audiences(faults: &mut Violations, texts: &[String]) -> Option<Vec<Audience>> {
    let audiences = each(faults, "audiences", texts, MAX_AUDIENCES, |text| {
        Audience::parse(text).and_then(|audience| audience.ok_or(TextFault::Empty))
    })?;
    if audiences.len() > 1 && audiences.iter().any(|audience| audience.as_str() == OWN_AUDIENCE) {
        // Otherwise another service that receives the token could act as its user here.
        faults.push("audiences", Fault::Conflict, format!("{OWN_AUDIENCE} stands alone"));
        return None;
    }
    Some(audiences)
}

/// Reads the requested scopes; empty means all.
fn wanted_scopes(faults: &mut Violations, texts: &[String]) -> Option<Option<ScopeSet>> {
    let scopes = scopes(faults, texts)?;
    Some((!texts.is_empty()).then_some(scopes))
}

pub(in crate::grpc) fn refresh_tokens(message: v1::RefreshTokensRequest) -> Result<RefreshTokens> {
    let mut faults = Violations::new();
    let token = required(&mut faults, "refresh_token", message.refresh_token, MAX_REFRESH_TOKEN_BYTES);
    let audiences = audiences(&mut faults, &message.audiences);
    let scopes = wanted_scopes(&mut faults, &message.scopes);
    finish(faults, || {
        let token = RefreshToken::parse(&zeroize::Zeroizing::new(token?)).ok();
        Some(RefreshTokens { token, audiences: audiences?, scopes: scopes? })
    })
}

/// Converts the progress of a sign-in to a message.
pub(in crate::grpc) fn progress(progress: &Progress) -> v1::SignInProgress {
    use v1::sign_in_progress::Step;
    let step = match progress {
        Progress::Tokens(issued) => Step::Tokens(tokens(issued)),
        Progress::SecondFactor { ticket, methods, expires_at } => Step::SecondFactor(v1::SecondFactorStep {
            ticket: ticket.expose().to_string(),
            methods: code::methods(methods),
            expire_time: Some(stamp(*expires_at)),
        }),
        Progress::Enrollment { ticket, expires_at } => Step::Enrollment(v1::EnrollmentStep {
            ticket: ticket.expose().to_string(),
            expire_time: Some(stamp(*expires_at)),
        }),
        Progress::PasswordChange { ticket, cause, rules, expires_at } => Step::PasswordChange(v1::PasswordChangeStep {
            ticket: ticket.expose().to_string(),
            cause: change_cause(*cause).into(),
            rules: Some(self::rules(*rules)),
            expire_time: Some(stamp(*expires_at)),
        }),
    };
    let due = match progress {
        Progress::Tokens(tokens) => tokens.second_factor_due,
        _ => None,
    };
    v1::SignInProgress { step: Some(step), second_factor_required_from_time: due.map(stamp) }
}

pub(in crate::grpc) fn rules(rules: PasswordRules) -> v1::PasswordRules {
    v1::PasswordRules {
        min_length: Some(rules.min_length),
        max_length: Some(rules.max_length),
        min_score: Some(u32::from(rules.min_score)),
        reject_breached: Some(rules.reject_breached),
        reject_user_info: Some(rules.reject_user_info),
        require_letter_and_digit: Some(rules.require_letter_and_digit),
    }
}

/// Converts the tokens of a session to a message.
pub(in crate::grpc) fn tokens(tokens: &Tokens) -> v1::TokenSet {
    v1::TokenSet {
        access_token: tokens.access.expose_secret().to_owned(),
        access_expire_time: Some(stamp(tokens.access_expires_at)),
        refresh_token: tokens.refresh.expose().to_string(),
        refresh_expire_time: Some(stamp(tokens.refresh_expires_at)),
        session_id: tokens.session_id.to_string(),
        scopes: names(tokens.scopes),
        device_token: tokens.device.as_ref().map(|token| token.expose_secret().to_owned()).unwrap_or_default(),
    }
}

/// Converts the identity of the caller to a message.
pub(in crate::grpc) fn identity(app: &App, caller: &Caller, identity: &Identity) -> v1::WhoAmIResponse {
    use v1::who_am_i_response::Kind;
    let (kind, api_token_id) = match &caller.principal {
        Principal::Anonymous => (Kind::Unspecified, String::new()),
        Principal::Local { .. } => (Kind::Local, String::new()),
        Principal::User { .. } => (Kind::User, String::new()),
        Principal::ApiToken { id, .. } => (Kind::ApiToken, id.to_string()),
    };
    v1::WhoAmIResponse {
        kind: kind.into(),
        principal_id: caller.principal.id(),
        user: identity.user.as_ref().map(|known| user(app, known)),
        session: identity.session.as_ref().map(|known| session(known, caller)),
        api_token_id,
        scopes: names(caller.scopes),
    }
}
