//! Scenario `effects`: requests of the stock handler `sql`, into SQLite and into PostgreSQL, while workers are killed. Afterwards
//! each request has one stored answer and has taken effect once.
//!
//! The tables would take an effect twice. Only `tide_inbox` prevents it.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use sqlx::{Connection, SqliteConnection};
use tidegate_cli::{output, postgres::Postgres, stack::Stack};
use tidegate_shared::{
    broker::Broker,
    envelope::{Answer, Outcome},
    topology,
};
use tokio::time::{Instant, sleep};

use crate::{
    report::Verdict,
    requests::{self, Kind, Requests},
};

const WORKERS: usize = 3;
/// The routes, one for each database.
const ROUTES: [&str; 2] = ["lite", "postgres"];
const TABLE: &str = "CREATE TABLE effects (id TEXT NOT NULL, n BIGINT NOT NULL)";
/// All rows, different requests among them, and what the inbox has.
const COUNT: &str = "SELECT (SELECT count(*) FROM effects), (SELECT count(DISTINCT n) FROM effects), (SELECT count(*) FROM tide_inbox)";
/// The limit of the whole run, for each request and each kill.
const LIMIT_EACH: Duration = Duration::from_millis(20);
const LIMIT_KILL: Duration = Duration::from_secs(5);
const LIMIT_LEAST: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(20);

/// The size of the run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Requests for each of the two databases
    #[arg(long, default_value_t = 15_000)]
    count: usize,
    /// How often a worker is killed with SIGKILL
    #[arg(long, default_value_t = 40)]
    kills: usize,
    /// Which workers are killed, to repeat an earlier run; random if left out
    #[arg(long)]
    seed: Option<u64>,
}

/// What one database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Found {
    effects: usize,
    different: usize,
    inbox: usize,
}

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct EffectsResult {
    count: usize,
    kills: usize,
    seed: u64,
    seconds: f64,
    answers: usize,
    /// Answers that say another thing than the request's effect.
    wrong_answers: usize,
    dead_letters: u64,
    sqlite: Found,
    postgres: Found,
}

impl Verdict for EffectsResult {
    /// Whether each request has one right answer and one effect.
    fn adds_up(&self) -> bool {
        let once = Found { effects: self.count, different: self.count, inbox: self.count };
        self.answers == self.count * ROUTES.len()
            && self.wrong_answers == 0
            && self.dead_letters == 0
            && self.sqlite == once
            && self.postgres == once
    }

    fn print(&self) {
        let database = |found: &Found| {
            format!(
                "{} effects, of {} requests, {} in tide_inbox",
                found.effects, found.different, found.inbox
            )
        };
        let lines = [
            format!(
                "effects: {} requests for each database, {} x kill -9 of a worker, seed {}, {:.0} s",
                self.count, self.kills, self.seed, self.seconds
            ),
            format!("  stored answers  {}, wrong ones {}", self.answers, self.wrong_answers),
            format!("  dead letters    {}", self.dead_letters),
            format!("  SQLite          {}", database(&self.sqlite)),
            format!("  PostgreSQL      {}", database(&self.postgres)),
            format!("  {}", if self.adds_up() { "PASS" } else { "FAIL" }),
        ];
        for line in lines {
            output::line(line);
        }
    }
}

/// Runs the scenario on a stack and databases of its own.
pub(crate) async fn run(args: &Args) -> anyhow::Result<EffectsResult> {
    ensure!(args.count > args.kills, "--count must be more than --kills");
    let scratch = tempfile::tempdir().context("creating a directory")?;
    let file = scratch.path().join("effects.db");
    let postgres = Postgres::start().await?;
    let migrations = scratch.path().join("migrations");
    std::fs::create_dir(&migrations)?;
    std::fs::write(migrations.join("1.sql"), TABLE)?;
    let config = config([format!("sqlite:{}", file.display()), postgres.url()], &migrations);
    let stack =
        Stack::builder().config(&config).workers(WORKERS).start().await.context("starting a stack")?;
    let seed = args.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let (admin, begun) = (stack.admin().await?, Instant::now());
    let requests = Requests::connect(stack.config()).await?;
    let ((), ()) = tokio::try_join!(load(&requests, args.count), kill(&stack, &admin, args, seed))?;
    let count = |text: &str| -> anyhow::Result<Found> {
        let numbers: Vec<usize> = text.split('|').map(str::parse).collect::<Result<_, _>>()?;
        let [effects, different, inbox] = numbers[..] else { anyhow::bail!("the database says {text:?}") };
        Ok(Found { effects, different, inbox })
    };
    let result = EffectsResult {
        count: args.count,
        kills: args.kills,
        seed,
        seconds: begun.elapsed().as_secs_f64(),
        answers: requests::answers(&admin).await?,
        wrong_answers: requests::each_answer(&admin, stack.config(), |answer| is_wrong(answer, args.count))
            .await?,
        dead_letters: admin.fill(topology::DEAD).await?.last_seq,
        sqlite: in_sqlite(&file).await?,
        postgres: count(&postgres.query(COUNT)?)?,
    };
    stack.down().await;
    Ok(result)
}

fn config(urls: [String; 2], migrations: &Path) -> String {
    let mut config = "[worker]\nack_wait = \"2s\"\n[streams]\nreply_max_bytes = \"256 MiB\"\n".to_owned();
    for (route, url) in ROUTES.iter().zip(urls) {
        let route = format!(
            "[[route]]\nname = \"{route}\"\nmatch = \"rpc.{route}\"\nhandler = \"sql\"\nmax_bytes = \"64 MiB\"\n\
             [route.sql]\nurl = \"{url}\"\nmigrations = \"{}\"\nanswer = \"row\"\n\
             statements = [\"INSERT INTO effects (id, n) VALUES (:id, :body.n) RETURNING n\"]\n",
            migrations.display()
        );
        config.push_str(&route);
    }
    config
}

async fn load(requests: &Requests, count: usize) -> anyhow::Result<()> {
    let numbers = (0..count).flat_map(|n| ROUTES.map(|route| (route, n)));
    let all = numbers
        .map(|(route, n)| requests.of(route, Kind::Keyed("42"), &n.to_string(), format!("{{\"n\":{n}}}")));
    requests.store(all).await
}

/// Kills a worker whenever some more requests are answered, and waits for the rest.
async fn kill(stack: &Stack, admin: &Broker, args: &Args, seed: u64) -> anyhow::Result<()> {
    let total = args.count * ROUTES.len();
    let limit = LIMIT_LEAST + LIMIT_EACH * u32::try_from(total)? + LIMIT_KILL * u32::try_from(args.kills)?;
    let deadline = Instant::now() + limit;
    let until = async |wanted: usize| -> anyhow::Result<()> {
        loop {
            let answered = requests::answers(admin).await?;
            if answered >= wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{answered} of {total} requests are answered after {limit:?}");
            sleep(LOOK).await;
        }
    };
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 0..args.kills {
        until((kill + 1) * total / (args.kills + 1)).await?;
        let name = format!("worker-{}", random.random_range(1..=WORKERS));
        output::note(format!("effects: kill -9 {name} ({} of {})", kill + 1, args.kills));
        stack.kill(&name).await?;
    }
    until(total).await?;
    settled(admin, deadline).await
}

/// Waits until nothing is delivered any more: a request that runs again has its answer already.
async fn settled(admin: &Broker, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let mut left = 0;
        for route in ROUTES {
            for stream in [topology::request_stream(route), topology::PARK.to_owned()] {
                let progress = admin.progress(&stream, route).await?;
                left += progress.unacknowledged + progress.waiting;
            }
        }
        if left == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{left} requests are not acknowledged");
        sleep(LOOK).await;
    }
}

/// Whether an answer is not the number of one of the requests.
fn is_wrong(answer: Answer, count: usize) -> bool {
    let Outcome::Ok(body) = answer.outcome else { return true };
    serde_json::from_slice::<Row>(&body).map_or(true, |row| row.n >= count)
}

/// What the statement returns.
#[derive(Debug, serde::Deserialize)]
struct Row {
    n: usize,
}

async fn in_sqlite(file: &Path) -> anyhow::Result<Found> {
    let mut database = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await?;
    let (effects, different, inbox): (i64, i64, i64) = sqlx::query_as(COUNT).fetch_one(&mut database).await?;
    Ok(Found { effects: effects.try_into()?, different: different.try_into()?, inbox: inbox.try_into()? })
}
