//! Everything the broker keeps: streams, consumers and messages.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use tidegate_shared::broker::Broker;

/// What differs between two readings although nothing has happened.
const RESTLESS: [&str; 7] = ["ts", "cluster", "num_waiting", "last_active", "first_ts", "active", "lag"];

/// Streams, consumers and messages, by name.
pub(super) type State = BTreeMap<String, Value>;

/// Reads everything.
pub(super) async fn read(admin: &Broker) -> State {
    let mut state = State::new();
    let names = api(admin, "STREAM.NAMES", json!({})).await;
    for stream in names["streams"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        state.insert(stream.to_owned(), calm(api(admin, &format!("STREAM.INFO.{stream}"), json!({})).await));
        let consumers = api(admin, &format!("CONSUMER.LIST.{stream}"), json!({})).await;
        for consumer in consumers["consumers"].as_array().into_iter().flatten() {
            state.insert(format!("{stream} > {}", consumer["name"]), calm(consumer.clone()));
        }
        for message in admin.range(stream, ">", 1, 100_000).await.unwrap().messages {
            let headers = message.headers.unwrap();
            let header = |name: &str| headers.get(name).unwrap().as_str();
            let body = String::from_utf8_lossy(&message.payload);
            let key = format!("{stream} # {}", header("Nats-Sequence"));
            state.insert(key, json!([header("Nats-Subject"), body]));
        }
    }
    state
}

/// What changed, for a message.
pub(super) fn changes(before: &State, after: &State) -> Vec<String> {
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| format!("{key} is gone"));
    let other = after.iter().filter_map(|(key, now)| match before.get(key) {
        None => Some(format!("{key} is new: {now}")),
        Some(then) if then != now => Some(format!("{key}: {}", differing(then, now).join(", "))),
        Some(_) => None,
    });
    gone.chain(other).map(|change| change.chars().take(400).collect()).take(20).collect()
}

/// The fields that differ.
fn differing(then: &Value, now: &Value) -> Vec<String> {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
            names
                .into_iter()
                .flat_map(|name| {
                    let field = |of: &Map<String, Value>| of.get(name).cloned().unwrap_or_default();
                    let (then, now) = (field(then), field(now));
                    differing(&then, &now).into_iter().map(move |difference| format!("{name} {difference}"))
                })
                .collect()
        }
        (then, now) if then == now => Vec::new(),
        (then, now) => vec![format!("was {then} and is {now}")],
    }
}

async fn api(admin: &Broker, call: &str, body: Value) -> Value {
    admin.jetstream().request(call.to_owned(), &body).await.unwrap()
}

fn calm(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| !RESTLESS.contains(&name.as_str()))
            .map(|(name, value)| (name, calm(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(calm).collect(),
        other => other,
    }
}
