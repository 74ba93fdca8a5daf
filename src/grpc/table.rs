//! The method table: who may call each method, and under which limits. It is read once, at the start, from the options
//! `access` and `recent_sign_in` of the contract.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prost_reflect::{DescriptorPool, ExtensionDescriptor, MethodDescriptor, Value};

use crate::config::Reflection;
use crate::domain::caller::{AccessRule, Demand, RecentSignIn};
use crate::domain::role::Scope;
use crate::metrics::CallLane;
use crate::proto::v1::access_rule::{Caller, Lane};
use crate::proto::{DESCRIPTORS, v1};

/// The package of the contract.
const PACKAGE: &str = "latchkey.v1";

/// The default deadline. Less than the 25 s that a stopping server waits for calls.
const UNARY: Duration = Duration::from_secs(15);
/// The deadline of a health watch. A client then starts a new one.
const WATCH: Duration = Duration::from_hours(1);
/// The deadline of reflection. Reading the whole contract takes less, and a stopping server waits for calls longer: 25 s.
const REFLECTION: Duration = Duration::from_secs(20);

/// The methods that are not in the contract: name, lane, deadline, and whether the response is a stream.
const FOREIGN: [(&str, Option<CallLane>, Duration, bool); 4] = [
    // No lane: a load balancer must get a response from a busy server.
    ("grpc.health.v1.Health/Check", None, UNARY, false),
    ("grpc.health.v1.Health/Watch", Some(CallLane::Watches), WATCH, true),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Some(CallLane::Reflection), REFLECTION, true),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Some(CallLane::Reflection), REFLECTION, true),
];

/// A method that is served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// The full name, such as `latchkey.v1.UserAdmin/LockUser`.
    pub(super) name: String,
    /// The callers that it accepts. `None` if it is open to every client (health, and reflection by default).
    pub(super) rule: Option<AccessRule>,
    /// The lane that bounds how many of its calls run at once. `None` means no bound.
    pub(super) lane: Option<CallLane>,
    /// How long a call may take.
    pub(super) deadline: Duration,
    /// Whether the response is a stream.
    pub(super) is_streaming: bool,
}

/// An error in the contract, which prevents the server from starting.
#[derive(Debug)]
pub(super) enum ContractFault {
    /// The descriptors cannot be read.
    Unreadable(String),
    /// The `access` option of a method has no `caller`.
    NoAccess {
        /// The name of the method.
        method: String,
    },
    /// The `access` option of a method has no `lane`.
    NoLane {
        /// The name of the method.
        method: String,
    },
    /// A method or a field names a scope that does not exist.
    UnknownScope {
        /// The name of the method or field.
        name: String,
    },
}

impl std::fmt::Display for ContractFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ContractFault::Unreadable(why) => write!(f, "the descriptors of the contract cannot be read: {why}"),
            ContractFault::NoAccess { method } => write!(f, "{method} does not say who may call it"),
            ContractFault::NoLane { method } => write!(f, "{method} does not say which lane it belongs to"),
            ContractFault::UnknownScope { name } => write!(f, "{name} names a scope that does not exist"),
        }
    }
}

impl std::error::Error for ContractFault {}

/// All methods that are served, by path.
#[derive(Debug)]
pub(super) struct MethodTable(HashMap<String, Arc<Method>>);

impl MethodTable {
    /// Reads the compiled-in contract.
    pub(super) fn load(reflection: Reflection) -> Result<MethodTable, ContractFault> {
        MethodTable::read(DESCRIPTORS, reflection)
    }

    fn read(descriptors: &[u8], reflection: Reflection) -> Result<MethodTable, ContractFault> {
        let pool = DescriptorPool::decode(descriptors).map_err(|error| ContractFault::Unreadable(error.to_string()))?;
        check_needs(&pool)?;
        let options =
            Options { access: extension(&pool, "access")?, recent_sign_in: extension(&pool, "recent_sign_in")? };
        let mut methods: Vec<Method> = foreign(reflection).collect();
        for service in pool.services().filter(|service| service.package_name() == PACKAGE) {
            for method in service.methods() {
                methods.push(of_contract(&method, &options)?);
            }
        }
        let by_path = methods.into_iter().map(|method| (format!("/{}", method.name), Arc::new(method)));
        Ok(MethodTable(by_path.collect()))
    }

    /// Returns the method at a path, or `None` if there is none.
    pub(super) fn find(&self, path: &str) -> Option<Arc<Method>> {
        self.0.get(path).cloned()
    }
}

/// Returns the methods of health, and those of reflection unless it is off.
fn foreign(reflection: Reflection) -> impl Iterator<Item = Method> {
    let signed_in = AccessRule { demand: Demand::Principal, recent_sign_in: None };
    FOREIGN.into_iter().filter_map(move |(name, lane, deadline, is_streaming)| {
        let rule = match reflection {
            _ if lane != Some(CallLane::Reflection) => None,
            Reflection::On => None,
            Reflection::Authenticated => Some(signed_in),
            Reflection::Off => return None,
        };
        Some(Method { name: name.to_owned(), rule, lane, deadline, is_streaming })
    })
}

/// The options of methods.
struct Options {
    access: ExtensionDescriptor,
    recent_sign_in: ExtensionDescriptor,
}

fn extension(pool: &DescriptorPool, option: &str) -> Result<ExtensionDescriptor, ContractFault> {
    let extension = pool.get_extension_by_name(&format!("{PACKAGE}.{option}"));
    extension.ok_or_else(|| ContractFault::Unreadable(format!("the option `{option}` is not defined")))
}

fn of_contract(method: &MethodDescriptor, known: &Options) -> Result<Method, ContractFault> {
    let options = method.options();
    let option = options.get_extension(&known.access);
    let Value::Message(message) = option.as_ref() else {
        return Err(ContractFault::Unreadable("the option `access` is no message".to_owned()));
    };
    let stated: v1::AccessRule =
        message.transcode_to().map_err(|error| ContractFault::Unreadable(error.to_string()))?;
    let name = format!("{}/{}", method.parent_service().full_name(), method.name());
    let recent_sign_in = recent_sign_in(options.get_extension(&known.recent_sign_in).as_enum_number());
    Ok(Method {
        rule: Some(AccessRule { demand: demand(&name, &stated)?, recent_sign_in }),
        lane: Some(lane(&name, &stated)?),
        deadline: duration(&name, stated.deadline)?.unwrap_or(UNARY),
        is_streaming: method.is_server_streaming(),
        name,
    })
}

fn demand(method: &str, stated: &v1::AccessRule) -> Result<Demand, ContractFault> {
    Ok(match stated.caller() {
        // A method without the option has this value too.
        Caller::Unspecified => return Err(ContractFault::NoAccess { method: method.to_owned() }),
        Caller::Anyone => Demand::Anyone,
        Caller::Ticket => Demand::Ticket,
        Caller::Self_ => Demand::OneSelf,
        Caller::SelfOrTicket => Demand::OneSelfOrTicket,
        Caller::Principal => Demand::Principal,
        Caller::Scope => match Scope::parse(&stated.scope) {
            Some(scope) => Demand::Scope(scope),
            None => return Err(ContractFault::UnknownScope { name: method.to_owned() }),
        },
    })
}

/// Reads the option `recent_sign_in`. A value that this build does not know is the strictest one.
fn recent_sign_in(stated: Option<i32>) -> Option<RecentSignIn> {
    match v1::RecentSignIn::try_from(stated?) {
        Ok(v1::RecentSignIn::Unspecified) => None,
        Ok(v1::RecentSignIn::IfTargetHasScopes) => Some(RecentSignIn::IfTargetHasScopes),
        Ok(v1::RecentSignIn::Always) | Err(_) => Some(RecentSignIn::Always),
    }
}

fn lane(method: &str, stated: &v1::AccessRule) -> Result<CallLane, ContractFault> {
    match stated.lane() {
        Lane::Unspecified => Err(ContractFault::NoLane { method: method.to_owned() }),
        Lane::SignIn => Ok(CallLane::SignIns),
        Lane::Introspection => Ok(CallLane::Introspection),
        Lane::Operator => Ok(CallLane::Operators),
        Lane::List => Ok(CallLane::Lists),
    }
}

fn duration(method: &str, stated: Option<prost_types::Duration>) -> Result<Option<Duration>, ContractFault> {
    let negative = |_| ContractFault::Unreadable(format!("{method} states a negative duration"));
    stated.map(Duration::try_from).transpose().map_err(negative)
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
                return Err(ContractFault::UnknownScope { name: field.full_name().to_owned() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn demand(table: &MethodTable, path: &str) -> Option<Demand> {
        Some(table.find(path)?.rule?.demand)
    }

    #[test]
    fn every_method_of_the_contract_has_its_rule() -> Result<(), ContractFault> {
        let table = MethodTable::load(Reflection::On)?;
        assert_eq!(demand(&table, "/latchkey.v1.UserAdmin/LockUser"), Some(Demand::Scope(Scope::UsersLock)));
        assert_eq!(demand(&table, "/latchkey.v1.Auth/SignIn"), Some(Demand::Anyone));
        assert_eq!(demand(&table, "/latchkey.v1.Auth/CompletePasswordChange"), Some(Demand::Ticket));
        assert_eq!(demand(&table, "/latchkey.v1.Auth/ChangePassword"), Some(Demand::OneSelf));
        assert_eq!(demand(&table, "/latchkey.v1.Auth/WhoAmI"), Some(Demand::Principal));
        assert_eq!(table.find("/latchkey.v1.Auth/Nonsense"), None);
        assert_eq!(table.find("latchkey.v1.Auth/SignIn"), None);
        let delete = Method {
            name: "latchkey.v1.UserAdmin/DeleteUser".to_owned(),
            rule: Some(AccessRule {
                demand: Demand::Scope(Scope::UsersDelete),
                recent_sign_in: Some(RecentSignIn::Always),
            }),
            lane: Some(CallLane::Operators),
            deadline: UNARY,
            is_streaming: false,
        };
        assert_eq!(table.find("/latchkey.v1.UserAdmin/DeleteUser").as_deref(), Some(&delete));
        Ok(())
    }

    #[test]
    fn reflection_is_open_guarded_or_absent() -> Result<(), ContractFault> {
        let guarded = AccessRule { demand: Demand::Principal, recent_sign_in: None };
        for (mode, expected) in
            [(Reflection::On, Some(None)), (Reflection::Authenticated, Some(Some(guarded))), (Reflection::Off, None)]
        {
            let table = MethodTable::load(mode)?;
            for version in ["v1", "v1alpha"] {
                let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
                assert_eq!(table.find(&path).map(|found| found.rule), expected, "{path}");
            }
        }
        Ok(())
    }

    #[test]
    fn people_wait_less_long_than_operators_and_streams_last() -> Result<(), ContractFault> {
        let table = MethodTable::load(Reflection::On)?;
        let of = |path| table.find(path).map(|method| (method.deadline, method.is_streaming));
        assert_eq!(of("/latchkey.v1.Auth/SignIn"), Some((Duration::from_secs(10), false)));
        assert_eq!(of("/latchkey.v1.UserAdmin/LockUser"), Some((UNARY, false)));
        assert_eq!(of("/grpc.health.v1.Health/Check"), Some((UNARY, false)));
        assert_eq!(of("/grpc.health.v1.Health/Watch"), Some((WATCH, true)));
        assert_eq!(of("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), Some((REFLECTION, true)));
        Ok(())
    }

    #[test]
    fn health_checks_and_unknown_methods_have_no_lane() -> Result<(), ContractFault> {
        let table = MethodTable::load(Reflection::On)?;
        let lane_of = |path| table.find(path).and_then(|method| method.lane);
        assert_eq!(lane_of("/grpc.health.v1.Health/Check"), None);
        assert_eq!(lane_of("/grpc.health.v1.Health/Watch"), Some(CallLane::Watches));
        assert_eq!(lane_of("/latchkey.v1.Auth/Nonsense"), None);
        let reflection = lane_of("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
        assert_eq!(reflection, Some(CallLane::Reflection));
        Ok(())
    }

    #[test]
    fn a_method_that_does_not_say_its_lane_stops_the_start() {
        let stated = v1::AccessRule { caller: Caller::Anyone.into(), ..v1::AccessRule::default() };
        let refused = lane("latchkey.v1.Auth/SignIn", &stated);
        assert!(matches!(refused, Err(ContractFault::NoLane { .. })), "{refused:?}");
    }

    #[test]
    fn a_method_that_does_not_say_who_may_call_it_stops_the_start() -> Result<(), prost::DecodeError> {
        // The plain type has no field for our options and drops them.
        let lossy = prost_types::FileDescriptorSet::decode(DESCRIPTORS)?.encode_to_vec();
        let refused = MethodTable::read(&lossy, Reflection::On);
        assert!(matches!(refused, Err(ContractFault::NoAccess { .. })), "{refused:?}");
        Ok(())
    }

    #[test]
    fn a_scope_that_does_not_exist_stops_the_start() {
        for scope in ["sessions.revoke", "users.reset.secrets"] {
            let misspelt = replace_all(DESCRIPTORS, scope.as_bytes(), scope.replace('e', "i").as_bytes());
            let refused = MethodTable::read(&misspelt, Reflection::On);
            assert!(matches!(refused, Err(ContractFault::UnknownScope { .. })), "{refused:?}");
        }
    }

    /// Replaces one byte string with another of the same length.
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
