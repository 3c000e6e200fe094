//! Presence: permissions, joins and leaves, replies.

use super::*;
use tidegate_shared::protocol::{PresenceRequest, PresenceResult, PresenceStatsRequest, PresenceStatsResult};

const NAMESPACES: &str = r#"
    [[namespace]]
    name = "room"
    presence = true
    join_leave = true
    allow_presence = "authenticated"
    allow_subscribe = "anyone"
    [[namespace]]
    name = "silent"
    presence = true
    join_leave = true
    [[namespace]]
    name = "told"
    join_leave = true
    force_join_leave = true
    automatic = ["all"]
    [[namespace]]
    name = "user"
    allow_subscribe = "nobody"
    presence = true
"#;

fn connected(user: &str) -> Script {
    let mut script = Script::with_toml(NAMESPACES, &[("auth.anonymous", "true")]);
    let claims = serde_json::json!({"sub": user, "info": {"name": "A"}});
    script.welcome(&if user.is_empty() { String::new() } else { token(&claims) });
    script
}

fn ask(script: &mut Script, query: PresenceQuery, channel: &str) -> Effects {
    let channel = channel.to_owned();
    script.say(match query {
        PresenceQuery::Members => {
            Command { presence: Some(PresenceRequest { channel }), ..Command::default() }
        }
        PresenceQuery::Count => {
            Command { presence_stats: Some(PresenceStatsRequest { channel }), ..Command::default() }
        }
    })
}

#[test]
fn a_namespace_sets_who_may_read_presence() {
    for query in [PresenceQuery::Members, PresenceQuery::Count] {
        let mut script = connected("42");
        assert_eq!(error(&ask(&mut script, query, "nowhere:x")), 102);
        assert_eq!(error(&ask(&mut script, query, "chat:x")), 108);
        assert_eq!(error(&ask(&mut script, query, "told:x")), 108);
        assert_eq!(error(&ask(&mut script, query, "silent:x")), 103);
        assert_eq!(error(&ask(&mut script, query, "room:$x")), 103);
        assert_eq!(error(&ask(&mut script, query, "#43")), 103);
        for channel in ["room:x", "#42"] {
            let effects = ask(&mut script, query, channel);
            assert!(matches!(&effects[..], [Effect::Presence { query: q, .. }] if *q == query));
        }
        assert_eq!(error(&ask(&mut connected(""), query, "room:x")), 103);
        assert_eq!(closed(&ask(&mut script, query, "")), 3501);
    }
}

#[test]
fn a_clients_info_comes_from_its_token() {
    let script = connected("42");
    let member = script.session.member(&Channel::parse("room:x").unwrap()).unwrap();
    assert_eq!((member.user.as_str(), member.client.as_str()), ("42", script.session.client().as_str()));
    assert_eq!(member.conn_info, r#"{"name": "A"}"#.replace(": ", ":"));
    assert_eq!(
        script.session.member(&Channel::parse("chat:x").unwrap()),
        None,
        "the namespace keeps no members"
    );
}

#[test]
fn joins_and_leaves_go_to_subscribers_that_ask_and_may_and_to_all_where_forced() {
    let join_leave = |script: &mut Script, channel: &str, join_leave: bool| {
        let channel = channel.to_owned();
        let subscribe = SubscribeRequest { channel, join_leave, ..SubscribeRequest::default() };
        let effects = script.say(Command { subscribe: Some(subscribe), ..Command::default() });
        let [Effect::Join { ticket, .. }] = effects[..] else { panic!("{effects:?}") };
        script.session.join_leave(ticket)
    };
    let mut script = connected("42");
    assert!(join_leave(&mut script, "room:a", true) && !join_leave(&mut script, "room:b", false));
    assert!(!join_leave(&mut script, "silent:a", true) && !join_leave(&mut script, "chat:a", true));
    assert!(join_leave(&mut script, "told:a", false));
    assert!(!join_leave(&mut connected(""), "room:a", true));
    assert!(script.session.join_leave_by_default(&Channel::parse("told:all").unwrap()));
    assert!(!script.session.join_leave_by_default(&Channel::parse("#42").unwrap()));
}

#[test]
fn members_are_listed_or_counted_and_too_many_are_only_counted() {
    let info = |client: usize, user: &str| {
        let client = format!("g.{client}");
        (client.clone(), ClientInfo { user: user.to_owned(), client, ..ClientInfo::default() })
    };
    let mut script = Script::with_toml(NAMESPACES, &[("gateway.limits.outbox", "1 KiB")]);
    script.welcome(&token(&serde_json::json!({"sub": "42"})));
    let some = PresenceResult { presence: [info(1, "42"), info(2, "42"), info(3, ""), info(4, "")].into() };
    let stats = PresenceStatsResult { num_clients: 4, num_users: 2 };
    let effects = script.session.members_read(7, Ok(Found::Count(stats)));
    assert_eq!(effects, [Effect::Reply(Reply { id: 7, presence_stats: Some(stats), ..Reply::default() })]);
    let effects = script.session.members_read(8, Ok(Found::Members(some.clone())));
    assert_eq!(effects, [Effect::Reply(Reply { id: 8, presence: Some(some), ..Reply::default() })]);
    let many = PresenceResult { presence: (0..50).map(|client| info(client, "u")).collect() };
    assert_eq!(error(&script.session.members_read(9, Ok(Found::Members(many)))), 106);
    assert_eq!(error(&script.session.members_read(9, Err(codes::INTERNAL.error()))), 100);
}
