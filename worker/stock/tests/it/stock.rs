use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Tide, get, next, outcomes};

const ROUTES: &str = "[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\nhandler = \"echo\"\n\
                      [[route]]\nname = \"quakes\"\nmatch = \"rpc.quakes\"\nhandler = \"quakes\"\n\
                      [[route]]\nname = \"greet\"\nmatch = \"rpc.greet\"\n";
const QUAKE: &str = r#"{"id":"us1","time_ms":1517364031800,"mag":5.3,"net":"us","lon":118.7,"lat":-7.8}"#;

#[tokio::test]
async fn the_stock_worker_echoes_and_reports_its_health() {
    let tide = Tide::start_with(ROUTES, 1).await;
    let request = tide.ask("echo", " {\"as\" : \"it stands\"} ").await;
    assert_eq!(tide.body(&request).await, " {\"as\" : \"it stands\"} ");
    tide.settled().await;
    let internal = tide.stack.worker_addresses()[0];
    assert!(get(internal, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(internal, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert_eq!(outcomes(&get(internal, "/metrics").await, "echo", "ok"), 1);
    for (path, status) in [("/", "HTTP/1.1 200"), ("/nowhere", "HTTP/1.1 404")] {
        let page = get(internal, path).await;
        assert!(page.starts_with(status) && page.contains("Tidegate worker"), "{page}");
    }

    tide.stack.hold("nats").await.unwrap();
    crate::support::eventually("the worker is not ready", async || {
        let page = get(internal, "/readyz").await;
        (page.starts_with("HTTP/1.1 503") && page.contains("not connected to NATS")).then_some(())
    })
    .await;
    assert!(get(internal, "/healthz").await.starts_with("HTTP/1.1 200"));
    tide.stack.start_process("nats").await.unwrap();
    let request = tide.ask("echo", "1").await;
    assert_eq!(tide.body(&request).await, "1");
}

#[tokio::test]
async fn an_earthquake_reported_twice_is_stored_and_published_once() {
    let tide = Tide::start_with(ROUTES, 2).await;
    let (mut net, mut alerts) =
        (tide.listen("tide.live.quakes.us").await, tide.listen("tide.live.quakes.alerts").await);
    let first = tide.ask("quakes", QUAKE).await;
    let channels = json!(["quakes:us", "quakes:alerts"]);
    let answer: Value = serde_json::from_slice(&tide.body(&first).await).unwrap();
    assert_eq!(answer, json!({"id": "us1", "stored": true, "channels": channels}));
    let second = tide.ask("quakes", QUAKE).await;
    let answer: Value = serde_json::from_slice(&tide.body(&second).await).unwrap();
    assert_eq!(answer, json!({"id": "us1", "stored": false, "channels": []}));
    let weak = QUAKE.replace("us1", "us2").replace("5.3", "-0.3");
    let third = tide.ask("quakes", weak.clone()).await;
    tide.answer(&third).await;
    assert_eq!((next(&mut net).await.payload, next(&mut net).await.payload), (QUAKE.into(), weak.into()));
    assert_eq!(next(&mut alerts).await.payload, QUAKE);
}

#[tokio::test]
async fn a_malformed_report_is_rejected_and_its_bad_field_is_named() {
    let tide = Tide::start_with(ROUTES, 1).await;
    let request = tide.ask("quakes", QUAKE.replace("118.7", "181")).await;
    assert_eq!(tide.error(&request).await, (422, "lon: out of range".to_owned()));
}

#[test]
fn a_configuration_that_cannot_be_used_ends_the_program_with_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    std::fs::write(&file, "[[route]]\nname = \"a\"\nmatch = \"rpc.a\"\nhandler = \"ecko\"\n").unwrap();
    let output = run(&["--internal", "127.0.0.1:0", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    let log = String::from_utf8(output.stderr).unwrap();
    let (source, error) = log.split_once('\n').unwrap();
    assert!(source.contains("configuration read") && source.contains("tidegate.toml"), "{log}");
    assert!(
        error.starts_with("error: `route.0.handler` (route \"a\"): there is no handler \"ecko\""),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);

    let output = run(&["--config", "/nowhere.toml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(run(&["--version"]).stdout).unwrap().starts_with("tidegate-worker "));
}

#[test]
fn a_worker_that_read_no_configuration_file_says_so_in_its_first_line() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-worker"))
        .args(["--internal", &address])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let first = log.lines().next().unwrap();
    assert!(first.contains("no configuration file was read") && first.contains("--config"), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains(&address) && last.contains("another process listens there"), "{log}");
    assert!(!last.contains("os error"), "{log}");
}

#[test]
fn a_worker_in_production_starts_without_the_secrets_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-worker"))
        .args(["--internal", &taken.local_addr().unwrap().to_string()])
        .current_dir(directory.path())
        .env("TIDEGATE_ENV", "production")
        .env("TIDEGATE_NATS__WORKER__PASSWORD", "a-password-of-its-own")
        .env("TIDEGATE_AUTH__HMAC_SECRET_FILE", "/nonexistent/secret")
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    // The configuration is accepted: what ends the worker is the taken address.
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("cannot listen on worker.internal"), "{log}");
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate-worker")).args(arguments).output().unwrap()
}
