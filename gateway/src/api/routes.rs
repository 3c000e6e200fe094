//! `routes`, `route_pause` and `route_resume`: the state of routes, and whether workers get their requests.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tidegate_shared::{
    broker::{Broker, LONGEST_PAUSE, NotDone, RouteState, stored_route},
    config::Route,
    protocol::{Error, codes},
};

use super::{Api, ApiResult, EmptyResult, raw};

/// The routes of the configuration, and the broker that has their consumers.
pub(crate) struct Routes {
    pub(crate) broker: Broker,
    pub(crate) routes: Vec<Route>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RoutesParams {}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PauseParams {
    route: String,
    /// How long; left out, until it is resumed.
    seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ResumeParams {
    route: String,
}

#[derive(Serialize)]
struct RoutesResult {
    routes: Vec<RouteState>,
}

#[derive(Serialize)]
struct PauseResult {
    /// In milliseconds since 1970.
    paused_until: u64,
}

impl Api {
    pub(super) async fn routes(&self, _: RoutesParams) -> ApiResult {
        let routes = self.routes.broker.routes(&self.routes.routes).await.map_err(failed)?;
        raw(&RoutesResult { routes })
    }

    pub(super) async fn route_pause(&self, request: PauseParams) -> ApiResult {
        let route = self.routes.find(&request.route)?;
        let pause = request.seconds.map_or(LONGEST_PAUSE, Duration::from_secs);
        if pause.is_zero() {
            return Err(codes::BAD_REQUEST.because("a pause has at least 1 second"));
        }
        let until = self.routes.broker.pause_route(route, pause).await.map_err(failed)?;
        let since = until.duration_since(UNIX_EPOCH).unwrap_or_default();
        raw(&PauseResult { paused_until: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) })
    }

    pub(super) async fn route_resume(&self, request: ResumeParams) -> ApiResult {
        let route = self.routes.find(&request.route)?;
        self.routes.broker.resume_route(route).await.map_err(failed)?;
        raw(&EmptyResult {})
    }
}

impl Routes {
    fn find(&self, name: &str) -> Result<&Route, Error> {
        stored_route(&self.routes, name).map_err(|error| codes::BAD_REQUEST.because(error))
    }
}

/// Each of these calls may be repeated.
fn failed(error: NotDone) -> Error {
    codes::INTERNAL.because(error)
}
