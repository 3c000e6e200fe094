//! Extractors that read a part of a job.

use std::{any::type_name, convert::Infallible, fmt, str::FromStr, time::Duration};

use tidegate_shared::protocol::codes;

use super::{FromJobParts, Rejection};
use crate::{
    cancel::Cancel,
    failure::{Failure, IntoFailure},
    job::Job,
    progress::Progress,
    sender::Sender,
};

/// A rejection for something that is not there, with an error of the protocol.
macro_rules! missing {
    ($($(#[$doc:meta])* $name:ident: $code:ident, $text:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
        #[error($text)]
        #[non_exhaustive]
        pub struct $name;

        impl Rejection for $name {}

        impl IntoFailure for $name {
            fn into_failure(self) -> Failure {
                Failure::protocol(codes::$code, self)
            }
        }
    )*};
}

missing! {
    /// The client is anonymous. The caller gets error 103.
    NoUser: PERMISSION_DENIED, "this needs an authenticated user";
    /// No client made the request. The caller gets error 103.
    NoClient: PERMISSION_DENIED, "this needs a client";
    /// The request is no publication. The caller gets error 107.
    NoChannel: BAD_REQUEST, "this takes publications only";
    /// The request is no RPC. The caller gets error 107.
    NoMethod: BAD_REQUEST, "this takes calls only";
}

/// The state that the router was made with, or a part of it: see [`FromRef`].
#[derive(Debug, Clone)]
pub struct State<T>(pub T);

/// A part of a router's state, for [`State`]. Every type is a part of itself. Implement it for the parts of an application's
/// state that handlers take alone:
///
/// ```
/// use tidegate_worker::{FromRef, Router, State, on};
///
/// #[derive(Clone)]
/// struct Prices(u32);
///
/// #[derive(Clone)]
/// struct Shop {
///     prices: Prices,
/// }
///
/// impl FromRef<Shop> for Prices {
///     fn from_ref(shop: &Shop) -> Self {
///         shop.prices.clone()
///     }
/// }
///
/// async fn price(State(Prices(cents)): State<Prices>) {
///     assert_eq!(cents, 250);
/// }
///
/// let router = Router::with_state(Shop { prices: Prices(250) }).route("price", on(price));
/// ```
#[diagnostic::on_unimplemented(
    message = "the router's state `{S}` has no part `{Self}`",
    label = "not a part of the router's state",
    note = "implement `FromRef<{S}>` for `{Self}`, or make the router with `Router::with_state` of this type"
)]
pub trait FromRef<S> {
    /// Clones the part.
    fn from_ref(state: &S) -> Self;
}

impl<S: Clone> FromRef<S> for S {
    fn from_ref(state: &S) -> Self {
        state.clone()
    }
}

impl<S: Sync, T: FromRef<S>> FromJobParts<S> for State<T> {
    type Rejection = Infallible;

    async fn from_job_parts(_: &Job, state: &S) -> Result<Self, Infallible> {
        Ok(Self(T::from_ref(state)))
    }
}

/// The authenticated user's id. Rejects anonymous requests with error 103; `Option<User>` accepts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(pub String);

impl<S: Sync> FromJobParts<S> for User {
    type Rejection = NoUser;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, NoUser> {
        job.user().map(|user| Self(user.to_owned())).ok_or(NoUser)
    }
}

/// The id of the connection that the request came from. Rejects requests that no client made with error 103.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client(pub String);

impl<S: Sync> FromJobParts<S> for Client {
    type Rejection = NoClient;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, NoClient> {
        job.client().map(|client| Self(client.to_owned())).ok_or(NoClient)
    }
}

/// The request's id, the same on every attempt: an idempotency key for effects in other systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

impl<S: Sync> FromJobParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
        Ok(Self(job.id().to_owned()))
    }
}

/// The number of attempts that were begun before this one: 0 on the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl<S: Sync> FromJobParts<S> for Attempt {
    type Rejection = Infallible;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
        Ok(Self(job.attempt()))
    }
}

impl<S: Sync> FromJobParts<S> for Cancel {
    type Rejection = Infallible;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
        Ok(job.cancel().clone())
    }
}

impl<S: Sync> FromJobParts<S> for Progress {
    type Rejection = Infallible;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
        Ok(Self(job.progress().cloned().unwrap_or_default()))
    }
}

/// The end of this attempt's time, by the route's `timeout`. The handler's task is ended then, at its next `await`. For calls to
/// other systems that should give up before:
///
/// ```
/// use tidegate_worker::Deadline;
///
/// async fn charge(deadline: Deadline) {
///     let limit = deadline.remaining() / 2;
///     // ... a call with this limit
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Deadline(Job);

impl Deadline {
    /// How much time is left. Zero when it is over.
    pub fn remaining(&self) -> Duration {
        self.0.remaining().unwrap_or(Duration::MAX)
    }

    /// The end. `None` for a job without a limit, which only a test has.
    pub fn end(&self) -> Option<std::time::Instant> {
        self.0.deadline()
    }
}

impl<S: Sync> FromJobParts<S> for Deadline {
    type Rejection = Infallible;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
        Ok(Self(job.clone()))
    }
}

/// The method of an RPC as the client wrote it, without its key. Rejects every other request with error 107.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method(pub String);

impl<S: Sync> FromJobParts<S> for Method {
    type Rejection = NoMethod;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, NoMethod> {
        job.method().map(|method| Self(method.to_owned())).ok_or(NoMethod)
    }
}

/// The channel that a client published to, as the client wrote it. Rejects every other request with error 107.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel(pub String);

impl<S: Sync> FromJobParts<S> for Channel {
    type Rejection = NoChannel;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, NoChannel> {
        job.channel().map(|channel| Self(channel.to_owned())).ok_or(NoChannel)
    }
}

impl<S: Sync> FromJobParts<S> for Sender {
    type Rejection = Infallible;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
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

    /// That word as a value of another type, such as a number. The error is a rejection with code 107.
    ///
    /// ```
    /// use tidegate_worker::{Failure, Params};
    ///
    /// async fn place(params: Params) -> Result<(), Failure> {
    ///     let order: u64 = params.parse("order")?;
    ///     Ok(())
    /// }
    /// # tidegate_worker::Router::new().route("orders.{order}.place", tidegate_worker::on(place));
    /// ```
    pub fn parse<T: FromStr>(&self, name: &str) -> Result<T, BadParam>
    where
        T::Err: fmt::Display,
    {
        let bad = |reason: String| BadParam { name: name.to_owned(), reason };
        let word = self.get(name).ok_or_else(|| bad("the route's pattern has no such name".to_owned()))?;
        word.parse().map_err(|error| bad(format!("{word:?}: {error}")))
    }
}

/// A word of the method is not what the handler takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{{{name}}}: {reason}")]
#[non_exhaustive]
pub struct BadParam {
    /// The name in the route's pattern.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

impl IntoFailure for BadParam {
    fn into_failure(self) -> Failure {
        Failure::protocol(codes::BAD_REQUEST, self)
    }
}

impl<S: Sync> FromJobParts<S> for Params {
    type Rejection = Infallible;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
        Ok(Self(job.clone()))
    }
}

/// The headers of the request's message.
#[derive(Debug, Clone)]
pub struct Headers(Job);

impl Headers {
    /// The first value of this header, as [`Job::header`] has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.header(name)
    }
}

impl<S: Sync> FromJobParts<S> for Headers {
    type Rejection = Infallible;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, Infallible> {
        Ok(Self(job.clone()))
    }
}

/// A value of this type that a layer has added to the job. A job without one is tried again: a layer is missing.
#[derive(Debug, Clone)]
pub struct Extension<T>(pub T);

/// No layer has added a value of this type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no layer has added a value of the type {type_name}")]
#[non_exhaustive]
pub struct NoExtension {
    /// The type.
    pub type_name: &'static str,
}

impl Rejection for NoExtension {}

impl IntoFailure for NoExtension {
    fn into_failure(self) -> Failure {
        Failure::retry(self)
    }
}

impl<S: Sync, T: Clone + Send + Sync + 'static> FromJobParts<S> for Extension<T> {
    type Rejection = NoExtension;

    async fn from_job_parts(job: &Job, _: &S) -> Result<Self, NoExtension> {
        let value = job.extensions().get::<T>().cloned();
        value.map(Self).ok_or(NoExtension { type_name: type_name::<T>() })
    }
}
