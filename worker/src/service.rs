//! A handler as a tower service, and the layers around it: an error of a layer becomes a failure of the handler.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tower::{BoxError, Layer, Service, util::BoxCloneSyncService};

use crate::{answer::Answer, failure::Failure, job::Job};

/// A handler as layers see it: a tower service that takes a [`Job`], never fails, and responds with the handler's result.
pub type HandlerService = BoxCloneSyncService<Job, Result<Answer, Failure>, Infallible>;

/// A service of a layer, without its errors.
#[derive(Debug)]
struct Layered<T> {
    service: T,
    /// Why the service cannot take the next job: said when it comes.
    broken: Option<BoxError>,
}

/// Wraps a handler in a layer.
pub(crate) fn layered<L>(layer: &L, handler: HandlerService) -> HandlerService
where
    L: Layer<HandlerService>,
    L::Service: Service<Job, Response = Result<Answer, Failure>> + Clone + Send + Sync + 'static,
    <L::Service as Service<Job>>::Error: Into<BoxError>,
    <L::Service as Service<Job>>::Future: Send,
{
    BoxCloneSyncService::new(Layered { service: layer.layer(handler), broken: None })
}

impl<T: Clone> Clone for Layered<T> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), broken: None }
    }
}

impl<T> Service<Job> for Layered<T>
where
    T: Service<Job, Response = Result<Answer, Failure>>,
    T::Error: Into<BoxError>,
    T::Future: Send + 'static,
{
    type Response = Result<Answer, Failure>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.broken.is_none()
            && let Err(error) = ready!(self.service.poll_ready(context))
        {
            self.broken = Some(error.into());
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: Job) -> Self::Future {
        if let Some(error) = self.broken.take() {
            return Box::pin(async { Ok(Err(Failure::of_layer(error))) });
        }
        let response = self.service.call(job);
        Box::pin(async { Ok(response.await.unwrap_or_else(|error| Err(Failure::of_layer(error.into())))) })
    }
}

#[cfg(test)]
mod tests;
