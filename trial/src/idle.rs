//! Scenario `idle`: the memory and processor time that idle connections cost the gateway.
//!
//! Connects in two halves. The first includes one-time allocations; the second gives the cost of a further connection.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tidegate_cli::client::Client;
use tokio::time::sleep;

use crate::{
    process::{self, ForeignCpu, Memory},
    target::Target,
};

/// The target memory per connection now, and the later target.
const TARGET_KIB: f64 = 12.0;
const LATER_KIB: f64 = 6.0;
/// Concurrent handshakes. More would measure the listen backlog.
const HANDSHAKES: usize = 64;
/// Memory has settled when it stays within this range ...
const STEADY_KIB: u64 = 64;
/// ... over this many readings ...
const READINGS: usize = 6;
/// ... this far apart: the allocator gives memory back with a delay of its own.
const PAUSE: Duration = Duration::from_millis(500);
/// Memory that does not settle in this time is read as it is.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// The size of the run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Connections
    #[arg(long, default_value_t = 2000)]
    connections: usize,
    /// Measure processor time too, for about this long: whole ping intervals are counted
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s",
          value_parser = humantime::parse_duration)]
    cpu: Option<Duration>,
}

/// The results.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    connections: usize,
    /// Connects a second, tokens and personal channels included; a client waits for its reply before the next begins.
    connects_per_second: f64,
    memory: Option<MemoryGrowth>,
    processor: Option<CpuUsage>,
    foreign_cpu_percent: f64,
}

/// The memory without connections, with half of them, and with all.
#[derive(Debug, Serialize)]
struct MemoryGrowth {
    empty: Memory,
    half: Memory,
    full: Memory,
    kib_per_connection: f64,
    kib_per_further_connection: f64,
    anonymous_kib_per_connection: f64,
    target_kib: f64,
}

#[derive(Debug, Serialize)]
struct CpuUsage {
    window_secs: f64,
    ping_interval_secs: u32,
    micros_per_connection_and_second: f64,
}

/// Runs the scenario.
pub(crate) async fn run(target: &Target, args: &Args) -> anyhow::Result<Idle> {
    ensure!(args.connections >= 2, "--connections must be at least 2");
    process::raise_descriptors()?;
    let pid = target.gateway_pid()?;
    let neighbours = ForeignCpu::watch(target.pids())?;
    let (half, mut clients) = (args.connections / 2, Vec::new());
    let empty = settled(pid).await?;
    let first = connect(target, 0..half, &mut clients).await?;
    let at_half = settled(pid).await?;
    let second = connect(target, half..args.connections, &mut clients).await?;
    let full = settled(pid).await?;
    let memory = match (empty, at_half, full) {
        (Some(empty), Some(at_half), Some(full)) => {
            Some(MemoryGrowth::of(empty, at_half, full, args.connections))
        }
        _ => None,
    };
    let processor = match (pid, args.cpu) {
        (Some(pid), Some(window)) => Some(watch_processor(pid, &clients, window).await?),
        _ => None,
    };
    let lost = clients.iter().filter_map(Client::closed).collect::<Vec<_>>();
    if let Some(closed) = lost.first() {
        bail!("{} of {} connections did not stay: {closed}", lost.len(), clients.len());
    }
    let connects_per_second = per(args.connections, (first + second).as_secs_f64());
    let foreign_cpu_percent = neighbours.percent()?;
    Ok(Idle { connections: args.connections, connects_per_second, memory, processor, foreign_cpu_percent })
}

/// Connects clients and returns how long that took.
async fn connect(
    target: &Target,
    numbers: std::ops::Range<usize>,
    clients: &mut Vec<Client>,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let connecting = stream::iter(numbers).map(|number| target.connect(number)).buffer_unordered(HANDSHAKES);
    clients.extend(connecting.try_collect::<Vec<_>>().await?);
    Ok(started.elapsed())
}

/// Reads the memory once it is steady.
async fn settled(pid: Option<u32>) -> anyhow::Result<Option<Memory>> {
    let Some(pid) = pid else { return Ok(None) };
    let started = Instant::now();
    let mut readings = vec![Memory::of(pid)?];
    loop {
        sleep(PAUSE).await;
        let memory = Memory::of(pid)?;
        readings.push(memory);
        if is_steady(&readings) || started.elapsed() > SETTLE_LIMIT {
            return Ok(Some(memory));
        }
    }
}

fn is_steady(readings: &[Memory]) -> bool {
    let Some(tail) = readings.len().checked_sub(READINGS).and_then(|from| readings.get(from..)) else {
        return false;
    };
    let (low, high) =
        tail.iter().fold((u64::MAX, 0), |(low, high), m| (low.min(m.rss_kib), high.max(m.rss_kib)));
    high - low <= STEADY_KIB
}

/// Measures processor time over whole ping intervals, in which every connection gets the same number of pings.
async fn watch_processor(pid: u32, clients: &[Client], about: Duration) -> anyhow::Result<CpuUsage> {
    let ping = clients.first().map_or(0, |client| client.connected().ping).max(1);
    let interval = Duration::from_secs(u64::from(ping));
    let intervals = (about.as_secs_f64() / interval.as_secs_f64()).round().max(1.0);
    let window = interval.mul_f64(intervals);
    let before = process::cpu(pid)?;
    sleep(window).await;
    let used = process::cpu(pid)?.saturating_sub(before);
    let micros = used.as_secs_f64() * 1e6 / window.as_secs_f64();
    Ok(CpuUsage {
        window_secs: window.as_secs_f64(),
        ping_interval_secs: ping,
        micros_per_connection_and_second: micros / per(clients.len(), 1.0),
    })
}

#[expect(clippy::cast_precision_loss, reason = "some thousands of connections")]
fn per(count: usize, divisor: f64) -> f64 {
    count as f64 / divisor
}

impl MemoryGrowth {
    fn of(empty: Memory, half: Memory, full: Memory, connections: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "less than a terabyte")]
        let growth = |from: u64, to: u64| to as f64 - from as f64;
        let all = per(connections, 1.0);
        let further = per(connections - connections / 2, 1.0);
        Self {
            empty,
            half,
            full,
            kib_per_connection: growth(empty.rss_kib, full.rss_kib) / all,
            kib_per_further_connection: growth(half.rss_kib, full.rss_kib) / further,
            anonymous_kib_per_connection: growth(empty.anonymous_kib, full.anonymous_kib) / all,
            target_kib: TARGET_KIB,
        }
    }

    fn lines(&self) -> [String; 4] {
        let word = if self.kib_per_connection <= TARGET_KIB { "PASS" } else { "FAIL" };
        [
            format!(
                "  gateway RSS     {} KiB empty, {} with half, {} with all",
                self.empty.rss_kib, self.half.rss_kib, self.full.rss_kib
            ),
            format!(
                "  per connection  {:.2} KiB  {word} (target <= {TARGET_KIB} KiB, later {LATER_KIB})",
                self.kib_per_connection
            ),
            format!("  anonymous only  {:.2} KiB", self.anonymous_kib_per_connection),
            format!("  one more        {:.2} KiB (second half alone)", self.kib_per_further_connection),
        ]
    }
}

impl Idle {
    /// Returns the table for the terminal.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![
            format!("idle: {} connections", self.connections),
            format!("  connected       {:.0} a second", self.connects_per_second),
        ];
        lines.extend(self.memory.iter().flat_map(MemoryGrowth::lines));
        lines.extend(self.processor.iter().map(|processor| {
            format!(
                "  processor       {:.2} us a second per connection, pings every {} s, over {} s",
                processor.micros_per_connection_and_second,
                processor.ping_interval_secs,
                processor.window_secs
            )
        }));
        lines.push(process::foreign_line(self.foreign_cpu_percent));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(rss_kib: u64) -> Memory {
        Memory { rss_kib, anonymous_kib: rss_kib / 2 }
    }

    #[test]
    fn one_time_allocations_do_not_count_for_a_further_connection() {
        let growth = MemoryGrowth::of(memory(1000), memory(3000), memory(4000), 200);
        assert!((growth.kib_per_connection - 15.0).abs() < 1e-9);
        assert!((growth.kib_per_further_connection - 10.0).abs() < 1e-9);
        assert!((growth.anonymous_kib_per_connection - 7.5).abs() < 1e-9);
    }

    #[test]
    fn memory_is_steady_when_its_last_readings_agree() {
        let mut readings = vec![memory(1000), memory(5000)];
        assert!(!is_steady(&readings));
        readings.extend([memory(5010); READINGS - 1]);
        assert!(is_steady(&readings));
        readings.push(memory(5200));
        assert!(!is_steady(&readings));
    }
}
