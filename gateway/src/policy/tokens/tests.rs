//! Valid and invalid tokens.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::*;
use crate::signer::Signer;

mod forged;
mod issuers;

const NOW: u64 = 1_800_000_000;

fn verifier(toml: &[(&str, &str)]) -> Verifier {
    let flags: Vec<_> = toml.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    Verifier::new(&Config::load(None, &flags).unwrap()).ok().unwrap()
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
fn a_token_yields_the_identity_of_the_connection() {
    let identity = verify(&json!({"sub": "42", "exp": NOW + 60, "info": {"name": "Ada"}})).unwrap();
    assert_eq!(identity.user.as_deref(), Some("42"));
    assert_eq!(identity.expires_at, Some(NOW + 60));
    assert_eq!(&identity.info[..], br#"{"name":"Ada"}"#);
}

#[test]
fn a_token_without_a_user_is_for_gateways_that_take_anonymous_clients() {
    for claims in [json!({}), json!({"sub": ""}), json!({"sub": null})] {
        assert_eq!(verify(&claims), Err(Invalid::Forged), "{claims}");
        let open = verifier(&[("auth.anonymous", "true")]);
        assert_eq!(open.verify(&token(Algorithm::HS256, &secret(), &claims), NOW).unwrap().user, None);
    }
}

#[test]
fn null_is_the_default_and_the_last_of_two_values_counts_in_every_claim() {
    crate::fields::check::<Claims>(&[]);
    crate::fields::check::<claims::Described>(&[]);
    let odd = Signer::hmac(secret())
        .token(&json!({"alg": "HS256"}), &json!({"sub": "42", "channels": null, "subs": {"a": null}}));
    assert_eq!(verifier(&[]).verify(&odd, NOW).unwrap().channels.len(), 1);
}

#[test]
fn white_space_around_a_token_is_left_out() {
    let good = token(Algorithm::HS256, &secret(), &json!({"sub": "42"}));
    for odd in [format!("{good}\n"), format!(" {good}\r\n")] {
        assert!(verifier(&[]).verify(&odd, NOW).is_ok());
    }
    assert_eq!(verifier(&[]).verify(&good.replacen('.', ".\n", 1), NOW), Err(Invalid::Forged));
}

#[test]
fn the_last_of_two_values_of_a_key_in_a_header_counts_as_in_the_claims() {
    let verified = |header: &str| {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let message = format!("{}.{}", part(header), part(r#"{"sub":"41","sub":"42"}"#));
        let key = EncodingKey::from_secret(secret().as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        verifier(&[]).verify(&format!("{message}.{signature}"), NOW)
    };
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS512","typ":"JWT","alg":"HS256","typ":null}"#,
        r#"{"alg":"HS256","kid":null}"#,
    ] {
        assert_eq!(verified(header).unwrap().user.as_deref(), Some("42"), "{header}");
    }
    assert_eq!(verified(r#"{"alg":"HS256","alg":"none"}"#), Err(Invalid::Forged));
}

#[test]
fn the_life_of_a_token_is_limited_where_configured() {
    let limited = verifier(&[("auth.max_token_life", "1h")]);
    let ends = |claims: Value| {
        limited.verify(&token(Algorithm::HS256, &secret(), &claims), NOW).map(|identity| identity.expires_at)
    };
    for (claims, end) in [
        (json!({"sub": "42", "exp": NOW + 3600}), Ok(Some(NOW + 3600))),
        (json!({"sub": "42", "exp": NOW + 3610}), Ok(Some(NOW + 3610))),
        (json!({"sub": "42", "exp": NOW + 3611}), Err(Invalid::Forged)),
        (json!({"sub": "42"}), Err(Invalid::Forged)),
        (json!({"sub": "42", "exp": null, "iat": null}), Err(Invalid::Forged)),
        (json!({"sub": "42", "iat": NOW - 60}), Ok(Some(NOW + 3540))),
        (json!({"sub": "42", "iat": NOW - 60, "exp": NOW + 60}), Ok(Some(NOW + 60))),
        (json!({"sub": "42", "iat": NOW - 60, "exp": NOW + 9000}), Ok(Some(NOW + 3540))),
        (json!({"sub": "42", "iat": NOW - 3611, "exp": NOW + 60}), Err(Invalid::Expired)),
        (json!({"sub": "42", "iat": NOW + 11, "exp": NOW + 60}), Err(Invalid::Expired)),
        (json!({"sub": "42", "iat": "now", "exp": NOW + 60}), Err(Invalid::Forged)),
        (json!({"sub": "42", "exp": NOW + 60, "expire_at": 0}), Ok(Some(NOW + 3600))),
        (json!({"sub": "42", "exp": NOW + 60, "expire_at": NOW + 1800}), Ok(Some(NOW + 1800))),
        (json!({"sub": "42", "exp": NOW + 60, "expire_at": NOW + 9000}), Ok(Some(NOW + 3600))),
        (json!({"sub": "42", "iat": NOW - 60, "expire_at": 0}), Ok(Some(NOW + 3540))),
        (json!({"sub": "42", "iat": NOW - 60, "expire_at": NOW + 9000}), Ok(Some(NOW + 3540))),
    ] {
        assert_eq!(ends(claims.clone()), end, "{claims}");
        let subscription = json!({"channel": "chat:x"});
        let mut permit = claims.clone();
        permit["channel"] = subscription["channel"].clone();
        let permit = limited.verify_subscription(&token(Algorithm::HS256, &secret(), &permit), NOW);
        assert_eq!(permit.map(|permit| permit.expires_at), end, "{claims}");
    }
    assert_eq!(verify(&json!({"sub": "42", "iat": "now"})).unwrap().expires_at, None, "not limited");
}

#[test]
fn a_refusal_has_its_reason() {
    let strict = verifier(&[("auth.issuer", "me"), ("auth.audience", "tide"), ("auth.max_token_life", "1h")]);
    let good = || json!({"iss": "me", "aud": "tide", "sub": "42", "exp": NOW + 60});
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        token(Algorithm::HS256, &secret(), &claims)
    };
    for (token, reason) in [
        ("no token".to_owned(), Reason::Malformed),
        (with("sub", json!(7)), Reason::Malformed),
        (with("iss", json!("you")), Reason::Issuer),
        (with("aud", json!("else")), Reason::Audience),
        (token(Algorithm::HS512, &secret(), &good()), Reason::Algorithm),
        (token(Algorithm::HS256, "another secret", &good()), Reason::Signature),
        (with("exp", json!(NOW - 60)), Reason::Time),
        (with("exp", Value::Null), Reason::Life),
        (with("sub", json!("")), Reason::User),
        (with("sub", json!("a\nb")), Reason::User),
        (with("channel", json!("chat:x")), Reason::Kind),
    ] {
        assert_eq!(strict.identity(&token, NOW).unwrap_err().reason, reason, "{token}");
    }
}

#[test]
fn a_token_names_channels_with_info_and_data() {
    let claims = json!({"sub": "42", "channels": ["a"], "b64info": "/wA=",
        "subs": {"b": {"info": [1], "data": "x"}, "c": {}}});
    let identity = verify(&claims).unwrap();
    assert_eq!(&identity.info[..], br#""/wA=""#);
    let grant = |channel: &str, info: &'static str, data: &'static str| Grant {
        channel: channel.to_owned(),
        info: info.into(),
        data: data.into(),
    };
    assert_eq!(identity.channels, [grant("b", "[1]", "\"x\""), grant("c", "", ""), grant("a", "", "")]);
    assert_eq!(verify(&json!({"sub": "42", "b64info": "?"})), Err(Invalid::Forged));
    assert_eq!(verify(&json!({"sub": "42", "channels": "a"})), Err(Invalid::Forged));
}

#[test]
fn expire_at_sets_the_end_independently_of_the_tokens_own_expiry() {
    let ends = |at: u64| verify(&json!({"sub": "42", "exp": NOW + 60, "expire_at": at})).unwrap().expires_at;
    assert_eq!(ends(NOW + 3600), Some(NOW + 3600));
    assert_eq!(ends(0), None);
    assert_eq!(verify(&json!({"sub": "42", "exp": NOW - 60, "expire_at": 0})), Err(Invalid::Expired));
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
    assert!(verify(json!({"sub": "42", "iss": "me", "aud": ["tide", "x"]})).is_ok());
    for claims in
        [json!({}), json!({"iss": "me"}), json!({"aud": "tide"}), json!({"iss": "you", "aud": "tide"})]
    {
        let mut claims = claims;
        claims["sub"] = json!("42");
        assert_eq!(verify(claims.clone()), Err(Invalid::Forged), "{claims}");
    }
}
