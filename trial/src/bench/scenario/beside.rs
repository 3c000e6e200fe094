//! What is looked at again and again while something else runs: whether a process is ready, and the most of a reading.

use std::{future::Future, net::SocketAddr, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::scrape;

/// How often.
const EVERY: Duration = Duration::from_millis(200);
/// A process that does not answer in this time is not ready: balancers wait no longer.
const ANSWER: Duration = Duration::from_secs(1);

/// Runs `look` every 200 ms until `work` is done.
pub(super) async fn beside<T>(work: impl Future<Output = T>, mut look: impl AsyncFnMut()) -> T {
    let looking = async {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            look().await;
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = looking => unreachable!("it looks for ever"),
    }
}

/// A process that is asked whether it is ready.
#[derive(Debug)]
pub(super) struct Watched {
    address: SocketAddr,
    path: &'static str,
    not_ready: NotReady,
}

impl Watched {
    pub(super) fn new(address: SocketAddr, path: &'static str) -> Self {
        Self { address, path, not_ready: NotReady::default() }
    }

    pub(super) async fn look(&mut self) {
        let begun = Instant::now();
        let ready = scrape::is_ready(self.address, self.path, ANSWER).await;
        self.not_ready.note(begun, Instant::now(), ready);
    }

    /// The longest time in which it was not ready, in seconds.
    pub(super) fn longest(&self) -> f64 {
        self.not_ready.longest.as_secs_f64()
    }
}

/// The longest time between the first question without a good answer and the next good answer.
#[derive(Debug, Default)]
struct NotReady {
    since: Option<Instant>,
    longest: Duration,
}

impl NotReady {
    fn note(&mut self, begun: Instant, answered: Instant, ready: bool) {
        let since = if ready { self.since.take() } else { Some(*self.since.get_or_insert(begun)) };
        if let Some(since) = since {
            self.longest = self.longest.max(answered - since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_ready_lasts_from_the_first_question_to_the_next_good_answer() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut not_ready = NotReady::default();
        for (begun, answered, ready, longest) in [
            (0, 500, true, 0),
            (600, 700, false, 100),
            (800, 900, false, 300),
            (1000, 1010, true, 410),
            (1200, 1210, true, 410),
            (1400, 1500, false, 410),
        ] {
            not_ready.note(at(begun), at(answered), ready);
            assert_eq!(not_ready.longest, Duration::from_millis(longest), "{begun}");
        }
    }

    #[tokio::test]
    async fn it_looks_until_the_work_is_done() {
        let (look, mut looks) = tokio::sync::mpsc::channel(8);
        let work = async {
            for _ in 0..3 {
                looks.recv().await;
            }
        };
        beside(work, async || look.try_send(()).unwrap()).await;
        assert!(looks.is_empty());
    }
}
