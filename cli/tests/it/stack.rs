//! Starting, restarting, pausing, ending.

use rustix::process::{Pid, Signal, kill_process};
use tidegate_cli::stack::{Kind, ProcessPhase, Stack, setup};

use crate::support::{eventually, exists};

async fn whole(gateways: usize, workers: usize) -> Stack {
    Stack::builder().gateways(gateways).workers(workers).start().await.unwrap()
}

fn pids(stack: &Stack) -> Vec<i32> {
    stack.status().iter().filter_map(|process| process.pid).collect()
}

#[tokio::test]
async fn the_broker_starts_alone_and_a_second_plan_is_empty() {
    let config = "[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\n[[namespace]]\nname = \"chat\"\n";
    let stack = Stack::builder().config(config).start().await.unwrap();
    let broker = setup::connect(stack.config()).await.unwrap();
    assert_eq!(setup::plan(&broker, stack.config()).await.unwrap(), []);
    assert!(setup::apply(&broker, stack.config()).await.unwrap().is_empty());
    let status = stack.status();
    assert_eq!((status.len(), status[0].phase), (1, ProcessPhase::Ready));
    assert!(stack.log_of("nats").contains("Server is ready"));
    stack.down().await;
}

#[tokio::test]
async fn a_killed_process_is_restarted_at_the_same_address() {
    let stack = whole(1, 1).await;
    for name in ["worker-1", "gateway-1", "purger", "nats"] {
        let (before, address) = (stack.pid(name), stack.gateways()[0].websocket.clone());
        stack.kill(name).await.unwrap();
        stack.wait_ready(name).await.unwrap();
        assert_ne!(stack.pid(name), before);
        assert_eq!((stack.restarts(name), &stack.gateways()[0].websocket), (1, &address));
    }
    stack.down().await;
}

#[tokio::test]
async fn down_leaves_no_process_no_zombie_and_no_directory() {
    let stack = whole(1, 2).await;
    let (pids, dir) = (pids(&stack), stack.dir().to_owned());
    assert_eq!(pids.len(), 5);
    stack.down().await;
    assert_eq!(pids.into_iter().filter(|pid| exists(*pid)).count(), 0);
    assert!(!dir.exists());
    let order = ["gateway-1", "worker-1", "purger", "nats"].map(|name| {
        let log = stack.log();
        log.lines().enumerate().filter(|(_, line)| line.starts_with(name)).map(|(n, _)| n).last()
    });
    assert!(order.is_sorted(), "{order:?}\n{}", stack.log());
}

#[tokio::test]
async fn dropping_a_stack_kills_its_processes_and_waits_even_for_paused_ones() {
    let stack = whole(0, 2).await;
    stack.pause("worker-2").unwrap();
    let (pids, dir) = (pids(&stack), stack.dir().to_owned());
    drop(stack);
    assert_eq!(pids.into_iter().filter(|pid| exists(*pid)).count(), 0);
    assert!(!dir.exists());
}

#[tokio::test]
async fn stopped_and_held_processes_stay_down_until_they_are_started() {
    let stack = whole(0, 2).await;
    assert!(stack.stop("worker-1").await.unwrap().success());
    stack.hold("worker-2").await.unwrap();
    for name in ["worker-1", "worker-2"] {
        assert_eq!(stack.pid(name), None);
        assert!(stack.wait_ready(name).await.is_err());
        assert!(stack.kill(name).await.is_err());
        stack.start_process(name).await.unwrap();
        stack.wait_ready(name).await.unwrap();
    }
    stack.pause("worker-1").unwrap();
    stack.resume("worker-1").unwrap();
    assert!(stack.stop("worker-1").await.unwrap().success());
    assert!(
        stack.stop("worker-9").await.unwrap_err().to_string().contains("there are nats, worker-1, worker-2")
    );
    stack.down().await;
}

#[tokio::test]
async fn workers_and_gateways_are_scaled_while_the_stack_runs() {
    let stack = whole(1, 1).await;
    let names = || stack.status().into_iter().map(|process| process.name).collect::<Vec<_>>();
    stack.scale(Kind::Worker, 3).await.unwrap();
    stack.scale(Kind::Gateway, 2).await.unwrap();
    assert_eq!(names(), ["nats", "gateway-1", "gateway-2", "worker-1", "worker-2", "worker-3", "purger"]);
    assert_eq!((stack.gateways().len(), stack.worker_addresses().len()), (2, 3));
    let gone = stack.pid("worker-3").unwrap();
    stack.scale(Kind::Worker, 1).await.unwrap();
    assert!(!exists(gone));
    assert_eq!(names(), ["nats", "gateway-1", "gateway-2", "worker-1", "purger"]);
    assert!(stack.scale(Kind::Nats, 2).await.is_err());
    assert!(stack.scale(Kind::Purger, 2).await.is_err());
    stack.down().await;
}

#[tokio::test]
async fn a_process_that_cannot_start_fails_the_start_with_its_last_output() {
    let builder = Stack::builder().workers(1).variable("worker", "TIDEGATE_WORKER__ACK_WAIT", "soon");
    let error = format!("{:#}", builder.start().await.unwrap_err());
    assert!(error.contains("worker-1 does not start") && error.contains("worker.ack_wait"), "{error}");
}

#[tokio::test]
async fn a_process_that_keeps_crashing_is_reported_and_does_not_spin() {
    let stack = whole(0, 1).await;
    for _ in 0..3 {
        let pid = stack.pid("worker-1").unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        eventually("the worker runs again", || stack.pid("worker-1").is_some_and(|now| now != pid)).await;
    }
    assert!(stack.log_of("stack").contains("worker-1 keeps crashing"), "{}", stack.log_of("stack"));
    assert_eq!(stack.restarts("worker-1"), 3);
    stack.down().await;
}
