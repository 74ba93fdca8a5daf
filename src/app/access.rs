//! Authentication and authorisation: finds out who the caller is, and applies the access rule of the method.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Validation};

use super::App;
use super::token_cache::Verified;
use crate::crypto::Keys;
use crate::domain::api_token::{ApiToken, LAST_USE_RESOLUTION};
use crate::domain::caller::{
    AccessRule, Call, Caller, CallingApp, Demand, Denied, Principal, RECENT_SIGN_IN, RecentSignIn,
};
use crate::domain::id::ApiTokenId;
use crate::domain::reason::Reason;
use crate::domain::role::{Scope, ScopeSet};
use crate::domain::secret::{ApiTokenSecret, Digest32};
use crate::domain::session::Session;
use crate::domain::time::Timestamp;
use crate::domain::token::{Claims, TOKEN_TYPE};
use crate::domain::user::User;
use crate::error::{Error, Result, Unauthenticated};
use crate::store::api_tokens::{api_token_used, api_token_with_user};
use crate::store::sessions::session_with_user;

/// How long a call waits for the write that notes the use of its API token.
const NOTE_USE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after one attempt to note a use the next may follow.
const NOTE_USE_AGAIN: Duration = Duration::from_mins(1);

/// A caller whose credential is valid.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The caller's identity.
    pub principal: Principal,
    /// The scopes that the caller has now: those that both the credential and the roles grant.
    pub scopes: ScopeSet,
}

/// The header of an access token. Any other member (`jku`, `jwk`, `x5u`, `crit` …) makes the token invalid: none of them is
/// needed, and each has been used somewhere to bypass a signature.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
    kid: String,
}

impl App {
    /// Authenticates a bearer token, which is an access token or an API token. Fails if it is invalid, expired or revoked, or
    /// if its user is locked.
    pub async fn authenticate(&self, bearer: &str) -> Result<Authenticated> {
        match self.credential(bearer).await {
            // A client that signs out a second time takes this error as a confirmation, so it must be durable.
            Err(error @ Error::Unauthenticated(Unauthenticated::SessionRevoked)) => self.durable(Err(error)).await,
            answer => answer,
        }
    }

    async fn credential(&self, bearer: &str) -> Result<Authenticated> {
        if let Ok(secret) = ApiTokenSecret::parse(bearer) {
            let live = self.live_api_token(&secret).await?;
            let (token, _, user) = &*live;
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
        let verified = self.verify_access_token(bearer)?;
        let claims = &verified.claims;
        if !claims.is_for_latchkey() {
            return Err(Unauthenticated::TokenInvalid.into());
        }
        let live = self.live_session(claims).await?;
        let (session, user) = &*live;
        let granted = ScopeSet::from_text(&claims.scope);
        Ok(Authenticated {
            scopes: granted.intersection(user.scopes()),
            principal: Principal::User {
                id: user.id,
                username: user.username.as_str().to_owned(),
                session_id: session.id,
                auth_at: session.auth_at,
                owes_second_factor: user.owes_second_factor(session.proofs),
                granted,
            },
        })
    }

    /// Returns the local operator, who calls over the local socket and has every scope.
    pub fn local(&self, uid: u32) -> Authenticated {
        Authenticated { principal: Principal::Local { uid }, scopes: ScopeSet::ALL }
    }

    /// Returns the application that identifies itself with this API token.
    pub async fn calling_app(&self, api_token: &str) -> Result<CallingApp> {
        let secret = ApiTokenSecret::parse(api_token).map_err(|_| Unauthenticated::TokenInvalid)?;
        let live = self.live_api_token(&secret).await?;
        let (token, _, user) = &*live;
        let scopes = token.scopes.intersection(user.scopes());
        Ok(CallingApp { name: user.username.as_str().to_owned(), is_proxy: scopes.contains(Scope::AuthProxy) })
    }

    /// Applies the access rule of a method: the kind of caller, the scope and the recent sign-in. A denial is recorded in the
    /// audit log.
    pub async fn admit(&self, who: Option<Authenticated>, rule: AccessRule, call: Call) -> Result<Caller> {
        let Authenticated { principal, scopes } = match rule.demand {
            Demand::Anyone | Demand::Ticket => {
                Authenticated { principal: Principal::Anonymous, scopes: ScopeSet::NONE }
            }
            // The use case demands the ticket.
            Demand::OneSelfOrTicket
                if who.as_ref().is_none_or(|who| matches!(who.principal, Principal::Local { .. })) =>
            {
                Authenticated { principal: Principal::Anonymous, scopes: ScopeSet::NONE }
            }
            _ => who.ok_or(Unauthenticated::Missing)?,
        };
        let recent_sign_in = rule.recent_sign_in.filter(|_| principal != Principal::Anonymous);
        let caller = Caller { principal, scopes, rule, field_scopes: Vec::new(), recent_sign_in, call };
        if let Err(denied) = check_demand(&caller) {
            let error = denied.into();
            self.audit_refusal(&caller, None, &error).await?;
            return Err(error);
        }
        // What depends on fields and target is checked in the transaction.
        check_recent_sign_in(&caller, self.now(), None)?;
        Ok(caller)
    }

    /// Checks signature, header, times and issuer of an access token, but neither the audience nor whether the session is
    /// live.
    pub(super) fn verify_access_token(&self, token: &str) -> Result<Arc<Verified>> {
        let (keys, now) = (self.keys.current(), self.now());
        let digest = *Digest32::sha256(token.as_bytes()).as_bytes();
        let known = self.token_cache.verified.get(&digest).filter(|known| keys.verifier(&known.key, now).is_some());
        let is_known = known.is_some();
        let verified = match known {
            Some(known) => known,
            None => Arc::new(verify_signature(&keys, token, now).ok_or(Unauthenticated::TokenInvalid)?),
        };
        match verified.claims.check(&self.settings.issuer, now) {
            Ok(()) => {
                if !is_known {
                    self.token_cache.verified.insert(digest, Arc::clone(&verified));
                }
                Ok(verified)
            }
            Err(Reason::TokenExpired) => Err(Unauthenticated::TokenExpired.into()),
            Err(_) => Err(Unauthenticated::TokenInvalid.into()),
        }
    }

    /// Returns the session and the user of an access token, as they are now. Fails if the session has ended or the user is
    /// locked.
    pub(super) async fn live_session(&self, claims: &Claims) -> Result<Arc<(Session, User)>> {
        let over = || Error::Unauthenticated(Unauthenticated::SessionRevoked);
        let session_id = claims.sid.parse().map_err(|_| Error::Unauthenticated(Unauthenticated::TokenInvalid))?;
        let (commits, read) = (self.store.commits(), session_with_user(self.store.reader(), session_id));
        let found = self.token_cache.sessions.get(commits, session_id, read).await?;
        let live = found.ok_or_else(over)?;
        let ((session, user), now) = (&*live, self.now());
        if !session.is_live(now) || session.user_id.to_string() != claims.sub || user.lock(now).is_some() {
            return Err(over());
        }
        Ok(live)
    }

    /// Returns the API token with this secret and its user, as they are now. Fails if the token is unknown, expired or
    /// revoked, or the user is locked.
    pub(super) async fn live_api_token(&self, secret: &ApiTokenSecret) -> Result<Arc<(ApiToken, Digest32, User)>> {
        let (commits, id) = (self.store.commits(), secret.id());
        let read = api_token_with_user(self.store.reader(), id);
        let found = self.token_cache.api_tokens.get(commits, id, read).await?;
        let live = found.filter(|found| found.1 == secret.digest()).ok_or(Unauthenticated::TokenInvalid)?;
        let ((token, _, user), now) = (&*live, self.now());
        if token.revoked_at.is_some() {
            return Err(Unauthenticated::SessionRevoked.into());
        }
        if !token.is_live(now) {
            return Err(Unauthenticated::TokenExpired.into());
        }
        if user.lock(now).is_some() {
            return Err(Unauthenticated::SessionRevoked.into());
        }
        if token.last_used_at.is_none_or(|at| now.duration_since(at) >= LAST_USE_RESOLUTION) {
            self.note_use(token.id, now).await;
        }
        Ok(live)
    }

    /// Notes that a token is used, for operators to see. No call waits long for this or fails because of it. If it cannot be
    /// written, as on a full disk, only one call per [`NOTE_USE_AGAIN`] tries.
    async fn note_use(&self, id: ApiTokenId, now: Timestamp) {
        if self.token_cache.uses.get(&id).is_some_and(|at| now.duration_since(at) < NOTE_USE_AGAIN) {
            return;
        }
        self.token_cache.uses.insert(id, now);
        let noted = async { api_token_used(self.store.autocommit()?, id, now).await };
        match tokio::time::timeout(NOTE_USE_TIMEOUT, noted).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(token = %id, cause, "the use of an API token was not noted");
            }
            Err(_) => tracing::warn!(token = %id, "the use of an API token was not noted in time"),
        }
    }
}

/// Checks signature, header and form of an access token. Returns `None` if it is not one that we signed.
fn verify_signature(keys: &Keys, token: &str, now: Timestamp) -> Option<Verified> {
    let encoded = token.split('.').next().unwrap_or_default();
    let header = data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?;
    let header: Header = serde_json::from_slice(&header).ok()?;
    if header.typ != TOKEN_TYPE || header.alg != "EdDSA" {
        return None;
    }
    let key = keys.verifier(&header.kid, now)?;
    let claims = jsonwebtoken::decode::<Claims>(token, key, &signature_only()).ok()?.claims;
    Some(Verified { key: header.kid, claims })
}

/// Fails if the call needs a recent sign-in and the caller has none. `target` has the scopes of the target, before or after
/// the change, once they are known.
pub(super) fn check_recent_sign_in(caller: &Caller, now: Timestamp, target: Option<ScopeSet>) -> Result<()> {
    let is_needed = match caller.recent_sign_in {
        None => false,
        Some(RecentSignIn::Always) => true,
        Some(RecentSignIn::IfTargetHasScopes) => target.is_some_and(|scopes| !scopes.is_empty()),
    };
    if !is_needed {
        return Ok(());
    }
    if !caller.principal.has_recent_sign_in(now) {
        return Err(Unauthenticated::TooOld { max_auth_age: RECENT_SIGN_IN }.into());
    }
    match caller.principal {
        Principal::User { owes_second_factor: true, .. } => Err(Unauthenticated::SecondFactorRequired.into()),
        _ => Ok(()),
    }
}

fn check_demand(caller: &Caller) -> Result<(), Denied> {
    match (caller.rule.demand, &caller.principal) {
        (Demand::Scope(scope), _) if !caller.scopes.contains(scope) => Err(Denied::ScopeMissing(scope)),
        (Demand::OneSelf | Demand::OneSelfOrTicket, Principal::ApiToken { .. }) => Err(Denied::ApiTokenForbidden),
        (Demand::OneSelf, Principal::Local { .. } | Principal::Anonymous) => Err(Denied::UserRequired),
        _ => Ok(()),
    }
}

/// Makes the library check only the signature. We check the claims ourselves, because the library reads the machine's clock
/// and tolerates missing claims.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}
