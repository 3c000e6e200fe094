//! One trace from a request to everything that is made of it.

use bytes::Bytes;
use tidegate_shared::{envelope::Request, id::RequestId, trace::Trace};
use tidegate_worker::{Attempt, Failure, Publication, Publications, Router, on};

use crate::support::{Tide, header, next};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STATE: &str = "vendor=a1";

async fn second_time(Attempt(attempt): Attempt) -> Result<(Bytes, Publications), Failure> {
    if attempt == 0 {
        return Err(Failure::retry_after(std::time::Duration::from_secs(2), anyhow::anyhow!("again")));
    }
    Ok((Bytes::from_static(b"1"), Publications(vec![Publication::bytes("chat:lobby", "2")])))
}

async fn dies() -> Result<(), Failure> {
    Err(Failure::dead("no luck"))
}

#[tokio::test]
async fn parked_copies_answers_publications_and_dead_letters_carry_the_trace_of_their_request() {
    let toml =
        "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n[[route]]\nname = \"dies\"\nmatch = \"rpc.dies\"\n";
    let tide = Tide::start(toml).await;
    let mut published = tide.listen("tide.live.chat.lobby").await;
    let mut personal = tide.listen("tide.live.user.42").await;
    let trace = Trace::parse(PARENT, Some(STATE));
    let id = RequestId::keyed("42", "job", "key");
    let request = Request { id, later: true, trace: trace.clone(), ..tide.request("job", "1") };
    tide.send(&request).await;
    let _worker = tide.work("w", Router::new().route("job", on(second_time)).route("dies", on(dies))).await;
    let parked = tide.parked(&request).await;
    let publication = next(&mut published).await;
    let late = next(&mut personal).await;
    for message in [&parked, &publication, &late] {
        assert_eq!((header(message, "traceparent"), header(message, "tracestate")), (PARENT, STATE));
    }
    assert_eq!(tide.answer(&request).await.trace, trace);

    let failing = Request { trace: trace.clone(), ..tide.request("dies", "1") };
    tide.send(&failing).await;
    assert_eq!(header(&tide.dead_letter("dies").await, "traceparent"), PARENT);
}

#[tokio::test]
async fn a_request_without_a_well_formed_trace_gets_one_of_its_own() {
    let tide = Tide::start("[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\n").await;
    let request = Request { id: RequestId::keyed("42", "job", "key"), ..tide.request("job", "1") };
    tide.send_with(&request, &[("traceparent", "00-hostile"), ("tracestate", "x")]).await;
    let _worker = tide.work("w", Router::new().route("job", on(second_time))).await;
    let parked = tide.parked(&request).await;
    let trace = Trace::parse(header(&parked, "traceparent"), None).expect("a trace");
    assert_eq!(tide.answer(&request).await.trace, Some(trace));
}
