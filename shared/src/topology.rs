//! The streams and consumers that a configuration needs, and the plan that creates or updates them.
//!
//! There are a few wide streams and one for each route and namespace, never one for each channel or client. Messages are never
//! moved. The streams of requests and answers are never deleted; a namespace's stream is deleted to recreate it, or when the
//! namespace gives up its history. The stream
//! of its last messages is made of copies, so it is deleted and made anew whenever that is simpler.

use std::collections::HashMap;

use async_nats::jetstream::{
    self,
    consumer::pull,
    stream::{Config as Stream, Info, PersistenceMode},
};
use serde::Serialize;
use serde_json::Value;

use self::{
    apply::failed,
    consumers::{consumers, firings, sweeper},
    migration::Way,
    streams::{
        advisories, answers, attempts, dead_letters, last_messages, parked, presence, publications, requests,
        starts,
    },
};
use crate::{
    config::{Config, Namespace},
    subject::Subjects,
};

/// The stream of requests that wait for their next attempt.
pub const PARK: &str = "TIDE_PARK";
/// The stream of stored answers.
pub const REPLY: &str = "TIDE_REPLY";
/// The stream of dead letters.
pub const DEAD: &str = "TIDE_DEAD";

/// The stream of what the broker says about requests that were terminated, or delivered as often as allowed.
pub const ADVISORIES: &str = "TIDE_ADV";
/// The stream of presence: channel members and the leases of gateways.
pub const PRESENCE: &str = "TIDE_PRESENCE";
/// The stream of what is remembered of requests that wait in a strict order.
pub const ATTEMPT: &str = "TIDE_ATTEMPT";
/// The stream that counts the attempts of routes with a limit of starts.
pub const START: &str = "TIDE_START";

/// The metadata key that counts how often the stream's epoch was changed by `new_epoch`.
const EPOCH: &str = "tidegate-epoch";

mod apply;
mod consumers;
mod last;
mod leftover;
mod migration;
mod raised;
mod streams;

pub use self::{
    consumers::{FIRINGS, RouteConsumer, SWEEPER, Takes, route_consumers},
    last::{last_stream, origin_epoch},
    leftover::Leftover,
    raised::KeptMessages,
};

/// Everything a configuration needs in the broker.
#[derive(Debug, Clone)]
pub struct Topology {
    streams: Vec<Stream>,
    consumers: Vec<(String, pull::Config)>,
    /// The streams that may be recreated although their messages are lost.
    expendable: Vec<String>,
    /// The streams of namespaces that need none: those without history, and the last messages of those that prove nothing.
    unneeded: Vec<String>,
}

/// A step that brings the broker closer to the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The stream or consumer, and the change to it.
    pub what: String,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    CreateStream(String),
    UpdateStream(String, Option<PersistenceMode>),
    RecreateStream(String),
    RemoveStream(String),
    /// A change that no update can make, with the reason and the way out.
    Refuse(String),
    Consumer(String, String),
    RemoveConsumer(String, String),
}

impl Change {
    /// Whether the stream or consumer does not exist yet.
    pub fn creates(&self) -> bool {
        match &self.step {
            Step::CreateStream(_) => true,
            Step::Consumer(..) => self.what.starts_with("create"),
            Step::UpdateStream(..)
            | Step::RecreateStream(_)
            | Step::RemoveStream(_)
            | Step::RemoveConsumer(..)
            | Step::Refuse(_) => false,
        }
    }
}

/// Why the plan failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct ApplyError {
    what: String,
    reason: String,
}

/// The prefix of the names of namespaces' streams.
const CHANNELS: &str = "TIDE_CH_";
/// The prefix of the names of routes' streams.
pub const REQUESTS: &str = "TIDE_IN_";

/// Returns the name of the stream that keeps a namespace's publications.
pub fn channel_stream(namespace: &str) -> String {
    format!("{CHANNELS}{namespace}")
}

/// Returns the stream that takes a subject, which is of a request of `route`, if it is of a request. `None` for a subject that no
/// stream takes.
pub fn stream_of(subjects: &Subjects, subject: &str, route: Option<&str>) -> Option<String> {
    let mut words = subjects.words(subject)?;
    Some(match words.next()? {
        "in" | "first" => request_stream(route?),
        "attempt" => ATTEMPT.to_owned(),
        "start" => START.to_owned(),
        "park" | "due" => PARK.to_owned(),
        "reply" => REPLY.to_owned(),
        "dead" => DEAD.to_owned(),
        "presence" => PRESENCE.to_owned(),
        "ch" => channel_stream(words.next()?),
        _ => return None,
    })
}

/// Returns the name of the stream that keeps a route's requests.
pub fn request_stream(route: &str) -> String {
    format!("{REQUESTS}{route}")
}

impl Topology {
    /// Derives streams and consumers from the configuration.
    pub fn of(config: &Config) -> Self {
        let subjects = config.subjects();
        let mut streams = vec![
            parked(config, &subjects),
            answers(config, &subjects),
            dead_letters(config, &subjects),
            presence(config, &subjects),
            attempts(config, &subjects),
            starts(config, &subjects),
            advisories(config),
        ];
        let namespaces = config.all_namespaces();
        let (kept, live): (Vec<_>, Vec<_>) = namespaces.iter().partition(|n| n.has_history());
        streams.extend(kept.into_iter().map(|n| publications(config, &subjects, n)));
        let (proving, others): (Vec<_>, Vec<_>) = namespaces.iter().partition(|n| n.proves_quiet());
        streams.extend(proving.iter().map(|n| last_messages(config, n)));
        let unneeded = live.iter().map(|n: &&Namespace| channel_stream(&n.name));
        let unneeded = unneeded.chain(others.iter().map(|n: &&Namespace| last_stream(&n.name))).collect();
        streams.extend(config.routes.iter().filter_map(|route| requests(config, &subjects, route)));
        let consumers = config.routes.iter().flat_map(|route| consumers(config, &subjects, route));
        let consumers = [firings(config, &subjects), sweeper(config)].into_iter().chain(consumers);
        Self { streams, consumers: consumers.collect(), expendable: Vec::new(), unneeded }
    }

    /// The streams' names.
    pub fn streams(&self) -> impl Iterator<Item = &str> {
        self.streams.iter().map(|stream| stream.name.as_str())
    }

    /// The consumers: the stream and the name of each.
    pub fn consumers(&self) -> impl Iterator<Item = (String, String)> {
        let named = self.consumers.iter();
        named.map(|(stream, c)| (stream.clone(), c.durable_name.clone().unwrap_or_default()))
    }

    /// Allows the streams of these namespaces to be recreated if they cannot be updated. Their messages are lost.
    #[must_use]
    pub fn recreating(mut self, namespaces: &[String]) -> Self {
        self.expendable = namespaces.iter().map(|namespace| channel_stream(namespace)).collect();
        self
    }

    /// Compares the configuration with the broker. Programs may start when the plan is empty.
    pub async fn plan(&self, jetstream: &jetstream::Context) -> Result<Vec<Change>, ApplyError> {
        let mut changes = self.plan_streams(jetstream).await?;
        for leftover in self.leftovers(jetstream).await? {
            for change in &mut changes {
                leftover.refuse(self, change);
            }
        }
        changes.extend(self.plan_consumers(jetstream).await?);
        for name in &self.unneeded {
            if let Some(found) = read(jetstream, name).await? {
                let what = match (name.starts_with(CHANNELS), found.state.messages) {
                    (false, _) => format!("remove stream {name}: its namespace does not need it"),
                    (true, kept) => format!(
                        "remove stream {name}: its namespace has no history, and the {kept} publications it keeps are lost; \
                         publishers need the accounts in nats.conf that `tidegate nats-config` prints"
                    ),
                };
                changes.push(Change { what, step: Step::RemoveStream(name.clone()) });
            }
        }
        Ok(changes)
    }

    /// Compares the streams alone, because gateways need only them and may read nothing more.
    pub async fn plan_streams(&self, jetstream: &jetstream::Context) -> Result<Vec<Change>, ApplyError> {
        let mut changes = Vec::new();
        // The epochs of the streams that stay.
        let mut epochs = HashMap::new();
        for wanted in &self.streams {
            let name = wanted.name.clone();
            let Some(found) = read(jetstream, &name).await? else {
                let content = match last::origin(wanted) {
                    Some(origin) => format!("the last message of each channel of {origin}"),
                    None => wanted.subjects.join(", "),
                };
                let what = format!("create stream {name} for {content}");
                changes.push(Change { what, step: Step::CreateStream(name) });
                continue;
            };
            let change = match last::why_anew(&found, wanted, &epochs) {
                Some(reason) => Some(Change {
                    what: format!("make stream {name} anew: {reason}"),
                    step: Step::RecreateStream(name.clone()),
                }),
                None => self.change_of(wanted, &found),
            };
            if !matches!(change, Some(Change { step: Step::RecreateStream(_), .. })) {
                epochs.insert(name, epoch(&found));
            }
            changes.extend(change);
        }
        Ok(changes)
    }

    fn change_of(&self, wanted: &Stream, found: &Info) -> Option<Change> {
        let (name, kept) = (wanted.name.clone(), found.state.messages);
        let (what, step) = match Way::from(&found.config, wanted) {
            Way::Update(persist_mode) => {
                let wanted = Stream { persist_mode, ..wanted.clone() };
                let mut differences = differences(&wanted, &found.config);
                // An unset field is no difference elsewhere: it is the broker's to choose.
                if found.config.republish.is_some() && wanted.republish.is_none() {
                    differences.push("republish -> none".to_owned());
                }
                if raised::is_open(&found.config) {
                    differences.push("note from where on its larger history holds".to_owned());
                }
                if differences.is_empty() {
                    return None;
                }
                let what = format!("update stream {name}: {}", differences.join(", "));
                (what, Step::UpdateStream(name, persist_mode))
            }
            Way::Anew(reason) => {
                let what = format!(
                    "make stream {name} anew: {reason}; it had no history, so the publications it keeps for a minute may be removed"
                );
                (what, Step::RecreateStream(name))
            }
            Way::AnewWithLoss(reason) if self.expendable.contains(&name) => {
                let what = format!(
                    "make stream {name} anew: {reason}; the {kept} publications it keeps are lost, and clients that come back are told recovered: false"
                );
                (what, Step::RecreateStream(name))
            }
            Way::AnewWithLoss(reason) => {
                let namespace = name.trim_start_matches(CHANNELS);
                let out = format!(
                    "{reason}; keep namespace {namespace:?} as it was, or lose the {kept} publications it keeps with `tidegate apply --recreate-channels {namespace}`"
                );
                (format!("cannot update stream {name}: {out}"), Step::Refuse(out))
            }
        };
        Some(Change { what, step })
    }

    fn stream(&self, name: &str) -> Stream {
        self.streams.iter().find(|stream| stream.name == name).cloned().unwrap_or_default()
    }
}

/// Returns the epoch that a stream's offsets belong to: its creation time, and how often [`new_epoch`] was called since then.
pub fn epoch(info: &Info) -> String {
    let created = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    match info.config.metadata.get(EPOCH) {
        Some(count) => format!("{created:x}.{count}"),
        None => format!("{created:x}"),
    }
}

/// Gives a namespace's stream a new epoch. Needed after a restore from an older copy: clients may know offsets that now belong to
/// other publications. Returns the new epoch.
pub async fn new_epoch(jetstream: &jetstream::Context, namespace: &str) -> Result<String, ApplyError> {
    let name = channel_stream(namespace);
    let what = format!("new epoch of stream {name}");
    let stream = jetstream.get_stream(&name).await.map_err(|e| failed(&what, &e))?;
    let mut config = stream.cached_info().config.clone();
    let count = config.metadata.get(EPOCH).and_then(|count| count.parse::<u32>().ok()).unwrap_or_default();
    config.metadata.insert(EPOCH.to_owned(), count.saturating_add(1).to_string());
    let info = jetstream.update_stream(config).await.map_err(|e| failed(&what, &e))?;
    let epoch = epoch(&info);
    let last = last_stream(namespace);
    if let Some(found) = read(jetstream, &last).await? {
        jetstream.delete_stream(&last).await.map_err(|e| failed(&what, &e))?;
        let anew = last::of_epoch(found.config, epoch.clone());
        jetstream.create_stream(anew).await.map_err(|e| failed(&what, &e))?;
    }
    Ok(epoch)
}

/// Reads a stream. `None` if there is none of this name.
async fn read(jetstream: &jetstream::Context, name: &str) -> Result<Option<Info>, ApplyError> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(failed(&format!("reading stream {name}"), &error)),
    }
}

fn is_absent(error: &jetstream::context::GetStreamError) -> bool {
    use jetstream::{ErrorCode, context::GetStreamErrorKind};
    matches!(error.kind(), GetStreamErrorKind::JetStream(ref e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Returns the differences in the fields that the configuration sets. Fields at their default are the broker's to choose.
fn differences(wanted: &impl Serialize, found: &impl Serialize) -> Vec<String> {
    let (Ok(Value::Object(wanted)), Ok(Value::Object(found))) =
        (serde_json::to_value(wanted), serde_json::to_value(found))
    else {
        return vec!["unreadable".to_owned()];
    };
    wanted
        .iter()
        .filter(|(field, value)| !is_unset(value) && !matches!(field.as_str(), "metadata" | "name"))
        .filter_map(|(field, value)| {
            let now = found.get(field).unwrap_or(&Value::Null);
            (now != value).then(|| format!("{field} {now} -> {value}"))
        })
        .collect()
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_subject_is_the_one_that_takes_it() {
        let subjects = Subjects::new("tide");
        let streams = Topology::of(&Config::load(None, &[]).unwrap()).streams;
        // The broker alone publishes advisories.
        for stream in streams.iter().filter(|stream| stream.name != ADVISORIES) {
            for filter in &stream.subjects {
                let subject = filter.replace('*', "a").replace('>', "a.b");
                assert_eq!(
                    stream_of(&subjects, &subject, stream.name.strip_prefix(REQUESTS)),
                    Some(stream.name.clone()),
                    "{subject}"
                );
            }
        }
        for subject in ["tide.answer.a.b", "other.in.rpc.a.1.b.c", "tide", "tide.ch", "$JS.API.INFO"] {
            assert_eq!(stream_of(&subjects, subject, None), None, "{subject}");
        }
    }
}
