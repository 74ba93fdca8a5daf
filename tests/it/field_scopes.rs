//! Scopes required by single fields and by values.

use latchkey::domain::role::Scope;
use prost_reflect::{FieldDescriptor, Value};
use serde_json::json;
use tonic::Code;

use crate::harness::raw::{PACKAGE, contract, methods, short_name};
use crate::harness::{Client, Harness, PASSWORD, refused};

/// A valid request that sets the field, for every field with the option `needs`.
fn requests() -> Vec<(&'static str, &'static str, serde_json::Value)> {
    let bob = || json!({"username": "bob"});
    vec![
        ("UserAdmin/CreateUser", "roles", json!({"username": "eve", "roles": ["viewer"]})),
        ("UserAdmin/CreateUser", "temporary_password", json!({"username": "mallory", "temporaryPassword": {}})),
        (
            "UserAdmin/CreateUser",
            "return_invite",
            json!({"username": "dave", "email": "dave@example.org", "returnInvite": {}}),
        ),
        ("UserAdmin/CreateUser", "take_reserved", json!({"username": "carol", "takeReserved": true})),
        (
            "UserAdmin/UpdateUser",
            "take_reserved",
            json!({"user": bob(), "email": "bob@example.net", "takeReserved": true}),
        ),
        ("UserAdmin/UpdateUser", "email", json!({"user": bob(), "email": "bob@example.org"})),
        ("UserAdmin/UpdateUser", "add_roles", json!({"user": bob(), "addRoles": ["viewer"]})),
        ("UserAdmin/UpdateUser", "remove_roles", json!({"user": bob(), "removeRoles": ["viewer"]})),
        (
            "UserAdmin/LockUser",
            "remove_second_factors",
            json!({"user": {"username": "taken"}, "cause": "LOCK_CAUSE_COMPROMISE", "removeSecondFactors": true}),
        ),
        ("UserAdmin/ResetPassword", "return_link", json!({"user": bob(), "returnLink": {}})),
        ("UserAdmin/ResetPassword", "temporary_password", json!({"user": bob(), "temporaryPassword": {}})),
        ("UserAdmin/ResetPassword", "set_password", json!({"user": bob(), "setPassword": {"password": PASSWORD}})),
        ("UserAdmin/ResetPassword", "unlock", json!({"user": bob(), "temporaryPassword": {}, "unlock": true})),
    ]
}

/// The option `needs` of a field.
fn needs(field: &FieldDescriptor) -> Option<String> {
    let needs = field.parent_pool().get_extension_by_name(&format!("{PACKAGE}.needs")).expect("the option");
    let options = field.options();
    match (options.has_extension(&needs), options.get_extension(&needs).as_ref()) {
        (true, Value::String(scope)) => Some(scope.clone()),
        _ => None,
    }
}

/// Every request field that requires a scope: method, field, scope.
fn fields() -> Vec<(String, String, String)> {
    let of = |method: prost_reflect::MethodDescriptor| {
        let fields: Vec<_> = method.input().fields().collect();
        fields.into_iter().filter_map(move |field| Some((short_name(&method), field.name().to_owned(), needs(&field)?)))
    };
    methods().into_iter().flat_map(of).collect()
}

/// A program with every scope except this one.
async fn program_without(h: &Harness, scope: &str) -> Client {
    let others: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).filter(|other| *other != scope).collect();
    h.token(&others).await
}

#[tokio::test]
async fn sec_017_a_field_needs_its_scope_on_top_of_the_methods_own() {
    let h = Harness::start().await;
    h.user("bob").await;
    h.user("taken").await;
    let all: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    let mighty = h.token(&all).await;
    let requests = requests();
    for (method, field, scope) in fields() {
        let request = requests.iter().find(|(m, f, _)| (*m, *f) == (method.as_str(), field.as_str()));
        let (_, _, request) = request.unwrap_or_else(|| panic!("{method}.{field} has no request in this test"));

        let before = h.operator().await.user("bob").await;
        let answer = program_without(&h, &scope).await.call(&method, request.clone()).await;
        let refusal = refused(answer, Code::PermissionDenied, "SCOPE_MISSING");
        assert_eq!(refusal.metadata("scope"), scope, "{method}.{field}");
        assert_eq!(h.operator().await.user("bob").await, before, "{method}.{field}");

        let done = mighty.call(&method, request.clone()).await;
        done.unwrap_or_else(|error| panic!("{method}.{field}: {error:?}"));
    }
}

#[tokio::test]
async fn an_empty_address_needs_the_scope_too() {
    let h = Harness::start().await;
    h.user("bob").await;
    let program = h.token(&["users.write"]).await;
    let clears = json!({"user": {"username": "bob"}, "email": ""});
    let refusal = refused(program.call("UserAdmin/UpdateUser", clears).await, Code::PermissionDenied, "SCOPE_MISSING");
    assert_eq!(refusal.metadata("scope"), "users.email");
    let leaves = json!({"user": {"username": "bob"}, "displayName": "Bob"});
    program.call("UserAdmin/UpdateUser", leaves).await.expect("a field that needs nothing");
}

#[tokio::test]
async fn a_lasting_password_needs_a_scope_that_one_to_be_changed_does_not() {
    let h = Harness::start().await;
    let program = program_without(&h, "users.reset.secrets").await;
    let lasting = json!({"username": "eve", "password": PASSWORD, "passwordChangeRequired": false});
    let refusal = refused(program.call("UserAdmin/CreateUser", lasting).await, Code::PermissionDenied, "SCOPE_MISSING");
    assert_eq!(refusal.metadata("scope"), "users.reset.secrets");
    for (name, required) in [("bob", json!(true)), ("carol", json!(null))] {
        let passing = json!({"username": name, "password": PASSWORD, "passwordChangeRequired": required});
        program.call("UserAdmin/CreateUser", passing).await.expect("a password that is to be changed");
    }
}

#[tokio::test]
async fn wrong_fields_are_named_before_missing_scopes_of_fields() {
    let h = Harness::start().await;
    let program = h.token(&["users.write"]).await;
    let request = json!({"username": "not a name", "roles": ["viewer"]});
    refused(program.call("UserAdmin/CreateUser", request).await, Code::InvalidArgument, "FIELD_INVALID");
}

#[test]
fn no_request_of_this_test_is_for_a_field_that_needs_nothing() {
    let known = fields();
    for (method, field, _) in requests() {
        assert!(known.iter().any(|(m, f, _)| (m.as_str(), f.as_str()) == (method, field)), "{method}.{field}");
    }
    assert!(contract().get_extension_by_name(&format!("{PACKAGE}.needs")).is_some());
}
