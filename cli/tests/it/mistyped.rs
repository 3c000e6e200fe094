//! What people mistype, and commands without what they need: each ends with a sentence, a next step and an exit code.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

fn tidegate(dir: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args).current_dir(dir).envs(variables.iter().copied()).output().unwrap()
}

/// The address of a port on which nothing listens.
fn nothing_there() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("127.0.0.1:{}", listener.local_addr().unwrap().port())
}

/// Asserts that a command fails, with what it says and the exit code.
#[track_caller]
fn fails(dir: &Path, variables: &[(&str, &str)], args: &[&str], code: i32, words: &[&str]) {
    let output = tidegate(dir, variables, args);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for jargon in ["os error", "panicked", "deadline has elapsed", "No such file"] {
        assert!(!said.contains(jargon), "{args:?}: {said}");
    }
    for word in words {
        assert!(said.contains(word), "{args:?}, {word:?}: {said}");
    }
}

#[test]
fn without_a_stack_every_command_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for args in [
        &["status"][..],
        &["logs"],
        &["logs", "worker-1"],
        &["logs", "../../x"],
        &["scale", "workers=2"],
        &["kill", "worker"],
        &["stop", "nats"],
        &["start", "nats"],
    ] {
        fails(dir, &[], args, 1, &["`tidegate up` starts a stack"]);
    }
    let nowhere = nothing_there();
    let (gateway, nats) = (format!("ws://{nowhere}/connection/websocket"), format!("nats://{nowhere}"));
    for command in [&["call", "echo", "{}"][..], &["sub", "chat:a"], &["pub", "chat:a", "{}"]] {
        let args = [command, &["--url", &gateway]].concat();
        fails(dir, &[], &args, 1, &["cannot reach", "`make up` starts one"]);
    }
    for args in [&["apply"][..], &["pub", "lobby", "{}", "--as-service"]] {
        fails(dir, &[("TIDEGATE_NATS__URL", &nats)], args, 1, &[&nats, "start it, or check nats.url"]);
    }
}

#[test]
fn a_number_an_address_or_a_name_that_cannot_be_is_refused_where_it_is_typed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for args in
        [&["up", "--workers", "100000"][..], &["up", "--gateways", "-1"], &["scale", "workers=100000"]]
    {
        fails(dir, &[], args, 2, &[]);
    }
    for (url, word) in [
        ("http://127.0.0.1:1/connection/websocket", "\"http\""),
        ("ws://127.0.0.1:99999/connection/websocket", "1 to 65535"),
        ("ws://127.0.0.1:0/connection/websocket", "1 to 65535"),
        ("127.0.0.1:8000", "ws://HOST:PORT"),
        ("nope", "ws://HOST:PORT"),
    ] {
        fails(dir, &[], &["call", "echo", "--url", url], 1, &["the address cannot be used", word]);
    }
    for args in
        [&["sub", "chat:"][..], &["sub", ""], &["pub", "chat:", "1"], &["pub", "", "1", "--as-service"]]
    {
        fails(dir, &[], args, 1, &["a channel name needs"]);
    }
    fails(dir, &[], &["pub", "nope:a", "1", "--as-service"], 1, &["no namespace \"nope\"", "default, user"]);
    fails(dir, &[], &["apply", "--new-epoch", "nope"], 1, &["no namespace \"nope\""]);
    fails(dir, &[], &["apply", "--recreate-channels", "nope"], 1, &["no namespace \"nope\""]);
    fails(dir, &[], &["up", "--dir", "/dev/null"], 1, &["/dev/null", "choose another"]);
}

#[test]
fn a_token_that_every_gateway_refuses_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let long = "a".repeat(255);
    for (user, ttl, word) in [
        ("", "1h", "anonymous"),
        (&*long, "1h", "at most 254 bytes"),
        ("a\nb", "1h", "control characters"),
        (" a", "1h", "white space"),
        ("42", "0s", "1s or longer"),
        ("42", "500ms", "1s or longer"),
        ("42", "18446744073709551615s", "100 years"),
    ] {
        fails(dir, &[], &["token", "--user", user, "--ttl", ttl], 1, &[word]);
    }
    fails(dir, &[], &["token", "--user", "42", "--ttl", "soon"], 2, &["--ttl"]);
    let anonymous = tidegate(dir, &[("TIDEGATE_AUTH__ANONYMOUS", "true")], &["token", "--user", ""]);
    assert!(anonymous.status.success());
    let limited = tidegate(dir, &[("TIDEGATE_AUTH__MAX_TOKEN_LIFE", "10m")], &["token", "--user", "42"]);
    let note = String::from_utf8_lossy(&limited.stderr).into_owned();
    assert!(limited.status.success() && note.contains("ends after 10m"), "{note}");
}
