//! Handlers: async functions of up to twelve extractors, and the tower layers around them.
//!
//! Layers are for what an application adds. Acknowledgements, permits, timeouts, panics and deduplication belong to the engine
//! and stay outside of the layers: a wrong order of these would lose requests.

use std::fmt;

use tower::{BoxError, Layer, Service, util::BoxCloneSyncService};

use crate::{
    answer::{Answer, IntoAnswer},
    extract::{FromJob, FromJobParts},
    failure::Failure,
    job::Job,
    service::{HandlerService, layered},
};

/// An async function of up to twelve extractors; `M` is the list of their types. Its result is [`IntoAnswer`] for a route, and
/// [`IntoDecision`](crate::IntoDecision) for a question.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "a handler is an async function of at most twelve extractors, of which only the last may take the body",
    note = "look whether it is `async`, whether each argument is an extractor such as `User`, `Params` or `State<T>`, and whether `Json<T>` or `Bytes` comes last"
)]
pub trait Handler<M, S>: Clone + Send + Sync + 'static {
    /// What the function returns.
    type Output;

    /// Runs the function for one job. Fails when an argument has no value.
    fn call(self, job: Job, state: S) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

impl<F, Fut, R, S> Handler<((),), S> for F
where
    F: FnOnce() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send,
    S: Send + Sync + 'static,
{
    type Output = R;

    async fn call(self, _: Job, _: S) -> Result<R, Failure> {
        Ok(self().await)
    }
}

macro_rules! handlers {
    ($([$($part:ident),*] $last:ident;)*) => {$(
        #[expect(non_snake_case, reason = "the macro has only the types' names to give to the values")]
        impl<F, Fut, R, S, M, $($part,)* $last> Handler<(M, $($part,)* $last), S> for F
        where
            F: FnOnce($($part,)* $last) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = R> + Send,
            S: Send + Sync + 'static,
            $($part: FromJobParts<S> + Send,)*
            $last: FromJob<S, M> + Send,
        {
            type Output = R;

            async fn call(self, job: Job, state: S) -> Result<R, Failure> {
                $(let $part = $part::from_job_parts(&job, &state).await.map_err(Into::into)?;)*
                let $last = $last::from_job(job, &state).await.map_err(Into::into)?;
                Ok(self($($part,)* $last).await)
            }
        }
    )*};
}

handlers! {
    [] A;
    [A] B;
    [A, B] C;
    [A, B, C] D;
    [A, B, C, D] E;
    [A, B, C, D, E] G;
    [A, B, C, D, E, G] H;
    [A, B, C, D, E, G, H] I;
    [A, B, C, D, E, G, H, I] J;
    [A, B, C, D, E, G, H, I, J] K;
    [A, B, C, D, E, G, H, I, J, K] L;
    [A, B, C, D, E, G, H, I, J, K, L] N;
}

/// A handler with the layers around it, before the router gives it its state.
pub struct RouteHandler<S>(Box<dyn FnOnce(S) -> HandlerService + Send>);

/// Prepares a handler for [`Router::route`](crate::Router::route).
///
/// ```
/// use tidegate_worker::{Json, Router, User, on};
///
/// async fn greet(User(user): User, Json(greeting): Json<String>) -> Json<String> {
///     Json(format!("{greeting}, {user}!"))
/// }
///
/// let router = Router::new().route("greet", on(greet));
/// ```
pub fn on<H, M, S>(handler: H) -> RouteHandler<S>
where
    H: Handler<M, S>,
    H::Output: IntoAnswer,
    M: 'static,
    S: Clone + Send + Sync + 'static,
{
    RouteHandler::answering(handler, IntoAnswer::into_answer)
}

impl<S: 'static> RouteHandler<S> {
    /// A handler whose result becomes an answer in this way.
    pub(crate) fn answering<H, M>(handler: H, answer: fn(H::Output) -> Result<Answer, Failure>) -> Self
    where
        H: Handler<M, S>,
        M: 'static,
        S: Clone + Send + Sync,
    {
        Self(Box::new(move |state| {
            BoxCloneSyncService::new(tower::service_fn(move |job| {
                let (handler, state) = (handler.clone(), state.clone());
                async move {
                    Job::begin(&job);
                    Ok(handler.call(job, state).await.and_then(answer))
                }
            }))
        }))
    }

    /// Wraps the handler in a tower layer. The layer added last is the outermost.
    ///
    /// An error of a layer, such as the `Elapsed` of tower's `TimeoutLayer` or the `Overloaded` of its `LoadShedLayer`, makes a
    /// [`Failure::retry`]. A handler's own failure is no error to a layer: it is the `Err` in the response. A request that a layer did not
    /// let through to its handler has used no attempt: it is snoozed for as long as the route's `backoff` says, `max_snoozes`
    /// times at most.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate_worker::{Router, on, tower::limit::ConcurrencyLimitLayer, tower::timeout::TimeoutLayer};
    ///
    /// async fn ping() {}
    ///
    /// let ping = on(ping).layer(ConcurrencyLimitLayer::new(8)).layer(TimeoutLayer::new(Duration::from_secs(3)));
    /// let router = Router::new().route("ping", ping);
    /// ```
    #[must_use]
    pub fn layer<L>(self, layer: L) -> Self
    where
        L: Layer<HandlerService> + Send + 'static,
        L::Service: Service<Job, Response = Result<Answer, Failure>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Job>>::Error: Into<BoxError>,
        <L::Service as Service<Job>>::Future: Send,
    {
        Self(Box::new(move |state| layered(&layer, (self.0)(state))))
    }

    pub(crate) fn with_state(self, state: S) -> HandlerService {
        (self.0)(state)
    }
}

impl<S> fmt::Debug for RouteHandler<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RouteHandler(..)")
    }
}

#[cfg(test)]
mod tests;
