//! What the broker has of a follow-up that was stored before, by an earlier attempt or under the same key: its answer, or a copy
//! that waits, runs or is parked.

use async_nats::Message;
use tidegate_shared::{
    envelope::{Request, get},
    header,
    id::body_digest,
    route::Priority,
    topology::request_stream,
};

use crate::{
    backoff::Pauses,
    engine::Engine,
    store::{self, FIRST_PAUSE},
};

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    Nothing,
    SameBody,
    AnotherBody,
}

impl Earlier {
    fn of(request: &Request, digest: Option<&str>) -> Self {
        let differs = digest.is_some_and(|digest| digest != body_digest(&request.body));
        if differs { Self::AnotherBody } else { Self::SameBody }
    }
}

/// Looks everywhere. A request is parked, or its answer is stored, before it leaves the stream of waiting requests: so that is where
/// to look first.
pub(super) async fn look_for(engine: &Engine, request: &Request) -> Earlier {
    let Engine { subjects, look_ups, .. } = engine;
    let waits = waiting(engine, request).await;
    let delivered = subjects.request(&request.address());
    let (answer, parked) = tokio::join!(
        look_ups.answer(subjects, &request.id),
        look_ups.parked(subjects, &request.id, &delivered),
    );
    if let Some(answer) = answer {
        return Earlier::of(request, answer.digest.as_deref());
    }
    let Some(copy) = waits.or(parked) else { return Earlier::Nothing };
    Earlier::of(request, copy.headers.as_ref().and_then(|headers| get(headers, header::DIGEST)))
}

/// The copy that waits for a worker or is worked on, in either lane.
async fn waiting(engine: &Engine, request: &Request) -> Option<Message> {
    let stream = request_stream(&request.route);
    let lanes = [Priority::Normal, Priority::High].map(|lane| request.address().with(lane));
    let lanes = lanes.map(|address| engine.subjects.request(&address));
    let [normal, first] = [&*lanes[0], &*lanes[1]];
    let mut pauses = Pauses::new(FIRST_PAUSE);
    loop {
        match engine.broker.last_of_each(&stream, &[normal, first]).await {
            Ok(found) => return found.messages.into_iter().next(),
            Err(refusal) => store::pause(&mut pauses, "look up", &refusal, normal).await,
        }
    }
}
