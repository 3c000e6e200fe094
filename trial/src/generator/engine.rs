//! The loop over epoll: one thread, no task per client. It keeps the clients, their timers and the connections that publish.
//!
//! What an order does is elsewhere: it calls `turn` and looks at what has happened.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    io::ErrorKind,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use mio::{Events, Poll, Token, event::Event};
use tidegate_cli::token::connection_token;
use tidegate_shared::config::{AuthConfig, Config, Secret};

use super::{
    alarm::Alarm,
    clock::{self, millis},
    count::Count,
    link::{Link, Phase},
    meter::Meter,
    order::{Channels, Cuts, Host},
    post::Post,
    seen::Seen,
    tally::Tally,
};

mod timers;

/// One read.
const BUFFER: usize = 1 << 18;
/// Tokens of the connections that publish begin here; those of clients are their numbers; the last one wakes the loop.
const POSTS: usize = 1 << 32;
pub(super) const WAKE: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);
/// One wait.
const LONGEST_WAIT: u64 = millis(1000);
/// How the SDKs come back.
const BACKOFF: (u64, u64) = (500, 20_000);
const TOKEN_TTL: Duration = Duration::from_hours(2);

/// What happens to a client at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Cut,
    Return,
    SlowRead,
}

/// The clients and everything around them.
#[derive(Debug)]
pub(super) struct Engine {
    poll: Poll,
    alarm: Alarm,
    events: Option<Events>,
    buffer: Vec<u8>,
    pub(super) links: Vec<Link>,
    pub(super) posts: Vec<Post>,
    pub(super) tally: Tally,
    /// What counts: from and until when.
    pub(super) from: u64,
    pub(super) until: u64,
    pub(super) delivered: u64,
    /// Clients that got an answer, and those that came up, since these were emptied.
    pub(super) answered: Vec<usize>,
    joined: Vec<usize>,
    timers: BinaryHeap<Reverse<(u64, usize, Due)>>,
    /// Clients that are to connect, and how many may do so at a time.
    pub(super) to_dial: VecDeque<usize>,
    pub(super) dialing: usize,
    pub(super) at_once: usize,
    pub(super) come_back: bool,
    pub(super) cuts: Option<Cuts>,
    slow_bytes: u64,
    pub(super) meter: Meter,
    /// The newest number of each channel.
    numbers: HashMap<String, Vec<u32>>,
}

impl Engine {
    pub(super) fn new() -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        Ok(Self {
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            events: Some(Events::with_capacity(4096)),
            buffer: vec![0; BUFFER],
            links: Vec::new(),
            posts: Vec::new(),
            tally: Tally::default(),
            from: 0,
            until: u64::MAX,
            delivered: 0,
            answered: Vec::new(),
            joined: Vec::new(),
            timers: BinaryHeap::new(),
            to_dial: VecDeque::new(),
            dialing: 0,
            at_once: usize::MAX,
            come_back: false,
            cuts: None,
            slow_bytes: 0,
            meter: Meter::default(),
            numbers: HashMap::new(),
        })
    }

    pub(super) fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Adds clients that are offline.
    pub(super) fn add(
        &mut self,
        host: &Host,
        first: usize,
        count: usize,
        channels: &Channels,
    ) -> anyhow::Result<()> {
        let (host, channels) = (Arc::new(host.clone()), Arc::new(channels.clone()));
        let auth = match &host.secret {
            Some(secret) => Some(auth(secret)?),
            None => None,
        };
        for number in first..first + count {
            let user = format!("u{number}");
            let token = match &auth {
                Some(auth) => connection_token(auth, &user, TOKEN_TTL, SystemTime::now())?,
                None => String::new(),
            };
            let mut link = Link::new(number, Arc::clone(&host), Arc::clone(&channels), token);
            let newest = link.channel().map_or(0, |channel| self.newest(&channels.prefix, channel));
            link.seen = Seen::up_to(newest);
            self.links.push(link);
        }
        Ok(())
    }

    /// The number of the newest publication in a channel.
    pub(super) fn newest(&self, prefix: &str, channel: usize) -> u32 {
        self.numbers.get(prefix).and_then(|numbers| numbers.get(channel)).copied().unwrap_or_default()
    }

    /// The number of the next publication in a channel.
    pub(super) fn next_number(&mut self, prefix: &str, channel: usize) -> u32 {
        if !self.numbers.contains_key(prefix) {
            self.numbers.insert(prefix.to_owned(), Vec::new());
        }
        let Some(numbers) = self.numbers.get_mut(prefix) else { return 0 };
        if numbers.len() <= channel {
            numbers.resize(channel + 1, 0);
        }
        numbers.get_mut(channel).map_or(0, |number| {
            *number += 1;
            *number
        })
    }

    pub(super) fn up(&self) -> usize {
        self.links.iter().filter(|link| link.phase == Phase::Up && !link.publisher).count()
    }

    /// The clients that are not up to date with their channels.
    pub(super) fn behind(&self) -> impl Iterator<Item = (usize, u32)> {
        // One that is offline gets what it has missed when it is back.
        let clients = self.links.iter().enumerate();
        let clients =
            clients.filter(|(_, link)| !link.publisher && link.phase != Phase::Offline && !link.anew);
        clients.filter_map(|(at, link)| {
            let newest = self.newest(&link.channels().prefix, link.channel()?);
            (link.seen.missing(newest) > 0).then_some((at, newest))
        })
    }

    /// Waits for sockets, until `deadline` at the longest, and lets everything happen that is due.
    pub(super) fn turn(&mut self, deadline: u64) -> anyhow::Result<()> {
        self.dial_some()?;
        let now = clock::now();
        let timer = self.timers.peek().map_or(u64::MAX, |Reverse((due, ..))| *due);
        let next = deadline.min(timer);
        let wait = if next <= now {
            Duration::ZERO
        } else {
            self.alarm.set(next.min(now + LONGEST_WAIT))?;
            Duration::from_nanos(2 * LONGEST_WAIT)
        };
        let mut events = self.events.take().context("a turn within a turn")?;
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let all = events.iter().try_for_each(|event| self.event(event));
        self.events = Some(events);
        all?;
        self.timers_due()?;
        self.joined_ones();
        self.meter.look(self.from, clock::now());
        Ok(())
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        match event.token() {
            WAKE | ALARM => Ok(()),
            Token(number) if number >= POSTS => {
                self.post_event(number - POSTS, event.is_writable(), event.is_readable())
            }
            Token(at) => {
                if event.is_read_closed()
                    && let Some(link) = self.links.get_mut(at)
                {
                    link.end();
                }
                self.link_event(at, event.is_writable(), event.is_readable());
                Ok(())
            }
        }
    }

    fn post_event(&mut self, at: usize, writable: bool, readable: bool) -> anyhow::Result<()> {
        let Some(post) = self.posts.get_mut(at) else { return Ok(()) };
        if writable {
            post.flush()?;
        }
        if readable {
            for refusal in post.readable(&mut self.buffer)? {
                self.tally.failures.note(refusal);
            }
        }
        Ok(())
    }

    fn link_event(&mut self, at: usize, writable: bool, readable: bool) {
        let Some(link) = self.links.get_mut(at) else { return };
        let mut result = if writable { link.writable().map(|()| true) } else { Ok(true) };
        if readable && result.is_ok() && !link.slow {
            result = self.read(at, usize::MAX);
        }
        self.judge(at, result);
    }

    fn read(&mut self, at: usize, most: usize) -> anyhow::Result<bool> {
        let Some(link) = self.links.get_mut(at) else { return Ok(true) };
        let mut count = Count {
            tally: &mut self.tally,
            now: clock::now(),
            from: self.from,
            until: self.until,
            delivered: &mut self.delivered,
            answered: &mut self.answered,
            joined: &mut self.joined,
        };
        link.readable(&mut self.buffer, most, &mut count)
    }

    /// Sends what a client has to send.
    pub(super) fn flush(&mut self, at: usize) {
        let result = self.links.get_mut(at).map_or(Ok(()), Link::flush).map(|()| true);
        self.judge(at, result);
    }

    /// A connection that has failed or ended is over.
    fn judge(&mut self, at: usize, result: anyhow::Result<bool>) {
        let why = match result {
            Ok(true) => return,
            Ok(false) => "a connection ended".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let Some(link) = self.links.get_mut(at) else { return };
        if link.phase == Phase::Offline {
            return;
        }
        if link.phase != Phase::Up {
            self.dialing = self.dialing.saturating_sub(1);
        }
        let publisher = link.publisher;
        link.drop_connection();
        link.failures += 1;
        if link.gone == 0 {
            link.gone = clock::now();
        }
        let failures = link.failures;
        self.tally.ended += 1;
        self.tally.failures.note(why);
        if self.come_back && !publisher {
            let (least, most) = BACKOFF;
            let step = least.saturating_mul(1 << failures.min(6)).min(most);
            let pause = rand::random_range(least..=step.max(least));
            self.at(clock::now() + millis(pause), at, Due::Return);
        }
    }

    fn at(&mut self, due: u64, at: usize, what: Due) {
        self.timers.push(Reverse((due, at, what)));
    }

    fn dial_some(&mut self) -> anyhow::Result<()> {
        while self.dialing < self.at_once {
            let Some(at) = self.to_dial.pop_front() else { break };
            self.dial(at)?;
        }
        Ok(())
    }

    pub(super) fn dial(&mut self, at: usize) -> anyhow::Result<()> {
        let Some(link) = self.links.get_mut(at) else { return Ok(()) };
        if link.phase != Phase::Offline {
            return Ok(());
        }
        let dialled = link.dial(self.poll.registry(), Token(at), link.slow, clock::now());
        self.dialing += 1;
        if dialled.is_err() && self.come_back {
            if let Some(link) = self.links.get_mut(at) {
                link.phase = Phase::Opening;
            }
            self.judge(at, dialled.map(|()| true));
            return Ok(());
        }
        dialled
    }

    fn joined_ones(&mut self) {
        for number in std::mem::take(&mut self.joined) {
            self.dialing = self.dialing.saturating_sub(1);
            if let (Some(cuts), Some(at)) = (self.cuts, self.place(number)) {
                self.cut_later(at, cuts);
            }
        }
    }

    /// Where the client with this number is.
    pub(super) fn place(&self, number: usize) -> Option<usize> {
        let first = self.links.first()?.number;
        number.checked_sub(first).filter(|at| *at < self.links.len())
    }

    /// The token of a connection that publishes.
    pub(super) fn post_token(number: usize) -> Token {
        Token(POSTS + number)
    }
}

/// A token of a user of this host; empty where none is needed.
pub(super) fn token(host: &Host, user: &str) -> anyhow::Result<String> {
    let Some(secret) = &host.secret else { return Ok(String::new()) };
    connection_token(&auth(secret)?, user, TOKEN_TTL, SystemTime::now())
}

fn auth(secret: &str) -> anyhow::Result<AuthConfig> {
    let mut auth = Config::load(None, &[])?.auth;
    auth.hmac_secret = Secret::new(secret);
    Ok(auth)
}
