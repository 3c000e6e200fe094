//! What an attempt makes beside its answer: follow-ups, publications and schedules. They are stored before the answer, under ids of
//! the request's id and their names, so that a repeated attempt does not make a follow-up again, nor a publication within
//! `streams.duplicate_window`.

mod schedules;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tidegate_shared::{
    channel::Channel,
    enqueue::{Due, StoredRequest},
    envelope::{Request, one_line},
    header,
    topology::PARK,
};

use super::earlier::{self, Earlier};
use crate::{
    engine::Engine,
    follow_up::{FollowUp, RouteBook},
    names::Names,
    outlet::{NotStored, Outlet},
    publication::Publication,
    schedule::{ScheduleChange, SetSchedule, When},
    store::{self, Stored},
};

/// What one attempt at a request makes.
#[derive(Debug)]
pub(super) struct Made {
    engine: Arc<Engine>,
    request: Arc<Request>,
    /// Whether an earlier attempt may have stored the same.
    repeated: bool,
    /// How long the request waits when there is no room for a follow-up.
    pause: Duration,
    publications: Mutex<Names>,
    follow_ups: Mutex<Names>,
}

/// What goes with an answer and is not stored yet.
#[derive(Debug)]
pub(super) struct Rest {
    follow_ups: VecDeque<NewRequest>,
    publications: VecDeque<Message>,
}

/// A follow-up on its way to the broker.
#[derive(Debug)]
struct NewRequest {
    request: Request,
    due: Due,
    /// Its idempotency key, which other requests may use too.
    key: Option<String>,
    /// Whether a request with this id may have been stored before.
    maybe_known: bool,
}

/// A publication on its way to the broker.
#[derive(Debug)]
enum Message {
    Now { channel: String, subject: String, headers: HeaderMap, body: Bytes },
    Later { id: String, channel: Channel, publication: Box<Publication>, when: When },
}

impl Message {
    fn body(&self) -> &Bytes {
        match self {
            Self::Now { body, .. } => body,
            Self::Later { publication, .. } => &publication.data,
        }
    }
}

impl Rest {
    /// The bytes of all payloads.
    pub(super) fn bytes(&self) -> usize {
        let requests = self.follow_ups.iter().map(|one| one.request.body.len());
        requests.chain(self.publications.iter().map(|one| one.body().len())).sum()
    }
}

impl Made {
    pub(super) fn by(engine: &Arc<Engine>, request: &Arc<Request>, repeated: bool, pause: Duration) -> Self {
        Self {
            engine: Arc::clone(engine),
            request: Arc::clone(request),
            repeated,
            pause,
            publications: Mutex::new(Names::of("publications")),
            follow_ups: Mutex::new(Names::of("follow-ups")),
        }
    }

    /// Stores what goes with an answer. Nothing is stored if something in it is wrong in itself.
    pub(super) async fn store_all(
        &self,
        publications: Vec<Publication>,
        follow_ups: &[FollowUp],
    ) -> Result<(), NotStored> {
        let mut rest = self.prepare_all(publications, follow_ups)?;
        self.store_rest(&mut rest).await
    }

    /// Checks all of what goes with an answer: names, destinations, sizes.
    pub(super) fn prepare_all(
        &self,
        publications: Vec<Publication>,
        follow_ups: &[FollowUp],
    ) -> Result<Rest, NotStored> {
        let publications =
            publications.into_iter().map(|one| self.prepare_publication(one)).collect::<Result<_, _>>()?;
        let follow_ups = follow_ups.iter().map(|one| self.prepare(one)).collect::<Result<_, _>>()?;
        Ok(Rest { follow_ups, publications })
    }

    /// Stores what is not stored yet: the follow-ups, then the publications. A follow-up may find no room, and is then tried again
    /// by another attempt. Subscribers would get publications stored before it once more, when the broker has forgotten their ids.
    pub(super) async fn store_rest(&self, rest: &mut Rest) -> Result<(), NotStored> {
        while let Some(next) = rest.follow_ups.front() {
            self.store_follow_up(next).await?;
            rest.follow_ups.pop_front();
        }
        while let Some(next) = rest.publications.pop_front() {
            self.store_publication(next).await?;
        }
        Ok(())
    }

    fn prepare_publication(&self, publication: Publication) -> Result<Message, NotStored> {
        let name = lock(&self.publications).next(publication.name.as_deref(), &publication.channel);
        let name = name.map_err(NotStored::Never)?;
        let cannot = |reason: &dyn ToString| cannot_publish(&publication.channel, reason);
        let channel = self.channel(&publication).map_err(|why| cannot(&why))?;
        let id = format!("{}.p.{name}", self.request.id);
        if let Some(when) = When::once(publication.due) {
            publication.can_wait().map_err(|why| cannot(&why))?;
            return Ok(Message::Later { id, channel, publication: Box::new(publication), when });
        }
        let headers = self.headers_of(&publication, id)?;
        let checked = self.engine.broker.check_size(&headers, publication.data.len());
        checked.map_err(|refusal| cannot(&refusal))?;
        let subject = self.engine.subjects.channel(&channel);
        Ok(Message::Now { channel: publication.channel, subject, headers, body: publication.data })
    }

    fn headers_of(&self, publication: &Publication, id: String) -> Result<HeaderMap, NotStored> {
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, id);
        if let Some(trace) = &self.request.trace {
            trace.write(&mut headers);
        }
        if let Some(sender) = &publication.sender {
            for (name, value) in [
                (header::CLIENT, &sender.client),
                (header::USER, &sender.user),
                (header::INFO, &sender.info),
                (header::CHANNEL_INFO, &sender.channel_info),
            ] {
                if let Some(value) = value {
                    headers.insert(name, one_line(value));
                }
            }
        }
        for (name, value) in &publication.tags {
            let name = header::tag(name).map_err(|error| NotStored::Never(error.to_string()))?;
            headers.insert(name, one_line(value));
        }
        Ok(headers)
    }

    /// The channel of a publication. The error says why it has none.
    fn channel(&self, publication: &Publication) -> Result<Channel, String> {
        let channel = Channel::parse(&publication.channel).map_err(|error| error.to_string())?;
        // No stream takes a channel of an unknown namespace, and the broker reports that as if it were unavailable.
        if !self.engine.namespaces.iter().any(|namespace| namespace == channel.namespace()) {
            return Err(format!("there is no [[namespace]] {:?}", channel.namespace()));
        }
        Ok(channel)
    }

    async fn store_publication(&self, publication: Message) -> Result<(), NotStored> {
        match publication {
            Message::Now { channel, subject, headers, body } => {
                let parsed = Channel::parse(&channel).map_err(|error| cannot_publish(&channel, &error))?;
                let stored = self.engine.committers.publish(&parsed, subject, &headers, body).await;
                stored.map(drop).map_err(|error| cannot_publish(&channel, &error))
            }
            Message::Later { id, channel, publication, when } => {
                self.publish_later(id, channel, &publication, &when).await
            }
        }
    }

    fn prepare(&self, follow_up: &FollowUp) -> Result<NewRequest, NotStored> {
        let cannot = |reason: &dyn ToString| cannot_enqueue(follow_up.to.as_str(), reason);
        let name = lock(&self.follow_ups).next(follow_up.name.as_deref(), follow_up.to.as_str());
        let name = name.map_err(NotStored::Never)?;
        let Engine { config, clock, subjects, broker, .. } = &*self.engine;
        let book = RouteBook { routes: &config.routes, longest_user: config.longest_user_id() };
        let now = clock.about_now();
        let request = follow_up.request(&self.request, &name, &book, now);
        let request = request.map_err(|refused| cannot(&refused))?;
        // The message has more headers than the request. Its length is the same at every time.
        let StoredRequest { headers, body, .. } =
            request.stored(subjects, time_of(follow_up.due, now), request.id.as_str());
        broker.check_size(&headers, body.len()).map_err(|refusal| cannot(&refusal))?;
        let key = follow_up.key.clone();
        // Other requests may have used the key. And the ids of follow-ups repeat if their request does: it has a key that may be used
        // again when its answer is gone, sooner than that of a follow-up that was due later.
        let maybe_known = self.repeated || key.is_some() || self.request.id.is_keyed();
        Ok(NewRequest { request, due: follow_up.due, key, maybe_known })
    }

    /// Stores a follow-up unless the broker has it. Its subject takes no second copy; but the first may be parked or answered, or wait
    /// in the other lane.
    async fn store_follow_up(&self, follow_up: &NewRequest) -> Result<(), NotStored> {
        let NewRequest { request, due, key, maybe_known } = follow_up;
        let Engine { broker, subjects, clock, committers, .. } = &*self.engine;
        if *maybe_known && self.is_known(follow_up).await? {
            return Ok(());
        }
        let now = match due {
            Due::After(_) => clock.now(broker, PARK, &request.route).await,
            Due::Now | Due::At(_) => clock.about_now(),
        };
        let stored = request.stored(subjects, time_of(*due, now), request.id.as_str());
        let StoredRequest { subject, headers, body } = stored;
        let route = &request.route;
        let storing = async {
            match due {
                Due::Now => committers.enqueue(route, &subject, &headers, body).await,
                Due::After(_) | Due::At(_) => {
                    store::store_unless_full(broker, &subject, &headers, &body).await
                }
            }
        };
        match storing.await {
            // Another request with its key may have come in between.
            Ok(Some(Stored::Already)) if key.is_some() => self.is_known(follow_up).await.map(drop),
            Ok(Some(Stored::New | Stored::Already)) => Ok(()),
            Ok(None) => {
                let reason = format!("the stream of the route {route:?} is full: no follow-up fits");
                Err(NotStored::Full { reason, after: self.pause })
            }
            Err(rejected) => {
                Err(NotStored::Never(format!("cannot enqueue for the route {route:?}: {rejected}")))
            }
        }
    }

    /// Whether the broker has the follow-up. An error if its key belongs to a request with another body. Without a key the earlier
    /// one counts: an attempt that is repeated may make another body under the same name.
    async fn is_known(&self, follow_up: &NewRequest) -> Result<bool, NotStored> {
        let NewRequest { request, key, .. } = follow_up;
        match (earlier::look_for(&self.engine, request).await, key) {
            (Earlier::Nothing, _) => Ok(false),
            (Earlier::AnotherBody, Some(key)) => {
                let to = request.method.as_deref().unwrap_or(&request.route);
                let reason = format!("the key {key:?} belongs to a request with another body");
                Err(cannot_enqueue(to, &reason))
            }
            (Earlier::AnotherBody | Earlier::SameBody, _) => Ok(true),
        }
    }
}

/// When a follow-up is due. `None` for one that does not wait.
fn time_of(due: Due, now: SystemTime) -> Option<SystemTime> {
    match due {
        Due::Now => None,
        Due::After(delay) => Some(now + delay),
        Due::At(time) => Some(time),
    }
}

fn cannot_publish(channel: &str, reason: &dyn ToString) -> NotStored {
    NotStored::Never(format!("cannot publish to {channel:?}: {}", reason.to_string()))
}

fn cannot_enqueue(to: &str, reason: &dyn ToString) -> NotStored {
    NotStored::Never(format!("cannot enqueue for {to:?}: {}", reason.to_string()))
}

impl Outlet for Made {
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), NotStored>> {
        Box::pin(async move {
            let prepared = self.prepare_publication(publication)?;
            self.store_publication(prepared).await
        })
    }

    fn enqueue(&self, follow_up: FollowUp) -> BoxFuture<'_, Result<String, NotStored>> {
        Box::pin(async move {
            let prepared = self.prepare(&follow_up)?;
            let id = prepared.request.id.to_string();
            self.store_follow_up(&prepared).await?;
            Ok(id)
        })
    }

    fn set_schedule(&self, set: SetSchedule) -> BoxFuture<'_, Result<ScheduleChange, NotStored>> {
        Box::pin(self.set(set))
    }

    fn remove_schedule(&self, name: String) -> BoxFuture<'_, Result<bool, NotStored>> {
        Box::pin(async move { self.remove(&name).await })
    }
}

fn lock(names: &Mutex<Names>) -> MutexGuard<'_, Names> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
