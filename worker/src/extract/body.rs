//! Extractors that take the body.

use std::convert::Infallible;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tidegate_shared::protocol::codes;

use super::{FromJob, Rejection};
use crate::{
    failure::{Failure, IntoFailure},
    job::Job,
};

/// A JSON body, or a JSON answer. Rejects a body that is not JSON of this type with error 107; `Option<Json<T>>` is `None` for
/// an empty body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// The body is not JSON of the type that the handler takes.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct BadJson {
    /// Where and why.
    pub error: serde_json::Error,
    /// Whether there is no body.
    pub empty: bool,
}

impl Rejection for BadJson {
    fn is_missing(&self) -> bool {
        self.empty
    }
}

impl IntoFailure for BadJson {
    fn into_failure(self) -> Failure {
        Failure::protocol(codes::BAD_REQUEST, self)
    }
}

impl<S: Sync, T: DeserializeOwned> FromJob<S> for Json<T> {
    type Rejection = BadJson;

    async fn from_job(job: Job, _: &S) -> Result<Self, BadJson> {
        let body = &job.request().body;
        serde_json::from_slice(body).map(Self).map_err(|error| BadJson { error, empty: body.is_empty() })
    }
}

impl<S: Sync> FromJob<S> for Bytes {
    type Rejection = Infallible;

    async fn from_job(job: Job, _: &S) -> Result<Self, Infallible> {
        Ok(job.body())
    }
}

impl<S: Sync> FromJob<S> for Job {
    type Rejection = Infallible;

    async fn from_job(job: Job, _: &S) -> Result<Self, Infallible> {
        Ok(job)
    }
}
