//! What a response of a webhook means. Pure.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tidegate_shared::config::Refusal;
use tidegate_worker::{Answer, Publication};

use crate::handlers::answer;

/// The content type of a response that has publications beside its answer.
pub(super) const ENVELOPE: &str = "application/tidegate+json";
/// The most publications of one response.
const MOST_PUBLICATIONS: usize = 100;
/// The longest time that a receiver may ask for.
const LONGEST: Duration = Duration::from_hours(24);
/// The most characters of a response that an error quotes.
const QUOTED: usize = 200;

/// A response, read to its end.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) content_type: String,
    pub(super) location: Option<String>,
    pub(super) body: Bytes,
}

/// What follows from a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Answer(Answer),
    /// The caller gets this error, and what the receiver says about it.
    Reject {
        code: u32,
        message: String,
        data: Option<Value>,
    },
    Dead(String),
    Retry(String),
    /// The receiver asks for silence for this long.
    Silence(Duration),
    /// The receiver does not exist any more.
    Gone,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    answer: Option<&'a RawValue>,
    #[serde(default, borrow)]
    publications: Vec<Published<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published<'a> {
    channel: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    tags: std::collections::BTreeMap<String, String>,
}

impl Response {
    pub(super) fn verdict(self, refusal: Refusal) -> Verdict {
        let said = self.quote();
        let text = |rest: &str| format!("the webhook answered {}{rest}", self.status);
        match (self.status, self.retry_after) {
            (200..=299, _) => self.answer(),
            (410, _) => Verdict::Gone,
            (429 | 502 | 503 | 504, Some(wait)) => Verdict::Silence(wait),
            (408 | 425 | 429 | 500..=599, _) => Verdict::Retry(text(&said)),
            (300..=399, _) => {
                let to = self.location.as_deref().map(|to| format!(" to {to}")).unwrap_or_default();
                Verdict::Dead(text(&format!(", a redirect{to}: redirects are not followed")))
            }
            (400..=499, _) if refusal == Refusal::Reject => Verdict::Reject {
                code: self.status.into(),
                message: self.message(),
                data: serde_json::from_slice(&self.body).ok(),
            },
            _ => Verdict::Dead(text(&said)),
        }
    }

    /// JSON is the answer as it is, other text becomes a JSON string.
    fn answer(self) -> Verdict {
        if self.content_type.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(ENVELOPE))
        {
            return envelope(&self.body);
        }
        match answer::json(self.body) {
            Ok(body) => Verdict::Answer(answer::plain(body)),
            Err(why) => Verdict::Dead(format!("the webhook's response is {why}")),
        }
    }

    /// The `message` of a JSON body, or what the status is called.
    fn message(&self) -> String {
        let json: Option<Value> = serde_json::from_slice(&self.body).ok();
        let said = json.as_ref().and_then(|json| json.get("message")?.as_str()).map(str::to_owned);
        said.unwrap_or_else(|| {
            let status = reqwest::StatusCode::from_u16(self.status).ok();
            status.and_then(|status| status.canonical_reason()).unwrap_or("refused").to_lowercase()
        })
    }

    fn quote(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let text: String =
            text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTED).collect();
        if text.is_empty() { text } else { format!(": {text}") }
    }
}

fn envelope(body: &[u8]) -> Verdict {
    let envelope: Envelope<'_> = match serde_json::from_slice(body) {
        Ok(envelope) => envelope,
        Err(error) => return Verdict::Dead(format!("the webhook's response is no {ENVELOPE}: {error}")),
    };
    if envelope.publications.len() > MOST_PUBLICATIONS {
        let text = format!("the webhook's response has more than {MOST_PUBLICATIONS} publications");
        return Verdict::Dead(text);
    }
    let publication = |published: Published<'_>| {
        let publication = Publication::bytes(published.channel, published.data.get().to_owned());
        published
            .tags
            .into_iter()
            .fold(publication, |publication, (name, value)| publication.tag(name, value))
    };
    let body = envelope.answer.map(|json| json.get().to_owned().into()).unwrap_or_default();
    let mut answer = answer::plain(body);
    answer.publications = envelope.publications.into_iter().map(publication).collect();
    Verdict::Answer(answer)
}

/// Reads `Retry-After`: seconds, or a date.
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            retry_after: None,
            content_type: "application/json".to_owned(),
            location: None,
            body: body.to_owned().into(),
        }
    }

    fn body(verdict: Verdict) -> String {
        let Verdict::Answer(answer) = verdict else { panic!("{verdict:?}") };
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    #[test]
    fn every_status_means_what_the_page_says() {
        let verdict = |status, body| response(status, body).verdict(Refusal::Reject);
        assert_eq!(body(verdict(200, "{\"a\": 1}")), "{\"a\": 1}");
        assert_eq!(body(verdict(202, "thanks")), "\"thanks\"");
        assert_eq!(body(verdict(204, "")), "");
        let rejected = verdict(422, "{\"message\": \"no such article\", \"field\": \"sku\"}");
        let Verdict::Reject { code, message, data } = rejected else { panic!("{rejected:?}") };
        assert_eq!((code, message.as_str()), (422, "no such article"));
        assert_eq!(data.unwrap()["field"], "sku");
        assert!(
            matches!(verdict(404, ""), Verdict::Reject { code: 404, message, .. } if message == "not found")
        );
        assert!(
            matches!(response(404, "x").verdict(Refusal::Dead), Verdict::Dead(text) if text.ends_with("404: x"))
        );
        assert_eq!(verdict(410, ""), Verdict::Gone);
        for status in [408, 425, 429, 500, 503, 599] {
            assert!(
                matches!(verdict(status, "oh"), Verdict::Retry(text) if text.ends_with(": oh")),
                "{status}"
            );
        }
        let silent = Response { retry_after: Some(Duration::from_secs(7)), ..response(503, "") };
        assert_eq!(silent.verdict(Refusal::Reject), Verdict::Silence(Duration::from_secs(7)));
        let redirect = Response { location: Some("http://10.0.0.1/".to_owned()), ..response(302, "") };
        assert!(
            matches!(redirect.verdict(Refusal::Reject), Verdict::Dead(text) if text.contains("to http://10.0.0.1/"))
        );
    }

    #[test]
    fn a_response_may_carry_publications() {
        let envelope = |body: &str| {
            let content_type = format!("{ENVELOPE}; charset=utf-8");
            Response { content_type, ..response(200, body) }.verdict(Refusal::Reject)
        };
        let text = r#"{"answer": {"id": 7}, "publications": [{"channel": "shop:7", "data": "sold", "tags": {"kind": "sale"}}]}"#;
        let Verdict::Answer(answer) = envelope(text) else { panic!() };
        assert_eq!(&answer.body[..], b"{\"id\": 7}");
        assert_eq!(answer.publications, [Publication::bytes("shop:7", "\"sold\"").tag("kind", "sale")]);
        assert!(matches!(envelope("{\"anser\": 1}"), Verdict::Dead(_)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Thu, 26 Nov 2026 12:00:00 GMT").unwrap();
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 26 Nov 2026 12:01:00 GMT", now), Some(Duration::from_mins(1)));
        assert_eq!(retry_after("Thu, 26 Nov 2026 11:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999", now), Some(LONGEST));
        assert_eq!(retry_after("soon", now), None);
    }
}
