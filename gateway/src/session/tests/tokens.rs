//! Subscription tokens, and missing keys.

use serde_json::{Value, json};

use super::*;

impl Script {
    pub(super) fn subscribe_with(&mut self, channel: &str, token: &str) -> Effects {
        let subscribe = SubscribeRequest {
            channel: channel.to_owned(),
            token: token.to_owned(),
            ..SubscribeRequest::default()
        };
        self.say(Command { subscribe: Some(subscribe), ..Command::default() })
    }

    /// Subscribes with a token that ends after so many seconds.
    pub(super) fn subscribe_for(&mut self, channel: &str, seconds: u64) -> Effects {
        let exp = self.now.unix.as_secs() + seconds;
        self.subscribe_with(channel, &token(&json!({"sub": "42", "channel": channel, "exp": exp})))
    }

    fn sub_refresh(&mut self, channel: &str, claims: &Value) -> Effects {
        let sub_refresh = protocol::SubRefreshRequest { channel: channel.to_owned(), token: token(claims) };
        self.say(Command { sub_refresh: Some(sub_refresh), ..Command::default() })
    }

    /// Subscribes as above, and joins the channel.
    fn subscribed_for(&mut self, channel: &str, seconds: u64) -> protocol::SubscribeResult {
        let ticket = ticket(&self.subscribe_for(channel, seconds));
        let channel = Channel::parse(channel).unwrap();
        self.subscribed(ticket, &channel, &Position::live()).unwrap().unwrap().told.subscribe.unwrap()
    }
}

fn is_expiry(effects: &Effects, wanted: &str) -> bool {
    matches!(&effects[..], [Effect::Leave { channel }, Effect::Reply(Reply { push: Some(push), .. })]
        if channel.name() == wanted && push.channel == wanted && push.unsubscribe.as_ref().is_some_and(|u| u.code == 2501))
}

#[test]
fn a_subscription_token_opens_what_the_rule_does_not() {
    let mut script = Script::connected(&[]);
    assert_eq!(error(&script.subscribe("closed:x")), 103);
    let permit = token(&json!({"sub": "42", "channel": "closed:x"}));
    assert!(matches!(&script.subscribe_with("closed:x", &permit)[..], [Effect::Join { .. }]));
    assert_eq!(error(&script.subscribe_with("nowhere:x", &permit)), 102);
    let permit = token(&json!({"sub": "42", "channel": "shut:x"}));
    assert_eq!(
        error(&script.subscribe_with("shut:x", &permit)),
        103,
        "the rule `nobody` excludes token holders too"
    );
    let mut anonymous = Script::anonymous();
    let permit = token(&json!({"channel": "chat:x"}));
    assert!(matches!(&anonymous.subscribe_with("chat:x", &permit)[..], [Effect::Join { .. }]));
}

#[test]
fn private_channels_need_a_token_whatever_the_rule_says() {
    for channel in ["open:$vip", "chat:$vip", "$vip"] {
        let mut script = Script::connected(&[]);
        assert_eq!(error(&script.subscribe(channel)), 103, "{channel}");
        let permit = token(&json!({"sub": "42", "channel": channel}));
        assert!(matches!(&script.subscribe_with(channel, &permit)[..], [Effect::Join { .. }]));
    }
}

#[test]
fn no_token_subscribes_to_another_users_personal_channel() {
    let permit = token(&json!({"sub": "42", "channel": "#43"}));
    assert_eq!(error(&Script::connected(&[]).subscribe_with("#43", &permit)), 103);
}

#[test]
fn a_subscription_token_for_another_user_client_or_channel_ends_the_connection() {
    for claims in [
        json!({"sub": "43", "channel": "chat:x"}),
        json!({"channel": "chat:x"}),
        json!({"sub": "42", "channel": "chat:y"}),
        json!({"sub": "42", "channel": ""}),
        json!({"sub": "42", "channel": "chat:x", "client": "g.other"}),
    ] {
        let effects = Script::connected(&[]).subscribe_with("chat:x", &token(&claims));
        assert_eq!(closed(&effects), 3500, "{claims}");
    }
    let mut script = Script::connected(&[]);
    let client = script.session.client().as_str().to_owned();
    let bound = token(&json!({"sub": "42", "channel": "chat:x", "client": client}));
    assert!(matches!(&script.subscribe_with("chat:x", &bound)[..], [Effect::Join { .. }]));
}

#[test]
fn invalid_and_expired_subscription_tokens_leave_the_connection_open() {
    let mut script = Script::connected(&[]);
    let now = script.now.unix.as_secs();
    assert_eq!(error(&script.subscribe_with("chat:x", "forged")), 103);
    assert_eq!(error(&script.subscribe_with("chat:x", &token(&json!({"sub": "42"})))), 103);
    assert_eq!(error(&script.subscribe_with("chat:x", &token(&json!({"sub": "42", "channel": 7})))), 103);
    let client = json!({"sub": "42", "channel": "chat:x", "client": 7});
    assert_eq!(error(&script.subscribe_with("chat:x", &token(&client))), 103);
    let ended = json!({"sub": "42", "channel": "chat:x", "exp": now - 60});
    assert_eq!(error(&script.subscribe_with("chat:x", &token(&ended))), 109);
    assert!(matches!(&script.subscribe("chat:x")[..], [Effect::Join { .. }]), "none of them is subscribed");
}

#[test]
fn a_subscription_ends_with_its_token_and_the_connection_goes_on() {
    let mut script = Script::connected(&[]);
    let result = script.subscribed_for("chat:x", 60);
    assert!(result.expires && result.ttl == 60);
    script.live(84);
    assert!(is_expiry(&script.after(1), "chat:x"));
    script.live(60);
    assert!(script.subscribed_for("chat:x", 60).expires, "it may be subscribed to again");
}

#[test]
fn a_fresh_token_replaces_the_validity_of_a_subscription() {
    let mut script = Script::connected(&[]);
    script.subscribed_for("chat:x", 60);
    script.live(50);
    let exp = script.now.unix.as_secs() + 100;
    let fresh = json!({"sub": "42", "channel": "chat:x", "exp": exp});
    // The second time as SDKs do that leave the channel out.
    for channel in ["chat:x", ""] {
        let effects = script.sub_refresh(channel, &fresh);
        assert!(
            matches!(&effects[..], [Effect::Reply(Reply { sub_refresh: Some(r), .. })] if r.expires && r.ttl == 100),
            "{effects:?}"
        );
    }
    script.live(124);
    assert!(is_expiry(&script.after(1), "chat:x"));
    script.subscribed_for("chat:x", 60);
    let effects = script.sub_refresh("chat:x", &json!({"sub": "42", "channel": "chat:x"}));
    assert!(matches!(&effects[..], [Effect::Reply(Reply { sub_refresh: Some(r), .. })] if !r.expires));
    script.live(200);
}

#[test]
fn a_refresh_is_checked_like_a_subscription() {
    let mut script = Script::connected(&[]);
    assert_eq!(error(&script.sub_refresh("chat:x", &json!({"sub": "42", "channel": "chat:x"}))), 103);
    script.subscribed_for("chat:x", 60);
    assert_eq!(error(&script.sub_refresh("chat:x", &json!({"sub": "42"}))), 103);
    let ended = json!({"sub": "42", "channel": "chat:x", "exp": 1});
    assert_eq!(error(&script.sub_refresh("chat:x", &ended)), 109);
    for (channel, claims) in [
        ("chat:x", json!({"sub": "42", "channel": "chat:y"})),
        ("chat:x", json!({"sub": "43", "channel": "chat:x"})),
        ("", json!({"sub": "43", "channel": "chat:x"})),
    ] {
        let mut script = Script::connected(&[]);
        script.subscribed_for("chat:x", 60);
        assert_eq!(closed(&script.sub_refresh(channel, &claims)), 3500, "{claims}");
    }
    let mut nameless = Script::connected(&[]);
    assert_eq!(closed(&nameless.sub_refresh("", &json!({"sub": "42", "channel": ""}))), 3501);
    let empty = protocol::SubRefreshRequest { channel: "chat:x".to_owned(), token: String::new() };
    assert_eq!(closed(&script.say(Command { sub_refresh: Some(empty), ..Command::default() })), 3501);
}

#[test]
fn an_unsubscribe_forgets_when_the_subscription_would_have_ended() {
    let mut script = Script::connected(&[]);
    script.subscribed_for("chat:x", 60);
    script.unsubscribe("chat:x");
    script.live(200);
}

#[test]
fn a_missing_key_is_fetched_and_the_client_gets_a_temporary_error() {
    let issuer = "[[issuer]]\nname = 'ids'\nissuer = 'https://ids'\nalgorithms = ['ES256']\njwks_url = 'https://ids/keys'";
    let mut script = Script::with_toml(issuer, &[]);
    let unknown = unsigned(&json!({"iss": "https://ids", "sub": "42", "channel": "chat:x"}));
    let fetching = |effects: &Effects| {
        let [Effect::Reply(Reply { error: Some(error), .. }), Effect::FetchKeys { issuer: 1 }] = &effects[..]
        else {
            panic!("{effects:?}")
        };
        assert!(error.code == 100 && error.temporary && error.message.contains("keys are being fetched"));
    };
    fetching(&script.connect(&unknown));
    assert_eq!(closed(&script.rpc("echo")), 3501, "the rest of a frame after a refused connect");
    let mut script = Script::with_toml(issuer, &[]);
    script.welcome(&token(&json!({"sub": "42"})));
    fetching(&script.subscribe_with("chat:x", &unknown));
    fetching(&script.say(Command {
        refresh: Some(protocol::RefreshRequest { token: unknown.clone() }),
        ..Command::default()
    }));
    let refresh = protocol::SubRefreshRequest { channel: "chat:x".to_owned(), token: unknown };
    fetching(&script.say(Command { sub_refresh: Some(refresh), ..Command::default() }));
}

#[test]
fn a_key_that_a_fetch_has_not_brought_makes_the_client_fetch_a_new_token() {
    let issuer = "[[issuer]]\nname = 'ids'\nissuer = 'https://ids'\nalgorithms = ['ES256']\njwks_url = 'https://ids/keys'";
    let withdrawn = unsigned(&json!({"iss": "https://ids", "sub": "42", "channel": "chat:x"}));
    let fetch = |script: &Script| {
        let (_, keys) = script.session.rules.verifier.fetched_keys().next().unwrap();
        keys.fetching();
        keys.replace(br#"{"keys":[]}"#).unwrap();
    };
    let answered = |effects: &Effects, code: u32| {
        let [Effect::Reply(Reply { error: Some(error), .. }), Effect::FetchKeys { issuer: 1 }] = &effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!((error.code, error.temporary), (code, code == 100), "{error:?}");
    };
    let mut script = Script::with_toml(issuer, &[]);
    fetch(&script);
    answered(&script.connect(&withdrawn), 100);
    let rules = Arc::clone(&script.session.rules);
    fetch(&script);
    let mut again = Script::with_toml(issuer, &[]);
    again.session.rules = rules;
    answered(&again.connect(&withdrawn), 109);

    let mut script = Script::with_toml(issuer, &[]);
    script.welcome(&token(&json!({"sub": "42"})));
    fetch(&script);
    answered(&script.subscribe_with("chat:x", &withdrawn), 100);
    fetch(&script);
    answered(&script.subscribe_with("chat:x", &withdrawn), 109);
    let sub_refresh = protocol::SubRefreshRequest { channel: "chat:x".to_owned(), token: withdrawn.clone() };
    answered(&script.say(Command { sub_refresh: Some(sub_refresh), ..Command::default() }), 109);
    let refresh = protocol::RefreshRequest { token: withdrawn };
    let effects = script.say(Command { refresh: Some(refresh), ..Command::default() });
    let [Effect::FetchKeys { issuer: 1 }, Effect::Close(end)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(end.code, 3005, "the client reconnects, and is told there");
}

#[test]
fn a_token_that_has_expired_needs_no_key_to_be_replaced() {
    let issuer = "[[issuer]]\nname = 'ids'\nissuer = 'https://ids'\nalgorithms = ['ES256']\njwks_url = 'https://ids/keys'";
    let over = unsigned(&json!({"iss": "https://ids", "sub": "42", "channel": "chat:x", "exp": 1}));
    assert_eq!(error(&Script::with_toml(issuer, &[]).connect(&over)), 109);
    let mut script = Script::with_toml(issuer, &[]);
    script.welcome(&token(&json!({"sub": "42"})));
    assert_eq!(error(&script.subscribe_with("chat:x", &over)), 109);
    let sub_refresh = protocol::SubRefreshRequest { channel: "chat:x".to_owned(), token: over.clone() };
    assert_eq!(error(&script.say(Command { sub_refresh: Some(sub_refresh), ..Command::default() })), 109);
    let refresh = protocol::RefreshRequest { token: over };
    assert_eq!(closed(&script.say(Command { refresh: Some(refresh), ..Command::default() })), 3005);
}

/// A token of an issuer without fetched keys: its signature is never checked.
fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}.{}", part(&json!({"alg": "ES256", "kid": "k1"})), part(claims), "c2ln")
}
