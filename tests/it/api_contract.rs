//! The contract is complete, documented, and served as written.

use std::collections::BTreeSet;

use futures_util::stream;
use latchkey::domain::role::{Role, Scope};
use prost::Message as _;
use prost_reflect::{Kind, MethodDescriptor, Value};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::Harness;
use crate::harness::raw::{PACKAGE, comments, contract, is_redacted, methods};

/// The full names of our services.
fn services() -> BTreeSet<String> {
    methods().iter().map(|method| method.parent_service().full_name().to_owned()).collect()
}

/// A field of the option `access` of a method.
fn access(method: &MethodDescriptor, member: &str) -> Value {
    let option = contract().get_extension_by_name(&format!("{PACKAGE}.access")).expect("the option");
    let options = method.options();
    assert!(options.has_extension(&option), "{} does not say who may call it", method.full_name());
    match options.get_extension(&option).as_ref() {
        Value::Message(rule) => rule.get_field_by_name(member).expect("a member").into_owned(),
        other => panic!("no rule: {other:?}"),
    }
}

#[test]
fn every_file_names_its_package_for_go_java_and_csharp() {
    let files: Vec<_> = contract().files().filter(|file| file.package_name() == PACKAGE).collect();
    assert!(files.len() > 5, "too few files to be all");
    for file in files {
        let options = file.file_descriptor_proto().options.clone().unwrap_or_default();
        assert_eq!(options.go_package(), "latchkey/v1;latchkeyv1", "{}", file.name());
        assert_eq!(options.java_package(), PACKAGE, "{}", file.name());
        assert!(options.java_multiple_files(), "{}", file.name());
        assert_eq!(options.csharp_namespace(), "Latchkey.V1", "{}", file.name());
    }
}

#[test]
fn every_method_says_who_may_call_it() {
    for method in methods() {
        let caller = access(&method, "caller").as_enum_number().unwrap_or_default();
        assert_ne!(caller, 0, "{}", method.full_name());
        let scope = access(&method, "scope").as_str().unwrap_or_default().to_owned();
        let wants_scope = caller == latchkey::proto::v1::access_rule::Caller::Scope as i32;
        assert_eq!(!scope.is_empty(), wants_scope, "{}", method.full_name());
        assert!(!wants_scope || Scope::parse(&scope).is_some(), "{}: {scope}", method.full_name());
    }
}

#[test]
fn every_scope_is_needed_somewhere_and_four_are_for_administrators_alone() {
    let mut needed: BTreeSet<String> =
        methods().iter().filter_map(|method| Some(access(method, "scope").as_str()?.to_owned())).collect();
    let needs = contract().get_extension_by_name(&format!("{PACKAGE}.needs")).expect("the option");
    for message in contract().all_messages() {
        for field in message.fields().filter(|field| field.options().has_extension(&needs)) {
            needed.extend(field.options().get_extension(&needs).as_str().map(str::to_owned));
        }
    }
    needed.remove("");
    // This scope opens no method: it lets an application state the address of its users.
    needed.insert("auth.proxy".to_owned());
    let known: BTreeSet<String> = Scope::ALL.iter().map(|scope| scope.as_str().to_owned()).collect();
    assert_eq!(needed, known);
    let admins_alone: Vec<&str> = Scope::ALL
        .iter()
        .filter(|scope| Role::ALL.iter().all(|role| *role == Role::Admin || !role.scopes().contains(**scope)))
        .map(|scope| scope.as_str())
        .collect();
    assert_eq!(admins_alone, ["policy.write", "roles.write", "tokens.write", "users.delete"]);
}

#[test]
fn no_field_that_holds_a_secret_forgets_to_say_so() {
    let mut redacted = 0;
    for message in contract().all_messages().filter(|message| message.full_name().starts_with(PACKAGE)) {
        for field in message.fields() {
            let name = field.name();
            let sounds_secret = [
                "password",
                "secret",
                "ticket",
                "token",
                "reset_link",
                "invite_link",
                "totp",
                "recovery_code",
                "otpauth",
            ]
            .iter()
            .any(|word| name.contains(word))
                || name == "code";
            let points = name.ends_with("page_token") || name.ends_with("_id") || field.kind() != Kind::String;
            assert_eq!(sounds_secret && !points, is_redacted(&field), "{}", field.full_name());
            redacted += usize::from(is_redacted(&field));
        }
    }
    assert!(redacted > 10);
}

#[test]
fn everything_has_a_comment() {
    let pool = contract();
    let mut bare = Vec::new();
    let mut check = |name: &str, comment: String| {
        if comment.trim().is_empty() {
            bare.push(name.to_owned());
        }
    };
    for service in pool.services().filter(|service| service.package_name() == PACKAGE) {
        check(service.full_name(), comments(&service.parent_file(), service.path()));
        for method in service.methods() {
            check(method.full_name(), comments(&service.parent_file(), method.path()));
        }
    }
    for message in pool.all_messages().filter(|m| m.full_name().starts_with(PACKAGE) && !m.is_map_entry()) {
        check(message.full_name(), comments(&message.parent_file(), message.path()));
        for field in message.fields() {
            check(field.full_name(), comments(&message.parent_file(), field.path()));
        }
    }
    for of_enum in pool.all_enums().filter(|of_enum| of_enum.full_name().starts_with(PACKAGE)) {
        check(of_enum.full_name(), comments(&of_enum.parent_file(), of_enum.path()));
        for value in of_enum.values() {
            check(value.full_name(), comments(&of_enum.parent_file(), value.path()));
        }
    }
    assert!(bare.is_empty(), "{bare:#?}");
}

#[tokio::test]
async fn health_is_told_for_the_server_and_each_service() {
    let h = Harness::start().await;
    let mut health = HealthClient::new(h.stranger().await.channel());
    for service in services().into_iter().chain([String::new()]) {
        let answer = health.check(HealthCheckRequest { service: service.clone() }).await;
        let status = answer.expect("an answer").into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "latchkey.v1.Nonsense".to_owned() }).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
}

/// Both versions of reflection have the same messages but no common type.
macro_rules! reflect {
    ($version:ident, $h:expr, $question:ident, $text:expr) => {{
        use pb::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version as pb;
        let mut client = pb::server_reflection_client::ServerReflectionClient::new($h.stranger().await.channel());
        let request = pb::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::$question(String::from($text))),
        };
        let answers = client.server_reflection_info(stream::iter([request])).await.expect("a stream");
        let answer = answers.into_inner().message().await.expect("an answer").expect("an answer");
        answer.message_response.expect("a response")
    }};
}

macro_rules! check_reflection {
    ($version:ident, $h:expr) => {{
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
        let MessageResponse::ListServicesResponse(list) = reflect!($version, $h, ListServices, "") else {
            panic!("no list")
        };
        let listed: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
        let others = ["grpc.health.v1.Health", concat!("grpc.reflection.", stringify!($version), ".ServerReflection")];
        for service in services().into_iter().chain(others.map(str::to_owned)) {
            assert!(listed.contains(&service), "{service} is not in {listed:?}");
        }
        // Including the error details, which clients could not print otherwise.
        for symbol in [
            "latchkey.v1.UserAdmin",
            "latchkey.v1.UserAdmin.LockUser",
            "latchkey.v1.ErrorReason",
            "latchkey.v1.AccessRule",
            "latchkey.v1.AccessRule.caller",
            "latchkey.v1.ResetPasswordRequest.method",
            "latchkey.v1.ERROR_REASON_INTERNAL",
            "latchkey.v1.ErrorReason.ERROR_REASON_INTERNAL",
            "google.rpc.ErrorInfo",
            "google.rpc.BadRequest",
            "google.rpc.RetryInfo",
            "google.rpc.RequestInfo",
            "google.rpc.ResourceInfo",
            "google.rpc.QuotaFailure",
            "google.rpc.PreconditionFailure",
        ] {
            let found = reflect!($version, $h, FileContainingSymbol, symbol);
            assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {found:?}");
        }
    }};
}

#[tokio::test]
async fn reflection_describes_everything_in_both_versions() {
    let h = Harness::start().await;
    check_reflection!(v1, h);
    check_reflection!(v1alpha, h);
}

/// Asks two questions in one stream: one that has no answer, and one that has. Then asks for the options of the contract.
macro_rules! check_misses_and_extensions {
    ($version:ident, $h:expr) => {{
        use pb::server_reflection_request::MessageRequest;
        use pb::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as pb;
        let ask = |question| pb::ServerReflectionRequest { host: "h".to_owned(), message_request: Some(question) };
        let extension = |containing_type: &str, extension_number| {
            let containing_type = containing_type.to_owned();
            MessageRequest::FileContainingExtension(pb::ExtensionRequest { containing_type, extension_number })
        };
        let misses = [
            MessageRequest::FileContainingSymbol("latchkey.v1.Nothing".to_owned()),
            MessageRequest::FileContainingSymbol("latchkey.v1.User.nothing".to_owned()),
            MessageRequest::FileByFilename("nothing.proto".to_owned()),
            extension("google.protobuf.MethodOptions", 1),
            extension("latchkey.v1.Nothing", 1),
            MessageRequest::AllExtensionNumbersOfType("latchkey.v1.Nothing".to_owned()),
        ];
        let count = misses.len();
        let mut client = pb::server_reflection_client::ServerReflectionClient::new($h.stranger().await.channel());
        let questions = misses.into_iter().chain([MessageRequest::ListServices(String::new())]).map(ask);
        let answers = client.server_reflection_info(stream::iter(questions.collect::<Vec<_>>())).await;
        let mut answers = answers.expect("a stream").into_inner();
        for _ in 0..count {
            let answer = answers.message().await.expect("the stream goes on").expect("an answer");
            let Some(MessageResponse::ErrorResponse(miss)) = answer.message_response else { panic!("{answer:?}") };
            assert_eq!(miss.error_code, Code::NotFound as i32, "{miss:?}");
            assert!(answer.valid_host == "h" && answer.original_request.is_some());
        }
        let last = answers.message().await.expect("the stream goes on").expect("an answer");
        assert!(matches!(last.message_response, Some(MessageResponse::ListServicesResponse(_))), "{last:?}");

        let (of_methods, of_fields) = ("google.protobuf.MethodOptions", "google.protobuf.FieldOptions");
        for (name, option) in [
            ("access", of_methods),
            ("recent_sign_in", of_methods),
            ("needs", of_fields),
            ("needs_recent_sign_in", of_fields),
        ] {
            let known = contract().get_extension_by_name(&format!("{PACKAGE}.{name}")).expect("an extension");
            let number = i32::try_from(known.number()).expect("a number");
            let answer = reflect!($version, $h, AllExtensionNumbersOfType, option);
            let MessageResponse::AllExtensionNumbersResponse(all) = answer else { panic!("{answer:?}") };
            assert!(all.base_type_name == option && all.extension_number.contains(&number), "{all:?}");
            let questions = stream::iter([ask(extension(option, number))]);
            let answers = client.server_reflection_info(questions).await.expect("a stream");
            let answer = answers.into_inner().message().await.expect("an answer").expect("an answer");
            let Some(MessageResponse::FileDescriptorResponse(file)) = answer.message_response else {
                panic!("{name}: {answer:?}")
            };
            let file = prost_types::FileDescriptorProto::decode(file.file_descriptor_proto[0].as_slice());
            assert_eq!(file.expect("a file").name(), "latchkey/v1/options.proto");
            let by_name = reflect!($version, $h, FileContainingSymbol, format!("{PACKAGE}.{name}"));
            assert!(matches!(by_name, MessageResponse::FileDescriptorResponse(_)), "{by_name:?}");
        }
    }};
}

#[tokio::test]
async fn reflection_tells_what_it_misses_and_goes_on_and_resolves_the_options_of_the_contract() {
    let h = Harness::start().await;
    check_misses_and_extensions!(v1, h);
    check_misses_and_extensions!(v1alpha, h);
}

#[tokio::test]
async fn reflection_can_want_a_credential_or_be_off() {
    use latchkey::config::Reflection;
    let path = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    for (mode, expected) in [(Reflection::Authenticated, Code::Unauthenticated), (Reflection::Off, Code::Unimplemented)]
    {
        let h = Harness::with(|config| config.reflection = mode).await;
        let answer = h.stranger().await.call_path(path, Vec::new()).await;
        assert_eq!(answer.expect_err("refused").code(), expected, "{mode:?}");
        let user = h.user("bob").await.client.call_path(path, Vec::new()).await;
        // An empty request gets an error of its own; only the access rule matters here.
        let refused = user.err().is_some_and(|status| status.code() == expected);
        assert_eq!(refused, matches!(mode, Reflection::Off), "{mode:?}");
    }
}
