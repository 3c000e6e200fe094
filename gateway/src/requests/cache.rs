//! How full the result cache TIDE_REPLY is. Before it is full, requests whose answers it would have to store are refused: an
//! answer that finds no room holds its worker up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_shared::{
    broker::Broker,
    fault::{Place, Problem},
    lifecycle::Lifecycle,
    protocol::{Error, codes},
    topology::REPLY,
};
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;

/// From this share of its `max_bytes` on, the cache admits no request.
const HIGH_WATER_PERCENT: u64 = 90;
/// How often the gateway asks the broker, and how long the broker may take.
const EVERY: Duration = Duration::from_secs(1);
/// How often it asks while the cache is fuller than this share.
const OFTEN: Duration = Duration::from_millis(100);
const OFTEN_PERCENT: u64 = 50;

/// What the broker said last about the cache. Empty before it has said anything.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    bytes: AtomicU64,
    max_bytes: AtomicU64,
}

impl Cache {
    /// Refuses a request whose answer would have to be stored, if there is little room left.
    pub(crate) fn admit(&self) -> Result<(), Error> {
        self.full().map_or(Ok(()), |why| Err(codes::NOT_ACCEPTED.because(why)))
    }

    /// Why requests are refused. `None` while there is room.
    fn full(&self) -> Option<String> {
        let (bytes, max) = (self.bytes.load(Relaxed), self.max_bytes.load(Relaxed));
        reaches(HIGH_WATER_PERCENT, bytes, max).then(|| {
            format!(
                "the result cache TIDE_REPLY has {bytes} of {max} bytes, and admits nothing from {HIGH_WATER_PERCENT} % on"
            )
        })
    }

    /// Follows the stream until the gateway has finished.
    pub(crate) fn watch(self: &Arc<Self>, broker: Broker, metrics: Metrics, lifecycle: &Lifecycle) {
        let (this, ends) = (Arc::clone(self), lifecycle.clone());
        lifecycle.spawn_essential("result cache", async move {
            tokio::select! {
                () = this.follow(&broker, &metrics) => {}
                () = ends.finishing() => {}
            }
        });
    }

    fn pause(&self) -> Duration {
        let (bytes, max) = (self.bytes.load(Relaxed), self.max_bytes.load(Relaxed));
        if reaches(OFTEN_PERCENT, bytes, max) { OFTEN } else { EVERY }
    }

    async fn follow(&self, broker: &Broker, metrics: &Metrics) {
        let place = || Place::Store(REPLY.to_owned());
        loop {
            // Without news, the last ones count.
            if let Ok(Ok((bytes, max))) = timeout(EVERY, broker.stream_room(REPLY)).await {
                self.bytes.store(bytes, Relaxed);
                self.max_bytes.store(max, Relaxed);
                metrics.result_cache(bytes, max);
                match self.full() {
                    Some(why) => broker.health().met(&place(), Problem::Full(why)),
                    None => broker.health().works(place),
                }
            }
            sleep(self.pause()).await;
        }
    }
}

/// Whether so much of it is used. Never without a limit.
fn reaches(percent: u64, bytes: u64, max: u64) -> bool {
    max > 0 && u128::from(bytes) * 100 >= u128::from(max) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_refused_from_nine_tenths_on_and_never_without_a_limit() {
        for (bytes, max, full) in [
            (0, 0, false),
            (899, 1000, false),
            (900, 1000, true),
            (u64::MAX, 0, false),
            (u64::MAX, u64::MAX, true),
        ] {
            assert_eq!(reaches(HIGH_WATER_PERCENT, bytes, max), full, "{bytes} of {max}");
        }
        let cache = Cache::default();
        assert_eq!(cache.admit(), Ok(()));
        cache.bytes.store(95, Relaxed);
        cache.max_bytes.store(100, Relaxed);
        let error = cache.admit().unwrap_err();
        assert!(error.temporary && error.code == 1000, "{error:?}");
        assert!(error.message.contains("TIDE_REPLY has 95 of 100 bytes"), "{error:?}");
    }
}
