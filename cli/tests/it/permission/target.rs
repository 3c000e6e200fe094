//! What an attacker would like to publish, each with a body that would have an effect.

use serde_json::{Value, json};
use tidegate_shared::access::{Access, Account, Kind};

use super::state::State;

/// A subject, and what to publish there.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) subject: String,
    pub(super) body: String,
}

fn target(subject: impl Into<String>, body: &(impl ToString + ?Sized)) -> Target {
    Target { subject: subject.into(), body: body.to_string() }
}

/// Every subject that anybody may publish on, and all of JetStream's API. `pending` is the reply subject of a delivered request.
pub(super) fn all(access: &Access, state: &State, pending: &str) -> Vec<Target> {
    let mut targets = everybody(access);
    targets.extend(of_the_broker());
    targets.push(target("$JS.API.STREAM.CREATE.FORGED", &json!({"name": "FORGED", "subjects": ["forged"]})));
    for (name, info) in state {
        match name.split_once(" > ") {
            Some((stream, consumer)) => targets.extend(of_consumer(stream, consumer.trim_matches('"'))),
            None if !name.contains('#') => targets.extend(of_stream(name, &info["config"])),
            None => {}
        }
    }
    targets.extend(["+ACK", "+TERM", "-NAK"].map(|word| target(pending, word)));
    targets
}

/// The subjects of the table, with words in the place of wildcards. JetStream's API is listed in full elsewhere.
fn everybody(access: &Access) -> Vec<Target> {
    let mut subjects: Vec<String> = Account::USERS
        .iter()
        .flat_map(|account| access.rights(*account))
        .filter(|right| !right.subject.starts_with('$'))
        .flat_map(|right| match right.only.as_slice() {
            [] if right.kind == Kind::Hear => vec![named(&right.subject)],
            [] => vec![named(&right.subject)],
            only => only.to_vec(),
        })
        .collect();
    subjects.extend(
        ["tide.ctl.history_remove", "tide.due.rpc.echo.1.gw.forged", "tide.ch.kept.forged"]
            .map(str::to_owned),
    );
    subjects.sort_unstable();
    subjects.dedup();
    subjects.into_iter().map(|subject| target(subject, "forged")).collect()
}

/// A subject under a pattern that a stream captures.
fn named(pattern: &str) -> String {
    let word = pattern.split('.').nth(1).unwrap_or_default();
    let rest = match word {
        "in" => "rpc.echo.1.gw.forged",
        "ch" | "live" => "chat.forged",
        "presence" | "here" => "gateway.forged",
        "reply" | "park" | "answer" | "connected" | "gone" => "gw.forged",
        "dead" => "default.forged",
        "push" => match pattern.split('.').nth(2) {
            Some("client") => "client.gw.forged",
            Some("user") => "user.forged",
            _ => "all",
        },
        "hook" => "connect",
        "barrier" => return pattern.to_owned(),
        _ => "forged",
    };
    format!("tide.{word}.{rest}")
}

fn of_the_broker() -> Vec<Target> {
    [
        "$JS.API.INFO",
        "$JS.API.ACCOUNT.PURGE.TIDEGATE",
        "$JS.API.SERVER.REMOVE",
        "$JS.API.META.LEADER.STEPDOWN",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.SERVER.RELOAD",
        "$SYS.REQ.ACCOUNT.TIDEGATE.JSZ",
    ]
    .map(|subject| target(subject, ""))
    .into()
}

fn of_stream(stream: &str, config: &Value) -> Vec<Target> {
    let mut changed = config.clone();
    changed["max_msgs"] = json!(1);
    let consumer = |name: &str| json!({"stream_name": stream, "config": {"durable_name": name, "ack_policy": "none", "filter_subject": "tide.due.forged"}});
    vec![
        target(format!("$JS.API.STREAM.UPDATE.{stream}"), &changed),
        target(format!("$JS.API.STREAM.DELETE.{stream}"), ""),
        target(format!("$JS.API.STREAM.PURGE.{stream}"), ""),
        target(format!("$JS.API.STREAM.MSG.DELETE.{stream}"), &json!({"seq": 1})),
        target(format!("$JS.API.STREAM.MSG.GET.{stream}"), &json!({"seq": 1})),
        target(format!("$JS.API.STREAM.RESTORE.{stream}"), &json!({"config": config, "state": {}})),
        target(
            format!("$JS.API.STREAM.SNAPSHOT.{stream}"),
            &json!({"deliver_subject": "tide.ch.chat.forged"}),
        ),
        target(format!("$JS.API.CONSUMER.CREATE.{stream}"), &consumer("")),
        target(format!("$JS.API.CONSUMER.CREATE.{stream}.forged"), &consumer("forged")),
        target(format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.forged"), &consumer("forged")),
    ]
}

fn of_consumer(stream: &str, consumer: &str) -> Vec<Target> {
    let at = |call: &str| format!("$JS.API.CONSUMER.{call}.{stream}.{consumer}");
    vec![
        target(at("DELETE"), ""),
        target(at("PAUSE"), &json!({"pause_until": "2100-01-01T00:00:00Z"})),
        target(at("RESET"), ""),
        target(at("UNPIN"), &json!({"group": "a"})),
        target(at("MSG.NEXT"), &json!({"batch": 1, "no_wait": true})),
    ]
}
