//! What one user sends: requests with keys, each repeated until it is answered, and publications, each sent once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_cli::client::CallError;
use tidegate_shared::{id::RequestId, protocol::codes};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    answers::{LATER, ROUTES, job, key},
    findings::Wrong,
    user::User,
};
use crate::job::Stamp;

/// The pause between two requests, and between two publications of one user: half of it to one and a half of it.
const PAUSE: Duration = Duration::from_millis(600);
/// The pause before a request is repeated.
const AGAIN: Duration = Duration::from_millis(200);
/// How long one request is repeated. No fault of the plan lasts nearly that long.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// The reply to a request of the route `later`.
#[derive(Deserialize)]
struct Receipt {
    id: String,
}

/// How a key's call has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Called {
    Answered,
    /// Refused for good.
    Refused(String),
    /// No answer in time, and what the last try was told.
    Silent(String),
}

/// Sends requests, one after the other, until `stop`, and then waits for the last one's answer.
pub(super) async fn call(user: Arc<User>, stop: CancellationToken) {
    for route in ROUTES.into_iter().cycle() {
        if stop.is_cancelled() {
            return;
        }
        let n = user.book().answers.begin(route);
        let begun = Instant::now();
        let called = call_key(&user, route, n, begun + PATIENCE).await;
        {
            let mut book = user.book();
            book.counts.answered += u64::from(called == Called::Answered);
            let took = begun.elapsed();
            if took > book.counts.slowest.0 {
                book.counts.slowest = (took, named(&user, route, n));
            }
        }
        match called {
            Called::Answered => {}
            Called::Refused(why) => {
                user.find(Wrong::Refused, || format!("{}: {why}", named(&user, route, n)));
            }
            Called::Silent(why) => user.find(Wrong::Blocked, || {
                format!("{} was called again and again for {PATIENCE:?}: {why}", named(&user, route, n))
            }),
        }
        pause(&stop).await;
    }
}

/// A key, with what its request is called in the logs of gateways and workers.
pub(super) fn named(user: &User, route: &str, n: u64) -> String {
    format!("{}: {route}-{n} ({})", user.name, RequestId::keyed(&user.name, route, &key(n)))
}

/// Repeats the call of a key until it is answered, refused, or the deadline is over.
pub(super) async fn call_key(user: &User, route: &str, n: u64, deadline: Instant) -> Called {
    let method = format!("{route}#{}", key(n));
    let body = json(&job(&user.name, &user.channel, route, n));
    let mut last = "the client was not connected".to_owned();
    loop {
        let Some(client) = user.connected(deadline).await else { return Called::Silent(last) };
        match client.rpc(&method, body.clone()).await {
            Ok(data) => return answered(user, route, n, &data),
            Err(error) if passes(&error) => last = error.to_string(),
            Err(error) => return Called::Refused(error.to_string()),
        }
        user.book().counts.retries += 1;
        sleep(AGAIN.mul_f64(0.5 + rand::random::<f64>())).await;
        if Instant::now() >= deadline {
            return Called::Silent(last);
        }
    }
}

fn answered(user: &User, route: &str, n: u64, data: &[u8]) -> Called {
    let mut book = user.book();
    let book = &mut *book;
    if route == LATER {
        match serde_json::from_slice::<Receipt>(data) {
            Ok(receipt) if receipt.id.starts_with("k.") => {
                book.receipts.insert(n);
                return Called::Answered;
            }
            _ => {}
        }
    } else if let Ok(answer) = serde_json::from_slice::<Stamp>(data) {
        book.answers.take((route, n), &answer, &mut book.findings);
        return Called::Answered;
    }
    Called::Refused(format!("the answer is {}", String::from_utf8_lossy(data)))
}

/// Whether the same call with the same key can be answered later.
fn passes(error: &CallError) -> bool {
    match error {
        CallError::Closed(_) | CallError::Timeout => true,
        CallError::Server { code, temporary, .. } => {
            *temporary || [codes::STILL_WORKING.code, codes::OUTCOME_UNKNOWN.code].contains(code)
        }
        CallError::Payload(_) => false,
    }
}

/// Publishes in the user's channel until `stop`.
pub(super) async fn publish(user: Arc<User>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // The next number is used only if it can be sent.
        if let Some(client) = user.client() {
            let n = user.book().published.sent;
            user.book().published.sent += 1;
            let stamp = Stamp { to: user.channel.clone(), by: user.name.clone(), n, run: 0 };
            let published = client.publish(&user.channel, json(&stamp)).await;
            let mut book = user.book();
            match published {
                Ok(()) => {
                    book.published.stored.insert(n);
                }
                Err(error) if error.code() == Some(codes::NOT_ACCEPTED.code) => {
                    book.published.refused.insert(n);
                }
                Err(error) if passes(&error) => {}
                Err(error) => {
                    book.findings.add(Wrong::Refused, || {
                        format!("{}: publication {n} was refused: {error}", user.name)
                    });
                }
            }
        }
        pause(&stop).await;
    }
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(PAUSE.mul_f64(0.5 + rand::random::<f64>())) => {}
    }
}

/// These payloads have nothing that JSON cannot carry.
pub(super) fn json(payload: &impl Serialize) -> Bytes {
    serde_json::to_vec(payload).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_repeated_unless_it_was_refused_for_good() {
        let server = |code: codes::ErrorCode| CallError::from(code.error());
        for code in [codes::STILL_WORKING, codes::OUTCOME_UNKNOWN, codes::NOT_ACCEPTED, codes::INTERNAL] {
            assert!(passes(&server(code)), "{code:?}");
        }
        for code in [codes::DEAD_LETTER, codes::KEY_REUSED, codes::PERMISSION_DENIED] {
            assert!(!passes(&server(code)), "{code:?}");
        }
        assert!(passes(&CallError::Timeout));
    }
}
