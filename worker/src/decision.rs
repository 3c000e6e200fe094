//! The answer of a handler that decides a question of a gateway.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidegate_shared::hook;

use crate::failure::{Failure, NotJson};

/// What a gateway does with the client that it asked about. A handler of [`Router::decide`](crate::Router::decide) answers
/// with one, or with a [`Grant`], which allows.
///
/// ```
/// use serde_json::Value;
/// use tidegate_worker::{Decision, Failure, Grant, Json, Router};
///
/// async fn may_subscribe(Json(question): Json<Value>) -> Result<Decision, Failure> {
///     Ok(match question["channel"].as_str() {
///         Some("chat:lobby") => Grant::new().info(&"a guest")?.into(),
///         Some(_) => Decision::refuse(1403, "members only"),
///         None => Decision::disconnect(4403, "no channel"),
///     })
/// }
///
/// let router = Router::new().decide("subscribe", may_subscribe);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Decision(Inner);

#[derive(Debug, Clone, PartialEq)]
enum Inner {
    Allow(Grant),
    Refuse { code: u32, message: String },
    Disconnect { code: u16, reason: String },
}

/// A permission and what it says to gateway and client. Each event uses what applies to it; [hooks](https://docs.rs/tidegate-worker)
/// of `connect` need a [`user`](Self::user), unless the client stays anonymous.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grant(Map<String, Value>);

/// The result of a handler that decides: a [`Decision`], a [`Grant`], or a `Result` of one of them and an error that is a
/// [`Failure`] or [`IntoFailure`](crate::IntoFailure). A [`Failure::reject`] refuses; any other failure is no decision, and
/// then nothing is allowed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not decide a question",
    label = "not a decision",
    note = "decide with `Grant`, `Decision` or `Result<decision, error>`, where the error is a `Failure` or `IntoFailure`"
)]
pub trait IntoDecision {
    /// Makes the decision. Fails with the handler's own failure.
    fn into_decision(self) -> Result<Decision, Failure>;
}

impl Decision {
    /// What the client asks for is allowed, and nothing more is said about it.
    pub fn allow() -> Self {
        Grant::new().into()
    }

    /// The client gets this error. Codes are 400 to 1999.
    pub fn refuse(code: u32, message: impl Into<String>) -> Self {
        Self(Inner::Refuse { code, message: message.into() })
    }

    /// The gateway closes the connection. Codes are 4000 to 4999; with 4500 and more the client does not connect again. The
    /// reason is cut to 32 bytes.
    pub fn disconnect(code: u16, reason: impl Into<String>) -> Self {
        Self(Inner::Disconnect { code, reason: reason.into() })
    }

    /// The decision as the gateway reads it. Fails when the gateway would not accept it.
    pub(crate) fn body(self) -> Result<Bytes, Failure> {
        let decision = match self.0 {
            Inner::Allow(Grant(result)) => json!({"result": result}),
            Inner::Refuse { code, message } => return Err(Failure::reject(code, message)),
            Inner::Disconnect { code, reason } => json!({"disconnect": {"code": code, "reason": reason}}),
        };
        let body = Bytes::from(decision.to_string());
        hook::read(&body)
            .map_err(|error| Failure::dead(format!("a gateway cannot use the decision: {error}")))?;
        Ok(body)
    }
}

impl Grant {
    /// A permission that says nothing more.
    pub fn new() -> Self {
        Self::default()
    }

    /// `connect`: who the client is.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        self.with("user", user.into())
    }

    /// When the permission ends, to the second. The gateway asks again then.
    #[must_use]
    pub fn until(self, end: SystemTime) -> Self {
        let since = end.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.with("expire_at", since.as_secs().max(1))
    }

    /// `refresh` and `sub_refresh`: the connection or the subscription ends now.
    #[must_use]
    pub fn expired(self) -> Self {
        self.with("expired", true)
    }

    /// What other clients see of this one. Fails when `info` cannot be written as JSON.
    pub fn info(self, info: &impl Serialize) -> Result<Self, NotJson> {
        Ok(self.with("info", serde_json::to_value(info)?))
    }

    /// Data for the client; for `publish`, the payload in place of the client's own. Fails when it cannot be written as JSON.
    pub fn data(self, data: &impl Serialize) -> Result<Self, NotJson> {
        Ok(self.with("data", serde_json::to_value(data)?))
    }

    /// `connect`: the channels that the gateway subscribes the client to.
    #[must_use]
    pub fn channels<C: Into<String>>(self, channels: impl IntoIterator<Item = C>) -> Self {
        let channels: Vec<String> = channels.into_iter().map(Into::into).collect();
        self.with("channels", channels)
    }

    /// `publish`: adds a tag to the publication. A name consists of letters, digits, `_` and `-`.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let tags = self.0.entry("tags").or_insert_with(|| json!({}));
        if let Value::Object(tags) = tags {
            tags.insert(name.into(), value.into().into());
        }
        self
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }
}

impl From<Grant> for Decision {
    fn from(grant: Grant) -> Self {
        Self(Inner::Allow(grant))
    }
}

impl IntoDecision for Decision {
    fn into_decision(self) -> Result<Decision, Failure> {
        Ok(self)
    }
}

impl IntoDecision for Grant {
    fn into_decision(self) -> Result<Decision, Failure> {
        Ok(self.into())
    }
}

impl<D: IntoDecision, E: Into<Failure>> IntoDecision for Result<D, E> {
    fn into_decision(self) -> Result<Decision, Failure> {
        self.map_err(Into::into)?.into_decision()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(decision: impl Into<Decision>) -> hook::Decision {
        hook::read(&decision.into().body().unwrap()).unwrap()
    }

    #[test]
    fn a_gateway_reads_what_a_decision_says() {
        let end = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let grant = Grant::new().user("42").until(end).expired().channels(["a:x"]).tag("k", "v");
        let hook::Decision::Allowed(read_back) = read(grant.info(&1).unwrap().data(&[2]).unwrap()) else {
            panic!("it is allowed")
        };
        assert_eq!((read_back.user.as_str(), read_back.ends()), ("42", Some(1_900_000_000)));
        assert_eq!((&read_back.info[..], &read_back.data[..]), (&b"1"[..], &b"[2]"[..]));
        assert_eq!((read_back.expired, &read_back.channels[..]), (true, &["a:x".to_owned()][..]));
        assert_eq!(read_back.tags.unwrap()["k"], "v");
        assert_eq!(read(Decision::allow()), hook::Decision::Allowed(Box::default()));
        let hook::Decision::Disconnect(end) = read(Decision::disconnect(4501, "go away")) else {
            panic!("it ends")
        };
        assert_eq!((end.code, &*end.reason), (4501, "go away"));
    }

    #[test]
    fn what_a_gateway_could_not_use_is_no_decision() {
        for decision in [Decision::disconnect(3000, ""), Grant::new().tag("a b", "c").into()] {
            let failure = decision.body().unwrap_err();
            assert!(
                matches!(&failure, Failure::Dead { reason } if reason.contains("cannot use")),
                "{failure:?}"
            );
        }
        let refused = Decision::refuse(1403, "no").body().unwrap_err();
        assert!(matches!(refused, Failure::Reject { code: 1403, .. }));
    }
}
