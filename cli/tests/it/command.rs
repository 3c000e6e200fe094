//! The `tidegate` command as typed in a shell.

use std::{
    path::Path,
    process::{Command, Output},
};

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
    assert!(ok(dir, &["status"]).contains("gateway-1"));
    assert!(said(&tidegate(dir, &["up", "--free-ports"])).contains("running"));
    assert!(ok(dir, &["scale", "workers=2"]).contains("worker-2"));
    assert!(ok(dir, &["kill", "worker"]).starts_with("killed worker-"));
    eventually("both workers are ready", || {
        status(dir).iter().filter(|p| p.phase == tidegate_cli::stack::ProcessPhase::Ready).count() == 4
    })
    .await;
    assert!(ok(dir, &["stop", "worker-2"]).contains("stays down"));
    assert!(ok(dir, &["start", "worker-2"]).contains("ready"));
    assert!(ok(dir, &["logs", "nats"]).contains("Server is ready"));
    let pids: Vec<i32> = status(dir).iter().filter_map(|process| process.pid).collect();
    assert_eq!(pids.len(), 4);
    assert!(ok(dir, &["down"]).contains("everything has ended"));
    assert_eq!(pids.into_iter().filter(|pid| exists(*pid)).count(), 0);
    assert!(ok(dir, &["down"]).contains("nothing runs"));
    assert!(!tidegate(dir, &["status"]).status.success());
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
        assert!(told.contains("left running: gateway-1, worker-1, nats"), "{told}");
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
