//! `call`, `sub`, `pub` and `token` against a running system.

use std::process::Stdio;

use serde_json::{Value, json};
use tidegate_cli::{
    client::{CallError, Client, Event, Options, ReconnectOptions, ReconnectingClient},
    stack::Stack,
    token::connection_token,
};
use tidegate_shared::protocol::Encoding;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::{Duration, Instant},
};

const CONFIG: &str = r#"
[[namespace]]
name = "chat"
allow_publish = "authenticated"

[[route]]
name = "echo"
match = "rpc.echo"
handler = "echo"

[[route]]
name = "later"
match = "rpc.later.echo"
handler = "echo"
answer = "later"
"#;

async fn start() -> Stack {
    Stack::builder().config(CONFIG).gateways(1).workers(1).start().await.unwrap()
}

fn url(stack: &Stack) -> String {
    stack.gateways()[0].websocket.clone()
}

fn options(stack: &Stack, user: &str) -> Options {
    let hour = Duration::from_hours(1);
    let token = connection_token(&stack.config().auth, user, hour, std::time::SystemTime::now()).unwrap();
    Options::new(url(stack)).token(token)
}

/// The command, pointed at the stack.
fn tidegate(stack: &Stack, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args).args(["--url", &url(stack)]);
    command.current_dir(stack.dir()).env("TIDEGATE_NATS__URL", stack.nats_url()).kill_on_drop(true);
    command
}

/// Runs the command: its exit code, standard output and standard error.
async fn run(stack: &Stack, args: &[&str]) -> (Option<i32>, String, String) {
    let output = tidegate(stack, args).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_call_prints_its_answer_and_progress_and_explains_errors() {
    let stack = start().await;
    let (code, out, err) = run(&stack, &["call", "echo", r#"{"a": 1}"#]).await;
    assert_eq!((code, out.trim()), (Some(0), r#"{"a": 1}"#), "{err}");
    assert!(err.starts_with("answered after "), "{err}");

    let (code, out, err) = run(&stack, &["call", "later.echo", "7", "--key", "k"]).await;
    assert_eq!((code, out.trim()), (Some(0), "7"), "{err}");
    assert!(err.starts_with("accepted as number ") && err.contains("answered on #42 after "), "{err}");

    let (code, out, err) = run(&stack, &["call", "nobody.there", "1"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("104 method not found"), "{err}");

    let (code, _, err) = run(&stack, &["call", "echo", "hello"]).await;
    assert_eq!(code, Some(2));
    assert!(err.contains("JSON") && err.contains("needs its quotes"), "{err}");
    stack.down().await;
}

#[tokio::test]
async fn repeated_calls_with_a_key_give_one_answer_and_another_body_is_refused() {
    let stack = start().await;
    for _ in 0..2 {
        let (code, out, err) = run(&stack, &["call", "echo", "1", "--key", "k"]).await;
        assert_eq!((code, out.trim()), (Some(0), "1"), "{err}");
    }
    let (code, _, err) = run(&stack, &["call", "echo", "2", "--key", "k"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("1003"), "{err}");
    let (code, out, _) = run(&stack, &["call", "echo", "2", "--key", "k", "--user", "another"]).await;
    assert_eq!((code, out.trim()), (Some(0), "2"));
    stack.down().await;
}

#[tokio::test]
async fn publications_of_clients_and_services_are_printed_line_by_line() {
    let stack = start().await;
    let mut sub = tidegate(&stack, &["sub", "chat:lobby", "--all", "--count", "3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its first word on standard error is that it is connected and subscribed.
    let mut notes = BufReader::new(sub.stderr.take().unwrap()).lines();
    assert!(notes.next_line().await.unwrap().unwrap().starts_with("connected to "));
    for args in [
        ["pub", "chat:lobby", r#"{"from":"client"}"#, "--user=7"],
        ["pub", "chat:lobby", r#"{"from":"service"}"#, "--as-service"],
        ["pub", "#42", r#"{"for":"you"}"#, "--as-service"],
    ] {
        let (code, _, err) = run(&stack, &args).await;
        assert_eq!(code, Some(0), "{args:?}: {err}");
    }
    let output = sub.wait_with_output().await.unwrap();
    assert!(output.status.success());
    let lines: Vec<Value> =
        output.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(lines[0]["user"], "7");
    assert_eq!(lines[1]["data"], json!({"from": "service"}));
    assert_eq!((&lines[2]["channel"], &lines[2]["data"]), (&json!("#42"), &json!({"for": "you"})));
    let (code, _, err) = run(&stack, &["pub", "#42", "1"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("103"), "{err}");
    stack.down().await;
}

#[tokio::test]
async fn both_encodings_carry_the_same_payloads() {
    let stack = start().await;
    let (json, _events) = Client::connect(options(&stack, "42")).await.unwrap();
    let (protobuf, mut events) =
        Client::connect(options(&stack, "42").encoding(Encoding::Protobuf)).await.unwrap();
    protobuf.subscribe("chat:lobby").await.unwrap();
    assert!(matches!(protobuf.subscribe("chat:lobby").await, Err(CallError::Server { code: 105, .. })));
    let calls: Vec<_> = (0..100).map(|n| protobuf.rpc("echo", n.to_string())).collect();
    for (n, answer) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), n.to_string());
    }
    json.publish("chat:lobby", "\"hi\"").await.unwrap();
    let Some(Event::Publication { channel, data, info, .. }) = events.next().await else {
        panic!("no publication");
    };
    assert_eq!((channel.as_str(), &data[..]), ("chat:lobby", &b"\"hi\""[..]));
    assert_eq!(info.unwrap().client, json.id());
    assert_eq!((json.stray_replies(), protobuf.stray_replies()), (0, 0));
    json.close().await;
    assert_eq!(
        json.rpc("echo", "1").await.unwrap_err().to_string(),
        "connection closed: 1000 closed by the caller"
    );
    stack.down().await;
}

#[tokio::test]
async fn a_session_retries_while_its_gateway_is_killed() {
    let stack = start().await;
    let connection = options(&stack, "42");
    let urls = vec![connection.url.clone()];
    let (session, mut events) =
        ReconnectingClient::start(ReconnectOptions { connection, urls, channels: Vec::new() });
    let deadline = Instant::now() + Duration::from_secs(30);
    assert_eq!(session.call_keyed("echo", "a", "1", deadline).await.unwrap().data, "1");
    stack.kill("gateway-1").await.unwrap();
    assert_eq!(session.call_keyed("echo", "b", "2", deadline).await.unwrap().data, "2");
    let mut seen = Vec::new();
    while let Some(event) = events.try_next() {
        seen.push(event);
    }
    assert!(
        matches!(seen[..], [Event::Connected { .. }, Event::Disconnected(_), Event::Connected { .. }]),
        "{seen:?}"
    );
    stack.down().await;
}

#[tokio::test]
async fn a_connection_that_was_refused_is_not_called_no_connection() {
    let stack = start().await;
    let gateway = &stack.gateways()[0];
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = format!("ws://{}/connection/websocket", other.local_addr().unwrap());
    // What is not read would make the end of the connection a reset.
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = other.accept() {
            let _ = std::io::Read::read(&mut socket, &mut [0; 4096]);
        }
    });
    let nats = stack.nats_url().replace("nats://", "ws://");
    for (url, words) in [
        (gateway.websocket.clone(), "refused the connection"),
        (format!("ws://{}/nowhere", gateway.public), "no WebSocket at this path"),
        (format!("ws://{}/connection/websocket", gateway.internal), "no WebSocket at this path"),
        (elsewhere, "another program answers"),
        (nats, "another program answers"),
    ] {
        for command in [&["call", "echo", "1"][..], &["pub", "chat:lobby", "1"]] {
            let mut command = command.to_vec();
            command.extend(["--token", "nonsense", "--url", &url]);
            let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(command).output().await.unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert!(error.contains(words) && !error.contains("no connection"), "{url}: {error}");
        }
    }
    let (_, _, error) = run(&stack, &["sub", "chat:lobby", "--token", "nonsense"]).await;
    assert!(error.contains("refused the connection") && !error.contains("no connection"), "{error}");
    let (_, _, error) = run(&stack, &["sub", "secret:lobby"]).await;
    assert!(error.contains("a channel") && !error.contains("no connection"), "{error}");
    stack.down().await;
}

#[tokio::test]
async fn enqueue_prints_the_id_of_the_stored_request() {
    let stack = start().await;
    let enqueue = async |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("enqueue").args(args).current_dir(stack.dir());
        let output = command.env("TIDEGATE_NATS__URL", stack.nats_url()).output().await.unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let args = ["later.echo", "{\"a\":1}", "--key", "7f3c", "--user", "42", "--delay", "1h"];
    let (code, first, error) = enqueue(&args).await;
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let first: Value = serde_json::from_str(&first).unwrap();
    let (_, again, _) = enqueue(&args).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&first["id"], &again["duplicate"]), (&again["id"], &json!(true)));
    let show = async |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("job").args(args).current_dir(stack.dir());
        let output = command.env("TIDEGATE_NATS__URL", stack.nats_url()).output().await.unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let (code, out, error) = enqueue(&["echo", "1", "--priority", "high"]).await;
    assert!(code == Some(0) && out.contains("\"id\""), "{out} {error}");
    let (code, _, error) = enqueue(&["echo", "1", "--priority", "urgent"]).await;
    assert!(code == Some(2) && error.contains("normal, high"), "{error}");
    let id = first["id"].as_str().unwrap();
    assert_eq!(show(&["show", id]).await["state"], "waiting");
    let by_key = ["cancel", "--method", "later.echo", "--key", "7f3c", "--user", "42"];
    assert_eq!(show(&by_key).await["state"], "cancelled");
    assert_eq!(show(&["show", id]).await["state"], "cancelled");
    let (code, _, error) = enqueue(&["nothing"]).await;
    assert_eq!(
        (code, error.as_str()),
        (Some(1), "error 104: method not found: no route takes \"nothing\"\n")
    );
}
