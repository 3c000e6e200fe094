//! The `tidegate` command as typed in a shell.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use async_nats::jetstream::consumer::pull;
use tidegate_cli::stack::setup;
use tidegate_shared::config::Config;

use crate::support::{eventually, exists};

fn tidegate(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args).current_dir(dir);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let output = tidegate(dir, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    said(&output)
}

fn up(dir: &Path) -> String {
    ok(dir, &["up", "--detach", "--free-ports", "--workers", "1"])
}

fn status(dir: &Path) -> Vec<tidegate_cli::stack::ProcessStatus> {
    let output = tidegate(dir, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[tokio::test]
async fn a_detached_stack_is_inspected_scaled_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let banner = up(dir);
    for part in ["ws://127.0.0.1:", "token", "nats pub --server nats://service:dev-service@127.0.0.1:"] {
        assert!(banner.contains(part), "{banner}");
    }
    let status_table = ok(dir, &["status"]);
    assert!(status_table.contains("gateway-1") && status_table.contains("purger"), "{status_table}");
    assert!(said(&tidegate(dir, &["up", "--free-ports"])).contains("running"));
    assert!(ok(dir, &["scale", "workers=2"]).contains("worker-2"));
    assert!(ok(dir, &["kill", "worker"]).starts_with("killed worker-"));
    eventually("both workers are ready", || {
        status(dir).iter().filter(|p| p.phase == tidegate_cli::stack::ProcessPhase::Ready).count() == 5
    })
    .await;
    assert!(ok(dir, &["stop", "worker-2"]).contains("stays down"));
    assert!(ok(dir, &["start", "worker-2"]).contains("ready"));
    assert!(ok(dir, &["logs", "nats"]).contains("Server is ready"));
    let pids: Vec<i32> = status(dir).iter().filter_map(|process| process.pid).collect();
    assert_eq!(pids.len(), 5);
    assert!(ok(dir, &["down"]).contains("everything has ended"));
    assert_eq!(pids.into_iter().filter(|pid| exists(*pid)).count(), 0);
    assert!(ok(dir, &["down"]).contains("nothing runs"));
    assert!(!tidegate(dir, &["status"]).status.success());
}

#[tokio::test]
async fn a_stack_creates_a_deleted_consumer_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let route = "[[route]]\nname = 'echo'\nmatch = 'rpc.echo'\nhandler = 'echo'\n";
    std::fs::write(dir.join("tidegate.toml"), route).unwrap();
    up(dir);
    let nats = status(dir).into_iter().find(|process| process.name == "nats").unwrap();
    let variables = [("TIDEGATE_NATS__URL".to_owned(), nats.address)].into();
    let config = Config::from_sources(Some(&dir.join("tidegate.toml")), variables, &[]).unwrap();
    let broker = setup::connect(&config).await.unwrap();
    let stream = broker.jetstream().get_stream("TIDE_IN_echo").await.unwrap();
    stream.delete_consumer("echo").await.unwrap();
    let again = async {
        while stream.get_consumer::<pull::Config>("echo").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("the consumer is there again");
    ok(dir, &["down"]);
}

#[tokio::test]
async fn leftovers_of_a_killed_supervisor_are_ended_by_the_next_up_and_by_down() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for next in ["up", "down"] {
        up(dir);
        let record = std::fs::read_to_string(dir.join(".run/pids/supervisor")).unwrap();
        let pid = record.split_once(' ').unwrap().0;
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
        eventually("the supervisor is gone", || status(dir).is_empty()).await;
        let told = if next == "up" { up(dir) } else { ok(dir, &["down"]) };
        assert!(told.contains("left running: gateway-1, purger, worker-1, nats"), "{told}");
        ok(dir, &["down"]);
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_explained_with_its_own_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ok(dir.path(), &["check-config"]).starts_with("ok: built-in defaults"));
    std::fs::write(dir.path().join("tidegate.toml"), "[gateway]\nlissten = \"x\"\n").unwrap();
    for command in ["check-config", "up"] {
        let output = tidegate(dir.path(), &[command]);
        assert_eq!(output.status.code(), Some(64));
        assert!(said(&output).contains("did you mean `listen`?"), "{}", said(&output));
    }
}

#[test]
fn the_default_configuration_can_be_used_as_it_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tidegate.toml"), ok(dir.path(), &["default-config"])).unwrap();
    assert!(ok(dir.path(), &["check-config"]).starts_with("ok: tidegate.toml"));
}

/// Eight neighbouring free ports, and the broker's monitoring port for the first.
fn neighbours() -> u16 {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 12_000 + u16::try_from(std::process::id() % 1000).unwrap() * 10;
    let found = (start..28_000).step_by(10).find(|base| free(base + 4000) && (*base..base + 10).all(free));
    found.expect("ten free ports in a row")
}

#[tokio::test]
async fn a_stack_with_other_issuers_only_and_neighbouring_ports_starts_and_says_where_tokens_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let base = neighbours();
    let [nats, listen, internal, worker] = [base, base + 1, base + 2, base + 3];
    let config = format!(
        "[nats]\nurl = 'nats://127.0.0.1:{nats}'\n[gateway]\nlisten = '127.0.0.1:{listen}'\n\
         internal = '127.0.0.1:{internal}'\n[worker]\ninternal = '127.0.0.1:{worker}'\n[auth]\nhmac_secret = ''\n\
         [[issuer]]\nname = 'accounts'\nalgorithms = ['HS256']\nhmac_secret = 'a-secret-of-the-issuer'\n\
         [[namespace]]\nname = 'user'\nhistory_size = 10\n"
    );
    std::fs::write(dir.path().join("tidegate.toml"), config).unwrap();
    let banner = ok(dir.path(), &["up", "--detach", "--gateways", "2", "--workers", "2"]);
    assert!(banner.contains("from one of your issuers") && banner.contains("--token TOKEN"), "{banner}");
    let mut ports: Vec<String> =
        status(dir.path()).iter().flat_map(|p| [p.address.clone(), p.internal.clone()]).collect();
    ports.sort();
    ports.dedup();
    assert!(ports.len() >= 8, "{ports:?}");
    let call = said(&tidegate(dir.path(), &["call", "echo", "1"]));
    assert!(call.contains("--token") && call.contains("issuer"), "{call}");
    ok(dir.path(), &["down"]);
}

#[test]
fn one_port_for_two_listeners_is_refused_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[gateway]\nlisten = '127.0.0.1:8000'\ninternal = '127.0.0.1:8000'\n";
    std::fs::write(dir.path().join("tidegate.toml"), config).unwrap();
    let error = said(&tidegate(dir.path(), &["up"]));
    assert!(error.contains("gateway.internal has port 8000, as gateway.listen has"), "{error}");
}

#[test]
fn a_configuration_that_cannot_work_is_refused_by_check_config_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (config, words) in [
        (
            "[[route]]\nname = 'a'\nmatch = 'rpc.a'\nhandler = 'ecko'\n",
            ["route \"a\"", "line 4", "echo, forward, quakes, room, sql, webhook"],
        ),
        (
            "[gateway]\norigins = ['app.example.com']\n",
            ["gateway.origins", "line 2", "https://app.example.com"],
        ),
    ] {
        std::fs::write(dir.path().join("tidegate.toml"), config).unwrap();
        let output = tidegate(dir.path(), &["check-config"]);
        assert_eq!(output.status.code(), Some(64));
        for word in words {
            assert!(said(&output).contains(word), "{}", said(&output));
        }
    }
}

#[test]
fn errors_name_the_next_step_and_never_a_number_of_the_system() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    for (args, step) in [
        (&["status"][..], "`tidegate up`"),
        (&["logs"], "`tidegate up`"),
        (&["up", "--dir", "file/run"], "check what is at this path"),
        (&["up", "--config", "nothing.toml"], "--config"),
        (&["demo", "--file", "nothing.ndjson"], "--file"),
        (&["call", "echo", "1", "--url", "ws://127.0.0.1:1/connection/websocket"], "`make up`"),
        (&["call", "echo", "1", "--url", "localhost"], "ws://HOST:PORT"),
    ] {
        let output = tidegate(dir.path(), args);
        assert!(!output.status.success());
        let error = said(&output);
        assert!(error.contains(step) && !error.contains("os error"), "{args:?}: {error}");
    }
}

#[test]
fn a_configuration_can_be_checked_for_one_program_which_needs_its_own_secrets_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = "env = 'production'\n[nats.worker]\npassword = 'a-password-of-its-own'\n";
    std::fs::write(dir.path().join("tidegate.toml"), config).unwrap();
    ok(dir.path(), &["check-config", "--for", "worker"]);
    for (program, missing) in [
        ("gateway", "auth.hmac_secret"),
        ("apply", "nats.setup.password"),
        ("service", "nats.service.password"),
    ] {
        let output = tidegate(dir.path(), &["check-config", "--for", program]);
        assert_eq!(output.status.code(), Some(64));
        assert!(said(&output).contains(missing), "{}", said(&output));
    }
    // A client with a token of its own needs no secret.
    let call =
        said(&tidegate(dir.path(), &["call", "echo", "1", "--token", "x", "--url", "ws://127.0.0.1:1/"]));
    assert!(call.contains("no connection"), "{call}");
}

#[test]
fn a_code_is_explained_and_completions_and_manual_pages_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(ok(dir, &["explain", "3008"]).contains("gateway.limits.outbox"));
    let unknown = tidegate(dir, &["explain", "7"]);
    assert!(!unknown.status.success() && said(&unknown).contains("3008"), "{}", said(&unknown));
    for shell in ["bash", "fish", "zsh"] {
        assert!(ok(dir, &["completion", shell]).contains("check-config"), "{shell}");
    }
    ok(dir, &["man", "--dir", "pages"]);
    let page = std::fs::read_to_string(dir.join("pages/tidegate-doctor.1")).unwrap();
    assert!(page.contains("doctor") && page.contains(".TH"), "{page}");
}
