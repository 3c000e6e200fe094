//! A connection's operations in flight: calls, publishes, joins being prepared; and what follows when one is done.
//!
//! An idle connection has none. Unsettled operations are counted here; the loop decides when to stop reading.

use std::{future::poll_fn, sync::Arc, task::Poll};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tidegate_shared::{
    broker::Passed,
    protocol::{self, HistoryResult, codes},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{Connection, End, catch_ups::CatchUps, now, prepare::Ready};
use crate::{
    channels::{feed::Start, hub::arriving::ArrivingGuard},
    policy::Verdict,
    requests::CallEnd,
    requests::{
        calls::{Settled, Wait},
        quota::Hold,
        store::{Publishing, Store},
        turn::{Turn, Turns},
    },
    session::{AskedAbout, Effects, Found, HookQuestion, ServerSubscription, Session},
};

/// Operations with large results that one connection runs at a time.
const LARGE: usize = 4;

/// The operations in flight of one connection.
pub(super) struct InFlight {
    pub(super) tasks: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The turns of operations with large results.
    large: Option<Arc<Semaphore>>,
    turns: Turns,
    /// Subscriptions whose backlog comes in parts.
    pub(super) catch_ups: CatchUps,
    /// Publications past the streams. Those that share a question to the broker are together.
    passed: Vec<PassedTogether>,
    /// How many operations are unsettled: publishes without acknowledgement, joins, and reads with large replies.
    pub(super) unsettled: usize,
    /// The turn of a publication that a back end has just decided on.
    turn: Option<PublishTurn>,
    /// The result that comes next. Here, since it is large: in the loop it would be a part of every connection.
    next: Option<Done>,
}

/// Publications of one connection that the broker confirms or does not, all together.
struct PassedTogether {
    number: u32,
    commands: Vec<u32>,
    passed: Passed,
}

/// The turn of a publish among those of its connection, and its deadline.
type PublishTurn = (Turn, Instant);

/// The result of an operation.
pub(super) enum Done {
    Settled {
        command: u32,
        settled: Settled,
        /// The request's place in its user's quota.
        hold: Option<Box<Hold>>,
    },
    Ended {
        command: u32,
        end: CallEnd,
    },
    Published {
        command: u32,
        result: Result<(), protocol::Error>,
    },
    /// The broker has answered for these publications, or cannot.
    Passed {
        number: u32,
        answered: bool,
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
        found: Result<Found, protocol::Error>,
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
    /// The next part of a backlog is read.
    NextPart {
        number: u32,
        part: Result<Start, protocol::Error>,
    },
    /// A large result. The next one is read when this one is in the outbox.
    Large {
        done: Box<Done>,
        turn: Option<OwnedSemaphorePermit>,
    },
}

impl InFlight {
    /// Runs an operation with a large result, on a task of its own: it goes on while a write to this client is blocked, so
    /// that it holds nothing that other connections wait for.
    pub(super) fn run_apart<T: Send + 'static>(
        &mut self,
        operation: impl Future<Output = Result<T, protocol::Error>> + Send + 'static,
        done: impl FnOnce(Result<T, protocol::Error>) -> Done + Send + 'static,
    ) {
        let turns = Arc::clone(self.large.get_or_insert_with(|| Arc::new(Semaphore::new(LARGE))));
        self.tasks.push(Box::pin(async move {
            let turn = turns.acquire_owned().await.ok();
            // Ends with the connection: a set that is dropped aborts its tasks.
            let mut apart = JoinSet::new();
            apart.spawn(operation);
            let result = match apart.join_next().await {
                Some(Ok(result)) => result,
                Some(Err(_)) | None => Err(codes::INTERNAL.error()),
            };
            Done::Large { done: Box::new(done(result)), turn }
        }));
    }
}

impl InFlight {
    /// Waits for the broker's answer, with the publications that wait for the same one.
    fn await_confirmation(&mut self, command: u32, passed: Passed, deadline: Instant) {
        let (passed, number) = match self.passed.last_mut() {
            Some(last) => match last.passed.join(passed) {
                Some(passed) => (passed, last.number.wrapping_add(1)),
                None => return last.commands.push(command),
            },
            None => (passed, 0),
        };
        let answered = timeout_at(deadline, passed.answered());
        self.tasks.push(Box::pin(async move {
            // What is not answered in time is as unconfirmed as what cannot be answered.
            Done::Passed { number, answered: answered.await.unwrap_or_default() }
        }));
        self.passed.push(PassedTogether { number, commands: vec![command], passed });
    }
}

impl Connection {
    /// Handles the result that `next_done` has announced.
    pub(super) fn finished_one(&mut self) -> Result<(), End> {
        let next = self.in_flight.as_mut().and_then(|in_flight| in_flight.next.take());
        next.map_or(Ok(()), |done| self.done(done))
    }

    fn done(&mut self, done: Done) -> Result<(), End> {
        let effects = match done {
            Done::Settled { command, settled, hold } => {
                self.settled_one();
                self.settled(command, settled, hold)
            }
            Done::Ended { command, end } => self.session.finished(command, end),
            Done::Published { command, result } => {
                self.settled_one();
                Session::published(command, result)
            }
            Done::Passed { number, answered } => return self.passed_together(number, answered),
            Done::Sent { result } => {
                self.settled_one();
                if result.is_err() { self.session.send_failed() } else { Vec::new() }
            }
            Done::Joinable { ticket, result } => {
                self.settled_one();
                match result {
                    Ok(ready) => {
                        self.subscribe(ticket, ready)?;
                        Vec::new()
                    }
                    Err(error) => self.session.not_subscribed(ticket, error),
                }
            }
            Done::Prepared { chosen, ready, arriving } => match ready {
                Ok(ready) => {
                    self.welcome(&chosen, ready)?;
                    // An order for the user finds the connection in the personal channel from now on.
                    drop(arriving);
                    Vec::new()
                }
                Err(_) => self.session.not_welcomed(now().instant),
            },
            Done::Members { command, found } => {
                self.settled_one();
                self.session.members_read(command, found)
            }
            Done::Verdict { about, verdict, turn } => {
                self.in_flight().turn = turn;
                let effects = self.session.verdict(about, verdict, now());
                self.perform(effects)?;
                // A refused publication passes its turn on.
                self.in_flight().turn = None;
                self.settled_one();
                Vec::new()
            }
            Done::Paged { command, page } => {
                self.settled_one();
                self.session.paged(command, page)
            }
            Done::NextPart { number, part } => self.send_part(number, part),
            Done::Large { done, turn } => {
                let flow = self.done(*done);
                drop(turn);
                return flow;
            }
        };
        self.rest();
        self.perform(effects)
    }

    /// Frees the memory of operations once there are none.
    fn rest(&mut self) {
        let idle = |in_flight: &InFlight| in_flight.tasks.is_empty() && in_flight.catch_ups.is_idle();
        if self.in_flight.as_deref().is_some_and(idle) {
            self.in_flight = None;
        }
    }

    fn settled(&mut self, command: u32, settled: Settled, hold: Option<Box<Hold>>) -> Effects {
        match settled {
            Settled::Ended(end) => self.session.finished(command, end),
            Settled::Stored(wait) => self.await_answer(command, wait, hold),
        }
    }

    pub(super) fn in_flight(&mut self) -> &mut InFlight {
        self.in_flight.get_or_insert_with(|| {
            Box::new(InFlight {
                tasks: FuturesUnordered::new(),
                large: None,
                turns: Turns::default(),
                catch_ups: CatchUps::default(),
                passed: Vec::new(),
                unsettled: 0,
                turn: None,
                next: None,
            })
        })
    }

    /// Counts one publish as unsettled, and gives it a turn behind those before it.
    pub(super) fn publish_turn(&mut self) -> (Arc<Store>, Turn, Instant) {
        let deadline = Instant::now() + self.shared.answer_timeout;
        let store = Arc::clone(&self.shared.store);
        let in_flight = self.in_flight();
        in_flight.unsettled += 1;
        let (turn, deadline) = in_flight.turn.take().unwrap_or_else(|| (in_flight.turns.next(), deadline));
        (store, turn, deadline)
    }

    /// Asks a back end. Counted as an unsettled operation. A publication keeps its turn behind those before it.
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

    /// Sends a publication at once if it passes the streams and nothing waits for its turn before it. Returns whether it is sent.
    pub(super) fn pass(&mut self, command: u32, publish: &Publishing) -> bool {
        let (store, timeout) = (Arc::clone(&self.shared.store), self.shared.answer_timeout);
        let in_flight = self.in_flight();
        // A publication that a back end has decided on has its turn already.
        if in_flight.turn.is_some() || !in_flight.turns.is_free() {
            return false;
        }
        let Some(passed) = store.pass(publish) else { return false };
        in_flight.unsettled += 1;
        in_flight.await_confirmation(command, passed, Instant::now() + timeout);
        true
    }

    fn passed_together(&mut self, number: u32, answered: bool) -> Result<(), End> {
        let Some(in_flight) = &mut self.in_flight else { return Ok(()) };
        let Some(at) = in_flight.passed.iter().position(|together| together.number == number) else {
            return Ok(());
        };
        let PassedTogether { commands, passed, .. } = in_flight.passed.remove(at);
        let result = self.shared.store.passed(&passed, commands.len(), answered);
        for command in commands {
            self.settled_one();
            self.perform(Session::published(command, result.clone()))?;
        }
        self.rest();
        Ok(())
    }

    fn await_answer(&mut self, command: u32, wait: Wait, mut hold: Option<Box<Hold>>) -> Effects {
        let store = Arc::clone(&self.shared.store);
        self.in_flight().tasks.push(Box::pin(async move {
            let end = store.finish(wait).await;
            if let Some(hold) = &mut hold {
                hold.ended(&end);
            }
            Done::Ended { command, end }
        }));
        Vec::new()
    }

    fn settled_one(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.unsettled -= 1;
            if in_flight.unsettled == 0 {
                in_flight.turns.rest();
            }
        }
    }
}

/// Completes when the next result is there. Pending forever while no operation is in flight, and while the outbox has no room
/// for a reply.
pub(super) fn next_done(
    in_flight: &mut Option<Box<InFlight>>,
    has_room: impl Fn() -> bool,
) -> impl Future<Output = ()> {
    poll_fn(move |cx| match in_flight {
        Some(in_flight) if has_room() => match in_flight.tasks.poll_next_unpin(cx) {
            Poll::Ready(Some(done)) => {
                in_flight.next = Some(done);
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        },
        // The connection writes what is queued, and asks again.
        _ => Poll::Pending,
    })
}
