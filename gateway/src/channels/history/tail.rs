//! Finds where the newest messages of a channel begin. JetStream reads a channel forward only, but says how many of its
//! messages follow a sequence: the search narrows down the sequence behind which as many follow as are wanted. Pure.

/// A search for the sequence behind which `wanted` messages follow.
#[derive(Debug)]
pub(super) struct TailSearch {
    wanted: u64,
    /// A few messages more cost less than another question.
    most: u64,
    /// At least the wanted messages begin here.
    low: (u64, u64),
    /// Fewer than the wanted messages begin here.
    high: (u64, u64),
    /// Every second guess halves the range, so that messages in clusters cost few guesses more.
    halve: bool,
}

/// The first message at or behind a sequence, and how many there are from it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) first: u64,
    pub(super) count: u64,
}

impl TailSearch {
    /// Searches for `wanted` messages before the sequence `high`. `all` are the messages of the channel; from `high` on
    /// there are `behind` of them.
    pub(super) fn new(wanted: u64, all: Counted, high: u64, behind: u64) -> Self {
        let (most, wanted) = (wanted + wanted / 8 + behind, wanted + behind);
        Self { wanted, most, low: (all.first, all.count), high: (high, behind), halve: false }
    }

    /// The next sequence to count from. `None` when the search is done.
    pub(super) fn guess(&mut self) -> Option<u64> {
        let ((low, most), (high, fewest)) = (self.low, self.high);
        if most <= self.most || high <= low + 1 {
            return None;
        }
        self.halve = !self.halve;
        let width = high - low;
        let step = if self.halve {
            let share = u128::from(self.wanted - fewest.min(self.wanted)) * u128::from(width);
            width - u64::try_from(share / u128::from((most - fewest.min(most)).max(1))).unwrap_or(width)
        } else {
            width / 2
        };
        Some(low + step.clamp(1, width - 1))
    }

    /// Notes what was counted from a guess on. `None` if no message follows it.
    pub(super) fn note(&mut self, guess: u64, counted: Option<Counted>) {
        match counted {
            Some(Counted { first, count }) if count >= self.wanted => self.low = (first, count),
            Some(Counted { count, .. }) => self.high = (guess, count),
            None => self.high = (guess, 0),
        }
    }

    /// Where the wanted messages begin, and how many messages begin there.
    pub(super) fn start(&self) -> Counted {
        Counted { first: self.low.0, count: self.low.1 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(channel: &[u64], from: u64) -> Option<Counted> {
        let at = channel.partition_point(|seq| *seq < from);
        Some(Counted { first: *channel.get(at)?, count: (channel.len() - at) as u64 })
    }

    proptest! {
        /// Messages of one channel lie anywhere in the stream, also in clusters.
        #[test]
        fn the_search_ends_at_the_wanted_messages_after_few_questions(
            gaps in proptest::collection::vec(prop_oneof![8 => 1u64..3, 1 => 1u64..100_000], 1..2000),
            wanted in 1u64..400,
            before in proptest::option::of(0u64..100),
        ) {
            let mut last = 0;
            let channel: Vec<u64> = gaps.into_iter().map(|gap| { last += gap; last }).collect();
            let high = before.map_or(last + 1, |share| 1 + last * share / 100);
            let behind = counted(&channel, high).map_or(0, |counted| counted.count);
            let all = counted(&channel, 0).unwrap();
            let mut search = TailSearch::new(wanted, all, high, behind);
            let mut questions = 0;
            while let Some(guess) = search.guess() {
                search.note(guess, counted(&channel, guess));
                questions += 1;
                prop_assert!(questions <= 60);
            }
            let found = channel.iter().filter(|seq| (search.start().first..high).contains(*seq)).count() as u64;
            let there = all.count - behind;
            prop_assert!(found >= wanted.min(there), "{} of {}", found, wanted);
            prop_assert!(found <= wanted + wanted / 8, "{} of {}", found, wanted);
        }
    }
}
