//! What a worker shows about the requests that wait for it.

use std::sync::Arc;

use tidegate_worker::{Router, State, on};
use tokio::sync::Semaphore;

use crate::support::{Tide, eventually, number};

#[tokio::test]
async fn a_worker_shows_what_waits_for_its_routes_and_how_old_the_oldest_is() {
    async fn waits(State(gate): State<Arc<Semaphore>>) {
        gate.acquire().await.unwrap().forget();
    }
    let tide = Tide::start("[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nconcurrency = 1\n").await;
    for _ in 0..3 {
        tide.ask("job", "").await;
    }
    let gate = Arc::new(Semaphore::new(0));
    let router = Router::with_state(Arc::clone(&gate)).route("job", on(waits));
    let worker = tide.work("w", router).await;
    eventually("the figures are shown", async || {
        let page = worker.page();
        let count = |name: &str| number::<u64>(&page, &format!("tidegate_worker_{name}{{route=\"job\"}}"));
        let age = number::<f64>(&page, "tidegate_worker_oldest_age_seconds{route=\"job\"}");
        let whole = count("waiting") + count("unacknowledged") == 3 && count("unacknowledged") >= 1;
        (whole && age > 0.0).then_some(())
    })
    .await;
    gate.add_permits(3);
    eventually("nothing is left", async || {
        let page = worker.page();
        page.contains("tidegate_worker_oldest_age_seconds{route=\"job\"} 0.0").then_some(())
    })
    .await;
}
