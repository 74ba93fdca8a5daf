//! One binary for all tests that need a server: a real server on a real database, called over the network.
//!
//! With `TEST_DATABASE_URL` the same tests run on PostgreSQL, each server in a separate schema.

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

mod access_control;
mod access_in_the_transaction;
mod admin_reset;
mod api_contract;
mod api_tokens;
mod architecture;
mod audit_log;
mod bad_credentials;
mod bad_input;
mod bounded_writing;
mod breach_list;
mod broken_files;
mod broken_rows;
mod calling_applications;
mod cli;
mod cli_commands;
mod cli_login;
mod cli_mail;
mod cli_mfa;
mod cli_output;
mod cli_questions;
mod cli_recent_sign_in;
mod cli_recover;
mod cli_server;
mod cli_waiting;
mod clients;
mod compression;
mod config;
mod containment;
mod cost_in_rows;
mod crash_jobs;
mod crash_loop;
mod crash_steps;
mod creating_users;
mod database_faults;
mod database_role;
mod deadlines;
mod deleting_users;
mod diagnosis;
mod diagnosis_of_mail;
mod error_reasons;
mod examples;
mod existing_passwords;
mod failover;
mod familiar_places;
mod field_scopes;
mod floods;
mod forged_tokens;
mod forgot;
mod gate;
mod grpcurl;
mod harness;
mod inactivity;
mod introspection;
mod last_administrator;
mod layering;
mod links;
mod links_sent;
mod listing_users;
mod lists;
mod lock_and_unlock;
mod mail_templates;
mod mail_test;
mod metrics_and_http;
mod migrations_and_keys;
mod must_change;
mod no_enumeration;
mod outbox;
mod outbox_leases;
mod outbox_order;
mod overload;
mod own_page;
mod pages;
mod pages_in_a_browser;
mod pages_with_a_code;
mod paging;
mod panics;
mod parallel_use;
mod password_age;
mod password_policy;
mod postfix;
mod races;
mod races_held;
mod readme;
mod reauthenticate;
mod recent_sign_in;
mod refusals_in_the_audit_log;
mod replicas;
mod retention;
mod roles;
mod second_factor;
mod second_factor_attacks;
mod second_factor_notices;
mod secrets_never_logged;
mod security_in_a_browser;
mod security_page;
mod self_service_change;
mod sessions;
mod shutdown;
mod sign_in;
mod sign_in_ability;
mod sign_in_model;
mod sign_in_policy;
mod signals;
mod smtp;
mod source_limits;
mod stranger_floods;
mod terminals;
mod throttle;
mod throttle_policy;
mod tls;
mod transport;
mod updating_users;
