//! The dead letter of an advisory: whether there is one already, and storing it.

use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use tidegate_shared::{
    advisory::Advisory,
    broker::{Refusal, broker_header, header_number, stored_at},
    dead::{Failed, Reason, letter_id},
    envelope::{Request, get},
    header,
    topology::DEAD,
};

use super::{Sweeper, attempts, own_headers};

/// How long before the advisory its worker may have stored a letter by itself.
const BEFORE: Duration = Duration::from_mins(2);
/// The letters of one read.
const PAGE: usize = 64;

impl Sweeper {
    /// The letter of a request, and its number.
    pub(super) async fn letter_of(
        &self,
        advisory: &Advisory,
        message: &Message,
        request: &Request,
        again: bool,
    ) -> Result<u64, Refusal> {
        let begun = attempts(advisory, request);
        let failed = Failed {
            id: letter_id(&request.id, &advisory.place()),
            attempts: Some(begun),
            first_seen: request.accepted().or_else(|| stored_at(message)),
            ..failed(advisory, Some(message))
        };
        // Within the broker's window the id alone is enough, and no worker has stored one before it.
        if again && let Some(number) = self.find(advisory).await? {
            return Ok(number);
        }
        let number = self.store(advisory, &failed).await?;
        tracing::error!(
            request.id = %request.id, route = advisory.route, attempts = begun, reason = advisory.reason.as_str(), error = failed.error, "dead letter"
        );
        Ok(number)
    }

    /// The letter of a message that is no request. A worker that found it so has stored one by itself.
    pub(super) async fn letter_of_unreadable(
        &self,
        advisory: &Advisory,
        message: &Message,
        error: &str,
    ) -> Result<(), Refusal> {
        let failed = Failed { reason: Reason::Unreadable, ..failed(advisory, Some(message)) };
        let failed = Failed { error: format!("{error}; {}", failed.error), ..failed };
        self.store_unless_found(advisory, &failed).await
    }

    /// The letter of a message that the broker has removed: from TIDE_PARK it does so at once. All that is known is the advisory.
    /// One that was acknowledged needs no letter.
    pub(super) async fn letter_of_nothing(&self, advisory: &Advisory) -> Result<(), Refusal> {
        if advisory.is_of_a_removed_message() {
            tracing::info!(
                route = advisory.route,
                stream = advisory.stream,
                seq = advisory.seq,
                "a consumer waited for a message that was acknowledged, or deleted by hand"
            );
            return Ok(());
        }
        let failed = failed(advisory, None);
        let error = format!(
            "{}; the broker has removed the message, so this letter has no request and nobody was told",
            failed.error
        );
        self.store_unless_found(advisory, &Failed { error, ..failed }).await
    }

    async fn store_unless_found(&self, advisory: &Advisory, failed: &Failed) -> Result<(), Refusal> {
        if self.find(advisory).await?.is_some() {
            return Ok(());
        }
        let number = self.store(advisory, failed).await?;
        tracing::error!(
            route = advisory.route,
            stream = advisory.stream,
            seq = advisory.seq,
            number,
            error = failed.error,
            "dead letter"
        );
        Ok(())
    }

    /// The number of the letter that was stored for this message: by an earlier delivery of the advisory, or by the worker.
    async fn find(&self, advisory: &Advisory) -> Result<Option<u64>, Refusal> {
        let end = format!(".dead.{}", advisory.place());
        let subject = self.subjects.dead_of(&advisory.route);
        let since = advisory.at.and_then(|at| at.checked_sub(BEFORE)).unwrap_or(SystemTime::UNIX_EPOCH);
        let Some(first) = self.broker.first_since(DEAD, &subject, since).await? else { return Ok(None) };
        let mut from = header_number(&first, header::SEQUENCE).unwrap_or(1);
        loop {
            let range = self.broker.range(DEAD, &subject, from, PAGE).await?;
            let Some(last) = range.messages.last().and_then(|m| header_number(m, header::SEQUENCE)) else {
                return Ok(None);
            };
            if let Some(found) = range.messages.iter().find(|letter| self.is_of(letter, advisory, &end)) {
                return Ok(header_number(found, header::SEQUENCE));
            }
            if range.more == 0 {
                return Ok(None);
            }
            from = last + 1;
        }
    }

    /// Whether a letter is of this message: its id ends with the message's place, as every worker makes it, or it names the place.
    fn is_of(&self, letter: &Message, advisory: &Advisory, end: &str) -> bool {
        let Some(headers) = &letter.headers else { return false };
        if get(headers, header::MSG_ID).is_some_and(|id| id.ends_with(end)) {
            return true;
        }
        let stage =
            get(headers, header::DEAD_SUBJECT).and_then(|subject| self.subjects.words(subject)?.next());
        let seq = get(headers, header::DEAD_STREAM_SEQ).and_then(|text| text.parse().ok());
        seq == Some(advisory.seq) && stage.is_some_and(|stage| (stage == "due") == advisory.is_parked())
    }

    /// Stores a letter, and returns its number. A letter that was stored before keeps its number.
    async fn store(&self, advisory: &Advisory, failed: &Failed) -> Result<u64, Refusal> {
        let subject = self.subjects.dead(&self.service, &advisory.route);
        let parts = failed.letter(self.broker.client().max_payload());
        let mut rest = None;
        if let Some((headers, body)) = parts.rest() {
            rest = Some(self.broker.store(subject.clone(), headers, body).await?.seq);
        }
        let (headers, body): (HeaderMap, Bytes) = parts.head(rest);
        let stored = self.broker.store(subject, headers, body).await?;
        if !stored.duplicate {
            self.metrics.buried(&advisory.route, failed.reason);
        }
        Ok(stored.seq)
    }
}

/// What the advisory and the message say, without what only a request has.
fn failed(advisory: &Advisory, message: Option<&Message>) -> Failed {
    let subject = message.and_then(|message| broker_header(message, header::SUBJECT));
    Failed {
        headers: message.map(own_headers).unwrap_or_default(),
        body: message.map_or(Bytes::new(), |message| message.payload.clone()),
        id: format!("{}.dead.{}", advisory.route, advisory.place()),
        attempts: message.is_none().then_some(advisory.deliveries),
        reason: advisory.reason,
        error: header::text(&advisory.error()),
        subject: subject.unwrap_or_default().to_owned(),
        stream_seq: Some(advisory.seq),
        first_seen: message.and_then(stored_at),
        last_seen: advisory.at.unwrap_or_else(SystemTime::now),
    }
}
