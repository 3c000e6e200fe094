//! Tokens of several issuers, and subscriptions that need one.

use serde_json::{Value, json};
use tidegate_cli::{
    client::{CallError, Client, ConnectError, Event, Options},
    stack::Stack,
};
use tidegate_shared::protocol::{
    Command, Encoding, SubRefreshRequest, SubRefreshResult, SubscribeRequest, SubscribeResult,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use crate::{
    signer::Signer,
    support::{
        self, connect, connect_as, event, eventually, get, in_seconds, publication, quick, start, url,
    },
};

const GRACE: &str = "[auth]\nleeway = '0s'\nrefresh_grace = '1s'";

fn issuer(name: &str, algorithm: &str, key: &str) -> String {
    format!(
        "[[issuer]]\nname = '{name}'\nissuer = 'https://{name}'\naudience = 'tide'\nalgorithms = ['{algorithm}']\n{key}\n"
    )
}

#[tokio::test]
async fn the_log_says_why_a_token_is_refused_once_and_never_shows_the_token() {
    let right = Signer::es256();
    let key = format!("public_key = \"\"\"{}\"\"\"", right.pem());
    let stack = start(quick(&issuer("ids", "ES256", &key)).gateways(1)).await;
    let forged = signed(&Signer::es256(), "ids", "ES256");
    let hmac =
        Signer::hmac("shared").token(&json!({"alg": "HS256"}), &json!({"iss": "https://ids", "sub": "42"}));
    let foreign =
        right.token(&json!({"alg": "ES256"}), &json!({"iss": "https://ids", "sub": "42", "aud": "other"}));
    for token in [&forged, &forged, &forged, &hmac, &foreign, &foreign] {
        let refused = Client::connect(Options::new(url(&stack, 0)).token(token.clone())).await.unwrap_err();
        assert!(
            matches!(&refused, ConnectError::Refused(CallError::Closed(end)) if end.code == 3500),
            "{refused:?}"
        );
    }
    let logged = |reason: &str| {
        let log = stack.log();
        log.lines().filter(|line| line.contains("a token is refused") && line.contains(reason)).count()
    };
    for token in [None, Some(String::new())] {
        let options = Options::new(url(&stack, 0));
        let options = if let Some(token) = token { options.token(token) } else { options };
        let refused = Client::connect(options).await.unwrap_err();
        assert!(
            matches!(&refused, ConnectError::Refused(CallError::Closed(end)) if end.code == 3501),
            "{refused:?}"
        );
    }
    for reason in ["signature:", "algorithm:", "audience:", "missing:"] {
        eventually("the reason is logged", || async { logged(reason) > 0 }).await;
        assert_eq!(logged(reason), 1, "{reason}");
    }
    for token in [forged, foreign, hmac] {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!stack.log().contains(signature), "a token is in the log");
    }
}

/// Returns a connection token of the issuer with this name.
fn signed(signer: &Signer, name: &str, algorithm: &str) -> String {
    let iss = format!("https://{name}");
    let claims = json!({"iss": iss, "aud": "tide", "sub": "42", "exp": in_seconds(60)});
    signer.token(&json!({"alg": algorithm, "kid": "k"}), &claims)
}

/// Returns a subscription token of the issuer that `[auth]` describes.
fn permit(stack: &Stack, claims: &Value) -> String {
    Signer::hmac(stack.config().auth.hmac_secret.expose()).token(&json!({"alg": "HS256"}), claims)
}

async fn subscribe(client: &Client, channel: &str, token: String) -> Result<SubscribeResult, CallError> {
    let channel = channel.to_owned();
    support::subscribe(client, SubscribeRequest { channel, token, ..SubscribeRequest::default() }).await
}

async fn sub_refresh(client: &Client, channel: &str, token: String) -> Result<SubRefreshResult, CallError> {
    let sub_refresh = SubRefreshRequest { channel: channel.to_owned(), token };
    let reply = client.call(Command { sub_refresh: Some(sub_refresh), ..Command::default() }).await?;
    Ok(reply.sub_refresh.unwrap())
}

#[tokio::test]
async fn every_kind_of_key_opens_connections_of_its_own_issuer_only() {
    let signers = [
        ("rsa", "RS256", Signer::rsa()),
        ("ec", "ES256", Signer::es256()),
        ("ec384", "ES384", Signer::es384()),
        ("ed", "EdDSA", Signer::ed()),
    ];
    let toml: String = signers
        .iter()
        .map(|(name, algorithm, signer)| {
            issuer(name, algorithm, &format!("public_key = '''{}'''", signer.pem()))
        })
        .collect();
    let stack = start(quick(&toml).gateways(1)).await;
    for (name, algorithm, signer) in &signers {
        let options = Options::new(url(&stack, 0)).token(signed(signer, name, algorithm));
        let (client, _events) = Client::connect(options).await.unwrap();
        assert_eq!(client.connected().subs[0].channel, "#42");
        for (other, _, _) in signers.iter().filter(|(other, _, _)| other != name) {
            let options = Options::new(url(&stack, 0)).token(signed(signer, other, algorithm));
            let refused = Client::connect(options).await.unwrap_err();
            assert!(
                matches!(&refused, ConnectError::Refused(CallError::Closed(end)) if end.code == 3500),
                "{name} as {other}: {refused:?}"
            );
        }
    }
    let (_client, _events) = connect(&stack, 0, "42").await;
}

/// Serves a key set until it is dropped.
async fn key_server(keys: Vec<Value>) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let body = json!({ "keys": keys }).to_string();
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    });
    (url, task)
}

#[tokio::test]
async fn fetched_keys_open_a_connection_and_an_unknown_key_asks_for_a_retry() {
    let signer = Signer::es256();
    let (keys, _server) = key_server(vec![signer.jwk("k")]).await;
    let toml = issuer("ids", "ES256", &format!("jwks_url = '{keys}'"))
        + &issuer("away", "ES256", "jwks_url = 'http://127.0.0.1:1/keys'");
    let stack = start(quick(&toml).gateways(1)).await;
    let try_as = |name: &'static str| {
        Client::connect(Options::new(url(&stack, 0)).token(signed(&signer, name, "ES256")))
    };
    try_as("ids").await.unwrap();
    let refused = try_as("away").await.unwrap_err();
    assert!(matches!(&refused, ConnectError::Refused(error) if error.code() == Some(100)), "{refused:?}");
    let (_, page) = get(&stack, "/metrics").await;
    for (name, outcome) in [("ids", "ok"), ("away", "unreachable")] {
        let counted =
            format!("tidegate_gateway_jwks_fetches_total{{issuer=\"{name}\",outcome=\"{outcome}\"}}");
        assert!(page.contains(&counted), "{page}");
    }
    assert_eq!(get(&stack, "/readyz").await.0, 200);
}

#[tokio::test]
async fn a_private_channel_needs_its_subscription_token() {
    let stack = start(quick("").gateways(1)).await;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let (client, mut events) = connect_as(&stack, 0, "42", encoding).await;
        assert_eq!(client.subscribe("chat:$vip").await.unwrap_err().code(), Some(103));
        let forged = Signer::hmac("another")
            .token(&json!({"alg": "HS256"}), &json!({"sub": "42", "channel": "chat:$vip"}));
        assert_eq!(subscribe(&client, "chat:$vip", forged).await.unwrap_err().code(), Some(103));
        let ended = permit(&stack, &json!({"sub": "42", "channel": "chat:$vip", "exp": 1}));
        assert_eq!(subscribe(&client, "chat:$vip", ended).await.unwrap_err().code(), Some(109));
        let good = permit(&stack, &json!({"sub": "42", "channel": "chat:$vip", "client": client.id()}));
        assert!(!subscribe(&client, "chat:$vip", good).await.unwrap().expires);
        client.publish("chat:$vip", "1").await.unwrap();
        assert_eq!(publication(&mut events, "chat:$vip").await, "1");
        let others = permit(&stack, &json!({"sub": "43", "channel": "chat:$other"}));
        let ended = subscribe(&client, "chat:$other", others).await.unwrap_err();
        assert!(matches!(&ended, CallError::Closed(end) if end.code == 3500), "{ended:?}");
    }
}

#[tokio::test]
async fn a_subscription_ends_with_its_token_unless_a_fresh_one_comes() {
    let stack = start(quick(GRACE).gateways(1)).await;
    let token = |user: &str, seconds: u64| {
        permit(&stack, &json!({"sub": user, "channel": "chat:$vip", "exp": in_seconds(seconds)}))
    };
    let (kept, mut kept_events) = connect(&stack, 0, "42").await;
    let (left, mut left_events) = connect(&stack, 0, "43").await;
    assert_eq!(sub_refresh(&kept, "chat:$vip", token("42", 60)).await.unwrap_err().code(), Some(103));
    for (client, user) in [(&kept, "42"), (&left, "43")] {
        let result = subscribe(client, "chat:$vip", token(user, 3)).await.unwrap();
        assert!(result.expires && (1..=3).contains(&result.ttl), "{result:?}");
    }
    // The command leaves the channel out, as some SDKs do.
    let renewed = sub_refresh(&kept, "", token("42", 60)).await.unwrap();
    assert!(renewed.expires && renewed.ttl > 50, "{renewed:?}");
    let (channel, code) = event(&mut left_events, |event| match event {
        Event::Unsubscribed { channel, code, .. } => Some((channel, code)),
        _ => None,
    })
    .await;
    assert_eq!((channel.as_str(), code), ("chat:$vip", 2501));
    kept.publish("chat:$vip", "1").await.unwrap();
    assert_eq!(publication(&mut kept_events, "chat:$vip").await, "1");
    assert_eq!(left_events.try_next(), None, "nothing follows the end of a subscription");
    assert!(left.closed().is_none());
    subscribe(&left, "chat:$vip", token("43", 60)).await.unwrap();
    left.publish("chat:$vip", "2").await.unwrap();
    assert_eq!(publication(&mut left_events, "chat:$vip").await, "2");
    let foreign = sub_refresh(&kept, "chat:$vip", token("43", 60)).await.unwrap_err();
    assert!(matches!(&foreign, CallError::Closed(end) if end.code == 3500), "{foreign:?}");
    eventually("it is gone", || async { kept.closed().is_some() }).await;
}
