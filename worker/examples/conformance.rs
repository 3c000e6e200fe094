//! The worker that `tidegate conformance` tests in the tests of this repository: its handler does what docs/worker-contract.md
//! says a worker under test must do.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_worker::{Attempt, Failure, Router, on, program};

async fn handle(Attempt(attempt): Attempt, body: Bytes) -> Result<Bytes, Failure> {
    let task: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(name) = task.get("do").and_then(Value::as_str) else { return Ok(body) };
    let number = |name: &str| task.get(name).and_then(Value::as_u64);
    let fails = u64::from(attempt) < number("times").unwrap_or(u64::MAX);
    let answer = match name {
        "echo" => task.get("data").cloned().unwrap_or_default(),
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(number("ms").unwrap_or_default())).await;
            json!({ "slept": number("ms") })
        }
        "stamp" => json!(rand::random::<u64>().to_string()),
        "fail" if fails => return Err(Failure::retry(anyhow::anyhow!("asked to fail"))),
        "crash" if fails => std::process::abort(),
        "fail" | "crash" => json!({ "attempt": attempt }),
        "reject" => {
            let code = number("code").and_then(|code| u32::try_from(code).ok()).unwrap_or(400);
            let message = task.get("message").and_then(Value::as_str).unwrap_or_default();
            return Err(Failure::reject(code, message));
        }
        "large" => {
            let bytes = number("bytes").and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default();
            return Ok(vec![b'x'; bytes].into());
        }
        _ => return Err(Failure::reject(400, format!("unknown task {name:?}"))),
    };
    Ok(answer.to_string().into())
}

fn main() -> std::process::ExitCode {
    program(env!("CARGO_PKG_VERSION"), async |_| Ok(Router::new().route("conformance", on(handle))))
}
