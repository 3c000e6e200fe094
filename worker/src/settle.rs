//! How one delivered request ends: with an answer, parked for its next attempt, or as a dead letter.
//!
//! The order of the steps is what a worker promises. Everything is stored, or confirmed by a gateway, before the acknowledgement;
//! and everything stored has an id derived from the request's, so a step that is repeated after a crash stores nothing twice.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use tidegate_shared::{
    config::Backoff,
    dead::Reason,
    envelope::{AnswerWay, Outcome, Request, Unreadable},
    header,
    lifecycle::Lifecycle,
    trace::{Trace, TraceId},
};

use crate::{
    backoff,
    delivery::Delivery,
    engine::{BoundRoute, Engine},
    exposed::ExposedRequest,
    failure::MAX_WAIT,
    fault::Point,
    inquiry,
    metrics::Ending,
    permit::Permit,
    places::Place,
    progress::Newest,
    store::{self, Rejected},
};

mod answering;
mod attempting;
mod bury;
mod caller;
mod earlier;
mod hand_on;
mod hand_over;
mod made;
mod messages;
mod place;
mod reporting;
mod snooze;
mod suspicion;

use self::suspicion::{Suspicion, Turn};
pub(crate) use self::{bury::bury_unreadable, place::queue_again, suspicion::may_be_exposed};

/// How long a request waits before its redelivery when even its dead letter is refused: doubled with every delivery, at most
/// an hour. The request is kept until an operator has mended the stream.
const REFUSED: Backoff = Backoff { base: Duration::from_mins(1), cap: Duration::from_hours(1) };

/// A failed request in the line of its ordering key waits there for its next attempt for at most so long. For a longer wait it is
/// parked, and those behind it overtake it.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

/// How a request is parked.
#[derive(Debug, Clone)]
pub(crate) struct Parked {
    /// How long it waits.
    pub(crate) delay: Duration,
    /// Attempts that count until then.
    attempt: u32,
    /// Tells the request's parked copies apart.
    mark: String,
    suspicion: Suspicion,
    /// How often it was snoozed until then.
    snoozes: u32,
}

/// One delivered request that is being settled.
#[derive(Debug)]
pub(crate) struct Settlement {
    engine: Arc<Engine>,
    route: Arc<BoundRoute>,
    delivery: Arc<Delivery>,
    request: Arc<Request>,
    trace: TraceId,
    permit: Permit,
    /// What the request's lost deliveries say about it.
    suspicion: Suspicion,
    /// Whether one more loss counts an attempt.
    exposed: Option<ExposedRequest>,
    /// Attempts that count and were begun before this delivery.
    attempts: u32,
    /// In a strict order: deliveries in a row that were lost.
    losses: u32,
    /// Set when the request waits for its next attempt in the line of its ordering key.
    held: Mutex<Option<Parked>>,
    /// How often it was snoozed before this delivery.
    snoozes: u32,
    /// What its handler reports.
    progress: Newest,
}

impl Settlement {
    /// Reads the delivered request. [`bury_unreadable`] is for a message that is not a request.
    pub(crate) fn new(
        engine: &Arc<Engine>,
        route: &Arc<BoundRoute>,
        delivery: &Arc<Delivery>,
    ) -> Result<Self, Unreadable> {
        let mut request = delivery.read()?;
        let trace = request.trace.get_or_insert_with(Trace::random).id();
        let request = Arc::new(request);
        let mut settlement = Self {
            engine: Arc::clone(engine),
            route: Arc::clone(route),
            delivery: Arc::clone(delivery),
            permit: Permit::default(),
            attempts: request.attempt,
            suspicion: Suspicion::of(delivery),
            exposed: None,
            losses: 0,
            held: Mutex::default(),
            snoozes: delivery.header(header::SNOOZES).and_then(|text| text.parse().ok()).unwrap_or(0),
            progress: Newest::after(delivery.header(header::PROGRESS)),
            request,
            trace,
        };
        settlement.attempts = settlement.attempts.saturating_add(settlement.lost_attempts());
        Ok(settlement)
    }

    /// Does everything that the request needs: the answer of an earlier delivery, an attempt, or a dead letter. `permit` is its
    /// place among those that the route works on.
    pub(crate) async fn settle(&self, permit: Place, lifecycle: &Lifecycle) -> Ending {
        self.permit.hold(permit);
        let running = self.engine.running.begin(
            &self.request.id,
            self.attempts,
            inquiry::now(&self.engine),
            self.caller(),
            self.progress.clone(),
        );
        // This check comes before the attempts are counted: a worker that ended between its answer and the acknowledgement has not
        // failed.
        if let Some(ending) = self.settled_before().await {
            return ending;
        }
        if self.is_caller_gone().await {
            return self.acknowledge(Ending::Cancelled).await;
        }
        // Attempts are counted before the handler runs, which also stops a request that crashes its workers.
        if self.attempts >= self.route.config.max_attempts {
            return self.bury(Reason::Crashed, "the worker ended during every attempt").await;
        }
        if self.is_too_old().await {
            let max_age = humantime::format_duration(self.route.config.max_age);
            let reason = format!("waited longer than max_age ({max_age})");
            return self.bury_after(self.attempts, Reason::TooOld, &reason, &reason).await;
        }
        let _alone = match self.turn(lifecycle).await {
            Turn::Begin(alone) => alone,
            Turn::Ended(ending) => return ending,
        };
        if self.attempts == 0 {
            self.engine.metrics.waited(self.route.name(), self.waited());
        }
        self.attempt(&running, lifecycle).await
    }

    /// Settles the request if it is answered, or if another copy of it is.
    async fn settled_before(&self) -> Option<Ending> {
        let (look_ups, subjects) = (&self.engine.look_ups, &self.engine.subjects);
        if self.request.id.is_keyed() && !self.delivery.was_parked() {
            // While a keyed request is parked, its subject among the waiting requests is free for another copy.
            let (answer, parked) = tokio::join!(
                look_ups.answer(subjects, &self.request.id),
                look_ups.is_parked(subjects, &self.request.id, self.delivery.subject()),
            );
            return match answer {
                Some(answer) => Some(self.answered_before(answer).await),
                None if parked => Some(self.acknowledge(Ending::AlreadyParked).await),
                None => None,
            };
        }
        // A plain request cannot have an answer before its first delivery, unless it was parked by a worker that was cut off while
        // it handed the answer over. Any other may have been cancelled.
        let may_be_answered = self.request.answer_way() == AnswerWay::Stored || self.may_have_begun();
        if may_be_answered { self.answered_already().await } else { None }
    }

    /// Whether the handler may have run for this request before.
    fn may_have_begun(&self) -> bool {
        self.attempts > 0 || self.delivery.was_parked() || self.delivery.earlier_deliveries() > 0
    }

    /// Brings the answer to the client, and acknowledges the request.
    async fn conclude(&self, outcome: Outcome, ending: Ending) -> Ending {
        let (Outcome::Ok(said) | Outcome::Error { data: said, .. }) = &outcome;
        let said = said.len();
        self.let_next_begin(said);
        match self.answer(outcome).await {
            Ok(()) => self.acknowledge(ending).await,
            // Another attempt would give the same answer: the client is told why it cannot have it.
            Err(Rejected::TooLarge { bytes, limit, .. }) => {
                let reason = format!(
                    "the answer is too large: it has {said} bytes, {bytes} with its headers, and the broker takes at most {limit}"
                );
                self.bury_because(Reason::Unstorable, &reason, &reason).await
            }
            Err(rejected @ Rejected::TooLong { .. }) => {
                let reason = rejected.to_string();
                self.bury_because(Reason::Unstorable, &reason, &reason).await
            }
            Err(Rejected::Other(reason)) => {
                self.bury(Reason::Unstorable, &format!("the answer cannot be stored: {reason}")).await
            }
        }
    }

    async fn retry(&self, class: Reason, reason: &str, after: Option<Duration>, ending: Ending) -> Ending {
        let reason = &*header::text(reason);
        let failed = self.attempts.saturating_add(1);
        let route = &self.route.config;
        tracing::warn!(
            request.id = %self.request.id, trace.id = %self.trace, route = route.name, attempt = self.attempts, reason, "an attempt failed"
        );
        if failed >= route.max_attempts {
            return self.bury(class, reason).await;
        }
        let delay = after.unwrap_or_else(|| backoff::delay(route.backoff, self.attempts, rand::random()));
        // An attempt that fails has not ended its worker. The same attempt of another life of the key has another place.
        let mark = format!("a{failed}.{}", self.delivery.place());
        let parked =
            Parked { delay, attempt: failed, mark, suspicion: Suspicion::None, snoozes: self.snoozes };
        self.park(parked, ending).await
    }

    /// Stores the request where it waits for its next delivery.
    async fn park(&self, mut parked: Parked, ending: Ending) -> Ending {
        parked.delay = parked.delay.min(MAX_WAIT);
        if self.keeps_its_place() {
            return self.keep_place(&parked, ending).await;
        }
        if self.holds_its_line(&parked, ending) {
            self.permit.release();
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(parked);
            return ending;
        }
        let delay = parked.delay;
        let Some(headers) = self.park_headers(&parked).await else {
            return self
                .bury(Reason::Unstorable, "the request came on a subject that is not a request's")
                .await;
        };
        let subject = self.engine.subjects.park(&self.request.id);
        match store::store(&self.engine.broker, subject, headers, self.request.body.clone()).await {
            Ok(_) => self.acknowledge(ending).await,
            // A parked copy has more headers than the request. The request waits where it is instead, which uses an attempt.
            Err(Rejected::TooLarge { .. }) => {
                self.delivery.nak(delay).await;
                ending
            }
            Err(rejected) => {
                self.bury(Reason::Unstorable, &format!("the next attempt cannot be scheduled: {rejected}"))
                    .await
            }
        }
    }

    /// Whether the request waits for its next attempt in the line of its ordering key.
    fn holds_its_line(&self, parked: &Parked, ending: Ending) -> bool {
        let short = parked.delay <= LONGEST_HOLD && ending != Ending::Returned;
        short && self.route.lines.as_ref().is_some_and(|lines| !lines.are_long())
    }

    /// How the request waits in its line, if its attempt ended so.
    pub(crate) fn held(&self) -> Option<Parked> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes the request to its next attempt after such a wait.
    pub(crate) fn resume(&mut self, held: &Parked) {
        self.attempts = held.attempt;
        self.suspicion = held.suspicion;
        self.snoozes = held.snoozes;
        // Its handler has run, and did not end the worker.
        self.exposed = None;
    }

    /// How long ago the gateway accepted the request, by the gateway's clock and the broker's.
    fn waited(&self) -> Duration {
        let now = self.engine.clock.about_now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_millis(self.request.accepted_at))
    }

    /// Counts the ending, then acknowledges the request: its end is in the metrics when it is gone from the stream.
    async fn acknowledge(&self, ending: Ending) -> Ending {
        // Nothing is stored for a request that nobody waits for: it is not at this step.
        if ending != Ending::Cancelled {
            self.engine.faults.reach(Point::BeforeAck, self.route.name(), &self.delivery).await;
        }
        self.delivery.count(&self.engine.metrics, self.route.name(), ending);
        self.delivery.ack(&self.engine.acks).await;
        ending
    }
}

/// Gives a request back whose dead letter the broker refuses.
async fn give_back_refused(delivery: &Delivery) {
    delivery.nak(backoff::delay(REFUSED, delivery.earlier_deliveries(), rand::random())).await;
}
