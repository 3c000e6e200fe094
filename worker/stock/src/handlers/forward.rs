//! `forward`: requests a service over core NATS. Requests of clients are kept and tried again although the service itself is in
//! no stream.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use async_nats::{HeaderMap, Message, Request, client::RequestErrorKind};
use tidegate_shared::{
    broker::Broker,
    config::{self, NatsConfig},
    header,
};
use tidegate_worker::{Answer, Failure};
use tokio::sync::OnceCell;

use super::answer;
use crate::input::Input;

/// The connection's place for acknowledged publishes, of which it makes none.
const IN_FLIGHT: usize = 1;
/// In the answer of a NATS service: that it is an error, with a code as in HTTP.
const ERROR_CODE: &str = "Nats-Service-Error-Code";
/// And its text.
const ERROR: &str = "Nats-Service-Error";

/// The connection that all routes with `forward` share. It is made with the first request.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    nats: Arc<NatsConfig>,
    broker: Arc<OnceCell<Broker>>,
}

/// One route.
#[derive(Debug)]
pub(crate) struct Forward {
    services: Services,
    settings: config::Forward,
}

impl Services {
    pub(crate) fn new(nats: &NatsConfig) -> Self {
        Self { nats: Arc::new(nats.clone()), broker: Arc::default() }
    }

    async fn broker(&self) -> anyhow::Result<&Broker> {
        let connect =
            Broker::connect(&self.nats, &self.nats.worker, "tidegate-worker forward", IN_FLIGHT, true);
        Box::pin(self.broker.get_or_try_init(|| connect)).await.context("connecting for `forward`")
    }
}

impl Forward {
    pub(crate) fn new(services: Services, settings: config::Forward) -> Self {
        Self { services, settings }
    }

    pub(crate) async fn call(&self, input: Input) -> Result<Answer, Failure> {
        let client = Box::pin(self.services.broker()).await?.client();
        let request = Request::new()
            .headers(headers(&input))
            .payload(input.body.clone())
            .timeout(Some(self.settings.timeout));
        match client.send_request(self.settings.subject.clone(), request).await {
            Ok(message) => answered(&message),
            Err(error) => {
                let subject = &self.settings.subject;
                Err(Failure::retry(match error.kind() {
                    RequestErrorKind::NoResponders => anyhow!("nobody serves {subject}"),
                    RequestErrorKind::TimedOut => anyhow!("the service on {subject} did not answer in time"),
                    _ => anyhow::Error::new(error).context(format!("requesting {subject}")),
                }))
            }
        }
    }
}

fn headers(input: &Input) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let attempt = input.attempt.to_string();
    for (name, value) in [
        (header::ID, Some(&input.id)),
        (header::ROUTE, Some(&input.route)),
        (header::ATTEMPT, Some(&attempt)),
        (header::CONTENT_TYPE, Some(&input.content_type)),
        (header::USER, input.user.as_ref()),
        (header::METHOD, input.method.as_ref()),
        (header::CHANNEL, input.channel.as_ref()),
    ] {
        // A value that no header can carry is left out.
        if let Some(value) = value.filter(|value| !value.contains(['\r', '\n'])) {
            headers.insert(name, value.as_str());
        }
    }
    if let Some(trace) = &input.trace {
        trace.write(&mut headers);
    }
    headers
}

/// What a service's answer means. The headers of an error are those that the `micro` libraries set.
fn answered(message: &Message) -> Result<Answer, Failure> {
    let header = |name| Some(message.headers.as_ref()?.get(name)?.as_str());
    if let Some(code) = header(ERROR_CODE) {
        let text = header(ERROR).filter(|text| !text.is_empty()).unwrap_or("the service refused the request");
        return Err(match code.parse::<u32>() {
            Ok(code @ (400..=407 | 409..=428 | 430..=499)) => Failure::reject(code, text),
            _ => Failure::retry(anyhow!("the service answered {code}: {text}")),
        });
    }
    let body = answer::json(message.payload.clone())
        .map_err(|why| Failure::dead(format!("the service's answer is {why}")))?;
    Ok(answer::plain(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: &[(&str, &str)], payload: &'static [u8]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "inbox".into(),
            reply: None,
            payload: payload.into(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn the_error_of_a_service_is_a_rejection_or_a_retry_by_its_code() {
        let error =
            |code| answered(&message(&[(ERROR_CODE, code), (ERROR, "no such bill")], b"")).unwrap_err();
        assert!(
            matches!(error("404"), Failure::Reject { code: 404, message, .. } if message == "no such bill")
        );
        for code in ["500", "429", "408", "1", "x"] {
            assert!(matches!(error(code), Failure::Retry { .. }), "{code}");
        }
        assert_eq!(&answered(&message(&[], b"plain")).unwrap().body[..], b"\"plain\"");
        assert!(matches!(answered(&message(&[], b"\xff")).unwrap_err(), Failure::Dead { .. }));
    }
}
