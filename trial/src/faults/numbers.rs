//! A set of small numbers, one bit each: ten minutes of publications stay some kilobytes. Pure.

/// Above this a number is refused: it was not counted up by this program, and would need memory without bound.
const MOST: u64 = 1 << 24;

/// A set of numbers that were counted up from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    words: Vec<u64>,
    count: usize,
}

impl Numbers {
    /// All numbers below `end`.
    pub(super) fn below(end: u64) -> Self {
        let mut all = Self::default();
        for number in 0..end {
            all.insert(number);
        }
        all
    }

    /// Returns false if the number is in the set already, or too large.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let Some((word, bit)) = place(number) else { return false };
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let Some(word) = self.words.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(new);
        new
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        place(number).is_some_and(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        let end = self.words.len() as u64 * 64;
        (0..end).filter(|number| self.contains(*number))
    }

    /// Returns the numbers of this set that another one does not have.
    pub(super) fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        self.iter().filter(|number| !other.contains(*number))
    }
}

fn place(number: u64) -> Option<(usize, u64)> {
    let word = usize::try_from(number / 64).ok()?;
    (number < MOST).then_some((word, 1 << (number % 64)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_of_numbers_holds(
            some in proptest::collection::vec(0_u64..2000, 0..200), others in proptest::collection::vec(0_u64..2000, 0..200),
        ) {
            let (mut set, mut numbers) = (BTreeSet::new(), Numbers::default());
            for number in &some {
                prop_assert_eq!(numbers.insert(*number), set.insert(*number));
            }
            prop_assert_eq!(numbers.len(), set.len());
            prop_assert_eq!(numbers.iter().collect::<BTreeSet<_>>(), set.clone());
            let mut other = Numbers::default();
            for number in &others {
                other.insert(*number);
            }
            let expected: BTreeSet<u64> = set.into_iter().filter(|number| !others.contains(number)).collect();
            prop_assert_eq!(numbers.without(&other).collect::<BTreeSet<_>>(), expected);
        }
    }

    #[test]
    fn a_number_that_nobody_counted_takes_no_memory() {
        let mut numbers = Numbers::default();
        assert!(!numbers.insert(u64::MAX) && !numbers.insert(MOST) && numbers.insert(MOST - 1));
        assert_eq!(Numbers::below(3).iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
