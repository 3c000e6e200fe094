//! Publishes as an outside service, waits for deliveries and counts them.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use tidegate_shared::{broker::Broker, channel::Channel, config::Config};
use tokio::time::Instant;

use super::{
    plan::Plan,
    subscriber::{DemoSubscriber, NOTICE, SubscriberCounts},
    verdict::{DeliveryCounts, ServiceCounts},
};

/// How long the last publications may take to reach the subscribers.
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for duplicates after the last delivery.
const DUPLICATE_WAIT: Duration = Duration::from_millis(500);

/// Publishes to a channel and to one user, as an outside service would.
pub(super) async fn publish_as_service(
    config: &Config,
    listeners: &[DemoSubscriber],
    deadline: Instant,
) -> anyhow::Result<()> {
    // These channels have no history, so every subscriber has to be connected first.
    for listener in listeners {
        listener.ready(deadline).await.with_context(|| listener.user.clone())?;
    }
    let addressed = listeners.first().context("the demo has no subscribers")?;
    let service = Broker::connect(&config.nats, &config.nats.service, "demo service", 1, true).await?;
    for channel in [Channel::parse(NOTICE)?, Channel::personal(&addressed.user)] {
        let subject = config.subjects().channel(&channel);
        service.client().publish(subject, r#"{"text":"from an outside service"}"#.into()).await?;
    }
    Ok(service.client().flush().await?)
}

/// Waits until every subscriber has all it can receive, then a moment longer for duplicates.
pub(super) async fn wait_for_deliveries(plan: &Plan, listeners: &[DemoSubscriber]) {
    let end = Instant::now() + DELIVERY_LIMIT;
    let complete = |listener: &DemoSubscriber| {
        let tally = listener.tally(plan);
        tally.notices > 0 && (tally.missed == 0 || listener.record().interruptions > 0)
    };
    while Instant::now() < end && !listeners.iter().all(complete) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(DUPLICATE_WAIT).await;
}

/// Sums up the publications that all subscribers received.
pub(super) fn count(plan: &Plan, listeners: &[DemoSubscriber]) -> (DeliveryCounts, ServiceCounts) {
    let (mut deliveries, mut alerts) = (DeliveryCounts::default(), BTreeSet::new());
    let mut service = ServiceCounts { listeners: listeners.len(), ..ServiceCounts::default() };
    for (index, listener) in listeners.iter().enumerate() {
        let interruptions = listener.record().interruptions;
        let SubscriberCounts { alerts: own, twice, missed, unknown, foreign, notices, personal } =
            listener.tally(plan);
        alerts.extend(own);
        deliveries.twice += twice;
        deliveries.unknown += unknown;
        deliveries.interruptions += interruptions;
        // The client does not recover publications it missed while disconnected, so they do not count.
        deliveries.missed += if interruptions == 0 { missed } else { 0 };
        service.notices += usize::from(notices == 1);
        service.misdelivered += foreign + if index == 0 { 0 } else { personal };
        if index == 0 {
            service.personal = personal == 1;
        }
    }
    deliveries.alerts = alerts.len();
    (deliveries, service)
}
