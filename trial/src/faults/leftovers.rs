//! What requests have left in the broker: in their streams, at their consumers, and as dead letters.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::{self, consumer};
use futures_util::TryStreamExt;
use tidegate_cli::stack::Stack;
use tidegate_shared::{broker::Broker, header, topology};
use tokio::time::{Instant, sleep};

use super::findings::{Findings, Wrong};

/// How long the workers, and whoever removes what is done, may take to leave nothing.
const LIMIT: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(250);
/// How many dead letters are told.
const TOLD: usize = 20;

/// Whether requests wait in this stream. Each route has a stream of its own.
fn holds_requests(stream: &str) -> bool {
    stream.starts_with(topology::REQUESTS) || stream == topology::PARK
}

/// Returns every consumer of requests.
pub(super) async fn consumers(jetstream: &jetstream::Context) -> anyhow::Result<Vec<consumer::Info>> {
    let mut all = Vec::new();
    let mut names = jetstream.stream_names();
    while let Some(name) = names.try_next().await? {
        if holds_requests(&name) {
            let stream = jetstream.get_stream(&name).await?;
            all.extend(stream.consumers().try_collect::<Vec<_>>().await?);
        }
    }
    all.sort_by(|a, b| (&a.stream_name, &a.name).cmp(&(&b.stream_name, &b.name)));
    Ok(all)
}

/// Waits until nothing of a request is left. Adds what is left at the deadline, and every dead letter.
pub(super) async fn look(stack: &Stack, admin: &Broker, findings: &mut Findings) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = left(admin.jetstream()).await.context("reading the streams of requests")?;
        if left.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            for words in left {
                findings.add(Wrong::Left, || words);
            }
            break;
        }
        sleep(LOOK).await;
    }
    dead_letters(stack, admin, findings).await
}

async fn left(jetstream: &jetstream::Context) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    let mut names = jetstream.stream_names();
    while let Some(name) = names.try_next().await? {
        if holds_requests(&name) {
            let stream = jetstream.get_stream(&name).await?;
            let state = &stream.cached_info().state;
            if state.messages > 0 {
                let (first, last) = (state.first_sequence, state.last_sequence);
                left.push(format!("{} messages in {name}, sequences {first} to {last}", state.messages));
            }
        }
    }
    for consumer in consumers(jetstream).await? {
        if consumer.num_pending > 0 || consumer.num_ack_pending > 0 {
            left.push(format!(
                "consumer {} of {}: {} pending, {} not acknowledged",
                consumer.name, consumer.stream_name, consumer.num_pending, consumer.num_ack_pending
            ));
        }
    }
    Ok(left)
}

/// No handler of the run fails so often that its request may become a dead letter.
async fn dead_letters(stack: &Stack, admin: &Broker, findings: &mut Findings) -> anyhow::Result<()> {
    let subject = stack.config().subjects().all_dead();
    let found = admin.range(topology::DEAD, &subject, 1, TOLD).await.context("reading dead letters")?;
    for message in &found.messages {
        let headers = message.headers.clone().unwrap_or_default();
        let said = |name: &str| headers.get(name).map_or("?".to_owned(), ToString::to_string);
        findings.add(Wrong::Refused, || {
            format!(
                "a dead letter of {} on route {}, request {}: {}: {}",
                said(header::USER),
                said(header::ROUTE),
                said(header::ID),
                said(header::DEAD_REASON),
                said(header::DEAD_ERROR)
            )
        });
    }
    for _ in 0..found.more {
        findings.add(Wrong::Refused, || "a further dead letter".to_owned());
    }
    Ok(())
}
