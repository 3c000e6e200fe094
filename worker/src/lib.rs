//! Workers for Tidegate: the library takes requests from JetStream, runs handlers and stores their answers.
//!
//! A handler is an async function whose arguments are extractors and whose result is the answer. A [`Router`] binds handlers
//! to the names of the `[[route]]` table. That table alone says which requests a route takes, how many at a time and how many
//! attempts they have. A [`Worker`] pulls requests, runs their handlers and settles them. [`program`] is the whole process
//! around a worker.
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
//! The guarantees: a handler runs at least once for every request. One answer is stored, whatever the number of attempts. The
//! publications of an attempt are stored before the answer. A repeated attempt gives them the same ids, made of the request's
//! id and their position, so that each is stored once.

pub use self::{
    answer::{Answer, IntoAnswer, Publication, Publications},
    extract::{
        Attempt, Channel, FromJob, FromJobParts, Json, Method, Params, RequestId, Sender, State, User,
    },
    failure::{Failure, MAX_WAIT},
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
mod clock;
mod consume;
mod delivery;
mod engine;
mod hook;
mod permit;
mod pull;
mod runner;
mod runtimes;
mod settle;
mod stall;
mod store;

mod health;
mod metrics;
mod program;
mod worker;
