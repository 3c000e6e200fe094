//! Forged tokens at a running gateway: each is refused as the table says, and none costs another connection anything.

use futures_util::{StreamExt, stream};
use serde_json::json;
use tidegate_cli::client::{CallError, Client, ConnectError, Options};
use tidegate_shared::protocol::{Command, Encoding, SubscribeRequest};

use crate::{
    forged::{Forger, Refusal},
    signer::Signer,
    support::{connect, connect_as, in_seconds, nothing_panicked, quick, start, url},
};

#[tokio::test]
async fn every_forged_token_is_refused_and_a_good_one_connects_meanwhile() {
    let forger = Forger::new(in_seconds(0));
    let stack = start(quick(&forger.toml()).gateways(1)).await;
    let (bystander, _events) = connect(&stack, 0, "bystander").await;
    let cases = forger.cases();
    let wrong = stream::iter(&cases)
        .map(|(what, token, refusal)| {
            let options = Options::new(url(&stack, 0)).token(token.clone());
            async move {
                let found = Client::connect(options).await.map(|_| "it connects");
                let right = match (refusal, &found) {
                    (Refusal::Forged, Err(ConnectError::Refused(CallError::Closed(end)))) => end.code == 3500,
                    (Refusal::Expired, Err(ConnectError::Refused(error))) => error.code() == Some(109),
                    _ => false,
                };
                (!right).then(|| format!("{what}: {found:?} instead of {refusal:?}"))
            }
        })
        .buffered(8)
        .filter_map(async |wrong| wrong)
        .collect::<Vec<_>>()
        .await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Client::connect(Options::new(url(&stack, 0)).token(forger.good())).await.unwrap();
    bystander.subscribe("chat:calm").await.unwrap();
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_subscription_token_is_for_one_user_one_client_and_one_channel() {
    let stack = start(quick("").gateways(1)).await;
    let secret = stack.config().auth.hmac_secret.expose().to_owned();
    let signed = |claims| Signer::hmac(&secret).token(&json!({"alg": "HS256"}), &claims);
    for (what, claims, code) in [
        ("another user's", json!({"sub": "43", "channel": "chat:$vip"}), None),
        ("nobody's", json!({"channel": "chat:$vip"}), None),
        ("another client's", json!({"sub": "42", "channel": "chat:$vip", "client": "gw.other"}), None),
        ("of another channel", json!({"sub": "42", "channel": "chat:$vip2"}), None),
        ("of a pattern of channels", json!({"sub": "42", "channel": "chat:*"}), None),
        ("of several channels", json!({"sub": "42", "channel": ["chat:$vip"]}), Some(103)),
        ("of a connection", json!({"sub": "42"}), Some(103)),
        (
            "of a client that is a number",
            json!({"sub": "42", "channel": "chat:$vip", "client": 7}),
            Some(103),
        ),
        ("over", json!({"sub": "42", "channel": "chat:$vip", "exp": 1}), Some(109)),
    ] {
        let (client, _events) = connect_as(&stack, 0, "42", Encoding::Json).await;
        let request = SubscribeRequest {
            channel: "chat:$vip".into(),
            token: signed(claims),
            ..SubscribeRequest::default()
        };
        let refused =
            client.call(Command { subscribe: Some(request), ..Command::default() }).await.unwrap_err();
        match code {
            Some(code) => assert_eq!(refused.code(), Some(code), "{what}: {refused:?}"),
            None => {
                assert!(
                    matches!(&refused, CallError::Closed(end) if end.code == 3500),
                    "{what}: {refused:?}"
                );
            }
        }
    }
    nothing_panicked(&stack);
}
