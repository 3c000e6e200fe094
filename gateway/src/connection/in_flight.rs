//! What a connection has under way: calls, publishes, preparations; and what follows when one of them is done.
//!
//! An idle connection has none of it. How much may be in flight is counted here; what that means for reading is the loop's.

use std::sync::Arc;

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tidegate_shared::protocol::{self, HistoryResult, PresenceResult};
use tokio::time::Instant;

use super::{Connection, End, now, prepare::Ready};
use crate::{
    channels::hub::arriving::ArrivingGuard,
    policy::Verdict,
    requests::CallEnd,
    requests::{
        store::{Settled, Store},
        turn::{Turn, Turns},
    },
    session::{AskedAbout, HookQuestion, PresenceQuery, ServerSubscription, Session},
};

/// What is under way for one connection; an idle one has none.
pub(super) struct InFlight {
    pub(super) tasks: FuturesUnordered<BoxFuture<'static, Done>>,
    turns: Turns,
    /// How many of the tasks are publishes that are not settled.
    pub(super) unsettled: usize,
    /// The place of a publication that has been decided on.
    turn: Option<PublishTurn>,
}

/// The place of a publish among those of its connection, and until when it may take.
type PublishTurn = (Turn, Instant);

/// Something that was under way and is done.
pub(super) enum Done {
    Settled {
        command: u32,
        settled: Settled,
    },
    Ended {
        command: u32,
        end: CallEnd,
    },
    Published {
        command: u32,
        result: Result<(), protocol::Error>,
    },
    Sent {
        result: Result<(), protocol::Error>,
    },
    Joinable {
        ticket: u32,
        result: Result<Ready, protocol::Error>,
    },
    Prepared {
        chosen: Vec<ServerSubscription>,
        ready: Result<Vec<Ready>, protocol::Error>,
        arriving: Option<ArrivingGuard>,
    },
    Members {
        command: u32,
        query: PresenceQuery,
        members: Result<PresenceResult, protocol::Error>,
    },
    Verdict {
        about: AskedAbout,
        verdict: Verdict,
        turn: Option<PublishTurn>,
    },
    Paged {
        command: u32,
        page: Result<Option<HistoryResult>, protocol::Error>,
    },
}

impl Connection {
    pub(super) fn done(&mut self, done: Done) -> Result<(), End> {
        let effects = match done {
            Done::Settled { command, settled } => {
                self.settle_one();
                match settled {
                    Settled::Ended(end) => self.session.finished(command, end),
                    Settled::Stored(wait) => {
                        let store = Arc::clone(&self.shared.store);
                        self.in_flight().tasks.push(Box::pin(async move {
                            Done::Ended { command, end: store.finish(wait).await }
                        }));
                        Vec::new()
                    }
                }
            }
            Done::Ended { command, end } => self.session.finished(command, end),
            Done::Published { command, result } => {
                self.settle_one();
                Session::published(command, result)
            }
            Done::Sent { result } => {
                self.settle_one();
                if result.is_err() { self.session.send_failed() } else { Vec::new() }
            }
            Done::Joinable { ticket, result } => match result {
                Ok(ready) => {
                    self.subscribe(ticket, ready)?;
                    Vec::new()
                }
                Err(error) => self.session.not_subscribed(ticket, error),
            },
            Done::Prepared { chosen, ready, arriving } => match ready {
                Ok(ready) => {
                    self.welcome(&chosen, ready)?;
                    // Whoever looks for the user finds the connection in the personal channel by now.
                    drop(arriving);
                    Vec::new()
                }
                Err(_) => self.session.not_welcomed(now().instant),
            },
            Done::Members { command, query, members } => {
                self.settle_one();
                self.session.members_read(command, query, members)
            }
            Done::Verdict { about, verdict, turn } => {
                self.in_flight().turn = turn;
                let effects = self.session.verdict(about, verdict, now());
                self.perform(effects)?;
                // A publication that is refused passes its turn on.
                self.in_flight().turn = None;
                self.settle_one();
                Vec::new()
            }
            Done::Paged { command, page } => {
                self.settle_one();
                self.session.paged(command, page)
            }
        };
        if self.in_flight.as_ref().is_some_and(|in_flight| in_flight.tasks.is_empty()) {
            self.in_flight = None;
        }
        self.perform(effects)
    }

    pub(super) fn in_flight(&mut self) -> &mut InFlight {
        self.in_flight.get_or_insert_with(|| {
            Box::new(InFlight {
                tasks: FuturesUnordered::new(),
                turns: Turns::default(),
                unsettled: 0,
                turn: None,
            })
        })
    }

    /// Room for one publish: counted until it has settle_one, in turn behind those before it.
    pub(super) fn publish_turn(&mut self) -> (Arc<Store>, Turn, Instant) {
        let deadline = Instant::now() + self.shared.answer_timeout;
        let store = Arc::clone(&self.shared.store);
        let in_flight = self.in_flight();
        in_flight.unsettled += 1;
        let (turn, deadline) = in_flight.turn.take().unwrap_or_else(|| (in_flight.turns.next(), deadline));
        (store, turn, deadline)
    }

    /// Asks a back end. Counted as a publish that is not settled, and a publication keeps its place behind those before it.
    pub(super) fn ask_hook(&mut self, ask: HookQuestion) {
        let HookQuestion { event, mut question, about } = ask;
        question.transport = self.transport.name();
        let turn = if matches!(about, AskedAbout::Publish { .. }) {
            let (_, turn, deadline) = self.publish_turn();
            Some((turn, deadline))
        } else {
            self.in_flight().unsettled += 1;
            None
        };
        let shared = Arc::clone(&self.shared);
        self.in_flight().tasks.push(Box::pin(async move {
            let verdict = shared.hooks.ask(event, &question).await;
            Done::Verdict { about, verdict, turn }
        }));
    }

    fn settle_one(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.unsettled -= 1;
            if in_flight.unsettled == 0 {
                in_flight.turns.rest();
            }
        }
    }
}

/// The next thing that is done; nothing while nothing is under way.
pub(super) async fn next_done(in_flight: &mut Option<Box<InFlight>>) -> Done {
    match in_flight {
        Some(in_flight) => match in_flight.tasks.next().await {
            Some(done) => done,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
