//! The order of a route's requests: what they are ordered by, and how strictly.

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Match, Route};
use crate::route::Priority;

/// How far a route's requests with the same ordering key are kept in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Not at all.
    #[default]
    None,
    /// Within one worker, as long as it lives.
    Best,
    /// Over all workers, whatever happens to them.
    Strict,
}

/// What is the ordering key of a route's requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OrderedBy {
    /// The user; the connection of an anonymous client.
    #[default]
    User,
    /// The connection.
    Client,
    /// The channel of a publication.
    Channel,
    /// One key for all requests of the route.
    Route,
    /// The word of the method that this name of the pattern stands for.
    Word(String),
}

impl<'de> Deserialize<'de> for OrderedBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let word = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        match (text.as_str(), word) {
            ("user", _) => Ok(Self::User),
            ("client", _) => Ok(Self::Client),
            ("channel", _) => Ok(Self::Channel),
            ("route", _) => Ok(Self::Route),
            (_, Some(word)) => Ok(Self::Word(word.to_owned())),
            _ => Err(D::Error::custom(format!(
                "{text:?} is nothing that requests are ordered by: use user, client, channel, route, or a {{name}} of the pattern"
            ))),
        }
    }
}

impl Route {
    /// The ordering key of a request: who sent it, its method or its channel. `None` if it is the usual one, the user or the
    /// connection of an anonymous client.
    pub fn ordering_key<'a>(
        &'a self,
        user: Option<&'a str>,
        client: Option<&'a str>,
        method: Option<&'a str>,
        channel: Option<&'a str>,
    ) -> Option<&'a str> {
        match &self.ordered_by {
            OrderedBy::User => user,
            OrderedBy::Client => client,
            OrderedBy::Channel => channel,
            OrderedBy::Route => Some(&self.name),
            OrderedBy::Word(word) => match &self.matches {
                Match::Rpc(pattern) => pattern.capture(method?, word),
                Match::Send | Match::Publish(_) | Match::Hook(_) => None,
            },
        }
    }

    /// Whether its requests with priority high overtake others. Neither a strict order nor a limit over all workers can be kept
    /// over two lanes.
    pub fn has_lanes(&self) -> bool {
        self.order != Order::Strict && self.max_running == 0
    }

    /// The lane that a request with this priority goes in.
    pub fn lane(&self, priority: Priority) -> Priority {
        if self.has_lanes() { priority } else { Priority::Normal }
    }

    /// Whether a request that was parked takes its place among the waiting ones again, instead of being worked on when it is
    /// due.
    pub fn queues_again(&self) -> bool {
        !self.has_lanes()
    }
}

/// What is wrong with the order and the limits of a route: the key and the reason.
pub(super) fn check(route: &Route) -> Option<(&'static str, String)> {
    let refused = |key, text: &str| Some((key, text.to_owned()));
    if matches!(route.matches, Match::Hook(_)) {
        let set = [
            ("order", route.order != Order::None),
            ("ordered_by", route.ordered_by != OrderedBy::User),
            ("priority", route.priority != Priority::Normal),
            ("max_running", route.max_running != 0),
            ("starts_per_second", route.starts_per_second != 0),
        ];
        let set = set.into_iter().find(|(_, set)| *set)?;
        return refused(set.0, "is not for hooks: no stream stores their questions");
    }
    match (&route.ordered_by, &route.matches) {
        (OrderedBy::Word(word), Match::Rpc(pattern)) if !pattern.names().any(|name| name == word) => {
            return Some(("ordered_by", format!("the pattern {pattern} has no {{{word}}}")));
        }
        (OrderedBy::Word(_), Match::Send | Match::Publish(_)) => {
            return refused("ordered_by", "a {name} belongs to the pattern of an rpc route");
        }
        (OrderedBy::Channel, Match::Rpc(_) | Match::Send) => {
            return refused("ordered_by", "\"channel\" is for a route pub.<namespace>");
        }
        _ => {}
    }
    if !(1..=64).contains(&route.partitions) {
        return refused("partitions", "must be between 1 and 64");
    }
    if route.order == Order::Strict {
        if matches!(&route.matches, Match::Rpc(pattern) if pattern.is_open()) {
            return refused("order", "\"strict\" needs a pattern without > at its end");
        }
        if route.max_running > 0 {
            return refused(
                "max_running",
                "with order = \"strict\" as many requests run as there are partitions",
            );
        }
    }
    if !route.has_lanes() && route.priority == Priority::High {
        return refused("priority", "a route with order = \"strict\" or max_running has one lane");
    }
    if route.max_running > 4096 {
        return refused("max_running", "must be between 0 (no limit) and 4096");
    }
    if route.starts_per_second > 10_000 {
        return refused("starts_per_second", "must be between 0 (no limit) and 10000");
    }
    None
}
