//! The ids of gateways, connections and requests.
//!
//! Random parts have 128 bits, so one id reveals nothing about another. No id derives from a client's input, except the id of a
//! keyed request, which is a digest of it.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    digest::{Context, SHA256, digest},
    rand,
};
use data_encoding::BASE32_DNSSEC;

/// The id of a gateway process, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayId(Box<str>);

impl GatewayId {
    /// Draws a new id of eight characters. It never equals `k`, the word that marks keyed requests.
    pub fn random() -> Self {
        Self(random_token::<5>().into())
    }

    /// Parses an id from a client. Returns `None` if it is not one plain token.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() <= 64 && plain_token(text)).then(|| Self(text.into()))
    }

    /// Returns the id's text, one subject token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of a connection: `<gateway>.<random>`, the same text in the protocol and in subjects. Clones share it: hub, session and
/// channels each have one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// Draws a new id for a connection of `gateway`.
    pub fn random(gateway: &GatewayId) -> Self {
        Self(format!("{}.{}", gateway.as_str(), random_token::<16>()).into())
    }

    /// Parses an id from a subject.
    pub fn parse(text: &str) -> Option<Self> {
        two_tokens(text).then(|| Self(text.into()))
    }

    /// Returns the gateway that holds the connection.
    pub fn gateway(&self) -> GatewayId {
        GatewayId(self.0.split('.').next().unwrap_or_default().into())
    }

    /// Returns the id's text: two subject tokens.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the id of a request begins that nobody waits for. No gateway has this id.
const UNAWAITED: &str = "s.";
/// How the id of a firing's request begins. No gateway has this id.
const FIRED: &str = "t.";

/// The id of a request: two subject tokens, `<gateway>.<random>`; with an idempotency key `k.<digest>`; `s.<random>` where no
/// answer is awaited; `t.<digest>-<sequence>-<time>` for a firing of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// Draws the id of a plain request that waits at `gateway`.
    pub fn plain(gateway: &GatewayId) -> Self {
        Self(format!("{}.{}", gateway.as_str(), random_token::<16>()).into())
    }

    /// Draws the id of a request that nobody waits for: no gateway receives the live copy of its answer.
    pub fn unawaited() -> Self {
        Self(format!("{UNAWAITED}{}", random_token::<16>()).into())
    }

    /// Whether a client gets an answer.
    pub fn is_awaited(&self) -> bool {
        !self.0.starts_with(UNAWAITED)
    }

    /// Returns the id of this user's request with this key. Every retry has the same id, on any gateway.
    pub fn keyed(user: &str, method: &str, key: &str) -> Self {
        Self(format!("k.{}", digest_of(&[user, method, key])).into())
    }

    /// As [`Self::keyed`], of a service that acts for no user. No user has this id, whatever its name.
    pub fn keyed_by_service(method: &str, key: &str) -> Self {
        Self(format!("k.{}", digest_of(&["", "service", method, key])).into())
    }

    /// Returns the id of the follow-up with this name of another request. It is a keyed one: every repetition has the same id.
    pub fn follow_up(of: &Self, name: &str) -> Self {
        Self(format!("k.{}", digest_of(&["", "follow-up", of.as_str(), name])).into())
    }

    /// Returns the id of a firing of the schedule with this name, which the broker stored under this sequence at this time, in
    /// milliseconds since 1970. No other firing has it, even if the stream was made anew.
    pub fn fired(schedule: &str, seq: u64, at: u64) -> Self {
        let digest = digest(&SHA256, schedule.as_bytes());
        let (short, _) = digest.as_ref().split_at(10);
        Self(format!("{FIRED}{}-{seq}-{at}", BASE32_DNSSEC.encode(short)).into())
    }

    /// Parses an id from a header. Returns `None` if it is not two plain tokens.
    pub fn parse(text: &str) -> Option<Self> {
        two_tokens(text).then(|| Self(text.into()))
    }

    /// The gateway at which a plain request waits.
    pub fn gateway(&self) -> GatewayId {
        GatewayId(self.0.split('.').next().unwrap_or_default().into())
    }

    /// Whether the client gave an idempotency key.
    pub fn is_keyed(&self) -> bool {
        self.0.starts_with("k.")
    }

    /// Whether it was drawn for this request alone, so that nobody else can send it again.
    pub fn is_drawn(&self) -> bool {
        !self.is_keyed() && !self.0.starts_with(FIRED)
    }

    /// Returns the id's text: two subject tokens.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn two_tokens(text: &str) -> bool {
    text.len() <= 64
        && text.split_once('.').is_some_and(|(first, second)| plain_token(first) && plain_token(second))
}

fn plain_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Returns the id of a publication with this key in this channel. Every repetition has the same id.
pub fn publication_id(channel: &str, key: &str) -> String {
    format!("p.{}", digest_of(&[channel, key]))
}

/// Returns the version of a schedule that a handler sets. Every attempt at the request with this id that says the same gives the
/// same version.
pub fn schedule_version(of: &RequestId, name: &str, time: &str, body: &[u8]) -> String {
    let body = BASE32_DNSSEC.encode(digest(&SHA256, body).as_ref());
    digest_of(&["schedule", of.as_str(), name, time, &body])
}

fn digest_of(parts: &[&str]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    let (short, _) = digest.as_ref().split_at(20);
    BASE32_DNSSEC.encode(short)
}

/// Returns the digest of a body, for comparing the bodies sent under one key.
pub fn body_digest(body: &[u8]) -> String {
    let digest = digest(&SHA256, body);
    let (short, _) = digest.as_ref().split_at(20);
    BASE32_DNSSEC.encode(short)
}

/// Returns `BYTES` random bytes as lower-case letters and digits.
pub fn random_token<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    #[expect(clippy::expect_used, reason = "a system without randomness cannot run safely at all")]
    rand::fill(&mut bytes).expect("the system's random source works");
    BASE32_DNSSEC.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_two_plain_tokens() {
        let gateway = GatewayId::random();
        assert_eq!(gateway.as_str().len(), 8);
        for id in [
            RequestId::plain(&gateway),
            RequestId::keyed("42", "orders.place", "7f3c"),
            RequestId::fired("nightly", u64::MAX, 1_767_225_600_000),
        ] {
            assert_eq!(RequestId::parse(id.as_str()), Some(id));
        }
    }

    #[test]
    fn only_an_id_that_nobody_can_make_again_is_drawn() {
        assert!(RequestId::plain(&GatewayId::random()).is_drawn() && RequestId::unawaited().is_drawn());
        let first = RequestId::keyed("42", "orders.place", "7f3c");
        for id in [RequestId::follow_up(&first, "mail"), RequestId::fired("nightly", 1, 2), first] {
            assert!(!id.is_drawn(), "{id:?}");
        }
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in ["", "a", "a.", ".b", "a.b.c", "a.*", "a b.c", "a.>"] {
            assert_eq!(RequestId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_gateways_id_is_one_plain_token() {
        let gateway = GatewayId::random();
        assert_eq!(GatewayId::parse(gateway.as_str()), Some(gateway));
        for text in ["", "a.b", "*", ">", "a b", "\u{e4}", &"a".repeat(65)] {
            assert_eq!(GatewayId::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_keyed_id_depends_on_user_method_and_key(a in any::<[String; 3]>(), b in any::<[String; 3]>()) {
            let id = |[user, method, key]: &[String; 3]| RequestId::keyed(user, method, key);
            prop_assert_eq!(a == b, id(&a) == id(&b));
            prop_assert_ne!(id(&a), RequestId::keyed_by_service(&b[1], &b[2]));
            prop_assert_ne!(id(&a), RequestId::follow_up(&id(&a), &a[1]));
        }
    }
}
