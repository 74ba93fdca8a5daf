//! The rows of the tables. Private to the store, so that a hash cannot reach a message by accident.
#![expect(unreachable_pub, reason = "generated shapes; the columns are explained in migration/")]

pub mod administrator_guard;
pub mod api_token;
pub mod audit_event;
pub mod delivery;
pub mod event_count;
pub mod event_horizon;
pub mod familiar_place;
pub mod idempotency_key;
pub mod inactivity_warning;
pub mod link;
pub mod old_password;
pub mod password_warning;
pub mod recovery_code;
pub mod reset_request;
pub mod row_budget;
pub mod sealed_key;
pub mod session;
pub mod sign_in_policy;
pub mod source_block;
pub mod source_failure;
pub mod throttle;
pub mod ticket;
pub mod totp;
pub mod user;
pub mod user_role;
pub mod user_term;
pub mod username_reservation;
