//! When a session pings, and when a missing pong ends it. Pure.

use std::time::{Duration, Instant};

/// The ping and pong state of one session.
#[derive(Debug)]
pub(super) struct Liveness {
    next_ping: Instant,
    pong_until: Option<Instant>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    NoPong,
}

impl Liveness {
    /// The first ping comes after half to a whole interval, so that connections made together do not ping together.
    pub(super) fn new(now: Instant, interval: Duration, jitter: f32) -> Self {
        Self { next_ping: now + interval.mul_f32(0.5 + 0.5 * jitter.clamp(0.0, 1.0)), pong_until: None }
    }

    pub(super) fn next_timeout(&self) -> Instant {
        self.pong_until.map_or(self.next_ping, |until| until.min(self.next_ping))
    }

    /// `reading` is false while the gateway itself does not read the socket: then a pong may be waiting in it unread.
    pub(super) fn tick(&mut self, now: Instant, reading: bool, interval: Duration, timeout: Duration) -> Due {
        if let Some(until) = self.pong_until
            && until <= now
        {
            if reading {
                return Due::NoPong;
            }
            self.pong_until = Some(now + timeout);
            self.next_ping = self.next_ping.max(now + timeout);
            return Due::Nothing;
        }
        if self.next_ping <= now && self.pong_until.is_none() {
            self.next_ping = now + interval;
            self.pong_until = Some(now + timeout);
            return Due::Ping;
        }
        Due::Nothing
    }

    /// Takes a pong. Returns false if no ping was sent.
    pub(super) fn pong(&mut self) -> bool {
        self.pong_until.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(25);
    const TIMEOUT: Duration = Duration::from_secs(8);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_ping_is_answered_once() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, INTERVAL, 1.0);
        assert_eq!(liveness.tick(start + secs(24), true, INTERVAL, TIMEOUT), Due::Nothing);
        assert_eq!(liveness.tick(start + secs(25), true, INTERVAL, TIMEOUT), Due::Ping);
        assert!(liveness.pong());
        assert!(!liveness.pong(), "there was one ping");
        assert_eq!(liveness.next_timeout(), start + secs(50));
    }

    #[test]
    fn a_missing_pong_ends_the_session_only_while_the_socket_is_read() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, INTERVAL, 0.0);
        let ping = start + INTERVAL / 2;
        assert_eq!(liveness.tick(ping, true, INTERVAL, TIMEOUT), Due::Ping);
        assert_eq!(liveness.tick(ping + TIMEOUT, false, INTERVAL, TIMEOUT), Due::Nothing);
        assert_eq!(liveness.tick(ping + TIMEOUT * 2, true, INTERVAL, TIMEOUT), Due::NoPong);
    }
}
