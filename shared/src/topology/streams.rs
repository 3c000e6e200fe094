//! The streams that a configuration needs. Pure; [`super`] plans and applies them.

use std::time::Duration;

use async_nats::jetstream::stream::{
    Config as Stream, DiscardPolicy, PersistenceMode, Republish, RetentionPolicy, Source, StorageType,
};

use super::{
    ADVISORIES, ATTEMPT, DEAD, PARK, PRESENCE, REPLY, START, channel_stream, last_stream, request_stream,
};
use crate::{
    config::{Config, Match, Namespace, Route, Storage},
    subject::{self, Subjects},
};

/// How many requests in a strict order are remembered that have failed or lost a worker; the oldest are forgotten.
const MOST_RECORDS: i64 = 100_000;
/// And how long: a retry or a snooze of more than that begins to count anew.
const RECORD_AGE: Duration = Duration::from_hours(24 * 30);
/// How long a count of starts is kept.
const START_AGE: Duration = Duration::from_secs(10);
/// The shortest window of the broker. The originals are deduplicated already.
const NO_WINDOW: Duration = Duration::from_millis(100);
/// How long an advisory waits for a purger, and how many bytes of them; the oldest are lost then.
const ADVISORY_AGE: Duration = Duration::from_hours(24 * 7);
const ADVISORY_BYTES: i64 = 64 << 20;
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
    let normal = route.matches.filter(subjects, "in")?;
    let first = route.matches.filter(subjects, "first").filter(|_| route.has_lanes());
    Some(Stream {
        subjects: std::iter::once(normal.clone()).chain(first).collect(),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 1,
        max_bytes: signed(route.max_bytes),
        allow_atomic_publish: true,
        ..base(config, request_stream(&route.name), normal)
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
/// is stored. Answers that gather in a worker are stored as one batch.
pub(super) fn answers(config: &Config, subjects: &Subjects) -> Stream {
    Stream {
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 1,
        max_age: config.streams.result_ttl,
        max_bytes: signed(config.streams.reply_max_bytes),
        deny_delete: true,
        allow_atomic_publish: true,
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

/// The publications of a namespace with history.
///
/// Memory storage needs replicas, because a single server loses its memory streams and their configuration when it restarts.
/// Those that gather in a gateway are stored as one batch.
pub(super) fn publications(config: &Config, subjects: &Subjects, namespace: &Namespace) -> Stream {
    let (kept, repeated) = subjects.all_channels(&namespace.name);
    let file = namespace.storage == Storage::File;
    Stream {
        num_replicas: namespace.replicas.unwrap_or(config.streams.replicas),
        storage: if file { StorageType::File } else { StorageType::Memory },
        max_messages_per_subject: i64::from(namespace.history_size),
        max_age: namespace.history_ttl,
        duplicate_window: namespace
            .duplicate_window
            .unwrap_or(config.streams.duplicate_window)
            .min(namespace.history_ttl),
        deny_delete: true,
        allow_atomic_publish: true,
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

/// What is remembered of requests that keep their place in a strict order while they wait: one message for each such request.
/// It goes by its age, long after the request.
pub(super) fn attempts(config: &Config, subjects: &Subjects) -> Stream {
    Stream {
        max_messages_per_subject: 1,
        max_messages: MOST_RECORDS,
        max_age: RECORD_AGE,
        ..base(config, ATTEMPT, subjects.all_attempts())
    }
}

/// How many attempts were begun in each moment, of routes that limit them: counters of the broker, which are worth nothing a
/// moment later. In a file for the same reason as presence: a single server forgets a memory stream when it restarts.
pub(super) fn starts(config: &Config, subjects: &Subjects) -> Stream {
    Stream {
        persist_mode: (config.streams.replicas == 1).then_some(PersistenceMode::Async),
        max_messages_per_subject: 1,
        max_age: START_AGE,
        duplicate_window: NO_WINDOW,
        allow_message_counter: true,
        ..base(config, START, subjects.all_starts())
    }
}

/// What the broker says about requests that a worker terminated, or that were delivered as often as allowed. The broker publishes it
/// without an acknowledgement, so a full stream loses the oldest.
pub(super) fn advisories(config: &Config) -> Stream {
    let routes = config.routes.iter().filter(|route| !matches!(route.matches, Match::Hook(_)));
    let watched = routes.map(|route| request_stream(&route.name)).chain(std::iter::once(PARK.to_owned()));
    Stream {
        subjects: watched.flat_map(|stream| subject::advisories(&stream)).collect(),
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::Old,
        max_age: ADVISORY_AGE,
        max_bytes: ADVISORY_BYTES,
        ..base(config, ADVISORIES, String::new())
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
