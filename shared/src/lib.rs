//! Code that the gateway, the worker, the command line and the trial share: protocol, subjects, configuration and broker.
//!
//! The pure modules come first: no clock, no socket, no NATS. The modules after them use the network, files or the environment.

pub mod protocol;

pub mod channel;
pub mod confirmation;
pub mod delta;
pub mod envelope;
pub mod fault;
pub mod filter;
pub mod header;
pub mod hook;
pub mod id;
pub mod job;
pub mod moment;
pub mod route;
pub mod schedule;
pub mod subject;
pub mod token;
pub mod trace;

pub mod access;
pub mod advisory;
pub mod broker;
pub mod config;
pub mod dead;
pub mod enqueue;
pub mod failure;
pub mod health_check;
pub mod lifecycle;
pub mod listener;
pub mod local_server;
pub mod service_manager;
pub mod sparse;
pub mod telemetry;
pub mod topology;

/// The version of this build. Clients, logs and `tidegate version` show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
