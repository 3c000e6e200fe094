//! The workers of `examples/workers` keep the worker contract, and the tester finds workers that do not.

pub(crate) mod language;

use std::time::Duration;

use futures_util::StreamExt;
use tidegate_cli::{
    conformance::{self, Case, Finding, Options, Outcome},
    stack::Stack,
};

use self::language::root;

/// How long a worker may take for one step on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long a broken worker may take for one step. Most of them keep the tester waiting for all of it.
const SHORT_PATIENCE: Duration = Duration::from_secs(20);

/// How many broken workers are tested side by side.
const AT_ONCE: usize = 6;

async fn stack() -> Stack {
    let config = std::fs::read_to_string(root().join("examples/workers/tidegate.toml")).unwrap();
    Stack::builder().config(&config).with_purger().start().await.unwrap()
}

async fn findings(
    stack: &Stack,
    program: Vec<String>,
    only: &[Case],
    patience: Duration,
    ascii: bool,
) -> Vec<Finding> {
    let options = Options {
        config: stack.config().clone(),
        route: "conformance".to_owned(),
        program,
        supervised: false,
        kill_command: None,
        only: only.to_vec(),
        skip: Vec::new(),
        patience,
        ascii,
    };
    Box::pin(conformance::run(options, |_| {})).await.unwrap()
}

async fn passes_everything(program: impl FnOnce(&Stack) -> Vec<String>, ascii: bool) {
    let stack = stack().await;
    let findings = findings(&stack, program(&stack), &[], PATIENCE, ascii).await;
    let others: Vec<_> = findings.iter().filter(|finding| finding.outcome != Outcome::Pass).collect();
    assert!(others.is_empty() && findings.len() == Case::ALL.len(), "{others:#?}");
}

#[tokio::test]
async fn the_worker_in_python_keeps_the_contract() {
    passes_everything(|_| language::python("worker.main()"), false).await;
}

#[tokio::test]
async fn the_worker_in_node_keeps_the_contract() {
    passes_everything(|_| language::node(), false).await;
}

#[tokio::test]
async fn the_worker_in_go_keeps_the_contract() {
    passes_everything(|_| language::go(), false).await;
}

/// The client library of this one reads headers in ASCII only.
#[tokio::test]
async fn the_worker_in_java_keeps_the_contract_as_far_as_its_client_reads_headers() {
    passes_everything(|_| language::java(), true).await;
}

#[tokio::test]
async fn a_worker_of_the_library_keeps_the_contract() {
    passes_everything(language::rust, false).await;
}

/// Whoever is tried alone waits for the others to be parked, however long that takes: a cold machine, or a slow broker.
#[tokio::test]
async fn a_request_that_ends_its_workers_costs_no_attempt_of_others_although_they_are_parked_slowly() {
    let slowly = "import asyncio\npark = tide.Worker.park\n\
        async def slowly(*all):\n    await asyncio.sleep(0.6)\n    await park(*all)\n\
        tide.Worker.park = slowly\nworker.main()";
    let findings = findings(&stack().await, language::python(slowly), &[Case::Poison], PATIENCE, false).await;
    let [found] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(found.outcome, Outcome::Pass, "{found:?}");
}

/// Breaks the worker in Python with a line of code. The tester must find it in the case.
async fn breaks(stack: &Stack, line: &str, case: Case, seen: &str) {
    let program = language::python(&format!("{line}\nworker.main()"));
    let findings = findings(stack, program, &[case], SHORT_PATIENCE, false).await;
    let [found] = findings.as_slice() else { panic!("{findings:#?}") };
    assert_eq!(found.outcome, Outcome::Fail, "{line}: {found:?}");
    assert!(found.seen.contains(seen), "{line}: {found:?}");
}

#[tokio::test]
async fn a_worker_that_breaks_one_rule_fails_in_the_case_of_that_rule() {
    let nothing = "async def nothing(*_): return None\n\
        async def only_plain(self, request, answer):\n    if not request.is_stored: await bring(self, request, answer)\n\
        bring = tide.Worker.bring\n";
    let mut broken = Vec::new();
    for (line, case, seen) in [
        ("tide.Worker.keep_alive = nothing", Case::Slow, "deliveries"),
        ("tide.Worker.stored_answer = nothing", Case::Duplicate, "it ran again"),
        ("tide.Worker.stored_answer = nothing", Case::Answered, "it is run"),
        ("tide.Worker.publish_to_user = nothing", Case::Late, "no publication"),
        ("tide.Worker.publish_to_user = nothing", Case::Later, "no publication"),
        ("tide.Worker.bring = only_plain", Case::Keyed, "stored, but live no answer"),
        ("tide.Worker.store_letter = nothing", Case::Dead, "0 dead letters"),
        ("tide.Worker.ack = nothing", Case::KeyedRetry, "not every request is acknowledged"),
        ("tide.token = lambda name: name.replace('.', '_')", Case::Later, "a publication on"),
        ("tide.Worker.has_first_lane = nothing", Case::Lanes, "no answer"),
        ("tide.Worker.cancel = nothing", Case::Cancel, "it still runs"),
        ("tide.MAX_ATTEMPTS = 2", Case::Retry, "error 1004"),
        ("tide.ANSWER_MAX_BYTES *= 2", Case::LongKeyedAnswer, "the answer"),
        ("worker.as_json = lambda value: b'1'", Case::Many, "request 0 has the answer"),
    ] {
        // A stack of its own: what a broken worker leaves behind would be in the way of the next.
        broken.push(async move { breaks(&stack().await, &format!("{nothing}{line}"), case, seen).await });
    }
    futures_util::stream::iter(broken).buffer_unordered(AT_ONCE).collect::<()>().await;
}

#[tokio::test]
async fn a_route_that_has_requests_or_takes_none_of_the_tester_s_is_refused() {
    let stack = stack().await;
    let mut options = Options {
        config: stack.config().clone(),
        route: "none".to_owned(),
        program: Vec::new(),
        supervised: false,
        kill_command: None,
        only: vec![Case::Echo],
        skip: Vec::new(),
        patience: Duration::from_millis(200),
        ascii: false,
    };
    let run =
        async |options| Box::pin(conformance::run(options, |_| {})).await.map_err(|error| error.to_string());
    let clone = |options: &Options| Options {
        config: options.config.clone(),
        route: options.route.clone(),
        program: Vec::new(),
        kill_command: None,
        only: options.only.clone(),
        skip: Vec::new(),
        ..*options
    };
    assert!(run(clone(&options)).await.unwrap_err().contains("no [[route]] \"none\""));
    options.route = "conformance".to_owned();
    let findings = run(clone(&options)).await.unwrap();
    assert!(findings.iter().all(|finding| finding.outcome == Outcome::Fail), "no worker runs: {findings:?}");
    assert!(run(clone(&options)).await.unwrap_err().contains("1 requests wait"));
}
