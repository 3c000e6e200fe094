//! The stock handlers, and how routes get them.

use bytes::Bytes;
use tidegate_shared::config::{Config, Route, STOCK_HANDLERS};
use tidegate_worker::{Channel, Misconfigured, Publication, Publications, Router, Sender, on};

mod quakes;

/// Binds every route to the handler it names. Routes without one are left to other workers.
pub(crate) async fn router(config: &Config) -> anyhow::Result<Router> {
    let mut router = Router::new();
    let mut store = None;
    for (index, route) in config.routes.iter().enumerate() {
        let bound = match route.handler.as_deref() {
            None => continue,
            Some("echo") => on(echo),
            Some("room") => on(room),
            Some("quakes") => {
                if store.is_none() {
                    store = Some(quakes::Store::open(&config.quakes.database).await?);
                }
                let Some(store) = store.clone() else { continue };
                on(async move |id, body| quakes::report(store, id, body).await)
            }
            Some(other) => return Err(unknown(index, route, other).into()),
        };
        router = router.route(&route.name, bound);
    }
    Ok(router)
}

/// Answers with the request's body.
async fn echo(body: Bytes) -> Bytes {
    body
}

/// Publishes a client's publication in its channel, with that client as the publisher.
async fn room(Channel(channel): Channel, sender: Sender, body: Bytes) -> ((), Publications) {
    ((), Publications(vec![Publication::bytes(channel, body).sent_by(sender)]))
}

fn unknown(index: usize, route: &Route, handler: &str) -> Misconfigured {
    Misconfigured::new(format!(
        "`route.{index}.handler` (route {:?}): there is no handler {handler:?}; there are {}; leave it out for workers of your own",
        route.name,
        STOCK_HANDLERS.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_shared::config::Role;

    use super::*;

    fn config(handler: &str) -> Config {
        let flags = [(
            "route",
            format!(
                "[{{name = \"a\", match = \"rpc.a\"}}, {{name = \"b\", match = \"rpc.b\", handler = \"{handler}\"}}]"
            ),
        )];
        Config::from_sources_as(Role::Worker, None, BTreeMap::new(), &flags).unwrap()
    }

    #[tokio::test]
    async fn an_unknown_handler_is_named_with_its_key() {
        let error = router(&config("ecko")).await.unwrap_err();
        assert!(error.is::<Misconfigured>());
        assert_eq!(
            error.to_string(),
            "`route.1.handler` (route \"b\"): there is no handler \"ecko\"; there are echo, quakes, room; leave it out for workers of your own"
        );
    }

    #[tokio::test]
    async fn routes_without_a_handler_are_left_to_other_workers() {
        assert_eq!(format!("{:?}", router(&config("echo")).await.unwrap()), "[\"b\"]");
    }
}
