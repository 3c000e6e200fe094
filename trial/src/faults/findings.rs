//! What is wrong, counted by kind, with the first few of each kind in words. Pure and bounded.

use std::collections::BTreeMap;

use serde::Serialize;

/// How many of each kind are kept in words.
const KEPT: usize = 8;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wrong {
    /// Accepted, and never answered or never received.
    Lost,
    /// One key with two answers, or one publication or answer received twice.
    Doubled,
    /// A client received what is for somebody else.
    Leaked,
    /// A key that gives no answer when everything is quiet.
    Blocked,
    /// A client was told that what it missed cannot be recovered, although the history holds it.
    Unrecovered,
    /// A client was told that nothing was stored, but it was; or what it received was never sent.
    Misinformed,
    /// A request was refused for good, or became a dead letter.
    Refused,
    /// Something of a request is left in the broker.
    Left,
    /// A process has panicked, or did not come back.
    Broken,
}

/// Everything that was found.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Findings {
    counts: BTreeMap<Wrong, usize>,
    words: BTreeMap<Wrong, Vec<String>>,
}

impl Findings {
    pub(super) fn add(&mut self, wrong: Wrong, words: impl FnOnce() -> String) {
        *self.counts.entry(wrong).or_default() += 1;
        let kept = self.words.entry(wrong).or_default();
        if kept.len() < KEPT {
            kept.push(words());
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (wrong, count) in other.counts {
            *self.counts.entry(wrong).or_default() += count;
        }
        for (wrong, words) in other.words {
            let kept = self.words.entry(wrong).or_default();
            kept.extend(words);
            kept.truncate(KEPT);
        }
    }

    pub(super) fn count(&self, wrong: Wrong) -> usize {
        self.counts.get(&wrong).copied().unwrap_or_default()
    }

    pub(super) fn total(&self) -> usize {
        self.counts.values().sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The first few of each kind, a line each.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.words.iter().flat_map(|(wrong, words)| {
            let more = self.count(*wrong).saturating_sub(words.len());
            let more = (more > 0).then(|| format!("{wrong:?}: and {more} more"));
            words.iter().map(move |words| format!("{wrong:?}: {words}")).chain(more)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_few_are_told() {
        let (mut all, mut other) = (Findings::default(), Findings::default());
        for number in 0..100 {
            all.add(Wrong::Lost, || format!("key {number}"));
            other.add(Wrong::Lost, || format!("other {number}"));
        }
        other.add(Wrong::Left, || "a request".to_owned());
        all.merge(other);
        assert_eq!((all.count(Wrong::Lost), all.count(Wrong::Left), all.count(Wrong::Leaked)), (200, 1, 0));
        let lines: Vec<String> = all.lines().collect();
        assert_eq!(lines.len(), KEPT + 2);
        assert_eq!(lines[0], "Lost: key 0");
        assert!(
            lines.contains(&"Lost: and 192 more".to_owned()) && lines.contains(&"Left: a request".to_owned())
        );
    }
}
