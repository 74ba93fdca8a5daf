//! Compressed requests. The server supports no compression, and says so as the specification of gRPC compression has it.

use tonic::{Code, Status};

use crate::harness::wire::{Answer, Wire};
use crate::harness::{Harness, refused};

/// Methods of every service, unary and streaming. All are open to every client.
const METHODS: [&str; 6] = [
    "latchkey.v1.Auth/SignIn",
    "latchkey.v1.Auth/GetSigningKeys",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// A message of three bytes that is flagged as compressed.
const FLAGGED: [u8; 8] = [1, 0, 0, 0, 3, b'a', b'b', b'c'];

async fn call(wire: &Wire, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let answer = wire.call(path, headers, body.to_vec()).await;
    answer.unwrap_or_else(|error| panic!("{path} {headers:?}: {error}"))
}

fn accepted(status: &Status) -> Option<&str> {
    status.metadata().get("grpc-accept-encoding")?.to_str().ok()
}

#[tokio::test]
async fn a_compressed_request_is_told_which_compression_is_accepted() {
    let h = Harness::start().await;
    let wire = Wire::connect(&h.address()).await;
    for path in METHODS {
        for encoding in ["gzip", "deflate", "zstd", "snappy", "made-up"] {
            let answer = call(&wire, path, &[("grpc-encoding", encoding)], &FLAGGED).await;
            let status = answer.status.expect("a status");
            assert_eq!(accepted(&status), Some("identity"), "{path} {encoding}");
            let refusal = refused(Err::<(), _>(status), Code::Unimplemented, "COMPRESSION_UNSUPPORTED");
            assert_eq!(refusal.metadata("encoding"), encoding, "{path}");
            assert!(refusal.message.contains(&format!("`{encoding}`")), "{refusal:?}");
        }
    }
}

#[tokio::test]
async fn a_long_name_of_a_compression_is_not_repeated_whole() {
    let h = Harness::start().await;
    let wire = Wire::connect(&h.address()).await;
    let name = "x".repeat(4000);
    let answer = call(&wire, METHODS[0], &[("grpc-encoding", &name)], &FLAGGED).await;
    let refusal =
        refused(Err::<(), _>(answer.status.expect("a status")), Code::Unimplemented, "COMPRESSION_UNSUPPORTED");
    assert_eq!(refusal.metadata("encoding"), "x".repeat(64));
    assert!(refusal.message.len() < 200, "{refusal:?}");
}

#[tokio::test]
async fn a_message_flagged_as_compressed_needs_a_compression() {
    let h = Harness::start().await;
    let wire = Wire::connect(&h.address()).await;
    for path in METHODS {
        for headers in [&[][..], &[("grpc-encoding", "identity")]] {
            let answer = call(&wire, path, headers, &FLAGGED).await;
            refused(Err::<(), _>(answer.status.expect("a status")), Code::Internal, "MESSAGE_MALFORMED");
        }
    }
    let plain = call(&wire, "grpc.health.v1.Health/Check", &[("grpc-encoding", "identity")], &[0; 5]).await;
    assert_eq!(plain.status.map(|status| status.code()), Some(Code::Ok));
}
