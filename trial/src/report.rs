//! What the results look like: Markdown and a chart, and the conditions of the measurement.

use std::{fs, time::SystemTime};

use serde::{Deserialize, Serialize};

pub(crate) mod chart;
pub(crate) mod markdown;

/// The result of a scenario that prints it by itself.
pub(crate) trait Verdict: Serialize {
    /// Prints the result as a table.
    fn print(&self);

    /// Whether the run passed. A missed target fails no run: the machine may be busy.
    fn adds_up(&self) -> bool {
        true
    }
}

/// The conditions of the measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conditions {
    /// The day, as 2026-11-27.
    pub(crate) date: String,
    profile: String,
    version: String,
    cores: usize,
    processor: String,
    kernel: String,
    network: String,
    pub(crate) turns: usize,
    /// Small runs only show that everything works.
    pub(crate) small: bool,
}

impl Conditions {
    /// Reads the conditions of this machine.
    pub(crate) fn here(turns: usize, small: bool) -> anyhow::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Ok(Self {
            date: now.split('T').next().unwrap_or_default().to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            version: tidegate_shared::VERSION.to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            network: "loopback, no TLS, no compression".to_owned(),
            turns,
            small,
        })
    }

    /// Says it in a sentence.
    pub(crate) fn sentence(&self) -> String {
        let Self { date, profile, version, cores, processor, kernel, network, turns, small } = self;
        let small = if *small { " **These runs are too small for figures.**" } else { "" };
        format!(
            "{date}: Tidegate {version}, {profile} build; {cores} cores of {processor}, Linux {kernel}; {network}; medians of \
             {turns} turns, sides in alternation; the server pinned to one core, generators and broker to another.{small}"
        )
    }

    #[cfg(test)]
    pub(crate) fn of_tests() -> Self {
        Self {
            date: "2026-11-27".to_owned(),
            profile: "release".to_owned(),
            version: "0.1.0".to_owned(),
            cores: 2,
            processor: "a processor".to_owned(),
            kernel: "6".to_owned(),
            network: "loopback".to_owned(),
            turns: 3,
            small: false,
        }
    }
}
