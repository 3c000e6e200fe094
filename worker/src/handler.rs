//! Handlers: async functions of up to six extractors, and the tower layers around them.
//!
//! Layers are for what an application adds. Acknowledgements, permits, timeouts, panics and deduplication belong to the engine
//! and stay outside of the layers: a wrong order of these would lose requests.

use std::fmt;

use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    answer::{Answer, IntoAnswer},
    extract::{FromJob, FromJobParts},
    failure::Failure,
    job::Job,
};

pub(crate) type BoxedHandler = BoxCloneSyncService<Job, Answer, Failure>;

/// An async function that answers jobs. Implemented for functions of up to six extractors whose result is
/// [`IntoAnswer`]; `M` is the list of their arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "a handler is an async function of at most six extractors, the body last, that returns an answer"
)]
pub trait Handler<M, S>: Clone + Send + Sync + 'static {
    /// Answers one job.
    fn call(self, job: Job, state: S) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

impl<F, Fut, R, S> Handler<((),), S> for F
where
    F: FnOnce() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send,
    R: IntoAnswer,
    S: Send + Sync + 'static,
{
    async fn call(self, _: Job, _: S) -> Result<Answer, Failure> {
        self().await.into_answer()
    }
}

macro_rules! handlers {
    ($([$($part:ident),*] $last:ident;)*) => {$(
        #[expect(non_snake_case, reason = "the macro has only the types' names to give to the values")]
        impl<F, Fut, R, S, M, $($part,)* $last> Handler<(M, $($part,)* $last), S> for F
        where
            F: FnOnce($($part,)* $last) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = R> + Send,
            R: IntoAnswer,
            S: Send + Sync + 'static,
            $($part: FromJobParts<S> + Send,)*
            $last: FromJob<S, M> + Send,
        {
            async fn call(self, job: Job, state: S) -> Result<Answer, Failure> {
                $(let $part = $part::from_job_parts(&job, &state).await?;)*
                let $last = $last::from_job(job, &state).await?;
                self($($part,)* $last).await.into_answer()
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
}

/// A handler with the layers around it, before the router gives it its state.
pub struct RouteHandler<S>(Box<dyn FnOnce(S) -> BoxedHandler + Send>);

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
    M: 'static,
    S: Clone + Send + Sync + 'static,
{
    RouteHandler(Box::new(move |state| {
        BoxCloneSyncService::new(tower::service_fn(move |job| {
            let (handler, state) = (handler.clone(), state.clone());
            async move { handler.call(job, state).await }
        }))
    }))
}

impl<S: 'static> RouteHandler<S> {
    /// Wraps the handler in a tower layer. The layer added last is the outermost.
    #[must_use]
    pub fn layer<L>(self, layer: L) -> Self
    where
        L: Layer<BoxedHandler> + Send + 'static,
        L::Service: Service<Job, Response = Answer> + Clone + Send + Sync + 'static,
        <L::Service as Service<Job>>::Error: Into<Failure>,
        <L::Service as Service<Job>>::Future: Send,
    {
        Self(Box::new(move |state| {
            BoxCloneSyncService::new(layer.layer((self.0)(state)).map_err(Into::into))
        }))
    }

    pub(crate) fn with_state(self, state: S) -> BoxedHandler {
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
