//! `tidegate dead`: letters are listed, shown, redriven and dropped.

use serde_json::Value;
use tidegate_cli::stack::Stack;
use tokio::{
    process::Command,
    time::{Duration, Instant, sleep},
};

/// Requests are too old as soon as a worker takes them.
const CONFIG: &str = "[worker]\nack_wait = \"1s\"\n\
    [[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\nhandler = \"echo\"\nmax_age = \"1ns\"\nanswer = \"later\"\n";

/// Runs the command: its exit code, standard output and standard error.
async fn run(stack: &Stack, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .args(args)
        .current_dir(stack.dir())
        .env("TIDEGATE_NATS__URL", stack.nats_url())
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The letters, once there are so many.
async fn letters(stack: &Stack, wanted: usize) -> Vec<Value> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let (code, out, err) = run(stack, &["dead", "ls", "--json"]).await;
        assert_eq!(code, Some(0), "{err}");
        let letters: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if letters.len() == wanted {
            return letters;
        }
        assert!(Instant::now() < end, "there are {} letters: {out}", letters.len());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn letters_are_listed_shown_redriven_and_dropped_by_number_or_filter() {
    let stack = Stack::builder().config(CONFIG).gateways(1).workers(1).start().await.unwrap();
    for (user, data) in [("7", "1"), ("8", "2"), ("8", "3")] {
        let (code, _, err) = run(&stack, &["enqueue", "echo", data, "--user", user]).await;
        assert_eq!(code, Some(0), "{err}");
    }
    let found = letters(&stack, 3).await;
    assert!(found.iter().all(|letter| letter["reason"] == "too_old" && letter["redrives"] == 0), "{found:?}");
    let (_, out, _) = run(&stack, &["dead", "ls", "--user", "8", "--since", "1h", "--limit", "1"]).await;
    assert_eq!(out.lines().count(), 1, "{out}");
    let first = found[0]["letter"].to_string();
    let (code, out, _) = run(&stack, &["dead", "show", &first, "--json"]).await;
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &shown["whole"], &shown["headers"]["Tide-Route"]),
        (Some(0), &true.into(), &"echo".into())
    );

    let (code, _, err) = run(&stack, &["dead", "drop"]).await;
    assert!(code == Some(1) && err.contains("--all"), "{err}");
    let (code, out, err) = run(&stack, &["dead", "drop", "--user", "8", "--dry-run"]).await;
    assert_eq!((code, out.lines().count()), (Some(0), 2), "{err}");
    let (code, _, err) = run(&stack, &["dead", "drop", "--user", "8"]).await;
    assert!(code == Some(0) && err.contains("2 of 2 letters dropped"), "{err}");
    letters(&stack, 1).await;

    // The worker may have to tell the user first.
    let end = Instant::now() + Duration::from_secs(30);
    let redriven = loop {
        let (code, out, err) = run(&stack, &["dead", "redrive", &first, "--json", "--rate", "100/s"]).await;
        if code == Some(0) {
            break out;
        }
        assert!(err.contains("ask again") && Instant::now() < end, "{err}");
        sleep(Duration::from_millis(50)).await;
    };
    let redriven: Value = serde_json::from_str(&redriven).unwrap();
    assert_eq!((&redriven["letter"], &redriven["outcome"]), (&found[0]["letter"], &"redriven".into()));
    let again = letters(&stack, 1).await;
    assert_eq!((&again[0]["redrives"], &again[0]["id"]), (&1.into(), &found[0]["id"]));
    let (code, _, err) = run(&stack, &["dead", "redrive", &first]).await;
    assert!(code == Some(0) && err.contains("there is none"), "{err}");
    stack.down().await;
}

#[tokio::test]
async fn a_time_or_a_reason_that_does_not_exist_is_explained() {
    let stack = Stack::builder().config(CONFIG).gateways(0).start().await.unwrap();
    for (args, says) in [
        (["dead", "ls", "--since", "yesterday"], "a duration such as 2h"),
        (["dead", "ls", "--reason", "bored"], "attempts, timeout"),
        (["dead", "ls", "--limit", "1"], "no gateway answers"),
    ] {
        let (code, _, err) = run(&stack, &args).await;
        assert!(code != Some(0) && err.contains(says), "{args:?}: {err}");
    }
    stack.down().await;
}
