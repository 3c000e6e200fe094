//! Latency summaries. Pure.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Percentiles of a series of durations, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The maximum.
    pub max: f64,
}

impl Latency {
    /// Summarizes a series.
    pub(super) fn of(series: impl IntoIterator<Item = Duration>) -> anyhow::Result<Self> {
        let mut histogram = Histogram::<u64>::new(3)?;
        for duration in series {
            histogram.record(duration.as_micros().try_into()?)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a run of minutes")]
        let milliseconds = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
        Ok(Self { p50: at(0.5), p99: at(0.99), max: milliseconds(histogram.max()) })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms", self.p50, self.p99, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_summed_up() {
        let times = Latency::of((1..=100).map(Duration::from_millis)).unwrap();
        assert!((times.p50 - 50.0).abs() < 0.5 && (times.p99 - 99.0).abs() < 0.5, "{times}");
    }
}
