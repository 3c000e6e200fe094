//! A worker with a handler of its own: it answers `rpc("greet", "Good morning")` of tidegate.toml's route `greet`.
//!
//! Start it beside `make up` with `make greet`.

use tidegate_worker::{Json, Router, User, on, program};

async fn greet(User(user): User, Json(greeting): Json<String>) -> Json<String> {
    Json(format!("{greeting}, {user}!"))
}

fn main() -> std::process::ExitCode {
    program(env!("CARGO_PKG_VERSION"), async |_| Ok(Router::new().route("greet", on(greet))))
}
