//! `dead_list`, `dead_show`, `dead_redrive`, `dead_drop`: dead letters.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_shared::{
    dead::{Letter, Reason, Rest},
    header, moment,
    protocol::{Error, codes},
};

use super::{Api, ApiResult, raw};
use crate::requests::letters::{Failure, Filter, Outcome};

/// Letters of one page, unless the caller says fewer.
const PAGE: usize = 100;
/// The most letters of one page. With their errors cut to [`LISTED_ERROR`] they fit into one NATS message.
const MOST: usize = 500;
/// How much of a letter's error a page has.
const LISTED_ERROR: usize = 512;

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DeadListParams {
    route: String,
    user: String,
    reason: String,
    since: String,
    until: String,
    limit: usize,
    cursor: u64,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LetterParams {
    letter: u64,
}

#[derive(Serialize)]
struct DeadList {
    letters: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<u64>,
}

/// A letter without its headers and its body. What is not known is left out.
#[derive(Serialize)]
struct Listed {
    letter: u64,
    route: String,
    service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    reason: &'static str,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    redrives: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    bytes: usize,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    headers: BTreeMap<String, String>,
    /// Whether the body is complete.
    whole: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

#[derive(Serialize)]
struct Done {
    outcome: &'static str,
    /// The letter that takes its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    newer: Option<u64>,
}

impl Api {
    pub(super) async fn dead_list(&self, request: DeadListParams) -> ApiResult {
        let (filter, limit) = (filter(&request)?, if request.limit == 0 { PAGE } else { request.limit });
        if limit > MOST {
            return Err(codes::BAD_REQUEST.because(format!("limit: at most {MOST}")));
        }
        let page = self.letters.page(&filter, request.cursor, limit).await;
        let page = page.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        let listed = |letter: &Letter| Listed {
            error: header::text_within(&letter.error, LISTED_ERROR),
            ..Listed::of(letter)
        };
        raw(&DeadList { letters: page.letters.iter().map(listed).collect(), cursor: page.next })
    }

    pub(super) async fn dead_show(&self, request: LetterParams) -> ApiResult {
        let number = numbered(&request)?;
        let found = self.letters.letter(number).await.map_err(|refusal| codes::INTERNAL.because(refusal))?;
        let (letter, body) =
            found.ok_or_else(|| codes::NOT_AVAILABLE.because(format!("there is no dead letter {number}")))?;
        let whole = body.is_some() && letter.rest != Rest::Somewhere;
        let body = body.unwrap_or_else(|| letter.body.clone());
        let (data, b64data) = match json(&body) {
            Some(data) => (Some(data), None),
            None => (None, Some(BASE64.encode(&body))),
        };
        let mut headers = BTreeMap::new();
        for (name, values) in letter.headers.iter() {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            headers.insert(name.to_string(), values.join(", "));
        }
        raw(&Shown {
            listed: Listed { bytes: body.len(), ..Listed::of(&letter) },
            headers,
            whole,
            data,
            b64data,
        })
    }

    pub(super) async fn dead_redrive(&self, request: LetterParams) -> ApiResult {
        let outcome = self.letters.redrive(numbered(&request)?).await.map_err(|failure| told(&failure))?;
        self.metrics.redriven(word(outcome));
        let newer = if let Outcome::Newer(letter) = outcome { Some(letter) } else { None };
        raw(&Done { outcome: word(outcome), newer })
    }

    pub(super) async fn dead_drop(&self, request: LetterParams) -> ApiResult {
        let dropped = self.letters.discard(numbered(&request)?).await.map_err(|failure| told(&failure))?;
        raw(&Done { outcome: if dropped { "dropped" } else { "gone" }, newer: None })
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Redriven => "redriven",
        Outcome::Gone => "gone",
        Outcome::Answered => "answered",
        Outcome::Alive => "alive",
        Outcome::Newer(_) => "newer",
    }
}

fn numbered(request: &LetterParams) -> Result<u64, Error> {
    let number = (request.letter > 0).then_some(request.letter);
    number.ok_or_else(|| codes::BAD_REQUEST.because("letter: the number of a dead letter is needed"))
}

fn told(failure: &Failure) -> Error {
    match failure {
        Failure::NoRequest(why) => codes::NOT_AVAILABLE.because(why),
        // Nothing is lost, and the same call may succeed later.
        Failure::TooEarly(_) | Failure::Broker(_) | Failure::NotRemoved(_) => {
            codes::NOT_ACCEPTED.because(failure)
        }
    }
}

fn filter(request: &DeadListParams) -> Result<Filter, Error> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let reason = text(&request.reason).map(|word| {
        let words = || Reason::ALL.map(Reason::as_str).join(", ");
        Reason::parse(&word).ok_or_else(|| codes::BAD_REQUEST.because(format!("reason: one of {}", words())))
    });
    Ok(Filter {
        route: text(&request.route),
        user: text(&request.user),
        reason: reason.transpose()?,
        since: time("since", &request.since)?,
        until: time("until", &request.until)?,
    })
}

fn time(name: &str, text: &str) -> Result<Option<SystemTime>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = humantime::parse_rfc3339_weak(text);
    parsed.map(Some).map_err(|_| {
        codes::BAD_REQUEST.because(format!("{name}: a time such as 2026-01-31T12:00:00Z is needed"))
    })
}

/// The body if it is JSON that can stand in an answer.
fn json(body: &Bytes) -> Option<Box<RawValue>> {
    serde_json::from_slice::<Box<RawValue>>(body).ok().filter(|json| !json.get().is_empty())
}

impl Listed {
    fn of(letter: &Letter) -> Self {
        let text = |name: &'static str| letter.header(name).map(str::to_owned);
        Self {
            letter: letter.number,
            route: letter.route.clone(),
            service: letter.service.clone(),
            id: letter.id.as_ref().map(ToString::to_string),
            user: text(header::USER),
            method: text(header::METHOD),
            channel: text(header::CHANNEL),
            reason: letter.reason.as_str(),
            error: letter.error.clone(),
            attempts: letter.attempts,
            redrives: letter.redrives,
            subject: letter.subject.clone(),
            stream_seq: letter.stream_seq,
            first_seen: letter.first_seen.map(moment::text),
            last_seen: letter.last_seen.map(moment::text),
            bytes: letter.body.len(),
        }
    }
}
