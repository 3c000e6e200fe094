//! Torn connections: many subscribers behind a proxy that cuts them at random, gateways and the broker killed on the way,
//! publications going on. Whoever was always told that it recovered has to have everything, once and in order.
//!
//! Counts, does not assume: what was published is what the broker acknowledged, what was received is what came.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Serialize;
use tidegate_cli::{output, stack::Stack, token::connection_token};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    proxy::Proxy,
    subscriber::{Subscriber, Told},
};
use crate::stats::Times;

mod proxy;
mod subscriber;

/// The namespace everything happens in. History enough for the longest break; memory is not what is measured here.
const CONFIG: &str = r#"
[[namespace]]
name = "torn"
allow_subscribe = "authenticated"
history_size = 1000
"#;
/// How long the last publications may take to be everywhere, once nothing is cut any more.
const SETTLE: Duration = Duration::from_secs(30);

/// What is torn, and how often.
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

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
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
    back: Times,
}

impl Outcome {
    /// Whether everything adds up.
    pub(crate) fn adds_up(&self) -> bool {
        self.publications > 0 && self.resumed > 0 && self.missing == 0 && self.twice_or_out_of_order == 0
    }

    pub(crate) fn print(&self) {
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

/// Publications the broker acknowledged, by channel.
type Published = Arc<Vec<Mutex<Vec<u64>>>>;

/// Runs the scenario on a stack of its own.
pub(crate) async fn run(args: &Args) -> anyhow::Result<Outcome> {
    let stack = Stack::builder().config(CONFIG).gateways(2).start().await.context("starting a stack")?;
    let gateways = stack.gateways().iter().map(|gateway| gateway.public).collect();
    let proxy = Proxy::start(gateways, args.cut_every).await?;
    let published: Published = Arc::new((0..args.channels).map(|_| Mutex::default()).collect());
    let told = Arc::new(Told::default());
    let done = CancellationToken::new();
    let mut subscribers = JoinSet::new();
    for n in 0..args.subscribers {
        let token = connection_token(
            &stack.config().auth,
            &format!("u{n}"),
            Duration::from_hours(1),
            SystemTime::now(),
        )?;
        let channel = n % args.channels;
        let subscriber = Subscriber::new(proxy.url(), token, format!("torn:c{channel}"), Arc::clone(&told));
        let done = done.clone();
        subscribers.spawn(async move { (channel, subscriber.run(done).await) });
    }
    let publishing = publish(&stack, args, Arc::clone(&published));
    let (result, gateways_killed) = tokio::join!(publishing, tear(&stack, args));
    let (publications, gateways_killed) = (result?, gateways_killed?);
    proxy.stop_cutting();
    settle(&told, args.subscribers, &published).await;
    done.cancel();
    let mut outcome = Outcome {
        subscribers: args.subscribers,
        channels: args.channels,
        publications,
        cuts: proxy.cuts(),
        gateways_killed,
        resumed: told.resumed(),
        not_recovered: told.not_recovered(),
        missing: 0,
        twice_or_out_of_order: 0,
        back: told.times()?,
    };
    while let Some(subscriber) = subscribers.join_next().await {
        let (channel, segments) = subscriber?;
        let stored = list(&published, channel);
        for (index, segment) in segments.iter().enumerate() {
            let last = index + 1 == segments.len();
            let (missing, wrong) = segment.compare(&stored, last);
            outcome.missing += missing;
            outcome.twice_or_out_of_order += wrong;
        }
    }
    ensure!(!stack.log().contains("panicked"), "a process has panicked: {}", stack.log());
    stack.down().await;
    Ok(outcome)
}

fn list(published: &Published, channel: usize) -> Vec<u64> {
    let list = published.get(channel).map(|list| list.lock().unwrap_or_else(PoisonError::into_inner).clone());
    list.unwrap_or_default()
}

/// Publishes as an outside service does, and goes on with each until it is acknowledged.
async fn publish(stack: &Stack, args: &Args, published: Published) -> anyhow::Result<usize> {
    let user = &stack.config().nats.service;
    let options = async_nats::ConnectOptions::with_user_and_password(
        user.user.clone(),
        user.password.expose().to_owned(),
    )
    .custom_inbox_prefix(format!("_INBOX_{}", user.user))
    .reconnect_delay_callback(|_| Duration::from_millis(100));
    let mut jetstream = async_nats::jetstream::new(options.connect(stack.nats_url()).await?);
    jetstream.set_timeout(Duration::from_millis(500));
    let mut ticks = interval(Duration::from_secs(1) / args.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (end, mut count) = (Instant::now() + args.time, 0_usize);
    while Instant::now() < end {
        ticks.tick().await;
        let channel = count % args.channels;
        let seq = store(&jetstream, &format!("tide.ch.torn.c{channel}"), count).await;
        if let Some(list) = published.get(channel) {
            list.lock().unwrap_or_else(PoisonError::into_inner).push(seq);
        }
        count += 1;
    }
    Ok(count)
}

async fn store(jetstream: &async_nats::jetstream::Context, subject: &str, n: usize) -> u64 {
    loop {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("torn-{n}"));
        let sent =
            jetstream.publish_with_headers(subject.to_owned(), headers, Bytes::from(n.to_string())).await;
        if let Ok(sent) = sent
            && let Ok(ack) = sent.await
        {
            return ack.sequence;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Kills a gateway now and then, and the broker once, half-way.
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

/// Waits until every subscriber has the newest publication of its channel, or time is up: then something is missing.
async fn settle(told: &Told, subscribers: usize, published: &Published) {
    let newest: Vec<u64> =
        (0..published.len()).map(|channel| list(published, channel).last().copied().unwrap_or(0)).collect();
    let deadline = Instant::now() + SETTLE;
    while told.up_to_date(&newest) < subscribers && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
}
