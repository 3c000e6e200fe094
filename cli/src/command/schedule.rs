//! `tidegate schedule`: lists, shows, sets and removes schedules, by the server API over NATS as a service.

use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_cli::output;

use crate::command::{ConfigArgs, access::JsonArg, service::Caller};

/// Schedules asked for with one call.
const PAGE: usize = 500;

/// The subcommands of `tidegate schedule`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List schedules, oldest first.
    Ls(ListArgs),
    /// Show one schedule with its data and its newest firing.
    Show(NameArgs),
    /// Set a schedule: a request or a publication that is repeated, or comes at a time.
    Set(Box<SetArgs>),
    /// Remove a schedule.
    Rm(NameArgs),
}

/// Arguments of `tidegate schedule ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Print each schedule as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Arguments of `tidegate schedule show` and `tidegate schedule rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct NameArgs {
    /// The schedule's name.
    name: String,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Arguments of `tidegate schedule set`.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// The schedule's name. A schedule of this name is replaced.
    name: String,
    #[command(flatten)]
    when: WhenArgs,
    #[command(flatten)]
    what: WhatArgs,
    /// The time zone of the cron line, such as Europe/Berlin [default: UTC].
    #[arg(long, value_name = "ZONE", requires = "cron")]
    time_zone: Option<String>,
    /// The payload.
    #[arg(long, value_name = "JSON", default_value = "null")]
    data: JsonArg,
    /// The user the request acts for, who gets the answers on the personal channel.
    #[arg(long, requires = "method")]
    user: Option<String>,
    /// Which of the two lanes of its route the request goes in [default: the route's].
    #[arg(long, value_name = "LANE", value_parser = ["normal", "high"], requires = "method")]
    priority: Option<String>,
    /// What happens to a firing while the request of an earlier one is not done [default: allow].
    #[arg(long, value_parser = ["allow", "skip"], requires = "method")]
    overlap: Option<String>,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// When it fires.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct WhenArgs {
    /// A cron line, such as "0 3 * * *".
    #[arg(long, value_name = "LINE")]
    cron: Option<String>,
    /// An interval, such as 5m.
    #[arg(long, value_name = "DURATION")]
    every: Option<String>,
    /// Once, after so long.
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    /// Once, at this time in UTC, such as 2026-12-24T18:00:00Z.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

/// What it brings.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct WhatArgs {
    /// A request with this method.
    #[arg(long)]
    method: Option<String>,
    /// A publication in this channel.
    #[arg(long)]
    channel: Option<String>,
}

/// One page of schedules.
#[derive(Debug, Deserialize)]
struct Page {
    schedules: Vec<Value>,
    cursor: Option<u64>,
}

/// What the list shows of a schedule.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    cron: Option<String>,
    time_zone: Option<String>,
    every: Option<String>,
    at: Option<String>,
    method: Option<String>,
    route: Option<String>,
    channel: Option<String>,
    next: Option<String>,
    last: Option<Last>,
}

/// The newest firing.
#[derive(Debug, Deserialize)]
struct Last {
    at: String,
    outcome: String,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(args) => list(&args).await,
        Command::Show(args) => show(&args).await,
        Command::Set(args) => set(*args).await,
        Command::Rm(args) => remove(&args).await,
    }
}

async fn ask(caller: &Caller, method: &str, params: Value) -> anyhow::Result<Value> {
    match caller.call(method, params).await? {
        Ok(result) => Ok(result),
        Err(error) => bail!("{} {}", error.code, error.message),
    }
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let caller = Caller::service(&args.config).await?;
    if !args.json && output::is_terminal() {
        output::note(format!("{:<24}  {:<32}  {:<24}  {:<24}  last", "name", "when", "what", "next"));
    }
    let (mut count, mut cursor) = (0, None);
    loop {
        let page = ask(&caller, "schedule_list", json!({"limit": PAGE, "cursor": cursor})).await?;
        let page: Page = serde_json::from_value(page).context("the gateway's answer")?;
        count += page.schedules.len();
        for schedule in page.schedules {
            output::line(if args.json { schedule.to_string() } else { row(schedule)? });
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    if count == 0 {
        output::note("no schedule");
    }
    Ok(ExitCode::SUCCESS)
}

/// One line of the list, for a person.
fn row(schedule: Value) -> anyhow::Result<String> {
    let row: Row = serde_json::from_value(schedule).context("the gateway's answer")?;
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let zone = row.time_zone.map(|zone| format!(" {zone}")).unwrap_or_default();
    let when = row.cron.map(|line| format!("{line}{zone}"));
    let when = when.or_else(|| row.every.map(|interval| format!("every {interval}")));
    let (when, what) = (known(when.or(row.at)), known(row.channel.or(row.method).or(row.route)));
    let last = known(row.last.map(|last| format!("{} {}", last.at, last.outcome)));
    Ok(format!("{:<24}  {when:<32}  {what:<24}  {:<24}  {last}", row.name, known(row.next)))
}

async fn show(args: &NameArgs) -> anyhow::Result<ExitCode> {
    let caller = Caller::service(&args.config).await?;
    let schedule = ask(&caller, "schedule_show", json!({"name": args.name})).await?;
    output::line(if args.json { schedule.to_string() } else { serde_json::to_string_pretty(&schedule)? });
    Ok(ExitCode::SUCCESS)
}

async fn set(args: SetArgs) -> anyhow::Result<ExitCode> {
    let SetArgs { name, when, what, time_zone, data, user, priority, overlap, json, config } = args;
    let data: Value = serde_json::from_slice(&data.0)?;
    let params = json!({
        "name": name, "cron": when.cron, "every": when.every, "delay": when.delay, "at": when.at, "time_zone": time_zone,
        "method": what.method, "channel": what.channel, "user": user, "priority": priority, "overlap": overlap, "data": data,
    });
    let result = ask(&Caller::service(&config).await?, "schedule_set", params).await?;
    if json {
        output::line(result.to_string());
    } else {
        let outcome = result.get("outcome").and_then(Value::as_str).unwrap_or_default();
        output::note(format!("{outcome}: {name}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(args: &NameArgs) -> anyhow::Result<ExitCode> {
    let caller = Caller::service(&args.config).await?;
    let result = ask(&caller, "schedule_remove", json!({"name": args.name})).await?;
    let removed = result.get("removed").and_then(Value::as_bool).unwrap_or_default();
    if args.json {
        output::line(result.to_string());
    } else {
        output::note(if removed { "removed" } else { "there is no such schedule" });
    }
    Ok(if removed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
