//! `job` and `job_cancel`: what has become of a request, by its id or its key, and cancelling it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    config::Route,
    envelope::{Answer, Outcome},
    id::RequestId,
    job::Report,
    moment,
    protocol::{Error, codes, json},
};
use tokio::time::Instant;

use super::{Api, ApiResult, enqueue::destination, enqueue::id_of, raw};
use crate::requests::jobs::{Job, JobState};

/// Which request: its id, or what `enqueue` was given. With a method, only its route is searched.
#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct JobParams {
    id: String,
    method: String,
    route: String,
    key: String,
    user: String,
}

/// A request's state, as it is told to services.
#[derive(Serialize)]
struct JobAnswer {
    id: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Report>,
    #[serde(skip_serializing_if = "Bytes::is_empty", with = "json::raw")]
    data: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failed>,
}

/// The error that a request was answered with.
#[derive(Serialize)]
struct Failed {
    code: u32,
    message: String,
}

impl Api {
    pub(super) async fn job(&self, params: JobParams) -> ApiResult {
        let (id, routes) = self.which(&params)?;
        let deadline = Instant::now() + self.answer_timeout;
        raw(&JobAnswer::of(self.store.job(&id, routes, deadline).await?))
    }

    pub(super) async fn job_cancel(&self, params: JobParams) -> ApiResult {
        let (id, routes) = self.which(&params)?;
        let deadline = Instant::now() + self.answer_timeout;
        raw(&JobAnswer::of(self.store.cancel(&id, routes, |_| true, deadline).await?))
    }

    /// The id of the request, and the routes where it may be.
    fn which(&self, params: &JobParams) -> Result<(RequestId, &[Route]), Error> {
        let JobParams { id, method, route, key, user } = params;
        let refuse = |problem: &str| Err(codes::BAD_REQUEST.because(problem));
        match (id.is_empty(), method.is_empty() && route.is_empty()) {
            (false, true) => match RequestId::parse(id) {
                Some(_) if !key.is_empty() || !user.is_empty() => {
                    refuse("either an id, or method, key and user")
                }
                Some(id) => Ok((id, self.rules.routes())),
                None => refuse("id: this is not the id of a request"),
            },
            (true, false) if key.is_empty() => refuse("a request without a key is found by its id"),
            (true, false) => {
                let (route, method) = destination(&self.rules, method, route)?;
                let user = (!user.is_empty()).then_some(user.as_str());
                let id = id_of(&self.rules, method.as_deref().unwrap_or(&route.name), user, key)?;
                Ok((id, std::slice::from_ref(route)))
            }
            (false, false) => refuse("either an id, or method, key and user"),
            (true, true) => refuse("which request? By its id, or by method, key and user"),
        }
    }
}

impl JobAnswer {
    fn of(job: Job) -> Self {
        let mut told = Self {
            id: job.id.to_string(),
            state: job.state.name(),
            method: job.method,
            user: job.user,
            attempt: None,
            until: None,
            since: None,
            worker: None,
            progress: None,
            data: Bytes::new(),
            error: None,
        };
        match job.state {
            JobState::Unknown | JobState::Cancelled => {}
            JobState::Accepted { attempt } => told.attempt = Some(attempt),
            JobState::Waiting { attempt, until, progress } => {
                (told.attempt, told.until) = (Some(attempt), Some(time(until)));
                told.progress = progress;
            }
            JobState::Running(running) => {
                told.attempt = Some(running.attempt);
                told.since = Some(time(UNIX_EPOCH + Duration::from_millis(running.since)));
                told.worker = Some(running.worker);
                told.progress = running.progress;
            }
            JobState::Answered(answer) | JobState::Dead(answer) => told.answered(answer),
        }
        told
    }

    fn answered(&mut self, answer: Answer) {
        (self.attempt, self.worker) = (Some(answer.attempt), Some(answer.worker));
        match answer.outcome {
            Outcome::Ok(data) => self.data = json::Payload::from_any(&data).into_bytes(),
            Outcome::Error { code, message, .. } => self.error = Some(Failed { code, message }),
        }
    }
}

fn time(time: SystemTime) -> String {
    moment::text(time)
}
