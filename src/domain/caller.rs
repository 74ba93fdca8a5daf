//! Authenticated callers, access rules, and checks of rank.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::id::{ApiTokenId, SessionId, UserId};
use super::reason::Reason;
use super::role::{Scope, ScopeSet};
use super::time::Timestamp;

/// The identity of a caller, once its credential has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Anonymous: the method requires no credential.
    Anonymous,
    /// A process on the host that connects through the local socket. It runs as the server's own user or as root.
    Local {
        /// The uid of the process.
        uid: u32,
    },
    /// A user with a live session.
    User {
        /// The user.
        id: UserId,
        /// The current username.
        username: String,
        /// The session.
        session_id: SessionId,
        /// When the password was last verified in this session.
        auth_at: Timestamp,
        /// Scopes granted to the access token.
        granted: ScopeSet,
    },
    /// A program with an API token.
    ApiToken {
        /// Id of the token.
        id: ApiTokenId,
        /// The user whose rights the token carries.
        user_id: UserId,
        /// The user's current username.
        username: String,
        /// Scopes granted to the token.
        granted: ScopeSet,
    },
}

impl Principal {
    /// Id of the account behind the principal, if there is one.
    pub fn user_id(&self) -> Option<UserId> {
        match self {
            Principal::Anonymous | Principal::Local { .. } => None,
            Principal::User { id, .. } => Some(*id),
            Principal::ApiToken { user_id, .. } => Some(*user_id),
        }
    }

    /// Identifier for audit events, page tokens and idempotency rows. Empty for anonymous callers.
    pub fn id(&self) -> String {
        match self {
            Principal::Anonymous => String::new(),
            Principal::Local { uid } => format!("local:uid={uid}"),
            Principal::User { id, .. } => id.to_string(),
            Principal::ApiToken { user_id, .. } => user_id.to_string(),
        }
    }

    /// Name shown to people.
    pub fn name(&self) -> &str {
        match self {
            Principal::Anonymous => "",
            Principal::Local { uid: 0 } => "root (local)",
            Principal::Local { .. } => "local operator",
            Principal::User { username, .. } | Principal::ApiToken { username, .. } => username,
        }
    }

    /// Returns whether this is an operator on the host. `max_auth_age` and the protection of the last administrator do
    /// not apply to it, because a compromised only administrator must still be lockable.
    pub fn is_local(&self) -> bool {
        matches!(self, Principal::Local { .. })
    }

    /// Scopes granted to the credential. The effective scopes are their intersection with the user's own.
    pub fn granted(&self) -> ScopeSet {
        match self {
            Principal::Anonymous => ScopeSet::NONE,
            Principal::Local { .. } => ScopeSet::ALL,
            Principal::User { granted, .. } | Principal::ApiToken { granted, .. } => *granted,
        }
    }
}

/// The requirement on callers of a method: the `access` option of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// No requirement. A credential is ignored.
    Anyone,
    /// A single-purpose secret in the request. A credential is ignored.
    Ticket,
    /// A user with a session, acting on their own account.
    OneSelf,
    /// A principal that has this scope.
    Scope(Scope),
    /// Any principal.
    Principal,
}

/// The `access` option of one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessRule {
    /// The requirement.
    pub demand: Demand,
    /// Maximum age of the last password verification.
    pub max_auth_age: Option<Duration>,
}

/// Origin of a call or connection, for limits: an IPv4 address or an IPv6 /64, which is what one home or rented machine
/// usually gets (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// Returns the source that `address` belongs to.
    pub fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source(v4.into()),
            IpAddr::V6(v6) => Source(std::net::Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => write!(f, "{v4}"),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// The application that calls on behalf of a person: the user of its API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallingApp {
    /// Its username.
    pub name: String,
    /// Whether it may state the address of the person it calls for (scope `auth.proxy`).
    pub is_proxy: bool,
}

/// Metadata of a call.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// Request id, also used in the log and in audit events.
    pub request_id: String,
    /// Full name of the method, such as `latchkey.v1.UserAdmin/LockUser`.
    pub method: String,
    /// Address of the peer, or of the person if a calling application stated it. `None` on the local socket.
    pub client_address: Option<IpAddr>,
    /// Whether that address is a calling application's, which all its users share.
    pub is_shared_address: bool,
    /// User agent of the client.
    pub user_agent: String,
    /// The calling application, if it identified itself.
    pub app: Option<CallingApp>,
}

impl Call {
    /// Origin for limits. `None` on the local socket.
    pub fn source(&self) -> Option<Source> {
        self.client_address.map(Source::of)
    }
}

/// A caller that the access rule of a method has admitted.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The identity.
    pub principal: Principal,
    /// Effective scopes.
    pub scopes: ScopeSet,
    /// The rule that admitted the caller. The writer checks it again against the locked row of the actor.
    pub rule: AccessRule,
    /// Scopes that the fields of the request require in addition: the `needs` option of the contract. Checked again
    /// too.
    pub field_scopes: Vec<Scope>,
    /// Metadata of the call.
    pub call: Call,
}

/// Why an authenticated caller is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A scope is missing.
    #[error("this needs the scope {0}")]
    ScopeMissing(Scope),
    /// The target has scopes that the caller lacks.
    #[error("the target has scopes that you lack: {}", missing.to_text())]
    TargetOutranksCaller {
        /// The scopes that the caller lacks.
        missing: ScopeSet,
    },
    /// Operators may not do this to themselves.
    #[error("operators may not do this to their own account; ask another operator")]
    SelfActionForbidden,
    /// The method acts on the caller's own account, and the caller has none.
    #[error("this acts on the caller's own account, and the caller has none; sign in as a user")]
    UserRequired,
    /// An API token may not do this.
    #[error("an API token may not do this; sign in as a user")]
    ApiTokenForbidden,
}

impl Denied {
    /// The reason that clients see.
    pub fn reason(self) -> Reason {
        match self {
            Denied::ScopeMissing(_) => Reason::ScopeMissing,
            Denied::TargetOutranksCaller { .. } => Reason::TargetOutranksCaller,
            Denied::SelfActionForbidden => Reason::SelfActionForbidden,
            Denied::UserRequired => Reason::UserRequired,
            Denied::ApiTokenForbidden => Reason::ApiTokenForbidden,
        }
    }
}

/// Checks that the caller has every scope of the target, so that no caller can act on a more powerful principal.
pub fn check_rank(caller: ScopeSet, target: ScopeSet) -> Result<(), Denied> {
    let missing = target.difference(caller);
    if missing.is_empty() { Ok(()) } else { Err(Denied::TargetOutranksCaller { missing }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::role::Role;

    #[test]
    fn helpdesk_may_not_touch_an_administrator() {
        let denied = check_rank(Role::Helpdesk.scopes(), Role::Admin.scopes());
        assert!(matches!(denied, Err(Denied::TargetOutranksCaller { missing }) if missing.contains(Scope::RolesWrite)));
        assert_eq!(check_rank(Role::Admin.scopes(), Role::Admin.scopes()), Ok(()));
        assert_eq!(check_rank(Role::Helpdesk.scopes(), Role::Viewer.scopes()), Ok(()));
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let source = |text: &str| text.parse().map(|address: IpAddr| Source::of(address).to_string());
        assert_eq!(source("10.1.2.3").as_deref(), Ok("10.1.2.3"));
        assert_eq!(source("::ffff:10.1.2.3").as_deref(), Ok("10.1.2.3"));
        assert_eq!(source("2001:db8:1:2:3:4:5:6").as_deref(), Ok("2001:db8:1:2::/64"));
    }
}
