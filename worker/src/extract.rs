//! Extractors: what a handler's arguments can be.
//!
//! All but the last argument read parts of the job; the last may also take the body. `M` only tells the two apart.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tidegate_shared::{id, protocol::codes};

use crate::{failure::Failure, job::Job};

/// Marks arguments that read parts of a job.
#[derive(Debug)]
pub enum ViaParts {}

/// Marks arguments that take a job's body.
#[derive(Debug)]
pub enum ViaBody {}

/// An argument that reads part of a job.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler here",
    note = "arguments are extractors such as `State`, `User` or `RequestId`; one that takes the body comes last"
)]
pub trait FromJobParts<S>: Sized {
    /// Reads the part.
    fn from_job_parts(job: &Job, state: &S) -> impl Future<Output = Result<Self, Failure>> + Send;
}

/// The last argument of a handler: the body, or one part more.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the last argument of a handler",
    note = "the last argument is an extractor such as `Json<T>` or `Bytes`"
)]
pub trait FromJob<S, M = ViaBody>: Sized {
    /// Reads the job.
    fn from_job(job: Job, state: &S) -> impl Future<Output = Result<Self, Failure>> + Send;
}

impl<S: Sync, T: FromJobParts<S>> FromJob<S, ViaParts> for T {
    async fn from_job(job: Job, state: &S) -> Result<Self, Failure> {
        Self::from_job_parts(&job, state).await
    }
}

/// The state the router was made with.
#[derive(Debug, Clone)]
pub struct State<S>(pub S);

impl<S: Clone + Send + Sync> FromJobParts<S> for State<S> {
    async fn from_job_parts(_: &Job, state: &S) -> Result<Self, Failure> {
        Ok(Self(state.clone()))
    }
}

/// The authenticated user; anonymous requests are rejected. `Option<User>` takes both.
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

/// The request's id, the same on every attempt: what makes an effect elsewhere happen once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub id::RequestId);

impl<S: Sync> FromJobParts<S> for RequestId {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(Self(job.request().id.clone()))
    }
}

/// How many attempts were begun before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl<S: Sync> FromJobParts<S> for Attempt {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(Self(job.attempt()))
    }
}

/// The method as the client wrote it, without its key; nothing for a message without a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method(pub Option<String>);

impl<S: Sync> FromJobParts<S> for Method {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(Self(job.request().method.clone()))
    }
}

/// The channel a client published into, as the client wrote it; rpcs and messages without a reply are rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel(pub String);

impl<S: Sync> FromJobParts<S> for Channel {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        let channel = job.request().channel.as_ref().map(|channel| Self(channel.name().to_owned()));
        channel.ok_or_else(|| Failure::protocol(codes::BAD_REQUEST, "this takes publications only"))
    }
}

/// The client that a request came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The authenticated user, if there is one.
    pub user: Option<String>,
    /// The connection.
    pub client: String,
    /// What the token says about a connection that published: JSON. Other requests do not carry it.
    pub info: Option<String>,
    /// What the subscription token says about it in the channel: JSON.
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

/// What stands for the `{name}`s of the route's pattern.
#[derive(Debug, Clone)]
pub struct Params(Job);

impl Params {
    /// The word that stands for `{name}`, if the pattern has such a word.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.param(name)
    }
}

impl<S: Sync> FromJobParts<S> for Params {
    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Failure> {
        Ok(Self(job.clone()))
    }
}

/// A JSON body, or a JSON answer. A body that is not such JSON is rejected.
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
