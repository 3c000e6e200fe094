//! The worker as a NATS service (ADR-32): it answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, so that `nats micro ls` lists it.
//!
//! Requests come from streams, so its endpoints are for show: nobody calls a route at its subject.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::Message;
use futures_util::StreamExt;
use serde_json::{Map, Value, json};
use tidegate_shared::{
    VERSION,
    id::random_token,
    subject::{SERVICES, Subjects},
};

use crate::{backoff::Pauses, engine::Engine, metrics::Totals};

/// The version of what workers and gateways agree on: subjects, headers and the order of a worker's steps.
const CONTRACT: &str = "1";
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A route as it is shown.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) route: String,
    pub(crate) subject: String,
}

/// A worker that others can list.
#[derive(Debug)]
pub(crate) struct Registration {
    engine: Arc<Engine>,
    name: String,
    id: String,
    started: SystemTime,
    endpoints: Vec<Endpoint>,
}

impl Registration {
    pub(crate) fn new(engine: &Arc<Engine>, endpoints: Vec<Endpoint>) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let service: String = engine.config.worker.service.chars().map(plain).collect();
        Self {
            engine: Arc::clone(engine),
            name: format!("tidegate-worker-{service}"),
            id: random_token::<10>(),
            started: engine.clock.about_now(),
            endpoints,
        }
    }

    /// Answers for as long as the future is polled.
    pub(crate) async fn serve(&self) -> Infallible {
        let mut pauses = Pauses::new(FIRST_PAUSE);
        loop {
            match self.engine.broker.client().subscribe(SERVICES).await {
                Ok(mut asked) => {
                    while let Some(question) = asked.next().await {
                        self.answer(question).await;
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot register as a NATS service: trying again"),
            }
            tokio::time::sleep(pauses.failed()).await;
        }
    }

    async fn answer(&self, question: Message) {
        let Some(inbox) = question.reply.filter(|reply| Subjects::is_inbox(reply)) else { return };
        let Some(answer) = self.about(&question.subject) else { return };
        if let Err(error) = self.engine.broker.client().publish(inbox, answer.to_string().into()).await {
            tracing::debug!(%error, "an answer about this worker could not be sent");
        }
    }

    /// The answer to a question on this subject. `None` if it is about another service.
    fn about(&self, subject: &str) -> Option<Value> {
        let mut words = subject.split('.').skip(1);
        let verb = words.next()?;
        if words.next().is_some_and(|name| name != self.name) || words.next().is_some_and(|id| id != self.id)
        {
            return None;
        }
        let endpoints = |more: &dyn Fn(&str) -> Value| -> Value {
            self.endpoints.iter().map(|endpoint| self.endpoint(endpoint, more(&endpoint.route))).collect()
        };
        Some(match verb {
            "PING" => self.head("ping", json!({})),
            "INFO" => {
                let described = endpoints(&|route| json!({"metadata": {"route": route}}));
                self.head(
                    "info",
                    json!({"description": "handles requests of Tidegate", "endpoints": described}),
                )
            }
            "STATS" => {
                let counted = endpoints(&|route| self.counts(route));
                let started = humantime::format_rfc3339_millis(self.started).to_string();
                self.head("stats", json!({"started": started, "endpoints": counted}))
            }
            _ => return None,
        })
    }

    fn counts(&self, route: &str) -> Value {
        let Totals { requests, errors, nanos } = self.engine.metrics.totals(route);
        let average = nanos.checked_div(requests).unwrap_or(0);
        json!({
            "num_requests": requests, "num_errors": errors, "last_error": "", "processing_time": nanos,
            "average_processing_time": average,
        })
    }

    fn head(&self, kind: &str, more: Value) -> Value {
        let config = &self.engine.config.worker;
        let routes: Vec<&str> = self.endpoints.iter().map(|endpoint| &*endpoint.route).collect();
        let head = json!({
            "type": format!("io.nats.micro.v1.{kind}_response"),
            "name": self.name,
            "id": self.id,
            "version": VERSION,
            "metadata": {
                "worker": self.engine.name, "service": config.service, "routes": routes.join(","), "contract": CONTRACT,
            },
        });
        merged(head, more)
    }

    fn endpoint(&self, endpoint: &Endpoint, more: Value) -> Value {
        let group = &self.engine.config.worker.service;
        merged(json!({"name": endpoint.route, "subject": endpoint.subject, "queue_group": group}), more)
    }
}

fn merged(head: Value, more: Value) -> Value {
    let (Value::Object(mut fields), Value::Object(more)) = (head, more) else {
        return Value::Object(Map::new());
    };
    fields.extend(more);
    Value::Object(fields)
}
