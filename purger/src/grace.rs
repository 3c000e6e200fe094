//! Which floor may be purged: one that has been known for a moment. Pure.
//!
//! A message that a worker terminates moves the floor like an acknowledged one. The broker says so with an advisory, which
//! arrives in its stream a moment after the floor has moved, and the sweeper reads the message after that.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a floor is known before what is not above it may be purged.
pub(crate) const GRACE: Duration = Duration::from_secs(1);
/// The most floors that are remembered: a moment's, at the shortest interval. With more, the newest one is left out.
const MOST: usize = 256;

/// The floors of a moment.
#[derive(Debug, Default)]
pub(crate) struct Grace {
    floors: VecDeque<(Instant, u64)>,
    settled: u64,
}

impl Grace {
    /// The floor is known now. Returns the one that may be purged: never more than the floor of now, because a stream that was made
    /// anew begins again.
    pub(crate) fn look(&mut self, floor: u64, now: Instant) -> u64 {
        let is_new = self.floors.back().map_or(self.settled, |(_, known)| *known) != floor;
        if is_new && self.floors.len() < MOST {
            self.floors.push_back((now, floor));
        }
        while let Some((since, known)) = self.floors.front().copied() {
            if now.saturating_duration_since(since) < GRACE {
                break;
            }
            self.settled = known;
            self.floors.pop_front();
        }
        self.settled.min(floor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    #[test]
    fn a_floor_is_purged_when_it_has_been_known_for_a_moment() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        assert_eq!(grace.look(7, start), 0);
        assert_eq!(grace.look(9, start + STEP), 0);
        assert_eq!(grace.look(9, start + GRACE), 7);
        assert_eq!(grace.look(9, start + STEP + GRACE), 9);
    }

    #[test]
    fn the_floor_of_a_stream_that_was_made_anew_counts_from_the_beginning() {
        let (mut grace, start) = (Grace::default(), Instant::now());
        grace.look(9, start);
        assert_eq!(grace.look(9, start + GRACE), 9);
        assert_eq!(grace.look(2, start + GRACE + STEP), 2, "no more than it has now");
        assert_eq!(grace.look(3, start + GRACE * 3), 2);
        assert_eq!(grace.look(3, start + GRACE * 4), 3);
    }

    proptest! {
        #[test]
        fn what_may_be_purged_was_the_floor_a_moment_ago_and_in_the_end_it_is_the_floor(
            moves in proptest::collection::vec(0..3_u64, 1..300)
        ) {
            let (mut grace, mut now, mut floor) = (Grace::default(), Instant::now(), 0);
            let mut known = Vec::new();
            for more in moves {
                floor += more;
                now += STEP;
                known.push((now, floor));
                let settled = grace.look(floor, now);
                let before = known.iter().rfind(|(at, _)| now.duration_since(*at) >= GRACE);
                prop_assert!(settled <= before.map_or(0, |(_, floor)| *floor));
            }
            grace.look(floor, now + GRACE);
            prop_assert_eq!(grace.look(floor, now + GRACE * 2), floor);
        }
    }
}
