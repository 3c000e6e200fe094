//! Carries out the effects of the session, at once or as operations in flight. Decides nothing itself.

use std::sync::Arc;

use futures_util::FutureExt;
use tidegate_shared::{
    channel::Channel,
    config::AnswerMode,
    envelope::Request,
    protocol::{Error, HistoryRequest, codes},
};
use tokio::time::Instant;

use super::{Connection, End, in_flight::Done};
use crate::{
    channels::feed::Resume,
    requests::{CallEnd, calls::Settled, store::Publishing},
    session::{Effect, Effects, Found, PresenceQuery},
};

impl Connection {
    pub(super) fn perform(&mut self, effects: Effects) -> Result<(), End> {
        for effect in effects {
            self.carry_out(effect)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), End> {
        match effect {
            Effect::Reply(reply) => return self.reply(reply),
            Effect::Welcome { chosen } => self.begin(chosen)?,
            Effect::History { command, channel, ask } => self.read_history(command, channel, ask),
            Effect::Presence { command, channel, query } => self.read_members(command, channel, query),
            Effect::Call { command, mode, request } => {
                self.cancels |= self.shared.rules.cancels_when_gone(&request);
                let calling = self.call_within_quota(command, mode, request);
                self.in_flight().tasks.push(Box::pin(calling));
            }
            Effect::Own { command, request } => {
                let shared = Arc::clone(&self.shared);
                let deadline = Instant::now() + shared.answer_timeout;
                self.in_flight().tasks.push(Box::pin(async move {
                    let job = shared.store.own(&request, shared.rules.routes(), deadline).await;
                    let end = job.map_or_else(CallEnd::Failed, |job| CallEnd::Told(job.for_user()));
                    Done::Ended { command, end }
                }));
            }
            Effect::Ask(ask) => self.ask_hook(*ask),
            Effect::Publish { command, channel, data, info, tags } => {
                let publishing = Publishing { channel, data, info, tags };
                if self.pass(command, &publishing) {
                    return Ok(());
                }
                let (store, turn, deadline) = self.publish_turn();
                self.in_flight().tasks.push(Box::pin(async move {
                    let result = store.publish(&publishing, turn, deadline).await;
                    Done::Published { command, result }
                }));
            }
            Effect::Decide { command, request } => {
                let sending = self.store_within_quota(request);
                self.in_flight()
                    .tasks
                    .push(Box::pin(async move { Done::Published { command, result: sending.await } }));
            }
            Effect::Send { request } => {
                let sending = self.store_within_quota(request);
                self.in_flight().tasks.push(Box::pin(async move { Done::Sent { result: sending.await } }));
            }
            Effect::Join { ticket, channel, resume, or_refuse } => {
                self.prepare_to_join(ticket, channel, resume, or_refuse);
            }
            Effect::FetchKeys { issuer } => self.shared.keys.want(issuer),
            Effect::Leave { channel } => {
                self.registration.leave(&channel);
                self.forget_catch_up(&channel);
            }
            Effect::Close(disconnect) => return Err(End::Close(disconnect)),
        }
        Ok(())
    }

    fn prepare_to_join(&mut self, ticket: u32, channel: Channel, resume: Option<Resume>, or_refuse: bool) {
        let shared = Arc::clone(&self.shared);
        let member = self.session.member(&channel);
        let resumes = resume.is_some();
        let ready = async move { shared.ready(&channel, resume.as_ref(), or_refuse, member).await };
        let joinable = move |result| Done::Joinable { ticket, result };
        let in_flight = self.in_flight();
        // A client that subscribes and unsubscribes again and again waits for the joins it has begun.
        in_flight.unsettled += 1;
        if resumes {
            in_flight.run_apart(ready, joinable);
        } else {
            in_flight.tasks.push(Box::pin(ready.map(joinable)));
        }
    }

    /// Stores a request whose caller waits, within its user's quota.
    fn call_within_quota(
        &mut self,
        command: u32,
        mode: AnswerMode,
        request: Box<Request>,
    ) -> impl Future<Output = Done> + use<> {
        let (store, turn, deadline) = self.publish_turn();
        let hold = self.shared.quotas.hold(&request);
        async move {
            let mut hold = match hold {
                Ok(hold) => hold,
                Err(error) => {
                    let settled = Settled::Ended(CallEnd::Failed(error));
                    return Done::Settled { command, settled, hold: None };
                }
            };
            let settled = store.call(*request, mode, turn, deadline).await;
            if let Some(hold) = &mut hold {
                match &settled {
                    Settled::Ended(end) => hold.ended(end),
                    Settled::Stored(wait) if wait.is_new => hold.stored(),
                    Settled::Stored(_) => hold.over(),
                }
            }
            Done::Settled { command, settled, hold }
        }
    }

    /// Stores a request that nobody waits for, within its user's quota.
    fn store_within_quota(
        &mut self,
        request: Box<Request>,
    ) -> impl Future<Output = Result<(), Error>> + use<> {
        let (store, turn, deadline) = self.publish_turn();
        let hold = self.shared.quotas.hold(&request);
        async move {
            let mut hold = hold?;
            let result = store.send(*request, turn, deadline).await;
            if let (Some(hold), Err(error)) = (&mut hold, &result) {
                hold.failed(error);
            }
            result
        }
    }

    fn read_history(&mut self, command: u32, channel: Channel, ask: Box<HistoryRequest>) {
        let shared = Arc::clone(&self.shared);
        let in_flight = self.in_flight();
        // A page can be large, so it counts as an unsettled operation.
        in_flight.unsettled += 1;
        let page = async move {
            let history = &shared.channels.history;
            let page = history.page(&channel, &ask, history.limit()).await;
            page.map_err(|refusal| codes::INTERNAL.because(refusal))
        };
        in_flight.run_apart(page, move |page| Done::Paged { command, page });
    }

    fn read_members(&mut self, command: u32, channel: Channel, query: PresenceQuery) {
        let shared = Arc::clone(&self.shared);
        let in_flight = self.in_flight();
        // The members of a large channel are a large reply, so it counts as an unsettled operation.
        in_flight.unsettled += 1;
        let found = async move {
            let found = match query {
                PresenceQuery::Members => shared.presence.members(&channel).await.map(Found::Members),
                PresenceQuery::Count => shared.presence.count(&channel).await.map(Found::Count),
            };
            found.map_err(|refusal| codes::INTERNAL.because(refusal))
        };
        in_flight.run_apart(found, move |found| Done::Members { command, found });
    }
}
