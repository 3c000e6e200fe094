//! `tidegate conformance`: tests the worker of a route, in any language, with awkward requests.

use std::{process::ExitCode, time::Duration};

use tidegate_cli::{
    conformance::{self, Case, Finding, Options, Outcome},
    output,
};
use tidegate_shared::config::Role;

use crate::command::ConfigArgs;

/// Arguments of `tidegate conformance`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The route whose worker is tested. Its handler does what docs/worker-contract.md says, and nobody else uses it.
    #[arg(long, value_name = "NAME")]
    route: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the findings as JSON, one line each.
    #[arg(long)]
    json: bool,
    /// Try only this case. May be given several times.
    #[arg(long, value_name = "CASE")]
    only: Vec<Case>,
    /// Leave this case out. May be given several times.
    #[arg(long, value_name = "CASE")]
    skip: Vec<Case>,
    /// How long the worker may take for one step, beyond the waits of the configuration.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Something restarts the worker when it ends, so the cases that end it can be tried.
    #[arg(long)]
    supervised: bool,
    /// Send headers in ASCII only, to a worker whose client library reads no others.
    #[arg(long)]
    ascii: bool,
    /// A shell command that kills the worker, which something restarts.
    #[arg(long, value_name = "COMMAND")]
    kill_command: Option<String>,
    /// The worker's command, behind `--`: it is started, and started again when it ends.
    #[arg(last = true, value_name = "COMMAND")]
    program: Vec<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load(Role::All)?;
    let options = Options {
        config,
        route: args.route,
        program: args.program,
        supervised: args.supervised || args.kill_command.is_some(),
        kill_command: args.kill_command,
        only: args.only,
        skip: args.skip,
        patience: args.patience,
        ascii: args.ascii,
    };
    let findings = conformance::run(options, |finding| show(finding, args.json)).await?;
    let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let (passed, failed, skipped) = (count(Outcome::Pass), count(Outcome::Fail), count(Outcome::Skip));
    output::note(format!("{passed} passed, {failed} failed, {skipped} not tried"));
    Ok(if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(finding: &Finding, json: bool) {
    if json {
        if let Ok(line) = serde_json::to_string(finding) {
            output::line(line);
        }
        return;
    }
    let Finding { case, outcome, expected, seen, seconds } = finding;
    match outcome {
        Outcome::Pass => output::line(format!("pass  {case:<18} {seen} ({seconds:.1} s)")),
        Outcome::Skip => output::line(format!("skip  {case:<18} {seen}")),
        Outcome::Fail => {
            output::line(format!("FAIL  {case:<18} expected: {expected}\n{:25}seen: {seen}", ""));
        }
    }
}
