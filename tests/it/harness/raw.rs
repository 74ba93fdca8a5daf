//! Calls by method name through the descriptors, so that new methods are covered automatically.

use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, FileDescriptor, MethodDescriptor, ReflectMessage as _,
    SerializeOptions, Value,
};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use super::Client;

/// The package of the contract.
pub const PACKAGE: &str = "latchkey.v1";

/// The descriptors of the contract.
pub fn contract() -> DescriptorPool {
    DescriptorPool::decode(latchkey::proto::DESCRIPTORS).expect("descriptors")
}

/// Every method of the contract.
pub fn methods() -> Vec<MethodDescriptor> {
    let pool = contract();
    let services = pool.services().filter(|service| service.package_name() == PACKAGE);
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// Short name of a method, such as `UserAdmin/LockUser`.
pub fn short_name(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().name(), method.name())
}

/// The method with this short name.
pub fn method(short: &str) -> MethodDescriptor {
    methods().into_iter().find(|method| short_name(method) == short).unwrap_or_else(|| panic!("no method {short}"))
}

/// The leading comment of a declaration.
pub fn comments(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref().expect("comments");
    let found = info.location.iter().find(|location| location.path == path);
    found.map(|location| location.leading_comments().to_owned()).unwrap_or_default()
}

/// Whether the standard option `debug_redact` marks the field as secret.
pub fn is_redacted(field: &FieldDescriptor) -> bool {
    let options = field.options();
    let option = options.descriptor().get_field_by_name("debug_redact");
    option.is_some_and(|option| matches!(options.get_field(&option).as_ref(), Value::Bool(true)))
}

/// The request of a method, from proto3 JSON.
pub fn request(method: &MethodDescriptor, json: &serde_json::Value) -> DynamicMessage {
    DynamicMessage::deserialize(method.input(), json).unwrap_or_else(|error| panic!("{}: {error}", method.full_name()))
}

impl Client {
    /// Sends bytes to a path, given without the leading `/`, and returns the response bytes.
    pub async fn call_path(&self, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        let mut grpc = tonic::client::Grpc::new(InterceptedService::new(self.channel(), self.metadata.clone()));
        grpc.ready().await.expect("a connection");
        let path = http::uri::PathAndQuery::try_from(format!("/{path}")).expect("a path");
        grpc.unary(Request::new(message), path, Bytes).await.map(tonic::Response::into_inner)
    }

    /// Calls a method with an empty request.
    pub async fn call_empty(&self, method: &MethodDescriptor) -> Result<Vec<u8>, Status> {
        self.call_path(&format!("{}/{}", method.parent_service().full_name(), method.name()), Vec::new()).await
    }

    /// Calls a method such as `UserAdmin/LockUser` with proto3 JSON, and returns the response as JSON.
    pub async fn call(&self, short: &str, json: serde_json::Value) -> Result<serde_json::Value, Status> {
        let method = method(short);
        let message = request(&method, &json).encode_to_vec();
        let answer = self.call_path(&format!("{PACKAGE}.{short}"), message).await?;
        let answer = DynamicMessage::decode(method.output(), answer.as_slice()).expect("the message of the contract");
        let options = SerializeOptions::new().skip_default_fields(false);
        Ok(answer.serialize_with_options(serde_json::value::Serializer, &options).expect("JSON"))
    }
}

/// A codec that passes messages as bytes.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}
