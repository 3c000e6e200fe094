//! Carries out the effects of the session, at once or as operations in flight. Decides nothing itself.

use std::sync::Arc;

use futures_util::FutureExt;
use tidegate_shared::{
    channel::Channel,
    protocol::{HistoryRequest, codes},
};

use super::{Connection, End, in_flight::Done};
use crate::session::{Effect, Effects, PresenceQuery};

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
                let (store, turn, deadline) = self.publish_turn();
                self.in_flight().tasks.push(Box::pin(async move {
                    Done::Settled { command, settled: store.call(*request, mode, turn, deadline).await }
                }));
            }
            Effect::Ask(ask) => self.ask_hook(*ask),
            Effect::Publish { command, channel, data, info, tags } => {
                let (store, turn, deadline) = self.publish_turn();
                self.in_flight().tasks.push(Box::pin(async move {
                    Done::Published {
                        command,
                        result: store.publish(&channel, data, &info, &tags, (turn, deadline)).await,
                    }
                }));
            }
            Effect::Decide { command, request } => {
                let (store, turn, deadline) = self.publish_turn();
                self.in_flight().tasks.push(Box::pin(async move {
                    Done::Published { command, result: store.send(*request, turn, deadline).await }
                }));
            }
            Effect::Send { request } => {
                let (store, turn, deadline) = self.publish_turn();
                self.in_flight().tasks.push(Box::pin(async move {
                    Done::Sent { result: store.send(*request, turn, deadline).await }
                }));
            }
            Effect::Join { ticket, channel, resume, or_refuse } => {
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
            Effect::FetchKeys { issuer } => self.shared.keys.want(issuer),
            Effect::Leave { channel } => self.registration.leave(&channel),
            Effect::Close(disconnect) => return Err(End::Close(disconnect)),
        }
        Ok(())
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
        let members = async move {
            let members = shared.presence.members(&channel).await;
            members.map_err(|refusal| codes::INTERNAL.because(refusal))
        };
        in_flight.run_apart(members, move |members| Done::Members { command, query, members });
    }
}
