//! `[[issuer]]`: the issuers whose tokens are accepted, with their algorithms and keys.
//!
//! Describes where keys come from. Fetching and parsing them happens elsewhere.

use std::{net::Ipv4Addr, path::PathBuf};

use serde::Deserialize;

use super::{AuthConfig, Config, unit::Secret};
use crate::failure;

/// The name of the issuer that `[auth]` itself describes.
pub const SHORT_FORM: &str = "auth";

/// An issuer of tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the key is called what the claim is called in full")]
pub struct Issuer {
    /// The issuer's name in logs and metrics.
    pub name: String,
    /// The exact `iss` of its tokens. If empty, it accepts every `iss` that no other issuer has.
    #[serde(default)]
    pub issuer: String,
    /// The only accepted `aud`, if set.
    #[serde(default)]
    pub audience: String,
    /// The accepted signature algorithms.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The secret shared with the issuer.
    #[serde(default)]
    pub hmac_secret: Option<Secret>,
    /// The file that contains the shared secret.
    #[serde(default)]
    pub hmac_secret_file: Option<PathBuf>,
    /// The issuer's public key, PEM.
    #[serde(default)]
    pub public_key: Option<String>,
    /// The file that contains the public key.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// The URL of the issuer's key set.
    #[serde(default)]
    pub jwks_url: Option<String>,
}

/// A signature algorithm of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are those of RFC 7518")]
pub enum TokenAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    EdDSA,
}

impl TokenAlgorithm {
    /// Whether the key that checks a token can also sign one.
    pub fn is_hmac(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// Where the keys of an issuer come from.
#[derive(Debug, Clone, Copy)]
pub enum KeySource<'a> {
    /// A shared secret.
    Hmac(&'a Secret),
    /// One public key, PEM.
    Public(&'a str),
    /// A key set, fetched from this URL.
    Jwks(&'a str),
}

impl Issuer {
    /// Returns the only key source. The error contains the configuration key that is wrong and the reason.
    pub fn key_source(&self) -> Result<KeySource<'_>, (&'static str, String)> {
        let sources = [
            self.hmac_secret.as_ref().map(KeySource::Hmac),
            self.public_key.as_deref().map(KeySource::Public),
            self.jwks_url.as_deref().map(KeySource::Jwks),
        ];
        match sources.into_iter().flatten().collect::<Vec<_>>().as_slice() {
            [one] => Ok(*one),
            [] => Err(("jwks_url", "needs one of hmac_secret, public_key and jwks_url".to_owned())),
            _ => Err(("jwks_url", "has one of hmac_secret, public_key and jwks_url, not several".to_owned())),
        }
    }

    /// Reads the keys that are stored in files.
    pub(super) fn read_files(&mut self) -> Result<(), (&'static str, String)> {
        if let Some(secret) =
            read("hmac_secret_file", self.hmac_secret_file.as_ref(), self.hmac_secret.is_some())?
        {
            self.hmac_secret = Some(Secret::new(secret.trim_end_matches(['\n', '\r'])));
        }
        if let Some(key) = read("public_key_file", self.public_key_file.as_ref(), self.public_key.is_some())?
        {
            self.public_key = Some(key);
        }
        Ok(())
    }
}

fn read(
    key: &'static str,
    file: Option<&PathBuf>,
    given: bool,
) -> Result<Option<String>, (&'static str, String)> {
    let Some(path) = file else { return Ok(None) };
    if given {
        return Err((key, format!("give {} or the file, not both", key.trim_end_matches("_file"))));
    }
    std::fs::read_to_string(path)
        .map(Some)
        .map_err(|error| (key, format!("{} cannot be read: {}", path.display(), failure::reason(&error))))
}

impl AuthConfig {
    /// The issuer that the keys of `[auth]` describe, or `None` without a secret.
    fn short_form(&self) -> Option<Issuer> {
        (!self.hmac_secret.is_empty()).then(|| Issuer {
            name: SHORT_FORM.to_owned(),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            algorithms: vec![TokenAlgorithm::HS256],
            hmac_secret: Some(self.hmac_secret.clone()),
            hmac_secret_file: None,
            public_key: None,
            public_key_file: None,
            jwks_url: None,
        })
    }
}

impl Config {
    /// All issuers, including the one that `[auth]` describes.
    pub fn all_issuers(&self) -> Vec<Issuer> {
        self.auth.short_form().into_iter().chain(self.issuers.iter().cloned()).collect()
    }
}

/// Whether keys may be fetched from this URL: over TLS, or over plain HTTP from loopback only.
pub(super) fn is_fetchable(url: &str) -> bool {
    // Characters that URL parsers read differently, and credentials, which would appear in logs.
    if url.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '\\' | '@')) {
        return false;
    }
    let host = |rest: &str| rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
    if let Some(rest) = url.strip_prefix("https://") {
        return !host(rest).is_empty();
    }
    url.strip_prefix("http://").is_some_and(|rest| {
        let host = host(rest);
        let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        match name.map_or(host.as_str(), |(name, _)| name) {
            "localhost" | "[::1]" => true,
            name => name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for url in [
            "https://id.example.com/jwks",
            "http://127.0.0.1:8080/jwks",
            "http://localhost/jwks",
            "http://[::1]:1/",
        ] {
            assert!(is_fetchable(url), "{url}");
        }
        for url in [
            "http://id.example.com/jwks",
            "http://127.0.0.1@id.example.com/",
            "http://127.0.0.1\\@id.example.com/",
            "http://localhost.example.com/",
            "http://2130706433/",
            "https://me:secret@id.example.com/",
            "https://",
            "https:///jwks",
            "file:///etc/passwd",
            "HTTPS://id.example.com/ x",
            "",
        ] {
            assert!(!is_fetchable(url), "{url}");
        }
    }
}
