//! What a person reads: the only place that writes to standard output.
//!
//! Logs go elsewhere (standard error); a reader that went away, such as `head`, is no error.

use std::io::{IsTerminal, Write};

/// Writes one line to standard output.
pub fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell when standard output is closed.
    let _ = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
}

/// Writes text to standard output as it is.
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
