//! A route with `max_age`: a request that is too old is not worked on, and its client is told.

use tidegate_shared::{envelope::Request, id::RequestId};
use tidegate_worker::{Failure, Router, State, on};

use crate::support::{Notes, Tide, header};

fn route(max_age: &str) -> String {
    format!(
        "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_age = \"{max_age}\"\nmax_attempts = 100\n\
         backoff = {{ base = \"50ms\", cap = \"50ms\" }}\n"
    )
}

async fn works(State(notes): State<Notes>) -> Result<(), Failure> {
    notes.note(1);
    Ok(())
}

#[tokio::test]
async fn a_request_older_than_max_age_becomes_a_dead_letter_and_is_not_worked_on() {
    let tide = Tide::start(&route("1ms")).await;
    let request = tide.ask("job", "7").await;
    // Longer than a millisecond passes until this worker has started.
    let notes = Notes::default();
    let worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(works))).await;
    let letter = tide.dead_letter("job").await;
    assert_eq!(letter.payload, request.body);
    assert_eq!(header(&letter, "Tide-Dead-Error"), "waited longer than max_age (1ms)");
    assert_eq!(header(&letter, "Tide-Dead-Attempts"), "0");
    tide.settled().await;
    assert_eq!(notes.all().len(), 0);
    assert_eq!(worker.outcomes("job", "dead"), 1);
}

#[tokio::test]
async fn the_client_of_a_request_that_is_too_old_is_told_so() {
    let tide = Tide::start(&route("1ms")).await;
    let keyed = Request { id: RequestId::keyed("42", "job", "k"), ..tide.request("job", "7") };
    tide.send(&keyed).await;
    let _worker = tide.work("w1", Router::with_state(Notes::default()).route("job", on(works))).await;
    let (code, message) = tide.error(&keyed).await;
    assert_eq!(code, 1004);
    assert!(message.contains("waited longer than max_age (1ms)"), "{message}");
}

#[tokio::test]
async fn the_time_between_attempts_counts_towards_max_age() {
    async fn fails(State(notes): State<Notes>) -> Result<(), Failure> {
        notes.note(1);
        Err(anyhow::anyhow!("not yet").into())
    }
    let tide = Tide::start(&route("2s")).await;
    let notes = Notes::default();
    let worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(fails))).await;
    tide.ask("job", "7").await;
    let letter = tide.dead_letter("job").await;
    assert_eq!(header(&letter, "Tide-Dead-Error"), "waited longer than max_age (2s)");
    tide.settled().await;
    let runs = notes.all().len();
    assert!((1..100).contains(&runs), "{runs} attempts before it was too old");
    assert_eq!(worker.outcomes("job", "dead"), 1);
}

#[tokio::test]
async fn a_request_within_max_age_is_worked_on() {
    let tide = Tide::start(&route("1h")).await;
    let notes = Notes::default();
    let worker = tide.work("w1", Router::with_state(notes.clone()).route("job", on(works))).await;
    tide.ask("job", "7").await;
    tide.settled().await;
    assert_eq!((notes.all().len(), worker.outcomes("job", "ok")), (1, 1));
}
