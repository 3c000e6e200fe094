//! Workers for Tidegate: the library takes requests from JetStream, runs handlers and stores their answers.
//!
//! A handler is an async function whose arguments are extractors and whose result is the answer. A [`Router`] binds handlers
//! to the names or the patterns of the `[[route]]` table. That table alone says which requests a route takes, how many at a time and how many
//! attempts they have. A [`Worker`] pulls requests, runs their handlers and settles them, inside a process of yours. [`program`]
//! is the whole process around a worker.
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
//! follow-ups and publications of an attempt are stored before the answer. A repeated attempt gives them the same ids, made of the
//! request's id and their names: each follow-up is stored once for as long as its answer is kept, each publication once within
//! `streams.duplicate_window`.

/// The programs of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use anyhow;
pub use bytes::{self, Bytes};
pub use tidegate_shared::{
    broker::{ConnectFailure, MissingRights},
    config::{Config, ConfigError},
    enqueue::Due,
    lifecycle::TaskEnded,
    route::Priority,
};
pub use tower;

pub use self::{
    answer::{Answer, AnswerPart, IntoAnswer},
    cancel::Cancel,
    decision::{Decision, Grant, IntoDecision},
    embed::{RunFailure, Worker, WorkerBuilder},
    extensions::Extensions,
    extract::{
        Attempt, BadJson, BadParam, Channel, Client, Deadline, Extension, FromJob, FromJobParts, FromRef,
        Headers, Json, Method, NoChannel, NoClient, NoExtension, NoMethod, NoUser, NothingStored, Params,
        Rejection, RequestId, State, User, ViaBody, ViaParts,
    },
    failure::{Failure, IntoFailure, MAX_WAIT, NotJson, ResultExt},
    follow_up::{ActsFor, FollowUp, FollowUps, To},
    gate::Gate,
    handler::{Handler, RouteHandler, on},
    job::Job,
    outlet::{Enqueue, NotStored, Publish, Schedules},
    program::program,
    progress::Progress,
    publication::{Publication, Publications},
    router::Router,
    schedule::{ScheduleChange, Scheduled, When},
    sender::Sender,
    service::HandlerService,
    worker::{Misconfigured, StartFailure},
};

/// The types of the configuration, for programs that look into it.
pub mod config {
    pub use tidegate_shared::config::*;
}
pub mod prelude;
pub mod testing;

mod answer;
mod cancel;
mod decision;
mod extensions;
mod extract;
mod failure;
mod follow_up;
mod gate;
mod handler;
mod job;
mod names;
mod outlet;
mod progress;
mod publication;
mod router;
mod schedule;
mod sender;
mod service;

mod acks;
mod attempt;
mod backoff;
mod bind;
mod clock;
mod committer;
mod consume;
mod delivery;
mod engine;
mod exposed;
mod fault;
mod gather;
mod hand_overs;
mod hook;
mod inquiry;
mod lines;
mod look_up;
mod permit;
mod places;
mod queues;
mod registration;
mod runner;
mod running;
mod runtimes;
mod settle;
mod stall;
mod starts;
mod store;

mod embed;
mod health;
mod metrics;
mod program;
mod worker;
