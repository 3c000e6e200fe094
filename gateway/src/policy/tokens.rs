//! Verifies tokens: a connection token yields an identity, a subscription token a permit for a channel.
//!
//! Pure: the time is an argument, and `keys` fetches keys. A token only selects one of the configured issuers. Its
//! algorithm, key and addresses come from that issuer's configuration, never from the token.

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

/// The longest accepted token in bytes.
const MAX_TOKEN_LEN: usize = 8 * 1024;

/// Verifies tokens of the configured issuers.
pub(crate) struct Verifier {
    issuers: Vec<Trusted>,
    leeway: u64,
    /// The longest user id in bytes.
    longest_user: usize,
}

/// The identity in a connection token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user id. `None` for an anonymous client.
    pub(crate) user: Option<Box<str>>,
    /// When the connection's validity ends, in seconds since 1970.
    pub(crate) expires_at: Option<u64>,
    /// The connection's info: JSON, or empty.
    pub(crate) info: Bytes,
    /// The server-side subscriptions of the connection.
    pub(crate) channels: Vec<Grant>,
}

/// A channel that a connection token names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The channel's name.
    pub(crate) channel: String,
    /// The connection's info in this channel: JSON, or empty.
    pub(crate) info: Bytes,
    /// Data for the client about the subscription.
    pub(crate) data: Bytes,
}

/// The permit in a subscription token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    /// The user id. `None` for an anonymous client.
    pub(crate) user: Option<Box<str>>,
    /// The client id, if the token is for one connection only.
    pub(crate) client: Option<String>,
    /// The channel's name.
    pub(crate) channel: String,
    /// When the subscription's validity ends, in seconds since 1970.
    pub(crate) expires_at: Option<u64>,
    /// The connection's info in this channel: JSON, or empty.
    pub(crate) info: Bytes,
    /// Data for the client about the subscription.
    pub(crate) data: Bytes,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Its signature is valid, but it has expired or is not valid yet.
    Expired,
    /// It is malformed, or no configured issuer signed it.
    Forged,
    /// It names a missing key of this issuer, which may come with the next fetch.
    UnknownKey {
        /// The index of the configured issuer.
        issuer: usize,
    },
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: Option<f64>,
    nbf: Option<f64>,
    /// When the validity ends, if not with the token; 0 for never.
    expire_at: Option<f64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    subs: BTreeMap<String, Described>,
    /// Present in subscription tokens, which do not open a connection.
    channel: Option<Value>,
    client: Option<Value>,
}

/// A channel in a connection token: its info and data as JSON, or as bytes in base64.
#[derive(Deserialize)]
struct Described {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
}

/// Read before the signature is checked, only to select the issuer.
#[derive(Deserialize)]
struct Unverified {
    iss: Option<String>,
}

impl Verifier {
    /// Fails if a configured public key is invalid or does not fit the configured algorithms.
    pub(crate) fn new(config: &Config) -> Result<Self, BadKey> {
        let issuers = config.all_issuers().iter().map(Trusted::new).collect::<Result<_, _>>()?;
        Ok(Self { issuers, leeway: config.auth.leeway.as_secs(), longest_user: config.longest_user_id() })
    }

    /// The key sets that have to be fetched, each with its issuer's index.
    pub(crate) fn fetched_keys(&self) -> impl Iterator<Item = (usize, &Arc<FetchedKeys>)> {
        self.issuers.iter().enumerate().filter_map(|(place, issuer)| Some((place, issuer.fetched_keys()?)))
    }

    /// Verifies a connection token at `now`, in seconds since 1970.
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

    /// Verifies a subscription token at `now`, in seconds since 1970. The caller checks that it is for this client.
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

    /// Checks what all tokens share: issuer, signature, user and time. Returns the claims and the end of the validity.
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
        if !self.is_user_id(&claims.sub) {
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

    /// Whether a text can be a user id. It travels in headers: one line, no white space at its ends. It is the end of the
    /// names of the user's personal channels, which limits its length.
    pub(crate) fn is_user_id(&self, user: &str) -> bool {
        user.len() <= self.longest_user && !user.chars().any(char::is_control) && user.trim() == user
    }

    /// The index of the issuer with exactly this `iss`, else of the one without a configured `iss`.
    fn place_of(&self, iss: Option<&str>) -> Option<usize> {
        let place = |wanted: &str| self.issuers.iter().position(|issuer| issuer.iss() == wanted);
        iss.and_then(place).or_else(|| place(""))
    }
}

/// The info about a connection. It travels in headers and to clients of both encodings, so bytes that are not JSON
/// become a string.
fn info(json: Option<Box<RawValue>>, base64: Option<String>) -> Result<Bytes, Invalid> {
    let said = said_as(json, base64)?;
    Ok(if said.is_empty() { said } else { Payload::from_any(&said).into_bytes() })
}

/// Reads a value that is given as JSON, or as bytes in base64.
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
