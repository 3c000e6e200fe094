//! The claims of a token, and reading their values. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::Header;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tidegate_shared::protocol::{json::Payload, lenient};

use super::refusals::Reason;

/// A token in its parts. Nothing is verified yet.
pub(super) struct Parts<'a> {
    pub(super) header: Header,
    pub(super) claims: Claims,
    /// What is signed: the header and the claims as they were sent.
    pub(super) message: &'a str,
    pub(super) signature: &'a str,
}

/// The claims of connection and subscription tokens.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: Option<String>,
    /// A text or a list of texts. Other values name no audience.
    pub(super) aud: Option<Value>,
    #[serde(default)]
    pub(super) sub: String,
    pub(super) exp: Option<f64>,
    pub(super) nbf: Option<f64>,
    /// When the token was made. Only a limited life needs it.
    pub(super) iat: Option<Value>,
    /// When the validity ends, if not with the token; 0 for never.
    pub(super) expire_at: Option<f64>,
    pub(super) info: Option<Note>,
    pub(super) b64info: Option<String>,
    pub(super) data: Option<Note>,
    pub(super) b64data: Option<String>,
    #[serde(default)]
    pub(super) channels: Vec<String>,
    #[serde(default)]
    pub(super) subs: BTreeMap<String, Described>,
    /// Present in subscription tokens, which do not open a connection.
    pub(super) channel: Option<Value>,
    pub(super) client: Option<Value>,
}

/// A channel in a connection token: its info and data as JSON, or as bytes in base64.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Described {
    pub(super) info: Option<Note>,
    pub(super) b64info: Option<String>,
    pub(super) data: Option<Note>,
    pub(super) b64data: Option<String>,
}

/// A JSON value as it was written.
#[derive(Debug, PartialEq)]
pub(super) struct Note(Box<str>);

impl<'de> Deserialize<'de> for Note {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
    }
}

impl<'a> Parts<'a> {
    pub(super) fn read(token: &'a str) -> Result<Self, Reason> {
        let (message, signature) = token.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (head, claims) =
            message.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(Reason::Malformed)?;
        let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| Reason::Malformed);
        let header = lenient::from_slice(&decode(head)?).map_err(|error| {
            // The header names an algorithm that is none, such as `none`.
            if error.is_data() { Reason::Algorithm } else { Reason::Malformed }
        })?;
        let claims = decode(claims)?;
        let claims = lenient::from_slice(&claims).map_err(|_| Reason::Malformed)?;
        Ok(Self { header, claims, message, signature })
    }
}

impl Claims {
    /// Whether the token is for this audience.
    pub(super) fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one == audience),
            _ => false,
        }
    }

    /// When what the token permits ends, if not with the token: `expire_at`, within a life limited to `longest` seconds; 0 is no
    /// limit. `token_end` is when the token ends.
    pub(super) fn permits_until(
        &self,
        token_end: Option<u64>,
        longest: u64,
        now: u64,
    ) -> Result<Option<u64>, Reason> {
        let wished = match self.expire_at.map(seconds).transpose()? {
            None => return Ok(token_end),
            Some(0) => None,
            Some(at) => Some(at),
        };
        if longest == 0 {
            return Ok(wished);
        }
        let made = self.iat.as_ref().and_then(Value::as_f64).and_then(|made| seconds(made).ok());
        let last = made.unwrap_or(now).saturating_add(longest);
        Ok(Some(wished.map_or(last, |at| at.min(last))))
    }

    /// When the token ends, with its life limited to `longest` seconds; 0 is no limit.
    pub(super) fn end(&self, longest: u64, leeway: u64, now: u64) -> Result<Option<u64>, Reason> {
        let exp = self.exp.map(seconds).transpose()?;
        if longest == 0 {
            return Ok(exp);
        }
        let made = match &self.iat {
            None => None,
            Some(made) => Some(seconds(made.as_f64().ok_or(Reason::Malformed)?)?),
        };
        let soon = now.saturating_add(leeway);
        match (made, exp) {
            (Some(made), _) if made > soon => Err(Reason::Time),
            (Some(made), exp) => {
                let end = made.saturating_add(longest);
                Ok(Some(exp.map_or(end, |exp| exp.min(end))))
            }
            (None, Some(exp)) if exp <= soon.saturating_add(longest) => Ok(Some(exp)),
            (None, _) => Err(Reason::Life),
        }
    }
}

/// The info about a connection. It travels in headers and to clients of both encodings, so bytes that are not JSON
/// become a string.
pub(super) fn info(json: Option<Note>, base64: Option<String>) -> Result<Bytes, Reason> {
    let said = said_as(json, base64)?;
    Ok(if said.is_empty() { said } else { Payload::from_any(&said).into_bytes() })
}

/// Reads a value that is given as JSON, or as bytes in base64.
pub(super) fn said_as(json: Option<Note>, base64: Option<String>) -> Result<Bytes, Reason> {
    match base64.filter(|text| !text.is_empty()) {
        Some(text) => BASE64.decode(text.as_bytes()).map(Bytes::from).map_err(|_| Reason::Malformed),
        None => Ok(json.map(|Note(json)| String::from(json).into()).unwrap_or_default()),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
pub(super) fn seconds(time: f64) -> Result<u64, Reason> {
    if (0.0..9e15).contains(&time) { Ok(time as u64) } else { Err(Reason::Malformed) }
}
