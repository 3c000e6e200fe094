//! Acknowledged requests leave the stream, whatever crashes meanwhile, and only they do.

use crate::support::{Tide, eventually};

const ROUTES: &str = "[streams]\nduplicate_window = '1s'\nresult_ttl = '1s'\n\
     [[route]]\nname = 'echo'\nmatch = 'rpc.echo'\nhandler = 'echo'\n\
     [[route]]\nname = 'nobody'\nmatch = 'rpc.nobody'\n";

#[tokio::test]
async fn a_key_can_be_used_again_once_its_acknowledged_request_is_purged() {
    let tide = Tide::start(1, ROUTES).await;
    tide.stack.hold("purger").await.unwrap();
    let (client, _events) = tide.client("42").await;
    assert_eq!(client.rpc("echo#k", "1").await.unwrap(), "1");
    eventually("the answer is forgotten", async || tide.messages("TIDE_REPLY").await == Some(0)).await;
    let progress = tide.progress("echo").await.unwrap();
    assert_eq!((progress.floor, progress.unacknowledged), (1, 0), "the request is acknowledged");
    assert_eq!(tide.messages("TIDE_IN_echo").await, Some(1), "and still there");
    let blocked = client.rpc("echo#k", "1").await.unwrap_err();
    assert_eq!(blocked.code(), Some(1001), "so its key is taken");

    tide.stack.start_process("purger").await.unwrap();
    eventually("the request is purged", async || tide.messages("TIDE_IN_echo").await == Some(0)).await;
    assert_eq!(client.rpc("echo#k", "1").await.unwrap(), "1");
}

#[tokio::test]
async fn requests_that_were_acknowledged_before_the_broker_crashed_are_purged_and_unfinished_ones_stay() {
    let tide = Tide::start(1, ROUTES).await;
    tide.stack.hold("purger").await.unwrap();
    let (client, _events) = tide.client("42").await;
    for n in 0..20 {
        assert_eq!(client.rpc("echo", n.to_string()).await.unwrap(), n.to_string());
    }
    assert_eq!(client.rpc("nobody", "1").await.unwrap_err().code(), Some(1001));
    tide.stack.kill("nats").await.unwrap();
    tide.stack.wait_ready("nats").await.unwrap();
    eventually("they are still there", async || tide.messages("TIDE_IN_echo").await == Some(20)).await;
    tide.stack.start_process("purger").await.unwrap();
    eventually("they are purged", async || tide.messages("TIDE_IN_echo").await == Some(0)).await;
    assert_eq!(tide.messages("TIDE_IN_nobody").await, Some(1), "nobody has taken this one");
}

#[tokio::test]
async fn a_route_without_its_consumer_is_reported_and_the_others_are_purged() {
    let tide = Tide::start(1, ROUTES).await;
    assert_eq!(tide.get("/readyz").await, (200, "ready\n".to_owned()));
    tide.delete_consumer("nobody").await;
    eventually("the purger is not ready", async || {
        let (status, body) = tide.get("/readyz").await;
        status == 503
            && body.contains("TIDE_IN_nobody")
            && body.contains("tidegate apply")
            && !body.contains("echo")
    })
    .await;
    assert!(
        tide.stack.log_of("purger").contains("the acknowledged requests of TIDE_IN_nobody are not removed")
    );
    assert!(tide.metric("failures_total", "nobody").await > 0.0);
    let (client, _events) = tide.client("42").await;
    assert_eq!(client.rpc("echo", "1").await.unwrap(), "1");
    eventually("the other route is purged", async || tide.messages("TIDE_IN_echo").await == Some(0)).await;
    tide.apply().await;
    eventually("the purger is ready again", async || tide.get("/readyz").await.0 == 200).await;
}
