//! What reaches the listeners from outside, and what all of it comes to.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use tidegate_shared::{broker::Broker, channel::Channel, config::Config};
use tokio::time::Instant;

use super::{
    plan::Plan,
    subscriber::{DemoSubscriber, NOTICE, SubscriberCounts},
    verdict::{DeliveryCounts, ServiceCounts},
};

/// How long the last publications may take to the listeners.
const HEARING: Duration = Duration::from_secs(10);
/// How long after everything was heard something may still come twice.
const ECHO: Duration = Duration::from_millis(500);

/// Publishes as any other program would: to a channel, and to one user.
pub(super) async fn speak_as_service(
    config: &Config,
    listeners: &[DemoSubscriber],
    deadline: Instant,
) -> anyhow::Result<()> {
    // Publications wait for nobody here: whoever is to hear them has to be connected.
    for listener in listeners {
        listener.ready(deadline).await.with_context(|| listener.user.clone())?;
    }
    let addressed = listeners.first().context("there are listeners")?;
    let service = Broker::connect(&config.nats, &config.nats.service, "demo service", 1, true).await?;
    for channel in [Channel::parse(NOTICE)?, Channel::personal(&addressed.user)] {
        let subject = config.subjects().channel(&channel);
        service.client().publish(subject, r#"{"text":"from an outside service"}"#.into()).await?;
    }
    Ok(service.client().flush().await?)
}

/// Waits until every listener has what it can have; then a little for what should not come.
pub(super) async fn wait_for_the_last_words(plan: &Plan, listeners: &[DemoSubscriber]) {
    let end = Instant::now() + HEARING;
    let complete = |listener: &DemoSubscriber| {
        let tally = listener.tally(plan);
        tally.notices > 0 && (tally.missed == 0 || listener.record().interruptions > 0)
    };
    while Instant::now() < end && !listeners.iter().all(complete) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(ECHO).await;
}

/// Sums up what all listeners heard.
pub(super) fn sum_up(plan: &Plan, listeners: &[DemoSubscriber]) -> (DeliveryCounts, ServiceCounts) {
    let (mut heard, mut alerts) = (DeliveryCounts::default(), BTreeSet::new());
    let mut service = ServiceCounts { listeners: listeners.len(), ..ServiceCounts::default() };
    for (index, listener) in listeners.iter().enumerate() {
        let interruptions = listener.record().interruptions;
        let SubscriberCounts { alerts: own, twice, missed, unknown, foreign, notices, personal } =
            listener.tally(plan);
        alerts.extend(own);
        heard.twice += twice;
        heard.unknown += unknown;
        heard.interruptions += interruptions;
        // What was published while a listener was away is not made up for by the client.
        heard.missed += if interruptions == 0 { missed } else { 0 };
        service.notices += usize::from(notices == 1);
        service.misdelivered += foreign + if index == 0 { 0 } else { personal };
        if index == 0 {
            service.personal = personal == 1;
        }
    }
    heard.alerts = alerts.len();
    (heard, service)
}
