//! A worker as a NATS service.

use serde_json::{Value, json};
use tidegate_shared::broker::Broker;
use tidegate_worker::{Grant, Router, on};

use crate::support::{Tide, eventually};

#[tokio::test]
async fn a_worker_can_be_listed_as_a_nats_service_by_the_operators_user() {
    async fn nothing() {}
    let toml = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n[[route]]\nname = \"entry\"\nmatch = \"hook.subscribe\"\n";
    let tide = Tide::start(toml).await;
    let router = Router::new().route("job", on(nothing)).decide("entry", async || Grant::new());
    let _worker = tide.work("w1", router).await;
    let nats = &tide.config().nats;
    let operator = Broker::connect(nats, &nats.ops, "operator", 1, true).await.unwrap();
    let ask = async |subject: String| -> Option<Value> {
        let answer = operator.client().request(subject, "".into()).await.ok()?;
        Some(serde_json::from_slice(&answer.payload).unwrap())
    };
    let ping = eventually("the worker answers", async || ask("$SRV.PING".to_owned()).await).await;
    assert_eq!(ping["type"], "io.nats.micro.v1.ping_response");
    let (name, id) = (ping["name"].as_str().unwrap(), ping["id"].as_str().unwrap());
    assert_eq!(name, "tidegate-worker-default");
    let info = ask(format!("$SRV.INFO.{name}.{id}")).await.unwrap();
    assert_eq!(
        info["metadata"],
        json!({"worker": "w1", "service": "default", "routes": "job,entry", "contract": "1"})
    );
    assert_eq!(info["endpoints"][0]["name"], "job");
    assert_eq!(info["endpoints"][1]["subject"], "tide.hook.subscribe");
    let request = tide.request("job", "1");
    let request = tidegate_shared::envelope::Request { later: true, ..request };
    tide.send(&request).await;
    tide.answer(&request).await;
    tide.settled().await;
    let stats = ask(format!("$SRV.STATS.{name}")).await.unwrap();
    assert_eq!(
        (&stats["endpoints"][0]["num_requests"], &stats["endpoints"][0]["num_errors"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(ask("$SRV.PING.another".to_owned()).await, None);
}
