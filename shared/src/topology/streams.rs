//! The streams and consumers that a configuration needs. Pure; [`super`] plans and applies them.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream::{
        Config as Stream, DiscardPolicy, PersistenceMode, Republish, RetentionPolicy, Source, StorageType,
    },
};

use super::{DEAD, PARK, PRESENCE, REPLY, channel_stream, consumer_name, last_stream, request_stream};
use crate::{
    config::{Config, Namespace, Route, Storage},
    subject::Subjects,
};

/// The maximum number of unacknowledged requests of one route over all workers.
const MAX_ACK_PENDING: i64 = 8192;
/// How long a publication without history stays. No client reads it; the broker needs it for acknowledgement and deduplication.
const EPHEMERAL_TTL: Duration = Duration::from_mins(1);
/// The shortest window of the broker. The originals are deduplicated already.
const NO_WINDOW: Duration = Duration::from_millis(100);
/// How long the broker keeps the marker of a gateway's ended lease.
const ENDED_LEASE_TTL: Duration = Duration::from_secs(5);

fn base(config: &Config, name: impl Into<String>, subject: String) -> Stream {
    Stream {
        name: name.into(),
        subjects: vec![subject],
        num_replicas: config.streams.replicas,
        storage: StorageType::File,
        duplicate_window: config.streams.duplicate_window,
        allow_direct: true,
        ..Stream::default()
    }
}

/// The requests of one route; `None` for a hook. When the stream is full, new requests of the route are refused and other routes
/// stay open. Each request has one message.
///
/// An acknowledgement removes nothing, so it costs the server no synced write. The purger removes what every request before it
/// is acknowledged of, many messages with one write.
pub(super) fn requests(config: &Config, subjects: &Subjects, route: &Route) -> Option<Stream> {
    Some(Stream {
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 1,
        max_bytes: signed(route.max_bytes),
        allow_atomic_publish: true,
        ..base(config, request_stream(&route.name), route.matches.filter(subjects, "in")?)
    })
}

/// Without limits, so that a failed request can always be parked. Schedules exclude discard new, hence the second stream.
pub(super) fn parked(config: &Config, subjects: &Subjects) -> Stream {
    Stream {
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::Old,
        subjects: vec![subjects.all_parked(), subjects.all_due()],
        allow_message_schedules: true,
        allow_message_ttl: true,
        // The server sets this for schedules; setting it here keeps the comparison of configurations equal.
        allow_rollup: true,
        ..base(config, PARK, subjects.all_parked())
    }
}

/// The server itself refuses a second answer, whichever worker sends it. Workers send the live copies themselves, when the answer
/// is stored.
pub(super) fn answers(config: &Config, subjects: &Subjects) -> Stream {
    Stream {
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 1,
        max_age: config.streams.result_ttl,
        max_bytes: signed(config.streams.reply_max_bytes),
        deny_delete: true,
        ..base(config, REPLY, subjects.all_replies())
    }
}

pub(super) fn dead_letters(config: &Config, subjects: &Subjects) -> Stream {
    Stream {
        max_age: config.streams.dead_max_age,
        max_bytes: signed(config.streams.dead_max_bytes),
        ..base(config, DEAD, subjects.all_dead())
    }
}

/// The publications of a namespace: its history, or one message of each channel, which is enough for acknowledgement,
/// deduplication and republishing.
///
/// Memory storage needs replicas, because a single server loses its memory streams and their configuration when it restarts.
/// Without history the messages in the file are not worth a synced write: a single server may write them after the
/// acknowledgement.
pub(super) fn publications(config: &Config, subjects: &Subjects, namespace: &Namespace) -> Stream {
    let (kept, repeated) = subjects.all_channels(&namespace.name);
    let history = namespace.has_history();
    let max_age = if history { namespace.history_ttl } else { EPHEMERAL_TTL };
    let num_replicas = namespace.replicas.unwrap_or(config.streams.replicas);
    let file = namespace.storage == Storage::File;
    Stream {
        num_replicas,
        storage: if file { StorageType::File } else { StorageType::Memory },
        max_messages_per_subject: if history { i64::from(namespace.history_size) } else { 1 },
        max_age,
        duplicate_window: config.streams.duplicate_window.min(max_age),
        deny_delete: true,
        persist_mode: (!history && file && num_replicas == 1).then_some(PersistenceMode::Async),
        republish: Some(Republish { source: kept.clone(), destination: repeated, headers_only: false }),
        ..base(config, channel_stream(&namespace.name), kept)
    }
}

/// The last message of each channel of a namespace, copied by the broker from the namespace's stream and kept longer. When it is
/// full, the oldest copies go. A copy that is lost because it is not on disk yet is made again, or shows as missing, so a
/// single server need not write it at once.
pub(super) fn last_messages(config: &Config, namespace: &Namespace) -> Stream {
    let file = namespace.storage == Storage::File;
    let num_replicas = namespace.replicas.unwrap_or(config.streams.replicas);
    Stream {
        subjects: Vec::new(),
        sources: Some(vec![Source { name: channel_stream(&namespace.name), ..Source::default() }]),
        num_replicas,
        persist_mode: (file && num_replicas == 1).then_some(PersistenceMode::Async),
        storage: if file { StorageType::File } else { StorageType::Memory },
        max_messages_per_subject: 1,
        max_age: config.streams.last_ttl.max(namespace.history_ttl),
        max_bytes: signed(config.streams.last_max_bytes),
        discard: DiscardPolicy::Old,
        duplicate_window: NO_WINDOW,
        deny_delete: true,
        ..base(config, last_stream(&namespace.name), String::new())
    }
}

/// Presence: one message for each member and one for each live gateway. The end of a lease is republished as any message is.
///
/// Stored in a file for the same reason as publications, also without synced writes: after a crash of the broker the gateways
/// compare and repair.
pub(super) fn presence(config: &Config, subjects: &Subjects) -> Stream {
    let (kept, repeated) = subjects.all_presence();
    Stream {
        max_messages_per_subject: 1,
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(ENDED_LEASE_TTL),
        // The server sets this for the markers; setting it here keeps the comparison of configurations equal.
        allow_rollup: true,
        deny_delete: true,
        persist_mode: (config.streams.replicas == 1).then_some(PersistenceMode::Async),
        republish: Some(Republish { source: kept.clone(), destination: repeated, headers_only: false }),
        ..base(config, PRESENCE, kept)
    }
}

/// The consumers of a route, each with its stream; none for a hook. The route's own stream needs no filter; in TIDE_PARK all
/// routes' requests wait.
pub(super) fn consumers(config: &Config, subjects: &Subjects, route: &Route) -> Vec<(String, pull::Config)> {
    let Some(due) = route.matches.filter(subjects, "due") else { return Vec::new() };
    vec![
        (request_stream(&route.name), consumer(config, route, String::new())),
        (PARK.to_owned(), consumer(config, route, due)),
    ]
}

/// No `backoff` and no `max_deliver`: the worker counts attempts and parks failed requests, and either setting would interfere.
fn consumer(config: &Config, route: &Route, filter: String) -> pull::Config {
    pull::Config {
        durable_name: Some(consumer_name(route).to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: config.worker.ack_wait,
        max_deliver: -1,
        max_ack_pending: MAX_ACK_PENDING,
        filter_subject: filter,
        ..pull::Config::default()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
