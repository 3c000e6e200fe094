//! `tidegate-worker`, the stock worker: the handlers that a configuration can name.

use std::process::ExitCode;

use tidegate_worker::program;

mod check;
mod handlers;
mod input;
mod metrics;
mod template;
mod test;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == "check" => return check::run(arguments),
        Some(first) if first == "test" => return test::run(arguments),
        _ => {}
    }
    program(tidegate_shared::VERSION, handlers::router)
}
