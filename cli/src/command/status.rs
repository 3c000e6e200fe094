//! `tidegate status`: prints the state of every process of the local stack.

use std::{process::ExitCode, time::Duration};

use tidegate_cli::{
    output,
    stack::{
        ProcessPhase, ProcessStatus,
        control::{self, ControlRequest},
    },
};

use crate::command::DirArgs;

/// Arguments of `tidegate status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    dir: DirArgs,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let answer = control::ask(&args.dir.dir, &ControlRequest::Status).await?;
    if args.json {
        output::line(serde_json::to_string(&answer.processes)?);
    } else {
        output::text(&table(&answer.processes));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns a table with one line per process.
pub(crate) fn table(processes: &[ProcessStatus]) -> String {
    let row = |name: &str, pid: &str, state: &str, restarts: &str, uptime: &str, address: &str| {
        format!("{name:<12}{pid:>8}  {state:<10}{restarts:>8}  {uptime:>10}  {address}\n")
    };
    let mut table = row("NAME", "PID", "STATE", "RESTARTS", "UPTIME", "ADDRESS");
    for process in processes {
        let state = match process.phase {
            ProcessPhase::Starting => "starting",
            ProcessPhase::Ready => "ready",
            ProcessPhase::Waiting => "crashed",
            ProcessPhase::Stopped => "stopped",
        };
        let pid = process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let uptime = humantime::format_duration(Duration::from_secs(process.uptime_ms / 1000)).to_string();
        let uptime = if process.pid.is_some() { uptime } else { "-".to_owned() };
        table.push_str(&row(
            &process.name,
            &pid,
            state,
            &process.restarts.to_string(),
            &uptime,
            &process.address,
        ));
    }
    table
}
