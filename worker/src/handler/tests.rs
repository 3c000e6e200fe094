use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tower::{ServiceExt, layer::layer_fn};

use super::*;
use crate::{
    Attempt, Channel, IntoFailure, Json, Method, Params, Publication, Publications, RequestId, ResultExt,
    Sender, State, User, job::tests::job,
};

type Calls = Arc<AtomicU32>;

async fn call<S: 'static>(route: RouteHandler<S>, state: S, job: Job) -> Result<Answer, Failure> {
    route.with_state(state).oneshot(job).await.unwrap()
}

fn rejection(result: Result<Answer, Failure>) -> (u32, String) {
    match result {
        Err(Failure::Reject { code, message, .. }) => (code, message),
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
    assert_eq!((sender.user.as_deref(), sender.client.as_deref()), (Some("42"), Some("gw.c")));
    assert_eq!((sender.info.as_deref(), &sender.channel_info), (Some("{}"), &None));
}

#[tokio::test]
async fn a_handler_has_any_number_of_arguments_and_may_have_none() {
    async fn none() {}
    async fn one(RequestId(id): RequestId) -> Bytes {
        id.into()
    }
    async fn whole(job: Job) -> Bytes {
        job.body()
    }
    assert_eq!(call(on(none), (), job(None, b"x")).await.unwrap(), Answer::default());
    let job = job(None, b"x");
    let id = job.id().to_owned();
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
async fn what_goes_with_an_answer_is_in_a_tuple_behind_it() {
    async fn several(
        Json(large): Json<bool>,
    ) -> Result<(Json<u32>, Publications, Option<Publication>, Vec<Publication>), Failure> {
        let to = |channel: &str| Publication::bytes(channel, "1");
        Ok((Json(7), Publications(vec![to("a:1")]), large.then(|| to("a:2")), vec![to("a:3"), to("a:4")]))
    }
    async fn only() -> Publication {
        Publication::bytes("a:1", "1")
    }
    let channels = |answer: Answer| answer.publications.into_iter().map(|p| p.channel).collect::<Vec<_>>();
    let answer = call(on(several), (), job(None, b"true")).await.unwrap();
    assert_eq!(answer.body, "7");
    assert_eq!(channels(answer), ["a:1", "a:2", "a:3", "a:4"]);
    assert_eq!(channels(call(on(several), (), job(None, b"false")).await.unwrap()), ["a:1", "a:3", "a:4"]);
    let answer = call(on(only), (), job(None, b"")).await.unwrap();
    assert_eq!((answer.body.is_empty(), channels(answer)), (true, vec!["a:1".to_owned()]));
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
async fn an_error_of_anyhow_is_a_retry_and_any_other_error_means_what_the_handler_says() {
    fn disk() -> std::io::Result<()> {
        Err(std::io::Error::other("the disk is gone"))
    }
    async fn context() -> Result<(), Failure> {
        anyhow::Context::context(disk(), "saving")?;
        Ok(())
    }
    async fn any() -> anyhow::Result<()> {
        Ok(disk()?)
    }
    async fn retried() -> Result<(), Failure> {
        disk().or_retry()
    }
    async fn later() -> Result<(), Failure> {
        disk().or_retry_after(Duration::from_secs(7))
    }
    async fn rejected() -> Result<(), Failure> {
        disk().or_reject(507)
    }
    async fn dead() -> Result<(), Failure> {
        disk().or_dead()
    }
    async fn said(route: RouteHandler<()>) -> String {
        match call(route, (), job(None, b"")).await.unwrap_err() {
            Failure::Retry { error, after } => format!("retry after {after:?}: {error:#}"),
            Failure::Reject { code, message, .. } => format!("reject {code}: {message}"),
            Failure::Dead { reason } => format!("dead: {reason}"),
            other @ Failure::Snooze { .. } => panic!("{other:?}"),
        }
    }
    assert_eq!(said(on(context)).await, "retry after None: saving: the disk is gone");
    assert_eq!(said(on(any)).await, "retry after None: the disk is gone");
    assert_eq!(said(on(retried)).await, "retry after None: the disk is gone");
    assert_eq!(said(on(later)).await, "retry after Some(7s): the disk is gone");
    assert_eq!(said(on(rejected)).await, "reject 507: the disk is gone");
    assert_eq!(said(on(dead)).await, "dead: the disk is gone");
}

#[tokio::test]
async fn a_handler_can_return_errors_of_its_own_that_say_what_they_mean() {
    struct SoldOut(u32);
    impl IntoFailure for SoldOut {
        fn into_failure(self) -> Failure {
            Failure::reject(409, "sold out").with_data(json!({"left": self.0}))
        }
    }
    async fn own() -> Result<Json<u32>, SoldOut> {
        Err(SoldOut(1))
    }
    async fn converted() -> Result<Json<u32>, Failure> {
        Err(SoldOut(2))?
    }
    for (route, left) in [(on(own), 1), (on(converted), 2)] {
        let failure = call(route, (), job(None, b"")).await.unwrap_err();
        let Failure::Reject { code: 409, message, data } = failure else { panic!("{failure:?}") };
        assert_eq!((message.as_str(), &*data), ("sold out", json!({"left": left}).to_string().as_bytes()));
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_as_json_would_never_be_and_needs_an_operator() {
    async fn unwritable() -> Json<std::collections::HashMap<(u8, u8), u8>> {
        Json([((1, 2), 3)].into())
    }
    let failure = call(on(unwritable), (), job(None, b"")).await.unwrap_err();
    assert!(matches!(failure, Failure::Dead { reason } if reason.contains("cannot be written as JSON")));
}

#[tokio::test]
async fn a_layer_wraps_the_handler_of_its_route() {
    async fn echo(body: Bytes) -> Bytes {
        body
    }
    let calls = Calls::default();
    let counted = Arc::clone(&calls);
    let layer = layer_fn(move |inner: HandlerService| {
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
