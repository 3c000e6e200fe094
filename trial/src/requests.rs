//! Stores requests as gateways do, for scenarios that load workers without clients.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tidegate_shared::{
    broker::{Broker, Refusal, header_number},
    config::Config,
    envelope::{Answer, JSON, Request},
    id::{GatewayId, RequestId, random_token},
    route::Priority,
    subject::Subjects,
    topology,
    trace::Trace,
};
use tokio::time::{Instant, sleep};

/// Answers that are read at a time.
const PAGE: usize = 1000;
/// How long one request is tried to be stored, and the pause between two tries.
const STORE_LIMIT: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);
/// Publishes that may be unacknowledged.
const IN_FLIGHT: usize = 1024;

/// What kind of request it is. The answers to both are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// With a key, of this user: the worker looks for an earlier answer, and sends a live copy.
    Keyed(&'a str),
    /// Without one, of no user: nothing but the stored answer.
    Kept,
}

/// A connection as a gateway.
#[derive(Debug)]
pub(crate) struct Requests {
    gateway: Broker,
    subjects: Subjects,
    own: GatewayId,
    /// A part of each key, so that no run meets the answers of another.
    turn: String,
}

impl Requests {
    pub(crate) async fn connect(config: &Config) -> anyhow::Result<Self> {
        let gateway =
            Broker::connect(&config.nats, &config.nats.gateway, "trial gateway", IN_FLIGHT, true).await?;
        let (subjects, own, turn) = (config.subjects(), GatewayId::random(), random_token::<5>());
        Ok(Self { gateway, subjects, own, turn })
    }

    /// A request of a route, whose method has the route's name. `name` tells it from the route's others.
    pub(crate) fn of(&self, route: &str, kind: Kind<'_>, name: &str, body: impl Into<Bytes>) -> Request {
        let (id, user) = match kind {
            Kind::Keyed(user) => {
                let key = format!("{}.{name}", self.turn);
                (RequestId::keyed(user, route, &key), Some(user.to_owned()))
            }
            Kind::Kept => (RequestId::plain(&self.own), None),
        };
        Request {
            id,
            user,
            client: Some(format!("{}.trial", self.own.as_str())),
            route: route.to_owned(),
            method: Some(route.to_owned()),
            channel: None,
            info: None,
            channel_info: None,
            key: None,
            priority: Priority::Normal,
            later: kind == Kind::Kept,
            attempt: 0,
            accepted_at: 0,
            trace: Some(Trace::random()),
            content_type: JSON.to_owned(),
            body: body.into(),
        }
    }

    /// Stores requests, many at a time.
    pub(crate) async fn store(&self, requests: impl Iterator<Item = Request>) -> anyhow::Result<()> {
        let mut wanted = 0_usize;
        let sends = requests.inspect(|_| wanted += 1).map(|request| self.store_one(request));
        let stored = stream::iter(sends).buffer_unordered(IN_FLIGHT);
        let refused: Vec<_> = stored.filter_map(async |stored| stored.err()).collect().await;
        ensure!(
            refused.is_empty(),
            "{} of {wanted} requests were not stored: {:?}",
            refused.len(),
            refused.first()
        );
        Ok(())
    }

    /// Repeats what a busy broker does not acknowledge in time, as gateways do.
    async fn store_one(&self, request: Request) -> Result<(), Refusal> {
        let subject = self.subjects.request(&request.address());
        let deadline = Instant::now() + STORE_LIMIT;
        loop {
            let stored = self.gateway.store(subject.clone(), request.headers(), request.body.clone()).await;
            match stored {
                // The subject is this request's alone.
                Ok(_) | Err(Refusal::Taken) => return Ok(()),
                Err(refusal) if Instant::now() >= deadline => return Err(refusal),
                Err(Refusal::Unknown | Refusal::Unavailable(_)) => sleep(AGAIN).await,
                Err(refusal) => return Err(refusal),
            }
        }
    }
}

/// How many answers are stored.
pub(crate) async fn answers(admin: &Broker) -> anyhow::Result<usize> {
    let answers = admin.fill(topology::REPLY).await?;
    Ok(usize::try_from(answers.last_seq + 1 - answers.first_seq)?)
}

/// Reads every stored answer, and counts those that fit.
pub(crate) async fn each_answer(
    admin: &Broker,
    config: &Config,
    mut fits: impl FnMut(Answer) -> bool,
) -> anyhow::Result<usize> {
    let (mut found, mut from) = (0, 1);
    let subject = config.subjects().all_replies();
    loop {
        let page = admin.range(topology::REPLY, &subject, from, PAGE).await.context("reading answers")?;
        let last = page.messages.last().and_then(|message| header_number(message, "Nats-Sequence"));
        for message in page.messages {
            let answer = Answer::read(&message.headers.unwrap_or_default(), message.payload)?;
            found += usize::from(fits(answer));
        }
        match last {
            Some(last) if page.more > 0 => from = last + 1,
            _ => return Ok(found),
        }
    }
}
