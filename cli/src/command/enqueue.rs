//! `tidegate enqueue`: stores a request as a service does, and prints its id.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::command::{ConfigArgs, access::JsonArg, service};

/// Arguments of `tidegate enqueue`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The method, such as orders.place.
    method: String,
    /// The payload.
    #[arg(value_name = "JSON", default_value = "null")]
    data: JsonArg,
    /// An idempotency key: the request is stored once for each user, method and key.
    #[arg(long)]
    key: Option<String>,
    /// The user it acts for, who gets the answer on the personal channel.
    #[arg(long)]
    user: Option<String>,
    /// How long it waits before a worker may take it, such as 5m.
    #[arg(long, value_name = "DURATION", conflicts_with = "at")]
    delay: Option<String>,
    /// When a worker may take it, in UTC, such as 2026-12-24T18:00:00Z.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Which of the two lanes of its route it goes in [default: the route's].
    #[arg(long, value_name = "LANE", value_parser = ["normal", "high"])]
    priority: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { method, data, key, user, delay, at, priority, config } = args;
    let data: Value = serde_json::from_slice(&data.0)?;
    let params = json!({
        "method": method, "data": data, "key": key, "user": user, "delay": delay, "at": at, "priority": priority,
    });
    service::print(&config, "enqueue", params).await
}
