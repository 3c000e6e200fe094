//! Compares recorded runs with what a strict order promises. Pure.
//!
//! A line is `b <key> <n> <process>` where a run begins, `e ...` where it has had its effect, `k - 0 <process>` where that process
//! was killed. Every line was appended by one write, so the lines are in the order in which things happened.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Checked {
    pub(super) effects: usize,
    /// Effects of a request that had one already.
    pub(super) repeated: usize,
    /// Keys whose effects are not in order, or not all there.
    pub(super) disorder: Vec<String>,
    /// Runs that began while another process ran a request of their key.
    pub(super) at_once: Vec<String>,
}

#[derive(Debug, Default)]
struct Key {
    effects: Vec<u64>,
    /// The run that has begun and not ended: its number and its process.
    running: Option<(u64, u32)>,
}

/// Checks the lines; each key has `each` requests, numbered from 0.
pub(super) fn check(text: &str, each: usize) -> anyhow::Result<Checked> {
    let (mut keys, mut checked) = (BTreeMap::<&str, Key>::new(), Checked::default());
    for line in text.lines() {
        let (what, key, n, process) =
            read(line).with_context(|| format!("the line {line:?} is unreadable"))?;
        if what == "k" {
            let ended = keys.values_mut().filter(|key| key.running.is_some_and(|(_, by)| by == process));
            ended.for_each(|key| key.running = None);
            continue;
        }
        let runs = keys.entry(key).or_default();
        if what == "b" {
            if let Some((other, by)) = runs.running {
                checked.at_once.push(format!("{key}: {n} began at {process} while {other} ran at {by}"));
            }
            runs.running = Some((n, process));
        } else {
            runs.running = None;
            runs.effects.push(n);
            checked.effects += 1;
        }
    }
    for (key, runs) in keys {
        let all = runs.effects.len();
        let mut effects = runs.effects;
        effects.dedup();
        checked.repeated += all - effects.len();
        if let Some((place, n)) = effects.iter().enumerate().find(|(place, n)| **n != *place as u64) {
            checked.disorder.push(format!("{key}: effect {place} is that of request {n}"));
        } else if effects.len() != each {
            checked.disorder.push(format!("{key}: {} effects of {each} requests", effects.len()));
        }
    }
    Ok(checked)
}

fn read(line: &str) -> Option<(&str, &str, u64, u32)> {
    let mut words = line.split(' ');
    let what = words.next().filter(|what| ["b", "e", "k"].contains(what))?;
    Some((what, words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[&str]) -> Checked {
        check(&lines.join("\n"), 2).unwrap()
    }

    #[test]
    fn a_request_that_is_repeated_behind_itself_is_in_order() {
        let found = found(&["b a 0 1", "e a 0 1", "k - 0 1", "b a 0 2", "e a 0 2", "b a 1 2", "e a 1 2"]);
        assert_eq!(found, Checked { effects: 3, repeated: 1, ..Checked::default() });
    }

    #[test]
    fn an_effect_in_the_wrong_place_and_one_that_is_missing_are_found() {
        let swapped = found(&["b a 1 1", "e a 1 1", "b a 0 1", "e a 0 1"]);
        assert_eq!(swapped.disorder, ["a: effect 0 is that of request 1"]);
        let again = found(&["b a 0 1", "e a 0 1", "b a 1 1", "e a 1 1", "b a 0 1", "e a 0 1"]);
        assert_eq!(again.disorder, ["a: effect 2 is that of request 0"]);
        assert_eq!(found(&["b a 0 1", "e a 0 1"]).disorder, ["a: 1 effects of 2 requests"]);
    }

    #[test]
    fn two_runs_of_a_key_at_once_are_found_unless_the_first_was_killed() {
        let two = found(&["b a 0 1", "b a 0 2", "e a 0 2", "b a 1 2", "e a 1 2"]);
        assert_eq!(two.at_once, ["a: 0 began at 2 while 0 ran at 1"]);
        let killed = found(&["b a 0 1", "k - 0 1", "b a 0 2", "e a 0 2", "b a 1 2", "e a 1 2"]);
        assert!(killed.at_once.is_empty());
    }

    #[test]
    fn a_line_that_is_torn_is_an_error() {
        assert!(check("b a 0 1\ne a", 1).is_err());
    }
}
