//! A broker that is too old, and what a connection to it reports.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

use tidegate_cli::stack::{Stack, setup};
use tidegate_shared::{broker::Broker, config::Config};

#[tokio::test]
async fn a_broker_that_is_too_old_is_refused_with_the_version_that_is_needed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let info = r#"{"server_id":"OLD","server_name":"old","version":"2.10.29","go":"","host":"","port":1,"headers":true,"max_payload":1048576,"proto":1,"client_id":1}"#;
        write!(stream, "INFO {info}\r\n").unwrap();
        for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
            if line.starts_with("PING") {
                stream.write_all(b"PONG\r\n").unwrap();
            }
        }
    });
    let config = Config::from_sources(None, [("TIDEGATE_NATS__URL".to_owned(), url)].into(), &[]).unwrap();
    let error = setup::connect(&config).await.unwrap_err().to_string();
    assert_eq!(error, "nats-server 2.10.29 is too old: Tidegate needs 2.14.3 or newer");
}

#[tokio::test]
async fn messages_that_a_slow_subscription_dropped_are_reported_and_a_first_connection_is_no_loss() {
    let stack = Stack::builder().start().await.unwrap();
    let nats = &stack.config().nats;
    let broker = Broker::connect(nats, &nats.gateway, "slow", 8, true).await.unwrap();
    let mut losses = broker.losses();
    let early = tokio::time::timeout(Duration::from_millis(500), losses.next()).await;
    assert!(early.is_err(), "nothing was lost");
    // Nobody reads it, so its 65,536 places fill up.
    let slow = broker.client().subscribe("tide.push.all").await.unwrap();
    broker.settled().await.unwrap();
    let service = Broker::connect(nats, &nats.service, "fast", 8, true).await.unwrap();
    for _ in 0..70_000 {
        service.client().publish("tide.push.all", "".into()).await.unwrap();
    }
    service.client().flush().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), losses.next()).await.unwrap();
    assert!(broker.is_connected());
    drop(slow);
}

#[tokio::test]
async fn every_return_of_the_broker_is_reported_once() {
    let stack = Stack::builder().start().await.unwrap();
    let nats = &stack.config().nats;
    let broker = Broker::connect(nats, &nats.gateway, "restarts", 8, true).await.unwrap();
    let mut losses = broker.losses();
    for _ in 0..2 {
        stack.kill("nats").await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), losses.next()).await.unwrap();
        assert!(broker.link().borrow().up);
    }
    let again = tokio::time::timeout(Duration::from_millis(500), losses.next()).await;
    assert!(again.is_err(), "each counts once");
}
