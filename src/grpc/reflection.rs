//! Reflection, in both versions, over the descriptors of the contract.
//!
//! tonic-reflection ends the stream when a name is unknown, and knows no extensions. By the protocol an unknown name gets an
//! `error_response` and the stream goes on, and the options `access` and `needs` are extensions that a client looks up. So
//! only its messages are used.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};
use prost_reflect::{DescriptorError, DescriptorPool, FileDescriptor, MessageDescriptor};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb;

use crate::error::{Error, Outage};
use crate::proto;

/// What is described. Each version describes itself, but not the other.
#[derive(Debug, Clone)]
pub(super) struct Reflection {
    pool: Arc<DescriptorPool>,
    /// Cancelled when the server stops. Streams then end.
    stop: CancellationToken,
}

/// Why a question has no answer: the code and the text of an `error_response`.
type Miss = (Code, String);

impl Reflection {
    pub(super) fn v1(stop: &CancellationToken) -> Result<Reflection, DescriptorError> {
        Reflection::with(stop, pb::v1::FILE_DESCRIPTOR_SET)
    }

    pub(super) fn v1alpha(stop: &CancellationToken) -> Result<Reflection, DescriptorError> {
        Reflection::with(stop, pb::v1alpha::FILE_DESCRIPTOR_SET)
    }

    fn with(stop: &CancellationToken, own: &[u8]) -> Result<Reflection, DescriptorError> {
        let mut pool = proto::descriptors()?;
        pool.decode_file_descriptor_set(own)?;
        Ok(Reflection { pool: Arc::new(pool), stop: stop.clone() })
    }

    fn services(&self) -> Vec<String> {
        self.pool.services().map(|service| service.full_name().to_owned()).collect()
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, Miss> {
        encoded(self.pool.get_file_by_name(name), || format!("no file {name}"))
    }

    /// The file that defines a symbol: a message, enum, service or extension, or a member of one.
    fn file_of(&self, symbol: &str) -> Result<Vec<u8>, Miss> {
        let pool = &self.pool;
        let file = pool.get_message_by_name(symbol).map(|found| found.parent_file());
        let file = file.or_else(|| Some(pool.get_enum_by_name(symbol)?.parent_file()));
        let file = file.or_else(|| Some(pool.get_service_by_name(symbol)?.parent_file()));
        let file = file.or_else(|| Some(pool.get_extension_by_name(symbol)?.parent_file()));
        encoded(file.or_else(|| self.file_of_member(symbol)), || format!("no symbol {symbol}"))
    }

    /// The file that defines a method, a field, a oneof or a value of an enum.
    fn file_of_member(&self, symbol: &str) -> Option<FileDescriptor> {
        let (parent, name) = symbol.rsplit_once('.')?;
        if let Some(service) = self.pool.get_service_by_name(parent) {
            return service.methods().any(|method| method.name() == name).then(|| service.parent_file());
        }
        if let Some(message) = self.pool.get_message_by_name(parent)
            && (message.get_field_by_name(name).is_some() || message.oneofs().any(|oneof| oneof.name() == name))
        {
            return Some(message.parent_file());
        }
        // A value is named beside its enum, not in it. Other servers also accept it there.
        let mut enums = self.pool.all_enums();
        let of_value = enums.find(|found| {
            let beside = found.full_name().rsplit_once('.').map_or("", |(scope, _)| scope);
            [beside, found.full_name()].contains(&parent) && found.get_value_by_name(name).is_some()
        });
        of_value.map(|found| found.parent_file())
    }

    fn file_of_extension(&self, message: &str, number: i32) -> Result<Vec<u8>, Miss> {
        let extension = self.extendee(message)?.get_extension(u32::try_from(number).unwrap_or_default());
        encoded(extension.map(|found| found.parent_file()), || format!("{message} has no extension {number}"))
    }

    fn extension_numbers(&self, message: &str) -> Result<Vec<i32>, Miss> {
        let numbers =
            self.extendee(message)?.extensions().filter_map(|found| i32::try_from(found.number()).ok()).collect();
        Ok(numbers)
    }

    fn extendee(&self, name: &str) -> Result<MessageDescriptor, Miss> {
        self.pool.get_message_by_name(name).ok_or_else(|| (Code::NotFound, format!("no message {name}")))
    }
}

/// Encodes a file with all its options.
fn encoded(file: Option<FileDescriptor>, missing: impl FnOnce() -> String) -> Result<Vec<u8>, Miss> {
    file.map(|file| file.encode_to_vec()).ok_or_else(|| (Code::NotFound, missing()))
}

/// The answers until the server stops, which ends the stream with `SHUTTING_DOWN`.
fn until<T: Send + Sync + 'static>(
    stop: CancellationToken,
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    let last = stop.clone();
    let refusal = move || last.is_cancelled().then(|| Err(Error::Unavailable(Outage::ShuttingDown).into()));
    answers.take_until(stop.cancelled_owned()).chain(stream::iter(std::iter::once_with(refusal).flatten()))
}

/// Implements one version. Both have the same messages but no common type.
macro_rules! serve {
    ($version:ident, $answer:ident) => {
        fn $answer(
            described: &Reflection,
            question: pb::$version::ServerReflectionRequest,
        ) -> pb::$version::ServerReflectionResponse {
            use pb::$version::server_reflection_request::MessageRequest as Question;
            use pb::$version::server_reflection_response::MessageResponse as Answer;
            use pb::$version::{
                ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
                ServerReflectionResponse, ServiceResponse,
            };
            let in_file =
                |file| Answer::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto: vec![file] });
            let answer = match &question.message_request {
                None => Err((Code::InvalidArgument, "the request asks nothing".to_owned())),
                Some(Question::ListServices(_)) => {
                    let service = described.services().into_iter().map(|name| ServiceResponse { name }).collect();
                    Ok(Answer::ListServicesResponse(ListServiceResponse { service }))
                }
                Some(Question::FileByFilename(name)) => described.file(name).map(in_file),
                Some(Question::FileContainingSymbol(symbol)) => described.file_of(symbol).map(in_file),
                Some(Question::FileContainingExtension(of)) => {
                    described.file_of_extension(&of.containing_type, of.extension_number).map(in_file)
                }
                Some(Question::AllExtensionNumbersOfType(name)) => {
                    described.extension_numbers(name).map(|extension_number| {
                        let base_type_name = name.clone();
                        Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
                            base_type_name,
                            extension_number,
                        })
                    })
                }
            };
            let miss =
                |(code, error_message)| Answer::ErrorResponse(ErrorResponse { error_code: code as i32, error_message });
            ServerReflectionResponse {
                valid_host: question.host.clone(),
                message_response: Some(answer.unwrap_or_else(miss)),
                original_request: Some(question),
            }
        }

        #[tonic::async_trait]
        impl pb::$version::server_reflection_server::ServerReflection for Reflection {
            type ServerReflectionInfoStream =
                BoxStream<'static, Result<pb::$version::ServerReflectionResponse, Status>>;

            async fn server_reflection_info(
                &self,
                questions: Request<Streaming<pb::$version::ServerReflectionRequest>>,
            ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                let described = self.clone();
                let stop = described.stop.clone();
                let answers = questions.into_inner().map(move |question| Ok($answer(&described, question?)));
                Ok(Response::new(until(stop, answers).boxed()))
            }
        }
    };
}

serve!(v1, answer_v1);
serve!(v1alpha, answer_v1alpha);
