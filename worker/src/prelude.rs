//! What most handlers need: `use tidegate_worker::prelude::*;`.

pub use crate::{
    Answer, Attempt, Bytes, Channel, Client, Config, Deadline, Decision, Enqueue, Extension, Failure,
    FollowUp, FollowUps, FromRef, Grant, Headers, IntoFailure, Job, Json, Method, Params, Progress,
    Publication, Publications, Publish, RequestId, ResultExt, Router, Schedules, Sender, State, User, When,
    Worker, on, program,
};
