//! `tidegate job`: shows what has become of a request, or cancels it.

use std::process::ExitCode;

use serde_json::json;

use crate::command::{ConfigArgs, service};

/// Arguments of `tidegate job`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the state of a request, and its answer.
    Show(Which),
    /// Cancel a request that is not answered, and show its state.
    Cancel(Which),
}

/// Names a request.
#[derive(Debug, clap::Args)]
struct Which {
    /// The request's id.
    #[arg(required_unless_present = "method", conflicts_with_all = ["method", "key", "user"])]
    id: Option<String>,
    /// The request's method, instead of its id.
    #[arg(long, requires = "key")]
    method: Option<String>,
    /// Its idempotency key.
    #[arg(long, requires = "method")]
    key: Option<String>,
    /// The user it acts for.
    #[arg(long, requires = "method")]
    user: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (method, which) = match args.action {
        Action::Show(which) => ("job", which),
        Action::Cancel(which) => ("job_cancel", which),
    };
    let Which { id, method: of, key, user, config } = which;
    service::print(&config, method, json!({"id": id, "method": of, "key": key, "user": user})).await
}
