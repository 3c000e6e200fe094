//! The handler `webhook` against a real HTTP server that misbehaves in every way that the page names.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use tidegate_shared::envelope::Request;
use tokio::{net::TcpListener, task::JoinSet};

use crate::support::{Tide, eventually, get};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What the receiver got, by path.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<BTreeMap<String, Vec<HeaderMap>>>>);

impl Calls {
    fn of(&self, path: &str) -> Vec<HeaderMap> {
        self.0.lock().unwrap().get(path).cloned().unwrap_or_default()
    }
}

async fn receive(State(calls): State<Calls>, request: HttpRequest) -> Response {
    let path = request.uri().path().to_owned();
    let earlier = {
        let mut calls = calls.0.lock().unwrap();
        let calls = calls.entry(path.clone()).or_default();
        calls.push(request.headers().clone());
        calls.len() - 1
    };
    match (path.as_str(), earlier) {
        ("/flaky", 0) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        ("/busy", 0) => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response(),
        ("/slow", 0) => std::future::pending().await,
        ("/wrong", _) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "{\"message\": \"no such article\"}").into_response()
        }
        ("/redirect", _) => (StatusCode::FOUND, [(header::LOCATION, "/ok")]).into_response(),
        ("/huge", _) => "x".repeat(100_000).into_response(),
        ("/gone", _) => StatusCode::GONE.into_response(),
        _ => "done".into_response(),
    }
}

/// Serves on a listener until it is dropped.
fn serve(listener: TcpListener) -> (Calls, JoinSet<()>) {
    let calls = Calls::default();
    let app = Router::new().fallback(receive).with_state(calls.clone());
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, app).await.unwrap() });
    (calls, task)
}

fn route(name: &str, url: &str, keys: &str) -> String {
    format!(
        "[[route]]\nname = \"{name}\"\nmatch = \"rpc.{name}.{{case}}\"\nhandler = \"webhook\"\nmax_attempts = 60\n\
         backoff = {{ base = \"50ms\", cap = \"100ms\" }}\n[route.webhook]\nurl = \"{url}\"\ntimeout = \"400ms\"\n\
         max_bytes = \"64 KiB\"\n{keys}\n"
    )
}

async fn ask(tide: &Tide, route: &str, case: &str) -> Request {
    let request =
        Request { route: route.to_owned(), ..tide.request(&format!("{route}.{case}"), "{\"a\":1}") };
    tide.send(&request).await;
    request
}

#[tokio::test]
async fn a_receiver_may_be_slow_busy_failing_redirecting_or_huge_and_nothing_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (calls, _serving) = serve(listener);
    let (address, local) = (format!("http://127.0.0.1:{port}"), "allow = [\"127.0.0.0/8\"]");
    let signed = format!("{local}\nsecrets = [\"{SECRET}\"]");
    let routes = [
        route("hook", &format!("{address}/{{param.case}}"), &signed),
        route("inside", &format!("http://localhost:{port}/inside"), ""),
    ];
    let tide = Tide::start_with(&routes.concat(), 1).await;
    for case in ["ok", "flaky", "busy", "slow"] {
        let request = ask(&tide, "hook", case).await;
        assert_eq!(tide.body(&request).await, "\"done\"", "{case}");
        let received = calls.of(&format!("/{case}"));
        assert_eq!(received.len(), if case == "ok" { 1 } else { 2 }, "{case}");
        for headers in received {
            assert_eq!(headers["webhook-id"], request.id.as_str(), "every attempt has the same id");
            assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
            assert_eq!(
                (&headers["tide-user"], &headers["content-type"]),
                (&"42".parse().unwrap(), &"application/json".parse().unwrap())
            );
        }
    }
    let wrong = ask(&tide, "hook", "wrong").await;
    assert_eq!(tide.error(&wrong).await, (422, "no such article".to_owned()));
    for (name, case) in [("hook", "redirect"), ("hook", "huge"), ("inside", "private")] {
        let request = ask(&tide, name, case).await;
        assert_eq!(tide.error(&request).await.0, 1004, "{case}");
        tide.dead_letter(name).await;
    }
    assert!(calls.of("/inside").is_empty(), "no request went to a refused address");
    assert_eq!(calls.of("/ok").len(), 1, "no redirect was followed");
    tide.settled().await;
}

#[tokio::test]
async fn a_receiver_that_is_away_stops_the_route_and_every_request_is_answered_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let keys = "allow = [\"127.0.0.0/8\"]\nbreaker = { failures = 3, window = \"10s\", open = \"300ms\" }";
    let tide = Tide::start_with(&route("hook", &format!("http://{address}/{{param.case}}"), keys), 1).await;
    let mut requests = Vec::new();
    for case in 0..20 {
        requests.push(ask(&tide, "hook", &case.to_string()).await);
    }
    let internal = tide.stack.worker_addresses()[0];
    eventually("the route is stopped", async || {
        get(internal, "/metrics")
            .await
            .contains("tidegate_worker_gate_closed{route=\"hook\"} 1")
            .then_some(())
    })
    .await;
    let (calls, _serving) = serve(TcpListener::bind(address).await.unwrap());
    for request in &requests {
        assert_eq!(tide.body(request).await, "\"done\"");
    }
    assert_eq!(calls.of("/7").len(), 1);
    tide.settled().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_stops_the_route_with_an_alert_and_the_request_stays() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (calls, _serving) = serve(listener);
    let url = format!("http://{address}/{{param.case}}");
    let tide = Tide::start_with(&route("hook", &url, "allow = [\"127.0.0.0/8\"]"), 1).await;
    let request = ask(&tide, "hook", "gone").await;
    tide.due(&request).await;
    let log = tide.stack.log_of("worker-1");
    assert!(log.contains("ERROR") && log.contains("the webhook answered 410"), "{log}");
    assert_eq!((calls.of("/gone").len(), tide.stored(&request).await), (1, None));
}
