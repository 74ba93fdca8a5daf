//! Domain rules. Pure code without I/O, clock, database or wire format.

pub mod api_token;
pub mod audit;
pub mod caller;
pub mod credentials;
pub mod email;
pub mod id;
pub mod idempotency;
pub mod key;
pub mod lockout;
pub mod page;
pub mod password;
pub mod password_hash;
pub mod profile;
pub mod reason;
pub mod role;
pub mod secret;
pub mod session;
pub mod temporary_password;
pub mod text;
pub mod ticket;
pub mod time;
pub mod token;
pub mod user;
pub mod username;
pub mod violation;
