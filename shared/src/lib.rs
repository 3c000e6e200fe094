//! The words that gateway, workers and tools of Tidegate agree on.
//!
//! Pure modules first (no clock, no socket, no NATS), then the few that touch the world.

pub mod protocol;

pub mod channel;
pub mod delta;
pub mod envelope;
pub mod filter;
pub mod header;
pub mod hook;
pub mod id;
pub mod route;
pub mod subject;
pub mod token;

pub mod broker;
pub mod config;
pub mod lifecycle;
pub mod listener;
pub mod telemetry;
pub mod topology;

/// The version of this build, as clients, logs and `tidegate version` show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
