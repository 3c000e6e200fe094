//! The requests the demo sends and the results it expects. Pure: computed from the feed alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Deserialize;

/// The most stations; the smallest networks share the last one.
const STATIONS: usize = 12;
/// From this magnitude on an earthquake is an alert: the stock worker's rule, repeated here on purpose as an independent check.
const ALERT_MAGNITUDE: f64 = 4.5;

/// One earthquake of the feed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quake {
    /// The event's id, which is also its idempotency key.
    pub(super) id: String,
    /// The line of the feed, which is the request's body.
    pub(super) body: Bytes,
}

/// One reporting station: one network of the feed, or several small ones.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StationPlan {
    /// Its name, which is also its user.
    pub(super) name: String,
    /// What it reports, in the feed's order.
    pub(super) quakes: Vec<Quake>,
}

/// The whole feed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// The stations with their reports.
    pub(super) stations: Vec<StationPlan>,
    /// The ids that must become alerts.
    pub(super) alerts: BTreeSet<String>,
    /// The ids each network reports.
    pub(super) networks: BTreeMap<String, BTreeSet<String>>,
}

/// An invalid line of the feed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(super) struct FeedError {
    line: usize,
    problem: String,
}

#[derive(Deserialize)]
struct FeedLine {
    id: String,
    net: String,
    mag: f64,
}

impl Plan {
    /// Reads a feed: one JSON object a line.
    pub(super) fn read(feed: &str) -> Result<Self, FeedError> {
        let mut by_network: BTreeMap<String, Vec<Quake>> = BTreeMap::new();
        let (mut ids, mut alerts) = (BTreeSet::new(), BTreeSet::new());
        for (index, line) in feed.lines().enumerate() {
            let wrong = |problem: String| FeedError { line: index + 1, problem };
            let event: FeedLine = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            if !ids.insert(event.id.clone()) {
                return Err(wrong(format!("the event {} occurs twice", event.id)));
            }
            if event.mag >= ALERT_MAGNITUDE {
                alerts.insert(event.id.clone());
            }
            let quake = Quake { id: event.id, body: Bytes::copy_from_slice(line.as_bytes()) };
            by_network.entry(event.net).or_default().push(quake);
        }
        let networks = by_network
            .iter()
            .map(|(network, quakes)| (network.clone(), quakes.iter().map(|quake| quake.id.clone()).collect()))
            .collect();
        Ok(Self { stations: stations(by_network), alerts, networks })
    }

    /// Returns the number of earthquakes.
    pub(super) fn events(&self) -> usize {
        self.stations.iter().map(|station| station.quakes.len()).sum()
    }

    /// Returns the networks, the one with the most earthquakes first.
    pub(super) fn largest_networks(&self) -> Vec<&str> {
        let mut networks: Vec<_> = self.networks.iter().collect();
        networks.sort_by_key(|(_, ids)| std::cmp::Reverse(ids.len()));
        networks.into_iter().map(|(network, _)| network.as_str()).collect()
    }
}

/// Makes one station per network, the largest first; the remaining networks share the last station.
fn stations(by_network: BTreeMap<String, Vec<Quake>>) -> Vec<StationPlan> {
    let mut networks: Vec<_> = by_network.into_iter().collect();
    networks.sort_by_key(|(_, quakes)| std::cmp::Reverse(quakes.len()));
    let mut stations: Vec<StationPlan> = Vec::new();
    for (network, quakes) in networks {
        match stations.get_mut(STATIONS - 1) {
            Some(last) => last.quakes.extend(quakes),
            None => stations.push(StationPlan { name: format!("station-{network}"), quakes }),
        }
    }
    stations
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEED: &str = include_str!("../../../examples/quakes/earthquakes.ndjson");

    #[test]
    fn the_feed_of_the_examples_has_a_station_for_each_network() {
        let plan = Plan::read(FEED).unwrap();
        assert_eq!(plan.events(), FEED.lines().count());
        assert_eq!(plan.networks.values().map(BTreeSet::len).sum::<usize>(), plan.events());
        assert_eq!((plan.events(), plan.alerts.len(), plan.stations.len()), (1707, 85, 12));
        assert_eq!(plan.largest_networks()[0], "ci");
    }

    #[test]
    fn networks_beyond_the_last_station_share_it() {
        let feed: Vec<_> = (0..15)
            .map(|n| format!(r#"{{"id":"q{n}","net":"n{n:02}","mag":{}}}"#, f64::from(n) / 3.0))
            .collect();
        let plan = Plan::read(&feed.join("\n")).unwrap();
        assert_eq!(plan.stations.len(), STATIONS);
        assert_eq!(plan.events(), 15);
        assert_eq!(plan.alerts, BTreeSet::from(["q14".to_owned()]));
    }

    #[test]
    fn an_invalid_feed_is_refused_with_its_line_number() {
        let line = r#"{"id":"a","net":"ci","mag":1.0}"#;
        assert_eq!(Plan::read(&format!("{line}\n{line}")).unwrap_err().line, 2);
        assert_eq!(Plan::read(&format!("{line}\n{{}}")).unwrap_err().line, 2);
    }
}
