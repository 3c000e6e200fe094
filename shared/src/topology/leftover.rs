//! Streams of requests that belong to no route any more: the one queue of earlier versions, and those of routes that were
//! removed or renamed. They are named to the operator and never deleted: clients were told that their requests are accepted.

use async_nats::jetstream::{self, consumer::pull};
use futures_util::TryStreamExt;

use super::{ApplyError, Change, REQUESTS, Step, Topology, failed};

/// The one queue of all requests in earlier versions.
const OLD: &str = "TIDE_IN";

/// A stream of requests that belongs to no route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    name: String,
    subjects: Vec<String>,
    waiting: u64,
}

impl Topology {
    /// Finds the streams of requests that belong to no route of the configuration.
    pub async fn leftovers(&self, jetstream: &jetstream::Context) -> Result<Vec<Leftover>, ApplyError> {
        let names: Vec<String> = jetstream
            .stream_names()
            .try_collect()
            .await
            .map_err(|error| failed("reading the names of the streams", &error))?;
        let ours = names.into_iter().filter(|name| name == OLD || name.starts_with(REQUESTS));
        let mut leftovers = Vec::new();
        for name in ours.filter(|name| self.streams.iter().all(|stream| stream.name != *name)) {
            let stream = jetstream
                .get_stream(&name)
                .await
                .map_err(|error| failed(&format!("reading stream {name}"), &error))?;
            let info = stream.cached_info();
            // What is below the consumers' acknowledgements stays in the stream until it is purged, and waits for nobody.
            let waiting = waiting(&stream).await.unwrap_or(info.state.messages);
            leftovers.push(Leftover { name, subjects: info.config.subjects.clone(), waiting });
        }
        Ok(leftovers)
    }
}

/// How many requests wait for the consumers of a stream, or are being worked on. `None` if it has no consumer.
async fn waiting(stream: &jetstream::stream::Stream) -> Option<u64> {
    let names: Vec<String> = stream.consumer_names().try_collect().await.ok()?;
    let mut waiting: Option<u64> = None;
    for name in names {
        let consumer = stream.get_consumer::<pull::Config>(&name).await.ok()?;
        let info = consumer.cached_info();
        let of_one = info.num_pending.saturating_add(info.num_ack_pending as u64);
        waiting = Some(waiting.unwrap_or(0).saturating_add(of_one));
    }
    waiting
}

impl Leftover {
    /// What this stream is, and what to do about it.
    pub fn advice(&self) -> String {
        let Self { name, waiting, .. } = self;
        let user = if name == OLD {
            "the user of nats.setup"
        } else {
            "a user of the account TIDEGATE, which you add to nats.conf for it"
        };
        let remove = format!("`nats stream rm {name}` as {user}");
        match (name.as_str(), waiting) {
            (OLD, 0) => format!(
                "stream {name} is the queue of all requests of earlier versions and holds none: stop the earlier gateways and \
                 workers, then delete it with {remove} (local stack: `make clean-data`)"
            ),
            (OLD, waiting) => format!(
                "stream {name} is the queue of all requests of earlier versions and holds {waiting}: stop the earlier gateways, \
                 let the earlier workers finish, then delete it with {remove}"
            ),
            (_, 0) => format!(
                "stream {name} belongs to no [[route]] and no request waits in it: delete it with {remove}"
            ),
            (_, waiting) => format!(
                "stream {name} belongs to no [[route]]; waiting requests: {waiting}. Declare its route again until its workers \
                 have finished, or give the requests up and delete it with {remove}"
            ),
        }
    }

    /// Refuses the change if it makes a stream that takes the same requests, which the broker does not allow.
    pub(super) fn refuse(&self, topology: &Topology, change: &mut Change) {
        let (Step::CreateStream(name) | Step::UpdateStream(name, _)) = &change.step else { return };
        let wanted = topology.stream(name);
        let overlaps = |subject: &String| wanted.subjects.iter().any(|other| overlap(subject, other));
        if name.starts_with(REQUESTS) && self.subjects.iter().any(overlaps) {
            let reason = format!("{}; stream {name} takes the same requests", self.advice());
            *change =
                Change { what: format!("cannot make stream {name}: {reason}"), step: Step::Refuse(reason) };
        }
    }
}

/// Whether a subject exists that both filters take.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_overlap_if_one_subject_matches_both() {
        for (one, other, both) in [
            ("tide.in.>", "tide.in.rpc.echo.*.*.*", true),
            ("tide.in.rpc.echo.*.*.*", "tide.in.rpc.echo.*.*.*", true),
            ("tide.in.rpc.*.*.*.*", "tide.in.rpc.echo.*.*.*", true),
            ("tide.in.rpc.echo.*.*.*", "tide.in.rpc.other.*.*.*", false),
            ("tide.in.rpc.echo.*.*.*", "tide.in.rpc.echo.*.*", false),
            ("tide.in.rpc.a.*.*.*.>", "tide.in.rpc.a.*.*.*", false),
            ("tide.in.rpc.a.*.*.*.>", "tide.in.rpc.a.b.c.*.*.*", true),
        ] {
            assert_eq!(overlap(one, other), both, "{one} {other}");
            assert_eq!(overlap(other, one), both, "{other} {one}");
        }
    }

    #[test]
    fn the_advice_says_what_waits_and_what_to_do() {
        let advice =
            |name: &str, waiting| Leftover { name: name.to_owned(), subjects: vec![], waiting }.advice();
        assert!(
            advice("TIDE_IN", 3)
                .contains("holds 3: stop the earlier gateways, let the earlier workers finish")
        );
        assert!(advice("TIDE_IN", 0).contains("delete it with `nats stream rm TIDE_IN`"));
        assert!(advice("TIDE_IN_echo", 3).contains("waiting requests: 3. Declare its route again"));
        assert!(advice("TIDE_IN_echo", 0).contains("no request waits in it"));
    }
}
