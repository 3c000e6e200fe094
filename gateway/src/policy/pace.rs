//! How fast commands may come: so many a second, and those of one second at once. Pure; time is an argument.
//!
//! A pace is eight bytes, since each connection has one. It holds the moment from which nothing of what came before matters any more
//! (the generic cell rate algorithm), so nothing has to be counted down meanwhile.

use std::time::{Duration, Instant};

use tidegate_shared::config::LimitsConfig;

/// Who brings more at once than this time makes up for is sent away: it is not held that long.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// A moment, in nanoseconds since the gateway began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// So many commands a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    interval: u64,
    burst: u64,
}

/// What one client, or one user, has used of its rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pace(u64);

/// What follows from commands that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pacing {
    /// They were within the rate.
    Within,
    /// Nothing further is taken before this moment.
    Hold(Moment),
    /// They are too many at once.
    TooMany,
}

/// The rates of all connections, and when time began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    begin: Instant,
    pub(crate) connection: Rate,
    pub(crate) user: Rate,
}

impl Rates {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        Self::of(limits.messages_per_second, limits.user_messages_per_second)
    }

    pub(super) fn of(connection: usize, user: usize) -> Self {
        Self { begin: Instant::now(), connection: Rate::of(connection), user: Rate::of(user) }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment(u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        self.begin + Duration::from_nanos(moment.0)
    }
}

impl Rate {
    pub(crate) fn of(per_second: usize) -> Self {
        let count = u64::try_from(per_second).unwrap_or(u64::MAX).max(1);
        let interval = (1_000_000_000 / count).max(1);
        Self { interval, burst: interval.saturating_mul(count) }
    }
}

impl Pace {
    /// Counts commands that have come. Those that are too many are not counted: who has brought them is sent away.
    pub(crate) fn charge(&mut self, rate: Rate, commands: usize, now: Moment) -> Pacing {
        let with = self.with(rate, commands, now);
        let pacing = with.pacing(rate, now);
        if pacing != Pacing::TooMany {
            *self = with;
        }
        pacing
    }

    /// As `charge`, for a pace that several connections share. What others have used up makes nobody wait for more than the longest
    /// time, and sends nobody away: too many are only those that would be too many alone.
    pub(crate) fn charge_shared(&mut self, rate: Rate, commands: usize, now: Moment) -> Pacing {
        if Self::default().charge(rate, commands, now) == Pacing::TooMany {
            return Pacing::TooMany;
        }
        let longest = u64::try_from(LONGEST_HOLD.as_nanos()).unwrap_or(u64::MAX);
        let most = now.0.saturating_add(rate.burst).saturating_add(longest);
        self.0 = self.with(rate, commands, now).0.min(most);
        self.pacing(rate, now)
    }

    fn with(self, rate: Rate, commands: usize, now: Moment) -> Self {
        let cost = u64::try_from(commands).unwrap_or(u64::MAX).saturating_mul(rate.interval);
        Self(self.0.max(now.0).saturating_add(cost))
    }

    fn pacing(self, rate: Rate, now: Moment) -> Pacing {
        let free = self.0.saturating_sub(rate.burst);
        match Duration::from_nanos(free.saturating_sub(now.0)) {
            Duration::ZERO => Pacing::Within,
            wait if wait <= LONGEST_HOLD => Pacing::Hold(Moment(free)),
            _ => Pacing::TooMany,
        }
    }

    /// Whether what has come does not matter any more.
    pub(crate) fn is_idle(self, now: Moment) -> bool {
        self.0 <= now.0
    }
}

/// A connection's own pace, and whether its socket is not read until it allows the next command.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hold(u64);

/// The bit of a [`Hold`] that says that the socket is not read. The others are its pace.
const HELD: u64 = 1 << 63;

impl Hold {
    /// Counts commands of the connection.
    pub(crate) fn charge(&mut self, rates: &Rates, commands: usize, now: Moment) -> Pacing {
        let mut pace = Pace(self.0 & !HELD);
        let pacing = pace.charge(rates.connection, commands, now);
        self.0 = (self.0 & HELD) | pace.0.min(HELD - 1);
        pacing
    }

    /// The socket is not read before this moment. If its user's rate says so, the connection's own is used up meanwhile.
    pub(crate) fn hold(&mut self, rates: &Rates, until: Moment) {
        let pace = until.0.saturating_add(rates.connection.burst).min(HELD - 1);
        self.0 = HELD | pace.max(self.0 & !HELD);
    }

    /// Whether the socket is not read.
    pub(crate) fn is_held(self) -> bool {
        self.0 & HELD != 0
    }

    /// Until when the socket is not read.
    pub(crate) fn until(self, rates: &Rates) -> Option<Moment> {
        self.is_held().then(|| Moment((self.0 & !HELD).saturating_sub(rates.connection.burst)))
    }

    /// Ends the hold if its time has come.
    pub(crate) fn release(&mut self, rates: &Rates, now: Moment) {
        if self.until(rates).is_some_and(|until| until <= now) {
            self.0 &= !HELD;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(nanos: u64) -> Moment {
        Moment(nanos)
    }

    #[test]
    fn as_many_as_the_rate_may_come_at_once_and_one_more_is_held() {
        for (commands, expected) in [
            (99, Pacing::Within),
            (100, Pacing::Within),
            (101, Pacing::Hold(at(5 * SECOND + SECOND / 100))),
            (1100, Pacing::Hold(at(15 * SECOND))),
            (1101, Pacing::TooMany),
            (usize::MAX, Pacing::TooMany),
        ] {
            assert_eq!(
                Pace::default().charge(Rate::of(100), commands, at(5 * SECOND)),
                expected,
                "{commands}"
            );
        }
    }

    #[test]
    fn what_has_come_is_forgotten_at_the_rate() {
        let (mut pace, rate) = (Pace::default(), Rate::of(10));
        assert_eq!(pace.charge(rate, 10, at(0)), Pacing::Within);
        assert_eq!(pace.charge(rate, 5, at(SECOND / 2)), Pacing::Within);
        assert_eq!(pace.charge(rate, 1, at(SECOND / 2)), Pacing::Hold(at(SECOND / 2 + SECOND / 10)));
        assert!(!pace.is_idle(at(SECOND)) && pace.is_idle(at(2 * SECOND)));
        assert_eq!(
            pace.charge(rate, 10, at(9 * SECOND)),
            Pacing::Within,
            "rest gives no more than one second"
        );
        assert!(matches!(pace.charge(rate, 1, at(9 * SECOND)), Pacing::Hold(_)));
    }

    #[test]
    fn a_hold_ends_at_its_time() {
        let rates = Rates::of(10, 10);
        let mut hold = Hold::default();
        assert!(hold.until(&rates).is_none());
        assert_eq!(hold.charge(&rates, 10, at(0)), Pacing::Within);
        let Pacing::Hold(until) = hold.charge(&rates, 1, at(0)) else { panic!("one too many") };
        hold.hold(&rates, until);
        assert_eq!(hold.until(&rates), Some(at(SECOND / 10)));
        hold.hold(&rates, at(5 * SECOND));
        assert_eq!(hold.until(&rates), Some(at(5 * SECOND)), "its user has to wait longer");
        hold.release(&rates, at(5 * SECOND - 1));
        assert!(hold.is_held());
        hold.release(&rates, at(5 * SECOND));
        assert!(!hold.is_held() && hold.until(&rates).is_none());
        assert_eq!(size_of::<Hold>(), 8);
    }

    proptest! {
        #[test]
        fn nobody_is_sent_away_or_held_longer_for_what_others_have_used_up(
            per_second in 1_usize..1_000,
            charges in proptest::collection::vec((0_usize..20_000, 0_u64..SECOND), 1..100),
        ) {
            let (mut pace, rate, mut now) = (Pace::default(), Rate::of(per_second), 1);
            for (commands, pause) in charges {
                now += pause;
                let before = pace;
                let alone = Pace::default().charge(rate, commands, at(now));
                match pace.charge_shared(rate, commands, at(now)) {
                    Pacing::TooMany => prop_assert_eq!((alone, pace), (Pacing::TooMany, before), "it is not counted"),
                    pacing => {
                        prop_assert_ne!(alone, Pacing::TooMany);
                        prop_assert!(pacing == Pacing::Within || matches!(pacing, Pacing::Hold(Moment(until))
                            if now < until && until <= now + 10 * SECOND), "{:?} at {}", pacing, now);
                    }
                }
            }
        }

        #[test]
        fn what_is_too_many_is_not_counted(per_second in 1_usize..1_000, commands in 0_usize..20_000) {
            let (mut pace, rate) = (Pace::default(), Rate::of(per_second));
            pace.charge(rate, per_second, at(1));
            let before = pace;
            let pacing = pace.charge(rate, commands, at(1));
            prop_assert_eq!(pacing == Pacing::TooMany, commands > 0 && pace == before);
        }

        #[test]
        fn who_waits_as_told_never_exceeds_the_rate_by_more_than_one_second_and_one_message(
            per_second in 1_usize..2_000,
            messages in proptest::collection::vec((1_usize..20, 0_u64..SECOND / 10), 1..200),
        ) {
            let (mut pace, rate, mut now, mut sent) = (Pace::default(), Rate::of(per_second), 1, 0);
            for (commands, pause) in messages {
                now += pause;
                match pace.charge(rate, commands, at(now)) {
                    Pacing::Within => {}
                    Pacing::Hold(Moment(until)) => now = now.max(until),
                    Pacing::TooMany => return Ok(()),
                }
                sent += commands as u64;
                let rate = per_second as u64;
                let allowed = now * rate / SECOND + rate + commands as u64 + 1;
                prop_assert!(sent <= allowed + allowed / 1000, "{sent} in {now} ns at {per_second}/s");
            }
        }
    }
}
