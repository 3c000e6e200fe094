//! `tidegate version`: prints the version.

use std::process::ExitCode;

use tidegate_cli::output;
use tidegate_shared::{VERSION, broker::MIN_SERVER};

/// Arguments of `tidegate version`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (major, minor, patch) = MIN_SERVER;
    let nats = format!("{major}.{minor}.{patch}");
    if args.json {
        output::line(serde_json::json!({ "version": VERSION, "nats_server_min": nats }).to_string());
    } else {
        output::line(format!("tidegate {VERSION} (needs nats-server {nats} or newer)"));
    }
    Ok(ExitCode::SUCCESS)
}
