//! On a route with a strict order, what a connection sends is stored in the order in which it was sent.

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use tidegate_cli::{client::raw::RawClient, stack::Stack};

use crate::support::{PATIENCE, raw_connected, start};

fn config(order: &str) -> String {
    format!(
        "[nats]\nack_timeout = '300ms'\n[gateway]\nanswer_timeout = '20s'\n[gateway.drain]\nsettle = '20s'\n\
         [[route]]\nname = 'job'\nmatch = 'rpc.job'\norder = '{order}'\n"
    )
}

/// The test in place of the route's stream: it decides which request is acknowledged, and when.
struct Stream {
    admin: Client,
    requests: Subscriber,
}

impl Stream {
    async fn replace(stack: &Stack) -> Self {
        let broker = stack.admin().await.unwrap();
        broker.jetstream().delete_stream("TIDE_IN_job").await.unwrap();
        let admin = broker.client().clone();
        let requests = admin.subscribe("tide.in.rpc.job.>").await.unwrap();
        broker.settled().await.unwrap();
        Self { admin, requests }
    }

    async fn next(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.requests.next()).await.expect("a request comes").unwrap()
    }

    /// The next request that is not this one again: a late copy of it is acknowledged.
    async fn next_after(&mut self, number: &str) -> Message {
        loop {
            let next = self.next().await;
            if next.payload != number {
                return next;
            }
            self.store(next).await;
        }
    }

    async fn reply(&self, request: Message, reply: &'static str) {
        self.admin.publish(request.reply.unwrap(), reply.into()).await.unwrap();
    }

    async fn store(&self, request: Message) {
        self.reply(request, r#"{"stream":"TIDE_IN_job","seq":1}"#).await;
    }

    async fn refuse(&self, request: Message) {
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"TIDE_IN_job","seq":0}"#;
        self.reply(request, full).await;
    }
}

/// Sends these requests in one frame, numbered by their data.
async fn send(client: &mut RawClient, methods: &[&str]) {
    let command = |(number, method): (usize, &&str)| {
        format!(r#"{{"id":{},"rpc":{{"method":"{method}","data":{number}}}}}"#, number + 2)
    };
    let frame: Vec<String> = methods.iter().enumerate().map(command).collect();
    client.send_text(&frame.join("\n")).await.unwrap();
}

#[tokio::test]
async fn a_retried_or_refused_request_of_a_strict_route_is_not_overtaken_by_later_ones_of_its_connection() {
    let stack = start(Stack::builder().config(&config("strict")).gateways(1)).await;
    let mut client = raw_connected(&stack).await;
    let mut stream = Stream::replace(&stack).await;
    // A request with a key looks for its answer first, one without does not.
    send(&mut client, &["job#a", "job", "job#b", "job"]).await;
    // No acknowledgement of the first comes: it is sent again and again, and nothing else is.
    let first = stream.next().await;
    assert_eq!(first.payload, "0");
    for _ in 0..3 {
        let again = stream.next().await;
        let id = |message: &Message| message.headers.clone().unwrap().get("Nats-Msg-Id").unwrap().to_string();
        assert_eq!((&again.payload, id(&again)), (&first.payload, id(&first)));
    }
    let again = stream.next().await;
    assert_eq!(again.payload, "0", "the fifth time");
    stream.store(again).await;
    let second = stream.next_after("0").await;
    assert_eq!(second.payload, "1");
    stream.refuse(second).await;
    let refused = client.reply().await.unwrap();
    assert_eq!((refused.id, refused.error.unwrap().code), (3, 1000));
    for (before, number) in [("1", "2"), ("2", "3")] {
        let next = stream.next_after(before).await;
        assert_eq!(next.payload, number);
        stream.store(next).await;
    }
}

#[tokio::test]
async fn on_a_route_without_an_order_a_request_that_is_retried_holds_up_nothing() {
    let stack = start(Stack::builder().config(&config("none")).gateways(1)).await;
    let mut client = raw_connected(&stack).await;
    let mut stream = Stream::replace(&stack).await;
    send(&mut client, &["job", "job"]).await;
    for number in ["0", "1"] {
        assert_eq!(stream.next().await.payload, number);
    }
}
