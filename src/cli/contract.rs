//! The descriptors of the contract: messages by reflection, and the names of enum values.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::error::Error;

/// The descriptors of the contract and of gRPC's health service.
pub(crate) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(crate::proto::DESCRIPTORS).unwrap_or_default();
    // Both sets are constants of this build. If one were broken, every lookup would fail with a message.
    let _ = pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    pool
});

/// Converts a message to a reflected one.
pub(crate) fn dynamic<M: prost::Message>(descriptor: MessageDescriptor, message: &M) -> Result<DynamicMessage, Error> {
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|fault| Error::unexpected(format!("a message does not match its descriptor: {fault}")))
}

/// The values of an enum as words for the command line, with their numbers. Leaves out 0, "unspecified".
pub(crate) fn enum_choices(enum_name: &str, prefix: &str) -> Vec<(String, i32)> {
    let Some(values) = POOL.get_enum_by_name(enum_name) else { return Vec::new() };
    let word = |name: &str| name.trim_start_matches(prefix).to_ascii_lowercase().replace('_', "-");
    let known = values.values().filter(|value| value.number() != 0);
    known.map(|value| (word(value.name()), value.number())).collect()
}

/// The scopes that methods and fields need, sorted by name.
pub(crate) fn scopes() -> Vec<String> {
    let named = |options: &DynamicMessage, extension: &str, field: Option<&str>| {
        let extension = POOL.get_extension_by_name(extension).filter(|extension| options.has_extension(extension))?;
        let value = options.get_extension(&extension).into_owned();
        let value = match field {
            Some(field) => value.as_message()?.get_field_by_name(field)?.into_owned(),
            None => value,
        };
        value.as_str().map(str::to_owned).filter(|scope| !scope.is_empty())
    };
    let methods = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let methods = methods.filter_map(|method| named(&method.options(), "latchkey.v1.access", Some("scope")));
    let fields = POOL.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
    let fields = fields.filter_map(|field| named(&field.options(), "latchkey.v1.needs", None));
    let scopes: BTreeSet<String> = methods.chain(fields).collect();
    scopes.into_iter().collect()
}

/// An enum value in words: `EVENT_TYPE_USER_LOCKED` becomes `user locked`.
pub(crate) fn enum_words(enum_name: &str, prefix: &str, number: i32) -> String {
    let value = POOL.get_enum_by_name(enum_name).and_then(|values| values.get_value(number));
    match value {
        Some(value) => value.name().trim_start_matches(prefix).to_ascii_lowercase().replace('_', " "),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_are_told_in_words() {
        assert_eq!(enum_words("latchkey.v1.EventType", "EVENT_TYPE_", 26), "user locked");
        assert_eq!(enum_words("latchkey.v1.EventType", "EVENT_TYPE_", 9999), "9999");
    }
}
