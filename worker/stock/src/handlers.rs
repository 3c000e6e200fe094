//! The stock handlers, and how routes get them.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_shared::config::{Config, Route, STOCK_HANDLERS};
use tidegate_worker::{Answer, Channel, Failure, Gate, Job, Misconfigured, Publication, Router, Sender, on};

pub(crate) use self::sql::{Purpose, sqlite::Database};
use self::{
    forward::{Forward, Services},
    sql::Sql,
    webhook::Webhook,
};
use crate::{
    input::Input,
    metrics::{Metrics, OfRoute, Outcome},
};

mod answer;
mod forward;
mod quakes;
mod sql;
mod webhook;

/// What routes share.
struct Shared {
    purpose: Purpose,
    metrics: Arc<Metrics>,
    services: Services,
    quakes: Option<quakes::Store>,
}

/// Binds every route to the handler it names, and makes ready what the handlers need. Routes without one are left to other
/// workers.
pub(crate) async fn router(config: &Config) -> anyhow::Result<Router> {
    bind(config, Purpose::Work).await
}

/// Tries all that [`router`] does, and leaves nothing behind.
pub(crate) async fn check(config: &Config) -> anyhow::Result<()> {
    bind(config, Purpose::Check).await.map(drop)
}

async fn bind(config: &Config, purpose: Purpose) -> anyhow::Result<Router> {
    let mut shared = Shared {
        purpose,
        metrics: Arc::new(Metrics::new()),
        services: Services::new(&config.nats),
        quakes: None,
    };
    let metrics = Arc::clone(&shared.metrics);
    let mut router = Router::new().metrics(move || metrics.render());
    for (index, route) in config.routes.iter().enumerate() {
        if let Some(handler) = route.handler.as_deref() {
            router = bind_route(router, config, &mut shared, (index, route, handler)).await?;
        }
    }
    Ok(router)
}

async fn bind_route(
    router: Router,
    config: &Config,
    shared: &mut Shared,
    (index, route, handler): (usize, &Route, &str),
) -> anyhow::Result<Router> {
    let name = route.name.as_str();
    let matches = Arc::new(route.matches.clone());
    let wrong = |(key, text): (String, String)| {
        Misconfigured::new(format!("`route.{index}.{handler}.{key}` (route {name:?}): {text}"))
    };
    Ok(match handler {
        "echo" => router.route(name, on(echo)),
        "room" => router.route(name, on(room)),
        "quakes" => {
            if shared.quakes.is_none() && shared.purpose == Purpose::Work {
                shared.quakes = Some(quakes::Store::open(&config.quakes.database).await?);
            }
            let Some(store) = shared.quakes.clone() else { return Ok(router) };
            router.route(name, on(async move |id, body| quakes::report(store, id, body).await))
        }
        "webhook" => {
            let Some(settings) = &route.webhook else { return Err(unknown(index, route, handler).into()) };
            let gate = Gate::new();
            let metrics = shared.metrics.of(name, "webhook");
            let webhook = Arc::new(Webhook::new(route, settings, (metrics, gate.clone())).map_err(wrong)?);
            let call = async move |job: Job| webhook.call(Input::of(&job, &matches)).await;
            router.route(name, on(call)).gate(name, &gate)
        }
        "sql" => {
            let Some(settings) = &route.sql else { return Err(unknown(index, route, handler).into()) };
            let most = config.streams.answer_max_bytes;
            let sql = Arc::new(Sql::open(route, settings, most, shared.purpose).await.map_err(wrong)?);
            let metrics = shared.metrics.of(name, "sql");
            router.route(
                name,
                on(async move |job: Job| counted(&metrics, sql.call(Input::of(&job, &matches))).await),
            )
        }
        "forward" => {
            let Some(settings) = &route.forward else { return Err(unknown(index, route, handler).into()) };
            let forward = Arc::new(Forward::new(shared.services.clone(), settings.clone()));
            let metrics = shared.metrics.of(name, "forward");
            router.route(
                name,
                on(async move |job: Job| counted(&metrics, forward.call(Input::of(&job, &matches))).await),
            )
        }
        other => return Err(unknown(index, route, other).into()),
    })
}

/// Counts a call that is the whole work of its handler.
async fn counted(
    metrics: &OfRoute,
    work: impl Future<Output = Result<Answer, Failure>>,
) -> Result<Answer, Failure> {
    let call = metrics.call();
    let result = work.await;
    call.ended(match &result {
        Ok(_) => Outcome::Ok,
        Err(Failure::Reject { .. } | Failure::Dead { .. }) => Outcome::Refused,
        Err(Failure::Snooze { .. }) => Outcome::PutOff,
        Err(_) => Outcome::Failed,
    });
    result
}

/// Answers with the request's body.
async fn echo(body: Bytes) -> Bytes {
    body
}

/// Publishes a client's publication in its channel, with that client as the publisher.
async fn room(Channel(channel): Channel, sender: Sender, body: Bytes) -> Publication {
    Publication::bytes(channel, body).sent_by(sender)
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
            "`route.1.handler` (route \"b\"): there is no handler \"ecko\"; there are echo, forward, quakes, room, sql, webhook; \
             leave it out for workers of your own"
        );
    }

    #[tokio::test]
    async fn routes_without_a_handler_are_left_to_other_workers() {
        assert_eq!(format!("{:?}", router(&config("echo")).await.unwrap()), "[\"b\"]");
    }
}
