//! Extractors: the types that a handler's arguments can have.
//!
//! Every argument but the last reads a part of the job. The last one may take the body. The type parameter `M` only keeps the
//! implementations for the two apart.

use crate::{failure::Failure, job::Job};

pub use self::{
    body::{BadJson, Json},
    outlets::NothingStored,
    parts::{
        Attempt, BadParam, Channel, Client, Deadline, Extension, FromRef, Headers, Method, NoChannel,
        NoClient, NoExtension, NoMethod, NoUser, Params, RequestId, State, User,
    },
};

mod body;
mod outlets;
mod parts;

/// Marks last arguments that read a part of a job.
#[derive(Debug)]
pub enum ViaParts {}

/// Marks last arguments that take a job's body.
#[derive(Debug)]
pub enum ViaBody {}

/// Why an extractor has no value. Every extractor has a type of its own for it, and [`Failure`] is one for extractors that
/// need none.
pub trait Rejection: Into<Failure> + Send {
    /// Whether what was asked for is not there at all: an argument of type `Option` is `None` then. What is there but is wrong
    /// fails such an argument too.
    fn is_missing(&self) -> bool {
        true
    }
}

/// An argument that reads a part of a job. Implement it for extractors of your own:
///
/// ```
/// use std::convert::Infallible;
/// use tidegate_worker::{FromJobParts, Job};
///
/// /// The request's content type.
/// struct ContentType(String);
///
/// impl<S: Sync> FromJobParts<S> for ContentType {
///     type Rejection = Infallible;
///
///     async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
///         Ok(Self(job.content_type().to_owned()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler here",
    label = "not an extractor of a part of a job",
    note = "arguments are extractors such as `State<T>`, `User` or `RequestId`; one that takes the body comes last"
)]
pub trait FromJobParts<S>: Sized {
    /// Why it has no value.
    type Rejection: Rejection;

    /// Reads the part. A rejection ends the attempt before the handler is called.
    fn from_job_parts(job: &Job, state: &S) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;
}

/// The last argument of a handler: the body, or another part of the job.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the last argument of a handler",
    label = "not an extractor",
    note = "the last argument is an extractor such as `Json<T>` or `Bytes`"
)]
pub trait FromJob<S, M = ViaBody>: Sized {
    /// Why it has no value.
    type Rejection: Rejection;

    /// Reads the job. A rejection ends the attempt before the handler is called.
    fn from_job(job: Job, state: &S) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;
}

impl Rejection for Failure {
    fn is_missing(&self) -> bool {
        false
    }
}

impl Rejection for std::convert::Infallible {}

impl<S: Sync, T: FromJobParts<S>> FromJob<S, ViaParts> for T {
    type Rejection = T::Rejection;

    async fn from_job(job: Job, state: &S) -> Result<Self, Self::Rejection> {
        Self::from_job_parts(&job, state).await
    }
}

impl<S: Sync, T: FromJobParts<S>> FromJobParts<S> for Option<T> {
    type Rejection = T::Rejection;

    async fn from_job_parts(job: &Job, state: &S) -> Result<Self, Self::Rejection> {
        unless_missing(T::from_job_parts(job, state).await)
    }
}

impl<S: Sync, T: FromJob<S>> FromJob<S> for Option<T> {
    type Rejection = T::Rejection;

    async fn from_job(job: Job, state: &S) -> Result<Self, Self::Rejection> {
        unless_missing(T::from_job(job, state).await)
    }
}

impl<S: Sync, T: FromJobParts<S>> FromJobParts<S> for Result<T, T::Rejection> {
    type Rejection = std::convert::Infallible;

    async fn from_job_parts(job: &Job, state: &S) -> Result<Self, Self::Rejection> {
        Ok(T::from_job_parts(job, state).await)
    }
}

impl<S: Sync, T: FromJob<S>> FromJob<S> for Result<T, T::Rejection> {
    type Rejection = std::convert::Infallible;

    async fn from_job(job: Job, state: &S) -> Result<Self, Self::Rejection> {
        Ok(T::from_job(job, state).await)
    }
}

fn unless_missing<T, R: Rejection>(result: Result<T, R>) -> Result<Option<T>, R> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(rejection) if rejection.is_missing() => Ok(None),
        Err(rejection) => Err(rejection),
    }
}

#[cfg(test)]
mod tests;
