//! Scenario `roundtrip`: request, stream, worker, answer, at a fixed rate; beside the same round trip over bare NATS.
//!
//! The machine's speed drifts by more than the difference that is looked for. So both sides take turns in short slices on
//! one broker, each repetition yields one ratio, and the median of the ratios is what counts.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;

use self::{bare_nats::BareNats, open_loop::SliceResult, request_path::RequestPath};
use crate::{
    process::{self, ForeignCpu},
    stats::{Failures, Percentiles, Series, median},
    target::Target,
};

mod bare_nats;
mod open_loop;
mod request_path;

/// The target ratio of server to bare NATS.
const TARGET: f64 = 1.3;
/// Requests of each side before anything counts: the first ones meet cold caches and growing buffers.
const WARM_UP: Duration = Duration::from_secs(2);
/// The load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Requests a second, however slow the answers are
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How long one side is measured before the other takes its turn
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    slice: Duration,
    /// How often each side takes its turn
    #[arg(long, default_value_t = 6)]
    pub(crate) repetitions: usize,
    /// Connections that take turns at asking
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// The method, which has to answer with what it is asked
    #[arg(long, default_value = "echo")]
    method: String,
}

/// The results.
#[derive(Debug, Serialize)]
pub(crate) struct RoundTrip {
    rate: u32,
    slice_secs: f64,
    connections: usize,
    server: Percentiles,
    bare: Option<Comparison>,
    /// Commands that the server refuses by itself: what sockets and the server's front cost, without broker and worker.
    front: Percentiles,
    repetitions: Vec<Repetition>,
    failures: Failures,
    /// How late requests were sent: a generator that is late measures itself.
    lag: Percentiles,
    foreign_cpu_percent: f64,
}

#[derive(Debug, Serialize)]
struct Comparison {
    times: Percentiles,
    ratio_p50: f64,
    ratio_p99: f64,
    target: f64,
}

#[derive(Debug, Serialize)]
struct Repetition {
    server: Percentiles,
    bare: Option<Percentiles>,
}

impl RoundTrip {
    /// Half of the answers of the server came within this time, in milliseconds.
    pub(crate) fn p50(&self) -> f64 {
        self.server.p50
    }
}

/// The results of all slices of one path.
struct PathMeasurement {
    way: Arc<RequestPath>,
    series: Series,
    lag: Series,
    failures: Failures,
}

/// Runs the scenario.
pub(crate) async fn run(target: &Target, args: &Args) -> anyhow::Result<RoundTrip> {
    ensure!(args.rate > 0 && args.connections > 0 && args.repetitions > 0, "nothing to measure");
    let mut clients = Vec::new();
    for number in 0..args.connections {
        clients.push(target.connect(number).await?);
    }
    let mut front = PathMeasurement::new(RequestPath::Front(clients.clone()))?;
    let mut server = PathMeasurement::new(RequestPath::Server { clients, method: args.method.clone() })?;
    let mut bare = match target.stack() {
        Some(stack) => {
            Some(PathMeasurement::new(RequestPath::Bare(Box::new(BareNats::start(stack.config()).await?)))?)
        }
        None => None,
    };
    for side in [Some(&server), bare.as_ref()].into_iter().flatten() {
        open_loop::slice(&side.way, args.rate, WARM_UP).await?;
    }
    let neighbours = ForeignCpu::watch(target.pids())?;
    let mut repetitions = Vec::new();
    for turn in 0..args.repetitions {
        repetitions.push(repetition(&mut server, bare.as_mut(), turn, args).await?);
    }
    let front_times = front.measure(args).await?;
    let foreign_cpu_percent = neighbours.percent()?;
    server.absorb(front)?;
    let bare = match bare {
        Some(bare) => Some(compare(server.absorb(bare)?, &repetitions)?),
        None => None,
    };
    Ok(RoundTrip {
        rate: args.rate,
        slice_secs: args.slice.as_secs_f64(),
        connections: args.connections,
        server: server.series.times(),
        bare,
        front: front_times,
        repetitions,
        failures: server.failures,
        lag: server.lag.times(),
        foreign_cpu_percent,
    })
}

/// The sides take turns at being first, so that a drift favours neither.
async fn repetition(
    server: &mut PathMeasurement,
    bare: Option<&mut PathMeasurement>,
    turn: usize,
    args: &Args,
) -> anyhow::Result<Repetition> {
    Ok(match bare {
        None => Repetition { server: server.measure(args).await?, bare: None },
        Some(bare) if turn.is_multiple_of(2) => {
            Repetition { server: server.measure(args).await?, bare: Some(bare.measure(args).await?) }
        }
        Some(bare) => {
            let first = bare.measure(args).await?;
            Repetition { server: server.measure(args).await?, bare: Some(first) }
        }
    })
}

impl PathMeasurement {
    fn new(way: RequestPath) -> anyhow::Result<Self> {
        let (series, lag) = (Series::new()?, Series::new()?);
        Ok(Self { way: Arc::new(way), series, lag, failures: Failures::default() })
    }

    async fn measure(&mut self, args: &Args) -> anyhow::Result<Percentiles> {
        let SliceResult { series, lag, failures } =
            open_loop::slice(&self.way, args.rate, args.slice).await?;
        self.series.add(&series)?;
        self.lag.add(&lag)?;
        self.failures.add(failures);
        Ok(series.times())
    }

    /// Takes over what both sides have in common, and leaves the other side's times.
    fn absorb(&mut self, other: Self) -> anyhow::Result<Percentiles> {
        self.lag.add(&other.lag)?;
        self.failures.add(other.failures);
        Ok(other.series.times())
    }
}

fn compare(times: Percentiles, repetitions: &[Repetition]) -> anyhow::Result<Comparison> {
    let ratio = |of: fn(&Percentiles) -> f64| {
        let ratios = repetitions.iter().filter_map(|r| Some(of(&r.server) / of(r.bare.as_ref()?)));
        median(ratios).context("no repetition has both sides")
    };
    let (ratio_p50, ratio_p99) = (ratio(|times| times.p50)?, ratio(|times| times.p99)?);
    Ok(Comparison { times, ratio_p50, ratio_p99, target: TARGET })
}

impl RoundTrip {
    /// Returns the table for the terminal.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "roundtrip: {} requests/s, open loop, {} connections, {} slices of {} s a side",
                self.rate,
                self.connections,
                self.repetitions.len(),
                self.slice_secs
            ),
            format!("  server          {}", self.server),
        ];
        if let Some(bare) = &self.bare {
            lines.push(format!("  bare NATS       {}", bare.times));
            lines.push(format!("  ratio p50       {}", verdict(bare.ratio_p50)));
            lines.push(format!("  ratio p99       {}", verdict(bare.ratio_p99)));
        }
        lines.push(format!("  front alone     {} (refused by the server itself)", self.front));
        lines.push(format!("  answered        {} (server side)", self.server.count));
        lines.push(format!("  failures        {}", self.failures.total()));
        lines.extend(self.failures.lines().map(|line| format!("    {line}")));
        lines.push(format!("  sent late by    {}", self.lag));
        lines.push(process::foreign_line(self.foreign_cpu_percent));
        lines.join("\n")
    }
}

fn verdict(ratio: f64) -> String {
    let word = if ratio <= TARGET { "PASS" } else { "FAIL" };
    format!("{ratio:.2}x  {word} (target <= {TARGET}x, median of the repetitions)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_repetition_does_not_change_the_verdict() {
        let times = |p50| Percentiles { count: 1, p50, p99: 2.0 * p50, max: 0.0 };
        let repetition = |server, bare| Repetition { server: times(server), bare: Some(times(bare)) };
        let repetitions = [repetition(1.2, 1.0), repetition(9.0, 1.0), repetition(2.2, 2.0)];
        let comparison = compare(times(1.0), &repetitions).unwrap();
        assert!((comparison.ratio_p50 - 1.2).abs() < 1e-9 && (comparison.ratio_p99 - 1.2).abs() < 1e-9);
        assert!(verdict(1.2).contains("PASS") && verdict(1.31).contains("FAIL"));
    }
}
