//! Scenario `broker-cost`: what many subscriptions cost the broker and a gateway. First many channels, one NATS subscription
//! each, during publications; then many users behind one wildcard, while a service publishes to many more. No publication may
//! be lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use serde::Serialize;
use tidegate_cli::{
    client::{CallError, Client, Event, Events, Options},
    output,
    stack::Stack,
    token::connection_token,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    process::{self, ForeignCpu, Memory},
    publisher::Publisher,
    report::Verdict,
    subscriber::{ReconnectBackoff, Segment, SubscriberStats},
};

/// Concurrent handshakes.
const HANDSHAKES: usize = 64;
/// Unacknowledged publications of the service.
const IN_FLIGHT: usize = 256;
/// How long a reply may take: long, because the total time is measured.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most retries of one subscription.
const MOST_RETRIES: u32 = 10;
/// How long the last publication may take to arrive.
const SETTLE: Duration = Duration::from_secs(30);

/// The size of the run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Connections that subscribe to channels
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Channels per connection, not shared with others
    #[arg(long, default_value_t = 50)]
    channels: usize,
    /// Publications per second in these channels meanwhile
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Users that are connected; this process and the gateway have a descriptor for each
    #[arg(long, default_value_t = 19_000)]
    users: usize,
    /// Users that get one publication each; the connected users are the first of them
    #[arg(long, default_value_t = 100_000)]
    subjects: usize,
}

/// The result of both parts.
#[derive(Debug, Serialize)]
pub(crate) struct BrokerCostResult {
    connections: usize,
    channels: SubscriptionCost,
    users_connected: usize,
    users: SubscriptionCost,
    foreign_cpu_percent: f64,
}

/// The result of one part.
#[derive(Debug, Serialize)]
struct SubscriptionCost {
    subscriptions: usize,
    /// The time until all were subscribed, or all was published.
    millis: u128,
    /// Retries of subscriptions that the gateway refused with a temporary error.
    retries: usize,
    publications: usize,
    lost: usize,
    gateway: ProcessCost,
    broker: ProcessCost,
}

/// The memory and processor time of a process.
#[derive(Debug, Serialize)]
struct ProcessCost {
    before: Memory,
    after: Memory,
    cpu_millis: u128,
}

/// Measures the cost of a process.
struct ProcessMeter {
    pid: u32,
    memory: Memory,
    cpu: Duration,
}

/// Runs both parts, each on a new stack.
pub(crate) async fn run(args: &Args) -> anyhow::Result<BrokerCostResult> {
    ensure!(args.connections > 0 && args.channels > 0, "--connections and --channels must be positive");
    ensure!(args.users <= args.subjects, "--subjects must be at least --users");
    process::raise_descriptors()?;
    let connections = args.users.max(args.connections) + 100;
    let config = format!(
        "[gateway.limits]\nconnections = {connections}\nconnections_per_address = {connections}\nchannels = {}\n\
         [[namespace]]\nname = 'cost'\nallow_subscribe = 'authenticated'\nhistory_size = 10\n",
        args.channels,
    );
    let stack = start(&config).await?;
    let neighbours = ForeignCpu::watch(pids(&stack)?)?;
    let channels = many_channels(&stack, args).await.context("many channels")?;
    let mut foreign_cpu_percent = neighbours.percent()?;
    stack.down().await;
    let stack = start(&config).await?;
    let neighbours = ForeignCpu::watch(pids(&stack)?)?;
    let users = many_users(&stack, args).await.context("many users")?;
    foreign_cpu_percent = foreign_cpu_percent.max(neighbours.percent()?);
    stack.down().await;
    let (connections, users_connected) = (args.connections, args.users);
    Ok(BrokerCostResult { connections, channels, users_connected, users, foreign_cpu_percent })
}

async fn start(config: &str) -> anyhow::Result<Stack> {
    Stack::builder().config(config).gateways(1).start().await.context("starting a stack")
}

/// Subscribes every connection to channels of its own while a service publishes to all of them.
async fn many_channels(stack: &Stack, args: &Args) -> anyhow::Result<SubscriptionCost> {
    let all = args.connections * args.channels;
    let publisher = Publisher::connect(stack, "cost", all).await?;
    let stats = Arc::new(SubscriberStats::new(all));
    let clients = connect(stack, args.connections).await?;
    let (gateway, broker) = (ProcessMeter::start(stack, "gateway-1")?, ProcessMeter::start(stack, "nats")?);
    let (done, over) = (CancellationToken::new(), CancellationToken::new());
    let (mut listeners, retries) = (JoinSet::new(), AtomicUsize::new(0));
    let started = Instant::now();
    let subscribing = async {
        let each = clients.into_iter().enumerate().map(async |(number, (client, events))| {
            // The publisher cycles through the channels; this numbering makes it cycle through the connections.
            let numbers: Vec<usize> = (0..args.channels).map(|n| n * args.connections + number).collect();
            let results = try_join_all(numbers.iter().map(|n| subscribe(&client, *n, &retries))).await?;
            let segments: Vec<_> = numbers.into_iter().zip(results.into_iter().map(Segment::from)).collect();
            anyhow::Ok((client, events, segments))
        });
        let subscribed = try_join_all(each).await;
        let took = started.elapsed();
        over.cancel();
        subscribed.map(|subscribed| (subscribed, took))
    };
    let (publications, subscribed) = tokio::join!(publisher.run(args.rate, over.cancelled()), subscribing);
    let (subscribed, took) = subscribed?;
    for (client, events, segments) in subscribed {
        listeners.spawn(listen(client, events, segments, Arc::clone(&stats), done.clone()));
    }
    publisher.settle(&stats, all).await;
    done.cancel();
    let (gateway, broker) = (gateway.stop()?, broker.stop()?);
    let mut lost = 0;
    while let Some(segments) = listeners.join_next().await {
        for (channel, segment) in segments? {
            let (missing, wrong) = publisher.compare(channel, std::slice::from_ref(&segment));
            lost += missing + wrong;
        }
    }
    let (millis, retries) = (took.as_millis(), retries.into_inner());
    Ok(SubscriptionCost { subscriptions: all, millis, retries, publications, lost, gateway, broker })
}

/// Subscribes as the SDKs do, with retries after temporary errors.
async fn subscribe(client: &Client, number: usize, retries: &AtomicUsize) -> anyhow::Result<u64> {
    let channel = format!("cost:c{number}");
    let mut failures = 0;
    loop {
        match client.subscribe(&channel).await {
            Ok(result) => return Ok(result.offset),
            Err(CallError::Server { temporary: true, .. }) if failures < MOST_RETRIES => {}
            Err(error) => return Err(error).with_context(|| format!("subscribing to {channel}")),
        }
        retries.fetch_add(1, Ordering::Relaxed);
        sleep(ReconnectBackoff::SDK.pause(failures)).await;
        failures += 1;
    }
}

/// Records publications until `done`. Those that arrived while others still subscribed are in the event queue.
async fn listen(
    _client: Client,
    mut events: Events,
    mut segments: Vec<(usize, Segment)>,
    stats: Arc<SubscriberStats>,
    done: CancellationToken,
) -> Vec<(usize, Segment)> {
    for (number, segment) in &segments {
        stats.note(*number, segment.newest());
    }
    loop {
        let event = tokio::select! {
            () = done.cancelled() => return segments,
            event = events.next() => event,
        };
        match event {
            Some(Event::Publication { channel, offset, .. }) => {
                let number = channel.strip_prefix("cost:c").and_then(|number| number.parse().ok());
                let segment = segments.iter_mut().find(|(channel, _)| Some(*channel) == number);
                if let Some((number, segment)) = segment {
                    segment.push(offset);
                    stats.note(*number, offset);
                }
            }
            Some(_) => {}
            None => return segments,
        }
    }
}

/// Publishes to all users, connected or not, and checks the publication each connection gets.
async fn many_users(stack: &Stack, args: &Args) -> anyhow::Result<SubscriptionCost> {
    let clients = connect(stack, args.users).await?;
    let publisher = Publisher::connect(stack, "user", 0).await?;
    let (gateway, broker) = (ProcessMeter::start(stack, "gateway-1")?, ProcessMeter::start(stack, "nats")?);
    let started = Instant::now();
    let publishing = stream::iter(0..args.subjects)
        .map(|number| publisher.store_in(format!("tide.ch.user.u{number}"), number))
        .buffer_unordered(IN_FLIGHT);
    publishing.for_each(async |_| {}).await;
    let took = started.elapsed();
    let (deadline, mut lost) = (Instant::now() + SETTLE, 0);
    for (number, (client, mut events)) in clients.into_iter().enumerate() {
        let wanted = (format!("#u{number}"), Bytes::from(number.to_string()));
        let got = timeout_at(deadline, events.next()).await;
        let is_it = matches!(got, Ok(Some(Event::Publication { channel, data, .. })) if (&channel, &data) == (&wanted.0, &wanted.1));
        // A duplicate counts as lost, too.
        lost += usize::from(!is_it || events.try_next().is_some());
        drop(client);
    }
    let (gateway, broker) = (gateway.stop()?, broker.stop()?);
    let (subscriptions, publications) = (1, args.subjects);
    let millis = took.as_millis();
    Ok(SubscriptionCost { subscriptions, millis, retries: 0, publications, lost, gateway, broker })
}

async fn connect(stack: &Stack, count: usize) -> anyhow::Result<Vec<(Client, Events)>> {
    let url = stack.gateways().first().context("a stack without a gateway")?.websocket.clone();
    let auth = &stack.config().auth;
    let connecting = stream::iter(0..count).map(|number| {
        let token = connection_token(auth, &format!("u{number}"), Duration::from_hours(1), SystemTime::now());
        let url = url.clone();
        async move {
            let options = Options { timeout: PATIENCE, ..Options::new(url).token(token?) };
            Client::connect(options).await.with_context(|| format!("client {number}"))
        }
    });
    connecting.buffered(HANDSHAKES).try_collect().await
}

fn pids(stack: &Stack) -> anyhow::Result<Vec<u32>> {
    Ok(vec![pid(stack, "gateway-1")?, pid(stack, "nats")?, std::process::id()])
}

fn pid(stack: &Stack, name: &str) -> anyhow::Result<u32> {
    Ok(stack.pid(name).with_context(|| format!("{name} does not run"))?.try_into()?)
}

impl ProcessMeter {
    fn start(stack: &Stack, name: &str) -> anyhow::Result<Self> {
        let pid = pid(stack, name)?;
        Ok(Self { pid, memory: Memory::of(pid)?, cpu: process::cpu(pid)? })
    }

    fn stop(self) -> anyhow::Result<ProcessCost> {
        let cpu = process::cpu(self.pid)?.saturating_sub(self.cpu);
        Ok(ProcessCost { before: self.memory, after: Memory::of(self.pid)?, cpu_millis: cpu.as_millis() })
    }
}

impl ProcessCost {
    fn line(&self, name: &str) -> String {
        format!(
            "    {name:<14} {} MiB before, {} MiB after, {} ms of processor time",
            self.before.rss_kib / 1024,
            self.after.rss_kib / 1024,
            self.cpu_millis
        )
    }
}

impl Verdict for BrokerCostResult {
    /// Whether no publication was lost.
    fn adds_up(&self) -> bool {
        self.channels.publications > 0 && self.channels.lost + self.users.lost == 0
    }

    fn print(&self) {
        let part = |part: &SubscriptionCost| {
            [
                format!("    publications   {}, lost {}", part.publications, part.lost),
                part.gateway.line("gateway"),
                part.broker.line("broker"),
            ]
        };
        let (channels, users) = (&self.channels, &self.users);
        let mut lines = vec![
            "broker-cost:".to_owned(),
            format!(
                "  {} connections subscribed to {} channels in {} ms, {} retries",
                self.connections, channels.subscriptions, channels.millis, channels.retries
            ),
        ];
        lines.extend(part(channels));
        lines.push(format!(
            "  {} users published to in {} ms, {} of them connected, behind one subscription",
            users.publications, users.millis, self.users_connected
        ));
        lines.extend(part(users));
        lines.push(process::foreign_line(self.foreign_cpu_percent));
        lines.push(format!("  {}", if self.adds_up() { "PASS" } else { "FAIL" }));
        for line in lines {
            output::note(line);
        }
    }
}
