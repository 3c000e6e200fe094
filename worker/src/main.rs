//! `tidegate-worker`, the stock worker: the handlers that a configuration can name.

use std::process::ExitCode;

use tidegate_worker::program;

mod handlers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    program(tidegate_shared::VERSION, handlers::router)
}
