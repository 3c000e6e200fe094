//! Connection tokens (HS256), as an application's back end creates them.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use tidegate_shared::config::AuthConfig;

#[derive(Serialize)]
struct TokenClaims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    iss: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    aud: &'a str,
}

/// Returns a connection token for `user` that is valid for `ttl` from `now`.
pub fn connection_token(
    auth: &AuthConfig,
    user: &str,
    ttl: Duration,
    now: SystemTime,
) -> anyhow::Result<String> {
    anyhow::ensure!(
        !auth.hmac_secret.is_empty(),
        "auth.hmac_secret is empty, so only the configured issuers sign tokens: get one from an issuer, and pass it with --token"
    );
    let iat = now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let claims = TokenClaims {
        sub: user,
        iat,
        exp: iat.saturating_add(ttl.as_secs()),
        iss: &auth.issuer,
        aud: &auth.audience,
    };
    let key = EncodingKey::from_secret(auth.hmac_secret.expose().as_bytes());
    Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use tidegate_shared::config::Config;

    use super::*;

    fn claims(
        token: &str,
        secret: &[u8],
    ) -> Result<BTreeMap<String, serde_json::Value>, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims = HashSet::from(["exp".to_owned()]);
        validation.validate_aud = false;
        Ok(jsonwebtoken::decode(token, &DecodingKey::from_secret(secret), &validation)?.claims)
    }

    #[test]
    fn a_token_carries_the_user_the_expiry_and_the_configured_issuer() {
        let variables = BTreeMap::from([("TIDEGATE_AUTH__ISSUER".to_owned(), "tests".to_owned())]);
        let auth = Config::from_sources(None, variables, &[]).unwrap().auth;
        let token = connection_token(&auth, "42", Duration::from_mins(1), SystemTime::now()).unwrap();
        let claims = claims(&token, auth.hmac_secret.expose().as_bytes()).unwrap();
        assert_eq!(claims["sub"], "42");
        assert_eq!(claims["iss"], "tests");
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
        assert!(!claims.contains_key("aud"));
    }

    #[test]
    fn a_token_does_not_verify_with_another_key() {
        let auth = Config::from_sources(None, BTreeMap::new(), &[]).unwrap().auth;
        let token = connection_token(&auth, "42", Duration::from_mins(1), SystemTime::now()).unwrap();
        assert!(claims(&token, b"another").is_err());
    }
}
