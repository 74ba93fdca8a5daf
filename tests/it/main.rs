//! One binary for every test that needs a server: a real one, on a real database, spoken to over the wire.
//!
//! With `TEST_DATABASE_URL` the same tests run on PostgreSQL, each server in a schema of its own.

#![expect(unreachable_pub, reason = "a test binary has no callers")]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test may fail"
)]
#![expect(clippy::disallowed_methods, reason = "tests read TEST_DATABASE_URL and its kind")]

mod harness;

mod cli;
mod config;
mod grpcurl;
mod lock_and_unlock;
mod readme;
