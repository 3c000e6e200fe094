//! Finds the route of the `[[route]]` table for each handler of a router. Pure.

use std::sync::Arc;

use tidegate_shared::{
    config::{Config, Match, Route},
    route::{Pattern, Word},
};

use crate::{
    engine::BoundRoute,
    router::{Binding, Router},
    starts::Starts,
};

/// Binds the handlers of a router to their routes. The error says what does not fit. The calling thread has to be in the runtime that handlers run on.
pub(crate) fn bind<S>(config: &Config, router: Router<S>) -> Result<Vec<BoundRoute>, String>
where
    S: Clone + Send + Sync + 'static,
{
    let mut routes: Vec<BoundRoute> = Vec::new();
    let limits: Vec<_> =
        config.rate_limits.iter().map(|limit| (&limit.name, Arc::new(Starts::of_limit(limit)))).collect();
    for bound in router.into_routes() {
        let route = find(&config.routes, &bound.what, bound.binding)?;
        if routes.iter().any(|other| other.config.name == route.name) {
            return Err(format!("there are two handlers for the route {:?}: a route has one", route.name));
        }
        let gate = bound.gate.clone();
        let limit = route.webhook.as_ref().and_then(|webhook| webhook.rate_limit.as_ref());
        let shared =
            limits.iter().find(|(name, _)| Some(*name) == limit).map(|(_, starts)| Arc::clone(starts));
        routes.push(BoundRoute::new(route.clone(), bound.into_handler(), gate, shared));
    }
    Ok(routes)
}

/// Finds a route by its name or by what it matches. The error names what there is.
pub(crate) fn find<'a>(routes: &'a [Route], what: &str, binding: Binding) -> Result<&'a Route, String> {
    let short = match binding {
        Binding::Answers => "rpc",
        Binding::Decides => "hook",
    };
    let matched = format!("{short}.{what}");
    let is_match = |route: &Route| {
        let matches = route.matches.to_string();
        matches == what || matches == matched
    };
    let by_name = routes.iter().find(|route| route.name == what);
    let by_match = routes.iter().find(|route| is_match(route));
    match (by_name, by_match) {
        (Some(a), Some(b)) if a.name != b.name => Err(format!(
            "{what:?} is the name of one [[route]] and what another one, {:?}, matches: write {:?} for the other one",
            b.name,
            b.matches.to_string()
        )),
        (Some(route), _) | (None, Some(route)) => check(route, binding),
        (None, None) => Err(not_found(routes, what)),
    }
}

fn check(route: &Route, binding: Binding) -> Result<&Route, String> {
    let (name, matches) = (&route.name, &route.matches);
    match (matches, binding) {
        (Match::Hook(event), Binding::Answers) => Err(format!(
            "the route {name:?} (match = \"{matches}\") asks for decisions: bind it with Router::decide({:?}, handler)",
            event.as_str()
        )),
        (Match::Hook(_), Binding::Decides) | (_, Binding::Answers) => Ok(route),
        (_, Binding::Decides) => Err(format!(
            "the route {name:?} (match = \"{matches}\") takes requests: bind it with Router::route({name:?}, on(handler))"
        )),
    }
}

fn not_found(routes: &[Route], what: &str) -> String {
    let similar = |route: &&Route| match (&route.matches, what.strip_prefix("rpc.").unwrap_or(what).parse()) {
        (Match::Rpc(pattern), Ok(other)) => is_same_but_for_names(pattern, &other),
        _ => false,
    };
    if let Some(route) = routes.iter().find(similar) {
        return format!(
            "there is a handler for {what:?}, but the route {:?} names its words differently: it matches \"{}\"",
            route.name, route.matches
        );
    }
    let all = routes.iter().map(|route| format!("{} ({})", route.name, route.matches));
    let all = if routes.is_empty() { "none".to_owned() } else { all.collect::<Vec<_>>().join(", ") };
    format!("there is a handler for {what:?}, but no such [[route]]; there are: {all}")
}

fn is_same_but_for_names(a: &Pattern, b: &Pattern) -> bool {
    let same = |(a, b): (&Word, &Word)| match (a, b) {
        (Word::Literal(a), Word::Literal(b)) => a == b,
        (Word::Any(_), Word::Any(_)) => true,
        _ => false,
    };
    a.is_open() == b.is_open()
        && a.words().len() == b.words().len()
        && a.words().iter().zip(b.words()).all(same)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_shared::config::Role;

    use super::*;
    use crate::{decision::Grant, handler::on};

    async fn ping() {}

    async fn entry() -> Grant {
        Grant::new()
    }

    fn bound(router: Router) -> Result<Vec<String>, String> {
        let routes = "[{name = \"a\", match = \"rpc.a\"}, {name = \"orders\", match = \"rpc.orders.{order}.place\"}, \
             {name = \"b\", match = \"rpc.c\"}, {name = \"x\", match = \"rpc.b\"}, {name = \"entry\", match = \"hook.connect\"}]";
        let flags = [("route", routes.to_owned())];
        let config = Config::from_sources_as(Role::Worker, None, BTreeMap::new(), &flags)
            .map_err(|error| error.to_string())?;
        let bound = bind(&config, router)?;
        Ok(bound.into_iter().map(|route| route.config.name).collect())
    }

    #[test]
    fn a_handler_is_bound_by_the_name_or_by_the_match_of_its_route() {
        for what in ["orders", "orders.{order}.place", "rpc.orders.{order}.place"] {
            assert_eq!(bound(Router::new().route(what, on(ping))).unwrap(), ["orders"], "{what}");
        }
        for event in ["connect", "hook.connect", "entry"] {
            assert_eq!(bound(Router::new().decide(event, entry)).unwrap(), ["entry"], "{event}");
        }
    }

    #[test]
    fn a_router_that_does_not_fit_the_route_table_is_refused_and_what_there_is_is_named() {
        let twice = Router::new().route("a", on(ping)).merge(Router::with_state(1).route("rpc.a", on(ping)));
        for (router, error) in [
            (
                Router::new().route("d", on(ping)),
                "there is a handler for \"d\", but no such [[route]]; there are: a (rpc.a), \
                 orders (rpc.orders.{order}.place), b (rpc.c), x (rpc.b), entry (hook.connect)",
            ),
            (twice, "there are two handlers for the route \"a\": a route has one"),
            (
                Router::new().route("orders.{id}.place", on(ping)),
                "there is a handler for \"orders.{id}.place\", but the route \"orders\" names its words differently: \
                 it matches \"rpc.orders.{order}.place\"",
            ),
            (
                Router::new().route("b", on(ping)),
                "\"b\" is the name of one [[route]] and what another one, \"x\", matches: write \"rpc.b\" for the other one",
            ),
            (
                Router::new().route("entry", on(ping)),
                "the route \"entry\" (match = \"hook.connect\") asks for decisions: \
                 bind it with Router::decide(\"connect\", handler)",
            ),
            (
                Router::new().decide("a", entry),
                "the route \"a\" (match = \"rpc.a\") takes requests: bind it with Router::route(\"a\", on(handler))",
            ),
        ] {
            assert_eq!(bound(router).unwrap_err(), error);
        }
    }
}
