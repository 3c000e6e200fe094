//! Scenario `throughput`: many callers at once, each with a window of unanswered requests, through all gateways and
//! workers. Everything has to be answered, stored once, and stored in the order each caller sent it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tidegate_cli::{client::Client, output};
use tokio::task::JoinSet;

use self::stream_watch::{StoredRequests, StreamWatch};
use crate::{
    process::{self, ForeignCpu},
    report::Verdict,
    stats::{Failures, Percentiles, Series},
    target::Target,
};

mod stream_watch;

/// The longest run: a stuck system has to end as a failure, not as a hanging terminal.
const LIMIT: Duration = Duration::from_mins(2);
/// How long a caller waits for second answers after its last answer.
const DUPLICATE_WAIT: Duration = Duration::from_secs(1);

/// The load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Callers, each a user with a connection
    #[arg(long, default_value_t = Args::default().callers)]
    callers: usize,
    /// Requests of all callers together
    #[arg(long, default_value_t = Args::default().requests)]
    requests: usize,
    /// Requests of one caller that may be unanswered
    #[arg(long, default_value_t = Args::default().window)]
    window: usize,
    /// The method, which has to answer with what it is asked
    #[arg(long, default_value_t = Args::default().method)]
    method: String,
}

impl Args {
    /// So many requests.
    pub(crate) fn of(requests: usize) -> Self {
        Self { requests, ..Self::default() }
    }
}

impl Default for Args {
    fn default() -> Self {
        Self { callers: 200, requests: 20_000, window: 4, method: "echo".to_owned() }
    }
}

/// The results.
#[derive(Debug, Serialize)]
pub(crate) struct Throughput {
    callers: usize,
    window: usize,
    requests: usize,
    answered: u64,
    failures: Failures,
    /// Second answers to one request.
    stray_replies: u64,
    requests_per_second: f64,
    times: Percentiles,
    /// What the request stream stored.
    stored: StoredRequests,
    foreign_cpu_percent: f64,
}

impl Throughput {
    /// Answered requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests_per_second
    }
}

/// The results of one caller, or of all together.
struct CallerTotals {
    series: Series,
    failures: Failures,
    stray_replies: u64,
    finished: Instant,
}

/// Runs the scenario.
pub(crate) async fn run(args: &Args) -> anyhow::Result<Throughput> {
    let target = Target::start(2, 2).await?;
    let measured = measure(&target, args).await?;
    target.end().await;
    Ok(measured)
}

/// Measures a running stack.
pub(crate) async fn measure(target: &Target, args: &Args) -> anyhow::Result<Throughput> {
    ensure!(args.callers > 0 && args.window > 0 && args.requests >= args.callers, "nothing to measure");
    let each = args.requests / args.callers;
    let watch = StreamWatch::start(target.stack().config()).await?;
    let mut callers = Vec::new();
    for number in 0..args.callers {
        callers.push(target.connect(number).await?);
    }
    let neighbours = ForeignCpu::watch(target.pids())?;
    let started = Instant::now();
    let asking = ask_all(callers, each, args.window, args.method.as_str().into());
    let tally = tokio::time::timeout(LIMIT, asking).await.context("not finished within the limit")??;
    let foreign_cpu_percent = neighbours.percent()?;
    let stored = watch.finish(args.callers, each).await?;
    let times = tally.series.times();
    #[expect(clippy::cast_precision_loss, reason = "some thousands of requests")]
    let requests_per_second = times.count as f64 / (tally.finished - started).as_secs_f64();
    Ok(Throughput {
        callers: args.callers,
        window: args.window,
        requests: each * args.callers,
        answered: times.count,
        failures: tally.failures,
        stray_replies: tally.stray_replies,
        requests_per_second,
        times,
        stored,
        foreign_cpu_percent,
    })
}

async fn ask_all(
    callers: Vec<Client>,
    each: usize,
    window: usize,
    method: Arc<str>,
) -> anyhow::Result<CallerTotals> {
    let mut asking = JoinSet::new();
    for (number, client) in callers.into_iter().enumerate() {
        asking.spawn(ask(client, number, each, window, Arc::clone(&method)));
    }
    let mut all = CallerTotals::new()?;
    while let Some(tally) = asking.join_next().await {
        let tally = tally??;
        all.series.add(&tally.series)?;
        all.failures.add(tally.failures);
        all.stray_replies += tally.stray_replies;
        all.finished = all.finished.max(tally.finished);
    }
    Ok(all)
}

/// One caller: request `n + window` leaves when an earlier one is answered.
async fn ask(
    client: Client,
    caller: usize,
    each: usize,
    window: usize,
    method: Arc<str>,
) -> anyhow::Result<CallerTotals> {
    let mut tally = CallerTotals::new()?;
    let requests = (0..each).map(|n| {
        let (client, method) = (&client, &method);
        let body = Bytes::from(format!(r#"{{"caller":{caller},"n":{n}}}"#));
        async move {
            let sent = Instant::now();
            let answer = client.rpc(method, body.clone()).await;
            (sent.elapsed(), answer.map(|answer| answer == body))
        }
    });
    // Requests are begun one after the other, so they are sent in the order of their numbers.
    let mut answers = stream::iter(requests).buffer_unordered(window);
    while let Some((time, answer)) = answers.next().await {
        match answer {
            Ok(true) => tally.series.record(time)?,
            Ok(false) => tally.failures.note("the answer to another request"),
            Err(error) => tally.failures.note(error),
        }
    }
    tally.finished = Instant::now();
    drop(answers);
    tokio::time::sleep(DUPLICATE_WAIT).await;
    tally.stray_replies = client.stray_replies();
    Ok(tally)
}

impl CallerTotals {
    fn new() -> anyhow::Result<Self> {
        let (series, failures) = (Series::new()?, Failures::default());
        Ok(Self { series, failures, stray_replies: 0, finished: Instant::now() })
    }
}

impl Throughput {
    /// Returns the failed checks, one sentence each.
    fn problems(&self) -> Vec<String> {
        let answered = usize::try_from(self.answered).unwrap_or(usize::MAX);
        let mut problems = Vec::new();
        if answered != self.requests {
            problems.push(format!("{answered} of {} requests were answered", self.requests));
        }
        if self.stray_replies > 0 {
            problems.push(format!("{} requests were answered twice", self.stray_replies));
        }
        problems.extend(self.stored.problems());
        problems
    }

    /// Returns the table for the terminal.
    fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "throughput: {} callers, {} requests, closed loop, window {}",
                self.callers, self.requests, self.window
            ),
            format!("  rate            {:.0} requests/s", self.requests_per_second),
            format!("  answer time     {}", self.times),
            format!("  answered        {} of {}", self.answered, self.requests),
            format!("  failures        {}", self.failures.total()),
        ];
        lines.extend(self.failures.lines().map(|line| format!("    {line}")));
        lines.push(format!("  second answers  {}", self.stray_replies));
        lines.extend(self.stored.lines());
        lines.push(process::foreign_line(self.foreign_cpu_percent));
        let problems = self.problems();
        let verdict =
            if problems.is_empty() { "PASS".to_owned() } else { format!("FAIL: {}", problems.join("; ")) };
        lines.push(format!("  verdict         {verdict}"));
        lines.join("\n")
    }
}

impl Verdict for Throughput {
    fn print(&self) {
        output::line(self.table());
    }

    fn adds_up(&self) -> bool {
        self.problems().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Throughput {
        Throughput {
            callers: 2,
            window: 4,
            requests: 10,
            answered: 10,
            failures: Failures::default(),
            stray_replies: 0,
            requests_per_second: 100.0,
            times: Percentiles::default(),
            stored: StoredRequests::default(),
            foreign_cpu_percent: 0.0,
        }
    }

    #[test]
    fn all_answered_once_passes() {
        assert_eq!(good().problems(), Vec::<String>::new());
        assert!(good().table().contains("PASS"));
    }

    #[test]
    fn a_missing_or_second_answer_fails() {
        assert!(!Throughput { answered: 9, ..good() }.problems().is_empty());
        assert!(Throughput { stray_replies: 1, ..good() }.table().contains("FAIL"));
    }
}
