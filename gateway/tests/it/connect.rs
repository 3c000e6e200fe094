//! Connecting, pings, token refreshes and closing.

use std::time::{Duration, SystemTime};

use tidegate_cli::{
    client::{CallError, Client, Event, Options},
    token::connection_token,
};
use tidegate_shared::protocol::Encoding;

use crate::support::{connect, event, eventually, get, quick, raw_connected, service, start, token, url};

#[tokio::test]
async fn a_connect_reply_has_the_client_id_and_the_subscriptions() {
    let stack = start(quick("").gateways(1)).await;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let options = Options::new(url(&stack, 0)).token(token(&stack, "42")).encoding(encoding);
        let (client, _events) = Client::connect(options).await.unwrap();
        let connected = client.connected();
        assert!(connected.client.contains('.') && !connected.version.is_empty());
        assert!(connected.ping == 25 && connected.pong);
        assert!(connected.expires && connected.ttl > 3500);
        assert_eq!(connected.subs.iter().map(|sub| sub.channel.as_str()).collect::<Vec<_>>(), ["#42"]);
    }
}

#[tokio::test]
async fn anonymous_clients_connect_only_where_that_is_configured() {
    let stack = start(quick("[auth]\nanonymous = true").gateways(1)).await;
    let (client, _events) = Client::connect(Options::new(url(&stack, 0))).await.unwrap();
    assert!(client.connected().subs.is_empty() && !client.connected().expires);
    let refused = client.subscribe("chat:members").await.unwrap_err();
    assert_eq!(refused.code(), Some(103));
}

#[tokio::test]
async fn a_ping_that_is_not_answered_ends_the_connection() {
    let quick_pings = quick("").gateways(1).variable("gateway", "TIDEGATE_GATEWAY__PING_INTERVAL", "2s");
    let stack = start(quick_pings.variable("gateway", "TIDEGATE_GATEWAY__PONG_TIMEOUT", "1s")).await;
    let mut silent = raw_connected(&stack).await;
    assert_eq!(silent.expect_close(3012).await.unwrap(), "no pong");
    let (client, mut events) = connect(&stack, 0, "42").await;
    // A client that answers stays connected over several pings.
    let ended = tokio::time::timeout(
        Duration::from_secs(5),
        event(&mut events, |e| matches!(e, Event::Disconnected(_)).then_some(())),
    )
    .await;
    assert!(ended.is_err() && client.closed().is_none());
}

#[tokio::test]
async fn a_fresh_token_keeps_a_connection_alive_and_without_one_it_ends() {
    let builder = quick("[auth]\nleeway = '0s'\nrefresh_grace = '1s'").gateways(1);
    let stack = start(builder).await;
    let short = |user| {
        connection_token(&stack.config().auth, user, Duration::from_secs(2), SystemTime::now()).unwrap()
    };
    let connect = |token| Client::connect(Options::new(url(&stack, 0)).token(token));
    let (kept, _events) = connect(short("42")).await.unwrap();
    let (left, mut left_events) = connect(short("43")).await.unwrap();
    kept.refresh(&token(&stack, "42")).await.unwrap();
    let end = event(&mut left_events, |event| match event {
        Event::Disconnected(closed) => Some(closed),
        _ => None,
    })
    .await;
    assert_eq!(end.code, 3005);
    assert!(kept.closed().is_none() && left.closed().is_some());
    let foreign = kept.refresh(&token(&stack, "43")).await.unwrap_err();
    assert!(matches!(&foreign, CallError::Closed(end) if end.code == 3500), "{foreign:?}");
}

#[tokio::test]
async fn health_and_metrics_are_on_the_internal_listener() {
    let stack = start(quick("").gateways(1)).await;
    let (_client, _events) = connect(&stack, 0, "42").await;
    assert_eq!(get(&stack, "/healthz").await.0, 200);
    assert_eq!(get(&stack, "/readyz").await.0, 200);
    let (status, page) = get(&stack, "/metrics").await;
    assert_eq!(status, 200);
    assert!(page.contains("tidegate_gateway_connections 1"), "{page}");
    assert!(page.contains("tidegate_gateway_commands_total 1"), "{page}");
}

#[tokio::test]
async fn a_full_gateway_turns_connections_away() {
    let stack = start(quick("[gateway.limits]\nconnections = 2").gateways(1)).await;
    let (first, _e1) = connect(&stack, 0, "1").await;
    let (_second, _e2) = connect(&stack, 0, "2").await;
    let refused = Client::connect(Options::new(url(&stack, 0)).token(token(&stack, "3"))).await.unwrap_err();
    assert!(matches!(refused, tidegate_cli::client::ConnectError::Http { status: 503, .. }), "{refused:?}");
    first.close().await;
    eventually("a place is free again", || async {
        Client::connect(Options::new(url(&stack, 0)).token(token(&stack, "3"))).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_clients_close_frame_is_answered() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};
    let stack = start(quick("").gateways(1)).await;
    let (mut socket, _) = tokio_tungstenite::connect_async(url(&stack, 0)).await.unwrap();
    let goodbye =
        tokio_tungstenite::tungstenite::protocol::CloseFrame { code: CloseCode::Normal, reason: "".into() };
    socket.send(Message::Close(Some(goodbye))).await.unwrap();
    let Some(Ok(Message::Close(Some(answer)))) = socket.next().await else { panic!("no close frame") };
    assert_eq!(answer.code, CloseCode::Normal);
}

#[tokio::test]
async fn the_log_names_the_user_and_the_client_that_connect_and_why_they_disconnect() {
    let stack = start(quick("[log]\nlevel = 'info,tidegate_gateway::connection=debug'").gateways(1)).await;
    let line = |client: &str, words: &[&str]| {
        let log = stack.log();
        log.lines().any(|line| line.contains(client) && words.iter().all(|word| line.contains(word)))
    };
    let (client, _events) = connect(&stack, 0, "log-user").await;
    let id = client.id();
    eventually("the connect is logged", || async {
        line(id, &["DEBUG", "connected", "user=\"log-user\"", "transport=\"websocket\""])
    })
    .await;
    let order = r#"{"user":"log-user"}"#;
    service(&stack).await.request("tide.ctl.disconnect", order.into()).await.unwrap();
    eventually("the disconnect is logged", || async {
        line(id, &["DEBUG", "disconnected", "user=\"log-user\"", "close.code=3503", "force disconnect"])
    })
    .await;
}
