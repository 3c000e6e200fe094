//! Forged and malformed tokens, each right but for one thing, and how each is refused. Shared with the unit tests of the verifier.
//!
//! What is tested elsewhere is not repeated here: keys of other issuers, changed bytes, exact claims.

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD};
use serde_json::{Value, json};

use crate::signer::Signer;

/// How a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// For good: the connection ends.
    Forged,
    /// Its time is over, or has not begun: the client fetches another one.
    Expired,
}

use Refusal::{Expired, Forged};

/// What is wrong with a token, the token, and its refusal.
pub(crate) type Case = (&'static str, String, Refusal);

/// Two issuers, the tokens of which are forged.
pub(crate) struct Forger {
    pub(crate) rsa: Signer,
    pub(crate) ec: Signer,
    /// The time in seconds since 1970.
    pub(crate) now: u64,
}

impl Forger {
    pub(crate) fn new(now: u64) -> Self {
        Self { rsa: Signer::rsa(), ec: Signer::es256(), now }
    }

    /// The issuers' tables. The issuer of the short form is beside them.
    pub(crate) fn toml(&self) -> String {
        format!(
            "[[issuer]]\nname = 'ids'\nissuer = 'https://ids'\naudience = 'tide'\nalgorithms = ['RS256']\npublic_key = '''{}'''\n\
             [[issuer]]\nname = 'b'\nissuer = 'https://b'\nalgorithms = ['ES256']\npublic_key = '''{}'''\n",
            self.rsa.pem(),
            self.ec.pem()
        )
    }

    fn header() -> Value {
        json!({"alg": "RS256", "typ": "JWT"})
    }

    fn claims(&self) -> Value {
        json!({"iss": "https://ids", "aud": "tide", "sub": "42", "exp": self.now + 600})
    }

    /// The token that nothing is wrong with.
    pub(crate) fn good(&self) -> String {
        self.rsa.token(&Self::header(), &self.claims())
    }

    fn but(&self, name: &str, value: Value) -> String {
        let mut claims = self.claims();
        claims[name] = value;
        self.rsa.token(&Self::header(), &claims)
    }

    fn saying(&self, claims: &[u8]) -> String {
        self.rsa.token_of("RS256", Self::header().to_string().as_bytes(), claims)
    }

    /// A good signature under this header, so that only the header is wrong.
    fn under(&self, header: &str) -> String {
        self.rsa.token_of("RS256", header.as_bytes(), self.claims().to_string().as_bytes())
    }

    fn unsigned(&self, header: &str) -> String {
        let part = |text: &[u8]| BASE64URL_NOPAD.encode(text);
        format!("{}.{}.", part(header.as_bytes()), part(self.claims().to_string().as_bytes()))
    }

    /// Every case.
    pub(crate) fn cases(&self) -> Vec<Case> {
        [self.algorithms(), self.signatures(), self.times(), self.claimed(), self.shapes()].concat()
    }

    fn algorithms(&self) -> Vec<Case> {
        let hmac = json!({"alg": "HS256"});
        let jwk = self.rsa.jwk("k").to_string();
        let der = self.rsa.pem();
        let der: String = der.lines().filter(|line| !line.contains("---")).collect();
        let der = BASE64.decode(der.as_bytes()).unwrap();
        vec![
            ("alg none in capitals", self.unsigned(r#"{"alg":"NONE"}"#), Forged),
            ("alg none in mixed case", self.unsigned(r#"{"alg":"nOnE"}"#), Forged),
            ("alg none with a space", self.unsigned(r#"{"alg":"none "}"#), Forged),
            ("alg none escaped", self.unsigned(r#"{"alg":"\u006eone"}"#), Forged),
            ("alg none behind the right one", self.unsigned(r#"{"alg":"RS256","alg":"none"}"#), Forged),
            ("the right alg behind none, unsigned", self.unsigned(r#"{"alg":"none","alg":"RS256"}"#), Forged),
            ("no alg", self.under(r#"{"typ":"JWT"}"#), Forged),
            ("alg a number", self.under(r#"{"alg":0}"#), Forged),
            ("alg in another case", self.under(r#"{"ALG":"RS256"}"#), Forged),
            ("alg cut by NUL", self.under("{\"alg\":\"RS256\\u0000\"}"), Forged),
            ("alg HS256 over an RSA signature", self.under(r#"{"alg":"HS256"}"#), Forged),
            ("alg of the other issuer", self.under(r#"{"alg":"ES256"}"#), Forged),
            ("the public key's bytes as a secret", Signer::hmac(der).token(&hmac, &self.claims()), Forged),
            ("the public JWK as a secret", Signer::hmac(jwk).token(&hmac, &self.claims()), Forged),
            ("a NUL as a secret", Signer::hmac([0]).token(&hmac, &self.claims()), Forged),
        ]
    }

    fn signatures(&self) -> Vec<Case> {
        let good = self.good();
        let (message, signature) = good.rsplit_once('.').unwrap();
        let bytes = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        let with = |bytes: &[u8]| format!("{message}.{}", BASE64URL_NOPAD.encode(bytes));
        let short = &bytes[..bytes.len() - 1];
        let long = [&bytes[..], b"\0"].concat();
        let of_b = json!({"iss": "https://b", "sub": "42", "exp": self.now + 600});
        let ec = self.ec.token(&json!({"alg": "ES256"}), &of_b);
        let ec = ec.rsplit_once('.').unwrap().0;
        let ec = |bytes: &[u8]| format!("{ec}.{}", BASE64URL_NOPAD.encode(bytes));
        let order = b"\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51";
        vec![
            ("a signature of zeros", with(&vec![0; bytes.len()]), Forged),
            ("a signature that is one", with(&[&vec![0; bytes.len() - 1][..], &[1]].concat()), Forged),
            ("a signature without its last byte", with(short), Forged),
            ("a signature with a byte more", with(&long), Forged),
            ("an empty signature", with(b""), Forged),
            ("an elliptic signature of zeros", ec(&[0; 64]), Forged),
            ("an elliptic signature of the order", ec(&[&order[..], &order[..]].concat()), Forged),
            ("an elliptic signature in DER", ec(b"\x30\x06\x02\x01\x01\x02\x01\x01"), Forged),
            (
                "a signature of the same claims with another digest",
                {
                    let other = self.rsa.token_of(
                        "RS384",
                        Self::header().to_string().as_bytes(),
                        self.claims().to_string().as_bytes(),
                    );
                    format!("{message}.{}", other.rsplit_once('.').unwrap().1)
                },
                Forged,
            ),
            ("a signature in the other alphabet", format!("{message}.{}", BASE64.encode(&bytes)), Forged),
            ("a signature with padding", format!("{message}.{}", BASE64URL.encode(&bytes)), Forged),
        ]
    }

    fn times(&self) -> Vec<Case> {
        let now = self.now;
        let raw = |exp: &str| {
            self.saying(format!(r#"{{"iss":"https://ids","aud":"tide","sub":"42","exp":{exp}}}"#).as_bytes())
        };
        vec![
            ("exp a text of digits", self.but("exp", json!((now + 600).to_string())), Forged),
            ("exp in a list", self.but("exp", json!([now + 600])), Forged),
            ("exp true", self.but("exp", json!(true)), Forged),
            ("exp beyond all numbers", raw("1e400"), Forged),
            ("exp not a number", raw("NaN"), Forged),
            ("exp infinite", raw("Infinity"), Forged),
            ("exp with a leading zero", raw("09999999999"), Forged),
            ("exp in hex", raw("0xffffffff"), Forged),
            ("exp beyond all clocks", raw("9000000000000000"), Forged),
            ("exp below zero", raw("-0.5"), Forged),
            ("exp zero", raw("0"), Expired),
            ("exp minus zero", raw("-0.0"), Expired),
            ("exp a fraction, over", raw(&format!("{}.9", now - 12)), Expired),
            (
                "exp in milliseconds that are over as seconds of nbf",
                self.but("nbf", json!(now * 1000)),
                Expired,
            ),
            ("exp given twice, the last one over", raw(&format!(r#"{},"exp":1"#, now + 600)), Expired),
            ("nbf to come", self.but("nbf", json!(now + 3600)), Expired),
            ("nbf a text", self.but("nbf", json!("0")), Forged),
            ("nbf beyond all clocks", self.but("nbf", json!(1e300)), Forged),
            ("expire_at a text", self.but("expire_at", json!("0")), Forged),
        ]
    }

    fn claimed(&self) -> Vec<Case> {
        vec![
            ("aud an object", self.but("aud", json!({"tide": true})), Forged),
            ("aud in a list of lists", self.but("aud", json!([["tide"]])), Forged),
            ("aud with something behind it", self.but("aud", json!("tide2")), Forged),
            ("aud in capitals", self.but("aud", json!("TIDE")), Forged),
            ("aud true", self.but("aud", json!(true)), Forged),
            ("iss with a path", self.but("iss", json!("https://ids/../b")), Forged),
            ("iss an object", self.but("iss", json!({"https://ids": 1})), Forged),
            ("sub a list", self.but("sub", json!(["42"])), Forged),
            ("sub an object", self.but("sub", json!({"id": "42"})), Forged),
            ("sub with NUL", self.but("sub", json!("42\u{0}")), Forged),
            ("sub with a space behind it", self.but("sub", json!("42 ")), Forged),
            ("sub too long", self.but("sub", json!("4".repeat(300))), Forged),
            ("a channel: a subscription token", self.but("channel", json!("chat:x")), Forged),
            ("an empty channel", self.but("channel", json!("")), Forged),
            ("a channel that is a number", self.but("channel", json!(7)), Forged),
            ("channels a text", self.but("channels", json!("chat:x")), Forged),
            ("channels of numbers", self.but("channels", json!([1])), Forged),
            ("subs a list of names", self.but("subs", json!(["chat:x"])), Forged),
            ("info that is not base64", self.but("b64info", json!("*")), Forged),
        ]
    }

    fn shapes(&self) -> Vec<Case> {
        let good = self.good();
        let parts: Vec<&str> = good.split('.').collect();
        let padded = BASE64URL.encode(Self::header().to_string().as_bytes());
        let claims = self.claims().to_string();
        let longest = json!("x".repeat(9 * 1024));
        let deep =
            format!(r#"{{"iss":"https://ids","sub":"42","aud":{}{}}}"#, "[".repeat(2000), "]".repeat(2000));
        vec![
            ("four parts", format!("{good}.{}", parts[2]), Forged),
            ("five parts, as of an encrypted token", format!("{good}..{}", parts[2]), Forged),
            ("two parts", format!("{}.{}", parts[1], parts[2]), Forged),
            ("parts in another order", format!("{}.{}.{}", parts[1], parts[0], parts[2]), Forged),
            ("dots that only look like dots", good.replace('.', "\u{2024}"), Forged),
            ("dots in percent encoding", good.replace('.', "%2E"), Forged),
            ("a scheme before it", format!("Bearer {good}"), Forged),
            ("two tokens in a list", format!("{good},{good}"), Forged),
            ("NUL behind it", format!("{good}\0"), Forged),
            ("a line break in it", good.replacen('.', ".\r\n", 1), Forged),
            ("a byte order mark before it", format!("\u{feff}{good}"), Forged),
            ("a header with padding", format!("{padded}==.{}.{}", parts[1], parts[2]), Forged),
            (
                "the JSON form of a signature",
                json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string(),
                Forged,
            ),
            ("claims that are a token", self.saying(good.as_bytes()), Forged),
            ("claims that are a token in a text", self.saying(json!(good).to_string().as_bytes()), Forged),
            ("claims that are null", self.saying(b"null"), Forged),
            ("claims that break off", self.saying(&claims.as_bytes()[..claims.len() - 1]), Forged),
            ("claims with something behind them", self.saying(format!("{claims}{{}}").as_bytes()), Forged),
            (
                "claims that are not UTF-8",
                self.saying(b"{\"iss\":\"https://ids\",\"aud\":\"tide\",\"sub\":\"\xff\"}"),
                Forged,
            ),
            ("claims with a byte order mark", self.saying(format!("\u{feff}{claims}").as_bytes()), Forged),
            ("claims that are deep", self.saying(deep.as_bytes()), Forged),
            ("a token that is too long", self.but("info", longest), Forged),
            (
                "an extension that has to be understood",
                self.under(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#),
                Forged,
            ),
            ("a kid that is a list", self.under(r#"{"alg":"RS256","kid":["k"]}"#), Forged),
            ("a kid that is an object", self.under(r#"{"alg":"RS256","kid":{"k":1}}"#), Forged),
            ("a kid with a line break", self.under(r#"{"alg":"RS256","kid":"k\r\nx: y"}"#), Forged),
            ("a header that is a list", self.under(r#"["RS256"]"#), Forged),
            ("a header that is a text", self.under(r#""RS256""#), Forged),
            ("a jwk that is a text", self.under(r#"{"alg":"RS256","jwk":"k"}"#), Forged),
        ]
    }
}
