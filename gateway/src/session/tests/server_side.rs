//! Server-side subscriptions.

use super::*;
use tidegate_shared::protocol::{ConnectResult, Unsubscribe};

const NAMESPACES: &str = r#"
    [[namespace]]
    name = "inbox"
    allow_subscribe = "nobody"
    personal = true
    [[namespace]]
    name = "news"
    automatic = ["all", "alerts"]
"#;

fn begun(connected: &ConnectResult) -> Vec<&str> {
    connected.subs.iter().map(|sub| sub.channel.as_str()).collect()
}

fn end(code: u32) -> Unsubscribe {
    Unsubscribe { code, reason: "because".into() }
}

#[test]
fn a_connection_begins_with_its_personal_and_the_automatic_channels() {
    let mut script = Script::with_toml(NAMESPACES, &[("auth.anonymous", "true")]);
    let reply = script.welcome(&token(&serde_json::json!({"sub": "42"})));
    assert_eq!(begun(&reply.connect.unwrap()), ["#42", "inbox:#42", "news:all", "news:alerts"]);
    assert_eq!(error(&script.subscribe("news:all")), 105);
    assert_eq!(closed(&script.session.lost(&Channel::parse("news:all").unwrap())), 3010);
    let mut script = Script::with_toml(NAMESPACES, &[("auth.anonymous", "true")]);
    assert_eq!(begun(&script.welcome("").connect.unwrap()), ["news:all", "news:alerts"]);
}

#[test]
fn a_connection_begins_with_the_channels_of_its_token_and_their_info() {
    let mut script = Script::fresh(&[]);
    let claims = serde_json::json!({"sub": "42", "channels": ["chat:x", "#42", "closed:y"],
        "subs": {"chat:x": {"data": {"role": "owner"}, "info": {"name": "Ada"}}}});
    let connected = script.welcome(&token(&claims)).connect.unwrap();
    assert_eq!(begun(&connected), ["#42", "chat:x", "closed:y"]);
    assert_eq!(connected.subs[1].result.as_ref().unwrap().data, r#"{"role": "owner"}"#.replace(' ', ""));
    let effects = script.publish("chat:x", "1");
    let [Effect::Publish { info, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(info.chan_info, r#"{"name":"Ada"}"#);
}

#[test]
fn a_token_cannot_name_undeclared_or_foreign_personal_channels() {
    for (channels, code) in [(["nowhere:x"], 102), (["#43"], 103), (["inbox:#43"], 103), (["default:x"], 107)]
    {
        let mut script = Script::with_toml(NAMESPACES, &[]);
        let claims = serde_json::json!({"sub": "42", "channels": channels});
        assert_eq!(error(&script.connect(&token(&claims))), code, "{channels:?}");
    }
    let mut script = Script::fresh(&[("gateway.limits.channels", "2")]);
    let claims = serde_json::json!({"sub": "42", "channels": ["chat:a", "chat:b"]});
    assert_eq!(closed(&script.connect(&token(&claims))), 3505);
}

#[test]
fn a_connection_resumes_its_server_side_subscriptions() {
    let mut script = Script::fresh(&[]);
    let hint =
        SubscribeRequest { recover: true, offset: 3, epoch: "e".into(), ..SubscribeRequest::default() };
    let connect = ConnectRequest {
        token: token(&serde_json::json!({"sub": "42", "channels": ["chat:x"]})),
        subs: [("chat:x".to_owned(), hint.clone()), ("chat:unasked".to_owned(), hint)].into(),
        ..ConnectRequest::default()
    };
    let effects = script.say(Command { connect: Some(connect), ..Command::default() });
    let [Effect::Welcome { chosen }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(chosen.len(), 2, "a hint alone subscribes to nothing");
    assert_eq!(chosen[0].resume, None);
    assert_eq!(chosen[1].resume, Some(Resume { offset: 3, epoch: "e".into() }));
    let resumed = Position { joined: Joined::Resumed { missed: Vec::new() }, epoch: Some("e".into()) };
    let reply = script.welcomed(chosen, &[at(7), resumed]);
    let result = reply.connect.unwrap().subs.swap_remove(1).result.unwrap();
    assert!(result.recovered && result.was_recovering);
    assert_eq!(result.offset, 3);
}

#[test]
fn a_service_adds_a_subscription_and_a_push_tells_the_client() {
    let mut script = Script::connected(&[]);
    let effects = script.session.add_subscription(chat_x(), Bytes::new(), "1".into());
    let ticket = ticket(&effects);
    assert!(
        script.session.add_subscription(chat_x(), Bytes::new(), Bytes::new()).is_empty(),
        "it has it already"
    );
    let reply = script.subscribed(ticket, &chat_x(), &at(7)).unwrap().unwrap().told;
    assert_eq!(reply.id, 0);
    let push = reply.push.unwrap();
    let subscribed = push.subscribe.unwrap();
    assert_eq!((push.channel.as_str(), subscribed.offset, subscribed.epoch.as_str()), ("chat:x", 7, "e"));
    assert_eq!(subscribed.data, "1");
    assert_eq!(closed(&script.session.lost(&chat_x())), 3010);
}

#[test]
fn a_server_side_subscription_that_fails_sends_no_reply() {
    let mut script = Script::connected(&[]);
    let effects = script.session.add_subscription(chat_x(), Bytes::new(), Bytes::new());
    assert!(script.session.not_subscribed(ticket(&effects), codes::INTERNAL.error()).is_empty());
    assert!(script.session.add_subscription(Channel::personal("42"), Bytes::new(), Bytes::new()).is_empty());
}

#[test]
fn a_service_cannot_subscribe_a_client_to_another_users_personal_channel() {
    let mut script = Script::with_toml(NAMESPACES, &[]);
    script.welcome(&token(&serde_json::json!({"sub": "42"})));
    for name in ["#43", "inbox:#43"] {
        let channel = Channel::parse(name).unwrap();
        assert!(script.session.add_subscription(channel, Bytes::new(), Bytes::new()).is_empty(), "{name}");
    }
}

#[test]
fn a_service_ends_any_subscription() {
    let mut script = Script::connected(&[]);
    let first = ticket(&script.subscribe("chat:x"));
    script.subscribed(first, &chat_x(), &at(7)).unwrap().unwrap();
    let effects = script.session.end_subscription_by_order(&chat_x(), end(2000));
    let [Effect::Leave { .. }, Effect::Reply(push)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(push.push.as_ref().unwrap().unsubscribe, Some(end(2000)));
    assert!(script.session.end_subscription_by_order(&chat_x(), end(2000)).is_empty());
    ticket(&script.subscribe("chat:x"));
    let effects = script.session.end_subscription_by_order(&chat_x(), end(2000));
    assert!(
        matches!(&effects[..], [Effect::Reply(a), Effect::Reply(b)] if a.subscribe.is_some() && b.push.is_some())
    );
}
