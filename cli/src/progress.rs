//! The progress of a long command: a bar on a terminal, otherwise a line every two seconds.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// The interval of progress lines when there is no bar.
const INTERVAL: Duration = Duration::from_secs(2);

/// The progress of one command, on standard error.
#[derive(Debug)]
pub struct Progress {
    total: usize,
    done: &'static str,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Begins at 0 of `total`. `done` is the word for what is counted, such as "answered".
    pub fn new(total: usize, done: &'static str) -> anyhow::Result<Self> {
        let bar = if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template(&format!("{{bar:40}} {{pos}} of {{len}} {done}, {{per_sec}}"))?;
            Some(ProgressBar::new(total as u64).with_style(style))
        } else {
            None
        };
        Ok(Self { total, done, bar, last_line: Instant::now() })
    }

    /// Shows how many are done.
    pub fn at(&mut self, count: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(count as u64),
            None if self.last_line.elapsed() >= INTERVAL => {
                self.last_line = Instant::now();
                output::note(format!("{count} of {} {}", self.total, self.done));
            }
            None => {}
        }
    }

    /// Prints a line beside the bar.
    pub fn say(&self, text: impl AsRef<str>) {
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
