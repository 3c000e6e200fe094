//! Storing the messages of one process in one stream: one by one, or, where the broker waits for its disk with each message, in
//! rounds. What gathers while a round is under way is the next one: a few messages one by one, many as an atomic batch.
//!
//! There is no timer and one round at a time ([`ahead`] sends the next one, and does not end it), so messages keep the order in which they are handed over, also when a batch fails.
//! Only a batch that the broker confirms counts. One that it refuses is divided ([`parts`]); whatever else becomes of it, each of its
//! messages is stored alone, in order, which tells what is wrong with it. That is harmless for messages that are stored once however often they are sent: each has an id by
//! which the broker knows it, or a subject of its own. Where only the last message of a batch has its id in the stream, the
//! whole batch is sent again instead ([`unsure`]). A batch has a price: where a message alone is cheap, none gather.
//! Never repeats a message that was stored alone: that is its caller's concern.

mod ahead;
mod pace;
mod parts;
mod room;
mod round;
mod unsure;

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout},
};

pub(super) use self::room::{Place, Room};
pub use self::round::ToCommit;
use self::{
    ahead::{Ahead, has_one_id},
    pace::{MEASURED, Pace},
    parts::{Part, Parts},
    round::{Held, Waiting},
};
use super::{
    Broker, Refusal, Sent, Stored,
    batch::{Begun, MOST, Together},
    headers_len,
};

/// The fewest messages of a batch: fewer are stored sooner one by one.
const FEWEST: usize = 16;
/// How long a round of messages that are stored one by one holds up the next one at most: as long as a few of them take on a slow
/// disk. One that hangs must not hold up the others for longer.
const ROUND_LIMIT: Duration = Duration::from_millis(50);
/// How long a round waits for the connection after it was lost, if its messages have no deadline.
const RECONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Stores messages in one stream.
#[derive(Debug)]
pub struct Committer {
    state: Arc<State>,
    queue: mpsc::Sender<Waiting>,
    _committing: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    broker: Broker,
    stream: String,
    pace: Mutex<Pace>,
    /// Set by tests.
    always: AtomicBool,
    /// Messages that are handed over and not sent yet.
    queued: AtomicUsize,
}

/// A message that has its place among those of its stream.
#[derive(Debug)]
pub struct Handed(Way);

#[derive(Debug)]
enum Way {
    Sent(Sent, Option<(Measured, Place)>),
    Waits(oneshot::Receiver<Result<Stored, Refusal>>),
}

impl Committer {
    /// Starts on this runtime, for a stream that takes batches. It ends with the value.
    pub fn start(broker: &Broker, stream: String) -> Self {
        // As many have a place, over all streams.
        let (queue, waits) = mpsc::channel(broker.in_flight);
        let state = Arc::new(State {
            broker: broker.clone(),
            stream,
            pace: Mutex::default(),
            always: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
        });
        let mut committing = JoinSet::new();
        let rounds = Rounds {
            state: Arc::clone(&state),
            waits,
            held: VecDeque::new(),
            settling: FuturesUnordered::new(),
            ahead: None,
        };
        committing.spawn(rounds.run());
        Self { state, queue, _committing: committing }
    }

    /// Lets messages gather from now on, however fast the broker is. For tests.
    pub fn gather_always(&self) {
        self.state.always.store(true, Ordering::Relaxed);
    }

    /// Gives a message its place behind all messages handed over before. Dropping the future before it ends takes the message
    /// back; afterwards it is stored, whether anybody waits for that or not.
    ///
    /// Refused while disconnected, as [`Broker::publish`] does.
    pub async fn hand_over(&self, commit: ToCommit) -> Result<Handed, Refusal> {
        let state = &self.state;
        if !state.broker.is_connected() {
            return Err(Refusal::Unavailable("not connected to NATS".to_owned()));
        }
        let place = state.broker.room.place().await?;
        if state.gathers() {
            let (_, headers, body) = &commit.message;
            state.broker.check_size(headers, body.len())?;
            match state.broker.room.bytes(headers_len(headers) + body.len()) {
                Some(bytes) => return self.queue(commit, Held { bytes, _place: place }),
                None if !state.broker.wait_when_full => return Err(Refusal::Busy),
                None => {}
            }
        }
        let (subject, headers, body) = commit.message;
        let measured = state.measure();
        let sent = state.broker.publish(subject, headers, body).await?;
        Ok(Handed(Way::Sent(sent, Some((measured, place)))))
    }

    fn queue(&self, commit: ToCommit, held: Held) -> Result<Handed, Refusal> {
        let place = self.queue.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(()) => Refusal::Unavailable("the process ends".to_owned()),
        })?;
        self.state.queued.fetch_add(1, Ordering::AcqRel);
        let (told, hears) = oneshot::channel();
        place.send(Waiting { commit, held, told });
        Ok(Handed(Way::Waits(hears)))
    }
}

impl From<Sent> for Handed {
    fn from(sent: Sent) -> Self {
        Self(Way::Sent(sent, None))
    }
}

impl Handed {
    /// What a caller is told that does not wait any longer.
    pub fn unacknowledged(&self) -> Refusal {
        match &self.0 {
            Way::Sent(sent, _) => sent.unacknowledged(),
            Way::Waits(_) => Refusal::Unknown,
        }
    }

    /// Waits for the broker's word.
    pub async fn stored(self) -> Result<Stored, Refusal> {
        match self.0 {
            Way::Sent(sent, measured) => {
                let stored = sent.stored().await;
                drop(measured);
                stored
            }
            Way::Waits(hears) => hears.await.unwrap_or(Err(Refusal::Unknown)),
        }
    }
}

impl State {
    /// Whether a message that comes now waits for a round. Behind one that waits, it does so in any case: else it would overtake
    /// that one.
    fn gathers(&self) -> bool {
        self.queued.load(Ordering::Acquire) > 0 || self.gathers_by_itself().0
    }

    /// Whether messages gather, and whether the next round should be measured.
    fn gathers_by_itself(&self) -> (bool, bool) {
        if self.always.load(Ordering::Relaxed) {
            return (true, false);
        }
        let (pace, now) = (self.pace.lock(), Instant::now());
        (pace.gathers(now), pace.is_due(now))
    }

    fn measure(self: &Arc<Self>) -> Measured {
        self.pace.lock().begin(Instant::now());
        Measured(Arc::clone(self))
    }
}

/// A message that is being stored alone.
#[derive(Debug)]
struct Measured(Arc<State>);

impl Drop for Measured {
    fn drop(&mut self) {
        self.0.pace.lock().end(Instant::now());
    }
}

/// Takes what waits, round after round.
struct Rounds {
    state: Arc<State>,
    waits: mpsc::Receiver<Waiting>,
    /// Taken, and not in a round yet.
    held: VecDeque<Waiting>,
    /// Messages that were sent alone.
    settling: FuturesUnordered<BoxFuture<'static, ()>>,
    /// The next round, before what is held.
    ahead: Option<Ahead>,
}

impl Rounds {
    async fn run(mut self) {
        while self.fill().await {
            let ahead = self.ahead.take().unwrap_or_else(|| Ahead { round: self.next_round(), begun: None });
            self.carry_out(ahead.round, ahead.begun).await;
        }
    }

    /// `begun` if it was sent ahead. As a batch that is never ended it is forgotten.
    async fn carry_out(&mut self, mut round: Vec<Waiting>, begun: Option<Begun>) {
        let (gathers, is_due) = self.state.gathers_by_itself();
        if is_due && round.len() >= MEASURED as usize {
            for waiting in round.drain(MEASURED as usize..).rev() {
                self.held.push_front(waiting);
            }
            let (count, since) = (round.len(), Instant::now());
            self.one_by_one(round, false, true).await;
            self.state.pace.lock().round_took(count, since.elapsed(), Instant::now());
            return;
        }
        if round.len() < FEWEST || !gathers {
            return self.one_by_one(round, false, gathers).await;
        }
        self.together(round, begun).await;
    }

    /// Stores a round as a batch. If it is refused, its parts.
    async fn together(&mut self, round: Vec<Waiting>, mut begun: Option<Begun>) {
        let (count, since) = (round.len(), Instant::now());
        let (mut parts, mut is_clear) = (Parts::of(round), true);
        while let Some(part) = parts.next() {
            let part = match part {
                Part::Together(part) => part,
                Part::Alone(part) => {
                    self.one_by_one(part, false, true).await;
                    continue;
                }
            };
            let one_id = has_one_id(&part);
            match self.store(&part, begun.take()).await {
                Together::Stored { last } => self.all_stored(part, last),
                // One of its messages is refused for itself: perhaps it is in the other half.
                Together::Known | Together::Refused(Refusal::Taken | Refusal::Rejected(_)) => {
                    parts.refused(part);
                }
                Together::Refused(_) => self.one_by_one(part, false, true).await,
                Together::Unknown if one_id => {
                    is_clear = false;
                    self.again(part).await;
                }
                Together::Unknown => {
                    is_clear = false;
                    self.reconnected(&part).await;
                    self.one_by_one(part, true, true).await;
                }
            }
        }
        // Those that were refused count too: else messages would gather whose batches are refused each time. A lost connection says
        // nothing.
        if is_clear {
            self.state.pace.lock().together(count, since.elapsed(), Instant::now());
        }
    }

    /// Takes what waits. `false` when nobody hands anything over any more.
    async fn fill(&mut self) -> bool {
        let mut taken = Vec::new();
        while self.held.is_empty() && self.ahead.is_none() {
            tokio::select! {
                count = self.waits.recv_many(&mut taken, MOST) => {
                    if count == 0 {
                        return false;
                    }
                    self.held.extend(taken.drain(..));
                }
                Some(()) = self.settling.next(), if !self.settling.is_empty() => {}
            }
        }
        self.take();
        true
    }

    fn take(&mut self) {
        while self.held.len() < MOST
            && let Ok(waiting) = self.waits.try_recv()
        {
            self.held.push_back(waiting);
        }
    }

    /// Sends each message alone, one behind the other. `maybe_stored` if an earlier try may have stored them: then no refusal says
    /// that they are not.
    async fn one_by_one(&mut self, round: Vec<Waiting>, maybe_stored: bool, settle: bool) {
        for mut waiting in round {
            let state = Arc::clone(&self.state);
            if waiting.commit.is_over(Instant::now()) {
                state.sent(1);
                waiting.tell(Err(if maybe_stored { Refusal::Unknown } else { Refusal::Busy }));
                continue;
            }
            let (subject, headers, body) = std::mem::take(&mut waiting.commit.message);
            let measured = state.measure();
            let sent = self.publish(subject, headers, body).await;
            state.sent(1);
            self.settling.push(Box::pin(async move {
                let stored = match sent {
                    Ok(sent) => sent.stored().await,
                    Err(refusal) => Err(refusal),
                };
                drop(measured);
                waiting.tell(stored.map_err(|refusal| certain(refusal, maybe_stored)));
            }));
        }
        if settle {
            // What has not settled in time goes on beside the next rounds.
            let _ = timeout(ROUND_LIMIT, async { while self.settling.next().await.is_some() {} }).await;
        }
    }

    /// Sends a message. Those before it settle meanwhile: this one may wait for their room.
    async fn publish(&mut self, subject: String, headers: HeaderMap, body: Bytes) -> Result<Sent, Refusal> {
        let broker = self.state.broker.clone();
        meanwhile(&mut self.settling, broker.publish(subject, headers, body)).await
    }
}

impl State {
    /// So many that waited for their round are on their way now.
    fn sent(&self, count: usize) {
        self.queued.fetch_sub(count, Ordering::AcqRel);
    }
}

/// Waits for something. Those that were sent alone are told meanwhile what the broker said.
async fn meanwhile<T>(
    settling: &mut FuturesUnordered<BoxFuture<'static, ()>>,
    something: impl Future<Output = T>,
) -> T {
    let mut something = pin!(something);
    loop {
        tokio::select! {
            biased;
            done = &mut something => return done,
            Some(()) = settling.next(), if !settling.is_empty() => {}
        }
    }
}

/// What a refusal says about a message that an earlier try may have stored.
fn certain(refusal: Refusal, maybe_stored: bool) -> Refusal {
    match refusal {
        Refusal::Taken => Refusal::Taken,
        _ if maybe_stored => Refusal::Unknown,
        refusal => refusal,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn who_has_an_acknowledgement_is_told_while_others_wait() {
        let (told, hears) = oneshot::channel();
        let mut settling = FuturesUnordered::<BoxFuture<'static, ()>>::new();
        settling.push(Box::pin(async move { told.send(7).unwrap() }));
        let hears = timeout(Duration::from_secs(10), hears);
        tokio::select! {
            () = meanwhile(&mut settling, pending::<()>()) => unreachable!("nothing ends this wait"),
            heard = hears => assert_eq!(heard.unwrap(), Ok(7)),
        }
    }
}
