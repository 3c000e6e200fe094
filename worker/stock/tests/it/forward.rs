//! The handler `forward` with a real service behind core NATS, in the account of services.

use tidegate_shared::broker::Broker;

use crate::support::{Tide, header, next};

const ROUTE: &str = "[[route]]\nname = \"bill\"\nmatch = \"rpc.bill\"\nhandler = \"forward\"\nmax_attempts = 60\n\
                     backoff = { base = \"50ms\", cap = \"100ms\" }\n[route.forward]\nsubject = \"billing.invoice\"\n";

#[tokio::test]
async fn a_request_waits_until_somebody_serves_the_subject() {
    let tide = Tide::start_with(ROUTE, 1).await;
    let request = tide.ask("bill", "7").await;
    crate::support::eventually("an attempt failed", async || {
        tide.stack.log_of("worker-1").contains("nobody serves billing.invoice").then_some(())
    })
    .await;
    let nats = &tide.config().nats;
    let service = Broker::connect(nats, &nats.service, "billing", 1, true).await.unwrap();
    let client = service.client().clone();
    let mut served = client.subscribe("billing.invoice").await.unwrap();
    client.flush().await.unwrap();
    let asked = next(&mut served).await;
    assert_eq!((header(&asked, "Tide-Id"), header(&asked, "Tide-User")), (request.id.as_str(), "42"));
    assert_eq!(asked.payload, "7");
    client.publish(asked.reply.unwrap(), "{\"total\":7}".into()).await.unwrap();
    assert_eq!(tide.body(&request).await, "{\"total\":7}");
    tide.settled().await;
}
