//! The result of a run as a table, and whether it passes.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;
use tidegate_cli::output;

use crate::report::Verdict;

use super::findings::{Findings, Wrong};

/// The result.
#[derive(Debug, Default, Serialize)]
pub(crate) struct FaultsResult {
    pub(super) seed: u64,
    pub(super) seconds: u64,
    pub(super) faults: usize,
    pub(super) connections: u64,
    /// Ends of connections, by close code.
    pub(super) ends: BTreeMap<u16, u64>,
    pub(super) keys: u64,
    pub(super) answered: u64,
    pub(super) retries: u64,
    /// Runs of handlers: at least one for each key, more for those that fail first or lost their worker.
    pub(super) runs: usize,
    pub(super) slowest_ms: u128,
    pub(super) slowest_key: String,
    pub(super) published: u64,
    pub(super) stored: usize,
    pub(super) messages: u64,
    pub(super) frames: u64,
    pub(super) found: Findings,
    /// Where the logs are, if they are kept.
    pub(super) kept: Option<PathBuf>,
}

/// The rows of the verdict. Each has to be 0.
const ROWS: [(&str, &[Wrong]); 7] = [
    ("lost", &[Wrong::Lost]),
    ("doubled", &[Wrong::Doubled]),
    ("leaked", &[Wrong::Leaked]),
    ("keys blocked", &[Wrong::Blocked]),
    ("left in the broker", &[Wrong::Left]),
    ("dead or refused", &[Wrong::Refused]),
    ("other faults", &[Wrong::Unrecovered, Wrong::Misinformed, Wrong::Broken]),
];

impl Verdict for FaultsResult {
    /// Whether nothing is lost, doubled, leaked, blocked or left.
    fn adds_up(&self) -> bool {
        self.found.is_empty() && self.answered > 0 && self.stored > 0 && self.frames > 0
    }

    fn print(&self) {
        for line in self.lines() {
            output::note(line);
        }
    }
}

impl FaultsResult {
    fn lines(&self) -> Vec<String> {
        let ends: Vec<String> =
            self.ends.iter().map(|(code, times)| format!("{times} with {code}")).collect();
        let row = |name: &str, value: String| format!("  {name:<19} {value}");
        let mut lines = vec![
            format!("faults: {} in {} s, seed {}", self.faults, self.seconds, self.seed),
            row("connections", format!("{}, ended {}", self.connections, ends.join(", "))),
            row("keys answered", format!("{} of {}", self.answered, self.keys)),
            row("slowest answer", format!("{} ms, {}", self.slowest_ms, self.slowest_key)),
            row("calls repeated", self.retries.to_string()),
            row("runs of handlers", self.runs.to_string()),
            row("publications", format!("{} stored of {} sent by clients", self.stored, self.published)),
            row("messages", format!("{} of a service", self.messages)),
            row("frames checked", self.frames.to_string()),
        ];
        for (name, wrongs) in ROWS {
            let count: usize = wrongs.iter().map(|wrong| self.found.count(*wrong)).sum();
            lines.push(row(name, count.to_string()));
        }
        lines.extend(self.found.lines().map(|line| format!("    {line}")));
        if let Some(kept) = &self.kept {
            lines.push(format!("  logs and recorded runs are in {}", kept.display()));
        }
        lines.push(format!("  {}", if self.adds_up() { "PASS" } else { "FAIL" }));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> FaultsResult {
        FaultsResult { answered: 3, keys: 3, stored: 2, frames: 9, ..FaultsResult::default() }
    }

    #[test]
    fn a_run_passes_if_nothing_is_wrong_and_something_happened() {
        assert!(good().adds_up());
        assert!(good().lines().contains(&"  PASS".to_owned()));
        assert!(!FaultsResult::default().adds_up());
    }

    #[test]
    fn every_kind_of_fault_fails_the_run_and_has_a_row() {
        for (name, wrongs) in ROWS {
            for wrong in wrongs {
                let mut spoiled = good();
                spoiled.found.add(*wrong, || "key 7".to_owned());
                assert!(!spoiled.adds_up());
                let lines = spoiled.lines();
                assert!(lines.contains(&format!("  {name:<19} 1")), "{lines:?}");
                assert!(lines.contains(&format!("    {wrong:?}: key 7")), "{lines:?}");
            }
        }
    }
}
