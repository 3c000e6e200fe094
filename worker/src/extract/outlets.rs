//! Extractors with which a handler stores something during its run.

use std::sync::Arc;

use super::{FromJobParts, Rejection};
use crate::{
    failure::{Failure, IntoFailure},
    job::Job,
    outlet::{Enqueue, Outlet, Publish, Schedules},
};

/// The handler decides a question of a gateway: nothing of it is stored, and it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a question of a gateway publishes, enqueues and schedules nothing")]
#[non_exhaustive]
pub struct NothingStored;

impl Rejection for NothingStored {}

impl IntoFailure for NothingStored {
    fn into_failure(self) -> Failure {
        Failure::dead(self.to_string())
    }
}

fn outlet(job: &Job) -> Result<Arc<dyn Outlet>, NothingStored> {
    job.outlet().cloned().ok_or(NothingStored)
}

impl<S: Sync> FromJobParts<S> for Publish {
    type Rejection = NothingStored;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, NothingStored> {
        outlet(job).map(Self)
    }
}

impl<S: Sync> FromJobParts<S> for Enqueue {
    type Rejection = NothingStored;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, NothingStored> {
        outlet(job).map(Self)
    }
}

impl<S: Sync> FromJobParts<S> for Schedules {
    type Rejection = NothingStored;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, NothingStored> {
        outlet(job).map(Self)
    }
}
