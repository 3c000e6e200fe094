//! What waits for the worker's routes: asked of the broker now and then, for the metrics. Every worker of a route has the same
//! figures.
//!
//! Never logged: a broker that is away has faults of its own, and figures that are not known are not shown.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use tidegate_shared::{
    broker::{self, Broker, NotDone},
    topology::PARK,
};

use crate::{engine::Engine, metrics::Backlog};

/// How often the broker is asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// The consumers of one route.
#[derive(Debug)]
pub(crate) struct RouteQueues {
    pub(crate) route: String,
    /// Each with its stream.
    pub(crate) consumers: Vec<(String, String)>,
}

/// Keeps the metrics current, for ever.
pub(crate) async fn watch(engine: &Engine, routes: &[RouteQueues]) -> Infallible {
    loop {
        for queues in routes {
            let backlog = backlog(engine, queues).await.ok();
            engine.metrics.backlog(&queues.route, backlog);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn backlog(engine: &Engine, queues: &RouteQueues) -> Result<Backlog, NotDone> {
    let mut backlog = Backlog::default();
    for (stream, consumer) in &queues.consumers {
        let progress = engine.broker.progress(stream, consumer).await?;
        backlog.waiting += progress.waiting;
        backlog.unacknowledged += progress.unacknowledged;
        if stream != PARK && progress.waiting + progress.unacknowledged > 0 {
            let oldest = stored_at(&engine.broker, stream, progress.floor + 1).await;
            let age = oldest.and_then(|stored| engine.clock.about_now().duration_since(stored).ok());
            backlog.oldest = backlog.oldest.max(age.unwrap_or_default());
        }
    }
    Ok(backlog)
}

/// When the oldest message at or behind a sequence was stored.
async fn stored_at(broker: &Broker, stream: &str, seq: u64) -> Option<SystemTime> {
    broker::stored_at(&broker.first_from(stream, seq).await.ok()??)
}
