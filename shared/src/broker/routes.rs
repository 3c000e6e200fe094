//! The state of routes at the broker, and pausing them: a paused consumer delivers nothing, whoever pulls.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::json;

use super::{Broker, NotDone};
use crate::{
    config::{Match, Route},
    topology::{Takes, route_consumers},
};

/// The longest pause, which stands for one without an end.
pub const LONGEST_PAUSE: Duration = Duration::from_hours(24 * 365 * 100);

/// A route whose requests come from streams, and its numbers over all workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteState {
    /// The route's name.
    pub name: String,
    /// The requests it takes.
    #[serde(rename = "match")]
    pub matches: String,
    /// Requests that no worker has taken.
    pub waiting: u64,
    /// Requests that workers have taken and not finished.
    pub running: u64,
    /// Until when it is paused, in milliseconds since 1970; absent if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<u64>,
}

impl Broker {
    /// Reads the state of every route that has a stream.
    pub async fn routes(&self, config: &[Route]) -> Result<Vec<RouteState>, NotDone> {
        let mut states = Vec::new();
        for route in config.iter().filter(|route| !matches!(route.matches, Match::Hook(_))) {
            states.push(self.route(route).await?);
        }
        Ok(states)
    }

    /// Reads the state of a route. Requests that are parked and not due count nowhere.
    pub async fn route(&self, route: &Route) -> Result<RouteState, NotDone> {
        let (name, matches) = (route.name.clone(), route.matches.to_string());
        let mut state = RouteState { name, matches, waiting: 0, running: 0, paused_until: None };
        for consumer in route_consumers(route) {
            let progress = self.progress(&consumer.stream, &consumer.name).await?;
            state.waiting += progress.waiting;
            state.running += progress.unacknowledged;
            state.paused_until = state.paused_until.max(progress.paused_until);
        }
        Ok(state)
    }

    /// Pauses a route for so long: no worker gets a request of it meanwhile. Those that workers have are finished, and clients'
    /// requests are still accepted. The end of an earlier pause is replaced.
    pub async fn pause_route(&self, route: &Route, pause: Duration) -> Result<SystemTime, NotDone> {
        let until = SystemTime::now() + pause.min(LONGEST_PAUSE);
        self.set_pause(route, &json!({ "pause_until": humantime::format_rfc3339_millis(until).to_string() }))
            .await?;
        Ok(until)
    }

    /// Ends the pause of a route.
    pub async fn resume_route(&self, route: &Route) -> Result<(), NotDone> {
        self.set_pause(route, &json!({})).await
    }

    async fn set_pause(&self, route: &Route, ask: &serde_json::Value) -> Result<(), NotDone> {
        // New requests last: of a strict order, what was parked takes its place before a new one is delivered.
        let mut consumers = route_consumers(route);
        consumers.sort_by_key(|consumer| consumer.takes != Takes::Due);
        for consumer in consumers {
            let call = format!("CONSUMER.PAUSE.{}.{}", consumer.stream, consumer.name);
            self.ask::<IgnoredAny>(call, ask).await?;
        }
        Ok(())
    }
}

/// Finds a route that has a stream by its name. The error says which there are.
pub fn stored_route<'a>(routes: &'a [Route], name: &str) -> Result<&'a Route, String> {
    let stored = || routes.iter().filter(|route| !matches!(route.matches, Match::Hook(_)));
    stored().find(|route| route.name == name).ok_or_else(|| {
        let names = stored().map(|route| route.name.as_str()).collect::<Vec<_>>().join(", ");
        format!("there is no route {name:?} with a stream; there are: {names}")
    })
}
