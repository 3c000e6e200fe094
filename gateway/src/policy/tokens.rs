//! Verifies tokens: a connection token yields an identity, a subscription token a permit for a channel.
//!
//! Pure but for a short log: the time is an argument, and `keys` fetches keys. A token only selects one of the configured issuers. Its
//! algorithm, key and addresses come from that issuer's configuration, never from the token.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tidegate_shared::{config::Config, header};

use self::{
    claims::{Claims, Parts, info, said_as, seconds},
    issuer::{NotAccepted, Trusted},
    refusals::{Reason, Refusals},
};
pub(crate) use self::{
    issuer::BadKey,
    key_set::{FetchedKeys, NotAKeySet},
};

mod claims;
mod issuer;
mod key_set;
mod public_key;
mod refusals;
mod sightings;

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
    /// The longest life of a token in seconds; 0 is no limit.
    longest_life: u64,
    /// Whether a connection token may name no user.
    anonymous: bool,
    refusals: Refusals,
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
    /// It names a key that was still missing after a fetch. The client needs a fresh token; the key may come later.
    WithdrawnKey {
        /// The index of the configured issuer.
        issuer: usize,
    },
}

/// A refusal with its reason, and the index of the issuer that the token names, if it is configured.
#[derive(Debug)]
struct Refused {
    invalid: Invalid,
    reason: Reason,
    place: Option<usize>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        let invalid = if reason == Reason::Time { Invalid::Expired } else { Invalid::Forged };
        Self { invalid, reason, place: None }
    }
}

impl Verifier {
    /// Fails if a configured public key is invalid or does not fit the configured algorithms.
    pub(crate) fn new(config: &Config) -> Result<Self, BadKey> {
        let issuers = config.all_issuers().iter().map(Trusted::new).collect::<Result<_, _>>()?;
        Ok(Self {
            issuers,
            leeway: config.auth.leeway.as_secs(),
            longest_user: config.longest_user_id(),
            longest_life: config.auth.max_token_life.as_secs(),
            anonymous: config.auth.anonymous,
            refusals: Refusals::default(),
        })
    }

    /// The key sets that have to be fetched, each with its issuer's index.
    pub(crate) fn fetched_keys(&self) -> impl Iterator<Item = (usize, &Arc<FetchedKeys>)> {
        self.issuers.iter().enumerate().filter_map(|(place, issuer)| Some((place, issuer.fetched_keys()?)))
    }

    /// Verifies a connection token at `now`, in seconds since 1970.
    pub(crate) fn verify(&self, token: &str, now: u64) -> Result<Identity, Invalid> {
        self.identity(token, now).map_err(|refused| self.noted("connection", &refused, now))
    }

    /// Verifies a subscription token at `now`, in seconds since 1970. The caller checks that it is for this client.
    pub(crate) fn verify_subscription(&self, token: &str, now: u64) -> Result<Permit, Invalid> {
        self.permit(token, now).map_err(|refused| self.noted("subscription", &refused, now))
    }

    /// Notes that a valid token is for another user, client or channel than the one it was sent for.
    pub(crate) fn note_mismatch(&self, token: &'static str, now: u64) {
        self.refusals.note(token, None, Reason::Other, now);
    }

    /// Notes that a client sent no connection token, though it needs one.
    pub(crate) fn note_missing(&self, now: u64) {
        self.refusals.note("connection", None, Reason::Missing, now);
    }

    fn noted(&self, token: &'static str, refused: &Refused, now: u64) -> Invalid {
        let issuer = refused.place.and_then(|place| self.issuers.get(place));
        self.refusals.note(token, issuer.map(Trusted::name), refused.reason, now);
        refused.invalid
    }

    fn identity(&self, token: &str, now: u64) -> Result<Identity, Refused> {
        let (claims, expires_at) = self.claims(token, now)?;
        if claims.channel.is_some() {
            return Err(Reason::Kind.into());
        }
        if claims.sub.is_empty() && !self.anonymous {
            return Err(Reason::User.into());
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
            channels: described.chain(named).collect::<Result<_, Reason>>()?,
        })
    }

    fn permit(&self, token: &str, now: u64) -> Result<Permit, Refused> {
        let (claims, expires_at) = self.claims(token, now)?;
        let Some(Value::String(channel)) = claims.channel else { return Err(Reason::Kind.into()) };
        let client = match claims.client {
            None => None,
            Some(Value::String(client)) => (!client.is_empty()).then_some(client),
            Some(_) => return Err(Reason::Malformed.into()),
        };
        let info = info(claims.info, claims.b64info)?;
        let data = said_as(claims.data, claims.b64data)?;
        Ok(Permit { user: user(claims.sub), client, channel, expires_at, info, data })
    }

    /// Checks what all tokens share: issuer, signature, user and time. Returns the claims and the end of the validity.
    fn claims(&self, token: &str, now: u64) -> Result<(Claims, Option<u64>), Refused> {
        // A token from a file often has a newline behind it.
        let token = token.trim_ascii();
        if token.len() > MAX_TOKEN_LEN {
            return Err(Reason::Malformed.into());
        }
        let parts = Parts::read(token)?;
        let place = self.place_of(parts.claims.iss.as_deref()).ok_or(Reason::Issuer)?;
        let at_issuer = |reason: Reason| Refused { place: Some(place), ..reason.into() };
        let issuer = self.issuers.get(place).ok_or(Reason::Issuer)?;
        match issuer.check(&parts) {
            Ok(()) => {}
            Err(NotAccepted::For(reason)) => return Err(at_issuer(reason)),
            // Whatever the key, a fresh token is needed.
            Err(NotAccepted::UnknownKey | NotAccepted::WithdrawnKey) if self.is_over(&parts.claims, now) => {
                return Err(at_issuer(Reason::Time));
            }
            Err(NotAccepted::UnknownKey) => {
                return Err(Refused {
                    invalid: Invalid::UnknownKey { issuer: place },
                    ..at_issuer(Reason::Key)
                });
            }
            Err(NotAccepted::WithdrawnKey) => {
                return Err(Refused {
                    invalid: Invalid::WithdrawnKey { issuer: place },
                    ..at_issuer(Reason::Key)
                });
            }
        }
        let ends_at = self.times(&parts.claims, now).map_err(at_issuer)?;
        Ok((parts.claims, ends_at))
    }

    /// Checks the user and the times of verified claims. Returns the end of the validity.
    fn times(&self, claims: &Claims, now: u64) -> Result<Option<u64>, Reason> {
        let expires_at = claims.end(self.longest_life, self.leeway, now)?;
        let valid_from = claims.nbf.map(seconds).transpose()?;
        if !self.is_user_id(&claims.sub) {
            return Err(Reason::User);
        }
        if expires_at.is_some_and(|at| at.saturating_add(self.leeway) <= now)
            || valid_from.is_some_and(|from| from > now.saturating_add(self.leeway))
        {
            return Err(Reason::Time);
        }
        claims.permits_until(expires_at, self.longest_life, now)
    }

    /// Whether the token has expired by its own account.
    fn is_over(&self, claims: &Claims, now: u64) -> bool {
        let exp = claims.exp.and_then(|exp| seconds(exp).ok());
        exp.is_some_and(|exp| exp.saturating_add(self.leeway) <= now)
    }

    /// Whether a text can be a user id. It travels in headers: one line, no white space at its ends. It is the end of the
    /// names of the user's personal channels, which limits its length.
    pub(crate) fn is_user_id(&self, user: &str) -> bool {
        user.len() <= self.longest_user && header::carries(user)
    }

    /// The index of the issuer with exactly this `iss`, else of the one without a configured `iss`.
    fn place_of(&self, iss: Option<&str>) -> Option<usize> {
        let place = |wanted: &str| self.issuers.iter().position(|issuer| issuer.iss() == wanted);
        iss.and_then(place).or_else(|| place(""))
    }
}

fn user(sub: String) -> Option<Box<str>> {
    (!sub.is_empty()).then(|| sub.into_boxed_str())
}
