//! `tidegate doctor`: examines a deployment, and says what to do about what it finds.

use std::process::ExitCode;

use tidegate_cli::{
    doctor::{self, Finding, Grade, Subject},
    output,
};
use tidegate_shared::config::Role;

use crate::command::{ConfigArgs, Program};

/// Arguments of `tidegate doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Examine what this program needs, with its secrets alone [default: all of them].
    #[arg(long = "for", value_name = "PROGRAM")]
    program: Option<Program>,
    /// Read the broker's settings from its monitoring at this address, such as 127.0.0.1:8222.
    #[arg(long, value_name = "HOST:PORT")]
    monitor: Option<String>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let role = args.program.map_or(Role::All, Role::from);
    let config = args.config.load(role)?;
    let subject = Subject { monitor: args.monitor };
    let findings = Box::pin(doctor::examine(&config, role, &subject)).await;
    if args.json {
        output::line(serde_json::to_string(&findings)?);
    } else {
        output::text(&page(&findings));
    }
    let worst = findings.iter().map(|finding| finding.grade).max();
    Ok(if worst == Some(Grade::Wrong) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One line for each finding, and one for what to do about it.
fn page(findings: &[Finding]) -> String {
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let lines = findings.iter().map(|Finding { check, grade, found, next }| {
        let grade = match grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Wrong => "WRONG",
        };
        let next = next.as_ref().map(|next| format!("{:9}-> {next}\n", "")).unwrap_or_default();
        format!("{grade:<9}{check}: {found}\n{next}")
    });
    let sum = format!(
        "{} wrong, {} warnings, {} ok\n",
        count(Grade::Wrong),
        count(Grade::Warning),
        count(Grade::Ok)
    );
    lines.chain([sum]).collect()
}
