//! Presence: the same on every gateway, right after joins and leaves, and after crashes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tidegate_cli::{
    client::{Options, raw::RawClient},
    stack::Stack,
};
use tidegate_shared::protocol::{PresenceStatsResult, Push, Reply};
use tokio::task::JoinSet;

use crate::support::{
    PATIENCE, admin, eventually, get, in_both_fanouts, nothing_panicked, quick, start, token, url,
};

const ROOMS: &str = r#"
[[namespace]]
name = "room"
presence = true
join_leave = true
allow_presence = "authenticated"

[[namespace]]
name = "told"
join_leave = true
force_join_leave = true

[[namespace]]
name = "silent"
presence = true

[presence]
lease = "2s"
"#;

in_both_fanouts!(
    presence_is_the_same_on_every_gateway,
    a_namespace_decides_about_presence_and_join_and_leave_permissions,
);

fn rooms(fanout: &str) -> String {
    ROOMS.replace("[[namespace]]\n", &format!("[[namespace]]\nfanout = '{fanout}'\n"))
}

/// A raw client with its id and its pushes.
struct Member {
    raw: RawClient,
    client: String,
    pushes: Vec<Push>,
    next: u32,
}

impl Member {
    async fn connect(stack: &Stack, gateway: usize, user: &str) -> Self {
        let mut raw = RawClient::open(&Options::new(url(stack, gateway))).await.unwrap();
        let connect = serde_json::json!({"id": 1, "connect": {"token": token(stack, user)}}).to_string();
        raw.send_text(&connect).await.unwrap();
        let client = raw.reply().await.unwrap().connect.unwrap().client;
        Self { raw, client, pushes: Vec::new(), next: 2 }
    }

    /// Sends a command and returns the reply. Pushes before the reply are kept.
    async fn ask(&mut self, verb: &str, body: serde_json::Value) -> Reply {
        let id = self.next;
        self.next += 1;
        self.raw.send_text(&serde_json::json!({"id": id, verb: body}).to_string()).await.unwrap();
        loop {
            let reply = self.raw.reply().await.unwrap();
            if let Some(push) = reply.push {
                self.pushes.push(push);
                continue;
            }
            assert_eq!(reply.id, id);
            return reply;
        }
    }

    async fn subscribe(&mut self, channel: &str) {
        let reply = self.ask("subscribe", serde_json::json!({"channel": channel, "join_leave": true})).await;
        assert!(reply.subscribe.is_some(), "{reply:?}");
    }

    async fn unsubscribe(&mut self, channel: &str) {
        assert!(self.ask("unsubscribe", serde_json::json!({"channel": channel})).await.unsubscribe.is_some());
    }

    /// Returns the users in a channel by connection.
    async fn presence(&mut self, channel: &str) -> BTreeMap<String, String> {
        let reply = self.ask("presence", serde_json::json!({"channel": channel})).await;
        let presence = reply.presence.clone().unwrap_or_else(|| panic!("{reply:?}")).presence;
        presence.into_iter().map(|(client, info)| (client, info.user)).collect()
    }

    async fn stats(&mut self, channel: &str) -> (u32, u32) {
        let reply = self.ask("presence_stats", serde_json::json!({"channel": channel})).await;
        let PresenceStatsResult { num_clients, num_users } = reply.presence_stats.unwrap();
        (num_clients, num_users)
    }

    async fn refused(&mut self, verb: &str, channel: &str) -> u32 {
        self.ask(verb, serde_json::json!({"channel": channel})).await.error.unwrap().code
    }

    /// Returns the next join or leave.
    async fn change(&mut self) -> (&'static str, String) {
        let push = if self.pushes.is_empty() {
            self.raw.reply().await.unwrap().push.unwrap()
        } else {
            self.pushes.remove(0)
        };
        read(push)
    }
}

fn read(push: Push) -> (&'static str, String) {
    match (push.join, push.leave) {
        (Some(join), None) => ("join", join.info.unwrap().client),
        (None, Some(leave)) => ("leave", leave.info.unwrap().client),
        other => panic!("{other:?}"),
    }
}

/// Creates many members of one channel on one gateway, each a user of its own, and returns their ids.
async fn crowd(stack: &Stack, gateway: usize, channel: &str, count: usize) -> Vec<(String, RawClient)> {
    let mut waiting = JoinSet::new();
    let mut members = Vec::new();
    for index in 0..count {
        let options = Options::new(url(stack, gateway));
        let token = token(stack, &format!("crowd-{index}"));
        let subscribe = serde_json::json!({"id": 2, "subscribe": {"channel": channel}});
        let hello = format!("{}\n{subscribe}", serde_json::json!({"id": 1, "connect": {"token": token}}));
        waiting.spawn(async move {
            let mut raw = RawClient::open(&options).await.unwrap();
            raw.send_text(&hello).await.unwrap();
            let client = raw.reply().await.unwrap().connect.unwrap().client;
            let reply = raw.reply().await.unwrap();
            assert!(reply.subscribe.is_some(), "{reply:?}");
            (client, raw)
        });
        if waiting.len() >= 50 {
            members.push(waiting.join_next().await.unwrap().unwrap());
        }
    }
    members.extend(waiting.join_all().await);
    members
}

async fn presence_is_the_same_on_every_gateway(fanout: &str) {
    let stack = start(quick(&rooms(fanout)).gateways(2)).await;
    let mut anna = Member::connect(&stack, 0, "anna").await;
    let mut bert = Member::connect(&stack, 1, "bert").await;
    let mut again = Member::connect(&stack, 1, "anna").await;
    assert_eq!((anna.presence("room:1").await.len(), anna.stats("room:1").await), (0, (0, 0)));

    anna.subscribe("room:1").await;
    assert_eq!(anna.presence("room:1").await, [(anna.client.clone(), "anna".to_owned())].into());
    bert.subscribe("room:1").await;
    assert_eq!(anna.stats("room:1").await, (2, 2), "on the other gateway as soon as it is subscribed");
    again.subscribe("room:1").await;
    assert_eq!(bert.stats("room:1").await, (3, 2), "one user twice");

    let (a, b, c) = (anna.client.clone(), bert.client.clone(), again.client.clone());
    for expected in [("join", a.clone()), ("join", b.clone()), ("join", c.clone())] {
        assert_eq!(anna.change().await, expected, "its own first, then the others'");
    }
    assert_eq!(again.change().await, ("join", c.clone()), "nothing of who was there before");
    bert.unsubscribe("room:1").await;
    assert_eq!(anna.change().await, ("leave", b));
    eventually("bert has left", || async {
        Member::connect(&stack, 1, "x").await.stats("room:1").await == (2, 1)
    })
    .await;
    drop(again);
    assert_eq!(anna.change().await, ("leave", c));
    anna.unsubscribe("room:1").await;
    eventually("nobody is there", || async {
        Member::connect(&stack, 1, "x").await.presence("room:1").await.is_empty()
    })
    .await;
    nothing_panicked(&stack);
}

async fn a_namespace_decides_about_presence_and_join_and_leave_permissions(fanout: &str) {
    let stack = start(quick(&rooms(fanout)).gateways(1)).await;
    let mut member = Member::connect(&stack, 0, "42").await;
    for verb in ["presence", "presence_stats"] {
        assert_eq!(member.refused(verb, "chat:x").await, 108);
        assert_eq!(member.refused(verb, "nowhere:x").await, 102);
        assert_eq!(member.refused(verb, "silent:x").await, 103);
        assert_eq!(member.refused(verb, "told:x").await, 108);
    }
    let me = member.client.clone();
    let quiet = serde_json::json!({"channel": "told:x"});
    assert!(member.ask("subscribe", quiet).await.subscribe.is_some());
    assert_eq!(member.change().await, ("join", me), "whether it asks or not");
    member.subscribe("silent:x").await;
    member.subscribe("chat:x").await;
    let mut other = Member::connect(&stack, 0, "43").await;
    for channel in ["silent:x", "chat:x", "told:x"] {
        other.subscribe(channel).await;
    }
    assert_eq!(member.change().await, ("join", other.client.clone()), "of the one channel that tells");
    assert!(member.pushes.is_empty());
}

#[tokio::test]
async fn a_burst_of_subscribes_and_unsubscribes_leaves_no_members_behind() {
    let stack = start(quick(ROOMS).gateways(1)).await;
    let mut member = Member::connect(&stack, 0, "42").await;
    let mut watcher = Member::connect(&stack, 0, "43").await;
    let commands: Vec<String> = (0..10)
        .flat_map(|round| {
            let subscribe = serde_json::json!({"id": 10 + 2 * round, "subscribe": {"channel": "room:1"}});
            let unsubscribe = serde_json::json!({"id": 11 + 2 * round, "unsubscribe": {"channel": "room:1"}});
            [subscribe.to_string(), unsubscribe.to_string()]
        })
        .collect();
    member.raw.send_text(&commands.join("\n")).await.unwrap();
    for id in 10..30 {
        let reply = member.raw.reply().await.unwrap();
        assert_eq!((reply.id, reply.error), (id, None), "in the order of the commands");
    }
    member.subscribe("room:1").await;
    assert_eq!(watcher.stats("room:1").await, (1, 1));
    member.unsubscribe("room:1").await;
    let start = Instant::now();
    while watcher.stats("room:1").await != (0, 0) {
        assert!(start.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn the_members_of_a_gateway_that_is_killed_leave_once_each() {
    const CROWD: usize = 1000;
    let stack = start(quick(ROOMS).gateways(3)).await;
    let mut watchers = [Member::connect(&stack, 0, "w0").await, Member::connect(&stack, 1, "w1").await];
    for watcher in &mut watchers {
        watcher.subscribe("room:1").await;
    }
    let crowd = crowd(&stack, 2, "room:1", CROWD).await;
    let expected = u32::try_from(CROWD).unwrap() + 2;
    let there = watchers[0].presence("room:1").await;
    assert_eq!(there.len(), CROWD + 2, "more than the broker gives at once");
    for watcher in &mut watchers {
        assert_eq!(watcher.stats("room:1").await, (expected, expected));
    }
    let killed = Instant::now();
    stack.hold("gateway-3").await.unwrap();
    let own: Vec<String> = watchers.iter().map(|watcher| watcher.client.clone()).collect();
    let mut listeners = JoinSet::new();
    for mut watcher in watchers {
        let own = own.clone();
        listeners.spawn(async move {
            let mut left = BTreeMap::new();
            while watcher.stats("room:1").await != (2, 2) {
                assert!(killed.elapsed() < Duration::from_secs(30));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let hidden = killed.elapsed();
            while left.len() < CROWD {
                match watcher.change().await {
                    ("leave", client) => *left.entry(client).or_insert(0) += 1,
                    ("join", _) => {}
                    other => panic!("{other:?}"),
                }
            }
            let told = killed.elapsed();
            // A marker behind all earlier pushes: no member leaves twice.
            watcher.unsubscribe("room:1").await;
            for push in watcher.pushes.drain(..) {
                let (what, client) = read(push);
                assert!(what == "leave" && own.contains(&client), "{what} {client}");
            }
            assert!(left.values().all(|times| *times == 1) && !own.iter().any(|own| left.contains_key(own)));
            (hidden, told, left.into_keys().collect::<Vec<_>>())
        });
    }
    drop(crowd);
    for (hidden, told, left) in listeners.join_all().await {
        assert!(left.iter().all(|client| there.contains_key(client)));
        println!("hidden after {hidden:?}, all {CROWD} leaves told after {told:?}");
        assert!(told < Duration::from_secs(30));
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_gateway_that_was_paused_for_too_long_announces_its_members_again() {
    let stack = start(quick(ROOMS).gateways(2)).await;
    let mut watcher = Member::connect(&stack, 0, "w").await;
    watcher.subscribe("room:1").await;
    let mut member = Member::connect(&stack, 1, "42").await;
    member.subscribe("room:1").await;
    let (own, paused) = (watcher.client.clone(), member.client.clone());
    assert_eq!(watcher.change().await, ("join", own));
    assert_eq!(watcher.change().await, ("join", paused.clone()));
    stack.pause("gateway-2").unwrap();
    assert_eq!(watcher.change().await, ("leave", paused.clone()));
    assert_eq!(watcher.stats("room:1").await, (1, 1));
    stack.resume("gateway-2").unwrap();
    assert_eq!(watcher.change().await, ("join", paused.clone()));
    assert_eq!(watcher.stats("room:1").await, (2, 2));
    assert_eq!(member.stats("room:1").await, (2, 2), "its connection has lived through it");
    member.unsubscribe("room:1").await;
    assert_eq!(watcher.change().await, ("leave", paused));
    nothing_panicked(&stack);
}

#[tokio::test]
async fn presence_is_repaired_after_a_broker_outage_longer_than_a_lease() {
    let stack = start(quick(ROOMS).gateways(2)).await;
    let mut watcher = Member::connect(&stack, 0, "w").await;
    watcher.subscribe("room:1").await;
    let mut members = crowd(&stack, 1, "room:1", 50).await;
    assert_eq!(watcher.presence("room:1").await.len(), 51);
    for _ in 0..51 {
        assert_eq!(watcher.change().await.0, "join");
    }
    stack.hold("nats").await.unwrap();
    // The members leave while the broker is away.
    members.truncate(20);
    let away = Instant::now();
    eventually("the gateway is not ready", || async { get(&stack, "/readyz").await.0 == 503 }).await;
    let refused = watcher.ask("presence", serde_json::json!({"channel": "room:1"})).await;
    assert!(refused.error.is_some_and(|error| error.code == 100 && error.temporary));
    let mut newcomer = Member::connect(&stack, 1, "n").await;
    let refused = newcomer.ask("subscribe", serde_json::json!({"channel": "room:1"})).await;
    assert!(refused.error.is_some_and(|error| error.code == 100 && error.temporary));
    tokio::time::sleep_until((away + Duration::from_millis(2500)).into()).await;
    stack.start_process("nats").await.unwrap();
    let start = Instant::now();
    loop {
        let reply = watcher.ask("presence_stats", serde_json::json!({"channel": "room:1"})).await;
        if reply.presence_stats == Some(PresenceStatsResult { num_clients: 21, num_users: 21 }) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{reply:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stayed: Vec<&String> = members.iter().map(|(client, _)| client).collect();
    for push in watcher.pushes.drain(..) {
        // A killed broker loses what it had not written yet: those members are stored and announced once more.
        let (what, client) = read(push);
        assert_eq!(what == "join", stayed.contains(&&client), "{what} of {client}");
    }
    drop(members);
    while watcher.stats("room:1").await != (1, 1) {
        assert!(start.elapsed() < PATIENCE);
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn the_members_of_a_draining_gateway_leave_before_it_ends() {
    let stack = start(quick(&ROOMS.replace("2s", "60s")).gateways(2)).await;
    let mut watcher = Member::connect(&stack, 0, "w").await;
    watcher.subscribe("room:1").await;
    let _members = crowd(&stack, 1, "room:1", 20).await;
    assert_eq!(watcher.stats("room:1").await, (21, 21));
    assert!(stack.stop("gateway-2").await.unwrap().success());
    assert_eq!(watcher.stats("room:1").await, (1, 1), "without waiting for its lease");
    let (_, page) = get(&stack, "/metrics").await;
    assert!(page.contains("tidegate_gateway_presence_gateways 1\n"), "{page}");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn members_of_killed_gateways_are_removed_by_the_next_gateway() {
    let stack = start(quick(ROOMS).gateways(1)).await;
    let members = crowd(&stack, 0, "room:1", 20).await;
    let jetstream = async_nats::jetstream::new(admin(&stack).await);
    let presence = jetstream.get_stream("TIDE_PRESENCE").await.unwrap();
    let kept = || async { presence.get_info().await.unwrap().state.messages };
    assert_eq!(kept().await, 21, "one each, and the gateway's lease");
    stack.hold("gateway-1").await.unwrap();
    drop(members);
    stack.start_process("gateway-1").await.unwrap();
    eventually("the gateway is there", || async { get(&stack, "/readyz").await.0 == 200 }).await;
    let mut watcher = Member::connect(&stack, 0, "w").await;
    let start = Instant::now();
    while watcher.stats("room:1").await != (0, 0) {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("nothing but its lease is left", || async { kept().await == 1 }).await;
}

#[tokio::test]
async fn server_side_subscriptions_have_members_too() {
    let chosen = r#"
[[namespace]]
name = "user"
allow_subscribe = "nobody"
presence = true
join_leave = true
force_join_leave = true

[[namespace]]
name = "hall"
automatic = ["all"]
presence = true
join_leave = true
force_join_leave = true
allow_presence = "anyone"
"#;
    let stack = start(quick(chosen).gateways(2)).await;
    let mut here = Member::connect(&stack, 0, "42").await;
    let own = here.client.clone();
    let mut come = [here.change().await, here.change().await];
    come.sort();
    assert_eq!(come, [("join", own.clone()), ("join", own.clone())], "of both, behind its answer");
    let there = Member::connect(&stack, 1, "42").await;
    for _ in 0..2 {
        assert_eq!(here.change().await, ("join", there.client.clone()));
    }
    assert_eq!(here.presence("#42").await.len(), 2);
    assert_eq!(here.stats("hall:all").await, (2, 1));
    assert_eq!(here.refused("presence", "#43").await, 103);
    let gone = there.client.clone();
    drop(there);
    for _ in 0..2 {
        assert_eq!(here.change().await, ("leave", gone.clone()));
    }
    assert_eq!(here.presence("#42").await, [(own, "42".to_owned())].into());
}
