//! `tidegate kill`, `stop` and `start`: act on one process of the local stack.

use std::process::ExitCode;

use tidegate_cli::{
    output,
    stack::control::{self, ControlRequest},
};

use crate::command::DirArgs;

/// Arguments of `tidegate kill`.
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// The process, or `worker` or `gateway` for any of them.
    name: String,
}

/// Arguments of `tidegate stop` and `tidegate start`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    dir: DirArgs,
    /// The process.
    name: String,
}

pub(crate) async fn kill(KillArgs { dir, name }: KillArgs) -> anyhow::Result<ExitCode> {
    ask(&dir, &ControlRequest::Kill { name }).await
}

pub(crate) async fn stop(Args { dir, name }: Args) -> anyhow::Result<ExitCode> {
    ask(&dir, &ControlRequest::Stop { name }).await
}

pub(crate) async fn start(Args { dir, name }: Args) -> anyhow::Result<ExitCode> {
    ask(&dir, &ControlRequest::Start { name }).await
}

async fn ask(dir: &DirArgs, request: &ControlRequest) -> anyhow::Result<ExitCode> {
    output::line(control::ask(&dir.dir, request).await?.text);
    Ok(ExitCode::SUCCESS)
}
