//! Workers for Tidegate: handlers on one side, JetStream on the other, and everything that can go wrong in between.
//!
//! A handler is an async function whose arguments are extractors and whose result is the answer. A [`Router`] binds handlers
//! to the names of the `[[route]]` table, which alone says what a route takes, how many at a time and how often. A [`Worker`]
//! pulls, runs and settles; [`program`] is the whole process around it.
//!
//! ```no_run
//! use tidegate_worker::{Json, Router, User, on, program};
//!
//! async fn greet(User(user): User, Json(greeting): Json<String>) -> Json<String> {
//!     Json(format!("{greeting}, {user}!"))
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     program(env!("CARGO_PKG_VERSION"), async |_| Ok(Router::new().route("greet", on(greet))))
//! }
//! ```
//!
//! What a handler may rely on: it runs at least once for every request; of all its runs one answer is stored; what it
//! publishes is stored before the answer, once for one run's worth of publications.

pub use self::{
    answer::{Answer, IntoAnswer, Publication, Publications},
    extract::{
        Attempt, Channel, FromJob, FromJobParts, Json, Method, Params, RequestId, Sender, State, User,
    },
    failure::Failure,
    handler::{Handler, RouteHandler, on},
    job::Job,
    metrics::Metrics,
    program::program,
    router::Router,
    worker::{Misconfigured, StartFailure, Worker},
};

mod answer;
mod extract;
mod failure;
mod handler;
mod job;
mod router;

mod attempt;
mod backoff;
mod consume;
mod delivery;
mod engine;
mod hook;
mod pull;
mod runner;
mod settle;
mod store;

mod health;
mod metrics;
mod program;
mod worker;
