//! Output for a person: the only module that writes to standard output.
//!
//! Logs go to standard error. A closed standard output, as behind `head`, is not an error.

use std::io::{IsTerminal, Write};

/// Writes one line to standard output.
pub fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    // A closed standard output leaves no place to report the error.
    let _ = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
}

/// Writes text to standard output unchanged.
pub fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes one line to standard error: progress and failures.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// Whether standard output is a terminal, so that colours are welcome.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
