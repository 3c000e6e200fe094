//! Durations and failure counts. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Significant digits of a recorded time: an error of a thousandth.
const DIGITS: u8 = 3;

/// A series of times, in microseconds. It travels between processes as its values with their counts.
#[derive(Debug, Clone)]
pub(crate) struct Series(Histogram<u64>);

/// Count and percentiles of a series, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Failures with their counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Failures(BTreeMap<String, u64>);

impl Series {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new(DIGITS)?))
    }

    pub(crate) fn record(&mut self, time: Duration) -> anyhow::Result<()> {
        Ok(self.0.record(time.as_micros().try_into()?)?)
    }

    /// Records a time in nanoseconds.
    pub(crate) fn record_nanos(&mut self, nanos: u64) {
        // A histogram that grows by itself refuses no time of this machine.
        let _ = self.0.record(nanos / 1000);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// How many are within so many milliseconds.
    pub(crate) fn count_within(&self, milliseconds: f64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some seconds")]
        let micros = (milliseconds * 1000.0) as u64;
        self.0.count_between(0, micros)
    }

    pub(crate) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    pub(crate) fn times(&self) -> Percentiles {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a run of minutes")]
        let milliseconds = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile| milliseconds(self.0.value_at_quantile(quantile));
        Percentiles { count: self.0.len(), p50: at(0.5), p99: at(0.99), max: milliseconds(self.0.max()) }
    }
}

impl Default for Series {
    fn default() -> Self {
        // Three digits are what every histogram can have; the coarsest one is there in any case.
        let histogram = Histogram::new(DIGITS).or_else(|_| Histogram::new(1));
        Self(histogram.unwrap_or_else(|_| unreachable!("a histogram of one digit")))
    }
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.0.iter_recorded();
        serializer.collect_seq(values.map(|value| (value.value_iterated_to(), value.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Series {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = Vec::<(u64, u64)>::deserialize(deserializer)?;
        let mut series = Self::default();
        for (value, count) in values {
            series.0.record_n(value, count).map_err(serde::de::Error::custom)?;
        }
        Ok(series)
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:7.2} ms   p99 {:7.2} ms   slowest {:7.2} ms", self.p50, self.p99, self.max)
    }
}

impl Failures {
    pub(crate) fn note(&mut self, what: impl fmt::Display) {
        *self.0.entry(what.to_string()).or_default() += 1;
    }

    pub(crate) fn note_many(&mut self, what: impl fmt::Display, count: u64) {
        *self.0.entry(what.to_string()).or_default() += count;
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(what, count)| format!("{count} times: {what}"))
    }
}

/// Returns the median, or `None` without values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_summed_up() {
        let mut series = Series::new().unwrap();
        for ms in 1..=100 {
            series.record(Duration::from_millis(ms)).unwrap();
        }
        let times = series.times();
        assert_eq!(times.count, 100);
        assert!((times.p50 - 50.0).abs() < 0.5 && (times.p99 - 99.0).abs() < 0.5, "{times}");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn equal_failures_are_counted_together() {
        let mut failures = Failures::default();
        failures.note("1000 not accepted");
        failures.add(failures.clone());
        assert_eq!(failures.total(), 2);
        assert_eq!(failures.lines().collect::<Vec<_>>(), ["2 times: 1000 not accepted"]);
    }
}
