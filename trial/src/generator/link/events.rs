//! What a client makes of what the server says.

use anyhow::bail;

use super::{Link, Phase};
use crate::generator::{
    count::Count,
    dialect::{self, Dialect, Event, GREETING},
    frame, mark,
    nats_text::{self, Part},
    socket::messages,
};

/// The error of a server that could not do it now.
const TEMPORARY: u32 = 100;

impl Link {
    pub(super) fn greet(&mut self) {
        let dialect = self.host.dialect;
        self.spoken = true;
        let greeting = dialect.greeting(&self.token, &self.session);
        if let Some(wire) = &mut self.wire {
            dialect.frame(&greeting, wire.out());
        }
    }

    /// The server knows the client: it subscribes.
    fn greeted(&mut self, session: Option<String>, count: &mut Count<'_>) {
        if self.phase != Phase::Greeting {
            return;
        }
        let resumed = session.is_some() && session.as_deref() == Some(&self.session.epoch);
        let was_here = !self.session.epoch.is_empty();
        if let Some(session) = session {
            self.session.epoch = session;
        }
        if resumed {
            // With its session the server has restored the subscriptions.
            count.tally.resumed += 1;
            return self.up(count);
        }
        if was_here {
            count.tally.not_resumed += u64::from(self.channels.recover);
        }
        let each = if self.channels.count == 0 { 0 } else { self.channels.each.max(1) };
        if each == 0 {
            return self.up(count);
        }
        self.phase = Phase::Subscribing(each);
        self.subscribe();
    }

    /// Asks for its channels.
    fn subscribe(&mut self) {
        let each = self.channels.each.max(1);
        let (dialect, first) = (self.host.dialect, self.channels.first_of(self.number));
        let position = self.position.as_ref().filter(|_| self.channels.recover && each == 1);
        let Some(wire) = &mut self.wire else { return };
        for number in first..first + each {
            let channel = self.channels.name(number % self.channels.count);
            dialect.frame(&dialect.subscribe(self.next_id, &channel, position), wire.out());
            self.next_id += 1;
        }
    }

    fn up(&mut self, count: &mut Count<'_>) {
        self.phase = Phase::Up;
        self.failures = 0;
        if !self.publisher {
            count.tally.joins.record_nanos(count.now.saturating_sub(self.begun));
        }
        if self.gone > 0 {
            count.tally.returns.record_nanos(count.now.saturating_sub(self.gone));
            self.gone = 0;
        }
        count.joined.push(self.number);
    }

    fn subscribed(&mut self, count: &mut Count<'_>) {
        match self.phase {
            Phase::Subscribing(2..) => {
                if let Phase::Subscribing(left) = &mut self.phase {
                    *left -= 1;
                }
            }
            Phase::Subscribing(_) => self.up(count),
            _ => {}
        }
    }

    pub(super) fn event(&mut self, event: Event<'_>, count: &mut Count<'_>) -> anyhow::Result<()> {
        match event {
            Event::Greeted { session } => self.greeted(session, count),
            Event::Subscribed { position, recovered, text } => {
                match recovered {
                    Some(true) => count.tally.resumed += 1,
                    Some(false) => {
                        count.tally.not_resumed += 1;
                        self.anew = true;
                    }
                    None => {}
                }
                self.publications(text, count);
                if position.is_some() {
                    self.position = position;
                }
                self.subscribed(count);
            }
            Event::Answered { .. } if matches!(self.phase, Phase::Subscribing(_)) => self.subscribed(count),
            Event::Answered { id } => self.answered(id, None, count),
            Event::Refused { id, code } if id == GREETING => bail!("connect refused: {code}"),
            Event::Refused { code: TEMPORARY, .. } if self.phase == Phase::Subscribing(1) => {
                // As the SDKs do. The server has taken its time before it refused.
                count.tally.failures.note("subscription refused for the time being, and tried again");
                self.subscribe();
            }
            Event::Refused { code, .. } if matches!(self.phase, Phase::Subscribing(_)) => {
                bail!("subscription refused: {code}")
            }
            Event::Refused { id, code } => self.answered(id, Some(code), count),
            Event::Publications(text) => self.publications(text, count),
            Event::Ping("") => self.greet(),
            Event::Ping(pong) => {
                if let Some(wire) = &mut self.wire {
                    frame::text(pong.as_bytes(), wire.out());
                }
            }
        }
        Ok(())
    }

    fn answered(&mut self, id: u32, error: Option<u32>, count: &mut Count<'_>) {
        let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == id) else {
            count.tally.failures.note("an answer to nothing");
            return;
        };
        let (_, intended) = self.waiting.swap_remove(at);
        count.answered.push(self.number);
        match error {
            Some(code) => count.tally.failures.note(format_args!("error {code}")),
            None if count.counts(intended) => {
                count.tally.answers.record_nanos(count.now.saturating_sub(intended));
            }
            None => {}
        }
    }

    fn publications(&mut self, text: &[u8], count: &mut Count<'_>) {
        let (dialect, tracked) = (self.host.dialect, self.channels.each <= 1);
        for (mark, behind) in mark::marks(text) {
            *count.delivered += 1;
            if count.counts(mark.nanos) && !self.apart {
                count.tally.deliveries.record_nanos(count.now.saturating_sub(mark.nanos));
            }
            if !tracked {
                continue;
            }
            if std::mem::take(&mut self.anew) {
                count.tally.told += self.seen.begin_at(mark.number);
            }
            if !self.seen.take(mark.number) {
                count.tally.twice += 1;
            }
            if self.channels.recover
                && let Some(offset) = dialect::offset_behind(dialect, behind)
            {
                let position = match dialect {
                    Dialect::SocketIo => &mut self.session,
                    _ => self.position.get_or_insert_default(),
                };
                position.offset.clear();
                position.offset.push_str(offset);
            }
        }
    }

    /// Reads what a frame adds to the stream of NATS.
    pub(super) fn nats(&mut self, body: &[u8], count: &mut Count<'_>) -> anyhow::Result<()> {
        let mut rest = std::mem::take(&mut self.partial);
        let read = messages(&mut rest, body, |left| {
            let Some((part, length)) = nats_text::first(left)? else { return Ok(0) };
            match part {
                Part::Info if self.spoken => {}
                Part::Info => self.greet(),
                Part::Ping => {
                    if let Some(wire) = &mut self.wire {
                        Dialect::Nats.frame("PONG\r\n", wire.out());
                    }
                }
                Part::Pong => match self.phase {
                    Phase::Greeting => self.greeted(None, count),
                    Phase::Subscribing(_) => self.subscribed(count),
                    _ => {
                        // Pongs come in the order of the pings.
                        let oldest = self.waiting.iter().map(|(id, _)| *id).min();
                        if let Some(id) = oldest {
                            self.answered(id, None, count);
                        }
                    }
                },
                Part::Message(text) => self.publications(text, count),
                Part::Refused => bail!("refused by NATS"),
                Part::Other => {}
            }
            Ok(length)
        });
        self.partial = rest;
        read
    }
}
