//! The faults of the broker that this process meets: opened and closed by what it does, and logged.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{
    RequestErrorKind, ServerError,
    jetstream::{
        self, ErrorCode,
        context::{GetStreamError, GetStreamErrorKind, PublishError, PublishErrorKind},
    },
};
use parking_lot::Mutex;

use super::refusal::{Meaning, meaning};
use crate::fault::{Fault, Faults, Place, Problem};

/// Opens, closes and reports faults. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    faults: Mutex<Faults>,
    /// Whether any fault was met: while there is none, a success costs one load.
    any: AtomicBool,
}

impl Health {
    /// An operation failed for a reason that others will meet too.
    pub fn met(&self, place: &Place, problem: Problem) {
        self.0.any.store(true, Ordering::Release);
        let due = self.0.faults.lock().met(place, problem, Instant::now());
        if let Some(fault) = due {
            tracing::warn!(place = fault.place.label(), problem = fault.problem.label(), "{fault}");
        }
    }

    /// An operation succeeded.
    pub fn works(&self, place: impl FnOnce() -> Place) {
        if !self.0.any.load(Ordering::Acquire) {
            return;
        }
        let place = place();
        let over = self.0.faults.lock().works(&place, Instant::now());
        if let Some(lasted) = over {
            let lasted = Duration::from_secs(lasted.as_secs());
            let lasted = humantime::format_duration(lasted);
            tracing::info!(place = place.label(), %lasted, "over: {place}");
        }
    }

    /// The open faults.
    pub fn open(&self) -> Vec<Fault> {
        if !self.0.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.0.faults.lock().open(Instant::now())
    }

    pub(super) fn connected_anew(&self) {
        self.0.faults.lock().connected_anew();
    }

    /// The outcome of storing a message.
    pub(super) fn stored<T>(&self, stream: Option<&str>, result: &Result<T, PublishError>) {
        let Some(stream) = stream else { return };
        let place = || Place::Store(stream.to_owned());
        match result {
            Ok(_) => self.works(place),
            Err(error) => match fault_of(error) {
                Stands::Faulty(problem) => self.met(&place(), problem),
                Stands::Works => self.works(place),
                Stands::Open => {}
            },
        }
    }

    /// The outcome of a direct get.
    pub(super) fn read<T>(&self, stream: &str, result: &Result<T, Problem>) {
        let place = || Place::Read(stream.to_owned());
        match result {
            Ok(_) => self.works(place),
            Err(problem) => self.met(&place(), problem.clone()),
        }
    }

    /// NATS refused an operation. Only violations of permissions are faults.
    pub(super) fn refused(&self, error: &ServerError) -> bool {
        let ServerError::Other(text) = error else { return false };
        let Some(place) = violated(text) else { return false };
        self.met(&place, Problem::Forbidden);
        true
    }
}

/// What an error of a publish says about its stream.
enum Stands {
    Faulty(Problem),
    /// The stream has answered.
    Works,
    /// Nothing: the connection was lost, or the message was not sent.
    Open,
}

fn fault_of(error: &PublishError) -> Stands {
    match error.kind() {
        PublishErrorKind::TimedOut => Stands::Faulty(Problem::Silent),
        PublishErrorKind::StreamNotFound => Stands::Faulty(Problem::Missing),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence => Stands::Works,
        PublishErrorKind::BrokenPipe
        | PublishErrorKind::MaxAckPending
        | PublishErrorKind::MaxPayloadExceeded => Stands::Open,
        PublishErrorKind::Other => match error.source().and_then(|source| source.downcast_ref()) {
            Some(api) => api_fault(api),
            None => Stands::Open,
        },
    }
}

fn api_fault(error: &jetstream::Error) -> Stands {
    let text = error.to_string();
    match (meaning(error.error_code().0, &text), error.error_code()) {
        (Meaning::Full, _) => Stands::Faulty(Problem::Full(text)),
        (Meaning::Taken | Meaning::Permanent, _) => Stands::Works,
        (_, ErrorCode::STREAM_NOT_FOUND) => Stands::Faulty(Problem::Missing),
        // The same message is being stored by another call.
        (_, ErrorCode(10158)) => Stands::Open,
        (Meaning::Retry | Meaning::Unknown | Meaning::StoreFailed, _) => {
            Stands::Faulty(Problem::Failing(text))
        }
    }
}

/// What an error of a request to read says.
pub(super) fn unread(kind: RequestErrorKind, text: String) -> Problem {
    match kind {
        RequestErrorKind::NoResponders => Problem::Missing,
        RequestErrorKind::TimedOut => Problem::Silent,
        _ => Problem::Failing(text),
    }
}

/// What an error of asking for a stream says.
pub(super) fn unknown_stream(error: &GetStreamError) -> Problem {
    match error.kind() {
        GetStreamErrorKind::JetStream(api) if api.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Problem::Missing
        }
        GetStreamErrorKind::JetStream(api) => Problem::Failing(api.to_string()),
        _ => Problem::Silent,
    }
}

/// Reads what NATS writes when a user has no right. Only the beginning of the subject counts: the rest has ids and names.
fn violated(text: &str) -> Option<Place> {
    const VIOLATION: &str = "permissions violation for ";
    let head = text.get(..VIOLATION.len())?;
    let rest = text.get(VIOLATION.len()..).filter(|_| head.eq_ignore_ascii_case(VIOLATION))?;
    let mut parts = rest.split('"');
    let (what, subject) = (parts.next()?, parts.next()?);
    // The name of JetStream's API within the accounts of nats.conf.
    let api = subject.split_once(".js.").filter(|(prefix, _)| !prefix.contains('.'));
    let subject = &api.map_or_else(|| subject.to_owned(), |(_, call)| format!("$JS.API.{call}"));
    let kept = match subject.as_str() {
        ack if ack.starts_with("$JS.ACK.") => 4,
        read if read.starts_with("$JS.API.DIRECT.") => 5,
        api if api.starts_with("$JS.API.") => 7,
        _ => 2,
    };
    let mut words: Vec<&str> = subject.split('.').take(kept).collect();
    if subject.split('.').nth(kept).is_some() {
        words.push(">");
    }
    let subject = words.join(".");
    match what.trim().to_ascii_lowercase().as_str() {
        "publish to" => Some(Place::Publish(subject)),
        "subscription to" => Some(Place::Subscribe(subject)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_of_permissions_name_the_subject() {
        let text = "Permissions Violation for Publish to \"$JS.API.CONSUMER.MSG.NEXT.TIDE_IN.echo\"";
        let subject = "$JS.API.CONSUMER.MSG.NEXT.TIDE_IN.echo".to_owned();
        assert_eq!(violated(text), Some(Place::Publish(subject)));
        let text = "permissions violation for subscription to \"tide.live.>\" using queue \"a\"";
        assert_eq!(violated(text), Some(Place::Subscribe("tide.live.>".to_owned())));
        for (subject, kept) in [
            ("tide.reply.k.0123", "tide.reply.>"),
            ("tide.barrier", "tide.barrier"),
            ("tide.js.STREAM.INFO.TIDE_IN", "$JS.API.STREAM.INFO.TIDE_IN"),
            ("tide.js.DIRECT.GET.TIDE_REPLY.tide.reply.k.0123", "$JS.API.DIRECT.GET.TIDE_REPLY.>"),
            ("$JS.ACK.TIDE_IN.echo.1.2.3.4.5", "$JS.ACK.TIDE_IN.echo.>"),
            ("$JS.API.DIRECT.GET.TIDE_REPLY.tide.reply.k.0123", "$JS.API.DIRECT.GET.TIDE_REPLY.>"),
        ] {
            let text = format!("Permissions Violation for Publish to \"{subject}\"");
            assert_eq!(violated(&text), Some(Place::Publish(kept.to_owned())));
        }
        for other in
            ["", "Stale Connection", "permissions violation", "Permissions Violation for Publish to x"]
        {
            assert_eq!(violated(other), None, "{other}");
        }
    }

    #[test]
    fn a_message_that_is_refused_for_itself_is_no_fault_of_its_stream() {
        for (code, text, faulty) in [
            (10077, "maximum bytes exceeded", true),
            (10047, "insufficient storage resources available", true),
            (10077, "no space left on device", true),
            (10059, "stream not found", true),
            (10008, "JetStream system temporarily unavailable", true),
            (19_999, "an error of a newer server", true),
            (10158, "duplicate message id is in process", false),
            (10071, "wrong last sequence: 7", false),
            (10054, "message size exceeds maximum allowed", false),
            (10077, "maximum messages per subject exceeded", false),
        ] {
            let error = serde_json::json!({"code": 400, "err_code": code, "description": text});
            let error: jetstream::Error = serde_json::from_value(error).unwrap();
            assert_eq!(matches!(api_fault(&error), Stands::Faulty(_)), faulty, "{text}");
        }
    }
}
