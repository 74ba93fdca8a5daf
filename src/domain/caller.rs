//! Authenticated callers, access rules, and checks of rank.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::id::{ApiTokenId, SessionId, UserId};
use super::reason::Reason;
use super::role::{Scope, ScopeSet};
use super::time::{MAX_CLOCK_SKEW, Timestamp};

/// How long a sign-in is recent (OWASP ASVS 5.0, 7.5.3 asks for a proof before sensitive changes; the length is ours).
pub const RECENT_SIGN_IN: Duration = Duration::from_mins(15);

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
        /// When the user last proved their identity in this session.
        auth_at: Timestamp,
        /// Whether the user has a second factor that was not proved in this session.
        owes_second_factor: bool,
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

    /// Returns whether the password was verified within [`RECENT_SIGN_IN`]. API tokens and the local operator are
    /// authenticated by each call. If the clock was set back, a sign-in in the future is not recent.
    pub fn has_recent_sign_in(&self, now: Timestamp) -> bool {
        match self {
            Principal::Anonymous => false,
            Principal::Local { .. } | Principal::ApiToken { .. } => true,
            Principal::User { auth_at, .. } => {
                now.duration_since(*auth_at) <= RECENT_SIGN_IN && auth_at.duration_since(now) <= MAX_CLOCK_SKEW
            }
        }
    }

    /// Returns whether this is an operator on the host. [`RecentSignIn`] and the protection of the last administrator do
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
    /// The same, or a single-purpose secret in the request.
    OneSelfOrTicket,
    /// A principal that has this scope.
    Scope(Scope),
    /// Any principal.
    Principal,
}

/// When a call needs a recent sign-in: the options `recent_sign_in` and `needs_recent_sign_in` of the contract. The later
/// variant is the stricter one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecentSignIn {
    /// If the target has scopes, before or after the change.
    IfTargetHasScopes,
    /// For every target.
    Always,
}

/// The options `access` and `recent_sign_in` of one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessRule {
    /// The requirement.
    pub demand: Demand,
    /// When the method needs a recent sign-in. `None` means never.
    pub recent_sign_in: Option<RecentSignIn>,
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

/// A network of IP addresses. Bits of the address beyond the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Parses `192.0.2.0/24`, `2001:db8::/32`, or an address, which is a network of its own. Returns `None` if an address has
    /// bits beyond the prefix: it is probably a typing error.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok())?;
        let network = Network { address, prefix };
        (prefix <= longest && network.masked(address) == address).then_some(network)
    }

    /// Returns whether the address is in this network.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == self.address
    }

    /// The address without the bits beyond the prefix.
    fn masked(self, address: IpAddr) -> IpAddr {
        let prefix = u32::from(self.prefix);
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
                std::net::Ipv4Addr::from(u32::from(v4) & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0);
                std::net::Ipv6Addr::from(u128::from(v6) & mask).into()
            }
        }
    }
}

impl Source {
    /// The source itself, and the two networks around it that one customer may have: IPv6 /64, /56 and /48 (RFC 6177), and for
    /// IPv4 the address, its /24 and its /16.
    pub fn networks(self) -> [Network; 3] {
        let prefixes = if self.0.is_ipv4() { [32, 24, 16] } else { [64, 56, 48] };
        prefixes.map(|prefix| {
            let network = Network { address: self.0, prefix };
            Network { address: network.masked(self.0), prefix }
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
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
    /// Id that the client gave to the request. Empty if there was none.
    pub client_request_id: String,
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
    /// When the call needs a recent sign-in: the stricter of what the method and the fields of the request say.
    pub recent_sign_in: Option<RecentSignIn>,
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
    fn a_sign_in_is_recent_for_fifteen_minutes_and_not_after_the_clock_was_set_back() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let user = Principal::User {
            id: UserId::from_bytes([1; 16]),
            username: "ada".to_owned(),
            session_id: SessionId::from_bytes([2; 16]),
            auth_at: at(10_000),
            owes_second_factor: false,
            granted: ScopeSet::ALL,
        };
        assert!(user.has_recent_sign_in(at(10_000)) && user.has_recent_sign_in(at(10_900)));
        assert!(!user.has_recent_sign_in(at(10_901)));
        assert!(user.has_recent_sign_in(at(9_996)), "clocks of replicas differ a little");
        assert!(!user.has_recent_sign_in(at(9_000)));
        assert!(Principal::Local { uid: 0 }.has_recent_sign_in(at(0)));
        assert!(!Principal::Anonymous.has_recent_sign_in(at(0)));
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let source = |text: &str| text.parse().map(|address: IpAddr| Source::of(address).to_string());
        assert_eq!(source("10.1.2.3").as_deref(), Ok("10.1.2.3"));
        assert_eq!(source("::ffff:10.1.2.3").as_deref(), Ok("10.1.2.3"));
        assert_eq!(source("2001:db8:1:2:3:4:5:6").as_deref(), Ok("2001:db8:1:2::/64"));
    }

    #[test]
    fn a_network_contains_the_addresses_that_share_its_prefix() {
        let contains = |network: &str, address: &str| {
            let network = Network::parse(network);
            network.zip(address.parse().ok()).map(|(network, address): (Network, IpAddr)| network.contains(address))
        };
        for (network, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
        ] {
            assert_eq!(contains(network, address), Some(is_in), "{network} {address}");
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "2001:db8::/129", "10.0.0.0/", "10.0.0.0/-1", "a/8"]
        {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_networks_of_a_source_are_those_that_one_customer_may_have() {
        let networks = |text: &str| {
            let address = text.parse::<IpAddr>();
            address.map(|address| Source::of(address).networks().map(|network| network.to_string()))
        };
        let of_v4 = ["10.1.2.3/32", "10.1.2.0/24", "10.1.0.0/16"];
        assert_eq!(networks("10.1.2.3"), Ok(of_v4.map(str::to_owned)));
        assert_eq!(networks("::ffff:10.1.2.3"), Ok(of_v4.map(str::to_owned)));
        let of_v6 = ["2001:db8:1:234::/64", "2001:db8:1:200::/56", "2001:db8:1::/48"];
        assert_eq!(networks("2001:db8:1:234:5:6:7:8"), Ok(of_v6.map(str::to_owned)));
    }
}
