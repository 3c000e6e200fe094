//! What happens to clients at a time: they lose their connection, return, or read slowly.

use std::cmp::Reverse;

use super::{Due, Engine};
use crate::generator::{
    clock::{self, millis},
    link::Phase,
    order::Cuts,
};

/// How often a slow client reads.
const SLOW_MS: u64 = 100;

impl Engine {
    pub(in crate::generator) fn cut_later(&mut self, at: usize, cuts: Cuts) {
        let life = rand::random_range(cuts.every_ms / 2..=cuts.every_ms * 3 / 2);
        self.at(clock::now() + millis(life), at, Due::Cut);
    }

    pub(super) fn timers_due(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        while let Some(Reverse((due, at, what))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            match what {
                Due::Cut => self.cut(at),
                Due::Return => self.dial(at)?,
                Due::SlowRead => self.slow_read(at),
            }
        }
        Ok(())
    }

    fn cut(&mut self, at: usize) {
        let (Some(cuts), Some(link)) = (self.cuts, self.links.get_mut(at)) else { return };
        if link.phase == Phase::Up && !link.publisher {
            link.drop_connection();
            link.gone = clock::now();
            self.tally.cut += 1;
            self.at(clock::now() + millis(cuts.offline_ms), at, Due::Return);
        }
    }

    /// Makes a client slow, once it is up again with a small receive buffer.
    pub(in crate::generator) fn slow_down(&mut self, at: usize, bytes_per_second: u64) {
        self.slow_bytes = bytes_per_second;
        if let Some(link) = self.links.get_mut(at) {
            link.slow = true;
            link.apart = true;
        }
        self.at(clock::now(), at, Due::SlowRead);
    }

    fn slow_read(&mut self, at: usize) {
        if !self.links.get(at).is_some_and(|link| link.slow) {
            return;
        }
        let most = self.slow_bytes * SLOW_MS / 1000;
        let result = self.read(at, usize::try_from(most).unwrap_or(usize::MAX));
        self.judge(at, result);
        self.at(clock::now() + millis(SLOW_MS), at, Due::SlowRead);
    }

    /// Ends the slowness of clients, and reads what has waited for them.
    pub(in crate::generator) fn speed_up(&mut self) {
        for at in 0..self.links.len() {
            if let Some(link) = self.links.get_mut(at).filter(|link| link.slow) {
                link.slow = false;
                let result = self.read(at, usize::MAX);
                self.judge(at, result);
            }
        }
    }
}
