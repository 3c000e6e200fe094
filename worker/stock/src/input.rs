//! What a stock handler gets of a request, and the fields of it that templates and statements name.

use std::{collections::BTreeMap, sync::OnceLock};

use bytes::Bytes;
use serde_json::Value;
use tidegate_shared::{config::Match, header, trace::Trace};
use tidegate_worker::{Failure, Job};

/// The error code for a request that lacks what a handler needs.
pub(crate) const UNUSABLE: u32 = 422;

/// One request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    pub(crate) id: String,
    pub(crate) user: Option<String>,
    pub(crate) client: Option<String>,
    pub(crate) route: String,
    pub(crate) method: Option<String>,
    pub(crate) channel: Option<String>,
    pub(crate) attempt: u32,
    pub(crate) params: BTreeMap<String, String>,
    pub(crate) trace: Option<Trace>,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
    /// The body as JSON, once a field has asked for it.
    pub(crate) json: OnceLock<Option<Value>>,
}

/// A part of a request that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    Id,
    User,
    Client,
    Route,
    Method,
    Channel,
    Attempt,
    /// The word of the method that matches `{name}` of the route's pattern.
    Param(String),
    /// A part of the JSON body: names of members and places in lists. The whole body if it is empty.
    Body(Vec<String>),
}

impl Input {
    pub(crate) fn of(job: &Job, matches: &Match) -> Self {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let trace = || Trace::parse(job.header(header::TRACE_PARENT)?, job.header(header::TRACE_STATE));
        let words = params(matches);
        let param = |name: String| job.param(&name).map(str::to_owned).map(|word| (name, word));
        Self {
            id: job.id().to_owned(),
            user: text(job.user()),
            client: text(job.client()),
            route: job.route().to_owned(),
            method: text(job.method()),
            channel: text(job.channel()),
            attempt: job.attempt(),
            params: words.into_iter().filter_map(param).collect(),
            trace: trace(),
            content_type: job.content_type().to_owned(),
            body: job.body(),
            json: OnceLock::new(),
        }
    }

    /// The value of a field; `null` for one that this request does not have. Rejects a request whose body is not JSON if the
    /// field is a part of it.
    pub(crate) fn value(&self, field: &Field) -> Result<Value, Failure> {
        let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::String);
        Ok(match field {
            Field::Id => Value::String(self.id.clone()),
            Field::User => text(&self.user),
            Field::Client => text(&self.client),
            Field::Route => Value::String(self.route.clone()),
            Field::Method => text(&self.method),
            Field::Channel => text(&self.channel),
            Field::Attempt => self.attempt.into(),
            Field::Param(name) => text(&self.params.get(name).cloned()),
            Field::Body(path) => self.part(path)?,
        })
    }

    fn part(&self, path: &[String]) -> Result<Value, Failure> {
        let json = self.json.get_or_init(|| {
            if self.body.is_empty() { Some(Value::Null) } else { serde_json::from_slice(&self.body).ok() }
        });
        let Some(mut value) = json.as_ref() else {
            return Err(Failure::reject(UNUSABLE, "the body is not JSON"));
        };
        for name in path {
            let part = match value {
                Value::Object(members) => members.get(name),
                Value::Array(list) => name.parse::<usize>().ok().and_then(|place| list.get(place)),
                _ => None,
            };
            let Some(part) = part else { return Ok(Value::Null) };
            value = part;
        }
        Ok(value.clone())
    }
}

impl Field {
    /// Reads a name such as `user`, `param.order` or `body.address.city`. `params` are the names in the route's pattern.
    pub(crate) fn parse(name: &str, params: &[String]) -> Result<Self, String> {
        let (head, rest) = match name.split_once('.') {
            Some((head, rest)) => (head, Some(rest)),
            None => (name, None),
        };
        match (head, rest) {
            ("id", None) => Ok(Self::Id),
            ("user", None) => Ok(Self::User),
            ("client", None) => Ok(Self::Client),
            ("route", None) => Ok(Self::Route),
            ("method", None) => Ok(Self::Method),
            ("channel", None) => Ok(Self::Channel),
            ("attempt", None) => Ok(Self::Attempt),
            ("body", None) => Ok(Self::Body(Vec::new())),
            ("body", Some(path)) if path.split('.').all(|part| !part.is_empty()) => {
                Ok(Self::Body(path.split('.').map(str::to_owned).collect()))
            }
            ("param", Some(param)) if params.iter().any(|known| known == param) => {
                Ok(Self::Param(param.to_owned()))
            }
            ("param", Some(param)) => {
                Err(format!("the route's `match` has no {{{param}}}, which {name} names"))
            }
            _ => Err(format!(
                "{name:?} is no field: there are id, user, client, route, method, channel, attempt, param.<name>, body and body.<name>"
            )),
        }
    }
}

/// The names in a route's pattern.
pub(crate) fn params(matches: &Match) -> Vec<String> {
    let text = matches.to_string();
    let name = |word: &str| Some(word.strip_prefix('{')?.strip_suffix('}')?.to_owned());
    text.split('.').filter_map(name).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A request of user 42 to `orders.7.place`, whose route is `rpc.orders.{order}.place`.
    pub(crate) fn input(body: &str) -> Input {
        Input {
            id: "k.abc".to_owned(),
            user: Some("42".to_owned()),
            client: Some("g.c".to_owned()),
            route: "orders".to_owned(),
            method: Some("orders.7.place".to_owned()),
            params: BTreeMap::from([("order".to_owned(), "7".to_owned())]),
            content_type: "application/json".to_owned(),
            body: Bytes::from(body.to_owned()),
            ..Input::default()
        }
    }

    #[test]
    fn a_field_is_read_by_its_name_and_an_unknown_one_is_named() {
        let matches = Match::Rpc("orders.{order}.place".parse().unwrap());
        let params = params(&matches);
        let input = input(r#"{"items": [{"sku": "a"}, {"sku": "b"}], "note": null}"#);
        let value = |name: &str| input.value(&Field::parse(name, &params).unwrap()).unwrap();
        assert_eq!(value("user"), json!("42"));
        assert_eq!(value("param.order"), json!("7"));
        assert_eq!(value("body.items.1.sku"), json!("b"));
        assert_eq!(
            (value("body.items.2"), value("body.note.x"), value("channel")),
            (json!(null), json!(null), json!(null))
        );
        for wrong in ["", "usr", "body.", "body..a", "param", "param.user", "id.x"] {
            assert!(Field::parse(wrong, &params).is_err(), "{wrong}");
        }
    }
}
