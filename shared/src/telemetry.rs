//! Logging: readable lines on a terminal, JSON otherwise.
//!
//! Logs go to standard error and never carry payloads, tokens or passwords.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogConfig, LogFormat};

/// Sets up logging for this process. `main` calls it once.
pub fn init(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|error| anyhow::anyhow!("log.level = {:?} is not a filter: {error}", config.level))?;
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).try_init()?;
    } else {
        registry.with(fmt::layer().with_writer(stderr).with_target(false)).try_init()?;
    }
    Ok(())
}
