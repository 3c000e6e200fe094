//! `tidegate man`: writes the manual pages.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;
use tidegate_cli::output;

/// Arguments of `tidegate man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory for the pages, one for each command; it is made if it does not exist.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = args.dir;
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    clap_mangen::generate_to(crate::Cli::command(), &dir)
        .with_context(|| format!("writing into {}", dir.display()))?;
    output::line(format!("the pages are in {}: man -l {}", dir.display(), dir.join("tidegate.1").display()));
    Ok(ExitCode::SUCCESS)
}
