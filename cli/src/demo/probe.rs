//! Probe requests that measure the time to acceptance. Their route has `answer = "later"`, so the client gets a receipt once
//! the request is stored; other requests get only the answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::Instant;

use super::{subscriber::DemoSubscriber, verdict::ProbeCounts};

/// Probe requests in one run.
const PROBES: usize = 200;
/// The pause between two probes.
const PAUSE: Duration = Duration::from_millis(10);
/// The method. Its answer comes on the personal channel.
const METHOD: &str = "later.echo";
/// The interval of checks for answers.
const POLL: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct ProbeReceipt {
    id: String,
}

/// The results of the probes.
#[derive(Debug, Default)]
pub(super) struct ProbeResults {
    pub(super) counts: ProbeCounts,
    pub(super) accepted_after: Vec<Duration>,
    pub(super) failures: Vec<String>,
}

/// Sends the probes one after the other and waits for their answers on the personal channel of `subscriber`.
pub(super) async fn run(subscriber: &DemoSubscriber, deadline: Instant) -> ProbeResults {
    let mut probed = ProbeResults::default();
    let mut ids = BTreeSet::new();
    for number in 0..PROBES {
        let begun = Instant::now();
        let (key, data) = (format!("probe-{number}"), number.to_string());
        let receipt = subscriber.session.call_keyed(METHOD, &key, data, deadline).await;
        probed.counts.sent += 1;
        match receipt.map(|answered| serde_json::from_slice::<ProbeReceipt>(&answered.data)) {
            Ok(Ok(receipt)) => {
                probed.counts.accepted += 1;
                probed.accepted_after.push(begun.elapsed());
                ids.insert(receipt.id);
            }
            Ok(Err(error)) => probed.failures.push(format!("{key}: not a receipt: {error}")),
            Err(error) => probed.failures.push(format!("{key}: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let mut answers = answers(subscriber);
    while !ids.iter().all(|id| answers.contains_key(id)) && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        answers = self::answers(subscriber);
    }
    probed.counts.answered = ids.iter().filter(|id| answers.contains_key(*id)).count();
    probed
}

/// Counts the answers to each request on the personal channel.
pub(super) fn answers(subscriber: &DemoSubscriber) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for id in subscriber.record().publications.iter().filter_map(|publication| publication.re.clone()) {
        *answers.entry(id).or_default() += 1;
    }
    answers
}
