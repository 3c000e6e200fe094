//! Isolation of two users: no command of one user, with whatever name or token, reaches the data of the other.

use serde_json::{Value, json};
use tidegate_cli::{
    client::{Options, raw::RawClient},
    stack::Stack,
};
use tidegate_shared::protocol::{Push, Reply};

use crate::{
    signer::Signer,
    stream_client::{StreamClient, emulate, query},
    support::{nothing_panicked, quick, service, start, url},
};

const TOML: &str = r#"
[[namespace]]
name = "inbox"
personal = true
allow_subscribe = "anyone"
allow_publish = "authenticated"
allow_history = "authenticated"
presence = true
allow_presence = "authenticated"
history_size = 10

[[namespace]]
name = "dialogs"
user_limited = true
allow_subscribe = "anyone"
allow_publish = "authenticated"
allow_history = "authenticated"
presence = true
join_leave = true
force_join_leave = true
allow_presence = "authenticated"
history_size = 10

[[namespace]]
name = "vault"
allow_subscribe = "token"
allow_publish = "subscriber"
allow_history = "subscriber"
presence = true
join_leave = true
force_join_leave = true
allow_presence = "subscriber"
history_size = 10
"#;

/// Ada's channels: names for clients and subjects for services.
const HERS: [(&str, &str); 6] = [
    ("#ada", "tide.ch.user.ada"),
    ("inbox:#ada", "tide.ch.inbox.=23ada"),
    ("dialogs:diary#ada", "tide.ch.dialogs.diary=23ada"),
    ("dialogs:duo#ada,carol", "tide.ch.dialogs.duo=23ada=2Ccarol"),
    ("vault:ada", "tide.ch.vault.ada"),
    ("vault:$ada", "tide.ch.vault.=24ada"),
];

/// Names that contain wildcards or separators and must not reach further.
const WIDE: [&str; 22] = [
    "*",
    ">",
    "#*",
    "#>",
    "#",
    "#ada.",
    "#ada.*",
    "# ada",
    "#ADA",
    "inbox:#*",
    "inbox:*",
    "inbox:>",
    "dialogs:*",
    "dialogs:diary#*",
    "dialogs:diary#ada.",
    "vault:*",
    "vault:>",
    "vault.ada",
    "vault:a*",
    "user:ada",
    "*:ada",
    "vault:ada\u{0}",
];

fn signed(stack: &Stack, claims: &Value) -> String {
    Signer::hmac(stack.config().auth.hmac_secret.expose()).token(&json!({"alg": "HS256"}), claims)
}

/// A connection that sends commands one after the other and keeps all pushes.
struct Voice {
    user: String,
    client: RawClient,
    commands: u32,
    pushes: Vec<Push>,
}

impl Voice {
    async fn of(stack: &Stack, gateway: usize, user: &str, hints: &Value) -> Self {
        let client = RawClient::open(&Options::new(url(stack, gateway))).await.unwrap();
        let mut voice = Self { user: user.to_owned(), client, commands: 0, pushes: Vec::new() };
        let token = signed(stack, &json!({"sub": user}));
        let reply = voice.say("connect", &json!({"token": token, "subs": hints})).await;
        let begun: Vec<_> = reply.connect.unwrap().subs.into_iter().map(|sub| sub.channel).collect();
        assert_eq!(begun, [format!("#{user}"), format!("inbox:#{user}")], "its own and nothing else");
        voice
    }

    async fn say(&mut self, verb: &str, what: &Value) -> Reply {
        self.commands += 1;
        self.client.send_text(&json!({"id": self.commands, verb: what}).to_string()).await.unwrap();
        loop {
            let reply = self.client.reply().await.unwrap();
            if reply.id == self.commands {
                return reply;
            }
            self.pushes.extend(reply.push);
        }
    }

    /// The publications so far, or the next one. Joins and leaves may only be the client's own.
    async fn published(&mut self) -> Vec<(String, String)> {
        if self.pushes.is_empty() {
            self.pushes.extend(self.client.reply().await.unwrap().push);
        }
        let mut published = Vec::new();
        for push in self.pushes.drain(..) {
            for info in push.join.iter().chain(&push.leave).filter_map(|change| change.info.as_ref()) {
                assert_eq!(info.user, self.user, "{}", push.channel);
            }
            let data = push.publication.map(|it| String::from_utf8_lossy(&it.data).into_owned());
            published.extend(data.map(|data| (push.channel, data)));
        }
        published
    }
}

/// Subscribes to all of ada's channels that are not subscribed on connect.
async fn subscribe_to_hers(stack: &Stack, ada: &mut Voice) {
    for channel in ["dialogs:diary#ada", "dialogs:duo#ada,carol", "vault:ada", "vault:$ada"] {
        let permit = signed(stack, &json!({"sub": "ada", "channel": channel}));
        let token = if channel.starts_with("vault") { permit } else { String::new() };
        let reply = ada.say("subscribe", &json!({"channel": channel, "token": token})).await;
        assert!(reply.subscribe.is_some(), "{channel}: {reply:?}");
    }
}

/// Sends every command with every name of the other user.
async fn try_everything(bob: &mut Voice) {
    for (channel, _) in HERS {
        for (verb, ask) in [
            ("subscribe", json!({"channel": channel})),
            ("subscribe", json!({"channel": channel, "recover": true, "offset": 0, "epoch": ""})),
            ("subscribe", json!({"channel": channel, "token": "forged", "join_leave": true})),
            ("publish", json!({"channel": channel, "data": "from bob"})),
            ("history", json!({"channel": channel, "limit": -1})),
            ("presence", json!({"channel": channel})),
            ("presence_stats", json!({"channel": channel})),
        ] {
            let reply = bob.say(verb, &ask).await;
            let code = reply.error.as_ref().map(|error| error.code);
            assert!(matches!(code, Some(103 | 108)), "{verb} {ask}: {reply:?}");
        }
        assert!(bob.say("unsubscribe", &json!({"channel": channel})).await.unsubscribe.is_some());
    }
    for channel in WIDE {
        // Some of these names are channels that every user may use.
        bob.say("subscribe", &json!({"channel": channel})).await;
        bob.say("history", &json!({"channel": channel, "limit": -1})).await;
        bob.say("presence", &json!({"channel": channel})).await;
    }
}

#[tokio::test]
async fn no_command_of_one_user_reaches_the_data_of_another() {
    let stack = start(quick(TOML).gateways(2).workers(1)).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    for (_, subject) in HERS {
        nats.publish(subject, "\"before\"".into()).await.unwrap().await.unwrap();
    }
    let mut ada = Voice::of(&stack, 0, "ada", &json!({})).await;
    subscribe_to_hers(&stack, &mut ada).await;
    let hint = json!({"recover": true, "offset": 0, "epoch": ""});
    let hints: serde_json::Map<_, _> =
        HERS.iter().map(|(channel, _)| ((*channel).to_owned(), hint.clone())).collect();
    let mut bobs =
        [Voice::of(&stack, 0, "bob", &json!(hints)).await, Voice::of(&stack, 1, "bob", &json!(hints)).await];
    for bob in &mut bobs {
        try_everything(bob).await;
    }
    // A key belongs to its user: bob's request is another one than ada's with the same key.
    let his = bobs.iter_mut().map(|bob| (bob, "his"));
    for (voice, word) in [(&mut ada, "hers")].into_iter().chain(his) {
        let answer = voice.say("rpc", &json!({"method": "echo#same-key", "data": word})).await;
        assert_eq!(answer.rpc.unwrap().data, format!("\"{word}\""));
    }
    let mut hers = Vec::new();
    for (channel, subject) in HERS {
        let secret = format!("\"secret of {channel}\"");
        nats.publish(subject, secret.clone().into()).await.unwrap().await.unwrap();
        hers.push((channel.to_owned(), secret));
    }
    // The order between channels is not defined.
    let mut heard = Vec::new();
    while heard.len() < hers.len() {
        heard.extend(ada.published().await);
    }
    heard.sort();
    hers.sort();
    assert_eq!(heard, hers, "ada hears all of hers once");
    nats.publish("tide.ch.user.bob", "\"for bob\"".into()).await.unwrap().await.unwrap();
    for bob in &mut bobs {
        let heard = loop {
            let published = bob.published().await;
            if !published.is_empty() {
                break published;
            }
        };
        assert_eq!(heard, [("#bob".to_owned(), "\"for bob\"".to_owned())], "bob hears nothing of hers");
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn the_personal_channels_of_users_whose_ids_look_like_lists_stay_their_own() {
    let stack = start(quick(TOML).gateways(1)).await;
    let longest = "x".repeat(255 - "inbox:#".len());
    for (owner, other) in
        [("cn=a,dc=b", "dc=b"), ("cn=a,dc=b", "cn=a"), ("x#42", "42"), (longest.as_str(), "x")]
    {
        let mut owner = Voice::of(&stack, 0, owner, &json!({})).await;
        let mut other = Voice::of(&stack, 0, other, &json!({})).await;
        for channel in [format!("#{}", owner.user), format!("inbox:#{}", owner.user)] {
            let publish = json!({"channel": channel, "data": 1});
            for (verb, what) in [
                ("subscribe", json!({"channel": channel})),
                ("history", json!({"channel": channel, "limit": 1})),
                ("presence", json!({"channel": channel})),
                ("publish", publish.clone()),
            ] {
                let refusal = other.say(verb, &what).await.error.unwrap();
                // The namespace `user` has no presence.
                assert!([103, 108].contains(&refusal.code), "{}: {verb} {channel}: {refusal:?}", other.user);
            }
            let own = owner.say("history", &json!({"channel": channel, "limit": 1})).await;
            assert!(own.history.is_some(), "{channel}: {own:?}");
        }
        let inbox = format!("inbox:#{}", owner.user);
        assert!(owner.say("publish", &json!({"channel": inbox, "data": 1})).await.error.is_none());
        assert_eq!(owner.published().await, [(inbox, "1".to_owned())]);
    }
    let mut client = RawClient::open(&Options::new(url(&stack, 0))).await.unwrap();
    let token = signed(&stack, &json!({"sub": format!("{longest}x")}));
    client.send_text(&json!({"id": 1, "connect": {"token": token}}).to_string()).await.unwrap();
    client.expect_close(3500).await.unwrap();
}

#[tokio::test]
async fn a_subscription_token_of_another_user_ends_the_connection() {
    let stack = start(quick(TOML).gateways(1)).await;
    for (channel, _) in HERS {
        for verb in ["subscribe", "sub_refresh"] {
            let mut bob = Voice::of(&stack, 0, "bob", &json!({})).await;
            let token = signed(&stack, &json!({"sub": "ada", "channel": channel}));
            bob.client
                .send_text(&json!({"id": 9, verb: {"channel": channel, "token": token}}).to_string())
                .await
                .unwrap();
            // Her personal channels are refused before a token is examined.
            if verb == "subscribe" && channel.contains('#') {
                assert_eq!(bob.client.reply().await.unwrap().error.unwrap().code, 103, "{channel}");
            } else {
                bob.client.expect_close(3500).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn one_way_clients_have_no_more_permissions_than_other_clients() {
    let stack = start(quick(TOML).gateways(1)).await;
    let wishes: serde_json::Map<_, _> = HERS
        .iter()
        .map(|(channel, _)| *channel)
        .chain(WIDE)
        .map(|channel| (channel.to_owned(), json!({"recover": true})))
        .collect();
    let connect = json!({"token": signed(&stack, &json!({"sub": "bob"})), "subs": wishes}).to_string();
    let target = format!("/connection/uni_sse?cf_connect={}", query(&connect));
    let mut stream = StreamClient::get(stack.gateways()[0].public, &target).await;
    let begun = stream.message().await.unwrap();
    for (channel, _) in HERS {
        assert!(begun["connect"]["subs"].get(channel).is_none(), "{channel}: {begun}");
    }
    assert!(begun["connect"]["subs"].get("#bob").is_some());
}

#[tokio::test]
async fn a_guessed_session_accepts_no_commands() {
    let stack = start(quick(TOML).gateways(1)).await;
    let ada = crate::stream_client::Emulated::connect(&stack, "ada").await;
    let publish = r#"{"id":2,"publish":{"channel":"dialogs:diary#ada","data":1}}"#;
    let nearly = format!("{}x", ada.session);
    for session in ["", "x", nearly.as_str(), &ada.session[1..], "*"] {
        let (status, _) = emulate(stack.gateways()[0].public, &ada.node, session, publish).await;
        assert!(matches!(status, 400 | 404), "{session:?}: {status}");
    }
}
