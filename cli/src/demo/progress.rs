//! How far a run is: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// How often a line is written where there is no bar.
const INTERVAL: Duration = Duration::from_secs(2);

/// The progress of one replay.
#[derive(Debug)]
pub(super) struct Progress {
    total: usize,
    bar: Option<ProgressBar>,
    spoken: Instant,
}

impl Progress {
    pub(super) fn new(total: usize) -> anyhow::Result<Self> {
        let bar = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:40} {pos} of {len} answered, {per_sec}")?;
            Some(ProgressBar::new(total as u64).with_style(style))
        } else {
            None
        };
        Ok(Self { total, bar, spoken: Instant::now() })
    }

    /// So many requests are settled.
    pub(super) fn at(&mut self, settled: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(settled as u64),
            None if self.spoken.elapsed() >= INTERVAL => {
                self.spoken = Instant::now();
                output::note(format!("{settled} of {} answered", self.total));
            }
            None => {}
        }
    }

    /// Something happened.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
