//! Tokens: from a JWT to who is connecting, or to a channel somebody may receive.
//!
//! Pure: the time comes in as an argument, keys that are fetched come in from `keys`. A token only chooses among the
//! configured issuers; its algorithm, its key and every address are that issuer's configuration, never the token's.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use data_encoding::BASE64;
use jsonwebtoken::dangerous::insecure_decode_claims;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tidegate_shared::{config::Config, protocol::json::Payload};

use self::issuer::Trusted;
pub(crate) use self::{
    issuer::BadKey,
    key_set::{FetchedKeys, NotAKeySet},
};

mod issuer;
mod key_set;
mod public_key;

#[cfg(test)]
mod tests;

/// The longest token that is looked at.
const MAX_TOKEN_LEN: usize = 8 * 1024;
/// The longest user id.
const MAX_USER_LEN: usize = 255;

/// Checks tokens.
pub(crate) struct Verifier {
    issuers: Vec<Trusted>,
    leeway: u64,
}

/// Who a connection token speaks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user's id; nothing for an anonymous client.
    pub(crate) user: Option<Box<str>>,
    /// When what it allows ends, in seconds since 1970.
    pub(crate) expires_at: Option<u64>,
    /// What the token says about the connection: any JSON, or nothing.
    pub(crate) info: Bytes,
    /// The channels the connection is subscribed to from its beginning.
    pub(crate) channels: Vec<Grant>,
}

/// A channel that a connection token names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The channel's name.
    pub(crate) channel: String,
    /// What the token says about the connection in this channel.
    pub(crate) info: Bytes,
    /// What it says to the client about the subscription.
    pub(crate) data: Bytes,
}

/// What a subscription token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    /// Whom; nothing for an anonymous client.
    pub(crate) user: Option<Box<str>>,
    /// The one connection, if it is for one only.
    pub(crate) client: Option<String>,
    /// The channel's name.
    pub(crate) channel: String,
    /// Until when, in seconds since 1970.
    pub(crate) expires_at: Option<u64>,
    /// What the token says about the connection in this channel: any JSON, or nothing.
    pub(crate) info: Bytes,
    /// What it says to the client about the subscription.
    pub(crate) data: Bytes,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// It was ours and its time is over, or has not begun.
    Expired,
    /// It is not one of ours.
    Forged,
    /// It names a key of this issuer that is not here; fetching the issuer's keys may change that.
    UnknownKey {
        /// The issuer's place among the configured ones.
        issuer: usize,
    },
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: Option<f64>,
    nbf: Option<f64>,
    /// When what the token allows ends, if not with the token: 0 for never.
    expire_at: Option<f64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    subs: BTreeMap<String, Described>,
    /// Present in tokens for a subscription, which do not open a connection.
    channel: Option<Value>,
    client: Option<Value>,
}

/// What a connection token says about one of its channels: JSON, or bytes in base64.
#[derive(Deserialize)]
struct Described {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
}

/// What is read of a token before its signature is checked: enough to look an issuer up, and used for nothing else.
#[derive(Deserialize)]
struct Unverified {
    iss: Option<String>,
}

impl Verifier {
    /// Fails where a configured public key is none, or not one for the configured algorithms.
    pub(crate) fn new(config: &Config) -> Result<Self, BadKey> {
        let issuers = config.all_issuers().iter().map(Trusted::new).collect::<Result<_, _>>()?;
        Ok(Self { issuers, leeway: config.auth.leeway.as_secs() })
    }

    /// The key sets that have to be fetched, each with its issuer's place.
    pub(crate) fn fetched_keys(&self) -> impl Iterator<Item = (usize, &Arc<FetchedKeys>)> {
        self.issuers.iter().enumerate().filter_map(|(place, issuer)| Some((place, issuer.fetched_keys()?)))
    }

    /// Checks a connection token at `now`, in seconds since 1970.
    pub(crate) fn verify(&self, token: &str, now: u64) -> Result<Identity, Invalid> {
        let (claims, expires_at) = self.claims(token, now)?;
        if claims.channel.is_some() {
            return Err(Invalid::Forged);
        }
        let named = claims.channels.into_iter().map(|channel| Ok(Grant { channel, ..Grant::default() }));
        let described = claims.subs.into_iter().map(|(channel, said)| {
            let (info, data) = (info(said.info, said.b64info)?, said_as(said.data, said.b64data)?);
            Ok(Grant { channel, info, data })
        });
        Ok(Identity {
            user: user(claims.sub),
            expires_at,
            info: info(claims.info, claims.b64info)?,
            channels: described.chain(named).collect::<Result<_, Invalid>>()?,
        })
    }

    /// Checks a subscription token at `now`, in seconds since 1970. Whether it is for this client is the caller's to see.
    pub(crate) fn verify_subscription(&self, token: &str, now: u64) -> Result<Permit, Invalid> {
        let (claims, expires_at) = self.claims(token, now)?;
        let Some(Value::String(channel)) = claims.channel else { return Err(Invalid::Forged) };
        let client = match claims.client {
            None => None,
            Some(Value::String(client)) => (!client.is_empty()).then_some(client),
            Some(_) => return Err(Invalid::Forged),
        };
        let info = info(claims.info, claims.b64info)?;
        let data = said_as(claims.data, claims.b64data)?;
        Ok(Permit { user: user(claims.sub), client, channel, expires_at, info, data })
    }

    /// What holds for every token: its issuer, signature, user and time. Returns when what it allows ends, too.
    fn claims(&self, token: &str, now: u64) -> Result<(Claims, Option<u64>), Invalid> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(Invalid::Forged);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Invalid::Forged)?;
        let unverified: Unverified = insecure_decode_claims(token).map_err(|_| Invalid::Forged)?;
        let place = self.place_of(unverified.iss.as_deref()).ok_or(Invalid::Forged)?;
        let issuer = self.issuers.get(place).ok_or(Invalid::Forged)?;
        let claims: Claims = issuer.open(token, &header).map_err(|refusal| match refusal {
            issuer::NotAccepted::Forged => Invalid::Forged,
            issuer::NotAccepted::UnknownKey => Invalid::UnknownKey { issuer: place },
        })?;
        let expires_at = claims.exp.map(seconds).transpose()?;
        let valid_from = claims.nbf.map(seconds).transpose()?;
        if !is_user_id(&claims.sub) {
            return Err(Invalid::Forged);
        }
        if expires_at.is_some_and(|at| at.saturating_add(self.leeway) <= now)
            || valid_from.is_some_and(|from| from > now.saturating_add(self.leeway))
        {
            return Err(Invalid::Expired);
        }
        let ends_at = match claims.expire_at.map(seconds).transpose()? {
            None => expires_at,
            Some(0) => None,
            Some(at) => Some(at),
        };
        Ok((claims, ends_at))
    }

    /// The issuer with exactly this `iss`, else the one that takes those nobody has.
    fn place_of(&self, iss: Option<&str>) -> Option<usize> {
        let place = |wanted: &str| self.issuers.iter().position(|issuer| issuer.iss() == wanted);
        iss.and_then(place).or_else(|| place(""))
    }
}

/// What others are told about a connection. It travels in headers and to clients of both encodings, so it is JSON: bytes that
/// are not become a string.
fn info(json: Option<Box<RawValue>>, base64: Option<String>) -> Result<Bytes, Invalid> {
    let said = said_as(json, base64)?;
    Ok(if said.is_empty() { said } else { Payload::from_any(&said).into_bytes() })
}

/// What a token says: JSON, or bytes in base64.
fn said_as(json: Option<Box<RawValue>>, base64: Option<String>) -> Result<Bytes, Invalid> {
    match base64.filter(|text| !text.is_empty()) {
        Some(text) => BASE64.decode(text.as_bytes()).map(Bytes::from).map_err(|_| Invalid::Forged),
        None => Ok(json.map(|json| String::from(Box::<str>::from(json)).into()).unwrap_or_default()),
    }
}

fn user(sub: String) -> Option<Box<str>> {
    (!sub.is_empty()).then(|| sub.into_boxed_str())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
fn seconds(time: f64) -> Result<u64, Invalid> {
    if (0.0..9e15).contains(&time) { Ok(time as u64) } else { Err(Invalid::Forged) }
}

/// A user id travels in headers: one line, no white space at its ends.
pub(crate) fn is_user_id(user: &str) -> bool {
    user.len() <= MAX_USER_LEN && !user.chars().any(char::is_control) && user.trim() == user
}
