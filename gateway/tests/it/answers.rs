//! How the answers to plain requests travel, and where they go when their gateway is cut off, slow or gone.

use tidegate_cli::{
    client::{CallError, Client, Event, Events},
    stack::{Kind, Stack},
};
use tidegate_shared::{
    confirmation::Confirmation,
    envelope::Together,
    id::{GatewayId, RequestId},
};
use tokio::task::JoinSet;

use crate::support::{
    Hand, Line, PATIENCE, TOML, answer_to, connect, count, event, eventually, get, quick, settled, start,
};

/// A gateway that waits long for an answer.
fn patient() -> tidegate_cli::stack::Builder {
    let toml = "[gateway]\nanswer_timeout = '20s'\n[gateway.drain]\nsettle = '20s'\nwindow = '200ms'\n\
                [worker]\nack_wait = '5s'";
    Stack::builder().config(&format!("{toml}\n{TOML}"))
}

/// A call in the background.
struct Calling(JoinSet<Result<String, CallError>>);

fn calling(client: &Client, method: &'static str) -> Calling {
    let client = client.clone();
    let mut call = JoinSet::new();
    call.spawn(async move {
        let answer = client.rpc(method, "\"7\"").await?;
        Ok(String::from_utf8(answer.to_vec()).unwrap())
    });
    Calling(call)
}

impl Calling {
    async fn end(mut self) -> Result<String, CallError> {
        tokio::time::timeout(PATIENCE, self.0.join_next()).await.expect("the call ends").unwrap().unwrap()
    }
}

/// The next publication on the personal channel: its data and the request it answers.
async fn late_answer(events: &mut Events) -> (String, String) {
    event(events, |event| match event {
        Event::Publication { channel, data, tags, .. } if channel == "#42" => {
            Some((String::from_utf8_lossy(&data).into_owned(), tags["re"].clone()))
        }
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_plain_answer_reaches_its_caller_and_is_not_stored() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    for _ in 0..20 {
        assert_eq!(calling(&client, "echo").end().await.unwrap(), "\"7\"");
    }
    settled(&stack, "echo").await;
    assert_eq!(count(&stack, "TIDE_REPLY").await, 0);
    assert_eq!(events.try_next(), None);
}

#[tokio::test]
async fn a_gateway_says_what_became_of_each_answer() {
    let stack = start(quick("").gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let hand = Hand::of(&stack, "nobody").await;
    let call = calling(&client, "nobody");
    let (request, message) = hand.take().await;
    assert_eq!(hand.hand_over(&answer_to(&request, "1")).await, Some(Confirmation::Taken));
    assert_eq!(hand.hand_over(&answer_to(&request, "2")).await, Some(Confirmation::Known));
    assert_eq!(call.end().await.unwrap(), "1");
    hand.ack(&message).await;
    let late = calling(&client, "nobody");
    let (request, _message) = hand.take().await;
    assert_eq!(late.end().await.unwrap_err().code(), Some(1001));
    assert_eq!(hand.hand_over(&answer_to(&request, "1")).await, Some(Confirmation::Late));
    let nowhere = RequestId::plain(&GatewayId::random());
    let nowhere = tidegate_shared::envelope::Request { id: nowhere, ..request };
    assert_eq!(hand.hand_over(&answer_to(&nowhere, "1")).await, None, "there is no such gateway");
}

#[tokio::test]
async fn a_gateway_says_what_became_of_answers_that_come_in_one_message() {
    let stack = start(quick("").gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let hand = Hand::of(&stack, "nobody").await;
    let calls = [calling(&client, "nobody"), calling(&client, "nobody")];
    let ((first, _), (second, _)) = (hand.take().await, hand.take().await);
    let nobody =
        tidegate_shared::envelope::Request { id: RequestId::plain(&first.id.gateway()), ..first.clone() };
    let mut together = Together::default();
    for (request, body) in [(&first, "1"), (&nobody, "2"), (&second, "1")] {
        together.add(&answer_to(request, body));
    }
    let subject = stack.config().subjects().answers_together(&first.id.gateway());
    let words = hand.nats.request(subject, together.into_body()).await.unwrap();
    let (taken, late) = (Some(Confirmation::Taken), Some(Confirmation::Late));
    assert_eq!(Confirmation::read_lines(&words.payload, 3), [taken, late, taken]);
    for call in calls {
        assert_eq!(call.end().await.unwrap(), "1");
    }
    assert_eq!(hand.hand_over(&answer_to(&second, "1")).await, Some(Confirmation::Known));
}

#[tokio::test]
async fn the_caller_gets_its_answer_from_a_gateway_that_was_cut_from_nats_while_it_was_given() {
    let line = Line::new().await;
    let builder = patient().workers(1).variable("gateway-1", "TIDEGATE_NATS__URL", line.url.clone());
    let stack = start(builder).await;
    line.lead_to(&stack);
    stack.scale(Kind::Gateway, 1).await.unwrap();
    let (client, mut events) = connect(&stack, 0, "42").await;
    stack.stop("worker-1").await.unwrap();
    let call = calling(&client, "echo");
    eventually("the request is stored", || async {
        count(&stack, &tidegate_shared::topology::request_stream("echo")).await == 1
    })
    .await;
    line.cut();
    eventually("the gateway is cut off", || async { get(&stack, "/readyz").await.0 == 503 }).await;
    stack.start_process("worker-1").await.unwrap();
    eventually("nobody confirms the answer, so it is stored", || async {
        count(&stack, "TIDE_REPLY").await == 1
    })
    .await;
    line.mend();
    assert_eq!(call.end().await.unwrap(), "\"7\"");
    settled(&stack, "echo").await;
    assert_eq!(events.try_next(), None, "it came once");
}

#[tokio::test]
async fn the_answer_to_a_request_whose_gateway_was_killed_reaches_its_user_through_another_one() {
    let stack = start(quick("").gateways(2).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    stack.stop("worker-1").await.unwrap();
    let call = calling(&client, "echo");
    let stream = tidegate_shared::topology::request_stream("echo");
    eventually("the request is stored", || async { count(&stack, &stream).await == 1 }).await;
    stack.hold("gateway-1").await.unwrap();
    assert!(call.end().await.is_err());
    let (_client, mut events) = connect(&stack, 1, "42").await;
    stack.start_process("worker-1").await.unwrap();
    assert_eq!(late_answer(&mut events).await.0, "\"7\"");
    settled(&stack, "echo").await;
    assert_eq!(events.try_next(), None, "it came once");
}

#[tokio::test]
async fn the_answer_that_comes_while_a_gateway_is_cut_off_beyond_the_deadline_goes_to_the_user() {
    let line = Line::new().await;
    let builder = quick("").workers(1).variable("gateway-1", "TIDEGATE_NATS__URL", line.url.clone());
    let stack = start(builder).await;
    line.lead_to(&stack);
    stack.scale(Kind::Gateway, 2).await.unwrap();
    let (client, _events) = connect(&stack, 0, "42").await;
    let (_other, mut events) = connect(&stack, 1, "42").await;
    stack.stop("worker-1").await.unwrap();
    let call = calling(&client, "echo");
    let stream = tidegate_shared::topology::request_stream("echo");
    eventually("the request is stored", || async { count(&stack, &stream).await == 1 }).await;
    line.cut();
    stack.start_process("worker-1").await.unwrap();
    let CallError::Server { code: 1001, message, .. } = call.end().await.unwrap_err() else { panic!() };
    let (data, re) = late_answer(&mut events).await;
    assert_eq!(data, "\"7\"");
    assert!(message.contains(&re), "{message} names the request");
    settled(&stack, "echo").await;
}

#[tokio::test]
async fn a_stored_answer_whose_live_copy_was_missed_is_returned_at_the_deadline() {
    let stack = start(quick("").gateways(1)).await;
    let (client, mut events) = connect(&stack, 0, "42").await;
    let hand = Hand::of(&stack, "nobody").await;
    for method in ["nobody", "nobody#a-key"] {
        let call = calling(&client, method);
        let (request, message) = hand.take().await;
        hand.keep(&answer_to(&request, "1")).await;
        assert_eq!(call.end().await.unwrap(), "1", "{method}");
        if method == "nobody" {
            // Its worker was only slow: the gateway has not forgotten that the caller has the answer.
            assert_eq!(hand.hand_over(&answer_to(&request, "1")).await, Some(Confirmation::Known));
        }
        hand.ack(&message).await;
    }
    assert_eq!(events.try_next(), None);
}

#[tokio::test]
async fn a_stored_answer_whose_live_copy_was_missed_is_returned_after_a_reconnect() {
    let stack = start(patient().gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let hand = Hand::of(&stack, "nobody").await;
    let mut calls = Vec::new();
    for method in ["nobody", "nobody#a-key"] {
        calls.push(calling(&client, method));
        let (request, _message) = hand.take().await;
        hand.keep(&answer_to(&request, "1")).await;
    }
    stack.hold("nats").await.unwrap();
    stack.start_process("nats").await.unwrap();
    for call in calls {
        assert_eq!(call.end().await.unwrap(), "1");
    }
}

#[tokio::test]
async fn keyed_requests_are_refused_before_the_result_cache_is_full_and_nothing_else_is() {
    let streams = "[streams]\nreply_max_bytes = '64 KiB'\nanswer_max_bytes = '16 KiB'";
    let stack = start(quick(streams).gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let body = format!("\"{}\"", "x".repeat(10_000));
    let refusal = |method: &'static str| {
        let (client, body) = (client.clone(), body.clone());
        async move { client.rpc(method, body).await.err() }
    };
    assert_eq!(client.rpc("echo#0", body.clone()).await.unwrap(), body);
    let mut key = 0;
    eventually("keyed requests are refused", || {
        key += 1;
        let (client, body) = (client.clone(), body.clone());
        async move { client.rpc(&format!("echo#{key}"), body).await.is_err_and(|e| e.code() == Some(1000)) }
    })
    .await;
    for method in ["echo#another", "later.echo#another", "later.echo"] {
        let Some(CallError::Server { code: 1000, temporary: true, message }) = refusal(method).await else {
            panic!("{method} is refused");
        };
        assert!(message.contains("TIDE_REPLY"), "{message}");
    }
    assert_eq!(client.rpc("echo", body.clone()).await.unwrap(), body, "a plain request is not affected");
    assert_eq!(client.rpc("echo#0", body.clone()).await.unwrap(), body, "a stored answer is returned");
    let (status, page) = get(&stack, "/readyz").await;
    assert!(
        status == 200 && page.contains("TIDE_REPLY") && page.contains("streams.reply_max_bytes"),
        "{page}"
    );
    let jetstream = async_nats::jetstream::new(crate::support::admin(&stack).await);
    let mut larger = jetstream.get_stream("TIDE_REPLY").await.unwrap().cached_info().config.clone();
    larger.max_bytes *= 64;
    jetstream.update_stream(larger).await.unwrap();
    eventually("they are accepted again", || async { refusal("echo#another").await.is_none() }).await;
}
