//! `tidegate schedule`: schedules are set, listed, shown and removed.

use serde_json::Value;
use tidegate_cli::stack::Stack;
use tokio::process::Command;

const CONFIG: &str = "[[namespace]]\nname = \"chat\"\n[[route]]\nname = \"echo\"\nmatch = \"rpc.echo\"\n";

/// Runs the command: its exit code, standard output and standard error.
async fn run(stack: &Stack, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("schedule").args(args).current_dir(stack.dir());
    command.env("TIDEGATE_NATS__URL", stack.nats_url()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn schedules_are_set_listed_shown_and_removed() {
    let stack = Stack::builder().config(CONFIG).gateways(1).start().await.unwrap();
    let nightly =
        ["set", "nightly", "--cron", "0 3 * * *", "--time-zone", "Europe/Berlin", "--method", "echo"];
    let (code, out, err) =
        run(&stack, &[&nightly[..], &["--data", "{\"n\":1}", "--user", "42", "--json"]].concat()).await;
    assert_eq!((code, json(&out)["outcome"].as_str()), (Some(0), Some("created")), "{err}");
    let tick = ["set", "tick", "--every", "1h", "--channel", "chat:lobby", "--data", "\"tick\""];
    let (code, _, err) = run(&stack, &tick).await;
    assert!(code == Some(0) && err.contains("created: tick"), "{err}");
    let (_, _, err) = run(&stack, &tick).await;
    assert!(err.contains("unchanged: tick"), "{err}");

    let (code, out, _) = run(&stack, &["ls", "--json"]).await;
    let listed: Vec<Value> = out.lines().map(json).collect();
    assert_eq!(code, Some(0));
    assert_eq!((&listed[0]["name"], &listed[1]["every"]), (&"nightly".into(), &"1h".into()));
    let (_, out, _) = run(&stack, &["ls"]).await;
    assert!(out.contains("0 3 * * * Europe/Berlin") && out.contains("every 1h"), "{out}");
    let (code, out, _) = run(&stack, &["show", "nightly", "--json"]).await;
    assert_eq!((code, &json(&out)["data"]), (Some(0), &serde_json::json!({"n": 1})));

    let (code, out, _) = run(&stack, &["rm", "nightly", "--json"]).await;
    assert_eq!((code, &json(&out)["removed"]), (Some(0), &true.into()));
    let (code, _, err) = run(&stack, &["rm", "nightly"]).await;
    assert!(code == Some(1) && err.contains("no such schedule"), "{err}");
    let (code, _, err) = run(&stack, &["show", "nightly"]).await;
    assert!(code == Some(1) && err.contains("there is no schedule \"nightly\""), "{err}");
    for (args, words) in [
        (vec!["set", "a", "--method", "echo"], "--cron"),
        (vec!["set", "a", "--every", "1s"], "--channel"),
        (vec!["set", "a", "--every", "1s", "--delay", "1s", "--method", "echo"], "cannot be used with"),
        (vec!["set", "a", "--every", "1s", "--method", "nothing"], "no route takes \"nothing\""),
        (vec!["set", "a", "--cron", "* *", "--method", "echo"], "2 fields"),
    ] {
        let (code, _, err) = run(&stack, &args).await;
        assert!(code != Some(0) && err.contains(words), "{args:?}: {err}");
    }
    stack.down().await;
}
