//! The consume tasks of a worker. Each is essential: when one ends too early, the worker drains instead of leaving its route
//! without a consumer.

use std::collections::HashMap;

use tidegate_shared::lifecycle::{Lifecycle, TaskEnded};
use tokio::task::{Id, JoinError, JoinSet};

use crate::attempt::panic_message;

/// The task name in [`TaskEnded`]; its reason names the route.
const TASK: &str = "consume";

/// The running consume tasks and the routes they consume for.
#[derive(Debug, Default)]
pub(crate) struct ConsumeTasks {
    tasks: JoinSet<()>,
    routes: HashMap<Id, String>,
}

impl ConsumeTasks {
    pub(crate) fn spawn(&mut self, route: &str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.routes.insert(id, route.to_owned());
    }

    /// Completes when the worker drains. A task that ends before that fails the lifecycle, which drains the worker.
    pub(crate) async fn watch(&mut self, lifecycle: &Lifecycle) {
        tokio::select! {
            biased;
            () = lifecycle.draining() => {}
            Some(ended) = self.tasks.join_next_with_id() => {
                let (id, reason) = match ended {
                    Ok((id, ())) => (id, "it returned".to_owned()),
                    Err(error) => (error.id(), reason_of(error)),
                };
                self.fail(lifecycle, id, &reason);
            }
        }
    }

    /// Waits until every task has ended. A draining task may return; a panic still fails the lifecycle.
    pub(crate) async fn finish(mut self, lifecycle: &Lifecycle) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            if let Err(error) = ended {
                self.fail(lifecycle, error.id(), &reason_of(error));
            }
        }
    }

    fn fail(&self, lifecycle: &Lifecycle, id: Id, reason: &str) {
        let route = self.routes.get(&id).map_or("unknown", String::as_str);
        lifecycle.fail(TaskEnded { task: TASK, reason: format!("route {route:?}: {reason}") });
    }
}

fn reason_of(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => format!("it panicked: {}", panic_message(&*panic)),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_while_the_worker_drains_is_a_failure_too() {
        let lifecycle = Lifecycle::new();
        let mut tasks = ConsumeTasks::default();
        tasks.spawn("regular", async {});
        tasks.spawn("planted", async { panic!("on purpose") });
        lifecycle.drain();
        tasks.watch(&lifecycle).await;
        tasks.finish(&lifecycle).await;
        assert_eq!(lifecycle.failure().unwrap().reason, "route \"planted\": it panicked: on purpose");
    }

    #[tokio::test]
    async fn tasks_that_return_while_the_worker_drains_are_no_failure() {
        let lifecycle = Lifecycle::new();
        let mut tasks = ConsumeTasks::default();
        let draining = lifecycle.clone();
        tasks.spawn("regular", async move { draining.draining().await });
        lifecycle.drain();
        tasks.watch(&lifecycle).await;
        tasks.finish(&lifecycle).await;
        assert_eq!(lifecycle.failure(), None);
    }
}
