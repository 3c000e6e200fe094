//! What is left of a round whose batch was refused: its halves are tried, and their halves, until few messages are left that are
//! stored alone. One message that refuses its batch costs a few batches more, and not one call for each of the others. Pure.

use super::FEWEST;

/// So many batches of a round may be refused: two bad messages among a thousand cost no more. What is left then is stored alone.
const REFUSED: usize = 12;

/// A round, in its order.
#[derive(Debug)]
pub(super) struct Parts<T> {
    /// The next one is the last.
    left: Vec<Vec<T>>,
    refused: usize,
}

/// What is stored next.
#[derive(Debug)]
pub(super) enum Part<T> {
    Together(Vec<T>),
    Alone(Vec<T>),
}

impl<T> Parts<T> {
    pub(super) fn of(round: Vec<T>) -> Self {
        Self { left: vec![round], refused: 0 }
    }

    pub(super) fn next(&mut self) -> Option<Part<T>> {
        let part = self.left.pop()?;
        let alone = part.len() < FEWEST || self.refused >= REFUSED;
        Some(if alone { Part::Alone(part) } else { Part::Together(part) })
    }

    /// The part that came last was refused: nothing of it is stored.
    pub(super) fn refused(&mut self, mut part: Vec<T>) {
        self.refused += 1;
        let behind = part.split_off(part.len() / 2);
        self.left.extend([behind, part]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Stores a round in which these messages refuse their batch. Returns the order, and how many messages were sent.
    fn store(count: usize, bad: &[usize]) -> (Vec<usize>, usize, usize) {
        let (mut parts, mut stored) = (Parts::of((0..count).collect()), Vec::new());
        let (mut sent, mut calls) = (0, 0);
        while let Some(part) = parts.next() {
            match part {
                Part::Together(part) => {
                    sent += part.len();
                    calls += 1;
                    if part.iter().any(|one| bad.contains(one)) {
                        parts.refused(part);
                    } else {
                        stored.extend(part);
                    }
                }
                Part::Alone(part) => {
                    sent += part.len();
                    calls += part.len();
                    stored.extend(part);
                }
            }
        }
        (stored, sent, calls)
    }

    proptest! {
        #[test]
        fn each_message_is_stored_once_and_in_order(count in 0..1001_usize, bad in prop::collection::vec(0..1000_usize, 0..40)) {
            let (stored, sent, _) = store(count, &bad);
            prop_assert_eq!(stored, (0..count).collect::<Vec<_>>());
            prop_assert!(sent <= count * 8, "a message is in at most seven batches, and then alone: {}", sent);
        }

        #[test]
        fn one_bad_message_costs_a_few_batches(bad in 0..1000_usize) {
            let (_, sent, calls) = store(1000, &[bad]);
            prop_assert!(calls <= 7 + 6 + 2 * FEWEST, "{}", calls);
            prop_assert!(sent <= 3000, "{}", sent);
        }
    }

    #[test]
    fn where_all_are_bad_most_are_stored_alone() {
        let (stored, sent, _) = store(1000, &(0..1000).collect::<Vec<_>>());
        assert_eq!((stored.len(), sent < 4000), (1000, true), "{sent}");
    }
}
