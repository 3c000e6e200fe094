//! Which publications of a channel a client has. Pure.
//!
//! Several connections publish at a time, so neighbours may come in another order; that is no fault of the server.

/// The numbers that have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// All up to this one.
    whole: u32,
    /// Further ones, few.
    ahead: Vec<u32>,
}

impl Seen {
    /// All up to this number.
    pub(super) fn up_to(whole: u32) -> Self {
        Self { whole, ahead: Vec::new() }
    }

    /// The client begins anew with this number. Returns how many are missing before it.
    pub(super) fn begin_at(&mut self, number: u32) -> u64 {
        let before = Self::up_to(number.saturating_sub(1));
        let missing = self.missing(before.whole);
        if before.whole > self.whole {
            *self = before;
        }
        missing
    }

    /// Takes a number; false if it has come before.
    pub(super) fn take(&mut self, number: u32) -> bool {
        if number <= self.whole || self.ahead.contains(&number) {
            return false;
        }
        if number != self.whole + 1 {
            self.ahead.push(number);
            return true;
        }
        self.whole = number;
        while let Some(at) = self.ahead.iter().position(|ahead| *ahead == self.whole + 1) {
            self.ahead.swap_remove(at);
            self.whole += 1;
        }
        true
    }

    /// How many are missing, if this is the newest one.
    pub(super) fn missing(&self, newest: u32) -> u64 {
        u64::from(newest.saturating_sub(self.whole)).saturating_sub(self.ahead.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_another_order_is_neither_missing_nor_twice() {
        let mut seen = Seen::default();
        assert!([2, 1, 4, 5, 3].map(|number| seen.take(number)).iter().all(|new| *new));
        assert_eq!(seen, Seen::up_to(5));
        assert_eq!(seen.missing(5), 0);
    }

    #[test]
    fn what_lies_before_a_new_beginning_is_counted_once() {
        let mut seen = Seen::up_to(10);
        assert_eq!(seen.begin_at(14), 3);
        assert!(seen.take(14));
        assert_eq!((seen.missing(14), seen.begin_at(12)), (0, 0));
        assert!(!seen.take(12), "nothing is forgotten");
    }

    #[test]
    fn gaps_are_missing_and_repetitions_are_noticed() {
        let mut seen = Seen::up_to(10);
        assert!(seen.take(13) && !seen.take(13) && !seen.take(10));
        assert_eq!(seen.missing(14), 3);
        assert!(seen.take(11) && seen.take(12));
        assert_eq!((seen.missing(13), seen.missing(14)), (0, 1));
    }
}
