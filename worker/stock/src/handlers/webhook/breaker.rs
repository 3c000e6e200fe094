//! When calls of a webhook stop because they fail, and when they begin again. Pure: time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tidegate_shared::config::Breaker as Settings;

/// How long calls wait at most while one of them tries the receiver.
const TRYING: Duration = Duration::from_secs(1);

/// What a call that would begin now has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Begin.
    Go,
    /// Wait for this long and ask again.
    Wait(Duration),
}

/// Opens after a number of failures within a time. Then one call is let through to try the receiver.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: Settings,
    /// When the newest calls failed, at most as many as open the breaker.
    failures: VecDeque<Instant>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// One call tries the receiver. If it never ends, the next one does after this.
    Trying {
        until: Instant,
    },
}

impl Breaker {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, failures: VecDeque::new(), state: State::Closed }
    }

    /// All states, as metrics name them.
    pub(super) const STATES: [&'static str; 3] = ["closed", "open", "trying"];

    /// The name of the state that it is in.
    pub(super) fn state(&self) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::Trying { .. } => "trying",
        }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Go,
            State::Open { until } if now < until => Admission::Wait(until - now),
            State::Trying { until } if now < until => Admission::Wait((until - now).min(TRYING)),
            State::Open { .. } | State::Trying { .. } => {
                self.state = State::Trying { until: now + self.settings.open };
                Admission::Go
            }
        }
    }

    /// Returns whether the breaker was not closed before.
    pub(super) fn succeeded(&mut self) -> bool {
        self.failures.clear();
        std::mem::replace(&mut self.state, State::Closed) != State::Closed
    }

    /// Returns for how long the breaker is open now, if this failure opened it.
    pub(super) fn failed(&mut self, now: Instant) -> Option<Duration> {
        if matches!(self.state, State::Open { .. }) {
            return None;
        }
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|first| now - *first > self.settings.window) {
            self.failures.pop_front();
        }
        let many = self.failures.len() >= usize::try_from(self.settings.failures).unwrap_or(usize::MAX);
        if !many && self.state == State::Closed {
            return None;
        }
        self.failures.clear();
        self.state = State::Open { until: now + self.settings.open };
        Some(self.settings.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_tries_once_and_closes_when_that_succeeds() {
        let second = Duration::from_secs(1);
        let settings = Settings { failures: 3, window: second * 10, open: second * 5 };
        let (mut breaker, begin) = (Breaker::new(settings), Instant::now());
        // Old failures do not count.
        assert_eq!(breaker.failed(begin), None);
        assert_eq!(breaker.failed(begin + second * 11), None);
        assert_eq!(breaker.failed(begin + second * 12), None);
        assert_eq!(breaker.admit(begin + second * 12), Admission::Go);
        assert_eq!(breaker.failed(begin + second * 13), Some(second * 5));
        assert_eq!(breaker.failed(begin + second * 14), None, "calls that were under way do not prolong it");
        assert_eq!(breaker.admit(begin + second * 14), Admission::Wait(second * 4));
        assert_eq!(breaker.admit(begin + second * 18), Admission::Go);
        assert_eq!(breaker.admit(begin + second * 18), Admission::Wait(second), "one call tries");
        assert_eq!(breaker.failed(begin + second * 19), Some(second * 5));
        assert_eq!(breaker.admit(begin + second * 24), Admission::Go);
        assert!(breaker.succeeded());
        assert_eq!(breaker.admit(begin + second * 24), Admission::Go);
        assert!(!breaker.succeeded());
    }
}
