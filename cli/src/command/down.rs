//! `tidegate down`: stops gateways, workers and broker of the local stack.

use std::process::ExitCode;

use tidegate_cli::{output, stack::control};

use crate::command::DirArgs;

/// Arguments of `tidegate down`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    dir: DirArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    output::line(control::end(&args.dir.dir).await?);
    Ok(ExitCode::SUCCESS)
}
