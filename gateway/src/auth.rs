//! Connection tokens: from a JWT to who is connecting.
//!
//! Pure: the time comes in as an argument. The algorithm is fixed by the configuration, never read from the token.

use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_shared::config::AuthConfig;

/// The longest token that is looked at.
const MAX_TOKEN_LEN: usize = 8 * 1024;
/// The longest user id.
const MAX_USER_LEN: usize = 255;

/// Checks tokens.
pub(crate) struct Verifier {
    key: DecodingKey,
    validation: Validation,
    leeway: u64,
}

/// Who a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user's id; nothing for an anonymous client.
    pub(crate) user: Option<Box<str>>,
    /// When the token ends, in seconds since 1970.
    pub(crate) expires_at: Option<u64>,
    /// What the token says about the connection: any JSON, or nothing.
    pub(crate) info: Bytes,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// It was ours and its time is over, or has not begun.
    Expired,
    /// It is not one of ours.
    Forged,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(default)]
    info: Option<Box<RawValue>>,
    /// Present in tokens for a subscription, which do not open a connection.
    channel: Option<serde_json::Value>,
}

impl Verifier {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        // Time is checked here, against the caller's clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        if !config.issuer.is_empty() {
            validation.set_issuer(&[&config.issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        if config.audience.is_empty() {
            validation.validate_aud = false;
        } else {
            validation.set_audience(&[&config.audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        let key = DecodingKey::from_secret(config.hmac_secret.expose().as_bytes());
        Self { key, validation, leeway: config.leeway.as_secs() }
    }

    /// Checks a token at `now`, in seconds since 1970.
    pub(crate) fn verify(&self, token: &str, now: u64) -> Result<Identity, Invalid> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(Invalid::Forged);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|_| Invalid::Forged)?
            .claims;
        let expires_at = claims.exp.map(seconds).transpose()?;
        let valid_from = claims.nbf.map(seconds).transpose()?;
        if claims.channel.is_some() || !is_user_id(&claims.sub) {
            return Err(Invalid::Forged);
        }
        if expires_at.is_some_and(|at| at.saturating_add(self.leeway) <= now)
            || valid_from.is_some_and(|from| from > now.saturating_add(self.leeway))
        {
            return Err(Invalid::Expired);
        }
        let user = (!claims.sub.is_empty()).then(|| claims.sub.into_boxed_str());
        let info =
            claims.info.map(|info| Bytes::from(String::from(Box::<str>::from(info)))).unwrap_or_default();
        Ok(Identity { user, expires_at, info })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
fn seconds(time: f64) -> Result<u64, Invalid> {
    if (0.0..9e15).contains(&time) { Ok(time as u64) } else { Err(Invalid::Forged) }
}

/// A user id travels in headers: one line, no white space at its ends.
fn is_user_id(user: &str) -> bool {
    user.len() <= MAX_USER_LEN && !user.chars().any(char::is_control) && user.trim() == user
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};
    use tidegate_shared::config::Config;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn verifier(toml: &[(&str, &str)]) -> Verifier {
        let flags: Vec<_> = toml.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        Verifier::new(&Config::load(None, &flags).unwrap().auth)
    }

    fn secret() -> String {
        Config::load(None, &[]).unwrap().auth.hmac_secret.expose().to_owned()
    }

    fn token(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn verify(claims: &Value) -> Result<Identity, Invalid> {
        verifier(&[]).verify(&token(Algorithm::HS256, &secret(), claims), NOW)
    }

    #[test]
    fn a_token_says_who_connects() {
        let identity = verify(&json!({"sub": "42", "exp": NOW + 60, "info": {"name": "Ada"}})).unwrap();
        assert_eq!(identity.user.as_deref(), Some("42"));
        assert_eq!(identity.expires_at, Some(NOW + 60));
        assert_eq!(&identity.info[..], br#"{"name":"Ada"}"#);
        assert_eq!(verify(&json!({})).unwrap().user, None);
    }

    #[test]
    fn a_token_out_of_its_time_is_expired() {
        assert_eq!(verify(&json!({"sub": "42", "exp": NOW - 11})), Err(Invalid::Expired));
        assert_eq!(verify(&json!({"sub": "42", "nbf": NOW + 11})), Err(Invalid::Expired));
        assert!(
            verify(&json!({"sub": "42", "exp": NOW - 9, "nbf": NOW + 10})).is_ok(),
            "clocks may differ a little"
        );
    }

    #[test]
    fn claims_of_the_wrong_type_are_not_absent_claims() {
        for exp in [json!("soon"), json!(-1), json!({}), json!(1e300), json!(true)] {
            assert_eq!(verify(&json!({"sub": "42", "exp": exp})), Err(Invalid::Forged), "{exp}");
        }
        assert_eq!(verify(&json!({"sub": 42})), Err(Invalid::Forged));
        assert_eq!(verify(&json!({"sub": "a\nb"})), Err(Invalid::Forged));
        assert_eq!(verify(&json!({"sub": "42", "channel": "chat"})), Err(Invalid::Forged));
    }

    #[test]
    fn forged_tokens_are_refused() {
        let good = token(Algorithm::HS256, &secret(), &json!({"sub": "42"}));
        let parts: Vec<&str> = good.split('.').collect();
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        let forged = [
            token(Algorithm::HS256, "another secret", &json!({"sub": "42"})),
            token(Algorithm::HS512, &secret(), &json!({"sub": "42"})),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}A.{}", parts[0], parts[1], parts[2]),
            "not a token".to_owned(),
            "x".repeat(MAX_TOKEN_LEN + 1),
        ];
        for token in forged {
            assert_eq!(verifier(&[]).verify(&token, NOW), Err(Invalid::Forged), "{token}");
        }
        assert!(verifier(&[]).verify(&good, NOW).is_ok());
    }

    #[test]
    fn issuer_and_audience_are_exact_where_configured() {
        let strict = verifier(&[("auth.issuer", "me"), ("auth.audience", "tide")]);
        let verify = |claims: Value| strict.verify(&token(Algorithm::HS256, &secret(), &claims), NOW);
        assert!(verify(json!({"iss": "me", "aud": ["tide", "x"]})).is_ok());
        for claims in
            [json!({}), json!({"iss": "me"}), json!({"aud": "tide"}), json!({"iss": "you", "aud": "tide"})]
        {
            assert_eq!(verify(claims.clone()), Err(Invalid::Forged), "{claims}");
        }
    }
}
