//! One client: its connection, its subscriptions and where it is in its channel.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use mio::{Registry, Token};

use super::{
    count::Count,
    dialect::{Dialect, Position, SUBSCRIPTION},
    frame::{self, Kind},
    order::{Channels, Host},
    seen::Seen,
    socket::{Input, Wire, messages},
};

mod events;

/// The longest head of the server's answer to the upgrade.
const LONGEST_HEAD: usize = 8192;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Offline,
    /// TCP, then the upgrade.
    Opening,
    Upgrading,
    Greeting,
    /// So many subscriptions are not answered.
    Subscribing(usize),
    Up,
}

/// A client.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) number: usize,
    pub(super) phase: Phase,
    wire: Option<Wire>,
    host: Arc<Host>,
    channels: Arc<Channels>,
    token: String,
    /// When it began to connect.
    begun: u64,
    /// Dials so far; it takes turns at the addresses.
    dials: usize,
    next_id: u32,
    /// Unanswered commands with their intended times.
    waiting: Vec<(u32, u64)>,
    /// Whether it has said who it is. NATS introduces itself twice.
    spoken: bool,
    session: Position,
    /// What NATS has sent of a message that is not complete.
    partial: Vec<u8>,
    position: Option<Position>,
    /// What it has of its channel.
    pub(super) seen: Seen,
    /// It was told that it cannot go on where it had been: the next publication is a new beginning.
    pub(super) anew: bool,
    /// When its connection ended; 0 if it is not back from there.
    pub(super) gone: u64,
    /// Failed dials since it was up.
    pub(super) failures: u32,
    /// Its deliveries are not those that are timed, because it reads slowly, or has.
    pub(super) apart: bool,
    /// Reads nothing by itself.
    pub(super) slow: bool,
    /// Publishes for `Order::Publish` and is none of the measured clients.
    pub(super) publisher: bool,
}

impl Link {
    pub(super) fn new(number: usize, host: Arc<Host>, channels: Arc<Channels>, token: String) -> Self {
        Self {
            number,
            phase: Phase::Offline,
            wire: None,
            host,
            channels,
            token,
            begun: 0,
            dials: 0,
            next_id: SUBSCRIPTION,
            waiting: Vec::new(),
            spoken: false,
            session: Position::default(),
            partial: Vec::new(),
            position: None,
            seen: Seen::default(),
            anew: false,
            gone: 0,
            failures: 0,
            apart: false,
            slow: false,
            publisher: false,
        }
    }

    /// The number of its channel; `None` if it has none, or several.
    pub(super) fn channel(&self) -> Option<usize> {
        (self.channels.count > 0 && self.channels.each <= 1).then(|| self.channels.first_of(self.number))
    }

    pub(super) fn channel_name(&self) -> String {
        self.channels.name(self.channels.first_of(self.number))
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Begins to connect.
    pub(super) fn dial(
        &mut self,
        registry: &Registry,
        token: Token,
        small: bool,
        now: u64,
    ) -> anyhow::Result<()> {
        let addresses = &self.host.addresses;
        // All begin at the first.
        let to = *addresses.get(self.dials % addresses.len().max(1)).context("a host without an address")?;
        self.dials += 1;
        self.begun = now;
        self.next_id = SUBSCRIPTION;
        self.spoken = false;
        self.partial.clear();
        self.wire = Some(Wire::dial(to, self.number, small, registry, token)?);
        self.phase = Phase::Opening;
        Ok(())
    }

    /// Ends the connection without a word.
    pub(super) fn drop_connection(&mut self) {
        self.wire = None;
        self.waiting.clear();
        self.phase = Phase::Offline;
    }

    /// The server has ended its side; what it has sent before is still to be read.
    pub(super) fn end(&mut self) {
        if let Some(wire) = &mut self.wire {
            wire.end();
        }
    }

    /// Writes a command; it leaves with the next `flush`.
    pub(super) fn ask(&mut self, intended: u64, command: impl FnOnce(Dialect, u32) -> String) {
        let dialect = self.host.dialect;
        let Some(wire) = &mut self.wire else { return };
        self.next_id = self.next_id.wrapping_add(1).max(SUBSCRIPTION + 1);
        dialect.frame(&command(dialect, self.next_id), wire.out());
        self.waiting.push((self.next_id, intended));
    }

    pub(super) fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.wire.as_mut().map_or(Ok(()), Wire::flush)
    }

    /// The socket can be written.
    pub(super) fn writable(&mut self) -> anyhow::Result<()> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        if self.phase == Phase::Opening && wire.established()? {
            let host = self.host.addresses.first().context("a host without an address")?;
            let request = Dialect::upgrade(&host.to_string(), &self.host.path);
            wire.out().extend_from_slice(request.as_bytes());
            self.phase = Phase::Upgrading;
        }
        wire.flush()
    }

    /// Reads all there is, at most `most` bytes. Returns false when the connection has ended.
    pub(super) fn readable(
        &mut self,
        buffer: &mut [u8],
        most: usize,
        count: &mut Count<'_>,
    ) -> anyhow::Result<bool> {
        let mut left = most;
        while left > 0 {
            let Some(wire) = &mut self.wire else { return Ok(false) };
            let wanted = left.min(buffer.len());
            let Some(space) = buffer.get_mut(..wanted) else { return Ok(true) };
            let (bytes, more) = match wire.read(space) {
                Input::Ended => return Ok(false),
                Input::More(bytes) => (bytes, true),
                Input::All(bytes) => (bytes, false),
            };
            let mut rest = std::mem::take(&mut wire.rest);
            let read = buffer.get(..bytes).unwrap_or_default();
            let taken = messages(&mut rest, read, |left| self.take(left, count));
            if let Some(wire) = &mut self.wire {
                wire.rest = rest;
            }
            taken?;
            left = left.saturating_sub(bytes);
            if !more {
                break;
            }
        }
        self.flush()?;
        Ok(true)
    }

    /// Takes the first message of what was read, if it is whole.
    fn take(&mut self, left: &[u8], count: &mut Count<'_>) -> anyhow::Result<usize> {
        if self.phase == Phase::Upgrading {
            return self.upgraded(left);
        }
        let Some(frame) = frame::first(left)? else { return Ok(0) };
        match frame.kind {
            Kind::Message if self.host.dialect == Dialect::Nats => self.nats(frame.body, count)?,
            Kind::Message => {
                let dialect = self.host.dialect;
                let mut failed = Ok(());
                dialect.read(frame.body, |event| {
                    if failed.is_ok() {
                        failed = self.event(event, count);
                    }
                })?;
                failed?;
            }
            Kind::Ping => {
                if let Some(wire) = &mut self.wire {
                    frame::pong(frame.body, wire.out());
                }
            }
            Kind::Pong => {}
            Kind::Close => {
                let code = frame.body.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                bail!("closed {code}");
            }
        }
        Ok(frame.length)
    }

    fn upgraded(&mut self, left: &[u8]) -> anyhow::Result<usize> {
        let Some(end) = memchr::memmem::find(left, b"\r\n\r\n") else {
            ensure!(left.len() < LONGEST_HEAD, "an endless answer to the upgrade");
            return Ok(0);
        };
        let status = left.get(9..12).unwrap_or_default();
        ensure!(status == b"101", "the upgrade is refused: {}", String::from_utf8_lossy(status));
        self.phase = Phase::Greeting;
        if !self.host.dialect.waits_for_server() {
            self.greet();
        }
        Ok(end + 4)
    }
}
