//! `tidegate token`: prints a connection token.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::ensure;
use tidegate_cli::{output, token::connection_token};
use tidegate_shared::config::{Config, Role};

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
    checked(&args, &config)?;
    output::line(connection_token(&config.auth, &args.user, args.ttl.into(), SystemTime::now())?);
    Ok(ExitCode::SUCCESS)
}

/// Fails for a token that every gateway with this configuration refuses.
fn checked(args: &Args, config: &Config) -> anyhow::Result<()> {
    const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);
    let (user, longest, life) = (&args.user, config.longest_user_id(), config.auth.max_token_life);
    ensure!(
        !user.is_empty() || config.auth.anonymous,
        "--user is empty, and a gateway refuses a token without a user unless auth.anonymous = true"
    );
    ensure!(
        user.len() <= longest && user.trim() == user && !user.contains(char::is_control),
        "--user is no user id: it has at most {longest} bytes, no control characters and no white space at its ends"
    );
    let ttl = args.ttl;
    ensure!(*ttl >= Duration::from_secs(1), "--ttl is {ttl}, and a token lives for 1s or longer");
    ensure!(*ttl <= LONGEST, "--ttl is {ttl}, and a token lives for 100 years at most");
    if !life.is_zero() && *ttl > life {
        let life = humantime::format_duration(life);
        output::note(format!("note: this token ends after {life}, which is auth.max_token_life"));
    }
    Ok(())
}
