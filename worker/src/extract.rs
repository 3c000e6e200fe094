//! Extractors: the types that a handler's arguments can have.
//!
//! Every argument but the last reads a part of the job. The last one may take the body. The type parameter `M` only keeps the
//! implementations for the two apart.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tidegate_shared::{id, protocol::codes};

use crate::{failure::Failure, job::Job};

/// Marks last arguments that read a part of a job.
#[derive(Debug)]
pub enum ViaParts {}

/// Marks last arguments that take a job's body.
#[derive(Debug)]
pub enum ViaBody {}

/// An argument that reads a part of a job. Implement it for extractors of your own:
///
/// ```
/// use tidegate_worker::{Failure, FromJobParts, Job};
///
/// /// The request's content type.
/// struct ContentType(String);
///
/// impl<S: Sync> FromJobParts<S> for ContentType {
///     async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
///         Ok(Self(job.request().content_type.clone()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler here",
    note = "arguments are extractors such as `State`, `User` or `RequestId`; one that takes the body comes last"
)]
pub trait FromJobParts<S>: Sized {
    /// Reads the part. A failure ends the attempt before the handler is called.
    fn from_job_parts(job: &Job, state: &S) -> impl Future<Output = Result<Self, Failure>> + Send;
}

/// The last argument of a handler: the body, or another part of the job.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the last argument of a handler",
    note = "the last argument is an extractor such as `Json<T>` or `Bytes`"
)]
pub trait FromJob<S, M = ViaBody>: Sized {
    /// Reads the job. A failure ends the attempt before the handler is called.
    fn from_job(job: Job, state: &S) -> impl Future<Output = Result<Self, Failure>> + Send;
}

impl<S: Sync, T: FromJobParts<S>> FromJob<S, ViaParts> for T {
    async fn from_job(job: Job, state: &S) -> Result<Self, Failure> {
        Self::from_job_parts(&job, state).await
    }
}

/// The state that the router was made with.
#[derive(Debug, Clone)]
pub struct State<S>(pub S);

impl<S: Clone + Send + Sync> FromJobParts<S> for State<S> {
    async fn from_job_parts(_: &Job, state: &S) -> Result<Self, Failure> {
        Ok(Self(state.clone()))
    }
}

/// The authenticated user's id. Rejects anonymous requests with error 103; `Option<User>` accepts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(pub String);

impl<S: Sync> FromJobParts<S> for User {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        let user = job.request().user.clone().map(Self);
        user.ok_or_else(|| Failure::protocol(codes::PERMISSION_DENIED, "this needs an authenticated user"))
    }
}

impl<S: Sync> FromJobParts<S> for Option<User> {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(job.request().user.clone().map(User))
    }
}

/// The request's id, the same on every attempt: an idempotency key for effects in other systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub id::RequestId);

impl<S: Sync> FromJobParts<S> for RequestId {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(Self(job.request().id.clone()))
    }
}

/// The number of attempts that were begun before this one: 0 on the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl<S: Sync> FromJobParts<S> for Attempt {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(Self(job.attempt()))
    }
}

/// The method as the client wrote it, without its key. `None` for a publication or a message without a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method(pub Option<String>);

impl<S: Sync> FromJobParts<S> for Method {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(Self(job.request().method.clone()))
    }
}

/// The channel that a client published to, as the client wrote it. Rejects every other request with error 107.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel(pub String);

impl<S: Sync> FromJobParts<S> for Channel {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        let channel = job.request().channel.as_ref().map(|channel| Self(channel.name().to_owned()));
        channel.ok_or_else(|| Failure::protocol(codes::BAD_REQUEST, "this takes publications only"))
    }
}

/// The client that sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The authenticated user's id. `None` for an anonymous client.
    pub user: Option<String>,
    /// The id of the connection.
    pub client: String,
    /// The `info` of the connection token, as JSON. Only a publication has it.
    pub info: Option<String>,
    /// The `info` of the subscription token, as JSON. Only a publication has it.
    pub channel_info: Option<String>,
}

impl<S: Sync> FromJobParts<S> for Sender {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        let request = job.request();
        Ok(Self {
            user: request.user.clone(),
            client: request.client.clone(),
            info: request.info.clone(),
            channel_info: request.channel_info.clone(),
        })
    }
}

/// The words of the method that match the `{name}`s of the route's pattern.
#[derive(Debug, Clone)]
pub struct Params(Job);

impl Params {
    /// The word that matches `{name}`. `None` when the pattern has no such name.
    ///
    /// With `match = "rpc.orders.{order}.place"`, the method `orders.7.place` has `7` for `order`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.param(name)
    }
}

impl<S: Sync> FromJobParts<S> for Params {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(Self(job.clone()))
    }
}

/// A JSON body, or a JSON answer. Rejects a body that is not JSON of this type with error 107.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromJob<S> for Json<T> {
    async fn from_job(job: Job, _: &S) -> Result<Self, Failure> {
        let body = serde_json::from_slice(&job.request().body);
        body.map(Self).map_err(|error| Failure::protocol(codes::BAD_REQUEST, error))
    }
}

impl<S: Sync> FromJob<S> for Bytes {
    async fn from_job(job: Job, _: &S) -> Result<Self, Failure> {
        Ok(job.body())
    }
}

impl<S: Sync> FromJob<S> for Job {
    async fn from_job(job: Job, _: &S) -> Result<Self, Failure> {
        Ok(job)
    }
}
