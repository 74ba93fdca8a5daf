//! The generated code of `proto/latchkey/v1`. A leaf: the gRPC layer and the command line use it, nobody else.

/// Messages, clients and servers of package `latchkey.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/latchkey.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/latchkey.v1.redacted.rs"));
}

/// The encoded descriptor set of the contract, comments and options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/latchkey.v1.fds"));

/// All that reflection knows: the API, the health service, and the details of errors. Each file once.
pub fn protoset() -> Result<Vec<u8>, prost_reflect::DescriptorError> {
    let mut pool = prost_reflect::DescriptorPool::decode(DESCRIPTORS)?;
    pool.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)?;
    Ok(pool.encode_to_vec())
}
