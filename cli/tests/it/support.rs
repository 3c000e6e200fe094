//! Helpers that wait for a condition.

use std::{path::Path, time::Duration};

use tokio::time::{sleep, timeout};

/// The time limit, enough for a slow machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until a condition holds. Panics with its name after the limit.
pub(crate) async fn eventually(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(LIMIT, waiting).await.is_ok(), "not reached in time: {what}");
}

/// Whether a process exists. A zombie counts.
pub(crate) fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
