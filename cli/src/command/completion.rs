//! `tidegate completion`: prints what a shell needs to complete the commands.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use tidegate_cli::output;

/// Arguments of `tidegate completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "tidegate", &mut script);
    output::text(&String::from_utf8(script)?);
    Ok(ExitCode::SUCCESS)
}
