//! The code generated from `proto/latchkey/v1`. Only the gRPC layer and the command line use it.

/// Messages, clients and servers of package `latchkey.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/latchkey.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/latchkey.v1.redacted.rs"));
}

/// The encoded descriptor set of the contract, including comments and options.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/latchkey.v1.fds"));

/// The name of the status code in the gRPC specification.
pub const fn code_name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::Cancelled => "CANCELLED",
        tonic::Code::Unknown => "UNKNOWN",
        tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
        tonic::Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        tonic::Code::NotFound => "NOT_FOUND",
        tonic::Code::AlreadyExists => "ALREADY_EXISTS",
        tonic::Code::PermissionDenied => "PERMISSION_DENIED",
        tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
        tonic::Code::Aborted => "ABORTED",
        tonic::Code::OutOfRange => "OUT_OF_RANGE",
        tonic::Code::Unimplemented => "UNIMPLEMENTED",
        tonic::Code::Internal => "INTERNAL",
        tonic::Code::Unavailable => "UNAVAILABLE",
        tonic::Code::DataLoss => "DATA_LOSS",
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The descriptors that reflection serves: the contract, the health service, and the error details, each file once.
pub fn descriptors() -> Result<prost_reflect::DescriptorPool, prost_reflect::DescriptorError> {
    let mut pool = prost_reflect::DescriptorPool::decode(DESCRIPTORS)?;
    pool.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)?;
    Ok(pool)
}

/// The same as an encoded descriptor set.
pub fn protoset() -> Result<Vec<u8>, prost_reflect::DescriptorError> {
    Ok(descriptors()?.encode_to_vec())
}
