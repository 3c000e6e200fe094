//! Carries out orders, one after the other.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::{
    clock::{self, millis},
    dialect::Dialect,
    engine::Engine,
    link::{Link, Phase},
    mark::{self, Mark},
    order::{Channels, Cuts, Host, Order, Pace, Through, Verb},
    post::Post,
    schedule::Schedule,
    seen::Seen,
    tally::Tally,
};

/// How long clients may take to connect, and the last answers to come.
const CONNECT_LIMIT: u64 = millis(120_000);
const LAST_ANSWERS: u64 = millis(10_000);
/// A turn without anything to do.
const NAP: u64 = millis(20);
/// From one turn of a closed loop to the next, as a network card that gathers what comes before it interrupts. A generator that ran
/// for each frame would take the broker's core away from it a hundred thousand times a second.
const GATHER: Duration = Duration::from_millis(1);

impl Engine {
    /// Carries out one order.
    pub(super) fn carry_out(&mut self, order: Order) -> anyhow::Result<Tally> {
        self.tally = Tally::default();
        (self.from, self.until) = (0, u64::MAX);
        self.meter.reset();
        self.meter.look(0, 0);
        match order {
            Order::Watch { pids } => self.meter.pids = pids,
            Order::Connect { host, first, count, at_once, channels } => {
                let begin = self.links.len();
                self.add(&host, first, count, &channels)?;
                self.connect(begin..begin + count, at_once)?;
            }
            Order::Leave => self.leave(),
            Order::Forget => self.links.clear(),
            Order::Return { at_once } => self.connect(0..self.links.len(), at_once)?,
            Order::Ask { verb, pace, size, warm_ms, for_ms } => {
                self.ask(&verb, pace, size, (warm_ms, for_ms))?;
            }
            Order::Publish { through, channels, fan, pace, size, warm_ms, for_ms, most, cuts } => {
                self.open(&through)?;
                let publishing = Publishing { through, channels, fan, pace, size, most };
                self.publish(&publishing, (warm_ms, for_ms), cuts)?;
            }
            Order::Slow { bytes_per_second } => self.slow_one(bytes_per_second)?,
            Order::ComeBack => self.come_back = true,
            Order::Look | Order::End => {}
        }
        self.tally.up = self.up() as u64;
        Ok(std::mem::take(&mut self.tally))
    }

    fn leave(&mut self) {
        self.links.iter_mut().filter(|link| !link.publisher).for_each(Link::drop_connection);
    }

    fn connect(&mut self, which: std::ops::Range<usize>, at_once: usize) -> anyhow::Result<()> {
        self.at_once = at_once;
        let begin = clock::now();
        self.to_dial.extend(which);
        let deadline = begin + CONNECT_LIMIT;
        while (self.dialing > 0 || !self.to_dial.is_empty()) && clock::now() < deadline {
            self.turn(deadline)?;
        }
        // What was missed comes with the last answer, or behind it.
        let settled = clock::now() + LAST_ANSWERS;
        while self.behind().next().is_some() && clock::now() < settled {
            self.turn(clock::now() + NAP)?;
        }
        self.tally.nanos = clock::now() - begin;
        self.tally.cpu = self.meter.used();
        self.at_once = usize::MAX;
        self.settle_missing();
        Ok(())
    }

    /// What a client does not have by now it will not get.
    fn settle_missing(&mut self) {
        for at in 0..self.links.len() {
            let newest = self.links.get(at).and_then(|link| Some((&link.channels().prefix, link.channel()?)));
            let newest = newest.map_or(0, |(prefix, channel)| self.newest(prefix, channel));
            // Nothing was published since it was told.
            if let Some(link) = self.links.get_mut(at).filter(|link| link.anew && link.phase == Phase::Up) {
                link.anew = false;
                self.tally.told += link.seen.missing(newest);
                link.seen = Seen::up_to(newest);
            }
        }
        let behind: Vec<_> = self.behind().collect();
        for (at, newest) in behind {
            if let Some(link) = self.links.get_mut(at).filter(|link| link.phase == Phase::Up) {
                self.tally.missing += link.seen.missing(newest);
                link.seen = Seen::up_to(newest);
            }
        }
    }

    /// Connects the last client anew, with a small receive buffer, and then lets it read slowly.
    fn slow_one(&mut self, bytes_per_second: u64) -> anyhow::Result<()> {
        let at = self.links.len().checked_sub(1).context("no client")?;
        if let Some(link) = self.links.get_mut(at) {
            link.drop_connection();
            link.slow = true;
        }
        self.dial(at)?;
        if let Some(link) = self.links.get_mut(at) {
            link.slow = false;
        }
        let deadline = clock::now() + CONNECT_LIMIT;
        while self.links.get(at).is_some_and(|link| link.phase != Phase::Up) {
            ensure!(clock::now() < deadline, "the slow client does not come up");
            self.turn(clock::now() + NAP)?;
        }
        self.slow_down(at, bytes_per_second);
        Ok(())
    }

    fn begin(&mut self, pace: Pace, (warm_ms, for_ms): (u64, u64)) -> (u64, Option<Schedule>) {
        let now = clock::now();
        self.from = now + millis(warm_ms);
        let end = self.from + millis(for_ms);
        self.tally.nanos = millis(for_ms);
        self.delivered = 0;
        self.answered.clear();
        self.meter.reset();
        match pace {
            Pace::Window(_) => {
                self.until = end;
                (end, None)
            }
            Pace::Rate(rate) => (end, Some(Schedule::new(now, end, rate))),
        }
    }

    /// Clients ask, each its own.
    fn ask(&mut self, verb: &Verb, pace: Pace, size: usize, times: (u64, u64)) -> anyhow::Result<()> {
        let askers: Vec<usize> = (0..self.links.len())
            .filter(|at| self.links.get(*at).is_some_and(|link| link.phase == Phase::Up && !link.publisher))
            .collect();
        ensure!(!askers.is_empty(), "no client is connected");
        let (end, schedule) = self.begin(pace, times);
        match (pace, schedule) {
            (Pace::Window(window), _) => {
                for at in &askers {
                    (0..window).for_each(|_| self.ask_one(*at, verb, size, clock::now()));
                    self.flush(*at);
                }
                while clock::now() < end {
                    std::thread::sleep(GATHER);
                    self.turn(end)?;
                    // What was answered in one read is asked again in one write.
                    for answered in std::mem::take(&mut self.answered).chunk_by(usize::eq) {
                        if let Some(at) = answered.first().and_then(|number| self.place(*number)) {
                            for _ in answered {
                                self.ask_one(at, verb, size, clock::now());
                            }
                            self.flush(at);
                        }
                    }
                }
            }
            (Pace::Rate(_), Some(mut schedule)) => {
                let mut turns = askers.iter().cycle();
                while let Some(next) = schedule.next() {
                    while let Some(due) = schedule.take(clock::now()) {
                        let at = *turns.next().context("no client")?;
                        self.note_late(due);
                        self.ask_one(at, verb, size, due);
                        self.flush(at);
                    }
                    self.turn(schedule.next().unwrap_or(next))?;
                    self.answered.clear();
                }
            }
            (Pace::Rate(_), None) => {}
        }
        self.tally.cpu = self.meter.used();
        let last = clock::now() + LAST_ANSWERS;
        while self.links.iter().any(|link| link.unanswered() > 0) && clock::now() < last {
            self.turn(clock::now() + NAP)?;
        }
        let left: usize = self.links.iter().map(Link::unanswered).sum();
        if left > 0 {
            self.tally.failures.note_many("no answer", left as u64);
        }
        self.answered.clear();
        Ok(())
    }

    fn note_late(&mut self, due: u64) {
        if due >= self.from {
            self.tally.late.record_nanos(clock::now().saturating_sub(due));
        }
    }

    fn ask_one(&mut self, at: usize, verb: &Verb, size: usize, intended: u64) {
        let Some(link) = self.links.get(at).filter(|link| link.phase == Phase::Up) else { return };
        let number = match (verb, link.channel()) {
            (Verb::Publish, Some(channel)) => {
                let prefix = link.channels().prefix.clone();
                self.next_number(&prefix, channel)
            }
            _ => 0,
        };
        let data = mark::payload(Mark { nanos: intended, number }, size);
        let Some(link) = self.links.get_mut(at) else { return };
        match verb {
            Verb::Publish => {
                let channel = link.channel_name();
                link.ask(intended, |dialect, id| dialect.publish(id, &channel, &data));
            }
            Verb::Rpc(method) => {
                let asker = link.number;
                link.ask(intended, |_, id| {
                    Dialect::rpc(id, &method.replace("{k}", &format!("{asker}-{id}")), &data)
                });
            }
        }
        self.tally.sent += u64::from(intended >= self.from);
    }

    /// Opens what publishes, unless it is open.
    fn open(&mut self, through: &Through) -> anyhow::Result<()> {
        if *through == Through::Client {
            if self.links.last().is_some_and(|link| link.publisher) {
                return Ok(());
            }
            let last = self.links.last().context("no client is connected")?;
            let (host, number): (Host, _) = (last.host().clone(), last.number + 1);
            self.add(&host, number, 1, &Channels::default())?;
            let at = self.links.len() - 1;
            if let Some(link) = self.links.get_mut(at) {
                link.publisher = true;
            }
            self.dial(at)?;
            let deadline = clock::now() + CONNECT_LIMIT;
            while self.links.get(at).is_some_and(|link| link.phase != Phase::Up) {
                ensure!(clock::now() < deadline, "the client that publishes does not come up");
                self.turn(clock::now() + NAP)?;
            }
            return Ok(());
        }
        self.posts.clear();
        self.posts = Post::connect(through, self.registry(), Self::post_token)?;
        Ok(())
    }

    fn publish(
        &mut self,
        publishing: &Publishing,
        times: (u64, u64),
        cuts: Option<Cuts>,
    ) -> anyhow::Result<()> {
        self.cuts = cuts;
        if let Some(cuts) = cuts {
            (0..self.links.len()).for_each(|at| self.cut_later(at, cuts));
        }
        let (end, mut schedule) = self.begin(publishing.pace, times);
        let mut published = 0;
        while clock::now() < end && !publishing.is_enough(published) {
            while let Some(intended) = self.may_publish(publishing, schedule.as_mut(), published) {
                if !self.publish_one(publishing, published, intended)? {
                    break;
                }
                published += 1;
                if publishing.is_enough(published) {
                    break;
                }
            }
            self.turn(schedule.as_ref().and_then(Schedule::next).unwrap_or(end))?;
            self.answered.clear();
        }
        let measured = clock::now();
        self.tally.cpu = self.meter.used();
        self.cuts = None;
        self.speed_up();
        let last = clock::now() + LAST_ANSWERS;
        let expected = (published * publishing.fan) as u64;
        while clock::now() < last {
            let offline = self.links.iter().any(|link| link.phase != Phase::Up && !link.publisher);
            let unanswered = self.posts.iter().any(Post::is_waiting);
            let back = !offline || !(self.come_back || cuts.is_some());
            if self.behind().next().is_none() && !unanswered && back {
                break;
            }
            if self.delivered >= expected && publishing.fan > 0 && back && cuts.is_none() && !self.come_back {
                break;
            }
            self.turn(clock::now() + NAP)?;
        }
        if publishing.most > 0 {
            self.tally.nanos = measured.saturating_sub(self.from);
        }
        let away = self.links.iter().filter(|link| link.phase != Phase::Up && !link.publisher).count();
        if away > 0 && (self.come_back || cuts.is_some()) {
            self.tally.failures.note_many("not back at the end", away as u64);
        }
        self.settle_missing();
        self.answered.clear();
        self.posts.clear();
        Ok(())
    }

    /// Whether a publication may be sent, and the time it is meant to be.
    fn may_publish(
        &self,
        publishing: &Publishing,
        schedule: Option<&mut Schedule>,
        published: usize,
    ) -> Option<u64> {
        let now = clock::now();
        match (publishing.pace, schedule) {
            (Pace::Rate(_), Some(schedule)) => {
                let free = self.posts.is_empty() || self.posts.iter().any(Post::is_free);
                free.then(|| schedule.take(now)).flatten()
            }
            (Pace::Window(window), _) if publishing.fan > 0 => {
                let outstanding = ((published * publishing.fan) as u64).saturating_sub(self.delivered);
                (outstanding <= ((window.saturating_sub(1)) * publishing.fan) as u64).then_some(now)
            }
            (Pace::Window(window), _) => {
                let posts: usize = self.posts.iter().map(|post| post.unanswered).sum();
                let clients = self.links.last().filter(|link| link.publisher);
                (posts + clients.map_or(0, Link::unanswered) < window).then_some(now)
            }
            (Pace::Rate(_), None) => None,
        }
    }

    /// Sends a publication. False if nothing is free to send it.
    fn publish_one(&mut self, publishing: &Publishing, turn: usize, intended: u64) -> anyhow::Result<bool> {
        let channel = turn % publishing.channels.count.max(1);
        let name = publishing.channels.name(channel);
        let post = self.posts.iter().position(Post::is_free);
        if post.is_none() && publishing.through != Through::Client {
            return Ok(false);
        }
        self.note_late(intended);
        let number = self.next_number(&publishing.channels.prefix, channel);
        let data = mark::payload(Mark { nanos: intended, number }, publishing.size);
        if let Some(post) = post.and_then(|post| self.posts.get_mut(post)) {
            post.publish(&name, &data)?;
            post.flush()?;
        } else {
            let at = self.links.len() - 1;
            if let Some(link) = self.links.get_mut(at) {
                link.ask(intended, |dialect, id| dialect.publish(id, &name, &data));
            }
            self.flush(at);
        }
        self.tally.sent += u64::from(intended >= self.from);
        Ok(true)
    }
}

/// What is published.
#[derive(Debug)]
struct Publishing {
    through: Through,
    channels: Channels,
    fan: usize,
    pace: Pace,
    size: usize,
    most: usize,
}

impl Publishing {
    fn is_enough(&self, published: usize) -> bool {
        self.most > 0 && published >= self.most
    }
}
