//! Who may call what: read from the `access` options of the contract, once, at the start.

use std::collections::HashMap;
use std::time::Duration;

use prost_reflect::{DescriptorPool, ExtensionDescriptor, MethodDescriptor, Value};

use crate::config::Reflection;
use crate::domain::caller::{AccessRule, Demand};
use crate::domain::role::Scope;
use crate::proto::{DESCRIPTORS, v1};

/// The package of the contract.
const PACKAGE: &str = "latchkey.v1";

/// Health is open to everybody, and tells nothing but whether to send calls here.
const HEALTH: &[&str] = &["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"];

/// Reflection, in the two versions that clients know.
const REFLECTION: &[&str] = &[
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// What stands before a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Nothing: the method is not of the contract.
    Open,
    /// This rule.
    Rule(AccessRule),
}

/// Why the server does not start: the contract is not fit to be served.
#[derive(Debug)]
pub enum ContractFault {
    /// The descriptors cannot be read.
    Unreadable(String),
    /// A method does not say who may call it.
    NoAccess {
        /// Which.
        method: String,
    },
    /// A method or a field names a scope that no role has.
    UnknownScope {
        /// Which method or field.
        place: String,
    },
}

impl std::fmt::Display for ContractFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ContractFault::Unreadable(why) => write!(f, "the descriptors of the contract cannot be read: {why}"),
            ContractFault::NoAccess { method } => write!(f, "{method} does not say who may call it"),
            ContractFault::UnknownScope { place } => write!(f, "{place} names a scope that does not exist"),
        }
    }
}

impl std::error::Error for ContractFault {}

/// The gate of every method that is served.
#[derive(Debug)]
pub(super) struct AccessTable(HashMap<String, (String, Gate)>);

impl AccessTable {
    /// Reads the contract that is compiled in.
    pub(super) fn load(reflection: Reflection) -> Result<AccessTable, ContractFault> {
        AccessTable::read(DESCRIPTORS, reflection)
    }

    fn read(descriptors: &[u8], reflection: Reflection) -> Result<AccessTable, ContractFault> {
        let pool = DescriptorPool::decode(descriptors).map_err(|error| ContractFault::Unreadable(error.to_string()))?;
        check_needs(&pool)?;
        let mut table = AccessTable(HashMap::new());
        let access = extension(&pool, "access")?;
        for service in pool.services().filter(|service| service.package_name() == PACKAGE) {
            for method in service.methods() {
                table.add(method_name(&method), Gate::Rule(rule(&method, &access)?));
            }
        }
        for method in HEALTH {
            table.add((*method).to_owned(), Gate::Open);
        }
        let signed_in = AccessRule { demand: Demand::Principal, max_auth_age: None };
        let gate = match reflection {
            Reflection::On => Some(Gate::Open),
            Reflection::Authenticated => Some(Gate::Rule(signed_in)),
            Reflection::Off => None,
        };
        if let Some(gate) = gate {
            for method in REFLECTION {
                table.add((*method).to_owned(), gate);
            }
        }
        Ok(table)
    }

    fn add(&mut self, method: String, gate: Gate) {
        self.0.insert(format!("/{method}"), (method, gate));
    }

    /// The method at a path, as `latchkey.v1.UserAdmin/LockUser`, and its gate. None: it is not served.
    pub(super) fn find(&self, path: &str) -> Option<(&str, Gate)> {
        self.0.get(path).map(|(method, gate)| (method.as_str(), *gate))
    }
}

fn method_name(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().full_name(), method.name())
}

fn extension(pool: &DescriptorPool, option: &str) -> Result<ExtensionDescriptor, ContractFault> {
    let extension = pool.get_extension_by_name(&format!("{PACKAGE}.{option}"));
    extension.ok_or_else(|| ContractFault::Unreadable(format!("the option `{option}` is not defined")))
}

fn rule(method: &MethodDescriptor, access: &ExtensionDescriptor) -> Result<AccessRule, ContractFault> {
    let options = method.options();
    let option = options.get_extension(access);
    let Value::Message(message) = option.as_ref() else {
        return Err(ContractFault::Unreadable("the option `access` is no message".to_owned()));
    };
    let stated: v1::AccessRule =
        message.transcode_to().map_err(|error| ContractFault::Unreadable(error.to_string()))?;
    let no_access = || ContractFault::NoAccess { method: method_name(method) };
    let max_auth_age = stated.max_auth_age.map(Duration::try_from).transpose().map_err(|_| no_access())?;
    let demand = match v1::access_rule::Caller::try_from(stated.caller).map_err(|_| no_access())? {
        // A method without the option reads like one that was left at this value.
        v1::access_rule::Caller::Unspecified => return Err(no_access()),
        v1::access_rule::Caller::Anyone => Demand::Anyone,
        v1::access_rule::Caller::Ticket => Demand::Ticket,
        v1::access_rule::Caller::Self_ => Demand::OneSelf,
        v1::access_rule::Caller::Principal => Demand::Principal,
        v1::access_rule::Caller::Scope => match Scope::parse(&stated.scope) {
            Some(scope) => Demand::Scope(scope),
            None => return Err(ContractFault::UnknownScope { place: method_name(method) }),
        },
    };
    Ok(AccessRule { demand, max_auth_age })
}

/// Fails if a field needs a scope that does not exist.
fn check_needs(pool: &DescriptorPool) -> Result<(), ContractFault> {
    let needs = extension(pool, "needs")?;
    for message in pool.all_messages().filter(|message| message.package_name() == PACKAGE) {
        for field in message.fields() {
            let options = field.options();
            if !options.has_extension(&needs) {
                continue;
            }
            if !matches!(options.get_extension(&needs).as_ref(), Value::String(scope) if Scope::parse(scope).is_some())
            {
                return Err(ContractFault::UnknownScope { place: field.full_name().to_owned() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn demand(table: &AccessTable, method: &str) -> Option<Demand> {
        match table.find(method)?.1 {
            Gate::Open => None,
            Gate::Rule(rule) => Some(rule.demand),
        }
    }

    #[test]
    fn every_method_of_the_contract_has_its_rule() -> Result<(), ContractFault> {
        let table = AccessTable::load(Reflection::On)?;
        assert_eq!(demand(&table, "/latchkey.v1.UserAdmin/LockUser"), Some(Demand::Scope(Scope::UsersLock)));
        assert_eq!(demand(&table, "/latchkey.v1.Auth/SignIn"), Some(Demand::Anyone));
        assert_eq!(demand(&table, "/latchkey.v1.Auth/CompletePasswordChange"), Some(Demand::Ticket));
        assert_eq!(demand(&table, "/latchkey.v1.Auth/ChangePassword"), Some(Demand::OneSelf));
        assert_eq!(demand(&table, "/latchkey.v1.Auth/WhoAmI"), Some(Demand::Principal));
        assert_eq!(table.find("/latchkey.v1.Auth/Nonsense"), None);
        assert_eq!(table.find("latchkey.v1.Auth/SignIn"), None);
        let fresh =
            AccessRule { demand: Demand::Scope(Scope::UsersDelete), max_auth_age: Some(Duration::from_mins(15)) };
        let delete = table.find("/latchkey.v1.UserAdmin/DeleteUser");
        assert_eq!(delete, Some(("latchkey.v1.UserAdmin/DeleteUser", Gate::Rule(fresh))));
        Ok(())
    }

    #[test]
    fn reflection_is_open_guarded_or_absent() -> Result<(), ContractFault> {
        let guarded = Gate::Rule(AccessRule { demand: Demand::Principal, max_auth_age: None });
        for (mode, expected) in
            [(Reflection::On, Some(Gate::Open)), (Reflection::Authenticated, Some(guarded)), (Reflection::Off, None)]
        {
            let table = AccessTable::load(mode)?;
            for method in REFLECTION {
                assert_eq!(table.find(&format!("/{method}")).map(|found| found.1), expected, "{method}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_method_that_does_not_say_who_may_call_it_stops_the_start() -> Result<(), prost::DecodeError> {
        // The plain type has no place for our options, and loses them.
        let lossy = prost_types::FileDescriptorSet::decode(DESCRIPTORS)?.encode_to_vec();
        let refused = AccessTable::read(&lossy, Reflection::On);
        assert!(matches!(refused, Err(ContractFault::NoAccess { .. })), "{refused:?}");
        Ok(())
    }

    #[test]
    fn a_scope_that_does_not_exist_stops_the_start() {
        for scope in ["sessions.revoke", "users.reset.secrets"] {
            let misspelt = replace_all(DESCRIPTORS, scope.as_bytes(), scope.replace('e', "i").as_bytes());
            let refused = AccessTable::read(&misspelt, Reflection::On);
            assert!(matches!(refused, Err(ContractFault::UnknownScope { .. })), "{refused:?}");
        }
    }

    /// Replaces a text by another of the same length.
    fn replace_all(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let mut replaced = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let [first, tail @ ..] = rest {
            if let Some(after) = rest.strip_prefix(from) {
                replaced.extend_from_slice(to);
                rest = after;
            } else {
                replaced.push(*first);
                rest = tail;
            }
        }
        replaced
    }
}
