//! `tidegate call`: sends one request; prints the answer to standard output and progress to standard error.

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use tidegate_cli::{
    client::{CallError, Event, Events},
    output,
};
use tidegate_shared::protocol::codes;
use tokio::time::{Instant, timeout_at};

use crate::command::access::{self, AccessArgs, JsonArg};

/// Arguments of `tidegate call`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The method, such as orders.place.
    method: String,
    /// The payload.
    #[arg(value_name = "JSON", default_value = "null")]
    data: JsonArg,
    /// An idempotency key: the same call with the same key gives the same answer.
    #[arg(long)]
    key: Option<String>,
    /// How long to wait for the answer.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    timeout: humantime::Duration,
    #[command(flatten)]
    access: AccessArgs,
}

/// The immediate reply of a route with `answer = "later"`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receipt {
    id: String,
    seq: u64,
    duplicate: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (client, events) = access::connect(args.access.options()?).await?;
    let method = match &args.key {
        Some(key) => format!("{}#{key}", args.method),
        None => args.method.clone(),
    };
    let begun = Instant::now();
    let answer = client.rpc_timeout(&method, args.data.0.clone(), *args.timeout).await;
    let code = match answer {
        Ok(data) => {
            if let Ok(receipt) = serde_json::from_slice(&data) {
                later(&receipt, events, begun, *args.timeout).await
            } else {
                output::note(format!("answered after {}", milliseconds(begun.elapsed())));
                show(&data);
                ExitCode::SUCCESS
            }
        }
        Err(error) => {
            output::note(format!("error: {error}"));
            if let Some(advice) = advice(&error, args.key.is_some()) {
                output::note(advice);
            }
            ExitCode::FAILURE
        }
    };
    client.close().await;
    Ok(code)
}

/// Waits for the answer on the personal channel.
async fn later(receipt: &Receipt, mut events: Events, begun: Instant, timeout: Duration) -> ExitCode {
    let Receipt { id, seq, duplicate } = receipt;
    let known = if *duplicate { ", which had it already" } else { "" };
    output::note(format!(
        "accepted as number {seq} of its route{known} after {}: request {id}",
        milliseconds(begun.elapsed())
    ));
    loop {
        match timeout_at(begun + timeout, events.next()).await {
            Ok(Some(Event::Publication { channel, data, tags, .. })) if tags.get("re") == Some(id) => {
                let tags: Vec<_> =
                    tags.iter().filter(|(name, _)| *name != "re").map(|(n, v)| format!("{n}={v}")).collect();
                let tags = if tags.is_empty() { String::new() } else { format!(" ({})", tags.join(", ")) };
                output::note(format!("answered on {channel} after {}{tags}", milliseconds(begun.elapsed())));
                show(&data);
                return ExitCode::SUCCESS;
            }
            Ok(Some(Event::Disconnected(closed))) => {
                output::note(format!("error: {closed}; the request stays accepted"));
                return ExitCode::FAILURE;
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                output::note(format!(
                    "no answer on the personal channel within {}",
                    humantime::format_duration(timeout)
                ));
                if *duplicate {
                    output::note(
                        "the request is a duplicate: its answer was published on the personal channel when it was ready",
                    );
                }
                return ExitCode::FAILURE;
            }
        }
    }
}

/// Returns the next step after an error.
fn advice(error: &CallError, keyed: bool) -> Option<&'static str> {
    const STILL_WORKING: u32 = codes::STILL_WORKING.code;
    const OUTCOME_UNKNOWN: u32 = codes::OUTCOME_UNKNOWN.code;
    const NOT_ACCEPTED: u32 = codes::NOT_ACCEPTED.code;
    Some(match (error.code(), keyed) {
        (Some(STILL_WORKING), true) => {
            "the request is stored: repeat the same call with the same --key to get its answer"
        }
        (Some(STILL_WORKING), false) => {
            "the request is stored: its answer goes to the user's personal channel (tidegate sub --all); with --key \
             the call could be repeated"
        }
        (Some(OUTCOME_UNKNOWN), true) => "repeat the same call with the same --key: it gives one answer",
        (Some(OUTCOME_UNKNOWN), false) => {
            "the request may be stored; repeating it may execute it twice, which --key prevents"
        }
        (Some(NOT_ACCEPTED), _) => "the request was not stored: try again",
        (None, true) if !matches!(error, CallError::Payload(_)) => {
            "repeat the same call with the same --key: it gives one answer"
        }
        _ => return None,
    })
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

fn show(data: &Bytes) {
    output::line(String::from_utf8_lossy(data));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_receipt_parses_as_one() {
        let receipt = Receipt { id: "a.b".into(), seq: 7, duplicate: false };
        assert_eq!(
            serde_json::from_str::<Receipt>(r#"{"id":"a.b","seq":7,"duplicate":false}"#).unwrap(),
            receipt
        );
        for other in
            ["null", "{}", r#"{"id":"a.b","seq":7}"#, r#"{"id":"a.b","seq":7,"duplicate":false,"x":1}"#]
        {
            assert!(serde_json::from_str::<Receipt>(other).is_err(), "{other}");
        }
    }

    #[test]
    fn accepted_work_is_explained_with_and_without_a_key() {
        let error = codes::STILL_WORKING.error().into();
        assert!(advice(&error, true).unwrap().contains("--key"));
        assert!(advice(&error, false).unwrap().contains("personal channel"));
        assert_eq!(advice(&codes::METHOD_NOT_FOUND.error().into(), true), None);
    }
}
