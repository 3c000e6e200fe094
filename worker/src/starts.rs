//! A limit of attempts that all workers together begin in a second: of one route, or of routes that share a `[[rate_limit]]`.
//!
//! Time is divided into windows by the broker's clock. For each window there is a counter at the broker. A worker adds to it what
//! it wants to begin and reads from the answer how much of that is within the limit. So all workers together never begin more in
//! a window than it allows, whatever their clocks say and however many of them there are.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_nats::HeaderMap;
use serde::Deserialize;
use tidegate_shared::{
    broker::Broker,
    config::{RateLimit, Route},
    header,
    subject::Subjects,
    topology::PARK,
};
use tokio::sync::Mutex;

use crate::{backoff::Pauses, clock::Clock};

/// The shortest window: the limit of a second is divided into so many of them.
const WINDOWS_PER_SECOND: u64 = 10;
/// The pause after the first question that was not answered.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// One limit: that of a route's attempts, or that of the calls which routes with the same `[[rate_limit]]` make.
#[derive(Debug)]
pub(crate) struct Starts {
    /// What it limits, as the broker counts it.
    counted: Counted,
    per_second: u64,
    /// How many may begin at once, if that is more than a tenth of a second's.
    burst: u64,
    /// Attempts that wait to begin.
    waiting: AtomicU32,
    granted: Mutex<Granted>,
}

/// Which counts of the broker belong to a limit.
#[derive(Debug)]
enum Counted {
    Route(String),
    Limit(String),
}

/// What the broker has granted in a window and has not begun.
#[derive(Debug, Default)]
struct Granted {
    window: u64,
    rest: u64,
}

/// The broker's acknowledgement of an addition.
#[derive(Deserialize)]
struct Added {
    /// The sum.
    val: Option<String>,
}

impl Starts {
    /// The limit of a route. `None` if it has none.
    pub(crate) fn of_route(route: &Route) -> Option<Self> {
        let counted = Counted::Route(route.name.clone());
        (route.starts_per_second > 0).then(|| Self::new(counted, route.starts_per_second, 1))
    }

    /// A limit that several routes may share.
    pub(crate) fn of_limit(limit: &RateLimit) -> Self {
        Self::new(Counted::Limit(limit.name.clone()), limit.per_second, limit.burst)
    }

    fn new(counted: Counted, per_second: u32, burst: u32) -> Self {
        let (per_second, burst) = (u64::from(per_second.max(1)), u64::from(burst.max(1)));
        Self { counted, per_second, burst, waiting: AtomicU32::new(0), granted: Mutex::default() }
    }

    /// Waits until an attempt of this route may begin. Attempts of one worker begin in the order of the calls.
    pub(crate) async fn come(&self, broker: &Broker, subjects: &Subjects, clock: &Clock, route: &str) {
        let _waiting = Waiting::new(&self.waiting);
        let mut granted = self.granted.lock().await;
        let mut pauses = Pauses::new(FIRST_PAUSE);
        loop {
            let now = clock.now(broker, PARK, route).await;
            let window = self.window(now);
            if granted.window == window && granted.rest > 0 {
                granted.rest -= 1;
                return;
            }
            let wanted = u64::from(self.waiting.load(Relaxed).max(1)).min(self.quota(window)).max(1);
            let Some(sum) = add(broker, self.subject(subjects, window), wanted).await else {
                tokio::time::sleep(pauses.failed()).await;
                continue;
            };
            pauses.succeeded();
            let allowed = wanted.saturating_sub(sum.saturating_sub(self.quota(window)));
            if allowed > 0 {
                *granted = Granted { window, rest: allowed - 1 };
                return;
            }
            tokio::time::sleep(self.until_next(now)).await;
        }
    }

    fn subject(&self, subjects: &Subjects, window: u64) -> String {
        match &self.counted {
            Counted::Route(route) => subjects.start(route, window),
            Counted::Limit(limit) => subjects.limited(limit, window),
        }
    }

    /// Whether a window has a whole burst, rather than a tenth of a second's.
    fn in_bursts(&self) -> bool {
        self.burst * WINDOWS_PER_SECOND >= self.per_second
    }

    /// The length of a window in milliseconds.
    fn length(&self) -> u64 {
        if self.in_bursts() {
            return (1000 * self.burst).div_ceil(self.per_second);
        }
        1000 / WINDOWS_PER_SECOND
    }

    fn window(&self, now: SystemTime) -> u64 {
        milliseconds(now) / self.length()
    }

    fn until_next(&self, now: SystemTime) -> Duration {
        Duration::from_millis(self.length() - milliseconds(now) % self.length())
    }

    /// How many attempts may begin in a window.
    fn quota(&self, window: u64) -> u64 {
        if self.in_bursts() {
            return self.burst;
        }
        let until = |index: u64| index * self.per_second / WINDOWS_PER_SECOND;
        let index = window % WINDOWS_PER_SECOND;
        until(index + 1) - until(index)
    }
}

/// One attempt that waits.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicU32) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Adds to the count of a window, and returns the sum. `None` if the broker does not say.
async fn add(broker: &Broker, subject: String, wanted: u64) -> Option<u64> {
    let mut headers = HeaderMap::new();
    headers.insert(header::INCREMENT, format!("+{wanted}"));
    let answer = broker.client().request_with_headers(subject.clone(), headers, bytes::Bytes::new()).await;
    let answer = answer
        .inspect_err(|error| tracing::debug!(nats.subject = subject, %error, "starts cannot be counted"))
        .ok()?;
    let added: Added = serde_json::from_slice(&answer.payload).ok()?;
    let sum = added.val.and_then(|sum| sum.parse().ok());
    if sum.is_none() {
        tracing::warn!(nats.subject = subject, answer = %String::from_utf8_lossy(&answer.payload), "the broker does not count starts");
    }
    sum
}

fn milliseconds(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(per_second: u32, burst: u32) -> Starts {
        Starts::new(Counted::Route("job".to_owned()), per_second, burst)
    }

    #[test]
    fn the_windows_of_a_second_allow_what_the_second_does() {
        for per_second in [11, 15, 99, 100, 1234, 10_000] {
            let starts = starts(per_second, 1);
            assert_eq!(starts.length(), 100);
            for begin in [0, 3, 17] {
                let sum: u64 = (begin..begin + WINDOWS_PER_SECOND).map(|window| starts.quota(window)).sum();
                assert_eq!(sum, u64::from(per_second));
            }
        }
    }

    #[test]
    fn a_slow_rate_has_one_start_in_a_long_window_and_a_burst_has_a_window_of_its_own() {
        for (per_second, burst, length) in
            [(1, 1, 1000), (3, 1, 334), (7, 1, 143), (10, 1, 100), (50, 10, 200), (1, 5, 5000), (50, 6, 120)]
        {
            let starts = starts(per_second, burst);
            assert_eq!((starts.quota(5), starts.length()), (u64::from(burst), length));
        }
    }
}
