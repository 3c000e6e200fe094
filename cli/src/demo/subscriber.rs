//! A subscriber: records the publications of a few channels in the order they arrive.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use tokio::{task::JoinSet, time::Instant};

use super::plan::Plan;
use crate::client::{Event, Events, ReconnectOptions, ReconnectingClient};

/// The channel of all alerts.
pub(super) const ALERTS: &str = "quakes:alerts";
/// The channel the outside service publishes to.
pub(super) const NOTICE: &str = "quakes:notice";

/// One subscribed client.
#[derive(Debug)]
pub(super) struct DemoSubscriber {
    /// Its user.
    pub(super) user: String,
    /// Its connection.
    pub(super) session: ReconnectingClient,
    channels: Vec<String>,
    log: Arc<Mutex<ReceiveLog>>,
    _task: JoinSet<()>,
}

/// What a subscriber received.
#[derive(Debug, Default)]
pub(super) struct ReceiveLog {
    /// Every publication in order of arrival.
    pub(super) publications: Vec<ReceivedPublication>,
    /// Lost connections.
    pub(super) interruptions: usize,
}

/// One publication.
#[derive(Debug)]
pub(super) struct ReceivedPublication {
    pub(super) channel: String,
    pub(super) data: Bytes,
    /// The id of the request it answers, if it is an answer.
    pub(super) re: Option<String>,
}

/// The counts of one subscriber.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SubscriberCounts {
    /// The alerts it received.
    pub(super) alerts: BTreeSet<String>,
    /// Publications it received more than once.
    pub(super) twice: usize,
    /// Publications of its channels that it did not receive.
    pub(super) missed: usize,
    /// Publications whose event does not belong in their channel.
    pub(super) unknown: usize,
    /// Publications of channels it did not subscribe to.
    pub(super) foreign: usize,
    /// Notices of the outside service.
    pub(super) notices: usize,
    /// Publications on its personal channel.
    pub(super) personal: usize,
}

impl DemoSubscriber {
    /// Connects and subscribes.
    pub(super) fn start(user: String, options: ReconnectOptions) -> Self {
        let channels = options.channels.clone();
        let (session, events) = ReconnectingClient::start(options);
        let log = Arc::new(Mutex::default());
        let mut task = JoinSet::new();
        task.spawn(listen(events, Arc::clone(&log)));
        Self { user, session, channels, log, _task: task }
    }

    /// Waits until it is connected and subscribed.
    pub(super) async fn ready(&self, deadline: Instant) -> anyhow::Result<()> {
        self.session.client(deadline).await?;
        Ok(())
    }

    /// Returns what it received so far.
    pub(super) fn record(&self) -> MutexGuard<'_, ReceiveLog> {
        self.log.lock()
    }

    /// Counts what it received so far.
    pub(super) fn tally(&self, plan: &Plan) -> SubscriberCounts {
        tally(&self.user, &self.channels, &self.record().publications, plan)
    }
}

async fn listen(mut events: Events, log: Arc<Mutex<ReceiveLog>>) {
    while let Some(event) = events.next().await {
        let mut log = log.lock();
        match event {
            Event::Publication { channel, data, mut tags, .. } => {
                log.publications.push(ReceivedPublication { channel, data, re: tags.remove("re") });
            }
            Event::Disconnected(_) => log.interruptions += 1,
            Event::Message { .. } | Event::Unsubscribed { .. } | Event::Connected { .. } => {}
        }
    }
}

fn tally(
    user: &str,
    channels: &[String],
    publications: &[ReceivedPublication],
    plan: &Plan,
) -> SubscriberCounts {
    let mut tally = SubscriberCounts::default();
    let mut received: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let personal = format!("#{user}");
    for publication in publications {
        let channel = publication.channel.as_str();
        match expected(channel, plan) {
            _ if channel == personal => tally.personal += 1,
            _ if !channels.iter().any(|own| own == channel) => tally.foreign += 1,
            None => tally.notices += 1,
            Some(expected) => match event_id(&publication.data).filter(|id| expected.contains(id)) {
                None => tally.unknown += 1,
                Some(id) => tally.twice += usize::from(!received.entry(channel).or_default().insert(id)),
            },
        }
    }
    for channel in channels {
        let all = expected(channel, plan).map_or(0, BTreeSet::len);
        tally.missed += all - received.get(channel.as_str()).map_or(0, BTreeSet::len);
    }
    tally.alerts = received.remove(ALERTS).unwrap_or_default();
    tally
}

/// Returns the events that must be published in a channel. `None` for a channel without earthquakes.
fn expected<'a>(channel: &str, plan: &'a Plan) -> Option<&'a BTreeSet<String>> {
    match channel {
        ALERTS => Some(&plan.alerts),
        _ => plan.networks.get(channel.strip_prefix("quakes:")?),
    }
}

fn event_id(data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct PublishedQuake {
        id: String,
    }
    serde_json::from_slice::<PublishedQuake>(data).ok().map(|event| event.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let feed = [("a", "ci", 5.0), ("b", "ci", 1.0), ("c", "us", 4.5)]
            .map(|(id, net, mag)| format!(r#"{{"id":"{id}","net":"{net}","mag":{mag}}}"#));
        Plan::read(&feed.join("\n")).unwrap()
    }

    fn counts(publications: &[(&str, &str)]) -> SubscriberCounts {
        let publications: Vec<_> = publications
            .iter()
            .map(|(channel, id)| ReceivedPublication {
                channel: (*channel).to_owned(),
                data: format!(r#"{{"id":"{id}"}}"#).into(),
                re: None,
            })
            .collect();
        let channels = [ALERTS, NOTICE, "quakes:ci"].map(str::to_owned);
        tally("l", &channels, &publications, &plan())
    }

    #[test]
    fn one_copy_of_every_publication_is_complete() {
        let all =
            [(ALERTS, "a"), (ALERTS, "c"), ("quakes:ci", "a"), ("quakes:ci", "b"), (NOTICE, ""), ("#l", "")];
        let alerts = BTreeSet::from(["a".to_owned(), "c".to_owned()]);
        assert_eq!(
            counts(&all),
            SubscriberCounts { alerts, notices: 1, personal: 1, ..SubscriberCounts::default() }
        );
    }

    #[test]
    fn missing_duplicate_and_misplaced_publications_are_counted() {
        let tally =
            counts(&[(ALERTS, "a"), (ALERTS, "a"), (ALERTS, "b"), ("quakes:us", "c"), ("#other", "")]);
        assert_eq!((tally.twice, tally.unknown, tally.foreign, tally.missed), (1, 1, 2, 3));
    }
}
