//! What is told of a schedule.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_shared::{
    header, moment,
    route::Priority,
    schedule::{Firing, FiringOutcome, Overlap, Record, What, When, time_at},
};

use crate::requests::schedules::Kept;

/// How much of a firing's error is told.
const ERROR: usize = 512;

/// A schedule without its data. What it does not have is left out.
#[derive(Serialize, Default)]
pub(super) struct Listed {
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// When it fires next, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
    bytes: usize,
}

/// The newest firing.
#[derive(Serialize)]
struct Last {
    id: String,
    at: String,
    outcome: FiringOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A schedule with its data.
#[derive(Serialize, Default)]
pub(super) struct Shown {
    #[serde(flatten)]
    listed: Listed,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

impl Listed {
    pub(super) fn of(kept: &Kept) -> Self {
        let Kept { schedule, since, record } = kept;
        let mut listed = Self {
            name: schedule.name.clone(),
            state: "waiting",
            since: since.map(moment::text),
            next: kept.next().map(moment::text),
            last: record.as_ref().map(Last::of),
            ..Self::default()
        };
        match &schedule.when {
            When::Cron { line, zone } => {
                listed.cron = Some(When::shown_line(line).to_owned());
                listed.time_zone.clone_from(zone);
            }
            When::Every(interval) => listed.every = Some(humantime::format_duration(*interval).to_string()),
            When::At(time) => listed.at = Some(moment::text(*time)),
        }
        listed.tell(&schedule.what, schedule.overlap);
        listed
    }

    /// Tells what it brings.
    fn tell(&mut self, what: &What, overlap: Overlap) {
        match what {
            What::Request(request) => {
                self.method.clone_from(&request.method);
                self.route = Some(request.route.clone());
                self.user.clone_from(&request.user);
                self.overlap = Some(if overlap == Overlap::Skip { "skip" } else { "allow" });
            }
            What::Publication(publication) => self.channel = Some(publication.channel.name().to_owned()),
        }
        self.bytes = body(what).len();
    }
}

impl Shown {
    pub(super) fn of(kept: &Kept) -> Self {
        Self::with(Listed::of(kept), &kept.schedule.what)
    }

    /// Of a schedule that has fired for the only time, while the firing waits.
    pub(super) fn firing(firing: &Firing, record: Option<&Record>) -> Self {
        let (name, last) = (firing.name.clone(), record.map(Last::of));
        let mut listed = Listed { name, state: "firing", last, ..Listed::default() };
        listed.tell(&firing.what, firing.overlap);
        Self::with(listed, &firing.what)
    }

    fn with(listed: Listed, what: &What) -> Self {
        let mut shown = Self { listed, ..Self::default() };
        match what {
            What::Request(request) => {
                shown.priority = Some(if request.priority == Priority::High { "high" } else { "normal" });
            }
            What::Publication(publication) => {
                let tags = publication.tags.iter().filter_map(|(name, value)| {
                    Some((name.strip_prefix(header::TAG_PREFIX)?.to_owned(), value.clone()))
                });
                shown.tags = tags.collect();
            }
        }
        let body = body(what);
        match serde_json::from_slice::<Box<RawValue>>(body) {
            Ok(json) => shown.data = Some(json),
            Err(_) => shown.b64data = Some(BASE64.encode(body)),
        }
        shown
    }

    /// Of a schedule that is over.
    pub(super) fn over(name: &str, record: &Record) -> Self {
        let listed = Listed {
            name: name.to_owned(),
            state: "over",
            last: Some(Last::of(record)),
            ..Listed::default()
        };
        Self { listed, ..Self::default() }
    }
}

impl Last {
    fn of(record: &Record) -> Self {
        Self {
            id: record.id.clone(),
            at: moment::text(time_at(record.at)),
            outcome: record.outcome,
            error: record.error.as_deref().map(|error| header::text_within(error, ERROR)),
        }
    }
}

fn body(what: &What) -> &Bytes {
    match what {
        What::Request(request) => &request.body,
        What::Publication(publication) => &publication.data,
    }
}
