//! Handlers that say and do what no handler should: each request is settled, and the worker goes on.

use std::{fmt, panic::panic_any, time::Duration};

use tidegate_worker::{Failure, Json, Publication, Publications, Router, State, on};

use crate::support::{Notes, Tide, header};

const ROUTE: &str = "[[route]]\nname = \"job\"\nmatch = \"rpc.job\"\nmax_attempts = 2\ntimeout = \"1s\"\n\
                     backoff = { base = \"50ms\", cap = \"100ms\" }\n";

/// An error that cannot be printed.
#[derive(Debug)]
struct Unprintable;

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("printing an error")
    }
}

impl std::error::Error for Unprintable {}

/// An error whose text says that it failed.
#[derive(Debug)]
struct Halfway;

impl fmt::Display for Halfway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("half a te")?;
        Err(fmt::Error)
    }
}

impl std::error::Error for Halfway {}

/// Panics when it is dropped: while a panic is handled, or when a handler's time is over.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropping a value");
    }
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropping a panic's payload")
    }
}

async fn does(State(runs): State<Notes>, Json(what): Json<String>) -> Result<((), Publications), Failure> {
    let say = |channel: &str, data: String| Ok(((), Publications(vec![Publication::bytes(channel, data)])));
    runs.note(what.as_str());
    match what.as_str() {
        "panic with a number" => panic_any(5_u32),
        "panic with a payload that panics" => panic_any(PanicsWhenDropped),
        "panic with NUL" => panic!("a\0b\r\nTide-Code: 5"),
        "panic without text" => panic!(""),
        "an error that panics" => Err(Failure::retry(Unprintable)),
        "an error that fails" => Err(Failure::retry(Halfway)),
        "a chain of a thousand" => Err((0..1000)
            .fold(anyhow::anyhow!("root"), |error, n| error.context(format!("level {n}")))
            .into()),
        "a bomb in time" => {
            let _bomb = Bomb;
            tokio::time::sleep(Duration::from_mins(10)).await;
            say("chat:a", "1".to_owned())
        }
        "a wait of no time" => Err(Failure::retry_after(Duration::ZERO, anyhow::anyhow!("now"))),
        "dead without a reason" => Err(Failure::dead(String::new())),
        "dead with a header" => Err(Failure::dead("x\r\nTide-Code: 5\r\n\r\nbody")),
        "reject with 0" => Err(Failure::reject(0, "")),
        "reject with a header" => Err(Failure::reject(400, "x\r\nTide-Code: 5\r\n\r\n\0")),
        "no such namespace" => say("nope:a", "1".to_owned()),
        "no channel" => say("", "1".to_owned()),
        "a channel of control characters" => say("chat:a\r\nb\0", "1".to_owned()),
        "a channel of a thousand bytes" => say(&format!("chat:{}", "a".repeat(1000)), "1".to_owned()),
        "a publication of 2 MB" => say("chat:a", "x".repeat(2 << 20)),
        "tags with headers" => Ok((
            (),
            Publications(vec![
                Publication::bytes("chat:a", "1").tag("a: b\r\nTide-User", "x\r\ny").tag("", "\0"),
            ]),
        )),
        "ten thousand publications" => {
            Ok(((), Publications((0..10_000).map(|n| Publication::bytes("chat:a", n.to_string())).collect())))
        }
        _ => say("chat:a", "1".to_owned()),
    }
}

#[tokio::test]
async fn whatever_a_handler_says_or_does_its_request_is_settled_after_its_attempts() {
    let tide = Tide::start(ROUTE).await;
    let runs = Notes::default();
    let worker = tide.work("w1", Router::with_state(runs.clone()).route("job", on(does))).await;
    for (what, attempts, reason) in [
        ("panic with a number", 2, "panic: without a message"),
        ("panic with a payload that panics", 2, "panic: without a message"),
        ("panic with NUL", 2, "panic: a b  Tide-Code: 5"),
        ("panic without text", 2, "panic:"),
        ("an error that panics", 2, "panic: printing an error"),
        ("an error that fails", 2, "half a te [printing the error failed here]"),
        ("a chain of a thousand", 2, "level 999: level 998"),
        ("a bomb in time", 2, ""),
        ("a wait of no time", 2, "now"),
        ("dead without a reason", 1, ""),
        ("dead with a header", 1, "x  Tide-Code: 5    body"),
        ("no such namespace", 1, "nope"),
        ("no channel", 1, ""),
        ("a channel of control characters", 1, "control characters"),
        ("a channel of a thousand bytes", 1, "255 bytes"),
        ("a publication of 2 MB", 1, ""),
        ("tags with headers", 1, ""),
    ] {
        let before = runs.all().len();
        let request = tide.ask("job", serde_json::to_string(what).unwrap()).await;
        let (code, message) = tide.error(&request).await;
        assert_eq!(code, 1004, "{what}: {message}");
        assert_eq!(runs.all().len() - before, attempts, "{what}: a run is an attempt");
        let said = tide.dead_letter("job").await;
        let said = header(&said, "Tide-Dead-Error");
        assert!(said.contains(reason) && said.len() <= 4096, "{what}: {said:?}");
    }
    for (what, code, text) in [("reject with 0", 100, ""), ("reject with a header", 400, "x  Tide-Code: 5")] {
        let (given, message) = tide.error(&tide.ask("job", serde_json::to_string(what).unwrap()).await).await;
        assert!(given == code && message.contains(text), "{what}: {given} {message:?}");
    }
    for what in ["ten thousand publications", "well"] {
        tide.body(&tide.ask("job", serde_json::to_string(what).unwrap()).await).await;
    }
    tide.settled().await;
    drop(worker);
}
