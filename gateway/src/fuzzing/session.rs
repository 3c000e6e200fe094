//! A session under any inputs at any times, in any order that a connection can bring them in.
//!
//! What must hold: it never panics; one reply for each command, or the end; nothing but owed replies after the end; joins and leaves of a
//! channel alternate, within the limit; what is due is done by one tick; every reply and every reason can be written.

mod inputs;

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use tidegate_shared::{
    channel::Channel,
    id::ClientId,
    protocol::{
        Command, Encoding, HistoryResult, PresenceResult, PresenceStatsResult, Reply, Verb,
        codes::{self, Disconnect},
        encode_reply, json, lenient, protobuf,
    },
};

use self::inputs::{START, command, pick, position, publication, verdict};
use crate::{
    outbox::order::Order,
    policy::{rules::Rules, tokens::Verifier},
    requests::CallEnd,
    session::{AskedAbout, Effect, Effects, Found, Now, PresenceQuery, ServerSubscription, Session},
};

/// The steps of one run.
const STEPS: usize = 200;
/// The longest reason that fits a close frame.
const MAX_REASON: usize = 123;
/// Effects of one input, for a session of few channels.
const MOST_EFFECTS: usize = 64;

/// The rules of a gateway without hooks, and of one whose back ends decide.
static RULES: LazyLock<(Arc<Rules>, Arc<Rules>)> = LazyLock::new(|| {
    let rules = |changes: &[(&str, &str)]| {
        let config = super::backend::deployment(changes);
        let verifier =
            Verifier::new(&config).unwrap_or_else(|_| unreachable!("the issuers of fuzz/gateway.toml"));
        Arc::new(Rules::new(&config, verifier, super::backend::gateway()))
    };
    (rules(&[]), rules(&[("auth.anonymous", "true"), ("hooks.connect", "true"), ("hooks.refresh", "true")]))
});

/// One input: who connects, and steps.
pub(super) fn session(input: &[u8]) {
    let mut input = Unstructured::new(input);
    // An input that is too short ends early.
    let _ = Run::begin(&mut input).and_then(|mut run| run.steps(&mut input));
}

/// A session and what its connection owes it.
struct Run {
    session: Session,
    encoding: Encoding,
    limits: (usize, usize),
    now: Now,
    /// Commands without a reply; a client may use an id twice.
    open: Vec<u32>,
    /// Commands that something outside the session will end.
    calls: Vec<u32>,
    publishes: Vec<u32>,
    pages: Vec<u32>,
    members: Vec<(u32, PresenceQuery)>,
    asked: Vec<AskedAbout>,
    tickets: Vec<(u32, Channel)>,
    welcome: Option<Vec<ServerSubscription>>,
    joined: BTreeSet<String>,
    over: bool,
}

impl Run {
    fn begin(input: &mut Unstructured<'_>) -> Result<Self> {
        let rules = Arc::clone(if input.arbitrary()? { &RULES.1 } else { &RULES.0 });
        let encoding = if input.arbitrary()? { Encoding::Json } else { Encoding::Protobuf };
        let now = Now { instant: Instant::now(), unix: Duration::from_secs(START) };
        let limits = (rules.limits.channels, rules.limits.max_waiting);
        let client = ClientId::parse("fuzz.client").expect("two plain tokens");
        Ok(Self {
            session: Session::new(rules, client, encoding, now.instant),
            encoding,
            limits,
            now,
            open: Vec::new(),
            calls: Vec::new(),
            publishes: Vec::new(),
            pages: Vec::new(),
            members: Vec::new(),
            asked: Vec::new(),
            tickets: Vec::new(),
            welcome: None,
            joined: BTreeSet::new(),
            over: false,
        })
    }

    fn steps(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..STEPS {
            self.step(input)?;
        }
        Ok(())
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=19_u8)? {
            0..=9 => {
                let command = command(input)?;
                self.say(command);
            }
            10 => self.wait(input)?,
            11 => self.frame(input)?,
            12 | 13 => self.prepare(input)?,
            14 => self.decide(input)?,
            15 => self.end_a_call(input)?,
            16 => self.read_something(input)?,
            17 => self.welcomes(input)?,
            18 => self.order(input)?,
            _ => self.rarely(input)?,
        }
        Ok(())
    }

    /// One command, unless it has to wait for the answer to `connect`.
    fn say(&mut self, command: Command) {
        if self.session.is_connecting() {
            return;
        }
        // A message gets no reply, whatever its id.
        let id = if matches!(command.clone().verb(), Verb::Send(_)) { 0 } else { command.id };
        let before = self.owed();
        if id > 0 {
            self.open.push(id);
        }
        let effects = self.session.handle(command, 0.5, self.now);
        let (told, asked) = (replies(&effects, id), before < self.owed() + promises(&effects));
        self.take(effects);
        assert!(id == 0 || self.over || told || asked, "command {id} is neither answered nor on its way");
    }

    fn owed(&self) -> usize {
        self.calls.len()
            + self.publishes.len()
            + self.pages.len()
            + self.members.len()
            + self.asked.len()
            + self.tickets.len()
    }

    fn wait(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let pause = Duration::from_millis(input.int_in_range(0..=40_000_u64)?);
        let reading = input.arbitrary()?;
        self.now.instant += pause;
        self.now.unix += pause;
        let effects = self.session.tick(self.now.instant, reading);
        self.take(effects);
        // Otherwise the connection's loop would turn without a pause.
        let next = self.session.next_timeout();
        assert!(next.is_none_or(|next| next > self.now.instant), "one tick does all that is due");
        assert_eq!(next.is_none(), self.over);
        Ok(())
    }

    /// A frame of the client's own bytes.
    fn frame(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let length = input.int_in_range(0..=200)?;
        let bytes = input.bytes(length.min(input.len()))?.to_vec();
        let commands: Vec<_> = match self.encoding {
            Encoding::Json => json::decode::<Command>(&String::from_utf8_lossy(&bytes)).collect(),
            Encoding::Protobuf => protobuf::decode(Bytes::from(bytes)).collect(),
        };
        for command in commands {
            let Ok(command) = command else {
                let effects = self.session.malformed();
                self.take(effects);
                return Ok(());
            };
            self.say(command);
        }
        Ok(())
    }

    /// A channel is ready to be joined, or cannot be.
    fn prepare(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let Some((ticket, channel)) = pick(&mut self.tickets, input)? else { return Ok(()) };
        let position = position(input)?;
        if input.ratio(1, 4)? {
            let effects = self.session.not_subscribed(ticket, codes::INTERNAL.error());
            self.take(effects);
            return Ok(());
        }
        let _ =
            (self.session.delivery(ticket), self.session.join_leave(ticket), self.session.member(&channel));
        let mut budget = self.session.budget();
        match self.session.subscribed(ticket, &channel, &position, &mut budget) {
            Some(Ok(granted)) => {
                assert!(self.joined.insert(channel.name().to_owned()), "{channel:?} is joined twice");
                let most = self.limits.0 + 1;
                assert!(self.joined.len() <= most, "the limit holds, the personal channel apart");
                self.take(vec![Effect::Reply(granted.told)]);
            }
            Some(Err(reply)) => self.take(vec![Effect::Reply(reply)]),
            None => {}
        }
        Ok(())
    }

    fn decide(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let Some(about) = pick(&mut self.asked, input)? else { return Ok(()) };
        let effects = self.session.verdict(about, verdict(input)?, self.now);
        self.take(effects);
        Ok(())
    }

    fn end_a_call(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if let Some(command) = pick(&mut self.calls, input)? {
            let end = match input.int_in_range(0..=2_u8)? {
                0 => CallEnd::Told(Bytes::from_static(b"{}")),
                1 => CallEnd::Accepted { id: "fuzz.1".into(), seq: Some(1), duplicate: false, answer: None },
                _ => CallEnd::Failed(codes::STILL_WORKING.error()),
            };
            let effects = self.session.finished(command, end);
            self.take(effects);
        }
        if let Some(command) = pick(&mut self.publishes, input)? {
            let result = if input.arbitrary()? { Ok(()) } else { Err(codes::NOT_ACCEPTED.error()) };
            self.take(Session::published(command, result));
        }
        Ok(())
    }

    fn read_something(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if let Some(command) = pick(&mut self.pages, input)? {
            let page = HistoryResult { publications: vec![publication(input)?], ..HistoryResult::default() };
            let page = [Ok(Some(page)), Ok(None), Err(codes::INTERNAL.error())];
            let effects = self.session.paged(command, input.choose(&page)?.clone());
            self.take(effects);
        }
        if let Some((command, query)) = pick(&mut self.members, input)? {
            let found = match query {
                PresenceQuery::Members => Found::Members(PresenceResult::default()),
                PresenceQuery::Count => Found::Count(PresenceStatsResult::default()),
            };
            let found = if input.arbitrary()? { Ok(found) } else { Err(codes::INTERNAL.error()) };
            let effects = self.session.members_read(command, found);
            self.take(effects);
        }
        Ok(())
    }

    fn welcomes(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let Some(chosen) = self.welcome.take() else { return Ok(()) };
        if input.ratio(1, 8)? {
            let effects = self.session.not_welcomed(self.now.instant);
            self.take(effects);
            return Ok(());
        }
        let mut budget = self.session.budget();
        let mut subs = Vec::new();
        for one in &chosen {
            subs.push(self.session.begins_with(one, &position(input)?, &mut budget).told);
        }
        let _: Vec<_> = chosen.iter().map(|one| self.session.member(&one.channel)).collect();
        if let Some(reply) = self.session.welcomed(subs) {
            assert!(!self.over, "nobody is welcomed after the end");
            for one in &chosen {
                assert!(self.joined.insert(one.channel.name().to_owned()), "{} twice", one.channel.name());
            }
            self.take(vec![Effect::Reply(reply)]);
        }
        Ok(())
    }

    fn order(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let channel = *input.choose(&inputs::CHANNELS)?;
        let action = match input.int_in_range(0..=7_u8)? {
            0..=2 => serde_json::json!({"subscribe": {"channel": channel, "info": {"n": 1}}}),
            3..=5 => {
                serde_json::json!({"unsubscribe": {"channel": channel, "code": 2000, "reason": "moved"}})
            }
            6 => serde_json::json!({"refresh": {"expire_at": START + u64::from(input.arbitrary::<u8>()?)}}),
            _ => serde_json::json!({"disconnect": {"code": 3503, "reason": "gone"}}),
        };
        let effects = self.session.ordered(&order_of(&action), self.now);
        self.take(effects);
        Ok(())
    }

    fn rarely(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let effects = match input.int_in_range(0..=9_u8)? {
            0 => self.session.shut_down(),
            1 => self.session.send_failed(),
            2 => self.session.malformed(),
            3..=6 => {
                // Channels that lose publications are joined ones.
                let joined: Vec<_> =
                    self.joined.iter().filter_map(|name| Channel::parse(name).ok()).collect();
                if joined.is_empty() {
                    return Ok(());
                }
                self.session.lost(input.choose(&joined)?)
            }
            _ => {
                self.session.ponged();
                Vec::new()
            }
        };
        self.take(effects);
        Ok(())
    }

    /// Checks effects, and remembers what they owe.
    fn take(&mut self, effects: Effects) {
        assert!(effects.len() <= MOST_EFFECTS, "{} effects of one input", effects.len());
        for effect in effects {
            assert!(!self.over || matches!(effect, Effect::Reply(_)), "{effect:?} after the end");
            match effect {
                Effect::Reply(reply) => self.reply(&reply),
                Effect::Call { command, request, .. } => {
                    assert!(request.user.as_deref().is_none_or(|user| user == "42" || user == "43"));
                    self.calls.push(command);
                }
                Effect::Own { command, .. } => self.calls.push(command),
                Effect::Publish { command, .. } | Effect::Decide { command, .. } => {
                    self.publishes.push(command);
                }
                Effect::History { command, .. } => self.pages.push(command),
                Effect::Presence { command, query, .. } => self.members.push((command, query)),
                Effect::Ask(ask) => self.asked.push(ask.about),
                Effect::Join { ticket, channel, .. } => self.tickets.push((ticket, channel)),
                Effect::Welcome { chosen } => {
                    assert!(chosen.len() <= self.limits.0 && self.welcome.is_none());
                    self.welcome = Some(chosen);
                }
                Effect::Leave { channel } => {
                    assert!(self.joined.remove(channel.name()), "{channel:?} is left unjoined");
                }
                Effect::Send { .. } | Effect::FetchKeys { .. } => {}
                Effect::Close(Disconnect { code, reason }) => {
                    assert!((3000..=4999).contains(&code) && reason.len() <= MAX_REASON, "{code} {reason}");
                    self.over = true;
                }
            }
            assert!(self.calls.len() <= self.limits.1, "no more requests wait than may");
        }
    }

    fn reply(&mut self, reply: &Reply) {
        let written = encode_reply(self.encoding, reply).expect("every reply can be written");
        if self.encoding == Encoding::Json {
            assert!(!written.contains(&b'\n'));
            lenient::from_slice::<Reply>(&written).expect("every reply can be read");
        }
        assert!(reply.error.as_ref().is_none_or(|error| error.code > 0 && !error.message.is_empty()));
        if reply.id > 0 {
            let place = self.open.iter().position(|id| *id == reply.id);
            self.open.swap_remove(place.expect("a reply answers a command"));
        }
        let push = reply.push.as_ref();
        if let Some(push) = push.filter(|push| push.unsubscribe.is_some()) {
            assert!(!self.joined.contains(&push.channel), "a channel is left before the client is told");
        }
        if let Some(push) = push.filter(|push| push.subscribe.is_some()) {
            assert!(self.joined.contains(&push.channel), "a channel is joined before the client is told");
        }
    }
}

/// Whether one of the effects answers this command.
fn replies(effects: &Effects, id: u32) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Reply(reply) if reply.id == id))
}

/// How many of the effects end in a reply later.
fn promises(effects: &Effects) -> usize {
    let settled = |effect: &&Effect| {
        !matches!(
            effect,
            Effect::Reply(_)
                | Effect::Leave { .. }
                | Effect::Close(_)
                | Effect::FetchKeys { .. }
                | Effect::Send { .. }
        )
    };
    effects.iter().filter(settled).count()
}

fn order_of(action: &serde_json::Value) -> Order {
    // From a text, as orders come: raw values are not in a tree of values.
    let order = serde_json::json!({ "action": action }).to_string();
    serde_json::from_str(&order).expect("it is an order")
}
