//! The missing keys that tokens named, and whether a fetch since could have brought them. Pure.

use std::collections::HashSet;

/// The most names in one set. Beyond it the set stands for every name, so that a flood of names hides no name.
const MOST: usize = 1024;

/// The names of missing keys, by the fetch that settles them.
#[derive(Default)]
pub(super) struct Sightings {
    /// Seen since the last fetch began. It may have come too early for them.
    new: Names,
    /// Seen before the fetch that is under way, or is repeated, began.
    asked: Names,
    /// Seen before the last successful fetch began.
    settled: Names,
}

#[derive(Default)]
struct Names {
    names: HashSet<Box<str>>,
    every: bool,
}

impl Sightings {
    /// Notes a missing key. Returns whether a fetch since it was first missed has not brought it.
    pub(super) fn is_withdrawn(&mut self, kid: &str) -> bool {
        self.new.insert(kid);
        self.settled.contains(kid)
    }

    /// A fetch begins.
    pub(super) fn fetching(&mut self) {
        let new = std::mem::take(&mut self.new);
        self.asked.every |= new.every;
        for name in &new.names {
            self.asked.insert(name);
        }
    }

    /// The fetch has succeeded. Without a fetch that has begun nothing is settled.
    pub(super) fn fetched(&mut self) {
        self.settled = std::mem::take(&mut self.asked);
    }
}

impl Names {
    fn insert(&mut self, name: &str) {
        if self.every || self.names.contains(name) {
            return;
        }
        if self.names.len() < MOST {
            self.names.insert(name.into());
        } else {
            *self = Self { names: HashSet::new(), every: true };
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.every || self.names.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_withdrawn_once_a_fetch_that_began_later_has_not_brought_it() {
        let mut missing = Sightings::default();
        assert!(!missing.is_withdrawn("a"));
        missing.fetching();
        assert!(!missing.is_withdrawn("a") && !missing.is_withdrawn("b"), "the fetch is under way");
        missing.fetching();
        missing.fetched();
        assert!(
            missing.is_withdrawn("a") && missing.is_withdrawn("b"),
            "the first fetch failed, the second did not"
        );
        assert!(!missing.is_withdrawn("c"), "first missed after it");
        missing.fetching();
        missing.fetched();
        assert!(missing.is_withdrawn("a") && missing.is_withdrawn("c"), "missed again and again");
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_hides_no_name() {
        let mut missing = Sightings::default();
        for number in 0..10 * MOST {
            missing.is_withdrawn(&number.to_string());
        }
        assert!(missing.new.names.len() <= MOST);
        missing.is_withdrawn("late");
        missing.fetching();
        missing.fetched();
        assert!(missing.is_withdrawn("late"));
    }
}
