//! Compiles the contract into messages and services, the descriptor set that reflection serves, `Debug` implementations
//! that hide secrets, the checks of what single fields need, and the calls of the command line. The build fails if
//! a method has no `caller` or no `lane` in its `access` option, or a `recent_sign_in` that does not say when.
//!
//! protox compiles the files, so `protoc` is not needed. Its `encode_file_descriptor_set` keeps our own options and
//! `debug_redact`; the decoded form loses them.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost_reflect::{
    Cardinality, DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    OneofDescriptor, ReflectMessage, Value,
};

/// The package of the contract.
const PACKAGE: &str = "latchkey.v1";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[expect(clippy::disallowed_methods, reason = "how cargo talks to a build script")]
fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    // With comments: `grpcurl describe` prints them.
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(contract(Path::new("proto/latchkey/v1"))?)?;
    std::fs::write(out.join("latchkey.v1.fds"), compiler.encode_file_descriptor_set())?;

    let pool = compiler.descriptor_pool();
    check_access(&pool)?;
    let (redacted, debug) = redacted_debug(&pool)?;
    std::fs::write(out.join("latchkey.v1.redacted.rs"), debug)?;
    std::fs::write(out.join("latchkey.v1.needs.rs"), needs(&pool)?)?;
    std::fs::write(out.join("latchkey.v1.calls.rs"), calls(&pool)?)?;

    tonic_prost_build::configure()
        .skip_debug(&redacted)
        // Ordered maps encode the same request to the same bytes: an idempotency key is stored with a digest of them.
        .btree_map(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Returns the files of the contract, as imports name them.
fn contract(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path.strip_prefix("proto")?.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the messages of the contract.
fn messages(pool: &DescriptorPool) -> impl Iterator<Item = MessageDescriptor> + '_ {
    pool.all_messages().filter(|message| message.package_name() == PACKAGE)
}

/// Returns the methods of the contract.
fn methods(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    let services = pool.services().filter(|service| service.package_name() == PACKAGE);
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// Returns an option that the contract defines.
fn extension(pool: &DescriptorPool, name: &str) -> Result<ExtensionDescriptor> {
    let extension = pool.get_extension_by_name(&format!("{PACKAGE}.{name}"));
    extension.ok_or_else(|| format!("the contract does not define the option `{name}`").into())
}

/// Fails if the `access` option of a method lacks `caller` or `lane`, or if its `recent_sign_in` does not say when.
fn check_access(pool: &DescriptorPool) -> Result<()> {
    let (access, recent) = (extension(pool, "access")?, extension(pool, "recent_sign_in")?);
    for method in methods(pool) {
        let options = method.options();
        let rule = options.get_extension(&access);
        for field in ["caller", "lane"] {
            let value = rule.as_message().and_then(|rule| rule.get_field_by_name(field)?.as_enum_number());
            if value.unwrap_or_default() == 0 {
                return Err(format!("{}: set `{field}` in `option (access)`", method.full_name()).into());
            }
        }
        if options.has_extension(&recent) && options.get_extension(&recent).as_enum_number() == Some(0) {
            return Err(format!("{} does not say when it needs a recent sign-in", method.full_name()).into());
        }
    }
    Ok(())
}

/// Writes `impl Call` for the request of each unary method.
fn calls(pool: &DescriptorPool) -> Result<String> {
    let mut code = String::new();
    for method in methods(pool).iter().filter(|method| !method.is_client_streaming() && !method.is_server_streaming()) {
        let (request, answer) = (method.input(), method.output());
        top_level(&request)?;
        top_level(&answer)?;
        writeln!(code, "impl Call for v1::{} {{", request.name())?;
        writeln!(code, "    type Answer = v1::{};", answer.name())?;
        let name = format!("{}/{}", method.parent_service().full_name(), method.name());
        writeln!(code, "    const METHOD: &'static str = {name:?};\n}}")?;
    }
    Ok(code)
}

/// Returns the oneofs of a message, without the synthetic ones that stand for `optional`.
fn oneofs(message: &MessageDescriptor) -> impl Iterator<Item = OneofDescriptor> + '_ {
    message.oneofs().filter(|oneof| !oneof.is_synthetic())
}

/// Returns the oneof that a field belongs to, if any.
fn oneof_of(field: &FieldDescriptor) -> Option<OneofDescriptor> {
    field.containing_oneof().filter(|oneof| !oneof.is_synthetic())
}

/// Returns whether the standard option `debug_redact` is set.
fn is_redacted(field: &FieldDescriptor) -> bool {
    let options = field.options();
    let option = options.descriptor().get_field_by_name("debug_redact");
    option.is_some_and(|option| matches!(options.get_field(&option).as_ref(), Value::Bool(true)))
}

/// Writes `Debug` for each message with a secret and for its oneofs. Returns the paths that prost must skip, and the code.
fn redacted_debug(pool: &DescriptorPool) -> Result<(Vec<String>, String)> {
    let mut paths = Vec::new();
    let mut code = String::new();
    for message in messages(pool).filter(|message| message.fields().any(|field| is_redacted(&field))) {
        top_level(&message)?;
        paths.push(format!(".{}", message.full_name()));
        message_debug(&mut code, &message)?;
        for oneof in oneofs(&message) {
            oneof_debug(&mut code, &oneof)?;
        }
    }
    Ok((paths, code))
}

fn message_debug(code: &mut String, message: &MessageDescriptor) -> Result<()> {
    let name = message.name();
    writeln!(code, "impl ::core::fmt::Debug for {name} {{")?;
    writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
    writeln!(code, "        f.debug_struct({name:?})")?;
    for field in message.fields().filter(|field| oneof_of(field).is_none()) {
        let field_name = field.name();
        if is_redacted(&field) {
            let set = is_set(&field)?;
            let shown = format!("format_args!(\"{{}}\", if {set} {{ \"[redacted]\" }} else {{ \"[empty]\" }})");
            writeln!(code, "            .field({field_name:?}, &{shown})")?;
        } else {
            writeln!(code, "            .field({field_name:?}, &self.{})", member(field_name))?;
        }
    }
    for oneof in oneofs(message) {
        writeln!(code, "            .field({:?}, &self.{})", oneof.name(), member(oneof.name()))?;
    }
    writeln!(code, "            .finish()\n    }}\n}}")?;
    Ok(())
}

fn oneof_debug(code: &mut String, oneof: &OneofDescriptor) -> Result<()> {
    let name = oneof_type(oneof);
    writeln!(code, "impl ::core::fmt::Debug for {name} {{")?;
    writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
    writeln!(code, "        match self {{")?;
    for field in oneof.fields() {
        let variant = camel(field.name());
        if is_redacted(&field) {
            writeln!(code, "            {name}::{variant}(_) => f.write_str(\"{variant}([redacted])\"),")?;
        } else {
            let shown = format!("f.debug_tuple({variant:?}).field(value).finish()");
            writeln!(code, "            {name}::{variant}(value) => {shown},")?;
        }
    }
    writeln!(code, "        }}\n    }}\n}}")?;
    Ok(())
}

/// Writes `impl Needs` for the request of each method: the scopes and the recent sign-in that its set fields need.
fn needs(pool: &DescriptorPool) -> Result<String> {
    let mut code = String::new();
    for method in methods(pool) {
        request_needs(&mut code, pool, &method.input())?;
    }
    Ok(code)
}

fn request_needs(code: &mut String, pool: &DescriptorPool, request: &MessageDescriptor) -> Result<()> {
    top_level(request)?;
    let (mut checks, mut recent) = (String::new(), String::from("None"));
    for field in request.fields() {
        if let Some(scope) = needed_scope(pool, &field)? {
            let (set, name) = (is_set(&field)?, field.name());
            writeln!(checks, "        if {set} {{\n            needs.push(({name:?}, {scope:?}));\n        }}")?;
        }
        if let Some(when) = needed_sign_in(pool, &field)? {
            let set = is_set(&field)?;
            recent = format!("::core::cmp::max({recent}, ({set}).then_some(RecentSignIn::{when}))");
        }
        // No check is generated for a nested field, so `needs` there would grant access silently.
        if let Kind::Message(inner) = field.kind() {
            refuse_needs_within(pool, &inner, &mut vec![request.full_name().to_owned()])?;
        }
    }
    writeln!(code, "impl Needs for v1::{} {{", request.name())?;
    writeln!(code, "    fn needs(&self) -> Vec<(&'static str, &'static str)> {{")?;
    if checks.is_empty() {
        writeln!(code, "        Vec::new()\n    }}")?;
    } else {
        writeln!(code, "        let mut needs = Vec::new();\n{checks}        needs\n    }}")?;
    }
    writeln!(code, "    fn needs_recent_sign_in(&self) -> Option<RecentSignIn> {{\n        {recent}\n    }}\n}}")?;
    Ok(())
}

/// Returns when setting a field needs a recent sign-in, as the variant of the enum in the domain.
fn needed_sign_in(pool: &DescriptorPool, field: &FieldDescriptor) -> Result<Option<String>> {
    let extension = extension(pool, "needs_recent_sign_in")?;
    let options = field.options();
    if !options.has_extension(&extension) {
        return Ok(None);
    }
    let Kind::Enum(values) = extension.kind() else { return Err("`needs_recent_sign_in` is no enum".into()) };
    let number = options.get_extension(&extension).as_enum_number().unwrap_or_default();
    let value = values.get_value(number).filter(|value| value.number() != 0);
    let value = value.ok_or_else(|| format!("{} does not say when it needs a recent sign-in", field.full_name()))?;
    let variant = value.name().trim_start_matches("RECENT_SIGN_IN_").to_ascii_lowercase();
    Ok(Some(camel(&variant)))
}

/// Returns the scope that setting a field needs.
fn needed_scope(pool: &DescriptorPool, field: &FieldDescriptor) -> Result<Option<String>> {
    let extension = extension(pool, "needs")?;
    let options = field.options();
    if !options.has_extension(&extension) {
        return Ok(None);
    }
    match options.get_extension(&extension).as_ref() {
        Value::String(scope) if !scope.is_empty() => Ok(Some(scope.clone())),
        _ => Err(format!("{} needs no scope by name", field.full_name()).into()),
    }
}

/// Fails if a message inside a request has a field with `needs` or `needs_recent_sign_in`: only fields of the request itself
/// may have them.
fn refuse_needs_within(pool: &DescriptorPool, message: &MessageDescriptor, seen: &mut Vec<String>) -> Result<()> {
    if seen.iter().any(|name| name == message.full_name()) {
        return Ok(());
    }
    seen.push(message.full_name().to_owned());
    for field in message.fields() {
        if needed_scope(pool, &field)?.is_some() || needed_sign_in(pool, &field)?.is_some() {
            return Err(format!(
                "{} is inside a request: what a field needs is checked only in the request itself",
                field.full_name()
            )
            .into());
        }
        if let Kind::Message(inner) = field.kind() {
            refuse_needs_within(pool, &inner, seen)?;
        }
    }
    Ok(())
}

/// Returns a Rust expression for whether a field of `self` is set.
fn is_set(field: &FieldDescriptor) -> Result<String> {
    let member = member(field.name());
    if let Some(oneof) = oneof_of(field) {
        let variant = format!("v1::{}::{}", oneof_type(&oneof), camel(field.name()));
        return Ok(format!("matches!(&self.{}, Some({variant}(_)))", self::member(oneof.name())));
    }
    let is_text = matches!(field.kind(), Kind::String | Kind::Bytes);
    Ok(match field.cardinality() {
        Cardinality::Repeated => format!("!self.{member}.is_empty()"),
        _ if field.supports_presence() => format!("self.{member}.is_some()"),
        _ if is_text => format!("!self.{member}.is_empty()"),
        _ if field.kind() == Kind::Bool => format!("self.{member}"),
        _ => return Err(format!("{}: a number cannot be marked", field.full_name()).into()),
    })
}

/// Returns the Rust type of a oneof, relative to the module of the package.
fn oneof_type(oneof: &OneofDescriptor) -> String {
    format!("{}::{}", snake(oneof.parent_message().name()), camel(oneof.name()))
}

/// Returns a field name as a Rust identifier.
fn member(name: &str) -> String {
    if matches!(name, "ref" | "type") { format!("r#{name}") } else { name.to_owned() }
}

fn snake(camel: &str) -> String {
    let mut snake = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn camel(snake: &str) -> String {
    let capitalised = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    snake.split('_').map(capitalised).collect()
}

/// Fails for a nested message: its Rust path differs from its name.
fn top_level(message: &MessageDescriptor) -> Result<()> {
    match message.parent_message() {
        None => Ok(()),
        Some(_) => {
            Err(format!("{} has a secret or is of a method, so it must stand at the top level", message.full_name())
                .into())
        }
    }
}
