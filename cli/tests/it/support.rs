//! Waiting for things to become so.

use std::{path::Path, time::Duration};

use tokio::time::{sleep, timeout};

/// What a slow machine may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until something is so; says what it was if it never is.
pub(crate) async fn eventually(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(LIMIT, waiting).await.is_ok(), "never so: {what}");
}

/// Whether there is such a process, even one that has ended and was not waited for.
pub(crate) fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
