use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::{Answer, Handler, IntoAnswer, Sender, handler::on, job::tests::job};

async fn call<M: 'static>(
    handler: impl Handler<M, (), Output: IntoAnswer>,
    job: Job,
) -> Result<Answer, Failure> {
    on(handler).with_state(()).oneshot(job).await.unwrap()
}

async fn said<M: 'static>(handler: impl Handler<M, (), Output: IntoAnswer>, job: Job) -> Value {
    call(handler, job).await.unwrap().to_json().unwrap()
}

async fn code<M: 'static>(handler: impl Handler<M, (), Output: IntoAnswer>, job: Job) -> u32 {
    match call(handler, job).await {
        Err(Failure::Reject { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_optional_argument_is_none_where_there_is_nothing_and_fails_where_there_is_something_wrong() {
    async fn user(user: Option<User>) -> Json<bool> {
        Json(user.is_some())
    }
    async fn last(Attempt(_): Attempt, channel: Option<Channel>) -> Json<bool> {
        Json(channel.is_some())
    }
    async fn body(number: Option<Json<u32>>) -> Json<Option<u32>> {
        Json(number.map(|Json(number)| number))
    }
    assert_eq!(said(user, job(None, b"")).await, false);
    assert_eq!(said(user, job(Some("u"), b"")).await, true);
    assert_eq!(said(last, job(None, b"")).await, false);
    assert_eq!(said(body, job(None, b"")).await, Value::Null);
    assert_eq!(said(body, job(None, b"7")).await, 7);
    assert_eq!(code(body, job(None, b"x")).await, 107);
}

#[tokio::test]
async fn a_handler_can_look_at_the_rejection_of_an_argument() {
    async fn handler(user: Result<User, NoUser>, body: Result<Json<u32>, BadJson>) -> Json<Value> {
        Json(json!([user.is_err(), body.map(|Json(number)| number).map_err(|bad| bad.to_string())]))
    }
    let answer = said(handler, job(None, b"x")).await;
    assert_eq!(answer, json!([true, {"Err": "expected value at line 1 column 1"}]));
    assert_eq!(said(handler, job(Some("u"), b"1")).await, json!([false, {"Ok": 1}]));
}

#[tokio::test]
async fn a_handler_takes_a_part_of_the_routers_state() {
    #[derive(Clone)]
    struct Shop(Arc<str>, u32);
    impl FromRef<Shop> for u32 {
        fn from_ref(shop: &Shop) -> Self {
            shop.1
        }
    }
    async fn both(State(price): State<u32>, State(Shop(name, _)): State<Shop>) -> Json<(String, u32)> {
        Json((name.to_string(), price))
    }
    let service = on(both).with_state(Shop("flowers".into(), 5));
    let answer = service.oneshot(job(None, b"")).await.unwrap().unwrap();
    assert_eq!(answer.body, r#"["flowers",5]"#);
}

#[tokio::test]
async fn words_of_the_method_are_read_as_the_type_that_the_handler_wants() {
    async fn place(params: Params) -> Result<Json<u64>, BadParam> {
        Ok(Json(params.parse("order")?))
    }
    async fn wrong(params: Params) -> Result<Json<u64>, BadParam> {
        Ok(Json(params.parse::<bool>("order").map(u64::from)?))
    }
    assert_eq!(said(place, job(None, b"")).await, 7);
    let Err(Failure::Reject { code: 107, message, .. }) = call(wrong, job(None, b"")).await else {
        panic!("it is rejected")
    };
    assert!(message.contains("{order}: \"7\": provided string was not"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_end_of_the_attempts_time() {
    async fn handler(deadline: Deadline) -> Json<[u64; 2]> {
        let before = deadline.remaining().as_secs();
        tokio::time::sleep(Duration::from_secs(10)).await;
        Json([before, deadline.remaining().as_secs()])
    }
    assert_eq!(said(handler, job(None, b"").within(Duration::from_secs(30))).await, json!([30, 20]));
    assert_eq!(said(handler, job(None, b"").within(Duration::from_secs(3))).await, json!([3, 0]));
}

#[tokio::test]
async fn a_value_of_a_layer_reaches_the_handler_and_a_missing_one_is_tried_again() {
    async fn tenant(Extension(tenant): Extension<&'static str>) -> Json<&'static str> {
        Json(tenant)
    }
    let mut with = job(None, b"");
    with.extensions_mut().insert("a");
    assert_eq!(said(tenant, with).await, "a");
    let failure = call(tenant, job(None, b"")).await.unwrap_err();
    assert!(
        matches!(&failure, Failure::Retry { error, .. } if error.to_string().contains("&str")),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_job_that_is_no_call_has_no_method_and_every_job_says_where_it_comes_from() {
    async fn who(Client(client): Client, Method(method): Method, RequestId(id): RequestId) -> Json<Value> {
        Json(json!([client, method, id.is_empty()]))
    }
    assert_eq!(said(who, job(None, b"")).await, json!(["gw.c", "orders.7.place", false]));
    let publication = tidegate_shared::envelope::Request { method: None, ..job(None, b"").request().clone() };
    let matches = Arc::new(tidegate_shared::config::Match::Send);
    assert_eq!(code(who, Job::new(Arc::new(publication), 0, matches)).await, 107);
}

#[tokio::test]
async fn a_handler_may_have_twelve_arguments() {
    #[expect(clippy::too_many_arguments, reason = "that is what is tested")]
    async fn twelve(
        _: User,
        _: Client,
        _: RequestId,
        _: Attempt,
        _: Deadline,
        _: Method,
        _: Params,
        _: Headers,
        _: Sender,
        _: Option<Channel>,
        _: State<()>,
        body: Bytes,
    ) -> Bytes {
        body
    }
    assert_eq!(call(twelve, job(Some("u"), b"1")).await.unwrap().body, "1");
}
