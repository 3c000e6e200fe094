//! The back end of a webhook in a test: it answers what the test says, one call after the other, and notes what differs.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use tidegate_shared::config::Exchange;
use tokio::{net::TcpListener, task::JoinSet};

use super::compare;

/// The longest body that is read.
const LONGEST: usize = 64 << 20;

/// A running receiver. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) address: String,
    script: Arc<Script>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Script {
    exchanges: Vec<Exchange>,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    calls: usize,
    differences: Vec<String>,
}

impl Receiver {
    pub(super) async fn start(exchanges: &[Exchange]) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let script = Arc::new(Script { exchanges: exchanges.to_vec(), noted: Mutex::default() });
        let app = Router::new().fallback(receive).with_state(Arc::clone(&script));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, script, _serving: serving })
    }

    /// What was not as the test expects it, with the calls that did not come.
    pub(super) fn differences(&self) -> Vec<String> {
        let noted = self.script.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut differences = noted.differences.clone();
        let missing = self.script.exchanges.iter().enumerate().skip(noted.calls);
        differences.extend(missing.map(|(place, exchange)| {
            let path = exchange.path.as_deref().unwrap_or("any path");
            compare::differs(&format!("receiver, call {}", place + 1), &format!("a call of {path}"), "none")
        }));
        differences
    }
}

async fn receive(State(script): State<Arc<Script>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LONGEST).await.unwrap_or_default();
    let mut noted = script.noted.lock().unwrap_or_else(PoisonError::into_inner);
    noted.calls += 1;
    let what = format!("receiver, call {}", noted.calls);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let Some(exchange) = script.exchanges.get(noted.calls - 1) else {
        let found = format!("{} {path}", parts.method);
        noted.differences.push(compare::differs(&what, "no further call", &found));
        return answer(&Exchange::unexpected());
    };
    let differences = &mut noted.differences;
    let of = |part: &str| format!("{what}, {part}");
    if exchange.method.as_deref().is_some_and(|method| method != parts.method.as_str()) {
        let expected = exchange.method.as_deref().unwrap_or_default();
        differences.push(compare::differs(&of("method"), expected, parts.method.as_str()));
    }
    compare::optional(&of("path"), exchange.path.as_deref(), path, differences);
    compare::optional(&of("body"), exchange.body.as_deref(), &String::from_utf8_lossy(&body), differences);
    for (name, expected) in &exchange.headers {
        let found =
            parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if found.as_deref() != Some(expected) {
            let found = found.unwrap_or_else(|| "none".to_owned());
            differences.push(compare::differs(&of(&format!("header {name}")), expected, &found));
        }
    }
    answer(exchange)
}

fn answer(exchange: &Exchange) -> Response {
    let mut response = Response::builder().status(exchange.status);
    if !exchange.response_headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
        response = response.header("content-type", "application/json");
    }
    for (name, value) in &exchange.response_headers {
        response = response.header(name, value);
    }
    response.body(Body::from(exchange.response.clone())).unwrap_or_default()
}
