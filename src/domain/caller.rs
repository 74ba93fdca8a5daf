//! Who calls, what they may do, and whom they may do it to.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::id::{ApiTokenId, SessionId, UserId};
use super::reason::Reason;
use super::role::{Scope, ScopeSet};
use super::time::Timestamp;

/// Somebody who has proved who they are, or nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// No credential, on a method that wants none.
    Nobody,
    /// A process of the host, known by the local socket: the server's own user or root.
    Local {
        /// The user id of the process.
        uid: u32,
    },
    /// A user with a live session.
    User {
        /// Whose session.
        id: UserId,
        /// The sign-in name now.
        username: String,
        /// The session.
        session_id: SessionId,
        /// When the password was last proved in it.
        auth_at: Timestamp,
        /// What the token was given.
        granted: ScopeSet,
    },
    /// A program with an API token.
    ApiToken {
        /// Which token.
        id: ApiTokenId,
        /// Whose rights it carries.
        user_id: UserId,
        /// The user's sign-in name now.
        username: String,
        /// What the token was given.
        granted: ScopeSet,
    },
}

impl Principal {
    /// The account behind it, if there is one.
    pub fn user_id(&self) -> Option<UserId> {
        match self {
            Principal::Nobody | Principal::Local { .. } => None,
            Principal::User { id, .. } => Some(*id),
            Principal::ApiToken { user_id, .. } => Some(*user_id),
        }
    }

    /// As it stands in audit events, page tokens and idempotency rows. Empty for nobody.
    pub fn id(&self) -> String {
        match self {
            Principal::Nobody => String::new(),
            Principal::Local { uid } => format!("local:uid={uid}"),
            Principal::User { id, .. } => id.to_string(),
            Principal::ApiToken { user_id, .. } => user_id.to_string(),
        }
    }

    /// For people to read.
    pub fn name(&self) -> &str {
        match self {
            Principal::Nobody => "",
            Principal::Local { uid: 0 } => "root (local)",
            Principal::Local { .. } => "local operator",
            Principal::User { username, .. } | Principal::ApiToken { username, .. } => username,
        }
    }

    /// Whether it is the operator on the host, whom neither `max_auth_age` nor the guard of the last administrator
    /// binds: the one compromised administrator must still be lockable.
    pub fn is_local(&self) -> bool {
        matches!(self, Principal::Local { .. })
    }

    /// What its credential was given; what it may do now is that and the user's own scopes in common.
    pub fn granted(&self) -> ScopeSet {
        match self {
            Principal::Nobody => ScopeSet::NONE,
            Principal::Local { .. } => ScopeSet::ALL,
            Principal::User { granted, .. } | Principal::ApiToken { granted, .. } => *granted,
        }
    }
}

/// What a method demands of its caller: the `access` option of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing. A credential is not looked at.
    Anyone,
    /// A one-purpose secret in the request. A credential is not looked at.
    Ticket,
    /// A user with a session, acting for themselves.
    OneSelf,
    /// This scope.
    Scope(Scope),
    /// Any principal.
    Principal,
}

/// The `access` option of one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessRule {
    /// What it demands.
    pub demand: Demand,
    /// How long ago the password may have been proved.
    pub max_auth_age: Option<Duration>,
}

/// Where a call or a connection comes from, for limits: an IPv4 address or an IPv6 /64, which is what one home or rented
/// machine has to itself (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source that `address` belongs to.
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

/// The application through which a person calls: the user of its API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallingApp {
    /// Its username.
    pub name: String,
    /// Whether it may say whom it speaks for (scope `auth.proxy`).
    pub is_proxy: bool,
}

/// One call, apart from its contents.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// What the caller, the log and the audit events call this request.
    pub request_id: String,
    /// The method, as `latchkey.v1.UserAdmin/LockUser`.
    pub method: String,
    /// The peer's address, or the person's, where a calling application gave it. None on the local socket.
    pub client_address: Option<IpAddr>,
    /// What the client calls itself.
    pub user_agent: String,
    /// The application that carries the call, if it said so.
    pub app: Option<CallingApp>,
}

impl Call {
    /// Where it comes from, for limits. The local socket has no source.
    pub fn source(&self) -> Option<Source> {
        self.client_address.map(Source::of)
    }
}

/// A caller whom the rule of a method let in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// What they may do now.
    pub scopes: ScopeSet,
    /// The rule that let them in. Writers judge by it again, on the actor's row.
    pub rule: AccessRule,
    /// What the fields of the request need on top of the rule: the `needs` option of the contract. Judged again too.
    pub field_scopes: Vec<Scope>,
    /// The call.
    pub call: Call,
}

/// Why a known caller is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// A scope is missing.
    ScopeMissing(Scope),
    /// The target has scopes that the caller lacks.
    TargetOutranksCaller {
        /// Those.
        missing: ScopeSet,
    },
    /// Operators may not do this to themselves.
    SelfActionForbidden,
    /// The method is about the caller's own account, and the caller has none.
    UserRequired,
    /// An API token may not do this.
    ApiTokenForbidden,
}

impl Denied {
    /// As callers read it.
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

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::ScopeMissing(scope) => write!(f, "this needs the scope {scope}"),
            Denied::TargetOutranksCaller { missing } => {
                write!(f, "the target has scopes that you lack: {}", missing.to_text())
            }
            Denied::SelfActionForbidden => f.write_str("operators may not do this to themselves; ask a colleague"),
            Denied::UserRequired => f.write_str("this is about the caller's own account, and the caller has none"),
            Denied::ApiTokenForbidden => f.write_str("an API token may not do this; sign in"),
        }
    }
}

/// Checks that nobody acts on a principal with rights that they do not hold themselves.
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
