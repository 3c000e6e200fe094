//! Scenario `torn`: a proxy cuts the connections of many subscribers at random, and gateways and the broker are killed during
//! publications. A subscriber whose recoveries all succeeded must have every publication once and in order.
//!
//! Published means acknowledged by the broker.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;
use tidegate_cli::{output, stack::Stack};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    proxy::Proxy,
    publisher::Publisher,
    report::Verdict,
    stats::Percentiles,
    subscriber::{ReconnectBackoff, Subscriber, SubscriberStats},
};

/// The namespace everything happens in. History enough for the longest break; memory is not what is measured here.
const CONFIG: &str = r#"
[[namespace]]
name = "torn"
allow_subscribe = "authenticated"
history_size = 1000
"#;
/// Subscribers that are cut off come back at once, nearly: breaks are what is sought here.
const BACKOFF: ReconnectBackoff =
    ReconnectBackoff { min: Duration::from_millis(20), max: Duration::from_millis(100) };

/// The size and the faults of the run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Subscribers, spread evenly over the channels
    #[arg(long, default_value_t = 500)]
    subscribers: usize,
    #[arg(long, default_value_t = 50)]
    channels: usize,
    /// Publications a second, over all channels
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// For how long
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Every connection is cut about this often
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    cut_every: Duration,
    /// One of the two gateways is killed this often
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration)]
    kill_every: Duration,
}

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct TornResult {
    subscribers: usize,
    channels: usize,
    publications: usize,
    cuts: u64,
    gateways_killed: u32,
    resumed: usize,
    not_recovered: usize,
    missing: usize,
    twice_or_out_of_order: usize,
    /// From the cut to the reply that brings what was missed, in milliseconds.
    back: Percentiles,
}

impl Verdict for TornResult {
    /// Whether there are no losses, duplicates or disorder.
    fn adds_up(&self) -> bool {
        self.publications > 0 && self.resumed > 0 && self.missing == 0 && self.twice_or_out_of_order == 0
    }

    fn print(&self) {
        let lines = [
            format!("torn: {} subscribers on {} channels", self.subscribers, self.channels),
            format!("  publications       {}", self.publications),
            format!(
                "  connections cut    {}, gateways killed {}, the broker once",
                self.cuts, self.gateways_killed
            ),
            format!("  resumed            {}", self.resumed),
            format!("  not recovered      {}", self.not_recovered),
            format!("  missing            {}", self.missing),
            format!("  twice or disorder  {}", self.twice_or_out_of_order),
            format!("  back after a cut   {}", self.back),
        ];
        for line in lines {
            output::note(line);
        }
    }
}

/// Runs the scenario on a stack of its own.
pub(crate) async fn run(args: &Args) -> anyhow::Result<TornResult> {
    let stack = Stack::builder().config(CONFIG).gateways(2).start().await.context("starting a stack")?;
    let gateways = stack.gateways().iter().map(|gateway| gateway.public).collect();
    let proxy = Proxy::start(gateways, args.cut_every).await?;
    let publisher = Publisher::connect(&stack, "torn", args.channels).await?;
    let stats = Arc::new(SubscriberStats::new(args.subscribers));
    let done = CancellationToken::new();
    let mut subscribers = JoinSet::new();
    for number in 0..args.subscribers {
        let channel = number % args.channels;
        let subscriber = Subscriber {
            number,
            urls: vec![proxy.url()],
            token: crate::subscriber::token(&stack, number)?,
            channel: format!("torn:c{channel}"),
            backoff: BACKOFF,
            stats: Arc::clone(&stats),
        };
        let done = done.clone();
        subscribers.spawn(async move { (channel, subscriber.run(done).await) });
    }
    let (publications, gateways_killed) =
        tokio::join!(publisher.run(args.rate, sleep(args.time)), tear(&stack, args));
    let gateways_killed = gateways_killed?;
    proxy.stop_cutting();
    publisher.settle(&stats, args.subscribers).await;
    done.cancel();
    let (missing, twice_or_out_of_order) = publisher.compare_all(subscribers).await?;
    let outcome = TornResult {
        subscribers: args.subscribers,
        channels: args.channels,
        publications,
        cuts: proxy.cuts(),
        gateways_killed,
        resumed: stats.resumed(),
        not_recovered: stats.not_recovered(),
        missing,
        twice_or_out_of_order,
        back: stats.times()?,
    };
    ensure!(!stack.log().contains("panicked"), "a process has panicked: {}", stack.log());
    stack.down().await;
    Ok(outcome)
}

/// Kills a gateway every `kill_every`, and the broker once, half-way.
async fn tear(stack: &Stack, args: &Args) -> anyhow::Result<u32> {
    let (start, mut killed, mut broker_killed) = (Instant::now(), 0_u32, false);
    loop {
        let next = args.kill_every * (killed + 1);
        let half = args.time / 2;
        if !broker_killed && half <= next {
            tokio::time::sleep_until(start + half).await;
            stack.kill("nats").await?;
            broker_killed = true;
        }
        if next + Duration::from_secs(1) >= args.time {
            return Ok(killed);
        }
        tokio::time::sleep_until(start + next).await;
        stack.kill(&format!("gateway-{}", 1 + killed % 2)).await?;
        killed += 1;
    }
}
