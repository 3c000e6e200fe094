//! Scripts of inputs, whose effects are compared. Time is an argument.

use proptest::prelude::*;
use tidegate_shared::{
    config::Config,
    id::{GatewayId, RequestId},
    protocol::{
        ConnectRequest, Empty, HistoryRequest, PublishRequest, RpcRequest, SendRequest, SubscribeRequest,
        UnsubscribeRequest,
    },
};

use super::*;
use crate::{channels::feed::Joined, policy::tokens::Verifier};

mod control;
mod hooks;
mod presence;
mod server_side;
mod tokens;

const TOML: &str = r#"
    [[namespace]]
    name = "chat"
    allow_subscribe = "authenticated"
    allow_publish = "authenticated"
    [[namespace]]
    name = "open"
    allow_subscribe = "anyone"
    [[namespace]]
    name = "kept"
    allow_history = "authenticated"
    history_size = 10
    [[namespace]]
    name = "bare"
    allow_history = "authenticated"
    [[namespace]]
    name = "closed"
    allow_subscribe = "token"
    [[namespace]]
    name = "shut"
    allow_subscribe = "nobody"
    [[namespace]]
    name = "dialogs"
    allow_subscribe = "nobody"
    user_limited = true
    allow_publish = "subscriber"
    allow_history = "subscriber"
    history_size = 10
    [[namespace]]
    name = "plain"
    allow_history = "subscriber"
    history_size = 10
    force_recovery = false
    force_positioning = false
    [[namespace]]
    name = "asked"
    allow_subscribe = "hook"
    allow_publish = "hook"
    allow_history = "subscriber"
    history_size = 10
    [[route]]
    name = "echo"
    match = "rpc.echo"
    [[route]]
    name = "orders"
    match = "rpc.orders.{id}.place"
    answer = "later"
"#;

struct Script {
    session: Session,
    now: Now,
    next_id: u32,
}

impl Script {
    /// The channel is joined at this position.
    fn subscribed(
        &mut self,
        ticket: u32,
        channel: &Channel,
        position: &Position,
    ) -> Option<Result<Granted<Reply>, Reply>> {
        let mut budget = self.session.budget();
        self.session.subscribed(ticket, channel, position, &mut budget)
    }

    fn fresh(flags: &[(&str, &str)]) -> Self {
        Self::with_toml("", flags)
    }

    fn with_toml(toml: &str, flags: &[(&str, &str)]) -> Self {
        let file =
            std::env::temp_dir().join(format!("session-{}.toml", tidegate_shared::id::random_token::<8>()));
        std::fs::write(&file, format!("{TOML}\n{toml}")).unwrap();
        let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let config = Config::load(Some(&file), &flags).unwrap();
        std::fs::remove_file(&file).unwrap();
        let rules = Arc::new(Rules::new(&config, Verifier::new(&config).ok().unwrap(), GatewayId::random()));
        let client = ClientId::random(&rules.gateway);
        let now = Now { instant: Instant::now(), unix: Duration::from_hours(500_000) };
        Self { session: Session::new(rules, client, Encoding::Json, now.instant), now, next_id: 1 }
    }

    fn connected(flags: &[(&str, &str)]) -> Self {
        let mut script = Self::fresh(flags);
        let reply = script.welcome(&token(&serde_json::json!({"sub": "42"})));
        assert!(reply.connect.is_some());
        script
    }

    /// Connects, and joins the personal channel at once if there is one.
    fn welcome(&mut self, token: &str) -> Reply {
        let effects = self.connect(token);
        let [Effect::Welcome { chosen }] = &effects[..] else { panic!("{effects:?}") };
        assert!(self.session.is_connecting());
        self.welcomed(chosen, &vec![at(7); chosen.len()])
    }

    /// Joins the channels that the connection begins with at these positions.
    fn welcomed(&mut self, chosen: &[ServerSubscription], positions: &[Position]) -> Reply {
        let mut budget = self.session.budget();
        let subs = chosen.iter().zip(positions);
        let subs = subs.map(|(one, position)| self.session.begins_with(one, position, &mut budget).told);
        let subs = subs.collect();
        self.session.welcomed(subs).unwrap()
    }

    fn anonymous() -> Self {
        let mut script = Self::fresh(&[("auth.anonymous", "true")]);
        script.welcome("");
        script
    }

    fn connect(&mut self, token: &str) -> Effects {
        let connect = ConnectRequest { token: token.to_owned(), ..ConnectRequest::default() };
        self.say(Command { connect: Some(connect), ..Command::default() })
    }

    fn say(&mut self, command: Command) -> Effects {
        let id = self.next_id;
        self.next_id += 1;
        self.session.handle(Command { id, ..command }, 0.0, self.now)
    }

    fn rpc(&mut self, method: &str) -> Effects {
        let rpc = RpcRequest { method: method.to_owned(), data: "1".into() };
        self.say(Command { rpc: Some(rpc), ..Command::default() })
    }

    fn subscribe(&mut self, channel: &str) -> Effects {
        let subscribe = SubscribeRequest { channel: channel.to_owned(), ..SubscribeRequest::default() };
        self.say(Command { subscribe: Some(subscribe), ..Command::default() })
    }

    fn unsubscribe(&mut self, channel: &str) -> Effects {
        let unsubscribe = UnsubscribeRequest { channel: channel.to_owned() };
        self.say(Command { unsubscribe: Some(unsubscribe), ..Command::default() })
    }

    fn publish(&mut self, channel: &str, data: &'static str) -> Effects {
        let publish = PublishRequest { channel: channel.to_owned(), data: data.into(), kind: 0 };
        self.say(Command { publish: Some(publish), ..Command::default() })
    }

    /// Lets time pass for a client that answers its pings and is not closed.
    fn live(&mut self, seconds: u64) {
        for _ in 0..seconds {
            match &self.after(1)[..] {
                [] => {}
                [Effect::Reply(ping)] if *ping == Reply::ping() => {
                    assert_eq!(self.session.handle(Command::default(), 0.0, self.now), []);
                }
                other => panic!("expected nothing but pings, got {other:?}"),
            }
        }
    }

    fn after(&mut self, seconds: u64) -> Effects {
        self.now.instant += Duration::from_secs(seconds);
        self.now.unix += Duration::from_secs(seconds);
        self.session.tick(self.now.instant, true)
    }
}

fn token(claims: &serde_json::Value) -> String {
    let secret = Config::load(None, &[]).unwrap().auth.hmac_secret;
    let key = jsonwebtoken::EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

/// A position in a channel with history.
fn at(position: u64) -> Position {
    Position { joined: Joined::At { position }, epoch: Some("e".into()) }
}

fn error(effects: &Effects) -> u32 {
    match &effects[..] {
        [Effect::Reply(Reply { error: Some(error), .. })] => {
            assert!(!error.message.is_empty());
            error.code
        }
        other => panic!("expected one error, got {other:?}"),
    }
}

fn closed(effects: &Effects) -> u16 {
    match &effects[..] {
        [Effect::Close(disconnect)] => disconnect.code,
        other => panic!("expected a close, got {other:?}"),
    }
}

#[test]
fn nothing_is_allowed_before_connect() {
    assert_eq!(closed(&Script::fresh(&[]).rpc("echo")), 3501);
    assert_eq!(
        closed(&Script::fresh(&[]).session.handle(Command::default(), 0.0, Script::fresh(&[]).now)),
        3501
    );
}

#[test]
fn a_session_connects_once() {
    assert_eq!(closed(&Script::connected(&[]).connect("")), 3501);
}

#[test]
fn a_session_without_connect_ends_after_the_limit() {
    let mut script = Script::fresh(&[]);
    assert_eq!(script.after(9), []);
    assert_eq!(closed(&script.after(1)), 3502);
}

#[test]
fn tokens_decide_who_connects() {
    assert_eq!(closed(&Script::fresh(&[]).connect("")), 3501);
    assert_eq!(closed(&Script::fresh(&[]).connect("forged")), 3500);
    let mut script = Script::fresh(&[]);
    assert_eq!(error(&script.connect(&token(&serde_json::json!({"sub": "42", "exp": 1_700_000_000})))), 109);
    assert_eq!(closed(&script.rpc("echo")), 3501, "the rest of a frame after a refused connect");
}

#[test]
fn an_expiring_token_has_to_be_refreshed_or_ends_the_session() {
    let mut script = Script::fresh(&[]);
    let first = token(&serde_json::json!({"sub": "42", "exp": 1_800_000_060}));
    let result = script.welcome(&first).connect.unwrap();
    assert!(result.expires && result.ttl == 60);
    script.live(50);
    let refresh =
        |token: String| Command { refresh: Some(protocol::RefreshRequest { token }), ..Command::default() };
    let effects = script.say(refresh(token(&serde_json::json!({"sub": "42", "exp": 1_800_000_120}))));
    assert!(matches!(&effects[..], [Effect::Reply(Reply { refresh: Some(r), .. })] if r.ttl == 70));
    // The second token ends 120 s after the start, its grace 25 s later.
    script.live(94);
    assert_eq!(closed(&script.after(1)), 3005);
    let mut other = Script::connected(&[]);
    assert_eq!(
        closed(&other.say(refresh(token(&serde_json::json!({"sub": "43"}))))),
        3500,
        "another user's token"
    );
}

#[test]
fn an_rpc_becomes_a_request_on_its_route() {
    let effects = Script::connected(&[]).rpc("echo");
    let [Effect::Call { mode: AnswerMode::Wait, request, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(
        (request.route.as_str(), request.user.as_deref(), &request.body[..]),
        ("echo", Some("42"), &b"1"[..])
    );
    assert!(!request.id.is_keyed());
    let effects = Script::connected(&[]).rpc("orders.7.place#k");
    let [Effect::Call { mode: AnswerMode::Later, request, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(request.id, RequestId::keyed("42", "orders.7.place", "k"));
    assert_eq!(request.method.as_deref(), Some("orders.7.place"));
}

#[test]
fn unknown_methods_and_malformed_methods_have_different_errors() {
    let mut script = Script::connected(&[]);
    for method in ["nothing", "echo.more", "orders.place", "*", ">", "echo.*", "or ders", &"m".repeat(255)] {
        assert_eq!(error(&script.rpc(method)), 104, "{method:?}");
    }
    for method in
        ["", ".echo", "echo.", "a..b", "echo#", "#k", &"m".repeat(300), &format!("echo#{}", "k".repeat(129))]
    {
        assert_eq!(error(&script.rpc(method)), 107, "{method:?}");
    }
}

#[test]
fn anonymous_clients_have_no_idempotency_keys_and_no_later_answers() {
    let mut script = Script::anonymous();
    assert_eq!(error(&script.rpc("echo#k")), 107);
    assert_eq!(error(&script.rpc("orders.7.place")), 103);
    assert!(matches!(&script.rpc("echo")[..], [Effect::Call { .. }]));
}

#[test]
fn waiting_requests_are_bounded() {
    let mut script = Script::connected(&[("gateway.limits.max_waiting", "2")]);
    script.rpc("echo");
    script.rpc("echo");
    assert_eq!(error(&script.rpc("echo")), 1000);
    script.session.finished(2, CallEnd::Failed(codes::STILL_WORKING.error()));
    assert!(matches!(&script.rpc("echo")[..], [Effect::Call { .. }]));
}

#[test]
fn channels_have_rules() {
    let mut script = Script::connected(&[]);
    assert_eq!(error(&script.subscribe("nowhere:x")), 102);
    assert_eq!(error(&script.subscribe("user:42")), 107);
    assert_eq!(error(&script.subscribe("#43")), 103);
    assert_eq!(error(&script.subscribe("#42")), 105);
    assert_eq!(error(&script.subscribe(&"c".repeat(300))), 107);
    assert_eq!(closed(&Script::connected(&[]).subscribe("")), 3501);
    assert_eq!(error(&Script::anonymous().subscribe("chat:x")), 103);
    assert!(matches!(&Script::anonymous().subscribe("open:x")[..], [Effect::Join { .. }]));
    assert_eq!(error(&script.publish("open:x", "1")), 103);
    assert_eq!(error(&script.publish("nowhere:x", "1")), 102);
    assert_eq!(error(&script.publish("chat:x", "")), 107);
    assert!(
        matches!(&script.publish("chat:x", "1")[..], [Effect::Publish { info, .. }] if info.user == "42")
    );
}

fn chat_x() -> Channel {
    Channel::parse("chat:x").unwrap()
}

fn ticket(effects: &Effects) -> u32 {
    let [Effect::Join { ticket, .. }] = effects[..] else { panic!("{effects:?}") };
    ticket
}

#[test]
fn subscription_kinds_other_than_streams_are_not_available() {
    let mut script = Script::connected(&[]);
    let subscribe = SubscribeRequest { channel: "chat:x".into(), kind: 1, ..SubscribeRequest::default() };
    let effects = script.say(Command { subscribe: Some(subscribe), ..Command::default() });
    assert_eq!(error(&effects), 108);
    let publish = PublishRequest { channel: "chat:x".into(), data: "1".into(), kind: 1 };
    let effects = script.say(Command { publish: Some(publish), ..Command::default() });
    assert_eq!(error(&effects), 108);
}

#[test]
fn a_subscription_is_granted_once_it_is_joined() {
    let mut script = Script::connected(&[]);
    let ticket = ticket(&script.subscribe("chat:x"));
    assert_eq!(error(&script.subscribe("chat:x")), 105);
    let result = script.subscribed(ticket, &chat_x(), &at(7)).unwrap().unwrap().told.subscribe.unwrap();
    assert!(result.recoverable && result.positioned && !result.recovered && !result.was_recovering);
    assert_eq!((result.offset, result.epoch.as_str()), (7, "e"));
    let effects = script.unsubscribe("chat:x");
    assert!(matches!(&effects[..], [Effect::Leave { .. }, Effect::Reply(r)] if r.unsubscribe.is_some()));
}

#[test]
fn unsubscribing_during_a_join_answers_both_commands_in_order() {
    let mut script = Script::connected(&[]);
    let ticket = ticket(&script.subscribe("chat:x"));
    let effects = script.unsubscribe("chat:x");
    assert!(
        matches!(&effects[..], [Effect::Reply(a), Effect::Reply(b)] if a.subscribe.is_some() && b.unsubscribe.is_some())
    );
    assert_eq!(script.subscribed(ticket, &chat_x(), &at(7)), None, "its preparation comes too late");
    assert!(matches!(&script.subscribe("chat:x")[..], [Effect::Join { .. }]));
}

#[test]
fn a_publish_becomes_a_request_where_a_worker_decides() {
    let mut script = Script::with_toml(
        "[[namespace]]\nname = 'room'\nallow_publish = 'authenticated'\npublish = 'worker'\n\
         [[route]]\nname = 'rooms'\nmatch = 'pub.room'",
        &[],
    );
    script.welcome(&token(&serde_json::json!({"sub": "42", "info": {"name": "Ann"}})));
    let effects = script.publish("room:a b", "1");
    let [Effect::Decide { command: 2, request }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((request.route.as_str(), request.user.as_deref()), ("rooms", Some("42")));
    assert_eq!((request.method.as_deref(), request.info.as_deref()), (None, Some(r#"{"name":"Ann"}"#)));
    assert_eq!(request.channel.as_ref().map(Channel::name), Some("room:a b"));
    for odd in ["room:a ", "room:a\u{a0}", "room:a\u{3000}"] {
        let effects = script.publish(odd, "1");
        let [Effect::Reply(reply)] = &effects[..] else { panic!("{odd:?}: {effects:?}") };
        assert_eq!(reply.error.as_ref().map(|error| error.code), Some(107), "the worker would see room:a");
    }
    assert!(matches!(&script.publish("chat:x", "1")[..], [Effect::Publish { .. }]));
}

#[test]
fn every_subscription_recovers_in_a_channel_that_sends_its_newest_publication() {
    let mut script = Script::with_toml(
        "[[namespace]]\nname = 'board'\nhistory_size = 1\nrecovery = 'cache'\ncache_on_subscribe = true",
        &[],
    );
    script.welcome(&token(&serde_json::json!({"sub": "42"})));
    let effects = script.subscribe("board:x");
    let [Effect::Join { resume: Some(resume), or_refuse: false, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(*resume, Resume::from_nowhere());
}

#[test]
fn the_reply_says_whether_a_subscription_recovered() {
    let missed = vec![Arc::new(Publication { data: "1".into(), offset: 9, ..Publication::default() })];
    let newest = missed.first().cloned();
    for (joined, recovered, offset, count) in [
        (Joined::Newest { position: 9, newest }, true, 9, 1),
        (Joined::Newest { position: 9, newest: None }, true, 9, 0),
        (Joined::Resumed { missed }, true, 5, 1),
        (Joined::Resumed { missed: Vec::new() }, true, 5, 0),
        (Joined::At { position: 9 }, false, 9, 0),
    ] {
        let mut script = Script::connected(&[]);
        let subscribe = SubscribeRequest {
            channel: "chat:x".into(),
            recover: true,
            offset: 5,
            epoch: "e".into(),
            ..SubscribeRequest::default()
        };
        let effects = script.say(Command { subscribe: Some(subscribe), ..Command::default() });
        let [Effect::Join { ticket, resume: Some(resume), or_refuse: false, .. }] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(*resume, Resume { offset: 5, epoch: "e".into() });
        let result = script
            .subscribed(*ticket, &chat_x(), &Position { joined, epoch: Some("e".into()) })
            .unwrap()
            .unwrap()
            .told
            .subscribe
            .unwrap();
        assert_eq!(
            (result.recovered, result.was_recovering, result.offset, result.publications.len()),
            (recovered, true, offset, count)
        );
    }
}

#[test]
fn a_channel_that_lost_publications_is_resumed_and_a_personal_one_by_connecting_again() {
    let mut script = Script::connected(&[]);
    let ticket = ticket(&script.subscribe("chat:x"));
    script.subscribed(ticket, &chat_x(), &at(7)).unwrap().unwrap();
    let effects = script.session.lost(&chat_x());
    let [Effect::Leave { .. }, Effect::Reply(push)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(push.push.as_ref().unwrap().unsubscribe.as_ref().unwrap().code, 2500);
    assert!(matches!(&script.subscribe("chat:x")[..], [Effect::Join { .. }]), "it may come back at once");
    assert_eq!(closed(&script.session.lost(&Channel::personal("42"))), 3010);
}

#[test]
fn commands_behind_connect_wait_until_it_is_answered() {
    let mut script = Script::fresh(&[]);
    script.connect(&token(&serde_json::json!({"sub": "42"})));
    assert!(script.session.is_connecting());
    assert_eq!(error(&script.session.not_welcomed(script.now.instant)), 100);
    assert_eq!(closed(&script.rpc("echo")), 3501, "the rest of a frame after a refused connect");
}

#[test]
fn history_is_read_by_clients_with_permission() {
    let history = |channel: &str| HistoryRequest {
        channel: channel.to_owned(),
        limit: 10,
        ..HistoryRequest::default()
    };
    let ask =
        |script: &mut Script, request| script.say(Command { history: Some(request), ..Command::default() });
    let mut script = Script::connected(&[]);
    assert_eq!(error(&ask(&mut script, history("nowhere:x"))), 102);
    assert_eq!(error(&ask(&mut script, history("chat:x"))), 103);
    assert_eq!(error(&ask(&mut script, history("#43"))), 103);
    assert!(matches!(&ask(&mut script, history("#42"))[..], [Effect::History { .. }]), "one's own");
    assert!(matches!(&ask(&mut script, history("kept:x"))[..], [Effect::History { .. }]));
    let since = Some(protocol::StreamPosition::default());
    assert_eq!(error(&ask(&mut script, HistoryRequest { reverse: true, since, ..history("kept:x") })), 107);
    assert_eq!(error(&ask(&mut script, history("bare:x"))), 108);
    assert_eq!(error(&ask(&mut script, history("kept:$vip"))), 103, "private");
    script.subscribe_for("kept:$vip", 60);
    assert!(matches!(&ask(&mut script, history("kept:$vip"))[..], [Effect::History { .. }]));
    assert_eq!(error(&script.session.paged(9, Ok(None))), 112);
}

#[test]
fn channels_of_one_connection_are_bounded() {
    let mut script = Script::connected(&[("gateway.limits.channels", "1")]);
    script.subscribe("chat:x");
    assert_eq!(error(&script.subscribe("chat:y")), 106);
}

#[test]
fn a_feature_that_is_off_replies_not_available() {
    let mut script = Script::connected(&[]);
    assert_eq!(error(&script.say(Command { ping: Some(Empty {}), ..Command::default() })), 108);
    assert_eq!(error(&script.say(Command::default())), 108, "a verb of a later protocol");
    let send = Command { send: Some(SendRequest { data: "1".into() }), ..Command::default() };
    assert_eq!(closed(&script.say(send)), 3508, "no route takes it");
}

#[test]
fn a_session_ends_once() {
    let mut script = Script::connected(&[]);
    assert_eq!(closed(&script.session.malformed()), 3501);
    let again = [script.session.malformed(), script.session.shut_down(), script.session.send_failed()];
    assert!(again.iter().all(Vec::is_empty), "{again:?}");
}

#[test]
fn an_unsolicited_pong_is_a_protocol_error() {
    let mut script = Script::connected(&[]);
    assert_eq!(closed(&script.session.handle(Command::default(), 0.0, script.now)), 3501);
}

#[test]
fn a_websocket_pong_counts_and_an_unsolicited_one_is_allowed() {
    let mut script = Script::connected(&[]);
    script.session.ponged();
    let start = script.now.instant;
    let mut at = |seconds| script.session.tick(start + Duration::from_secs(seconds), true);
    assert_eq!(at(25), [Effect::Reply(Reply::ping())]);
    script.session.ponged();
    assert_eq!(script.session.tick(start + Duration::from_secs(49), true), []);
}

#[derive(Debug, Clone)]
enum Step {
    Rpc(u8),
    Subscribe(u8),
    SubscribeFor(u8),
    Unsubscribe(u8),
    Publish(bool),
    Decide(u8),
    Finish,
    Prepare(bool),
    Wait(u8),
    Pong,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..3).prop_map(Step::Rpc),
        (0u8..4).prop_map(Step::Subscribe),
        (0u8..30).prop_map(Step::SubscribeFor),
        (0u8..4).prop_map(Step::Unsubscribe),
        any::<bool>().prop_map(Step::Publish),
        (0u8..4).prop_map(Step::Decide),
        Just(Step::Finish),
        any::<bool>().prop_map(Step::Prepare),
        (0u8..12).prop_map(Step::Wait),
        Just(Step::Pong),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// For any input: every reply belongs to one command, no command gets two, nothing follows the end, and joins and
    /// leaves of a channel alternate.
    #[test]
    fn replies_answer_commands_once(steps in steps()) {
        let mut script = Script::connected(&[("auth.refresh_grace", "1s"), ("gateway.pong_timeout", "24s")]);
        let mut open: Vec<u32> = Vec::new();
        let mut calls: Vec<u32> = Vec::new();
        let mut asked: Vec<AskedAbout> = Vec::new();
        let mut tickets: Vec<(u32, Channel)> = Vec::new();
        let mut joined: Vec<Channel> = Vec::new();
        let mut over = false;
        for step in steps {
            let sent = script.next_id;
            let effects = match step {
                Step::Rpc(n) => script.rpc(["echo", "nothing", ".."][usize::from(n)]),
                Step::Subscribe(n) => script.subscribe(["chat:a", "chat:b", "#43", "asked:a"][usize::from(n)]),
                Step::SubscribeFor(seconds) => script.subscribe_for("chat:a", u64::from(seconds)),
                Step::Unsubscribe(n) => script.unsubscribe(["chat:a", "chat:b", ":", "asked:a"][usize::from(n)]),
                Step::Publish(asked) => script.publish(if asked { "asked:a" } else { "chat:a" }, "1"),
                Step::Decide(n) => match asked.pop() {
                    Some(about) => {
                        let soon = script.now.unix.as_secs() + 5;
                        let verdict = [hooks::allowed(0), hooks::allowed(soon), hooks::refused(), hooks::silence()];
                        script.session.verdict(about, verdict[usize::from(n)].clone(), script.now)
                    }
                    None => Vec::new(),
                },
                Step::Finish => match calls.pop() {
                    Some(command) => script.session.finished(command, CallEnd::Failed(codes::STILL_WORKING.error())),
                    None => Vec::new(),
                },
                Step::Prepare(well) => match tickets.pop() {
                    Some((ticket, channel)) if well => match script.subscribed(ticket, &channel, &Position::live()) {
                        Some(Ok(Granted { told: reply, .. }) | Err(reply)) => {
                            prop_assert!(!joined.contains(&channel));
                            joined.push(channel);
                            vec![Effect::Reply(reply)]
                        }
                        None => Vec::new(),
                    },
                    Some((ticket, _)) => script.session.not_subscribed(ticket, codes::INTERNAL.error()),
                    None => Vec::new(),
                },
                Step::Wait(seconds) => script.after(u64::from(seconds)),
                Step::Pong => script.session.handle(Command::default(), 0.0, script.now),
            };
            if script.next_id > sent {
                open.push(sent);
            }
            prop_assert!(!over || effects.iter().all(|e| matches!(e, Effect::Reply(_))), "{effects:?} after the end");
            for effect in effects {
                match effect {
                    Effect::Reply(reply) if reply.id > 0 => {
                        let place = open.iter().position(|id| *id == reply.id);
                        prop_assert!(place.is_some(), "{reply:?} answers nothing");
                        open.remove(place.unwrap());
                    }
                    Effect::Reply(Reply { push: Some(push), .. }) => {
                        prop_assert!(push.unsubscribe.is_some_and(|u| u.code == 2501));
                        prop_assert!(joined.iter().all(|channel| channel.name() != push.channel));
                    }
                    Effect::Reply(reply) => prop_assert_eq!(reply, Reply::ping()),
                    Effect::Call { command, .. } | Effect::Own { command, .. } => calls.push(command),
                    Effect::Ask(ask) => asked.push(ask.about),
                    Effect::Publish { command, .. } | Effect::Decide { command, .. } => {
                        let place = open.iter().position(|id| *id == command);
                        open.remove(place.unwrap());
                    }
                    Effect::Join { ticket, channel, .. } => tickets.push((ticket, channel)),
                    Effect::Leave { channel } => {
                        prop_assert!(joined.contains(&channel));
                        joined.retain(|c| *c != channel);
                    }
                    Effect::Close(_) => over = true,
                    Effect::Welcome { .. } | Effect::History { .. } | Effect::Presence { .. } | Effect::Send { .. } | Effect::FetchKeys { .. } => {
                        prop_assert!(false, "not in this script");
                    }
                }
            }
        }
    }
}
