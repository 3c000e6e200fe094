//! The report: results, and the conditions of the measurement.

use std::{fs, path::Path};

use anyhow::Context;
use serde::Serialize;
use tidegate_cli::{
    output,
    stack::{Stack, setup},
};

use crate::{idle::Idle, roundtrip::RoundTrip, throughput::Throughput};

/// The conditions of the measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Conditions {
    profile: &'static str,
    version: &'static str,
    cores: usize,
    processor: String,
    kernel: String,
    network: &'static str,
    broker: Option<BrokerInfo>,
}

#[derive(Debug, Serialize)]
struct BrokerInfo {
    version: String,
    sync_interval: String,
}

/// The results of one invocation.
#[derive(Debug, Serialize)]
pub(crate) struct BenchReport {
    pub(crate) conditions: Conditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) roundtrip: Option<RoundTrip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) throughput: Option<Throughput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<Idle>,
}

impl Conditions {
    /// Reads the conditions of this machine.
    pub(crate) fn here() -> anyhow::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Ok(Self {
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            version: tidegate_shared::VERSION,
            cores: std::thread::available_parallelism()?.get(),
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            network: "loopback, no TLS",
            broker: None,
        })
    }

    /// Reads the broker's version and sync interval.
    pub(crate) async fn look_at(&mut self, stack: &Stack) -> anyhow::Result<()> {
        let file = stack.dir().join("nats.conf");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let version = setup::connect(stack.config()).await?.client().server_info().version;
        let sync_interval = sync_interval(&text).unwrap_or("the server's default").to_owned();
        self.broker = Some(BrokerInfo { version, sync_interval });
        Ok(())
    }

    fn table(&self) -> String {
        let Self { profile, version, cores, processor, kernel, network, broker } = self;
        let broker = broker.as_ref().map_or_else(String::new, |broker| {
            format!("; nats-server {}, sync_interval {}", broker.version, broker.sync_interval)
        });
        format!(
            "tidegate {version}, {profile} build; {cores} cores {processor}, Linux {kernel}; {network}{broker}"
        )
    }
}

fn sync_interval(conf: &str) -> Option<&str> {
    conf.lines().find_map(|line| line.trim().strip_prefix("sync_interval:")).map(str::trim)
}

impl BenchReport {
    pub(crate) fn new(conditions: Conditions) -> Self {
        Self { conditions, roundtrip: None, throughput: None, idle: None }
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        output::line(self.conditions.table());
        let tables = [
            self.roundtrip.as_ref().map(RoundTrip::table),
            self.throughput.as_ref().map(Throughput::table),
            self.idle.as_ref().map(Idle::table),
        ];
        for table in tables.into_iter().flatten() {
            output::line(format!("\n{table}"));
        }
    }

    /// Writes the results as JSON.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// Whether the throughput run has no problems. A missed target is not a failure.
    pub(crate) fn passes(&self) -> bool {
        self.throughput.as_ref().is_none_or(|throughput| throughput.problems().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sync_setting_is_the_one_the_broker_was_started_with() {
        assert_eq!(
            sync_interval("jetstream {\n  # sync_interval: 2m\n  sync_interval: always\n}"),
            Some("always")
        );
        assert_eq!(sync_interval("jetstream { }"), None);
    }
}
