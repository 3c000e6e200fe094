//! A whole system on this machine: a broker, gateways and workers under one supervisor.
//!
//! `tidegate up` runs one; tests, fault runs and benches run theirs side by side, on free ports in
//! directories of their own. A stack starts the broker before the other processes, restarts crashed processes, and stops
//! gateways, workers and broker in this order, which loses nothing. It does not talk to clients.

use std::path::{Path, PathBuf};

pub use self::{
    broker::Separation,
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
mod port_plan;
mod probe;
mod process;
mod running;
pub mod server;
pub mod setup;
mod status;
mod supervisor;

/// Returns the names of the processes of the stack in `dir` that have logs.
pub fn logs(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("logs")).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names = names.filter_map(|name| name.strip_suffix(".log").map(str::to_owned));
    let mut names: Vec<_> = names.filter(|name| name != log::COMBINED).collect();
    names.sort();
    names
}

/// Returns the log file of one process of the stack in `dir`, or the combined log.
pub fn log_file(dir: &Path, name: Option<&str>) -> PathBuf {
    dir.join("logs").join(format!("{}.log", name.unwrap_or(log::COMBINED)))
}
