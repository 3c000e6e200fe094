//! Decisions of back ends, and channels that list their users.
#![expect(clippy::unnecessary_wraps, reason = "verdicts as the session gets them")]

use std::borrow::Cow;

use tidegate_shared::hook::{Decision, Event, Grant};

use super::*;
use crate::policy::Verdict;

const CONNECT: &[(&str, &str)] = &[("hooks.connect", "true")];
const REFRESH: &[(&str, &str)] =
    &[("hooks.connect", "true"), ("hooks.refresh", "true"), ("auth.refresh_grace", "5s")];

pub(super) fn allowed(expire_at: u64) -> Verdict {
    grant(Grant { expire_at, ..Grant::default() })
}

fn grant(grant: Grant) -> Verdict {
    Ok(Decision::Allowed(Box::new(grant)))
}

pub(super) fn refused() -> Verdict {
    Ok(Decision::Refused(protocol::Error { code: 1403, message: "no".into(), temporary: false }))
}

pub(super) fn silence() -> Verdict {
    Err(codes::INTERNAL.because("not decided in time"))
}

fn disconnect() -> Verdict {
    Ok(Decision::Disconnect(Disconnect { code: 4501, reason: Cow::Borrowed("go away") }))
}

fn asked(effects: Effects, event: Event) -> HookQuestion {
    match <[Effect; 1]>::try_from(effects) {
        Ok([Effect::Ask(ask)]) if ask.event == event => *ask,
        other => panic!("expected a question, got {other:?}"),
    }
}

impl Script {
    fn decide(&mut self, ask: HookQuestion, verdict: Verdict) -> Effects {
        self.session.verdict(ask.about, verdict, self.now)
    }

    /// Connected as 42 by a decision that ends after so many seconds.
    fn let_in(flags: &[(&str, &str)], seconds: u64) -> (Self, protocol::ConnectResult) {
        let mut script = Self::fresh(flags);
        let ask = asked(script.connect(""), Event::Connect);
        let expire_at = script.now.unix.as_secs() + seconds;
        let channels = vec!["shut:x".to_owned()];
        let (user, data) = ("42".into(), "{}".into());
        let grant = grant(Grant { user, expire_at, data, channels, ..Grant::default() });
        let effects = script.decide(ask, grant);
        let [Effect::Welcome { chosen }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(chosen.iter().map(|one| one.channel.name()).collect::<Vec<_>>(), ["#42", "shut:x"]);
        let result = script.welcomed(chosen, &[at(7), at(7)]).connect.unwrap();
        (script, result)
    }

    fn ask_to_subscribe(&mut self) -> HookQuestion {
        asked(self.subscribe("asked:x"), Event::Subscribe)
    }

    /// Subscribed to `asked:x` by a decision that ends after so many seconds.
    fn let_subscribe(&mut self, seconds: u64) -> protocol::SubscribeResult {
        let ask = self.ask_to_subscribe();
        let expire_at = self.now.unix.as_secs() + seconds;
        let (info, data) = ("1".into(), "2".into());
        let effects = self.decide(ask, grant(Grant { expire_at, info, data, ..Grant::default() }));
        let ticket = ticket(&effects);
        let channel = Channel::parse("asked:x").unwrap();
        self.subscribed(ticket, &channel, &at(7)).unwrap().unwrap().told.subscribe.unwrap()
    }

    fn history(&mut self, channel: &str) -> Effects {
        let history = HistoryRequest { channel: channel.to_owned(), limit: 1, ..HistoryRequest::default() };
        self.say(Command { history: Some(history), ..Command::default() })
    }
}

#[test]
fn only_a_client_without_a_token_waits_for_a_decision() {
    let mut script = Script::fresh(CONNECT);
    let ask = asked(script.connect(""), Event::Connect);
    assert!(script.session.is_connecting() && ask.question.user.is_none());
    assert_eq!(ask.question.client, script.session.client().as_str());
    assert_eq!(closed(&script.after(10)), 3502, "the wait for a decision has a limit");
    assert_eq!(script.decide(ask, allowed(0)), [], "too late");
    Script::connected(CONNECT);
}

#[test]
fn a_decision_that_names_no_user_id_lets_nobody_in() {
    for (user, accepted) in
        [("x".repeat(254), true), ("x".repeat(255), false), ("a\nb".into(), false), (" a".into(), false)]
    {
        let mut script = Script::fresh(CONNECT);
        let ask = asked(script.connect(""), Event::Connect);
        let effects = script.decide(ask, grant(Grant { user: user.clone(), ..Grant::default() }));
        if accepted {
            assert!(matches!(&effects[..], [Effect::Welcome { .. }]), "{effects:?}");
        } else {
            assert_eq!(error(&effects), 100, "{user:?}");
        }
    }
}

#[test]
fn a_decision_sets_the_user_and_the_validity() {
    let (mut script, result) = Script::let_in(CONNECT, 60);
    assert!(!result.expires && &result.data[..] == b"{}", "no fresh token is asked for");
    assert!(
        matches!(&script.publish("chat:x", "1")[..], [Effect::Publish { info, .. }] if info.user == "42")
    );
    script.live(59);
    assert_eq!(closed(&script.after(1)), 3005, "the client connects again and a back end decides again");
}

#[test]
fn a_refusal_or_a_missing_decision_connects_no_client() {
    for (verdict, code) in [(refused(), 1403), (silence(), 100)] {
        let mut script = Script::fresh(CONNECT);
        let ask = asked(script.connect(""), Event::Connect);
        assert_eq!(error(&script.decide(ask, verdict)), code);
        assert_eq!(closed(&script.rpc("echo")), 3501, "the rest of a frame after a refused connect");
    }
    let mut script = Script::fresh(CONNECT);
    let ask = asked(script.connect(""), Event::Connect);
    assert_eq!(closed(&script.decide(ask, disconnect())), 4501);
    let mut script = Script::fresh(CONNECT);
    let ask = asked(script.connect(""), Event::Connect);
    let user = "a\nb".to_owned();
    assert_eq!(error(&script.decide(ask, grant(Grant { user, ..Grant::default() }))), 100);
}

#[test]
fn a_back_end_prolongs_connections_and_is_asked_again_until_the_grace_ends() {
    let (mut script, result) = Script::let_in(REFRESH, 60);
    assert!(!result.expires);
    script.live(59);
    let ask = asked(script.after(1), Event::Refresh);
    assert_eq!(ask.question.user.as_deref(), Some("42"));
    let expire_at = script.now.unix.as_secs() + 10;
    assert_eq!(script.decide(ask, allowed(expire_at)), []);
    script.live(9);
    let ask = asked(script.after(1), Event::Refresh);
    assert_eq!(script.decide(ask, silence()), []);
    let ask = asked(script.after(1), Event::Refresh);
    assert_eq!(script.decide(ask, silence()), []);
    assert_eq!(closed(&script.after(4)), 3005);
}

#[test]
fn a_back_end_ends_connections() {
    for (verdict, code) in
        [(grant(Grant { expired: true, ..Grant::default() }), 3005), (refused(), 3005), (disconnect(), 4501)]
    {
        let (mut script, _) = Script::let_in(REFRESH, 1);
        let ask = asked(script.after(1), Event::Refresh);
        assert_eq!(closed(&script.decide(ask, verdict)), code);
    }
}

#[test]
fn a_client_refresh_is_an_error_where_a_back_end_prolongs_connections() {
    let mut script = Script::fresh(REFRESH);
    let exp = script.now.unix.as_secs() + 60;
    let result = script.welcome(&token(&serde_json::json!({"sub": "42", "exp": exp}))).connect.unwrap();
    assert!(!result.expires);
    script.live(59);
    asked(script.after(1), Event::Refresh);
    let token = token(&serde_json::json!({"sub": "42"}));
    let refresh = Command { refresh: Some(protocol::RefreshRequest { token }), ..Command::default() };
    assert_eq!(closed(&script.say(refresh)), 3501);
}

#[test]
fn a_decision_permits_a_subscription() {
    let mut script = Script::connected(&[]);
    let result = script.let_subscribe(60);
    assert!(!result.expires && &result.data[..] == b"2");
    let ask = asked(script.publish("asked:x", "1"), Event::Publish);
    assert!(matches!(&ask.about, AskedAbout::Publish { info, .. } if &info.chan_info[..] == b"1"));
    script.live(59);
    assert!(
        matches!(&script.after(1)[..], [Effect::Leave { .. }, Effect::Reply(push)]
            if push.push.as_ref().unwrap().unsubscribe.as_ref().unwrap().code == 2501),
        "it ends when the decision says"
    );
}

#[test]
fn a_refusal_or_a_missing_decision_subscribes_no_client() {
    for (verdict, code) in [(refused(), 1403), (silence(), 100)] {
        let mut script = Script::connected(&[]);
        let ask = script.ask_to_subscribe();
        assert_eq!(error(&script.subscribe("asked:x")), 105, "asked once");
        assert_eq!(error(&script.history("asked:x")), 103, "it is no subscriber before the decision");
        assert_eq!(error(&script.decide(ask, verdict)), code);
        script.ask_to_subscribe();
    }
    let mut script = Script::connected(&[]);
    let ask = script.ask_to_subscribe();
    assert_eq!(closed(&script.decide(ask, disconnect())), 4501);
}

#[test]
fn unsubscribing_before_the_decision_refuses_the_subscription_and_drops_the_decision() {
    let mut script = Script::connected(&[]);
    let ask = script.ask_to_subscribe();
    let effects = script.unsubscribe("asked:x");
    assert!(
        matches!(&effects[..], [Effect::Reply(a), Effect::Reply(b)] if a.error.is_some() && b.unsubscribe.is_some())
    );
    let again = script.ask_to_subscribe();
    assert_eq!(script.decide(ask, allowed(0)), [], "it was about the first");
    assert!(matches!(&script.decide(again, allowed(0))[..], [Effect::Join { .. }]));
}

#[test]
fn a_back_end_prolongs_the_subscriptions_it_permitted() {
    let (mut script, _) = Script::let_in(REFRESH, 10_000);
    script.let_subscribe(10);
    script.live(9);
    let ask = asked(script.after(1), Event::SubRefresh);
    assert_eq!(ask.question.channel, "asked:x");
    let expire_at = script.now.unix.as_secs() + 10;
    assert_eq!(script.decide(ask, allowed(expire_at)), []);
    script.live(9);
    let ask = asked(script.after(1), Event::SubRefresh);
    assert_eq!(script.decide(ask, silence()), []);
    let ask = asked(script.after(1), Event::SubRefresh);
    let over = grant(Grant { expired: true, ..Grant::default() });
    assert!(matches!(&script.decide(ask, over)[..], [Effect::Leave { .. }, Effect::Reply(_)]));
    script.ask_to_subscribe();
}

#[test]
fn a_decision_may_change_what_is_published() {
    let mut script = Script::connected(&[]);
    let ask = asked(script.publish("asked:x", "1"), Event::Publish);
    assert_eq!((&ask.question.data[..], ask.question.channel.as_str()), (&b"1"[..], "asked:x"));
    let tags = BTreeMap::from([("seen".to_owned(), "yes".to_owned())]);
    let verdict = grant(Grant { data: "2".into(), tags: Some(tags), ..Grant::default() });
    let effects = script.decide(ask, verdict);
    assert!(
        matches!(&effects[..], [Effect::Publish { command: 2, data, tags, .. }] if &data[..] == b"2" && tags.len() == 1),
        "{effects:?}"
    );
    let ask = asked(script.publish("asked:x", "1"), Event::Publish);
    assert!(
        matches!(&script.decide(ask, allowed(0))[..], [Effect::Publish { data, .. }] if &data[..] == b"1")
    );
    for (verdict, code) in [(refused(), 1403), (silence(), 100)] {
        let ask = asked(script.publish("asked:x", "1"), Event::Publish);
        assert_eq!(error(&script.decide(ask, verdict)), code);
    }
}

#[test]
fn a_channel_for_some_users_is_theirs_alone() {
    let mut script = Script::connected(&[]);
    assert!(matches!(&script.subscribe("dialogs:room#41,42")[..], [Effect::Join { .. }]));
    assert!(matches!(&script.history("dialogs:room#41,42")[..], [Effect::History { .. }]));
    assert!(matches!(&script.publish("dialogs:room#41,42", "1")[..], [Effect::Publish { .. }]));
    assert_eq!(error(&script.publish("dialogs:other#42", "1")), 103, "other rules still apply");
    for channel in
        ["dialogs:room#41", "dialogs:room#4", "dialogs:room#42#41", "dialogs:room#*", "dialogs:room"]
    {
        assert_eq!(error(&script.subscribe(channel)), 103, "{channel}");
        assert_eq!(error(&script.history(channel)), 103, "{channel}");
        assert_eq!(error(&script.publish(channel, "1")), 103, "{channel}");
        let permit = token(&serde_json::json!({"sub": "42", "channel": channel}));
        assert_eq!(error(&script.subscribe_with(channel, &permit)), 103, "not by a token either: {channel}");
    }
    assert_eq!(error(&Script::anonymous().subscribe("dialogs:room#")), 103);
    assert!(
        matches!(&script.subscribe("chat:room#41")[..], [Effect::Join { .. }]),
        "elsewhere a hash means nothing"
    );
}

#[test]
fn recovery_is_granted_on_request_where_it_is_not_forced() {
    for (recoverable, positioned, granted) in
        [(false, false, (false, false)), (false, true, (false, true)), (true, false, (true, true))]
    {
        let mut script = Script::connected(&[]);
        let subscribe = SubscribeRequest {
            channel: "plain:x".into(),
            recover: true,
            offset: 5,
            recoverable,
            positioned,
            ..SubscribeRequest::default()
        };
        let effects = script.say(Command { subscribe: Some(subscribe), ..Command::default() });
        let [Effect::Join { ticket, resume, .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(resume.is_some(), recoverable);
        let result = script
            .subscribed(*ticket, &Channel::parse("plain:x").unwrap(), &at(7))
            .unwrap()
            .unwrap()
            .told
            .subscribe
            .unwrap();
        assert_eq!((result.recoverable, result.positioned), granted);
        assert_eq!((result.epoch.is_empty(), result.was_recovering), (!granted.1, recoverable));
    }
}
