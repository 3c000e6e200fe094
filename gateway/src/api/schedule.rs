//! `schedule_set`, `schedule_list`, `schedule_show` and `schedule_remove`: requests that are repeated, and publications that are
//! repeated or come at a time.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_shared::{
    enqueue::Due,
    protocol::{Error, codes, json},
    route::Priority,
    schedule::{self, Overlap, Schedule, What, When},
};
use tokio::time::Instant;

use super::{
    Api, ApiResult,
    call::milliseconds,
    enqueue::{self, EnqueueParams},
    publish::PublishParams,
    raw,
    scheduled::{Listed, Shown},
};
use crate::requests::schedules::Found;

/// Schedules of one page, unless the caller says fewer.
const PAGE: usize = 100;
/// The most schedules of one page: without their data they fit into one NATS message.
const MOST: usize = 500;

/// A schedule: its name, when it fires, and the parameters of `enqueue` or of `publish`.
#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SetParams {
    name: String,
    cron: String,
    time_zone: Option<String>,
    every: String,
    delay: String,
    at: String,
    overlap: String,
    method: String,
    route: String,
    user: String,
    priority: Option<Priority>,
    channel: String,
    tags: BTreeMap<String, String>,
    #[serde(with = "json::raw")]
    data: Bytes,
    b64data: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListParams {
    limit: usize,
    cursor: u64,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NameParams {
    name: String,
}

#[derive(Serialize)]
struct SetResult {
    name: String,
    outcome: &'static str,
}

#[derive(Serialize)]
struct ListResult {
    schedules: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<u64>,
}

#[derive(Serialize)]
struct RemoveResult {
    removed: bool,
}

impl Api {
    pub(super) async fn schedule_set(&self, params: SetParams) -> ApiResult {
        schedule::check_name(&params.name).map_err(|why| codes::BAD_REQUEST.because(why))?;
        let name = params.name.clone();
        let (when, overlap) = (self.when(&params).await?, overlap(&params)?);
        let what = self.what(params)?;
        let deadline = Instant::now() + self.answer_timeout;
        let schedule = Schedule::new(name, when, overlap, what);
        let change = self.schedules.set(&schedule, false, deadline).await?;
        let outcome = change.as_str();
        tracing::info!(schedule = schedule.name, outcome, "a schedule was set");
        raw(&SetResult { name: schedule.name, outcome })
    }

    pub(super) async fn schedule_list(&self, params: ListParams) -> ApiResult {
        let limit = if params.limit == 0 { PAGE } else { params.limit };
        if limit > MOST {
            return Err(codes::BAD_REQUEST.because(format!("limit: at most {MOST}")));
        }
        let page = self.schedules.page(params.cursor, limit).await?;
        let schedules = page.schedules.iter().map(Listed::of).collect();
        raw(&ListResult { schedules, cursor: page.next })
    }

    pub(super) async fn schedule_show(&self, params: NameParams) -> ApiResult {
        match self.schedules.find(&named(&params)?).await? {
            Found::Waiting(kept) => raw(&Shown::of(&kept)),
            Found::Firing(firing, record) => raw(&Shown::firing(&firing, record.as_ref())),
            Found::Over(record) => raw(&Shown::over(&params.name, &record)),
            Found::Nothing => {
                Err(codes::NOT_AVAILABLE.because(format!("there is no schedule {:?}", params.name)))
            }
        }
    }

    pub(super) async fn schedule_remove(&self, params: NameParams) -> ApiResult {
        let deadline = Instant::now() + self.answer_timeout;
        let removed = self.schedules.remove(&named(&params)?, deadline).await?;
        tracing::info!(schedule = params.name, removed, "a schedule was to be removed");
        raw(&RemoveResult { removed })
    }

    async fn when(&self, params: &SetParams) -> Result<When, Error> {
        let SetParams { cron, time_zone, every, delay, at, .. } = params;
        let refuse = |why: String| Err(codes::BAD_REQUEST.because(why));
        if time_zone.is_some() && cron.is_empty() {
            return refuse("time_zone: only a cron line has a time zone".to_owned());
        }
        let given = [cron, every, delay, at].into_iter().filter(|text| !text.is_empty()).count();
        if given != 1 {
            return refuse("a schedule needs one of cron, every, delay and at".to_owned());
        }
        if !cron.is_empty() {
            return When::cron(cron, time_zone.as_deref()).or_else(refuse);
        }
        if !every.is_empty() {
            return When::every(every).or_else(refuse);
        }
        self.once(enqueue::due(delay, at, milliseconds())?).await
    }

    /// The time of something that comes once. `Due::Now` is the moment by the broker's clock.
    pub(super) async fn once(&self, due: Due) -> Result<When, Error> {
        let due = if due == Due::Now { Due::After(std::time::Duration::ZERO) } else { due };
        let time = self.store.time_of(due).await.map_err(|refusal| codes::NOT_ACCEPTED.because(refusal))?;
        time.map(When::once).ok_or_else(|| codes::INTERNAL.error())
    }

    /// What the schedule brings, checked as `enqueue` and `publish` check it.
    fn what(&self, params: SetParams) -> Result<What, Error> {
        let refuse = |why: &str| Err(codes::BAD_REQUEST.because(why));
        let SetParams { name, method, route, user, priority, channel, tags, data, b64data, overlap, .. } =
            params;
        let is_request = !method.is_empty() || !route.is_empty();
        if is_request != channel.is_empty() {
            return refuse("a schedule needs either a method (or a route) or a channel");
        }
        if !is_request {
            if !user.is_empty() || priority.is_some() || !overlap.is_empty() {
                return refuse("user, priority and overlap are for requests");
            }
            let params = PublishParams::of(channel, (data, b64data), tags);
            return self.scheduled(params).map(What::Publication);
        }
        if !tags.is_empty() {
            return refuse("tags are for publications");
        }
        let params = EnqueueParams::of((method, route), (data, b64data), user, priority);
        let (request, _) = enqueue::read(&self.rules, params, 0)?;
        Ok(What::request(&name, request))
    }
}

fn overlap(params: &SetParams) -> Result<Overlap, Error> {
    match params.overlap.as_str() {
        "" | "allow" => Ok(Overlap::Allow),
        "skip" => Ok(Overlap::Skip),
        other => {
            Err(codes::BAD_REQUEST.because(format!("overlap: {other:?} is neither \"allow\" nor \"skip\"")))
        }
    }
}

fn named(params: &NameParams) -> Result<String, Error> {
    schedule::check_name(&params.name).map_err(|why| codes::BAD_REQUEST.because(why))?;
    Ok(params.name.clone())
}
