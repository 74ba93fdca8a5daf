//! The contract's own JSON.
//!
//! Answers are printed as the proto3 JSON mapping has them, by reflection over the descriptors of the contract: there
//! is no second set of types that could differ from the first.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde::Serialize;
use serde_json::Value;

use super::escape::escape_json;
use crate::cli::error::Error;

/// The contract, and the health service of gRPC.
pub(crate) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(crate::proto::DESCRIPTORS).unwrap_or_default();
    // Both sets are constants of this build. If one were broken, each look-up would fail and say so.
    let _ = pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    pool
});

/// A message as a value of reflection.
pub(crate) fn dynamic<M: prost::Message>(descriptor: MessageDescriptor, message: &M) -> Result<DynamicMessage, Error> {
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|fault| Error::unexpected(format!("a message does not match its description: {fault}")))
}

/// A message as a value of JSON, to become part of a larger one.
pub(crate) fn value(message: &DynamicMessage) -> Result<Value, Error> {
    serde_json::to_value(message).map_err(|fault| formless(&fault))
}

/// JSON text over several lines, fields in the order of the contract.
pub(crate) fn pretty(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value).map_err(|fault| formless(&fault))?;
    Ok(escape_json(&text))
}

/// JSON text on one line.
pub(crate) fn line(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string(value).map_err(|fault| formless(&fault))?;
    Ok(escape_json(&text))
}

fn formless(fault: &serde_json::Error) -> Error {
    Error::unexpected(format!("the answer has no JSON form: {fault}"))
}
