//! What the scenarios have measured: every turn of every side, and the medians. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{scenario::Scenario, server::Peer};
use crate::{report::Conditions, stats::median};

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    Higher,
    Lower,
    /// It says under which conditions the others hold.
    Neither,
}

/// One figure; its name has the unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) better: Better,
}

impl Figure {
    pub(crate) fn higher(name: &str, value: f64) -> Self {
        Self { name: name.to_owned(), value, better: Better::Higher }
    }

    pub(crate) fn lower(name: &str, value: f64) -> Self {
        Self { name: name.to_owned(), value, better: Better::Lower }
    }

    pub(crate) fn plain(name: &str, value: f64) -> Self {
        Self { name: name.to_owned(), value, better: Better::Neither }
    }
}

/// One turn of one side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
    pub(crate) case: String,
    pub(crate) peer: Peer,
    pub(crate) turn: usize,
    pub(crate) figures: Vec<Figure>,
    /// Whether what is acknowledged is to be kept: then the table says how.
    pub(crate) keeps: bool,
    /// What went wrong without ending the run.
    pub(crate) remarks: Vec<String>,
    /// The work of other processes, and how often the turn was repeated because of it.
    pub(crate) foreign_cpu_percent: f64,
    pub(crate) repeated: usize,
}

/// The results of an invocation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) conditions: Conditions,
    pub(crate) rows: Vec<Row>,
    /// Sides that could not be measured, and why.
    pub(crate) missing: Vec<String>,
}

/// A figure of all turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Results {
    /// Scenarios with their cases, in the order in which they ran.
    pub(crate) fn cases(&self) -> Vec<(Scenario, &str)> {
        let mut seen = BTreeSet::new();
        let all = self.rows.iter().map(|row| (row.scenario, row.case.as_str()));
        all.filter(|case| seen.insert(*case)).collect()
    }

    fn of_case(&self, scenario: Scenario, case: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.scenario == scenario && row.case == case)
    }

    /// The sides of a case.
    pub(crate) fn peers(&self, scenario: Scenario, case: &str) -> BTreeSet<Peer> {
        self.of_case(scenario, case).map(|row| row.peer).collect()
    }

    /// The figures of a case, in the order in which they were first given.
    pub(crate) fn figures(&self, scenario: Scenario, case: &str) -> Vec<(&str, Better)> {
        let mut seen = BTreeSet::new();
        let all = self.of_case(scenario, case).flat_map(|row| &row.figures);
        let all = all.map(|figure| (figure.name.as_str(), figure.better));
        all.filter(|(name, _)| seen.insert(*name)).collect()
    }

    fn values(
        &self,
        scenario: Scenario,
        case: &str,
        peer: Peer,
        name: &str,
    ) -> impl Iterator<Item = (usize, f64)> {
        let rows = self.of_case(scenario, case).filter(move |row| row.peer == peer);
        rows.filter_map(move |row| {
            let figure = row.figures.iter().find(|figure| figure.name == name)?;
            Some((row.turn, figure.value))
        })
    }

    /// A figure of one side over its turns.
    pub(crate) fn spread(&self, scenario: Scenario, case: &str, peer: Peer, name: &str) -> Option<Spread> {
        let values: Vec<f64> = self.values(scenario, case, peer, name).map(|(_, value)| value).collect();
        Some(Spread {
            median: median(values.iter().copied())?,
            least: values.iter().copied().reduce(f64::min)?,
            most: values.iter().copied().reduce(f64::max)?,
        })
    }

    /// The median of the ratios of two sides, each of the same turn.
    pub(crate) fn ratio(
        &self,
        (scenario, case): (Scenario, &str),
        peer: Peer,
        base: Peer,
        name: &str,
    ) -> Option<f64> {
        let bases: Vec<_> = self.values(scenario, case, base, name).collect();
        median(self.values(scenario, case, peer, name).filter_map(|(turn, value)| {
            let (_, base) = bases.iter().find(|(other, _)| *other == turn)?;
            (*base > 0.0).then_some(value / base)
        }))
    }

    /// Whether what is acknowledged in this case is to be kept.
    pub(crate) fn keeps(&self, scenario: Scenario, case: &str) -> bool {
        self.of_case(scenario, case).any(|row| row.keeps)
    }

    /// Remarks of a case, each once.
    pub(crate) fn remarks(&self, scenario: Scenario, case: &str) -> BTreeSet<String> {
        let rows = self.of_case(scenario, case);
        rows.flat_map(|row| row.remarks.iter().map(|remark| format!("{}: {remark}", row.peer.title())))
            .collect()
    }

    /// The most foreign work in a turn of this case.
    pub(crate) fn foreign(&self, scenario: Scenario, case: &str) -> f64 {
        self.of_case(scenario, case).map(|row| row.foreign_cpu_percent).fold(0.0, f64::max)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn results(values: &[(Peer, usize, f64)]) -> Results {
        let rows = values.iter().map(|(peer, turn, value)| Row {
            scenario: Scenario::Fanout,
            case: "1 to 1,000".to_owned(),
            peer: *peer,
            turn: *turn,
            figures: vec![Figure::higher("deliveries per core-second", *value), Figure::lower("p99 ms", 1.5)],
            keeps: true,
            remarks: Vec::new(),
            foreign_cpu_percent: 3.0,
            repeated: 0,
        });
        Results { conditions: Conditions::of_tests(), rows: rows.collect(), missing: Vec::new() }
    }

    #[test]
    fn a_ratio_compares_sides_of_the_same_turn() {
        let results = results(&[
            (Peer::Raw, 0, 100.0),
            (Peer::Tidegate, 0, 80.0),
            (Peer::Tidegate, 1, 40.0),
            (Peer::Raw, 1, 50.0),
            (Peer::Tidegate, 2, 7.0),
        ]);
        let case = (Scenario::Fanout, "1 to 1,000");
        let ratio = results.ratio(case, Peer::Tidegate, Peer::Raw, "deliveries per core-second").unwrap();
        assert!((ratio - 0.8).abs() < 1e-9, "{ratio}");
        let spread = results.spread(case.0, case.1, Peer::Tidegate, "deliveries per core-second").unwrap();
        assert_eq!(spread, Spread { median: 40.0, least: 7.0, most: 80.0 });
        assert_eq!(results.cases(), [case]);
    }
}
