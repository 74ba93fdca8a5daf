//! latchkey: a gRPC identity service.
//!
//! Four layers, one noun a file, the same stem in each layer:
//!
//! | layer | does | knows |
//! | --- | --- | --- |
//! | [`grpc`] | decodes a message into a command, encodes the answer | tonic, prost |
//! | [`app`] | one function an RPC: transactions, authorisation, audit | [`store`], [`domain`] |
//! | [`store`] | the only home of SQL | sea-orm |
//! | [`domain`] | rules, no I/O | nothing of ours |
//!
//! [`server`] wires them together; [`cli`] is a client that knows the contract ([`proto`]) and nothing else.
//! `ARCHITECTURE.md` draws one request on its way through.

#[macro_use]
mod failpoint;

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod daemon;
pub mod domain;
pub mod effects;
pub mod entropy;
pub mod error;
pub mod grpc;
pub mod jobs;
pub mod metrics;
pub mod proto;
pub mod server;
pub mod store;
pub mod telemetry;
