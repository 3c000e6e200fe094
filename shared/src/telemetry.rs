//! Logging: readable lines on a terminal, JSON otherwise.
//!
//! Logs go to standard error and never carry payloads, tokens or passwords.

use std::io::{IsTerminal, stderr};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::LevelFilter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{LogConfig, LogFormat};

/// Sets up logging for this process. `main` calls it once.
pub fn init(config: &LogConfig) -> anyhow::Result<()> {
    Ok(subscriber(config, stderr)?.try_init()?)
}

/// What writes the log of a program with this configuration.
pub fn subscriber<W>(config: &LogConfig, writer: W) -> anyhow::Result<impl Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let mut filter = EnvFilter::try_new(&config.level)
        .map_err(|error| anyhow::anyhow!("log.level = {:?} is not a filter: {error}", config.level))?;
    // The NATS library has a line for each message that it drops.
    if !config.level.contains("async_nats") && filter.max_level_hint() > Some(LevelFilter::WARN) {
        filter = filter.add_directive("async_nats=warn".parse()?);
    }
    let terminal = stderr().is_terminal();
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let lines = fmt::layer().with_writer(writer);
    let lines = match (json, terminal) {
        (true, _) => lines.json().flatten_event(true).boxed(),
        // In colour, unless NO_COLOR is set.
        (false, true) => lines.with_target(false).boxed(),
        (false, false) => lines.with_target(false).with_ansi(false).boxed(),
    };
    Ok(tracing_subscriber::registry().with(filter).with(lines))
}
