//! `tidegate-purger`: removes acknowledged requests from the streams of the routes.

use std::process::ExitCode;

use tidegate_purger::program;

fn main() -> ExitCode {
    program()
}
