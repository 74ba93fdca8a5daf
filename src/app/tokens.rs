//! API tokens, introspection, signing keys, and the identity of the caller.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::App;
use super::writer::RolledBack;
use crate::crypto::{KEYS_MAX_AGE, PublicKey, short};
use crate::domain::api_token::{ApiToken, DEFAULT_TTL};
use crate::domain::audit::{Event, EventType, Target};
use crate::domain::caller::{Caller, Denied, Principal};
use crate::domain::id::{ApiTokenId, SessionId, UserId};
use crate::domain::page::PageRequest;
use crate::domain::profile::{Audience, Note, TokenName};
use crate::domain::role::{Role, ScopeSet};
use crate::domain::secret::ApiTokenSecret;
use crate::domain::session::Session;
use crate::domain::time::Timestamp;
use crate::domain::token::Claims;
use crate::domain::user::{User, UserRef};
use crate::domain::violation::{Fault, Violations};
use crate::error::{Error, Narrowing, Resource, Result};
use crate::store::api_tokens::{api_token_by_id, api_token_insert, api_token_list, api_token_revoke};
use crate::store::sessions::session_by_id;
use crate::store::users::{user_by_id, user_id_by_ref};

/// A command to create an API token, a bearer token for a program.
#[derive(Debug)]
pub struct CreateApiToken {
    /// The account that the token acts for.
    pub user: UserRef,
    /// A name for people to read.
    pub name: TokenName,
    /// The scopes of the token.
    pub scopes: ScopeSet,
    /// How long the token works. `None` takes the default.
    pub ttl: Option<Duration>,
}

/// A command to revoke an API token.
#[derive(Debug)]
pub struct RevokeApiToken {
    /// The token.
    pub id: ApiTokenId,
    /// Why, for the audit log.
    pub note: Option<Note>,
}

/// One page of API tokens, newest first.
#[derive(Debug)]
pub struct ApiTokenPage {
    /// The rows of the page.
    pub tokens: Vec<ApiToken>,
    /// The token of the next page. Empty on the last page.
    pub next_page_token: String,
}

/// What an active token allows.
#[derive(Debug)]
pub struct Introspection {
    /// The user that the token acts for.
    pub user_id: UserId,
    /// The current username.
    pub username: String,
    /// The current roles.
    pub roles: Vec<Role>,
    /// The scopes that the token and the user's roles grant now.
    pub scopes: ScopeSet,
    /// The audiences of the token. Empty for an API token.
    pub audiences: Vec<String>,
    /// The application that the session was opened through.
    pub app: String,
    /// The session. `None` for an API token.
    pub session_id: Option<SessionId>,
    /// The API token. `None` for an access token.
    pub api_token_id: Option<ApiTokenId>,
    /// When the token was issued.
    pub issued_at: Timestamp,
    /// When the token expires.
    pub expires_at: Timestamp,
    /// When the user last proved the password. `None` for an API token.
    pub auth_at: Option<Timestamp>,
    /// How the user signed in (RFC 8176).
    pub auth_methods: Vec<String>,
}

/// The keys that verify access tokens offline.
#[derive(Debug)]
pub struct SigningKeys {
    /// The `iss` claim.
    pub issuer: String,
    /// The keys, the current one first.
    pub keys: Vec<PublicKey>,
    /// The same keys as a JWK Set.
    pub jwks_json: String,
    /// How long a verifier may cache the keys.
    pub max_age: Duration,
    /// The entity tag, which changes whenever the keys do.
    pub etag: String,
}

/// The identity of a caller.
#[derive(Debug)]
pub struct Identity {
    /// The account, if the caller is a user or an API token.
    pub user: Option<User>,
    /// The session, if the caller is a user.
    pub session: Option<Session>,
}

/// Fails if the user's roles do not grant one of these scopes: the token could never use it.
fn granted(user: &User, scopes: ScopeSet) -> Result<()> {
    let mut faults = Violations::new();
    for scope in scopes.difference(user.scopes()).iter() {
        let roles: Vec<&str> = Role::with(scope).map(Role::as_str).collect();
        let roles = roles.join(", ");
        faults.push("scopes", Fault::Conflict, format!("no role of the user grants {scope}; these roles do: {roles}"));
    }
    faults.finish().map_err(Error::InvalidInput)
}

impl App {
    /// Creates an API token. Fails if the caller is an API token itself, or if the caller or the user lacks one of the scopes.
    pub async fn create_api_token(
        &self,
        caller: &Caller,
        command: CreateApiToken,
    ) -> Result<(ApiToken, ApiTokenSecret)> {
        let command = &command;
        let id = ApiTokenId::from_bytes(self.environment.bytes());
        let secret = ApiTokenSecret::new(id, self.environment.bytes());
        let digest = &secret.digest();
        let token = self.write(caller, Some(&command.user), |mut writer| async move {
            if matches!(caller.principal, Principal::ApiToken { .. }) {
                return Err(Denied::ApiTokenForbidden.into());
            }
            let user = writer.target().await?;
            if caller.principal.user_id() == Some(user.id) && user.needs_second_factor(writer.now) {
                // The token would do without what the policy asks of its user.
                App::check_second_factor(&user)?;
            }
            writer.outranks(command.scopes)?;
            granted(&user, command.scopes)?;
            let change = writer.change();
            let token = ApiToken {
                id,
                user_id: user.id,
                name: command.name.clone(),
                scopes: command.scopes,
                created_at: change.now,
                expires_at: change.now.saturating_add(command.ttl.unwrap_or(DEFAULT_TTL)),
                last_used_at: None,
                revoked_at: None,
            };
            api_token_insert(&change.tx, &token, digest).await?;
            let event = Event::new(EventType::ApiTokenCreated, Target::of(&user))
                .about(id)
                .detail("name", token.name.as_str())
                .detail("scopes", token.scopes.to_text())
                .detail("expireTime", token.expires_at);
            change.commit(event, token).await
        });
        Ok((token.await?, secret))
    }

    /// Lists the API tokens of one user or of all users, newest first.
    pub async fn list_api_tokens(
        &self,
        caller: &Caller,
        user: Option<&UserRef>,
        page: PageRequest,
    ) -> Result<ApiTokenPage> {
        let user = match user {
            Some(user) => {
                let found = user_id_by_ref(self.store.reader(), user).await?;
                Some(found.ok_or_else(|| Error::no_user(user.field()))?)
            }
            None => None,
        };
        let after = self.cursor(caller, &user, &page.token)?;
        let narrowing = [Narrowing::Shorten("page_size")];
        let rows = self
            .list(caller, &narrowing, async |reader| api_token_list(reader, user, after.as_ref(), page.size).await)
            .await?;
        Ok(ApiTokenPage { next_page_token: self.page_token(caller, &user, rows.next)?, tokens: rows.rows })
    }

    /// Revokes an API token at once. Returns whether it had not been revoked before.
    pub async fn revoke_api_token(&self, caller: &Caller, command: RevokeApiToken) -> Result<(ApiToken, bool)> {
        let missing = || Error::NotFound { resource: Resource::ApiToken, field: "api_token_id" };
        let (found, _) = api_token_by_id(self.store.reader(), command.id).await?.ok_or_else(missing)?;
        let user = UserRef::Id(found.user_id);
        let (command, user_ref) = (&command, &user);
        self.write(caller, Some(user_ref), |mut writer| async move {
            let user = writer.target().await?;
            let change = writer.change();
            let changed = api_token_revoke(&change.tx, command.id, change.now).await?;
            let (token, _) = api_token_by_id(&change.tx, command.id).await?.ok_or_else(missing)?;
            if !changed {
                return Ok(change.roll_back(RolledBack::NotApplied, (token, changed)));
            }
            let event = Event::new(EventType::ApiTokenRevoked, Target::of(&user))
                .note(command.note.as_ref())
                .about(command.id)
                .detail("name", token.name.as_str());
            change.commit(event, (token, changed)).await
        })
        .await
    }

    /// Returns what a token allows now, or `None` if it is inactive; the reason is not disclosed. A token is inactive, too, if
    /// its session has ended or its user is locked.
    pub async fn introspect_token(
        &self,
        _caller: &Caller,
        token: &SecretString,
        audience: Option<&Audience>,
    ) -> Result<Option<Introspection>> {
        let judged = match ApiTokenSecret::parse(token.expose_secret()) {
            Ok(secret) => self.live_api_token(&secret).await.map(|live| Some(of_api_token(&live.0, &live.2))),
            Err(_) => self.introspect_access_token(token.expose_secret(), audience).await,
        };
        match judged {
            Err(Error::Unauthenticated(_)) => Ok(None),
            judged => judged,
        }
    }

    async fn introspect_access_token(&self, token: &str, audience: Option<&Audience>) -> Result<Option<Introspection>> {
        let verified = self.verify_access_token(token)?;
        let claims = &verified.claims;
        if audience.is_some_and(|audience| !claims.aud.iter().any(|aud| aud == audience.as_str())) {
            return Ok(None);
        }
        let live = self.live_session(claims).await?;
        Ok(Some(of_access_token(claims, &live.0, &live.1)))
    }

    /// Returns the keys that verify access tokens offline.
    pub fn signing_keys(&self) -> SigningKeys {
        let (keys, now) = (self.keys.current(), self.now());
        let jwks_json = keys.jwks(now);
        SigningKeys {
            issuer: self.settings.issuer.clone(),
            keys: keys.public(now),
            max_age: KEYS_MAX_AGE,
            etag: format!("\"{}\"", short(&keys.digest("jwks", jwks_json.as_bytes()))),
            jwks_json,
        }
    }

    /// Returns the identity of the caller.
    pub async fn who_am_i(&self, caller: &Caller) -> Result<Identity> {
        let reader = self.store.reader();
        let user = match caller.principal.user_id() {
            Some(id) => user_by_id(reader, id).await?,
            None => None,
        };
        let session = match caller.principal {
            Principal::User { session_id, .. } => session_by_id(reader, session_id).await?,
            _ => None,
        };
        Ok(Identity { user, session })
    }
}

fn of_api_token(token: &ApiToken, user: &User) -> Introspection {
    Introspection {
        user_id: user.id,
        username: user.username.as_str().to_owned(),
        scopes: token.scopes.intersection(user.scopes()),
        roles: user.roles.clone(),
        audiences: Vec::new(),
        app: String::new(),
        session_id: None,
        api_token_id: Some(token.id),
        issued_at: token.created_at,
        expires_at: token.expires_at,
        auth_at: None,
        auth_methods: Vec::new(),
    }
}

fn of_access_token(claims: &Claims, session: &Session, user: &User) -> Introspection {
    let seconds = |at: i64| Timestamp::from_micros(at.saturating_mul(1_000_000));
    Introspection {
        user_id: user.id,
        username: user.username.as_str().to_owned(),
        scopes: ScopeSet::from_text(&claims.scope).intersection(user.scopes()),
        roles: user.roles.clone(),
        audiences: claims.aud.clone(),
        app: claims.client_id.clone(),
        session_id: Some(session.id),
        api_token_id: None,
        issued_at: seconds(claims.iat),
        expires_at: seconds(claims.exp),
        auth_at: Some(session.auth_at),
        auth_methods: session.proofs.auth_methods(),
    }
}
