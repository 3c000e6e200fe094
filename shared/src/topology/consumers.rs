//! The consumers of the routes: which there are, what each takes, and the plan that creates, updates and removes them.
//!
//! A consumer's filter never changes in a way that skips or repeats requests: one that takes others has another name, and begins
//! at the start of the stream, where the purger leaves only what was not acknowledged, or stands behind it.

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, pull},
};
use futures_util::TryStreamExt;

use super::{
    ADVISORIES, ApplyError, Change, PARK, Step, Topology, apply::failed, differences, request_stream,
};
use crate::{
    config::{Config, Match, Order, Route},
    subject::{PARTS, Subjects},
};

/// The maximum number of unacknowledged requests of one consumer over all workers, unless its route limits it.
const MAX_ACK_PENDING: usize = 8192;

/// The name of the consumer of schedules' firings on `TIDE_PARK`, which all gateways share. No route has this name.
pub const FIRINGS: &str = "=firings";

/// The name of the consumer on `TIDE_ADV`, which all purgers share.
pub const SWEEPER: &str = "sweeper";
/// The most advisories that all purgers together are busy with.
const MAX_ADVISORIES: i64 = 1024;

/// What a consumer of a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// New requests; of a route with lanes, those with normal priority.
    New,
    /// New requests with high priority.
    First,
    /// New requests of one of the groups of a strict order, one at a time.
    Group(u32),
    /// Parked requests that are due.
    Due,
}

/// A consumer of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConsumer {
    /// The stream that it is on.
    pub stream: String,
    /// Its name.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
}

/// Returns the consumers of a route; none for a hook.
pub fn route_consumers(route: &Route) -> Vec<RouteConsumer> {
    if matches!(route.matches, Match::Hook(_)) {
        return Vec::new();
    }
    let new = |name: String, takes| RouteConsumer { stream: request_stream(&route.name), name, takes };
    let mut consumers = match route.order {
        Order::Strict => (0..route.partitions)
            .map(|group| new(format!("{}-{group}-of-{}", route.name, route.partitions), Takes::Group(group)))
            .collect(),
        Order::None | Order::Best if route.has_lanes() => {
            vec![new(format!("{}-first", route.name), Takes::First), new(route.name.clone(), Takes::New)]
        }
        Order::None | Order::Best => vec![new(route.name.clone(), Takes::New)],
    };
    consumers.push(RouteConsumer { stream: PARK.to_owned(), name: route.name.clone(), takes: Takes::Due });
    consumers
}

impl RouteConsumer {
    /// The subjects of the requests that it takes. None if it takes its whole stream.
    pub fn filters(&self, subjects: &Subjects, route: &Route) -> Vec<String> {
        let filter = |stage: &str| route.matches.filter(subjects, stage).into_iter();
        match self.takes {
            Takes::Due => filter("due").collect(),
            Takes::First => filter("first").collect(),
            Takes::New if route.has_lanes() => filter("in").collect(),
            Takes::New => Vec::new(),
            Takes::Group(group) => {
                let of_group = (0..PARTS).filter(|part| part % route.partitions == group);
                let filters = filter("in").flat_map(|all| {
                    of_group.clone().filter_map(move |part| Subjects::of_part(&all, part)).collect::<Vec<_>>()
                });
                filters.collect()
            }
        }
    }

    /// No `backoff` and no `max_deliver`: the worker counts attempts and parks failed requests, and either setting would
    /// interfere.
    fn config(&self, config: &Config, subjects: &Subjects, route: &Route) -> pull::Config {
        let most = match self.takes {
            Takes::Group(_) => 1,
            Takes::New if route.max_running > 0 => route.max_running,
            Takes::New | Takes::First | Takes::Due => MAX_ACK_PENDING,
        };
        let mut filters = self.filters(subjects, route);
        let filter_subject = if filters.len() == 1 { filters.remove(0) } else { String::new() };
        pull::Config {
            durable_name: Some(self.name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: config.worker.ack_wait,
            max_deliver: -1,
            max_ack_pending: i64::try_from(most).unwrap_or(i64::MAX),
            filter_subject,
            filter_subjects: filters,
            ..pull::Config::default()
        }
    }
}

/// The consumer of schedules' firings, with its stream.
pub(super) fn firings(config: &Config, subjects: &Subjects) -> (String, pull::Config) {
    let consumer = pull::Config {
        durable_name: Some(FIRINGS.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: config.worker.ack_wait,
        max_deliver: -1,
        // A firing that fails is not acknowledged until it is tried again: no number of them may hold up the others. Each gateway
        // asks only for as many as it can carry out.
        max_ack_pending: -1,
        filter_subject: subjects.all_firings(),
        ..pull::Config::default()
    };
    (PARK.to_owned(), consumer)
}

/// The consumer of advisories, with its stream.
pub(super) fn sweeper(config: &Config) -> (String, pull::Config) {
    let consumer = pull::Config {
        durable_name: Some(SWEEPER.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: config.worker.ack_wait,
        max_deliver: -1,
        max_ack_pending: MAX_ADVISORIES,
        ..pull::Config::default()
    };
    (ADVISORIES.to_owned(), consumer)
}

/// The consumers of a route, each with its stream.
pub(super) fn consumers(config: &Config, subjects: &Subjects, route: &Route) -> Vec<(String, pull::Config)> {
    let consumers = route_consumers(route).into_iter();
    consumers.map(|consumer| (consumer.stream.clone(), consumer.config(config, subjects, route))).collect()
}

/// Whether a consumer on the stream of a route is one that a configuration of this route has or had.
fn is_of(route: &str, consumer: &str) -> bool {
    let Some(rest) = consumer.strip_prefix(route) else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let group = || rest.strip_prefix('-')?.split_once("-of-");
    matches!(rest, "" | "-first") || group().is_some_and(|(group, of)| number(group) && number(of))
}

impl Topology {
    pub(super) async fn plan_consumers(
        &self,
        jetstream: &jetstream::Context,
    ) -> Result<Vec<Change>, ApplyError> {
        let mut changes = Vec::new();
        for (stream, wanted) in &self.consumers {
            let name = wanted.durable_name.clone().unwrap_or_default();
            let found =
                jetstream.get_consumer_from_stream::<pull::Config, _, _>(&name, stream.as_str()).await;
            let what = match found {
                Ok(consumer) => match consumer_differences(wanted, &consumer.cached_info().config) {
                    differences if differences.is_empty() => continue,
                    differences => format!("update consumer {name} on {stream}: {}", differences.join(", ")),
                },
                Err(_) => format!("create consumer {name} on {stream}"),
            };
            changes.push(Change { what, step: Step::Consumer(stream.clone(), name) });
        }
        for (stream, name) in self.unneeded_consumers(jetstream).await? {
            let what = format!("remove consumer {name} on {stream}: its route has other consumers now");
            changes.push(Change { what, step: Step::RemoveConsumer(stream, name) });
        }
        Ok(changes)
    }

    /// The consumers of routes that an earlier configuration had. Such a consumer holds nothing up, because the purger asks only
    /// those of the configuration; but workers that still run with the earlier one would go on with it.
    async fn unneeded_consumers(
        &self,
        jetstream: &jetstream::Context,
    ) -> Result<Vec<(String, String)>, ApplyError> {
        let mut unneeded = Vec::new();
        for stream in self.streams.iter().map(|stream| &stream.name) {
            let Some(route) = stream.strip_prefix(super::REQUESTS) else { continue };
            let Ok(found) = jetstream.get_stream(stream).await else { continue };
            let names: Vec<String> = found
                .consumer_names()
                .try_collect()
                .await
                .map_err(|error| failed(&format!("reading the consumers of {stream}"), &error))?;
            let wanted = |name: &String| {
                let mut consumers = self.consumers.iter().filter(|(on, _)| on == stream);
                consumers.any(|(_, consumer)| consumer.durable_name.as_ref() == Some(name))
            };
            let others = names.into_iter().filter(|name| is_of(route, name) && !wanted(name));
            unneeded.extend(others.map(|name| (stream.clone(), name)));
        }
        Ok(unneeded)
    }

    /// Creates or updates a consumer. It is paused if it was, or if another consumer of its route is.
    pub(super) async fn make_consumer(
        &self,
        jetstream: &jetstream::Context,
        change: &Change,
        stream: &str,
        name: &str,
    ) -> Result<(), ApplyError> {
        let mut wanted = self.consumers.iter().filter(|(on, _)| on == stream);
        let Some((_, config)) = wanted.find(|(_, c)| c.durable_name.as_deref() == Some(name)) else {
            return Ok(());
        };
        let pause_until = paused(jetstream, stream, name).await;
        let config = pull::Config { pause_until, ..config.clone() };
        let made = jetstream.create_consumer_on_stream(config, stream).await;
        made.map(drop).map_err(|e| failed(&change.what, &e))
    }
}

/// Until when the consumer is paused, or else the first other consumer of its route on the same stream.
async fn paused(
    jetstream: &jetstream::Context,
    stream: &str,
    name: &str,
) -> Option<async_nats::datetime::DateTime> {
    let mut names = vec![name.to_owned()];
    if let Some(route) = stream.strip_prefix(super::REQUESTS)
        && let Ok(found) = jetstream.get_stream(stream).await
        && let Ok(others) = found.consumer_names().try_collect::<Vec<_>>().await
    {
        names.extend(others.into_iter().filter(|name| is_of(route, name)));
    }
    for name in names {
        let found = jetstream.get_consumer_from_stream::<pull::Config, _, _>(&name, stream).await;
        let until = found.ok().and_then(|consumer| consumer.cached_info().config.pause_until);
        if until.is_some() {
            return until;
        }
    }
    None
}

/// As [`differences`], and whether it has filters that it should not have: an unset field is no difference elsewhere.
fn consumer_differences(wanted: &pull::Config, found: &jetstream::consumer::Config) -> Vec<String> {
    let mut differences = differences(wanted, found);
    if wanted.filter_subject.is_empty()
        && wanted.filter_subjects.is_empty()
        && !found.filter_subject.is_empty()
    {
        differences.push("filter_subject -> none".to_owned());
    }
    differences
}

#[cfg(test)]
mod tests {
    use figment::providers::Format;

    use super::*;

    #[test]
    fn consumers_of_a_route_are_told_from_those_of_others() {
        for (consumer, ours) in [
            ("orders", true),
            ("orders-first", true),
            ("orders-3-of-8", true),
            ("orders-3", false),
            ("orders-x-of-8", false),
            ("orders2", false),
            ("debug", false),
        ] {
            assert_eq!(is_of("orders", consumer), ours, "{consumer}");
        }
    }

    #[test]
    fn the_groups_of_a_strict_order_take_every_part_once() {
        let mut config = Config::load(None, &[]).unwrap();
        let toml = "name = 'r'\nmatch = 'rpc.r'\norder = 'strict'\npartitions = 5\n";
        config.routes =
            vec![figment::Figment::from(figment::providers::Toml::string(toml)).extract().unwrap()];
        let (route, subjects) = (&config.routes[0], config.subjects());
        let mut filters: Vec<String> = route_consumers(route)
            .iter()
            .filter(|consumer| consumer.stream != PARK)
            .flat_map(|consumer| consumer.filters(&subjects, route))
            .collect();
        assert_eq!(filters.len(), 64);
        filters.sort();
        filters.dedup();
        assert_eq!(filters.len(), 64);
        assert_eq!(Topology::of(&config).consumers().count(), 8, "one is for schedules, one for advisories");
    }
}
