//! Several issuers, each with its own keys and algorithms: no issuer verifies the tokens of another.

use data_encoding::BASE64URL_NOPAD;

use super::*;
use crate::signer::Signer;

const ISS: &str = "https://ids";

/// One `[[issuer]]` table beside the short form.
fn issuer(name: &str, iss: &str, algorithms: &str, key: &str) -> String {
    format!("[[issuer]]\nname = '{name}'\nissuer = '{iss}'\nalgorithms = [{algorithms}]\n{key}\n")
}

fn public(signer: &Signer) -> String {
    format!("public_key = '''{}'''", signer.pem())
}

pub(super) fn trusting(toml: &str) -> Verifier {
    tried(toml).unwrap_or_else(|error| panic!("{error}"))
}

fn tried(toml: &str) -> Result<Verifier, BadKey> {
    Verifier::new(&config(toml))
}

fn config(toml: &str) -> Config {
    let file = std::env::temp_dir().join(format!("auth-{}.toml", tidegate_shared::id::random_token::<8>()));
    std::fs::write(&file, toml).unwrap();
    let config = Config::load(Some(&file), &[]).unwrap();
    std::fs::remove_file(&file).unwrap();
    config
}

/// Hands a verifier the keys of its issuer at this index.
fn fetched(verifier: &Verifier, place: usize, keys: &[Value]) {
    let (_, set) = verifier.fetched_keys().find(|(issuer, _)| *issuer == place).unwrap();
    set.replace(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
}

fn claims() -> Value {
    json!({"iss": ISS, "sub": "42", "exp": NOW + 60})
}

/// The claims with one of them replaced.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[test]
fn every_algorithm_checks_what_it_signed() {
    for (algorithm, signer) in [
        ("RS256", Signer::rsa()),
        ("RS384", Signer::rsa()),
        ("RS512", Signer::rsa()),
        ("ES256", Signer::es256()),
        ("ES384", Signer::es384()),
        ("EdDSA", Signer::ed()),
    ] {
        let header = json!({"alg": algorithm, "kid": "k"});
        let good = signer.token(&header, &claims());
        let configured = trusting(&issuer("a", ISS, &format!("'{algorithm}'"), &public(&signer)));
        assert_eq!(configured.verify(&good, NOW).unwrap().user.as_deref(), Some("42"), "{algorithm}");
        let fetching =
            trusting(&issuer("a", ISS, &format!("'{algorithm}'"), "jwks_url = 'https://ids/keys'"));
        fetched(&fetching, 1, &[signer.jwk("k")]);
        assert!(fetching.verify(&good, NOW).is_ok(), "{algorithm}");
        assert_eq!(fetching.verify(&good, NOW + 71), Err(Invalid::Expired));
    }
    for algorithm in ["HS256", "HS384", "HS512"] {
        let configured = trusting(&issuer("a", ISS, &format!("'{algorithm}'"), "hmac_secret = 'shared'"));
        let good = Signer::hmac("shared").token(&json!({"alg": algorithm}), &claims());
        assert!(configured.verify(&good, NOW).is_ok(), "{algorithm}");
    }
}

/// Two issuers, and tokens of the first that are right but for one thing.
struct Forger {
    rsa: Signer,
    ec: Signer,
    verifier: Verifier,
    header: Value,
    claims: Value,
}

impl Forger {
    fn new() -> Self {
        let (rsa, ec) = (Signer::rsa(), Signer::es256());
        let first = issuer("a", ISS, "'RS256', 'RS384'", &public(&rsa)) + "audience = 'tide'\n";
        let verifier = trusting(&(first + &issuer("b", "https://b", "'ES256'", &public(&ec))));
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": "k"});
        Self { rsa, ec, verifier, header, claims: with("aud", json!("tide")) }
    }

    fn good(&self) -> String {
        self.rsa.token(&self.header, &self.claims)
    }

    /// With another claim.
    fn but(&self, name: &str, value: Value) -> String {
        let mut claims = self.claims.clone();
        claims[name] = value;
        self.rsa.token(&self.header, &claims)
    }

    /// With another header.
    fn under(&self, name: &str, value: Value) -> String {
        let mut header = self.header.clone();
        header[name] = value;
        self.rsa.token(&header, &self.claims)
    }

    fn refuses(&self, tokens: &[String]) {
        assert!(self.verifier.verify(&self.good(), NOW).is_ok());
        for (index, token) in tokens.iter().enumerate() {
            assert_eq!(self.verifier.verify(token, NOW), Err(Invalid::Forged), "{index}: {token}");
            let permit = self.verifier.verify_subscription(token, NOW);
            assert_eq!(permit, Err(Invalid::Forged), "{index}: {token}");
        }
    }
}

#[test]
fn tokens_that_are_not_signed_by_their_issuer_are_refused() {
    let forger = Forger::new();
    let Forger { ec, header, claims, .. } = &forger;
    let good = forger.good();
    let parts: Vec<&str> = good.split('.').collect();
    let text = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let twice = text(r#"{"iss":"https://b","iss":"https://ids","sub":"42","aud":"tide"}"#);
    forger.refuses(&[
        Signer::rsa().token(header, claims),
        ec.token(header, claims),
        Signer::ed().token(header, claims),
        ec.token(&json!({"alg": "ES256"}), claims),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.{}.", parts[0], parts[1], parts[2]),
        format!(".{}.{}", parts[1], parts[2]),
        format!("{}..{}", parts[0], parts[2]),
        format!("{}.{}.{}A", parts[0], parts[1], parts[2]),
        format!("{}.{}.{}=", parts[0], parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], text(&with("sub", json!("1")).to_string()), parts[2]),
        format!("{}.{}.{}", text(r#"{"alg":"RS384","kid":"k"}"#), parts[1], parts[2]),
        format!("{}.{twice}.{}", parts[0], parts[2]),
        "a.b.c".to_owned(),
        "..".to_owned(),
        String::new(),
    ]);
}

#[test]
fn a_token_does_not_choose_its_algorithm() {
    let forger = Forger::new();
    let Forger { rsa, header, claims, .. } = &forger;
    let payload = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
    let unsigned = |header: &str| format!("{}.{payload}.", BASE64URL_NOPAD.encode(header.as_bytes()));
    let hmac = json!({"alg": "HS256"});
    forger.refuses(&[
        forger.under("alg", json!("none")),
        unsigned(r#"{"alg":"none"}"#),
        unsigned(r#"{"alg":"None"}"#),
        unsigned(r#"{"alg":""}"#),
        // The public key, which is no secret, used as a shared secret.
        Signer::hmac(rsa.pem()).token(&hmac, claims),
        Signer::hmac(rsa.pem().trim()).token(&hmac, claims),
        Signer::hmac(rsa.pem()).token(header, claims),
        Signer::hmac("").token(&hmac, claims),
        // The short form's secret, used for another issuer's token.
        Signer::hmac(secret()).token(&hmac, claims),
        forger.under("alg", json!("RS512")),
        forger.under("alg", json!("PS256")),
        forger.under("alg", json!("rs256")),
        forger.under("alg", json!(["RS256"])),
        forger.under("alg", Value::Null),
    ]);
}

#[test]
fn claims_and_headers_are_exact() {
    let forger = Forger::new();
    let but = |name, value| forger.but(name, value);
    let under = |name, value| forger.under(name, value);
    forger.refuses(&[
        but("iss", json!("https://b")),
        but("iss", json!("https://ids/")),
        but("iss", json!("HTTPS://IDS")),
        but("iss", json!("")),
        but("iss", Value::Null),
        but("iss", json!([ISS])),
        but("aud", json!("other")),
        but("aud", json!([])),
        but("aud", Value::Null),
        but("exp", json!("soon")),
        but("exp", json!(-1)),
        but("exp", json!(1e300)),
        but("nbf", json!("now")),
        but("sub", json!(42)),
        but("sub", json!("a\nb")),
        but("sub", json!(" 42")),
        but("sub", json!("4".repeat(256))),
        but("info", json!("x".repeat(8 * 1024))),
        under("crit", json!(["exp"])),
        under("crit", json!([])),
        under("kid", json!("k".repeat(129))),
        under("kid", json!("../../etc/passwd\u{0}")),
        under("kid", json!("")),
        under("kid", json!(7)),
    ]);
    assert_eq!(forger.verifier.verify(&but("channel", json!("chat:x")), NOW), Err(Invalid::Forged));
    for kid in ["k".repeat(128), "k' OR 1=1".to_owned(), "#1".to_owned(), "2024 spring".to_owned()] {
        assert!(
            forger.verifier.verify(&under("kid", json!(kid)), NOW).is_ok(),
            "{kid}: it is only looked up"
        );
    }
}

#[test]
fn keys_and_addresses_in_a_token_header_are_ignored() {
    let (rsa, other) = (Signer::rsa(), Signer::rsa());
    let verifier = trusting(&issuer("a", ISS, "'RS256'", &public(&rsa)));
    let header =
        json!({"alg": "RS256", "jwk": other.jwk("k"), "jku": "https://evil/keys", "x5u": "https://evil/x"});
    assert_eq!(verifier.verify(&other.token(&header, &claims()), NOW), Err(Invalid::Forged));
    assert!(verifier.verify(&rsa.token(&header, &claims()), NOW).is_ok(), "ignored, not refused");
}

#[test]
fn no_changed_byte_of_a_token_goes_unnoticed() {
    let ed = Signer::ed();
    let verifier = trusting(&issuer("a", ISS, "'EdDSA'", &public(&ed)));
    let good = ed.token(&json!({"alg": "EdDSA"}), &claims());
    assert!(verifier.verify(&good, NOW).is_ok());
    for place in 0..good.len() {
        for byte in *b"Ab9_." {
            let mut changed = good.clone().into_bytes();
            if std::mem::replace(&mut changed[place], byte) == byte {
                continue;
            }
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(verifier.verify(&changed, NOW), Err(Invalid::Forged), "byte {place}: {changed}");
        }
    }
}

#[test]
fn the_same_kid_in_two_issuers_never_crosses() {
    let (a, b) = (Signer::es256(), Signer::es256());
    let verifier = trusting(
        &(issuer("a", "https://a", "'ES256'", "jwks_url = 'https://a/keys'")
            + &issuer("b", "https://b", "'ES256'", "jwks_url = 'https://b/keys'")),
    );
    fetched(&verifier, 1, &[a.jwk("k")]);
    let header = json!({"alg": "ES256", "kid": "k"});
    let of =
        |signer: &Signer, iss: &str| verifier.verify(&signer.token(&header, &with("iss", json!(iss))), NOW);
    assert_eq!(of(&b, "https://b"), Err(Invalid::UnknownKey { issuer: 2 }), "not from the other's keys");
    fetched(&verifier, 2, &[b.jwk("k")]);
    assert!(of(&a, "https://a").is_ok() && of(&b, "https://b").is_ok());
    assert_eq!(of(&a, "https://b"), Err(Invalid::Forged));
    assert_eq!(of(&b, "https://a"), Err(Invalid::Forged));
}

#[test]
fn the_default_issuer_never_accepts_tokens_of_a_named_issuer() {
    let verifier = trusting(&issuer("a", ISS, "'HS256'", "hmac_secret = 'shared'"));
    let short = Signer::hmac(secret());
    let header = json!({"alg": "HS256"});
    for iss in [json!("https://anybody"), Value::Null] {
        assert!(verifier.verify(&short.token(&header, &with("iss", iss)), NOW).is_ok());
    }
    assert_eq!(verifier.verify(&short.token(&header, &claims()), NOW), Err(Invalid::Forged));
    let alone = trusting(&format!(
        "[auth]\nhmac_secret = ''\n{}",
        issuer("a", ISS, "'HS256'", "hmac_secret = 'shared'")
    ));
    assert_eq!(
        alone.verify(&short.token(&header, &with("iss", json!("https://anybody"))), NOW),
        Err(Invalid::Forged)
    );
}

#[test]
fn a_key_verifies_only_its_own_algorithms() {
    let (rsa, ec) = (Signer::rsa(), Signer::es256());
    let verifier = trusting(&issuer("a", ISS, "'RS256', 'RS384', 'ES256'", "jwks_url = 'https://ids/keys'"));
    let token = |alg: &str| rsa.token(&json!({"alg": alg, "kid": "k"}), &claims());
    let marked = |name: &str, value: Value| {
        let mut key = rsa.jwk("k");
        key[name] = value;
        key
    };
    assert_eq!(
        verifier.verify(&token("RS256"), NOW),
        Err(Invalid::UnknownKey { issuer: 1 }),
        "before any fetch"
    );
    fetched(&verifier, 1, &[marked("alg", json!("RS384"))]);
    assert_eq!(verifier.verify(&token("RS256"), NOW), Err(Invalid::Forged));
    assert!(verifier.verify(&token("RS384"), NOW).is_ok());
    let useless = [
        marked("use", json!("enc")),
        marked("key_ops", json!(["encrypt"])),
        marked("alg", json!("RSA-OAEP")),
        marked("kid", json!("k\n")),
        Signer::hmac(rsa.pem()).jwk("k"),
        Signer::es384().jwk("k"),
        json!({"kty": "new", "kid": "k"}),
        json!("k"),
    ];
    fetched(&verifier, 1, &useless);
    assert_eq!(verifier.verify(&token("RS256"), NOW), Err(Invalid::UnknownKey { issuer: 1 }));
    fetched(&verifier, 1, &[ec.jwk("k"), rsa.jwk("k")]);
    assert!(verifier.verify(&token("RS256"), NOW).is_ok(), "a name may stand for keys of several kinds");
    let nameless = rsa.token(&json!({"alg": "RS256"}), &claims());
    assert_eq!(verifier.verify(&nameless, NOW), Err(Invalid::Forged), "a key is never guessed");
}

#[test]
fn a_document_that_is_no_key_set_changes_nothing() {
    let ec = Signer::es256();
    let verifier = trusting(&issuer("a", ISS, "'ES256'", "jwks_url = 'https://ids/keys'"));
    fetched(&verifier, 1, &[ec.jwk("k")]);
    let (_, set) = verifier.fetched_keys().next().unwrap();
    let many = |keys: usize| json!({"keys": vec![ec.jwk("k"); keys]}).to_string();
    for document in ["", "{}", "<html>", "[]", r#"{"keys":{}}"#, r#"{"keys":"#, &many(51)] {
        assert!(set.replace(document.as_bytes()).is_err(), "{document}");
    }
    assert!(verifier.verify(&ec.token(&json!({"alg": "ES256", "kid": "k"}), &claims()), NOW).is_ok());
    assert!(set.replace(many(50).as_bytes()).is_ok());
}

#[test]
fn a_configured_key_that_cannot_check_its_algorithms_is_named_at_the_start() {
    let private = "public_key = '-----BEGIN PRIVATE KEY-----'";
    for (algorithms, key, word) in [
        ("'RS256'", public(&Signer::es256()), "RS256"),
        ("'ES256', 'ES384'", public(&Signer::es256()), "ES384"),
        ("'EdDSA'", public(&Signer::rsa()), "EdDSA"),
        ("'ES256'", private.to_owned(), "BEGIN PUBLIC KEY"),
        ("'ES256'", "public_key = '-----BEGIN PUBLIC KEY-----'".to_owned(), "END PUBLIC KEY"),
        (
            "'ES256'",
            "public_key = '-----BEGIN PUBLIC KEY-----*-----END PUBLIC KEY-----'".to_owned(),
            "base64",
        ),
    ] {
        let error = tried(&issuer("ids", ISS, algorithms, &key)).err().unwrap().to_string();
        assert!(error.contains("ids") && error.contains(word), "{error}");
    }
}

#[test]
fn a_subscription_token_carries_user_channel_client_and_end() {
    let verifier = trusting("");
    let short = Signer::hmac(secret());
    let permit =
        |claims: Value| verifier.verify_subscription(&short.token(&json!({"alg": "HS256"}), &claims), NOW);
    let whole = json!({"sub": "42", "channel": "chat:x", "client": "g.1", "exp": NOW + 60,
        "info": {"name": "Ada"}, "b64data": "/wA="});
    assert_eq!(
        permit(whole),
        Ok(Permit {
            user: Some("42".into()),
            client: Some("g.1".to_owned()),
            channel: "chat:x".to_owned(),
            expires_at: Some(NOW + 60),
            info: r#"{"name":"Ada"}"#.into(),
            data: Bytes::from_static(&[0xff, 0]),
        })
    );
    let small = permit(json!({"channel": "chat:x", "client": ""})).unwrap();
    assert_eq!((small.user, small.client, small.expires_at), (None, None, None));
    for claims in [json!({"sub": "42"}), json!({"channel": null}), json!({"channel": ["chat:x"]})] {
        assert_eq!(permit(claims.clone()), Err(Invalid::Forged), "{claims}");
    }
    assert_eq!(permit(json!({"channel": "chat:x", "exp": NOW - 60})), Err(Invalid::Expired));
}
