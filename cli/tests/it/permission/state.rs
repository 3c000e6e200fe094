//! Everything the broker keeps: streams, consumers and messages.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_shared::broker::Broker;

/// What differs between two readings although nothing has happened.
const RESTLESS: [&str; 5] = ["ts", "cluster", "num_waiting", "last_active", "first_ts"];

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
        Some(then) if then != now => Some(format!("{key} was {then} and is {now}")),
        Some(_) => None,
    });
    gone.chain(other).map(|change| change.chars().take(400).collect()).take(20).collect()
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
        other => other,
    }
}
