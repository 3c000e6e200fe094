//! The scenarios with a pass or fail verdict, at a small size.

use std::process::{Command, Stdio};

#[test]
fn recovered_subscribers_have_every_publication_once_and_in_order() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-trial"))
        .args(["torn", "--debug-ok", "--subscribers", "60", "--channels", "10", "--rate", "100"])
        .args(["--time", "10s", "--cut-every", "2s", "--kill-every", "3s"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("not recovered      0"), "the history is long enough for every break: {text}");
}

#[test]
fn when_a_gateway_is_killed_all_its_subscribers_resume_on_the_other_and_the_broker_is_read_once_a_channel() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-trial"))
        .args(["storm", "--debug-ok", "--subscribers", "200", "--channels", "10"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("recovery reads     10, 1.0 a channel"), "{text}");
}
