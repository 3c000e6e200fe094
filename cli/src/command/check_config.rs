//! `tidegate check-config`: checks the configuration.

use std::process::ExitCode;

use tidegate_cli::output;
use tidegate_shared::config::Role;

use crate::command::ConfigArgs;

/// Arguments of `tidegate check-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load(Role::All)?;
    let source =
        args.config.file().map_or_else(|| "built-in defaults".to_owned(), |f| f.display().to_string());
    output::line(format!(
        "ok: {source}, {} routes, {} namespaces",
        config.routes.len(),
        config.all_namespaces().len()
    ));
    Ok(ExitCode::SUCCESS)
}
