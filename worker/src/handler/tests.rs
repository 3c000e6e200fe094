use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tower::layer::layer_fn;

use super::*;
use crate::{
    Attempt, Channel, Json, Method, Params, Publication, Publications, RequestId, Sender, State, User,
    job::tests::job,
};

type Calls = Arc<AtomicU32>;

async fn call<S: 'static>(route: RouteHandler<S>, state: S, job: Job) -> Result<Answer, Failure> {
    route.with_state(state).oneshot(job).await
}

fn rejection(result: Result<Answer, Failure>) -> (u32, String) {
    match result {
        Err(Failure::Reject { code, message }) => (code, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn arguments_are_read_from_the_job_and_the_state() {
    async fn place(
        State(greeting): State<&'static str>,
        User(user): User,
        Attempt(attempt): Attempt,
        Method(method): Method,
        params: Params,
        Json(body): Json<Value>,
    ) -> Json<Value> {
        let order = params.get("order").map(str::to_owned);
        assert_eq!(params.get("other"), None);
        Json(json!([greeting, user, attempt, method, order, body]))
    }
    let answer = call(on(place), "hi", job(Some("42"), b"{\"a\":1}")).await.unwrap();
    let expected = json!(["hi", "42", 2, "orders.7.place", "7", {"a": 1}]);
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap(), expected);
}

#[tokio::test]
async fn a_publication_has_a_channel_and_a_sender_but_an_rpc_has_no_channel() {
    async fn room(Channel(channel): Channel, sender: Sender, body: Bytes) -> ((), Publications) {
        ((), Publications(vec![Publication::bytes(channel, body).sent_by(sender)]))
    }
    let rpc = job(Some("42"), b"1");
    assert_eq!(rejection(call(on(room), (), rpc.clone()).await).0, 107);
    let request = tidegate_shared::envelope::Request {
        method: None,
        channel: Some(tidegate_shared::channel::Channel::parse("room:a").unwrap()),
        info: Some("{}".to_owned()),
        ..rpc.request().clone()
    };
    let matches = Arc::new(tidegate_shared::config::Match::Publish("room".to_owned()));
    let answer = call(on(room), (), Job::new(Arc::new(request), 0, matches)).await.unwrap();
    let [publication] = &answer.publications[..] else { panic!("{answer:?}") };
    assert_eq!((publication.channel.as_str(), &*publication.data), ("room:a", b"1".as_slice()));
    let sender = publication.sender.as_ref().unwrap();
    assert_eq!((sender.user.as_deref(), sender.client.as_str()), (Some("42"), "gw.c"));
    assert_eq!((sender.info.as_deref(), &sender.channel_info), (Some("{}"), &None));
}

#[tokio::test]
async fn a_handler_has_any_number_of_arguments_and_may_have_none() {
    async fn none() {}
    async fn one(RequestId(id): RequestId) -> Bytes {
        id.as_str().to_owned().into()
    }
    async fn whole(job: Job) -> Bytes {
        job.body()
    }
    assert_eq!(call(on(none), (), job(None, b"x")).await.unwrap(), Answer::default());
    let job = job(None, b"x");
    let id = job.request().id.to_string();
    assert_eq!(call(on(one), (), job.clone()).await.unwrap().body, id);
    assert_eq!(call(on(whole), (), job).await.unwrap().body, "x");
}

#[tokio::test]
async fn an_anonymous_request_is_rejected_where_a_user_is_needed() {
    async fn needs(User(_): User) {}
    async fn takes(user: Option<User>) -> Json<bool> {
        Json(user.is_some())
    }
    assert_eq!(rejection(call(on(needs), (), job(None, b"")).await).0, 103);
    assert_eq!(call(on(takes), (), job(None, b"")).await.unwrap().body, "false");
    assert_eq!(call(on(takes), (), job(Some("u"), b"")).await.unwrap().body, "true");
}

#[tokio::test]
async fn a_body_that_is_not_the_expected_json_is_rejected() {
    async fn number(Json(_): Json<u32>) {}
    let (code, message) = rejection(call(on(number), (), job(None, b"\"x\"")).await);
    assert_eq!(code, 107);
    assert!(message.contains("expected u32"), "{message}");
}

#[tokio::test]
async fn an_answer_can_have_publications() {
    async fn announce() -> Result<(Json<u32>, Publications), Failure> {
        let publication = Publication::json("chat:lobby", &1)?.tag("kind", "first");
        Ok((Json(7), Publications(vec![publication])))
    }
    let answer = call(on(announce), (), job(None, b"")).await.unwrap();
    assert_eq!(answer.body, "7");
    assert_eq!(answer.publications[0].data, "1");
    assert_eq!(answer.publications[0].tags["kind"], "first");
}

#[tokio::test]
async fn any_error_is_a_retry() {
    async fn fails() -> Result<(), Failure> {
        Err(std::io::Error::other("the disk is gone"))?
    }
    let failure = call(on(fails), (), job(None, b"")).await.unwrap_err();
    assert!(matches!(failure, Failure::Retry { why, after: None } if why.to_string() == "the disk is gone"));
}

#[tokio::test]
async fn a_layer_wraps_the_handler_of_its_route() {
    async fn echo(body: Bytes) -> Bytes {
        body
    }
    let calls = Calls::default();
    let counted = Arc::clone(&calls);
    let layer = layer_fn(move |inner: BoxedHandler| {
        let counted = Arc::clone(&counted);
        inner.map_request(move |job| {
            counted.fetch_add(1, Ordering::Relaxed);
            job
        })
    });
    let route = on(echo).layer(layer).layer(tower::layer::util::Identity::new());
    assert_eq!(call(route, (), job(None, b"x")).await.unwrap().body, "x");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}
