//! Scenario `faults`: requests with keys and channels through two gateways and two workers, while processes are killed and
//! stopped, consumers deleted and connections reset. Afterwards nothing may be lost, doubled, leaked, blocked or left.
//!
//! Every payload says whom it is for, and every frame is checked when it comes. Handlers run at least once: only two different
//! answers to one key, or one publication twice, are doubled.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow, bail, ensure};
use futures_util::{StreamExt, stream};
use tidegate_cli::{output, stack::Stack, token::connection_token};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    answers::{LATER, ROUTES},
    check::Senders,
    findings::{Findings, Wrong},
    load::Called,
    plan::Shape,
    service::{Service, ServiceSent},
    strike::Field,
    user::User,
    verdict::FaultsResult,
};
use crate::{job::RUNS_FILE, proxy::Proxy, report::Verdict};

mod answers;
mod check;
mod findings;
mod inbox;
mod leftovers;
mod load;
mod numbers;
mod plan;
mod runs;
mod service;
mod strike;
mod user;
mod verdict;

/// Half of the channels have one NATS subscription each, half share one. `ack_wait` is short, so that a worker can be stopped
/// for longer often. The limits of recovery are beyond what any fault makes a client miss.
const CONFIG: &str = r#"
[worker]
ack_wait = "5s"

[streams]
result_ttl = "1d"

[gateway.limits]
recovery = 5000
outbox = "8 MiB"

[[namespace]]
name = "faults"
allow_subscribe = "authenticated"
allow_publish = "authenticated"
history_size = 10000
history_ttl = "1d"

[[namespace]]
name = "wide"
fanout = "wildcard"
allow_subscribe = "authenticated"
allow_publish = "authenticated"
history_size = 10000
history_ttl = "1d"

[[namespace]]
name = "user"
history_size = 10000
history_ttl = "1d"

[[route]]
name = "steady"
match = "rpc.steady"

[[route]]
name = "flaky"
match = "rpc.flaky"
max_attempts = 8
backoff = { base = "200ms", cap = "1s" }

[[route]]
name = "later"
match = "rpc.later"
answer = "later"
"#;
const GATEWAYS: usize = 2;
const WORKERS: usize = 2;
/// The program of the workers.
const WORKER: &str = "tidegate-trial-worker";
/// Users that share a channel: two on each gateway, about.
const SHARE: usize = 4;
/// Requests of one user at a time, while faults happen.
const LANES: usize = 2;
/// And afterwards, when each key is called again.
const LANES_AFTER: usize = 8;
/// Every connection is cut about this often, beside the faults of the plan.
const CUT_EVERY: Duration = Duration::from_secs(40);
/// The limits of what happens before and after the faults.
const START_LIMIT: Duration = Duration::from_secs(30);
const SETTLE_LIMIT: Duration = Duration::from_mins(1);
/// The limit of everything beside the faults. The limits of single steps are shorter.
const OVERTIME: Duration = Duration::from_mins(10);
const LOOK: Duration = Duration::from_millis(200);
const PROGRESS: Duration = Duration::from_secs(5);

/// The size and the faults of the run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How long faults happen; 60s is a quick check
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// What the faults are made of, to repeat those of an earlier run; random if left out
    #[arg(long)]
    seed: Option<u64>,
    /// Users, each with one client
    #[arg(long, default_value_t = 24)]
    users: usize,
    /// Keep the logs and the recorded runs; after a failed run they are always kept
    #[arg(long)]
    keep: bool,
}

/// A run: the stack, its users, and what happens to them.
struct Run<'a> {
    stack: &'a Stack,
    proxy: Proxy,
    users: Vec<Arc<User>>,
    channels: Vec<String>,
}

/// Runs the scenario on a stack of its own.
pub(crate) async fn run(args: &Args) -> anyhow::Result<FaultsResult> {
    ensure!(args.users > 0, "--users must be positive");
    let scratch = tempfile::tempdir().context("creating a directory")?;
    let runs_file = scratch.path().join("runs");
    let builder = Stack::builder().config(CONFIG).gateways(GATEWAYS).workers(WORKERS).worker_program(WORKER);
    let builder = builder.variable("worker", RUNS_FILE, runs_file.display().to_string());
    let stack = builder.start().await.context("starting a stack")?;
    let outcome = tokio::select! {
        outcome = fault(args, &stack, &runs_file) => outcome,
        () = sleep(args.duration + OVERTIME) => Err(anyhow!("the run does not end: {OVERTIME:?} after its faults")),
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    let outcome = match outcome {
        Ok(outcome) if outcome.adds_up() && !args.keep => outcome,
        Ok(outcome) => FaultsResult { kept: Some(keep(&stack, &runs_file)?), ..outcome },
        Err(error) => {
            let kept = keep(&stack, &runs_file)?;
            return Err(error.context(format!("logs and recorded runs are in {}", kept.display())));
        }
    };
    stack.down().await;
    Ok(outcome)
}

async fn fault(args: &Args, stack: &Stack, runs_file: &Path) -> anyhow::Result<FaultsResult> {
    let seed = args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let shape = Shape { gateways: GATEWAYS, workers: WORKERS, ack_wait: stack.config().worker.ack_wait };
    let steps = plan::plan(seed, args.duration, shape);
    output::note(format!("faults: {} planned in {:?}, seed {seed}", steps.len(), args.duration));
    let run = Run::prepare(args.users, stack).await?;
    let (done, mut sessions) = (CancellationToken::new(), JoinSet::new());
    for user in &run.users {
        sessions.spawn(Arc::clone(user).run(done.clone()));
    }
    run.connected().await?;
    let (sent, faults) = tokio::select! {
        struck = run.strike(&steps, args.duration) => struck?,
        never = run.progress() => never,
    };
    output::note("no more faults: comparing");
    let mut found = run.settle(&sent).await;
    let repeated = run.users.iter().map(|user| call_again(user));
    futures_util::future::join_all(repeated).await;
    let admin = stack.admin().await?;
    leftovers::look(stack, &admin, &mut found).await?;
    if stack.log().contains("panicked") {
        found.add(Wrong::Broken, || "a process has panicked".to_owned());
    }
    let runs = runs::compare(runs_file, &run.users)?;
    done.cancel();
    while sessions.join_next().await.is_some() {}
    let counts = FaultsResult {
        seed,
        seconds: args.duration.as_secs(),
        faults,
        runs,
        found,
        ..FaultsResult::default()
    };
    Ok(run.sum_up(&sent, counts))
}

impl<'a> Run<'a> {
    async fn prepare(users: usize, stack: &'a Stack) -> anyhow::Result<Self> {
        let gateways = stack.gateways().iter().map(|gateway| gateway.public).collect();
        let proxy = Proxy::start(gateways, CUT_EVERY).await?;
        let namespaces = ["faults", "wide"].into_iter().cycle();
        let channels: Vec<String> = (0..users.div_ceil(SHARE))
            .zip(namespaces)
            .map(|(number, namespace)| format!("{namespace}:c{number}"))
            .collect();
        let users = (0..users).zip(channels.iter().cycle()).map(|(number, channel)| {
            let name = format!("u{number}");
            let auth = &stack.config().auth;
            let token = connection_token(auth, &name, Duration::from_hours(24), SystemTime::now())?;
            Ok(Arc::new(User::new(name, channel.clone(), token, proxy.url())))
        });
        let users = users.collect::<anyhow::Result<_>>()?;
        Ok(Self { stack, proxy, users, channels })
    }

    async fn connected(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        for user in &self.users {
            let client = user.connected(deadline).await;
            client.with_context(|| format!("{} is not connected after {START_LIMIT:?}", user.name))?;
        }
        Ok(())
    }

    /// Everything under way until the faults are over, and then until the last request is answered.
    async fn strike(&self, steps: &[plan::Step], duration: Duration) -> anyhow::Result<(ServiceSent, usize)> {
        let admin = self.stack.admin().await?;
        let field = Field { stack: self.stack, proxy: &self.proxy, admin: &admin };
        let service = Service::connect(self.stack, self.users.clone(), self.channels.clone()).await?;
        let (stop, mut load) = (CancellationToken::new(), JoinSet::new());
        for user in &self.users {
            for _ in 0..LANES {
                load.spawn(load::call(Arc::clone(user), stop.clone()));
            }
            load.spawn(load::publish(Arc::clone(user), stop.clone()));
        }
        let struck = async {
            let struck = field.strike(steps, Instant::now() + duration).await;
            self.proxy.stop_cutting();
            stop.cancel();
            struck
        };
        let (sent, struck) = tokio::join!(service.run(stop.clone()), struck);
        let (sent, struck) = (sent?, struck?);
        while load.join_next().await.is_some() {}
        Ok((sent, struck))
    }

    /// Prints a line every few seconds.
    async fn progress(&self) -> ! {
        let begun = Instant::now();
        let mut ticks = interval(PROGRESS);
        loop {
            ticks.tick().await;
            let (mut answered, mut keys, mut stored, mut frames, mut found) =
                (0, 0, 0, 0, Findings::default());
            for user in &self.users {
                let book = user.book();
                answered += book.counts.answered;
                keys += ROUTES.iter().map(|route| book.answers.begun(route)).sum::<u64>();
                stored += book.published.stored.len();
                frames += book.inbox.frames();
                found.merge(book.findings.clone());
            }
            output::note(format!(
                "{:>4} s: {answered} of {keys} keys answered, {stored} publications stored, {frames} frames, {} wrong",
                begun.elapsed().as_secs(),
                found.total()
            ));
        }
    }

    /// Waits until every user has everything, or until the limit. Returns what is missing.
    async fn settle(&self, sent: &ServiceSent) -> Findings {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let found = self.compare(sent);
            if found.count(Wrong::Lost) == 0 || Instant::now() >= deadline {
                return found;
            }
            sleep(LOOK).await;
        }
    }

    fn compare(&self, sent: &ServiceSent) -> Findings {
        let mut senders = Senders::new();
        for (channel, numbers) in self.channels.iter().zip(&sent.channels) {
            let by = service::SERVICE.to_owned();
            let service = check::Sender { by, stored: numbers.clone(), possible: numbers.clone() };
            senders.entry(channel.clone()).or_default().push(service);
        }
        for user in &self.users {
            let book = user.book();
            let senders = senders.entry(user.channel.clone()).or_default();
            senders.push(check::publisher(&user.name, &book.published));
            senders.extend(check::handlers(&user.name, &book.answers));
        }
        let mut found = Findings::default();
        for (user, service) in self.users.iter().zip(&sent.users) {
            let book = user.book();
            let personal = check::personal(&book.answers, &book.receipts, service);
            let shared = senders.get(&user.channel).map_or(&[][..], Vec::as_slice);
            check::compare(&user.name, &book.inbox, &user.channel, shared, &mut found);
            check::compare(&user.name, &book.inbox, &user.personal, &personal, &mut found);
        }
        found
    }

    fn sum_up(&self, sent: &ServiceSent, mut result: FaultsResult) -> FaultsResult {
        result.messages = sent.pushes;
        result.messages += sent.channels.iter().chain(&sent.users).map(|sent| sent.len() as u64).sum::<u64>();
        for user in &self.users {
            let mut book = user.book();
            result.connections += book.counts.connections;
            result.keys += ROUTES.iter().map(|route| book.answers.begun(route)).sum::<u64>();
            result.answered += book.counts.answered;
            result.retries += book.counts.retries;
            let (took, key) = &book.counts.slowest;
            if took.as_millis() > result.slowest_ms {
                (result.slowest_ms, result.slowest_key) = (took.as_millis(), key.clone());
            }
            result.published += book.published.sent;
            result.stored += book.published.stored.len();
            result.frames += book.inbox.frames();
            for (code, times) in &book.counts.ends {
                *result.ends.entry(*code).or_default() += times;
            }
            result.found.merge(std::mem::take(&mut book.findings));
        }
        result
    }
}

/// Calls every key of a user once more: each must give the answer it gave before, at once.
async fn call_again(user: &User) {
    for route in ROUTES {
        let begun = user.book().answers.begun(route);
        let deadline = Instant::now() + SETTLE_LIMIT;
        let calls = (0..begun).map(|n| async move {
            let wrong = match load::call_key(user, route, n, deadline).await {
                Called::Answered => return,
                Called::Refused(why) | Called::Silent(why) => why,
            };
            user.find(Wrong::Blocked, || {
                format!("{} is not answered again: {wrong}", load::named(user, route, n))
            });
        });
        stream::iter(calls).buffer_unordered(LANES_AFTER).collect::<Vec<()>>().await;
    }
    // The answer to a repeated request of this route comes on the personal channel.
    let deadline = Instant::now() + SETTLE_LIMIT;
    while !user.book().all_shown() && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    let mut book = user.book();
    let book = &mut *book;
    for n in (0..book.answers.begun(LATER)).filter(|n| !book.shown.contains(*n)) {
        book.findings.add(Wrong::Blocked, || format!("{} was not shown again", load::named(user, LATER, n)));
    }
    for route in ROUTES {
        for n in book.answers.open(route) {
            book.findings.add(Wrong::Lost, || format!("{} has no answer", load::named(user, route, n)));
        }
    }
}

/// Copies the logs and the recorded runs to a directory that stays.
fn keep(stack: &Stack, runs_file: &Path) -> anyhow::Result<PathBuf> {
    let kept = tempfile::Builder::new().prefix("tidegate-faults-").tempdir()?.keep();
    let logs = std::fs::read_dir(stack.dir().join("logs"))?.filter_map(|entry| Some(entry.ok()?.path()));
    for file in logs.chain([runs_file.to_owned(), stack.dir().join("tidegate.toml")]) {
        if let Some(name) = file.file_name().filter(|_| file.is_file()) {
            std::fs::copy(&file, kept.join(name)).with_context(|| format!("copying {}", file.display()))?;
        }
    }
    Ok(kept)
}
