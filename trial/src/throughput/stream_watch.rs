//! Records which requests the stream stored, and in which order, from the broker's own copies.
//!
//! Acknowledged requests leave a work queue, so it cannot be read afterwards. For the run the stream is configured to republish
//! what it has stored; the copies carry the stream's own sequence numbers. A subscription to the requests' subjects would
//! also see what the stream refused, and would know nothing of its order.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::Context;
use async_nats::{Subscriber, header::NATS_SEQUENCE, jetstream::stream::Republish};
use futures_util::{StreamExt, future::ready};
use serde::{Deserialize, Serialize};
use tidegate_cli::stack::setup;
use tidegate_shared::{broker::Broker, config::Config, topology};
use tokio::{task::JoinSet, time::sleep};

/// How long is waited for copies of requests that are stored a second time.
const LATE: Duration = Duration::from_secs(1);
/// The watching connection publishes nothing.
const IN_FLIGHT: usize = 1;

/// A subscription to the copies.
#[derive(Debug)]
pub(super) struct StreamWatch {
    watcher: Broker,
    /// Collects copies until the connection ends.
    reading: JoinSet<Vec<RepublishedRequest>>,
}

/// One stored request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RepublishedRequest {
    seq: u64,
    body: RequestBody,
}

/// What the scenario puts into every request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
struct RequestBody {
    caller: usize,
    n: usize,
}

/// What the stream has stored.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct StoredRequests {
    /// Distinct requests.
    requests: usize,
    /// Requests that were sent and are not among them.
    missing: usize,
    /// Requests stored a second time.
    twice: usize,
    /// Requests stored behind a later one of the same caller.
    out_of_order: usize,
}

impl StreamWatch {
    /// Has the streams of the routes republish, and listens.
    pub(super) async fn start(config: &Config) -> anyhow::Result<Self> {
        let nats = &config.nats;
        let destination = format!("{}.live.in.>", nats.prefix);
        // Gateways may listen below `live`, and `in` is no namespace's name there.
        let watcher = Broker::connect(nats, &nats.gateway, "trial watch", IN_FLIGHT, true).await?;
        let copies = watcher.client().subscribe(destination.clone()).await?;
        watcher.client().flush().await?;
        let setup = setup::connect(config).await?;
        for route in &config.routes {
            let stream = setup.jetstream().get_stream(topology::request_stream(&route.name)).await?;
            let mut changed = stream.cached_info().config.clone();
            let (source, destination) = (config.subjects().all_requests(), destination.clone());
            changed.republish = Some(Republish { source, destination, headers_only: false });
            setup.jetstream().update_stream(changed).await.context("having the requests republished")?;
        }
        let mut reading = JoinSet::new();
        reading.spawn(read(copies));
        Ok(Self { watcher, reading })
    }

    /// Says what was stored, given what was sent.
    pub(super) async fn finish(mut self, callers: usize, each: usize) -> anyhow::Result<StoredRequests> {
        sleep(LATE).await;
        self.watcher.client().drain().await?;
        let copies = self.reading.join_next().await.context("nothing was read")??;
        Ok(StoredRequests::of(copies, callers * each))
    }
}

async fn read(copies: Subscriber) -> Vec<RepublishedRequest> {
    copies.filter_map(|message| ready(copy(&message))).collect().await
}

fn copy(message: &async_nats::Message) -> Option<RepublishedRequest> {
    let seq = message.headers.as_ref()?.get(NATS_SEQUENCE)?.as_str().parse().ok()?;
    Some(RepublishedRequest { seq, body: serde_json::from_slice(&message.payload).ok()? })
}

impl StoredRequests {
    fn of(mut copies: Vec<RepublishedRequest>, sent: usize) -> Self {
        copies.sort_by_key(|copy| copy.seq);
        let mut stored = Self::default();
        let mut seen = HashSet::new();
        let mut last: HashMap<usize, usize> = HashMap::new();
        for RepublishedRequest { body, .. } in copies {
            let last = last.entry(body.caller).or_insert(body.n);
            if body.n < *last {
                stored.out_of_order += 1;
            }
            *last = body.n.max(*last);
            if !seen.insert(body) {
                stored.twice += 1;
            }
        }
        stored.requests = seen.len();
        stored.missing = sent.saturating_sub(stored.requests);
        stored
    }

    /// Returns the failed checks, one sentence each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let counts = [
            (self.missing, "requests are missing in the stream"),
            (self.twice, "requests were stored twice"),
            (self.out_of_order, "requests were stored out of their caller's order"),
        ];
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"))
    }

    /// Returns the lines for the table.
    pub(super) fn lines(&self) -> [String; 4] {
        [
            format!("  stored          {}", self.requests),
            format!("  lost            {}", self.missing),
            format!("  stored twice    {}", self.twice),
            format!("  out of order    {}", self.out_of_order),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(copies: &[(u64, usize, usize)], sent: usize) -> StoredRequests {
        let copies = copies.iter().map(|(seq, caller, n)| RepublishedRequest {
            seq: *seq,
            body: RequestBody { caller: *caller, n: *n },
        });
        StoredRequests::of(copies.collect(), sent)
    }

    #[test]
    fn callers_may_interleave_and_copies_may_come_in_any_order() {
        let all = stored(&[(2, 1, 0), (1, 0, 0), (4, 1, 1), (3, 0, 1)], 4);
        assert_eq!(all, StoredRequests { requests: 4, ..StoredRequests::default() });
        assert_eq!(all.problems().count(), 0);
    }

    #[test]
    fn missing_duplicate_and_disordered_requests_are_counted() {
        let all = stored(&[(1, 0, 1), (2, 0, 0), (3, 0, 2), (4, 0, 2)], 4);
        assert_eq!(all, StoredRequests { requests: 3, missing: 1, twice: 1, out_of_order: 1 });
        assert_eq!(all.problems().count(), 3);
    }
}
