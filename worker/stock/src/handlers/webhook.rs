//! `webhook`: requests an HTTP back end, signed as Standard Webhooks says. Whatever its response means is decided in `response`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::anyhow;
use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use tidegate_shared::{config, trace::Trace};
use tidegate_worker::{Answer, Failure, Gate};

use self::{
    breaker::{Admission, Breaker},
    egress::{Egress, RefusedAddress},
    response::{Response, Verdict, retry_after},
    signature::Signer,
};
use crate::{
    input::Input,
    metrics::{OfRoute, Outcome},
    template::{Language, Template},
};

mod breaker;
mod egress;
mod response;
mod signature;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The shortest time that a request is put off for.
const SHORTEST: Duration = Duration::from_millis(100);
/// How long a request waits whose receiver is gone.
const GONE: Duration = Duration::from_mins(1);

/// The webhook of one route.
#[derive(Debug)]
pub(crate) struct Webhook {
    route: String,
    http: Client,
    method: Method,
    /// Scheme, host and port, which no request changes.
    base: String,
    rest: Template,
    headers: HeaderMap,
    body: Option<Template>,
    content_type: String,
    signer: Signer,
    max_bytes: usize,
    refusal: config::Refusal,
    breaker: Mutex<Breaker>,
    gate: Gate,
    metrics: OfRoute,
}

/// Why there is no response.
enum NoResponse {
    /// The failure does not depend on the receiver.
    Impossible(String),
    Failed(String),
}

impl Webhook {
    /// Prepares the webhook of a route. The error has the key that is wrong and the reason.
    pub(crate) fn new(
        route: &config::Route,
        settings: &config::Webhook,
        (metrics, gate): (OfRoute, Gate),
    ) -> Result<Self, (String, String)> {
        let params = crate::input::params(&route.matches);
        let of = |key: &str| {
            let key = key.to_owned();
            move |text: String| (key, text)
        };
        let start = settings.url.find("://").map_or(0, |at| at + 3);
        let end = settings.url.get(start..).and_then(|rest| rest.find(['/', '?']));
        let (base, rest) = settings.url.split_at(end.map_or(settings.url.len(), |end| start + end));
        let parsed = Url::parse(base).map_err(|error| ("url".to_owned(), format!("{base}: {error}")))?;
        let egress = Egress::new(&settings.allow).map_err(of("allow"))?;
        let host = parsed.host_str().unwrap_or_default();
        egress.check_literal(host).map_err(|refused| ("url".to_owned(), refused.to_string()))?;
        let http = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(egress))
            .connect_timeout(CONNECT.min(settings.timeout))
            .timeout(settings.timeout)
            .user_agent(concat!("tidegate-worker/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ("url".to_owned(), error.to_string()))?;
        let language = language(&settings.content_type);
        let body = settings.body.as_deref().map(|text| Template::parse(text, language, &params)).transpose();
        let breaker = Breaker::new(settings.breaker);
        metrics.breaker(&Breaker::STATES, breaker.state());
        Ok(Self {
            route: route.name.clone(),
            metrics,
            http,
            method: Method::from_bytes(settings.method.as_str().as_bytes()).unwrap_or(Method::POST),
            base: base.to_owned(),
            rest: Template::parse(rest, Language::Url, &params).map_err(of("url"))?,
            headers: fixed_headers(settings)?,
            body: body.map_err(of("body"))?,
            content_type: settings.content_type.clone(),
            signer: Signer::new(&settings.secrets)
                .ok_or_else(|| ("secrets".to_owned(), "are no secrets of Standard Webhooks".to_owned()))?,
            max_bytes: usize::try_from(settings.max_bytes).unwrap_or(usize::MAX),
            refusal: settings.status_4xx,
            breaker: Mutex::new(breaker),
            gate,
        })
    }

    /// Calls the back end once, unless it is known to be away.
    pub(crate) async fn call(&self, input: Input) -> Result<Answer, Failure> {
        let (url, body) = self.prepare(&input)?;
        let admission = self.breaker(|breaker| breaker.admit(Instant::now()));
        if let Admission::Wait(wait) = admission {
            return Err(self.put_off(wait));
        }
        let call = self.metrics.call();
        let verdict = match self.send(&input, url, body).await {
            Ok(response) => response.verdict(self.refusal),
            Err(NoResponse::Failed(error)) => Verdict::Retry(error),
            Err(NoResponse::Impossible(reason)) => Verdict::Dead(reason),
        };
        call.ended(match &verdict {
            Verdict::Answer(_) => Outcome::Ok,
            Verdict::Reject { .. } | Verdict::Dead(_) => Outcome::Refused,
            Verdict::Retry(_) => Outcome::Failed,
            Verdict::Silence(_) | Verdict::Gone => Outcome::PutOff,
        });
        self.conclude(verdict)
    }

    /// The address and the body to send.
    fn prepare(&self, input: &Input) -> Result<(Url, Bytes), Failure> {
        let address = format!("{}{}", self.base, self.rest.fill(input)?);
        let url = Url::parse(&address)
            .map_err(|error| Failure::dead(format!("the webhook's address {address:?} is none: {error}")))?;
        let body = match &self.body {
            Some(template) => template.fill(input)?.into(),
            None => input.body.clone(),
        };
        Ok((url, body))
    }

    async fn send(&self, input: &Input, url: Url, body: Bytes) -> Result<Response, NoResponse> {
        let mut headers = self.headers.clone();
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let own_type = if self.body.is_some() { &self.content_type } else { &input.content_type };
        let (time, attempt) = (timestamp.to_string(), input.attempt.to_string());
        let parent = input.trace.as_ref().map(Trace::parent);
        let signature = self.signer.signature(&input.id, timestamp, &body);
        for (name, value) in [
            ("content-type", Some(own_type)),
            ("webhook-id", Some(&input.id)),
            ("webhook-timestamp", Some(&time)),
            ("webhook-signature", signature.as_ref()),
            ("tide-attempt", Some(&attempt)),
            ("tide-route", Some(&input.route)),
            ("tide-user", input.user.as_ref()),
            ("tide-method", input.method.as_ref()),
            ("tide-channel", input.channel.as_ref()),
            ("traceparent", parent.as_ref()),
        ] {
            // What no header can carry, such as a line break in a user's name, is left out.
            let value = value.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let request = self.http.request(self.method.clone(), url).headers(headers).body(body);
        let response = request.send().await.map_err(|error| no_response(&error))?;
        self.read(response).await
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Response, NoResponse> {
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let mut read = Response {
            status: status.as_u16(),
            retry_after: header(RETRY_AFTER).and_then(|text| retry_after(text, SystemTime::now())),
            content_type: header(CONTENT_TYPE).unwrap_or_default().to_owned(),
            location: header(LOCATION).map(str::to_owned),
            body: Bytes::new(),
        };
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| no_response(&error))? {
            if body.len() + chunk.len() > self.max_bytes {
                if status.is_success() {
                    let text = format!("the webhook's response is longer than {} bytes", self.max_bytes);
                    return Err(NoResponse::Impossible(text));
                }
                // Only a sign of what went wrong.
                break;
            }
            body.extend_from_slice(&chunk);
        }
        read.body = body.freeze();
        Ok(read)
    }

    fn conclude(&self, verdict: Verdict) -> Result<Answer, Failure> {
        let failure = match verdict {
            Verdict::Retry(error) => {
                self.failed(&error);
                return Err(Failure::retry(anyhow!(error)));
            }
            Verdict::Answer(answer) => Ok(answer),
            Verdict::Reject { code, message, data } => {
                let failure = Failure::reject(code, message);
                Err(if let Some(data) = data { failure.with_data(data) } else { failure })
            }
            Verdict::Dead(reason) => Err(Failure::dead(reason)),
            Verdict::Silence(wait) => Err(self.put_off(wait)),
            Verdict::Gone => {
                tracing::error!(
                    route = self.route,
                    "the webhook answered 410: the route takes no requests until this worker is started again"
                );
                self.gate.close();
                return Err(Failure::snooze(GONE));
            }
        };
        if self.breaker(Breaker::succeeded) {
            tracing::info!(route = self.route, "the webhook answers again");
            if !matches!(failure, Err(Failure::Snooze { .. })) {
                self.gate.open();
            }
        }
        failure
    }

    fn failed(&self, error: &str) {
        if let Some(time) = self.breaker(|breaker| breaker.failed(Instant::now())) {
            tracing::warn!(
                route = self.route,
                error,
                "the webhook keeps failing: the route takes no requests for {}",
                humantime::format_duration(time)
            );
            self.gate.close_for(time);
        }
    }

    /// Takes no further requests for this time, and gives this one back without using an attempt.
    fn put_off(&self, wait: Duration) -> Failure {
        let wait = wait.max(SHORTEST);
        self.gate.close_for(wait);
        Failure::snooze(wait)
    }

    fn breaker<T>(&self, decide: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = breaker.state();
        let decided = decide(&mut breaker);
        let now = breaker.state();
        if now != before {
            self.metrics.breaker(&Breaker::STATES, now);
        }
        decided
    }
}

fn language(content_type: &str) -> Language {
    let name = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if name == "application/json" || name.ends_with("+json") {
        Language::Json
    } else if name == "application/x-www-form-urlencoded" {
        Language::Url
    } else {
        Language::Text
    }
}

fn fixed_headers(settings: &config::Webhook) -> Result<HeaderMap, (String, String)> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let key = || format!("headers.{name}");
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| (key(), format!("{name:?} is not the name of a header")))?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| (key(), "has letters that no header can carry".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

/// Says why without the address, which may have data of the request.
fn no_response(error: &reqwest::Error) -> NoResponse {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    let mut deepest = String::new();
    while let Some(inner) = source {
        if let Some(refused) = inner.downcast_ref::<RefusedAddress>() {
            return NoResponse::Impossible(format!("the webhook's host is refused: {refused}"));
        }
        deepest = inner.to_string();
        source = inner.source();
    }
    let what = if error.is_timeout() {
        "did not answer in time"
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "broke the connection off"
    };
    NoResponse::Failed(format!("the webhook {what}: {deepest}"))
}
