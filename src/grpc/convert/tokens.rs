//! Requests and messages of API tokens, signing keys and introspection.

use secrecy::SecretString;

use super::{bounded, duration, finish, names, note, page, required, scopes, stamp, user_ref};
use crate::app::{CreateApiToken, Introspection, RevokeApiToken, SigningKeys};
use crate::domain::api_token::{ApiToken, MAX_TTL};
use crate::domain::page::PageRequest;
use crate::domain::profile::{Audience, TokenName};
use crate::domain::user::UserRef;
use crate::domain::violation::{Fault, Violations};
use crate::error::Result;
use crate::proto::v1;

/// The maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 8192;

/// The maximum length of the etag of the keys, in bytes.
const MAX_ETAG_BYTES: usize = 64;

/// The JOSE name of the only algorithm (RFC 8037).
const ALGORITHM: &str = "EdDSA";

pub(in crate::grpc) fn create_api_token(message: v1::CreateApiTokenRequest) -> Result<CreateApiToken> {
    let mut faults = Violations::new();
    let user = user_ref(&mut faults, message.user);
    let name = faults.check("name", TokenName::parse(&message.name));
    if message.scopes.is_empty() {
        faults.push("scopes", Fault::Required, "at least one; ListRoles names them");
    }
    let scopes = scopes(&mut faults, &message.scopes);
    let ttl = duration(&mut faults, "ttl", message.ttl, MAX_TTL);
    finish(faults, || Some(CreateApiToken { user: user?, name: name?, scopes: scopes?, ttl: ttl? }))
}

/// Returns the user, or `None` for the tokens of all users, and the page.
pub(in crate::grpc) fn list_api_tokens(message: v1::ListApiTokensRequest) -> Result<(Option<UserRef>, PageRequest)> {
    let mut faults = Violations::new();
    let user = match message.user {
        None => Some(None),
        named => user_ref(&mut faults, named).map(Some),
    };
    let page = page(&mut faults, message.page_size, message.page_token);
    finish(faults, || Some((user?, page?)))
}

pub(in crate::grpc) fn revoke_api_token(message: v1::RevokeApiTokenRequest) -> Result<RevokeApiToken> {
    let mut faults = Violations::new();
    let text = faults.require("api_token_id", (!message.api_token_id.is_empty()).then_some(message.api_token_id));
    let id = text.and_then(|text| faults.check("api_token_id", text.parse()));
    let note = note(&mut faults, &message.note);
    finish(faults, || Some(RevokeApiToken { id: id?, note: note? }))
}

/// Returns the token and the required audience.
pub(in crate::grpc) fn introspect(message: v1::IntrospectTokenRequest) -> Result<(SecretString, Option<Audience>)> {
    let mut faults = Violations::new();
    let token = required(&mut faults, "token", message.token, MAX_TOKEN_BYTES);
    let audience = faults.check("audience", Audience::parse(&message.audience));
    finish(faults, || Some((SecretString::from(token?), audience?)))
}

/// Returns the etag that the caller knows; empty if it knows none.
pub(in crate::grpc) fn signing_keys(message: v1::GetSigningKeysRequest) -> Result<String> {
    let mut faults = Violations::new();
    let etag = bounded(&mut faults, "etag", message.etag, MAX_ETAG_BYTES);
    finish(faults, || etag)
}

/// Converts the keys to a message. A caller that knows the current etag gets no keys.
pub(in crate::grpc) fn keys(keys: SigningKeys, known_etag: &str) -> v1::GetSigningKeysResponse {
    let is_known = known_etag == keys.etag;
    let each = keys.keys.into_iter().filter(|_| !is_known).map(|key| v1::SigningKey {
        key_id: key.id.to_string(),
        algorithm: ALGORITHM.to_owned(),
        public_key_der: key.der,
        not_before: Some(stamp(key.not_before)),
        not_after: key.not_after.map(stamp),
    });
    v1::GetSigningKeysResponse {
        issuer: keys.issuer,
        keys: each.collect(),
        jwks_json: if is_known { String::new() } else { keys.jwks_json },
        max_age: prost_types::Duration::try_from(keys.max_age).ok(),
        etag: keys.etag,
    }
}

/// Converts an API token to a message, without its secret.
pub(in crate::grpc) fn api_token(token: &ApiToken) -> v1::ApiToken {
    v1::ApiToken {
        id: token.id.to_string(),
        user_id: token.user_id.to_string(),
        name: token.name.to_string(),
        scopes: names(token.scopes),
        create_time: Some(stamp(token.created_at)),
        expire_time: Some(stamp(token.expires_at)),
        last_used_time: token.last_used_at.map(stamp),
        revoke_time: token.revoked_at.map(stamp),
    }
}

/// Converts the result of an introspection to a message. An inactive token has no other fields.
pub(in crate::grpc) fn introspection(known: Option<Introspection>) -> v1::IntrospectTokenResponse {
    let Some(known) = known else { return v1::IntrospectTokenResponse::default() };
    v1::IntrospectTokenResponse {
        active: true,
        user_id: known.user_id.to_string(),
        username: known.username,
        roles: known.roles.iter().map(ToString::to_string).collect(),
        scopes: names(known.scopes),
        audiences: known.audiences,
        app: known.app,
        session_id: known.session_id.map(|id| id.to_string()).unwrap_or_default(),
        api_token_id: known.api_token_id.map(|id| id.to_string()).unwrap_or_default(),
        issue_time: Some(stamp(known.issued_at)),
        expire_time: Some(stamp(known.expires_at)),
        auth_time: known.auth_at.map(stamp),
        auth_methods: known.auth_methods,
    }
}
