//! Orders from services.

use super::*;
use crate::outbox::order::{Action, Order};

fn order(action: Action) -> Order {
    Order { user: "42".to_owned(), action, ..Order::default() }
}

fn unsubscribe(channel: &str) -> Order {
    order(Action::Unsubscribe { channel: channel.to_owned(), code: 2000, reason: "enough".to_owned() })
}

fn refresh(expire_at: Option<u64>, info: &'static str) -> Order {
    order(Action::Refresh { expire_at, info: info.into() })
}

#[test]
fn a_disconnect_order_sends_its_code_and_reason() {
    for (code, reason) in [(3503, "force disconnect"), (4100, "moved")] {
        let mut script = Script::connected(&[]);
        let effects = script
            .session
            .ordered(&order(Action::Disconnect { code, reason: reason.to_owned() }), script.now);
        let [Effect::Close(disconnect)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!((disconnect.code, &*disconnect.reason), (code, reason));
        assert_eq!(script.session.ordered(&unsubscribe("chat:x"), script.now), [], "nothing follows");
    }
}

#[test]
fn ending_a_subscription_sends_a_push_and_ending_none_sends_nothing() {
    let mut script = Script::connected(&[]);
    assert_eq!(script.session.ordered(&unsubscribe("chat:x"), script.now), []);
    let ticket = ticket(&script.subscribe("chat:x"));
    script.subscribed(ticket, &chat_x(), &Position::live()).unwrap().unwrap();
    let effects = script.session.ordered(&unsubscribe("chat:x"), script.now);
    let [Effect::Leave { channel }, Effect::Reply(Reply { push: Some(push), .. })] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(*channel, chat_x());
    let told = push.unsubscribe.as_ref().unwrap();
    assert_eq!((told.code, &*told.reason), (2000, "enough"));
    assert!(matches!(script.subscribe("chat:x")[..], [Effect::Join { .. }]), "it can be had again");
}

#[test]
fn a_service_may_add_a_subscription_that_the_client_may_not_request() {
    let mut script = Script::connected(&[]);
    assert_eq!(error(&script.subscribe("closed:x")), 103);
    let subscribe = |channel: &str| {
        order(Action::Subscribe { channel: channel.to_owned(), info: "".into(), data: "".into() })
    };
    let effects = script.session.ordered(&subscribe("closed:x"), script.now);
    let [Effect::Join { channel, resume: None, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(channel.name(), "closed:x");
    assert_eq!(script.session.ordered(&subscribe("closed:x"), script.now), [], "it has it");
}

#[test]
fn a_refresh_order_shortens_and_lengthens_the_validity() {
    let mut script = Script::connected(&[("auth.refresh_grace", "5s")]);
    let end = |script: &Script, seconds| Some(script.now.unix.as_secs() + seconds);
    script.session.ordered(&refresh(end(&script, 100), ""), script.now);
    script.session.ordered(&refresh(end(&script, 10), ""), script.now);
    script.live(14);
    script.session.ordered(&refresh(None, r#"{"name":"Ann"}"#), script.now);
    assert_eq!(closed(&script.after(2)), 3005);
}

#[test]
fn a_clients_publications_carry_its_info() {
    let mut script = Script::connected(&[]);
    script.session.ordered(&refresh(None, r#"{"name":"Ann"}"#), script.now);
    let effects = script.publish("chat:x", "1");
    let [Effect::Publish { info, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(info.conn_info, r#"{"name":"Ann"}"#);
}

#[test]
fn before_connect_only_a_disconnect_order_takes_effect() {
    let mut script = Script::fresh(&[]);
    assert_eq!(script.session.ordered(&unsubscribe("chat:x"), script.now), []);
    assert_eq!(script.session.ordered(&refresh(Some(1), ""), script.now), []);
    let end = order(Action::Disconnect { code: 3503, reason: "force disconnect".to_owned() });
    assert_eq!(closed(&script.session.ordered(&end, script.now)), 3503);
}

#[test]
fn an_order_reads_the_same_on_every_gateway() {
    for action in [
        Action::Disconnect { code: 3503, reason: "force disconnect".to_owned() },
        Action::Subscribe { channel: "chat:x".to_owned(), info: "{}".into(), data: "".into() },
        Action::Unsubscribe { channel: "chat:x".to_owned(), code: 2000, reason: "enough".to_owned() },
        Action::Refresh { expire_at: Some(1), info: r#"{"a":1}"#.into() },
    ] {
        let order = order(action);
        assert_eq!(serde_json::from_str::<Order>(&serde_json::to_string(&order).unwrap()).unwrap(), order);
    }
}
