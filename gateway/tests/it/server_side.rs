//! Server-side subscriptions: announced in the connect reply, and recovered on reconnect.

use serde_json::json;
use tidegate_cli::{
    client::{Options, raw::RawClient},
    stack::Stack,
};
use tidegate_shared::protocol::{Encoding, Reply, SubscribeResult};

use crate::{
    signer::Signer,
    support::{quick, service, start, url},
};

const NAMESPACES: &str = r#"
[[namespace]]
name = "kept"
allow_subscribe = "nobody"
history_size = 20

[[namespace]]
name = "inbox"
allow_subscribe = "nobody"
history_size = 20
personal = true

[[namespace]]
name = "news"
allow_subscribe = "nobody"
automatic = ["all"]
"#;

fn token(stack: &Stack, channels: &[&str]) -> String {
    let claims = json!({"sub": "42", "channels": channels});
    Signer::hmac(stack.config().auth.hmac_secret.expose()).token(&json!({"alg": "HS256"}), &claims)
}

/// Connects to a gateway and returns the client and its connect reply.
async fn begin(
    stack: &Stack,
    gateway: usize,
    channels: &[&str],
    hints: serde_json::Value,
) -> (RawClient, Reply) {
    let options = Options::new(url(stack, gateway)).encoding(Encoding::Json);
    let mut client = RawClient::open(&options).await.unwrap();
    let connect = json!({"id": 1, "connect": {"token": token(stack, channels), "subs": hints}});
    client.send_text(&connect.to_string()).await.unwrap();
    let reply = client.reply().await.unwrap();
    (client, reply)
}

fn subscription<'a>(reply: &'a Reply, channel: &str) -> &'a SubscribeResult {
    let subs = &reply.connect.as_ref().unwrap().subs;
    subs.iter().find(|sub| sub.channel == channel).unwrap().result.as_ref().unwrap()
}

async fn heard(client: &mut RawClient) -> (String, String, u64) {
    let push = client.reply().await.unwrap().push.unwrap();
    let publication = push.publication.unwrap();
    (push.channel, String::from_utf8_lossy(&publication.data).into_owned(), publication.offset)
}

#[tokio::test]
async fn a_client_receives_the_channels_of_its_token_and_of_the_namespaces() {
    let stack = start(quick(NAMESPACES).gateways(1)).await;
    let (mut client, reply) = begin(&stack, 0, &["kept:a"], json!({})).await;
    let names: Vec<_> = reply.connect.unwrap().subs.into_iter().map(|sub| sub.channel).collect();
    assert_eq!(names, ["#42", "inbox:#42", "kept:a", "news:all"]);
    let nats = service(&stack).await;
    for (subject, channel) in [
        ("tide.ch.kept.a", "kept:a"),
        ("tide.ch.news.all", "news:all"),
        ("tide.ch.inbox.=2342", "inbox:#42"),
        ("tide.ch.user.42", "#42"),
    ] {
        nats.publish(subject, "1".into()).await.unwrap();
        assert_eq!(heard(&mut client).await.0, channel);
    }
}

#[tokio::test]
async fn server_side_subscriptions_are_recovered_on_another_gateway() {
    let stack = start(quick(NAMESPACES).gateways(2)).await;
    let nats = service(&stack).await;
    let (mut client, reply) = begin(&stack, 0, &["kept:a"], json!({})).await;
    let epoch = |channel| subscription(&reply, channel).epoch.clone();
    let mut hints = serde_json::Map::new();
    for (subject, channel) in
        [("tide.ch.kept.a", "kept:a"), ("tide.ch.inbox.=2342", "inbox:#42"), ("tide.ch.user.42", "#42")]
    {
        nats.publish(subject, "1".into()).await.unwrap();
        let (_, _, offset) = heard(&mut client).await;
        hints.insert(channel.to_owned(), json!({"recover": true, "offset": offset, "epoch": epoch(channel)}));
    }
    drop(client);
    let jetstream = async_nats::jetstream::new(nats);
    for subject in ["tide.ch.kept.a", "tide.ch.inbox.=2342", "tide.ch.user.42"] {
        for data in ["2", "3"] {
            jetstream.publish(subject, data.into()).await.unwrap().await.unwrap();
        }
    }
    let (mut client, reply) = begin(&stack, 1, &["kept:a"], json!(hints)).await;
    for channel in ["kept:a", "inbox:#42", "#42"] {
        let result = subscription(&reply, channel);
        assert!(result.recovered && result.was_recovering, "{channel}: {result:?}");
        let texts: Vec<_> = result.publications.iter().map(|p| &p.data[..]).collect();
        assert_eq!(texts, [b"2", b"3"], "{channel}");
    }
    jetstream.publish("tide.ch.kept.a", "4".into()).await.unwrap().await.unwrap();
    let (channel, data, _) = heard(&mut client).await;
    assert_eq!((channel.as_str(), data.as_str()), ("kept:a", "4"));
}

#[tokio::test]
async fn a_token_with_a_channel_of_an_undeclared_namespace_does_not_connect() {
    let stack = start(quick(NAMESPACES).gateways(1)).await;
    let (_client, reply) = begin(&stack, 0, &["nowhere:a"], json!({})).await;
    assert_eq!(reply.error.unwrap().code, 102);
}
