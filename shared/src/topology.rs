//! The streams and consumers a configuration needs: what they are, how to make them so, and whether they are.
//!
//! A few wide streams, never one per channel or client. Never moves data; the streams of requests and answers are never
//! deleted, that of a namespace only to be made anew.

use async_nats::jetstream::{
    self,
    consumer::pull,
    stream::{Config as Stream, Info, PersistenceMode},
};
use serde::Serialize;
use serde_json::Value;

use self::{
    migration::Way,
    streams::{answers, consumer, dead_letters, parked, presence, publications, requests},
};
use crate::config::{Config, Route};

/// The work queue of requests.
pub const IN: &str = "TIDE_IN";
/// Requests that wait for their next attempt.
pub const PARK: &str = "TIDE_PARK";
/// Stored answers.
pub const REPLY: &str = "TIDE_REPLY";
/// Requests whose every attempt failed.
pub const DEAD: &str = "TIDE_DEAD";

/// Who is in the channels, and which gateways live.
pub const PRESENCE: &str = "TIDE_PRESENCE";

/// Where a stream says how often its epoch was changed by hand.
const EPOCH: &str = "tidegate-epoch";

mod migration;
mod streams;

/// Everything a configuration needs in the broker.
#[derive(Debug, Clone)]
pub struct Topology {
    streams: Vec<Stream>,
    consumers: Vec<(&'static str, pull::Config)>,
    /// The streams that may be made anew though what they keep is lost.
    expendable: Vec<String>,
}

/// One step that makes the broker match the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which stream or consumer, and what happens to it.
    pub what: String,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    CreateStream(String),
    UpdateStream(String, Option<PersistenceMode>),
    RecreateStream(String),
    /// What no update can do; why, and what can be done.
    Refuse(String),
    Consumer(&'static str, String),
}

/// Why the broker could not be made to match.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct ApplyError {
    what: String,
    reason: String,
}

/// What the names of the streams of namespaces begin with.
const CHANNELS: &str = "TIDE_CH_";

/// The name of the stream a namespace's publications are kept in.
pub fn channel_stream(namespace: &str) -> String {
    format!("{CHANNELS}{namespace}")
}

/// The name of the consumer a route has on each of its two streams.
pub fn consumer_name(route: &Route) -> &str {
    &route.name
}

impl Topology {
    /// Derives streams and consumers from the configuration.
    pub fn of(config: &Config) -> Self {
        let subjects = config.subjects();
        let mut streams = vec![
            requests(config, &subjects),
            parked(config, &subjects),
            answers(config, &subjects),
            dead_letters(config, &subjects),
            presence(config, &subjects),
        ];
        streams.extend(config.all_namespaces().iter().map(|n| publications(config, &subjects, n)));
        let consumers = config.routes.iter().flat_map(|route| {
            [(IN, "in"), (PARK, "due")].into_iter().filter_map(|(stream, stage)| {
                let filter = route.matches.filter(&subjects, stage)?;
                Some((stream, consumer(config, route, filter)))
            })
        });
        Self { streams, consumers: consumers.collect(), expendable: Vec::new() }
    }

    /// Allows the streams of these namespaces to be made anew where they cannot be updated: what they keep is lost.
    #[must_use]
    pub fn recreating(mut self, namespaces: &[String]) -> Self {
        self.expendable = namespaces.iter().map(|namespace| channel_stream(namespace)).collect();
        self
    }

    /// Compares with what the broker has. No change means that programs may start.
    pub async fn plan(&self, jetstream: &jetstream::Context) -> Result<Vec<Change>, ApplyError> {
        let mut changes = self.plan_streams(jetstream).await?;
        changes.extend(self.plan_consumers(jetstream).await);
        Ok(changes)
    }

    /// The same for the streams alone, which is what a gateway depends on and may look at.
    pub async fn plan_streams(&self, jetstream: &jetstream::Context) -> Result<Vec<Change>, ApplyError> {
        let mut changes = Vec::new();
        for wanted in &self.streams {
            let name = wanted.name.clone();
            match jetstream.get_stream(&name).await {
                Ok(stream) => {
                    changes.extend(self.change_of(wanted, stream.cached_info()));
                }
                Err(error) if is_absent(&error) => {
                    let what = format!("create stream {name} for {}", wanted.subjects.join(", "));
                    changes.push(Change { what, step: Step::CreateStream(name) });
                }
                Err(error) => return Err(failed(&format!("reading stream {name}"), &error)),
            }
        }
        Ok(changes)
    }

    fn change_of(&self, wanted: &Stream, found: &Info) -> Option<Change> {
        let (name, kept) = (wanted.name.clone(), found.state.messages);
        let (what, step) = match Way::from(&found.config, wanted) {
            Way::Update(persist_mode) => {
                let wanted = Stream { persist_mode, ..wanted.clone() };
                let differences = differences(&wanted, &found.config);
                if differences.is_empty() {
                    return None;
                }
                let what = format!("update stream {name}: {}", differences.join(", "));
                (what, Step::UpdateStream(name, persist_mode))
            }
            Way::Anew(reason) => {
                let what = format!(
                    "make stream {name} anew: {reason}; it had no history, and what it keeps for a minute was promised to nobody"
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

    async fn plan_consumers(&self, jetstream: &jetstream::Context) -> Vec<Change> {
        let mut changes = Vec::new();
        for (stream, wanted) in &self.consumers {
            let name = wanted.durable_name.clone().unwrap_or_default();
            let found = jetstream.get_consumer_from_stream::<pull::Config, _, _>(&name, *stream).await;
            let what = match found {
                Ok(consumer) => match differences(wanted, &consumer.cached_info().config) {
                    differences if differences.is_empty() => continue,
                    differences => format!("update consumer {name} on {stream}: {}", differences.join(", ")),
                },
                Err(_) => format!("create consumer {name} on {stream} for {}", wanted.filter_subject),
            };
            changes.push(Change { what, step: Step::Consumer(stream, name) });
        }
        changes
    }

    /// Carries out a plan: all of it or, where something in it cannot be done, nothing.
    pub async fn apply(&self, jetstream: &jetstream::Context, plan: &[Change]) -> Result<(), ApplyError> {
        for change in plan {
            if let Step::Refuse(reason) = &change.step {
                return Err(ApplyError { what: "nothing was changed".to_owned(), reason: reason.clone() });
            }
        }
        for change in plan {
            match &change.step {
                Step::Refuse(_) => {}
                Step::RecreateStream(name) => {
                    jetstream.delete_stream(name).await.map_err(|e| failed(&change.what, &e))?;
                    jetstream.create_stream(self.stream(name)).await.map_err(|e| failed(&change.what, &e))?;
                }
                Step::CreateStream(name) => {
                    jetstream.create_stream(self.stream(name)).await.map_err(|e| failed(&change.what, &e))?;
                }
                Step::UpdateStream(name, persist_mode) => {
                    let found = jetstream.get_stream(name).await.map_err(|e| failed(&change.what, &e))?;
                    let metadata = found.cached_info().config.metadata.clone();
                    let wanted = Stream { metadata, persist_mode: *persist_mode, ..self.stream(name) };
                    jetstream.update_stream(wanted).await.map_err(|e| failed(&change.what, &e))?;
                }
                Step::Consumer(stream, name) => {
                    let consumers = self
                        .consumers
                        .iter()
                        .filter(|(s, c)| s == stream && c.durable_name.as_ref() == Some(name));
                    for (_, config) in consumers {
                        jetstream
                            .create_consumer_on_stream(config.clone(), *stream)
                            .await
                            .map_err(|e| failed(&change.what, &e))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn stream(&self, name: &str) -> Stream {
        self.streams.iter().find(|stream| stream.name == name).cloned().unwrap_or_default()
    }
}

/// What the offsets of a stream belong to: the moment it was created, and how often somebody has said since then that its
/// offsets mean something else.
pub fn epoch(info: &Info) -> String {
    let created = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    match info.config.metadata.get(EPOCH) {
        Some(count) => format!("{created:x}.{count}"),
        None => format!("{created:x}"),
    }
}

/// Says that the offsets of a namespace's stream mean something else from now on: it was restored from an older copy, so that
/// clients may know positions that have been given to other publications. Returns the new epoch.
pub async fn new_epoch(jetstream: &jetstream::Context, namespace: &str) -> Result<String, ApplyError> {
    let name = channel_stream(namespace);
    let what = format!("new epoch of stream {name}");
    let stream = jetstream.get_stream(&name).await.map_err(|e| failed(&what, &e))?;
    let mut config = stream.cached_info().config.clone();
    let count = config.metadata.get(EPOCH).and_then(|count| count.parse::<u32>().ok()).unwrap_or_default();
    config.metadata.insert(EPOCH.to_owned(), count.saturating_add(1).to_string());
    let info = jetstream.update_stream(config).await.map_err(|e| failed(&what, &e))?;
    Ok(epoch(&info))
}

fn is_absent(error: &jetstream::context::GetStreamError) -> bool {
    use jetstream::{ErrorCode, context::GetStreamErrorKind};
    matches!(error.kind(), GetStreamErrorKind::JetStream(ref e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn failed(what: &str, error: &dyn std::error::Error) -> ApplyError {
    let mut reason = error.to_string();
    if reason.contains("not unique") {
        reason.push_str(": a consumer of an earlier configuration takes the same requests; remove it with `nats consumer rm`");
    }
    if reason.contains("insufficient storage") {
        reason.push_str(": the max_bytes of all streams are reserved; lower streams.*_max_bytes or raise max_file in nats.conf");
    }
    ApplyError { what: what.to_owned(), reason }
}

/// Names the fields we set and the broker has otherwise. What we leave at its default is the broker's business.
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
