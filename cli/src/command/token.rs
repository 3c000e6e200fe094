//! `tidegate token`: prints a connection token.

use std::{process::ExitCode, time::SystemTime};

use tidegate_cli::{output, token::connection_token};
use tidegate_shared::config::Role;

use crate::command::ConfigArgs;

/// Arguments of `tidegate token`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The user of the token.
    #[arg(long)]
    user: String,
    /// The lifetime, such as 30s or 1h.
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    ttl: humantime::Duration,
}

#[expect(clippy::unused_async, reason = "every command has the same shape")]
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load(Role::Signer)?;
    output::line(connection_token(&config.auth, &args.user, args.ttl.into(), SystemTime::now())?);
    Ok(ExitCode::SUCCESS)
}
