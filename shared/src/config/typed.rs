//! From the text of a variable or flag to the value of its key. The key decides the type, never the text: a password of digits
//! keeps its leading zeros, and one in quotation marks keeps them. Pure.

use figment::{
    Figment,
    providers::{Format, Toml},
    value::{Dict, Map, Tag, Value},
};
use toml_edit::DocumentMut;

use super::{DEFAULT_TOML, variable::ARRAYS};

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A text as it is, white space included.
    Secret,
    /// A text, duration, size or address.
    Text,
    /// A number or a truth value.
    Plain,
    /// A list of texts.
    List,
    /// An array of tables.
    Tables,
}

/// The value of `key` that `text` stands for. A text that the key cannot hold stays a text, and is refused later.
pub(super) fn value(key: &str, text: &str) -> Value {
    let trimmed = text.trim();
    match shape(key) {
        Shape::Secret => text.into(),
        Shape::Text => trimmed.into(),
        Shape::Plain => truth(trimmed).or_else(|| number(trimmed)).unwrap_or_else(|| trimmed.into()),
        Shape::List => texts(trimmed),
        Shape::Tables => list(trimmed).unwrap_or_else(|| trimmed.into()),
    }
}

fn shape(key: &str) -> Shape {
    if ARRAYS.contains(&key) {
        return Shape::Tables;
    }
    // The application's type decides, when it reads its section.
    if key.starts_with("app.") {
        return Shape::Secret;
    }
    if key == "api.key" || key.ends_with(".password") || key.ends_with("_secret") {
        return Shape::Secret;
    }
    let Ok(document) = DEFAULT_TOML.parse::<DocumentMut>() else { return Shape::Text };
    let mut item = document.as_item();
    for part in key.split('.') {
        let Some(next) = item.get(part) else { return Shape::Text };
        item = next;
    }
    if item.is_integer() || item.is_bool() {
        Shape::Plain
    } else if item.is_array() {
        Shape::List
    } else {
        Shape::Text
    }
}

pub(super) fn truth(text: &str) -> Option<Value> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" => Some(true.into()),
        "false" => Some(false.into()),
        _ => None,
    }
}

/// A list in any notation, or texts between commas.
pub(super) fn texts(text: &str) -> Value {
    list(text.trim()).unwrap_or_else(|| {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(Value::from).collect::<Vec<_>>().into()
    })
}

pub(super) fn number(text: &str) -> Option<Value> {
    let plain = text.trim().replace('_', "");
    plain.parse::<u64>().map(Value::from).or_else(|_| plain.parse::<i64>().map(Value::from)).ok()
}

/// A list in the notation of TOML (`[{name = "a"}]`), of JSON (`[{"name": "a"}]`), or without quotation marks.
fn list(text: &str) -> Option<Value> {
    let toml = || {
        let document = Figment::from(Toml::string(&format!("x = {text}")));
        // Serialized again, so that it does not keep this document as its source.
        document.find_value("x").ok().and_then(|value| Value::serialize(value).ok())
    };
    let json =
        || serde_json::from_str::<serde_json::Value>(text).ok().and_then(|json| Value::serialize(json).ok());
    let bare = || text.parse::<Value>().ok();
    let is_list = |value: &Value| matches!(value, Value::Array(..));
    toml().filter(is_list).or_else(|| json().filter(is_list)).or_else(|| bare().filter(is_list))
}

/// A layer of the configuration with this one value.
pub(super) fn dict(key: &str, value: Value) -> Dict {
    let mut dict: Map<String, Value> = Dict::new();
    match key.split_once('.') {
        None => dict.insert(key.to_owned(), value),
        Some((head, rest)) => {
            dict.insert(head.to_owned(), Value::Dict(Tag::Default, self::dict(rest, value)))
        }
    };
    dict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_decides_the_type_of_a_text() {
        for secret in ["007", "1e5", "true", "-5", "[abc", "{a}", "\"abc\"", " a ", "0x1f", ""] {
            for key in ["api.key", "nats.worker.password", "auth.hmac_secret"] {
                assert_eq!(value(key, secret).as_str(), Some(secret), "{key}");
            }
        }
        for text in ["2024", "true", "1.5"] {
            assert_eq!(value("nats.prefix", &format!(" {text} ")).as_str(), Some(text));
        }
        assert_eq!(value("gateway.limits.channels", " 1_000 ").to_u128(), Some(1000));
        assert_eq!(value("gateway.limits.channels", "-1").to_i128(), Some(-1));
        assert_eq!(value("gateway.limits.channels", "many").as_str(), Some("many"));
        assert_eq!(value("auth.anonymous", "True").to_bool(), Some(true));
        assert_eq!(value("auth.anonymous", "yes").as_str(), Some("yes"));
    }

    #[test]
    fn a_list_is_read_in_every_usual_notation() {
        for text in ["https://a, https://b", "[https://a,https://b]", "[\"https://a\", 'https://b']"] {
            let list = value("gateway.origins", text);
            let list: Vec<_> = list.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert_eq!(list, ["https://a", "https://b"], "{text}");
        }
        assert_eq!(value("gateway.origins", "").as_array().map(<[_]>::len), Some(0));
        for text in [
            "[{name=a,match=rpc.a}]",
            "[{name = \"a\", match = \"rpc.a\"}]",
            r#"[{"name": "a", "match": "rpc.a"}]"#,
        ] {
            let tables = value("route", text);
            let table = tables.as_array().unwrap().first().unwrap().as_dict().unwrap();
            assert_eq!(table.get("match").and_then(Value::as_str), Some("rpc.a"), "{text}");
        }
    }
}
