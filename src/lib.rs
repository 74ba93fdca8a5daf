//! latchkey: a gRPC identity service.
//!
//! Four layers, one noun per file, the same stem in each layer:
//!
//! | layer | purpose | may use |
//! | --- | --- | --- |
//! | [`grpc`] | decodes messages into commands, encodes results | tonic, prost |
//! | [`app`] | one function for each RPC: transactions, authorisation, audit | [`store`], [`domain`] |
//! | [`store`] | all SQL | sea-orm |
//! | [`domain`] | rules without I/O | no other module |
//!
//! [`server`] wires them together. [`cli`] is a client that uses only the contract ([`proto`]). `ARCHITECTURE.md` follows one
//! request through the layers.

#[macro_use]
mod failpoint;

pub mod app;
pub mod breach_list;
mod call_lines;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core_dump;
pub mod crypto;
pub mod daemon;
pub mod domain;
pub mod entropy;
pub mod environment;
pub mod error;
pub mod grpc;
pub mod jobs;
mod lanes;
pub mod mail;
pub mod metrics;
pub mod pages;
mod priority;
pub mod proto;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod token_bucket;
