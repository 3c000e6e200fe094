//! What a connection has under way: calls, publishes, preparations; and what follows when one of them is done.
//!
//! An idle connection has none of it. How much may be in flight is counted here; what that means for reading is the loop's.

use std::sync::Arc;

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tidegate_shared::protocol::{self, HistoryResult, PresenceResult};
use tokio::time::Instant;

use super::{Connection, End, now, prepare::Ready};
use crate::{
    channels::hub::arriving::Arrival,
    policy::Verdict,
    requests::CallEnd,
    requests::{
        store::{Settled, Store},
        turn::{Turn, Turns},
    },
    session::{Ask, Chosen, Matter, Question, Session},
};

/// What is under way for one connection; an idle one has none.
pub(super) struct Work {
    pub(super) tasks: FuturesUnordered<BoxFuture<'static, Done>>,
    turns: Turns,
    /// How many of the tasks are publishes that are not settled.
    pub(super) in_flight: usize,
    /// The place of a publication that has been decided on.
    slot: Option<Slot>,
}

/// The place of a publish among those of its connection, and until when it may take.
type Slot = (Turn, Instant);

/// Something that was under way and is done.
pub(super) enum Done {
    Settled { command: u32, settled: Settled },
    Ended { command: u32, end: CallEnd },
    Published { command: u32, result: Result<(), protocol::Error> },
    Sent { result: Result<(), protocol::Error> },
    Received { ticket: u32, result: Result<Ready, protocol::Error> },
    Chosen { chosen: Vec<Chosen>, ready: Result<Vec<Ready>, protocol::Error>, arrival: Option<Arrival> },
    Present { command: u32, question: Question, members: Result<PresenceResult, protocol::Error> },
    Verdict { matter: Matter, verdict: Verdict, slot: Option<Slot> },
    Paged { command: u32, page: Result<Option<HistoryResult>, protocol::Error> },
}

impl Connection {
    pub(super) fn done(&mut self, done: Done) -> Result<(), End> {
        let effects = match done {
            Done::Settled { command, settled } => {
                self.landed();
                match settled {
                    Settled::Ended(end) => self.session.finished(command, end),
                    Settled::Stored(wait) => {
                        let store = Arc::clone(&self.shared.store);
                        self.work().tasks.push(Box::pin(async move {
                            Done::Ended { command, end: store.finish(wait).await }
                        }));
                        Vec::new()
                    }
                }
            }
            Done::Ended { command, end } => self.session.finished(command, end),
            Done::Published { command, result } => {
                self.landed();
                Session::published(command, result)
            }
            Done::Sent { result } => {
                self.landed();
                if result.is_err() { self.session.send_failed() } else { Vec::new() }
            }
            Done::Received { ticket, result } => match result {
                Ok(ready) => {
                    self.subscribe(ticket, ready)?;
                    Vec::new()
                }
                Err(error) => self.session.not_subscribed(ticket, error),
            },
            Done::Chosen { chosen, ready, arrival } => match ready {
                Ok(ready) => {
                    self.welcome(&chosen, ready)?;
                    // Whoever looks for the user finds the connection in the personal channel by now.
                    drop(arrival);
                    Vec::new()
                }
                Err(_) => self.session.not_welcomed(now().instant),
            },
            Done::Present { command, question, members } => {
                self.landed();
                self.session.present(command, question, members)
            }
            Done::Verdict { matter, verdict, slot } => {
                self.work().slot = slot;
                let effects = self.session.verdict(matter, verdict, now());
                self.perform(effects)?;
                // A publication that is refused passes its turn on.
                self.work().slot = None;
                self.landed();
                Vec::new()
            }
            Done::Paged { command, page } => {
                self.landed();
                self.session.paged(command, page)
            }
        };
        if self.work.as_ref().is_some_and(|work| work.tasks.is_empty()) {
            self.work = None;
        }
        self.perform(effects)
    }

    pub(super) fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_with(|| {
            Box::new(Work {
                tasks: FuturesUnordered::new(),
                turns: Turns::default(),
                in_flight: 0,
                slot: None,
            })
        })
    }

    /// Room for one publish: counted until it has landed, in turn behind those before it.
    pub(super) fn publish_slot(&mut self) -> (Arc<Store>, Turn, Instant) {
        let deadline = Instant::now() + self.shared.answer_timeout;
        let store = Arc::clone(&self.shared.store);
        let work = self.work();
        work.in_flight += 1;
        let (turn, deadline) = work.slot.take().unwrap_or_else(|| (work.turns.next(), deadline));
        (store, turn, deadline)
    }

    /// Asks a back end. Counted as a publish that is not settled, and a publication keeps its place behind those before it.
    pub(super) fn ask_hook(&mut self, ask: Ask) {
        let Ask { event, mut question, matter } = ask;
        question.transport = self.transport.name();
        let slot = if matches!(matter, Matter::Publish { .. }) {
            let (_, turn, deadline) = self.publish_slot();
            Some((turn, deadline))
        } else {
            self.work().in_flight += 1;
            None
        };
        let shared = Arc::clone(&self.shared);
        self.work().tasks.push(Box::pin(async move {
            let verdict = shared.hooks.ask(event, &question).await;
            Done::Verdict { matter, verdict, slot }
        }));
    }

    fn landed(&mut self) {
        if let Some(work) = &mut self.work {
            work.in_flight -= 1;
            if work.in_flight == 0 {
                work.turns.rest();
            }
        }
    }
}

/// The next thing that is done; nothing while nothing is under way.
pub(super) async fn next_done(work: &mut Option<Box<Work>>) -> Done {
    match work {
        Some(work) => match work.tasks.next().await {
            Some(done) => done,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
