//! Who calls, and whether the rule of the method lets them in.

use jsonwebtoken::{Algorithm, Validation};

use super::App;
use crate::domain::api_token::{ApiToken, LAST_USE_RESOLUTION};
use crate::domain::caller::{AccessRule, Call, Caller, CallingApp, Demand, Denied, Principal};
use crate::domain::id::UserId;
use crate::domain::reason::Reason;
use crate::domain::role::{Scope, ScopeSet};
use crate::domain::secret::ApiTokenSecret;
use crate::domain::session::Session;
use crate::domain::token::{Claims, TOKEN_TYPE};
use crate::domain::user::User;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::api_tokens::{api_token_by_id, api_token_used};
use crate::store::sessions::session_by_id;
use crate::store::users::user_by_id;

/// Somebody who has proved who they are.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// Who.
    pub principal: Principal,
    /// What they may do now: what their credential was given and what their roles permit, in common.
    pub scopes: ScopeSet,
}

/// The header of an access token. Any other member (`jku`, `jwk`, `x5u`, `crit` …) makes the token invalid: none of
/// them is ever needed, and each has been a way around a signature somewhere.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
    kid: String,
}

impl App {
    /// Looks a bearer token up: an access token, or an API token.
    pub async fn authenticate(&self, bearer: &str) -> Result<Authenticated> {
        if let Ok(secret) = ApiTokenSecret::parse(bearer) {
            let (token, user) = self.live_api_token(&secret).await?;
            return Ok(Authenticated {
                scopes: token.scopes.intersection(user.scopes()),
                principal: Principal::ApiToken {
                    id: token.id,
                    user_id: user.id,
                    username: user.username.as_str().to_owned(),
                    granted: token.scopes,
                },
            });
        }
        let claims = self.verify_access_token(bearer)?;
        if !claims.is_for_latchkey() {
            return Err(Unauthenticated::TokenInvalid.into());
        }
        let (session, user) = self.live_session(&claims).await?;
        let granted = ScopeSet::from_text(&claims.scope);
        Ok(Authenticated {
            scopes: granted.intersection(user.scopes()),
            principal: Principal::User {
                id: user.id,
                username: user.username.as_str().to_owned(),
                session_id: session.id,
                auth_at: session.auth_at,
                granted,
            },
        })
    }

    /// The operator on the host.
    pub fn local(&self, uid: u32) -> Authenticated {
        Authenticated { principal: Principal::Local { uid }, scopes: ScopeSet::ALL }
    }

    /// The application that names itself with this API token.
    pub async fn calling_app(&self, api_token: &str) -> Result<CallingApp> {
        let secret = ApiTokenSecret::parse(api_token).map_err(|_| Unauthenticated::TokenInvalid)?;
        let (token, user) = self.live_api_token(&secret).await?;
        let scopes = token.scopes.intersection(user.scopes());
        Ok(CallingApp { name: user.username.as_str().to_owned(), is_proxy: scopes.contains(Scope::AuthProxy) })
    }

    /// Applies the rule of a method.
    pub async fn admit(&self, who: Option<Authenticated>, rule: AccessRule, call: Call) -> Result<Caller> {
        if matches!(rule.demand, Demand::Anyone | Demand::Ticket) {
            return Ok(Caller {
                principal: Principal::Nobody,
                scopes: ScopeSet::NONE,
                rule,
                field_scopes: Vec::new(),
                call,
            });
        }
        let Authenticated { principal, scopes } = who.ok_or(Unauthenticated::Missing)?;
        let caller = Caller { principal, scopes, rule, field_scopes: Vec::new(), call };
        if let Err(denied) = check_demand(&caller) {
            let error = denied.into();
            self.audit_refusal(&caller, None, &error).await?;
            return Err(error);
        }
        self.check_auth_age(&caller)?;
        Ok(caller)
    }

    /// API tokens and the local operator prove themselves with every call.
    fn check_auth_age(&self, caller: &Caller) -> Result<()> {
        match (&caller.principal, caller.rule.max_auth_age) {
            (Principal::User { auth_at, .. }, Some(max_auth_age))
                if self.now().duration_since(*auth_at) > max_auth_age =>
            {
                Err(Unauthenticated::TooOld { max_auth_age }.into())
            }
            _ => Ok(()),
        }
    }

    /// Checks signature, header, times and issuer: everything but the audience and whether the session lives.
    pub(super) fn verify_access_token(&self, token: &str) -> Result<Claims> {
        let invalid = || Error::Unauthenticated(Unauthenticated::TokenInvalid);
        let encoded = token.split('.').next().unwrap_or_default();
        let header = data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| invalid())?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| invalid())?;
        if header.typ != TOKEN_TYPE || header.alg != "EdDSA" {
            return Err(invalid());
        }
        let now = self.now();
        let keys = self.keys.current();
        let key = keys.verifier(&header.kid, now).ok_or_else(invalid)?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &signature_only()).map_err(|_| invalid())?.claims;
        match claims.check(&self.settings.issuer, now) {
            Ok(()) => Ok(claims),
            Err(Reason::TokenExpired) => Err(Unauthenticated::TokenExpired.into()),
            Err(_) => Err(invalid()),
        }
    }

    /// The session and the user that an access token speaks for, as they are now.
    pub(super) async fn live_session(&self, claims: &Claims) -> Result<(Session, User)> {
        let over = || Error::Unauthenticated(Unauthenticated::SessionRevoked);
        let session_id = claims.sid.parse().map_err(|_| Error::Unauthenticated(Unauthenticated::TokenInvalid))?;
        let session = session_by_id(self.store.reader(), session_id).await?.ok_or_else(over)?;
        if !session.is_live(self.now()) || session.user_id.to_string() != claims.sub {
            return Err(over());
        }
        let user = self.unlocked_user(session.user_id).await?.ok_or_else(over)?;
        Ok((session, user))
    }

    /// The API token with this secret and its user, as they are now.
    pub(super) async fn live_api_token(&self, secret: &ApiTokenSecret) -> Result<(ApiToken, User)> {
        let now = self.now();
        let found = api_token_by_id(self.store.reader(), secret.id()).await?;
        let Some((token, _)) = found.filter(|(_, digest)| *digest == secret.digest()) else {
            return Err(Unauthenticated::TokenInvalid.into());
        };
        if token.revoked_at.is_some() {
            return Err(Unauthenticated::SessionRevoked.into());
        }
        if !token.is_live(now) {
            return Err(Unauthenticated::TokenExpired.into());
        }
        let user = self.unlocked_user(token.user_id).await?;
        let user = user.ok_or(Error::Unauthenticated(Unauthenticated::SessionRevoked))?;
        if token.last_used_at.is_none_or(|at| now.duration_since(at) >= LAST_USE_RESOLUTION) {
            api_token_used(self.store.autocommit(), token.id, now).await?;
        }
        Ok((token, user))
    }

    async fn unlocked_user(&self, id: UserId) -> Result<Option<User>> {
        let now = self.now();
        Ok(user_by_id(self.store.reader(), id).await?.filter(|user| user.lock(now).is_none()))
    }
}

fn check_demand(caller: &Caller) -> Result<(), Denied> {
    match (caller.rule.demand, &caller.principal) {
        (Demand::Scope(scope), _) if !caller.scopes.contains(scope) => Err(Denied::ScopeMissing(scope)),
        (Demand::OneSelf, Principal::ApiToken { .. }) => Err(Denied::ApiTokenForbidden),
        (Demand::OneSelf, Principal::Local { .. } | Principal::Nobody) => Err(Denied::UserRequired),
        _ => Ok(()),
    }
}

/// The library checks the signature, and we the rest: it reads the clock of the machine, and is lenient about claims
/// that are missing.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}
