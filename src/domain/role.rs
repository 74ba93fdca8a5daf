//! Roles and scopes.
//!
//! A role is a fixed list of scopes, and tokens carry scopes. The `access` option of each method in the contract names
//! the scope it requires; this file defines which roles have it.

use std::fmt;

use strum::{EnumString, IntoStaticStr, VariantArray};

macro_rules! scopes {
    ($($variant:ident = $text:literal,)*) => {
        /// The right to do one kind of action.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each is named after what it permits")]
        #[repr(u8)]
        pub enum Scope { $($variant,)* }

        impl Scope {
            /// All scopes, sorted by name.
            pub const ALL: &[Scope] = &[$(Scope::$variant,)*];

            /// The name in tokens and in the contract.
            pub const fn as_str(self) -> &'static str {
                match self { $(Scope::$variant => $text,)* }
            }

            /// Parses a name returned by [`Scope::as_str`].
            pub fn parse(text: &str) -> Option<Scope> {
                match text { $($text => Some(Scope::$variant),)* _ => None }
            }
        }
    };
}

scopes! {
    AuditRead = "audit.read",
    AuthProxy = "auth.proxy",
    DeliveriesRead = "deliveries.read",
    DeliveriesResend = "deliveries.resend",
    MfaReset = "mfa.reset",
    PolicyRead = "policy.read",
    PolicyWrite = "policy.write",
    RolesWrite = "roles.write",
    SessionsRead = "sessions.read",
    SessionsRevoke = "sessions.revoke",
    TokensIntrospect = "tokens.introspect",
    TokensRead = "tokens.read",
    TokensRevoke = "tokens.revoke",
    TokensWrite = "tokens.write",
    UsersDelete = "users.delete",
    UsersDiagnose = "users.diagnose",
    UsersEmail = "users.email",
    UsersLock = "users.lock",
    UsersRead = "users.read",
    UsersReset = "users.reset",
    UsersResetSecrets = "users.reset.secrets",
    UsersResetTemporary = "users.reset.temporary",
    UsersWrite = "users.write",
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ScopeSet(u32);

impl ScopeSet {
    /// The empty set.
    pub const NONE: ScopeSet = ScopeSet(0);
    /// The set of all scopes.
    pub const ALL: ScopeSet = ScopeSet::of(Scope::ALL);

    /// Creates a set of these scopes.
    pub const fn of(scopes: &[Scope]) -> ScopeSet {
        let mut bits = 0;
        let mut rest = scopes;
        while let [first, tail @ ..] = rest {
            bits |= 1 << (*first as u8);
            rest = tail;
        }
        ScopeSet(bits)
    }

    /// Returns whether the set contains `scope`.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << (scope as u8)) != 0
    }

    /// The union of both sets.
    #[must_use]
    pub const fn union(self, other: ScopeSet) -> ScopeSet {
        ScopeSet(self.0 | other.0)
    }

    /// The intersection of both sets.
    #[must_use]
    pub const fn intersection(self, other: ScopeSet) -> ScopeSet {
        ScopeSet(self.0 & other.0)
    }

    /// The scopes in `self` that are not in `other`.
    #[must_use]
    pub const fn difference(self, other: ScopeSet) -> ScopeSet {
        ScopeSet(self.0 & !other.0)
    }

    /// Returns whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Iterates over the scopes, sorted by name.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.contains(*scope))
    }

    /// The names separated by spaces, as in the `scope` claim of a token (RFC 8693, 4.2).
    pub fn to_text(self) -> String {
        self.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Parses a text returned by [`ScopeSet::to_text`]. Unknown names are ignored.
    pub fn from_text(text: &str) -> ScopeSet {
        text.split_whitespace().filter_map(Scope::parse).collect()
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> ScopeSet {
        scopes.into_iter().fold(ScopeSet::NONE, |set, scope| set.union(ScopeSet::of(&[scope])))
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::as_str)).finish()
    }
}

const VIEWER: ScopeSet = ScopeSet::of(&[
    Scope::UsersRead,
    Scope::UsersDiagnose,
    Scope::SessionsRead,
    Scope::TokensRead,
    Scope::DeliveriesRead,
    Scope::PolicyRead,
]);
const HELPDESK: ScopeSet = VIEWER.union(ScopeSet::of(&[
    Scope::DeliveriesResend,
    Scope::UsersLock,
    Scope::UsersReset,
    Scope::UsersResetTemporary,
    Scope::SessionsRevoke,
]));
const OPERATOR: ScopeSet = HELPDESK.union(ScopeSet::of(&[
    Scope::UsersWrite,
    Scope::UsersEmail,
    Scope::UsersResetSecrets,
    Scope::TokensRevoke,
    Scope::MfaReset,
]));
const AUDITOR: ScopeSet = ScopeSet::of(&[Scope::UsersRead, Scope::AuditRead, Scope::PolicyRead]);
const VERIFIER: ScopeSet = ScopeSet::of(&[Scope::TokensIntrospect]);
const APP: ScopeSet = ScopeSet::of(&[Scope::AuthProxy, Scope::TokensIntrospect]);

/// A named set of scopes that can be assigned to users.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum Role {
    /// Has all scopes.
    Admin,
    /// An application that signs people in.
    App,
    /// Reads the audit log.
    Auditor,
    /// Supports users: reads and locks accounts, sends links and temporary passwords.
    Helpdesk,
    /// Manages accounts.
    Operator,
    /// A service that checks tokens.
    Verifier,
    /// Reads accounts, sessions, API tokens and messages to users.
    Viewer,
}

impl Role {
    /// All roles, sorted by name.
    pub const ALL: &[Role] = Role::VARIANTS;

    /// The name in the contract and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The roles that grant `scope`, sorted by name. The role `admin` grants every scope.
    pub fn with(scope: Scope) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |role| role.scopes().contains(scope))
    }

    /// Parses a name returned by [`Role::as_str`].
    pub fn parse(text: &str) -> Option<Role> {
        text.parse().ok()
    }

    /// Description shown to people.
    pub const fn description(self) -> &'static str {
        match self {
            Role::Admin => "Has all rights",
            Role::App => "An application that signs people in and checks their tokens",
            Role::Auditor => "Reads the audit log",
            Role::Helpdesk => {
                "Reads, locks and unlocks accounts, sends links and temporary passwords, revokes sessions"
            }
            Role::Operator => "Has all rights of the helpdesk; creates and changes accounts",
            Role::Verifier => "A service that checks tokens online",
            Role::Viewer => "Reads accounts, sessions, API tokens and messages to users",
        }
    }

    /// The scopes that the role grants.
    pub const fn scopes(self) -> ScopeSet {
        match self {
            Role::Admin => ScopeSet::ALL,
            Role::App => APP,
            Role::Auditor => AUDITOR,
            Role::Helpdesk => HELPDESK,
            Role::Operator => OPERATOR,
            Role::Verifier => VERIFIER,
            Role::Viewer => VIEWER,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The scopes that these roles grant together.
pub fn scopes_of<'a>(roles: impl IntoIterator<Item = &'a Role>) -> ScopeSet {
    roles.into_iter().fold(ScopeSet::NONE, |set, role| set.union(role.scopes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_the_order_of_names() {
        assert!(Scope::ALL.is_sorted_by_key(|scope| scope.as_str()));
        assert!(Role::ALL.is_sorted_by_key(|role| role.as_str()));
    }

    #[test]
    fn a_set_survives_its_text() {
        for role in Role::ALL {
            assert_eq!(ScopeSet::from_text(&role.scopes().to_text()), role.scopes(), "{role}");
        }
        assert_eq!(ScopeSet::from_text("users.read nonsense"), ScopeSet::of(&[Scope::UsersRead]));
    }

    #[test]
    fn no_role_but_admin_may_give_out_roles_or_tokens() {
        for role in Role::ALL.iter().filter(|role| **role != Role::Admin) {
            assert!(!role.scopes().contains(Scope::RolesWrite), "{role}");
            assert!(!role.scopes().contains(Scope::TokensWrite), "{role}");
        }
    }
}
