//! Which handler is bound to which route.
//!
//! The router has names only. The `[[route]]` table says which requests a route takes, how many at a time and how many attempts
//! they have.

use std::fmt;

use crate::handler::{BoxedHandler, RouteHandler};

/// Handlers bound to the names of the `[[route]]` table.
///
/// A name that is not in the table fails [`Worker::connect`](crate::Worker::connect). Routes without a handler are left to other
/// workers.
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
    routes: Vec<(String, BoxedHandler)>,
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
        Self { state, routes: Vec::new() }
    }

    /// Binds a handler to the route of this name. A later handler for the same name replaces an earlier one.
    #[must_use]
    pub fn route(mut self, name: impl Into<String>, route: RouteHandler<S>) -> Self {
        let name = name.into();
        self.routes.retain(|(bound, _)| *bound != name);
        self.routes.push((name, route.with_state(self.state.clone())));
        self
    }

    pub(crate) fn into_routes(self) -> Vec<(String, BoxedHandler)> {
        self.routes
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|(name, _)| name)).finish()
    }
}
