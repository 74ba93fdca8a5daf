//! JSON output.
//!
//! Answers are printed in the proto3 JSON mapping, by reflection over the descriptors of the contract. So there is no
//! second set of types that could differ from the contract.

use prost_reflect::DynamicMessage;
use serde::Serialize;
use serde_json::Value;

use super::escape::escape_json;
use crate::cli::error::Error;

/// A message as a JSON value, for use within a larger one.
pub(crate) fn value(message: &DynamicMessage) -> Result<Value, Error> {
    serde_json::to_value(message).map_err(|fault| formless(&fault))
}

/// JSON text on several lines, with the fields in the order of the contract.
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
    Error::unexpected(format!("cannot convert the answer to JSON: {fault}"))
}
