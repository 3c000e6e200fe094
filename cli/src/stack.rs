//! A whole system on this machine: a broker, gateways and workers under one supervisor.
//!
//! `tidegate up` runs one for a person; tests, fault runs and benches run theirs, side by side, on free ports in
//! directories of their own. Starts in the order of health, restarts what crashes, ends in the order that loses nothing.
//! Never talks to clients.

use std::path::{Path, PathBuf};

pub use self::{
    builder::Builder,
    running::Stack,
    status::{GatewayAddress, Kind, ProcessPhase, ProcessStatus},
};

mod blueprint;
mod broker;
mod builder;
pub mod control;
mod guard;
mod log;
mod pid_file;
mod port;
mod probe;
mod process;
mod running;
pub mod server;
pub mod setup;
mod status;
mod supervisor;

/// Where the log of one process of the stack in `dir` is, or of all.
pub fn log_file(dir: &Path, name: Option<&str>) -> PathBuf {
    dir.join("logs").join(format!("{}.log", name.unwrap_or(log::COMBINED)))
}
