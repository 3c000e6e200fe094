//! `tidegate demo`: replays a feed through a temporary stack while processes are killed.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use serde::Serialize;
use tidegate_cli::{
    demo::{self, Counts, KeepFiles, Options},
    output,
};
use tidegate_shared::failure;

/// Arguments of `tidegate demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The feed: one earthquake a line.
    #[arg(long, default_value = "examples/quakes/earthquakes.ndjson", value_name = "FILE")]
    file: PathBuf,
    /// Kill a worker and a gateway during the run.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    kills: bool,
    /// Keep the files and logs. After a failed run they are always kept.
    #[arg(long)]
    keep: bool,
    /// Run the demo this many times.
    #[arg(long, default_value_t = 1, value_name = "N")]
    repeat: usize,
    /// Write the counts to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The document `--json` writes.
#[derive(Serialize)]
struct DemoReport {
    passed: bool,
    runs: Vec<DemoRun>,
}

#[derive(Serialize)]
struct DemoRun {
    problems: Vec<String>,
    counts: Option<Counts>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let keep = if args.keep { KeepFiles::Always } else { KeepFiles::Failed };
    let options = Options { file: args.file, kills: args.kills, keep };
    let mut runs = Vec::new();
    for number in 1..=args.repeat {
        if args.repeat > 1 {
            output::note(format!("run {number} of {}", args.repeat));
        }
        // An interrupt drops the stack, which ends its processes.
        let run = tokio::select! {
            counts = demo::run(&options) => judge(counts),
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        };
        runs.push(run);
    }
    let failed = runs.iter().filter(|run| !run.problems.is_empty()).count();
    let report = DemoReport { passed: failed == 0, runs };
    if let Some(file) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(file, json).with_context(|| format!("writing {}", file.display()))?;
    }
    if args.repeat > 1 {
        output::line(format!("{} of {} runs passed", report.runs.len() - failed, report.runs.len()));
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the counts of a run and whether it passed.
fn judge(counts: anyhow::Result<Counts>) -> DemoRun {
    match counts {
        Ok(counts) => {
            output::line(counts.table());
            let problems = counts.problems();
            output::line(match problems.as_slice() {
                [] => "passed: nothing lost, nothing twice".to_owned(),
                problems => format!("failed: {}", problems.join("; ")),
            });
            DemoRun { problems, counts: Some(counts) }
        }
        Err(error) => {
            output::line(format!("failed: {}", failure::text(&error)));
            DemoRun { problems: vec![format!("{error:#}")], counts: None }
        }
    }
}
