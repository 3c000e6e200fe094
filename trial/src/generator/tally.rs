//! What a generator has counted during one order; those of several processes are added up. Pure.

use serde::{Deserialize, Serialize};

use crate::stats::{Failures, Series};

/// The counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Clients that are connected and subscribed at the end.
    pub(crate) up: u64,
    /// Connects that were completed, with their times from the first packet to the last reply.
    pub(crate) joins: Series,
    /// From the end of a connection to being up again.
    pub(crate) returns: Series,
    /// Of those: subscriptions that went on where they had been, and those that could not.
    pub(crate) resumed: u64,
    pub(crate) not_resumed: u64,
    /// Connections that ended against the client's will, and those that were cut.
    pub(crate) ended: u64,
    pub(crate) cut: u64,
    pub(crate) sent: u64,
    /// From the intended time to the answer.
    pub(crate) answers: Series,
    /// From the intended time to each delivery.
    pub(crate) deliveries: Series,
    /// Publications that a client did not get, though a later one came, or at the end.
    pub(crate) missing: u64,
    /// Publications that a client did not get, and was told so: its subscription could not go on where it had been.
    pub(crate) told: u64,
    pub(crate) twice: u64,
    /// From the intended time to the sending: a generator that is late measures itself.
    pub(crate) late: Series,
    /// The longest time of one process from the first request to the last answer, without the warm-up.
    pub(crate) nanos: u64,
    /// The processor time that the watched processes used meanwhile, in nanoseconds, in their order.
    pub(crate) cpu: Vec<u64>,
    pub(crate) failures: Failures,
}

impl Tally {
    /// Adds what another process counted at the same time.
    pub(crate) fn add(&mut self, other: Self) -> anyhow::Result<()> {
        self.joins.add(&other.joins)?;
        self.returns.add(&other.returns)?;
        self.answers.add(&other.answers)?;
        self.deliveries.add(&other.deliveries)?;
        self.late.add(&other.late)?;
        self.failures.add(other.failures);
        self.nanos = self.nanos.max(other.nanos);
        // All processes watch the same ones.
        if self.cpu.is_empty() {
            self.cpu = other.cpu;
        }
        let counts = [
            (&mut self.up, other.up),
            (&mut self.resumed, other.resumed),
            (&mut self.not_resumed, other.not_resumed),
            (&mut self.ended, other.ended),
            (&mut self.cut, other.cut),
            (&mut self.sent, other.sent),
            (&mut self.missing, other.missing),
            (&mut self.told, other.told),
            (&mut self.twice, other.twice),
        ];
        for (sum, count) in counts {
            *sum += count;
        }
        Ok(())
    }

    /// The measured time.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run of minutes")]
    pub(crate) fn seconds(&self) -> f64 {
        self.nanos as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_times_of_two_processes_are_merged_and_not_averaged() {
        let of = |ms: u64, count: usize| {
            let mut tally = Tally { sent: 1, nanos: ms, ..Tally::default() };
            (0..count).for_each(|_| tally.deliveries.record(Duration::from_millis(ms)).unwrap());
            tally
        };
        let (mut fast, slow) = (of(1, 99), of(100, 1));
        let sent = serde_json::to_string(&slow).unwrap();
        fast.add(serde_json::from_str(&sent).unwrap()).unwrap();
        let times = fast.deliveries.times();
        assert_eq!(times.count, 100);
        assert!(times.p50 < 1.1 && times.p99 < 1.1 && (times.max - 100.0).abs() < 0.2, "{times}");
        assert_eq!((fast.sent, fast.nanos), (2, 100));
    }
}
