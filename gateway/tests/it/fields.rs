//! For tests: the fields of a type, as its reader names them, and a check of how each takes `null` and a repeated key.

use std::fmt::{self, Debug, Display};

use serde::{
    Deserializer,
    de::{self, DeserializeOwned, Visitor},
    forward_to_deserialize_any,
};
use serde_json::Value;
use tidegate_shared::{
    hook,
    protocol::{
        Command, ConnectRequest, Empty, EmulationRequest, HistoryRequest, PresenceRequest,
        PresenceStatsRequest, PublishRequest, RefreshRequest, RpcRequest, SendRequest, StreamPosition,
        SubRefreshRequest, SubscribeRequest, UnsubscribeRequest, lenient,
    },
};

/// Asks a type for its fields. The answer comes as the error.
struct Ask;

#[derive(Debug)]
struct Fields(&'static [&'static str]);

impl Display for Fields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(self, formatter)
    }
}

impl std::error::Error for Fields {}

impl de::Error for Fields {
    fn custom<T: Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for Ask {
    type Error = Fields;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fields> {
        Err(Fields(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Fields> {
        Err(Fields(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The names of a type's fields in a document.
pub(crate) fn of<T: DeserializeOwned>() -> &'static [&'static str] {
    match T::deserialize(Ask) {
        Err(Fields(fields)) => fields,
        Ok(_) => &[],
    }
}

/// Values of many types. Each field takes some of them.
const VALUES: [&str; 13] = [
    "\"a\"",
    "\"b\"",
    "7",
    "8",
    "true",
    "false",
    "[]",
    "[\"a\"]",
    "[{}]",
    "{}",
    "{\"a\":{}}",
    "{\"a\":\"b\"}",
    "\"high\"",
];

/// Checks every field of a type. `payloads` are fields to which `null` is a value like any other.
pub(crate) fn check<T: DeserializeOwned + Debug>(payloads: &[&str]) {
    let read = |document: &str| lenient::from_str::<T>(document).map(|read| format!("{read:?}"));
    let kind = std::any::type_name::<T>();
    for field in of::<T>() {
        let null = read(&format!(r#"{{"{field}":null}}"#));
        let null = null.unwrap_or_else(|error| panic!("{kind}.{field}: null: {error}"));
        if let (Ok(absent), false) = (read("{}"), payloads.contains(field)) {
            assert_eq!(null, absent, "{kind}.{field}: null is not the default");
        }
        let single = |value: &str| read(&format!(r#"{{"{field}":{value}}}"#));
        let taken: Vec<&str> = VALUES.into_iter().filter(|value| single(value).is_ok()).collect();
        assert!(!taken.is_empty(), "{kind}.{field} takes none of the values");
        for first in taken.iter().chain(&["null"]) {
            for last in taken.iter().chain(&["null"]) {
                let twice = read(&format!(r#"{{"{field}":{first},"{field}":{last}}}"#));
                let twice = twice.unwrap_or_else(|error| panic!("{kind}.{field}: {first}, {last}: {error}"));
                assert_eq!(twice, single(last).unwrap(), "{kind}.{field}: {first}, {last}");
            }
        }
    }
}

#[test]
fn null_is_the_default_and_the_last_of_two_values_counts_in_every_field_of_every_command() {
    check::<Command>(&[]);
    for field in of::<Command>() {
        match *field {
            "id" => {}
            "connect" => check::<ConnectRequest>(&[]),
            "subscribe" => check::<SubscribeRequest>(&[]),
            "unsubscribe" => check::<UnsubscribeRequest>(&[]),
            "publish" => check::<PublishRequest>(&["data"]),
            "presence" => check::<PresenceRequest>(&[]),
            "presence_stats" => check::<PresenceStatsRequest>(&[]),
            "history" => check::<HistoryRequest>(&[]),
            "ping" => check::<Empty>(&[]),
            "send" => check::<SendRequest>(&["data"]),
            "rpc" => check::<RpcRequest>(&["data"]),
            "refresh" => check::<RefreshRequest>(&[]),
            "sub_refresh" => check::<SubRefreshRequest>(&[]),
            other => panic!("check the fields of {other}"),
        }
    }
    check::<StreamPosition>(&[]);
    check::<EmulationRequest>(&[]);
    check::<tidegate_shared::filter::FilterNode>(&[]);
}

#[test]
fn null_is_the_default_and_the_last_of_two_values_counts_in_every_field_of_a_hooks_decision() {
    check::<hook::Grant>(&[]);
    check::<hook::Sub>(&[]);
    let decided = |answer: Value| hook::read(answer.to_string().as_bytes());
    for (odd, plain) in [
        (
            serde_json::json!({"result": {"user": "42", "subs": {"a": null}}, "error": null, "disconnect": null}),
            serde_json::json!({"result": {"user": "42", "subs": {"a": {}}}}),
        ),
        (
            serde_json::json!({"error": {"code": 400, "message": null, "temporary": null}, "result": null}),
            serde_json::json!({"error": {"code": 400}}),
        ),
        (
            serde_json::json!({"disconnect": {"code": 4000, "reason": null}}),
            serde_json::json!({"disconnect": {"code": 4000}}),
        ),
    ] {
        assert_eq!(decided(odd), decided(plain.clone()), "{plain}");
    }
    let twice = br#"{"result":{"user":"1"},"result":{"user":"2","user":"3"}}"#;
    assert_eq!(hook::read(twice), decided(serde_json::json!({"result": {"user": "3"}})));
}
