//! Which handler takes which route.
//!
//! Only names: what a route takes, how many at a time and how often is said by the `[[route]]` table alone.

use std::fmt;

use crate::handler::{BoxedHandler, RouteHandler};

/// Handlers bound to the names of the `[[route]]` table.
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
    /// A router whose handlers may ask for [`State<S>`](crate::State).
    pub fn with_state(state: S) -> Self {
        Self { state, routes: Vec::new() }
    }

    /// Binds a handler to the route of this name. Said twice, the later one counts.
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
