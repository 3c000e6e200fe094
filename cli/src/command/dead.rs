//! `tidegate dead`: lists, shows, redrives and drops dead letters, by the server API over NATS as an operator.
//!
//! Decides nothing about a letter: the gateways do. Letters are selected before the first one is changed, so that requests which
//! fail again do not come up again in the same run.

use std::{process::ExitCode, time::SystemTime};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidegate_cli::{output, progress::Progress};
use tidegate_shared::dead::Reason;
use tokio::time::{MissedTickBehavior, interval};

use self::{rate::Rate, since::Since};
use crate::command::{ConfigArgs, service::Caller};

mod rate;
mod since;

/// Letters asked for with one call.
const PAGE: usize = 500;

/// The subcommands of `tidegate dead`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List dead letters, oldest first.
    Ls(ListArgs),
    /// Show one dead letter with its headers and its body.
    Show(ShowArgs),
    /// Make dead letters requests again: their routes work on them once more.
    Redrive(ChangeArgs),
    /// Remove dead letters for good.
    Drop(ChangeArgs),
}

/// Which letters.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Only letters of this route.
    #[arg(long)]
    route: Option<String>,
    /// Only letters of this user's requests.
    #[arg(long)]
    user: Option<String>,
    /// Only letters with this reason, such as attempts, timeout, panic, crashed or rejected.
    #[arg(long, value_parser = reason)]
    reason: Option<&'static str>,
    /// Only letters that are not older than this: a duration such as 2h, or a time such as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// Only letters that are older than this.
    #[arg(long, value_name = "WHEN")]
    until: Option<Since>,
    /// At most so many letters.
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Arguments of `tidegate dead ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// Print each letter as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Arguments of `tidegate dead show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The letter's number.
    letter: u64,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Arguments of `tidegate dead redrive` and `tidegate dead drop`.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangeArgs {
    /// The letters' numbers; or select letters with the filters.
    letters: Vec<u64>,
    #[command(flatten)]
    filter: Filter,
    /// All letters, if no filter is given.
    #[arg(long)]
    all: bool,
    /// At most so many letters a second.
    #[arg(long, default_value = "20/s", value_name = "COUNT/s")]
    rate: Rate,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print what became of each letter as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(args) => list(&args).await,
        Command::Show(args) => show(&args).await,
        Command::Redrive(args) => change(&args, "dead_redrive", "redriven").await,
        Command::Drop(args) => change(&args, "dead_drop", "dropped").await,
    }
}

fn reason(word: &str) -> Result<&'static str, String> {
    let words = Reason::ALL.map(Reason::as_str).join(", ");
    Reason::parse(word).map(Reason::as_str).ok_or_else(|| format!("there are: {words}"))
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.route.is_none()
            && self.user.is_none()
            && self.reason.is_none()
            && self.since.is_none()
            && self.until.is_none()
            && self.limit.is_none()
    }

    /// The parameters of one page of at most `limit` letters, from `cursor` on.
    fn page(&self, now: SystemTime, limit: usize, cursor: Option<u64>) -> Value {
        let time = |since: Option<Since>| since.map(|since| since.before(now));
        json!({
            "route": self.route, "user": self.user, "reason": self.reason,
            "since": time(self.since), "until": time(self.until), "limit": limit, "cursor": cursor,
        })
    }
}

/// One page of letters.
#[derive(Debug, Deserialize)]
struct Page {
    letters: Vec<Value>,
    cursor: Option<u64>,
}

/// What the list shows of a letter.
#[derive(Debug, Deserialize)]
struct Row {
    letter: u64,
    last_seen: Option<String>,
    route: String,
    reason: String,
    user: Option<String>,
    error: String,
}

/// What became of a letter.
#[derive(Debug, Deserialize)]
struct Change {
    outcome: String,
    newer: Option<u64>,
}

/// Calls a method, and fails with the gateway's error.
async fn ask(caller: &Caller, method: &str, params: Value) -> anyhow::Result<Value> {
    match caller.call(method, params).await? {
        Ok(result) => Ok(result),
        Err(error) => bail!("{} {}", error.code, error.message),
    }
}

/// Gives each selected letter to `take`, page by page.
async fn select(
    caller: &Caller,
    filter: &Filter,
    mut take: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let now = SystemTime::now();
    let (mut left, mut count, mut cursor) = (filter.limit.unwrap_or(usize::MAX), 0, None);
    while left > 0 {
        let page = ask(caller, "dead_list", filter.page(now, left.min(PAGE), cursor)).await?;
        let page: Page = serde_json::from_value(page).context("the gateway's answer")?;
        left -= page.letters.len().min(left);
        count += page.letters.len();
        page.letters.into_iter().try_for_each(&mut take)?;
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(count)
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let caller = Caller::operator(&args.config).await?;
    let print = |letter: Value| {
        output::line(if args.json { letter.to_string() } else { row(letter)? });
        Ok(())
    };
    if !args.json && output::is_terminal() {
        output::note(format!(
            "{:>8}  {:<24}  {:<16}  {:<12}  user, error",
            "letter", "when", "route", "reason"
        ));
    }
    let count = select(&caller, &args.filter, print).await?;
    if count == 0 {
        output::note("no dead letter");
    }
    Ok(ExitCode::SUCCESS)
}

/// One line of the list, for a person.
fn row(letter: Value) -> anyhow::Result<String> {
    let Row { letter, last_seen, route, reason, user, error } =
        serde_json::from_value(letter).context("the gateway's answer")?;
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let (when, user) = (known(last_seen), known(user));
    Ok(format!("{letter:>8}  {when:<24}  {route:<16}  {reason:<12}  {user}, {error}"))
}

async fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let caller = Caller::operator(&args.config).await?;
    let letter = ask(&caller, "dead_show", json!({"letter": args.letter})).await?;
    let text = if args.json { letter.to_string() } else { serde_json::to_string_pretty(&letter)? };
    output::line(text);
    Ok(ExitCode::SUCCESS)
}

/// The numbers of the letters to change.
async fn chosen(args: &ChangeArgs, caller: &Caller) -> anyhow::Result<Vec<u64>> {
    match (args.letters.is_empty(), args.filter.is_empty()) {
        (false, true) => return Ok(args.letters.clone()),
        (false, false) => bail!("name letters or select them with filters, not both"),
        (true, true) if !args.all => {
            bail!("name letters, select them with filters such as --route, or say --all");
        }
        (true, _) => {}
    }
    let mut letters = Vec::new();
    let note = |letter| {
        letters.push(serde_json::from_value::<Row>(letter).context("the gateway's answer")?.letter);
        Ok(())
    };
    select(caller, &args.filter, note).await?;
    Ok(letters)
}

async fn change(args: &ChangeArgs, method: &str, done: &'static str) -> anyhow::Result<ExitCode> {
    let caller = Caller::operator(&args.config).await?;
    let letters = chosen(args, &caller).await?;
    if args.dry_run {
        for letter in &letters {
            output::line(letter.to_string());
        }
        output::note(format!("{} letters would be {done}", letters.len()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut progress = Progress::new(letters.len(), done)?;
    let mut pace = interval(args.rate.pause());
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut changed, mut failed) = (0, 0);
    for (index, letter) in letters.iter().enumerate() {
        pace.tick().await;
        let answer = caller.call(method, json!({"letter": letter})).await;
        let answer = answer.with_context(|| format!("stopped before letter {letter}: run it again"))?;
        let said = match answer {
            Ok(result) => {
                let change: Change = serde_json::from_value(result).context("the gateway's answer")?;
                changed += usize::from(change.outcome == done);
                change
            }
            Err(error) => {
                failed += 1;
                progress.say(format!("letter {letter}: failed: {} {}", error.code, error.message));
                Change { outcome: "failed".to_owned(), newer: None }
            }
        };
        report(*letter, &said, args.json, &progress);
        progress.at(index + 1);
    }
    drop(progress);
    output::note(format!("{changed} of {} letters {done}, {failed} failed", letters.len()));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what became of a letter. Without `json` only of those that the command left alone.
fn report(letter: u64, change: &Change, json: bool, progress: &Progress) {
    if json {
        let mut line = Map::new();
        line.insert("letter".to_owned(), json!(letter));
        line.insert("outcome".to_owned(), json!(change.outcome));
        line.extend(change.newer.map(|newer| ("newer".to_owned(), json!(newer))));
        output::line(Value::Object(line).to_string());
        return;
    }
    let why = match (change.outcome.as_str(), change.newer) {
        ("gone", _) => "there is none: it was redriven or dropped before, or it was too old".to_owned(),
        ("answered", _) => "removed: its request has an answer by now".to_owned(),
        ("alive", _) => "left alone: its request was sent again and is being worked on".to_owned(),
        ("newer", Some(newer)) => format!("left alone: its request failed again, as letter {newer}"),
        _ => return,
    };
    progress.say(format!("letter {letter}: {why}"));
}
