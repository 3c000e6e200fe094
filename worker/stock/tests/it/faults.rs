//! What is broken in the broker shows in the worker's readiness, log and metrics, and work goes on when it is mended.

use tidegate_cli::stack::setup;
use tidegate_shared::{envelope::Request, id::RequestId, topology::request_stream};

use crate::support::{Tide, eventually, get};

const ECHO: &str = "[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\nhandler = \"echo\"\n";
const WARNING: &str = " WARN ";

/// Waits until the worker answers 503 with this text.
async fn unready(tide: &Tide, sentence: &str) -> String {
    eventually(&format!("the worker says {sentence:?}"), async || {
        let page = get(tide.stack.worker_addresses()[0], "/readyz").await;
        (page.starts_with("HTTP/1.1 503") && page.contains(sentence)).then_some(page)
    })
    .await
}

async fn ready(tide: &Tide) {
    eventually("the worker is ready", async || {
        get(tide.stack.worker_addresses()[0], "/readyz").await.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

async fn apply(tide: &Tide) {
    let broker = setup::connect(tide.config()).await.unwrap();
    setup::apply(&broker, tide.config()).await.unwrap();
}

/// How many warnings of the worker's log have this text.
fn warnings(tide: &Tide, text: &str) -> usize {
    let log = tide.stack.log_of("worker-1");
    log.lines().filter(|line| line.contains(WARNING) && line.contains(text)).count()
}

#[tokio::test]
async fn a_deleted_consumer_makes_the_worker_unready_until_apply_creates_it() {
    let tide = Tide::start_with(ECHO, 1).await;
    ready(&tide).await;
    tide.delete_consumer("echo", &request_stream("echo")).await;
    let page = unready(&tide, "the consumer echo of TIDE_IN_echo delivers nothing, for ").await;
    assert!(page.contains("run `tidegate apply`"), "{page}");
    let metrics = get(tide.stack.worker_addresses()[0], "/metrics").await;
    let metric = "tidegate_worker_faults{place=\"TIDE_IN_echo\",problem=\"missing\"} 1";
    assert!(metrics.contains(metric), "{metrics}");
    let request = tide.ask("echo", "1").await;
    apply(&tide).await;
    assert_eq!(tide.body(&request).await, "1");
    ready(&tide).await;
    assert_eq!(warnings(&tide, "the consumer echo of TIDE_IN_echo"), 1, "{}", tide.stack.log_of("worker-1"));
    assert!(tide.stack.log_of("worker-1").contains("over: the consumer echo of TIDE_IN_echo"));
}

#[tokio::test]
async fn a_full_stream_of_answers_makes_the_worker_unready_until_there_is_room() {
    let streams = "[streams]\nreply_max_bytes = \"2 KiB\"\nanswer_max_bytes = \"1 KiB\"\n";
    let tide = Tide::start_with(&format!("{ECHO}{streams}"), 1).await;
    for key in 0..8 {
        let id = RequestId::keyed("42", "echo", &key.to_string());
        tide.send(&Request { id, ..tide.request("echo", format!("\"{}\"", "x".repeat(500))) }).await;
    }
    let page = unready(&tide, "the stream TIDE_REPLY stores nothing").await;
    assert!(page.contains("it is full") && page.contains("streams.reply_max_bytes"), "{page}");
    tide.enlarge().await;
    tide.settled().await;
    ready(&tide).await;
    assert!(warnings(&tide, "the stream TIDE_REPLY") == 1, "{}", tide.stack.log_of("worker-1"));
}

#[tokio::test]
async fn a_right_that_was_taken_away_is_named_until_it_is_back() {
    const RIGHT: &str = "\"tide.js.CONSUMER.MSG.NEXT.TIDE_IN_echo.*\"";
    let tide = Tide::start_with(&format!("{ECHO}concurrency = 1\n"), 1).await;
    ready(&tide).await;
    let file = tide.stack.dir().join("nats.conf");
    let before = std::fs::read_to_string(&file).unwrap();
    assert!(before.contains(RIGHT), "{before}");
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let pid = tide.stack.pid("nats").unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    let line = before.lines().find(|line| line.contains(RIGHT) && !line.contains(" to: ")).unwrap();
    reload(&before.replace(line, &line.replace(RIGHT, "\"tide.none\"")));
    // The open pull of this worker ends with the next message.
    let request = tide.ask("echo", "1").await;
    tide.body(&request).await;
    let page =
        unready(&tide, "NATS refuses what is published on $JS.API.CONSUMER.MSG.NEXT.TIDE_IN_echo.echo").await;
    assert!(page.contains("the user has no right to it"), "{page}");
    reload(&before);
    let request = tide.ask("echo", "2").await;
    assert_eq!(tide.body(&request).await, "2");
    ready(&tide).await;
}
