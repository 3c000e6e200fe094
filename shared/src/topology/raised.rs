//! How many messages a stream has kept of each channel, also before its limit was raised. A mark in the stream's metadata says
//! from which sequence on the larger limit holds, and the smallest limit before it. Pure.

use std::collections::HashMap;

use async_nats::jetstream::stream::{Config as Stream, Info};

/// The metadata key of the mark, `<sequence>:<limit>`.
const RAISED: &str = "tidegate-raised";
/// The sequence of a mark while the limit is being raised.
const OPEN: u64 = u64::MAX;

/// How many messages a stream keeps of each channel, now and earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptMessages {
    now: u64,
    mark: Option<Mark>,
}

/// The limit was at least `fewest` up to the sequence `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    until: u64,
    fewest: u64,
}

impl KeptMessages {
    /// Reads what a stream says about itself.
    pub fn of(config: &Stream) -> Self {
        Self { now: limit(config), mark: Mark::of(config) }
    }

    /// Returns the smallest limit that was in force for messages behind the sequence `after`. If a channel has fewer messages
    /// there, the limit has removed none of them.
    pub fn since(&self, after: u64) -> u64 {
        self.mark.filter(|mark| after < mark.until).map_or(self.now, |mark| mark.fewest.min(self.now))
    }
}

impl Mark {
    fn of(config: &Stream) -> Option<Self> {
        let mark = config.metadata.get(RAISED)?;
        // An unreadable mark proves nothing.
        let (until, fewest) = mark
            .split_once(':')
            .and_then(|(until, fewest)| Some((until.parse().ok()?, fewest.parse().ok()?)))
            .unwrap_or((OPEN, 0));
        Some(Self { until, fewest })
    }

    fn write(self, metadata: &mut HashMap<String, String>) {
        metadata.insert(RAISED.to_owned(), format!("{}:{}", self.until, self.fewest));
    }
}

/// Marks in `metadata` that the limit is being raised, if it is. The mark stays open until [`close`]: messages that arrive
/// meanwhile may still meet the smaller limit.
pub(super) fn open(found: &Info, wanted: &Stream, metadata: &mut HashMap<String, String>) {
    let before = limit(&found.config);
    if limit(wanted) > before {
        let earlier = Mark::of(&found.config).filter(|mark| mark.until >= found.state.first_sequence);
        let fewest = earlier.map_or(before, |mark| mark.fewest.min(before));
        Mark { until: OPEN, fewest }.write(metadata);
    }
}

/// Whether a mark is open.
pub(super) fn is_open(config: &Stream) -> bool {
    Mark::of(config).is_some_and(|mark| mark.until == OPEN)
}

/// Closes an open mark: the larger limit holds from behind the stream's last message on.
pub(super) fn close(info: &Info) -> Stream {
    let mut config = info.config.clone();
    if let Some(mark) = Mark::of(&info.config) {
        Mark { until: info.state.last_sequence, ..mark }.write(&mut config.metadata);
    }
    config
}

/// For the broker, a limit that is not positive is none.
fn limit(config: &Stream) -> u64 {
    u64::try_from(config.max_messages_per_subject).ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(limit: i64, mark: Option<&str>) -> Stream {
        let metadata = mark.map(|mark| (RAISED.to_owned(), mark.to_owned())).into_iter().collect();
        Stream { max_messages_per_subject: limit, metadata, ..Stream::default() }
    }

    #[test]
    fn the_smallest_limit_in_force_counts() {
        for (limit, mark, after, smallest) in [
            (100, None, 0, 100),
            (0, None, 0, u64::MAX),
            (-1, None, 7, u64::MAX),
            (100, Some("50:5"), 49, 5),
            (100, Some("50:5"), 50, 100),
            (3, Some("50:5"), 10, 3),
            (100, Some("18446744073709551615:5"), 1000, 5),
            (100, Some("nonsense"), 1000, 0),
            (100, Some("1:x"), 1000, 0),
        ] {
            let kept = KeptMessages::of(&stream(limit, mark));
            assert_eq!(kept.since(after), smallest, "{limit} {mark:?} {after}");
        }
    }
}
