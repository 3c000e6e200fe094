//! Which handler is bound to which route.
//!
//! The router has names and patterns only; `bind` finds their routes. The `[[route]]` table says which requests a route takes, how many at a time and how many attempts
//! they have.

use std::{fmt, sync::Arc};

use tower::{BoxError, Layer, Service};

use crate::{
    answer::Answer,
    decision::IntoDecision,
    failure::Failure,
    gate::Gate,
    handler::{Handler, RouteHandler},
    job::Job,
    service::{HandlerService, layered},
};

/// Makes the handler of a route, once the worker's runtime is there: some layers start a task of their own.
type Make = Box<dyn FnOnce() -> HandlerService + Send>;
type Around = Arc<dyn Fn(HandlerService) -> HandlerService + Send + Sync>;

/// Handlers bound to routes of the `[[route]]` table.
///
/// What is not in the table, or is bound twice, fails [`WorkerBuilder::start`](crate::WorkerBuilder::start). Routes without a handler are
/// left to other workers.
///
/// ```
/// use tidegate_worker::{Json, Router, State, on};
///
/// async fn price(State(cents): State<u32>) -> Json<u32> {
///     Json(cents)
/// }
///
/// let router = Router::with_state(250).route("price", on(price));
/// ```
pub struct Router<S = ()> {
    state: S,
    routes: Vec<Bound>,
    /// The innermost first.
    layers: Vec<Around>,
    metrics: Vec<Page>,
}

/// Metrics that the application counts itself, in the text format of OpenMetrics.
pub(crate) type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// A handler and what it is bound to.
pub(crate) struct Bound {
    /// The name or the pattern of a route, or an event, as the application wrote it.
    pub(crate) what: String,
    pub(crate) binding: Binding,
    pub(crate) gate: Gate,
    make: Make,
}

/// How a handler is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binding {
    /// By [`Router::route`].
    Answers,
    /// By [`Router::decide`].
    Decides,
}

impl Router<()> {
    /// A router without state.
    pub fn new() -> Self {
        Self::with_state(())
    }
}

impl Default for Router<()> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// A router whose handlers can have [`State<S>`](crate::State) as an argument. Every call gets a clone of the state.
    pub fn with_state(state: S) -> Self {
        Self { state, routes: Vec::new(), layers: Vec::new(), metrics: Vec::new() }
    }

    /// Binds a handler to a route: by its name, or by its `match`, of which `rpc.` may be left out.
    ///
    /// ```
    /// use tidegate_worker::{Params, Router, on};
    ///
    /// async fn place(params: Params) {
    ///     let order = params.get("order");
    /// }
    ///
    /// // [[route]]
    /// // name = "orders"
    /// // match = "rpc.orders.{order}.place"
    /// let router = Router::<()>::new().route("orders.{order}.place", on(place));
    /// ```
    #[must_use]
    pub fn route(self, what: impl Into<String>, route: RouteHandler<S>) -> Self {
        self.bind(what.into(), Binding::Answers, route)
    }

    /// Binds a handler that decides questions of gateways: may this client connect, stay, subscribe, publish? `event` is
    /// `connect`, `refresh`, `subscribe`, `sub_refresh` or `publish`, or the name of its route. The question is the body, JSON;
    /// the handler answers with a [`Decision`](crate::Decision).
    ///
    /// ```
    /// use tidegate_worker::{Grant, Router};
    ///
    /// async fn connect() -> Grant {
    ///     Grant::new().user("guest")
    /// }
    ///
    /// // [[route]]
    /// // name = "entry"
    /// // match = "hook.connect"
    /// let router = Router::<()>::new().decide("connect", connect);
    /// ```
    #[must_use]
    pub fn decide<H, M>(self, event: impl Into<String>, handler: H) -> Self
    where
        H: Handler<M, S>,
        H::Output: IntoDecision,
        M: 'static,
    {
        let decide = |output: H::Output| Ok(Answer::bytes(output.into_decision()?.body()?));
        self.bind(event.into(), Binding::Decides, RouteHandler::answering(handler, decide))
    }

    fn bind(mut self, what: String, binding: Binding, route: RouteHandler<S>) -> Self {
        let state = self.state.clone();
        let make = Box::new(move || route.with_state(state));
        self.routes.push(Bound { what, binding, gate: Gate::new(), make });
        self
    }

    /// Gives a route a gate: while it is closed, the worker pulls none of its requests. `what` is what its handler is bound to
    /// already.
    #[must_use]
    pub fn gate(mut self, what: &str, gate: &Gate) -> Self {
        for bound in self.routes.iter_mut().filter(|bound| bound.what == what) {
            bound.gate = gate.clone();
        }
        self
    }

    /// Wraps the handlers of all routes of this router in a tower layer, of those that are added later too. The layer added last
    /// is the outermost; all of them are around the layers of the routes themselves. Each route gets a service of its own from
    /// the layer, so a `ConcurrencyLimitLayer` limits each route alone and a `GlobalConcurrencyLimitLayer` all of them together.
    ///
    /// An error of a layer makes a [`Failure::retry`], and uses no attempt if the handler has not begun: see [`RouteHandler::layer`].
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<HandlerService> + Send + Sync + 'static,
        L::Service: Service<Job, Response = Result<Answer, Failure>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Job>>::Error: Into<BoxError>,
        <L::Service as Service<Job>>::Future: Send,
    {
        self.layers.push(Arc::new(move |handler| layered(&layer, handler)));
        self
    }

    /// Adds the routes of another router, with their own state and layers. The layers of this router are around them too.
    #[must_use]
    pub fn merge<T: Clone + Send + Sync + 'static>(mut self, mut other: Router<T>) -> Self {
        self.metrics.append(&mut other.metrics);
        self.routes.extend(other.into_routes());
        self
    }

    /// Adds metrics of the application to those of the worker: what `page` returns, in the text format of OpenMetrics or
    /// Prometheus, is a part of `/metrics`. Names that begin with `tidegate_worker_` are the library's.
    #[must_use]
    pub fn metrics(mut self, page: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.metrics.push(Arc::new(page));
        self
    }

    /// The metrics of the application.
    pub(crate) fn pages(&self) -> Vec<Page> {
        self.metrics.clone()
    }

    /// The routes, with the layers of the router around their handlers.
    pub(crate) fn into_routes(self) -> Vec<Bound> {
        let Self { routes, layers, .. } = self;
        let layers: Arc<[Around]> = layers.into();
        let wrap = |Bound { what, binding, gate, make }| {
            let layers = Arc::clone(&layers);
            let make = move || layers.iter().fold(make(), |handler, around| around(handler));
            Bound { what, binding, gate, make: Box::new(make) }
        };
        routes.into_iter().map(wrap).collect()
    }
}

impl Bound {
    /// Makes the handler. The calling thread has to be in the runtime that handlers run on.
    pub(crate) fn into_handler(self) -> HandlerService {
        (self.make)()
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|bound| &bound.what)).finish()
    }
}
