//! Starting the program: its messages when it cannot start, and its behaviour while it waits for the broker.

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use tidegate_cli::stack::Stack;

use crate::support::{eventually, get, quick};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate-gateway");

fn run(toml: &str, variables: &[(&str, &str)]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    std::fs::write(&file, toml).unwrap();
    Command::new(PROGRAM)
        .arg("--config")
        .arg(&file)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn an_invalid_configuration_is_explained_and_ends_with_64() {
    for (toml, expected) in [
        ("[gateway]\nlistn = '127.0.0.1:1'", "listen"),
        ("[gateway]\nanswer_timeout = 4", "gateway.answer_timeout"),
        ("env = 'production'", "auth.hmac_secret"),
        ("[gateway]\nlisten = '0.0.0.0:1'", "gateway.listen"),
        ("[[issuer]]\nname = 'ids'\nissuer = 'i'\nalgorithms = ['RS256']", "issuer.0.jwks_url"),
    ] {
        let output = run(toml, &[]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains(expected) && !text.contains("panicked"), "{text}");
    }
    let output = run("", &[("TIDEGATE_GATEWAY__LIMITS__CHANNELS", "many")]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("TIDEGATE_GATEWAY__LIMITS__CHANNELS"), "{text}");
}

#[test]
fn an_invalid_public_key_is_named() {
    let toml = "[[issuer]]\nname = 'ids'\nissuer = 'i'\nalgorithms = ['RS256']\npublic_key = 'none'";
    let free = [("TIDEGATE_GATEWAY__LISTEN", "127.0.0.1:0"), ("TIDEGATE_GATEWAY__INTERNAL", "127.0.0.1:0")];
    let output = run(toml, &free);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("ids") && text.contains("public_key"), "{text}");
}

#[test]
fn a_busy_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run("", &[("TIDEGATE_GATEWAY__LISTEN", &address)]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&address) && text.contains("gateway.listen"), "{text}");
    assert!(text.contains("another process listens there") && !text.contains("os error"), "{text}");
}

#[test]
fn a_gateway_names_the_configuration_file_it_read_or_says_that_it_read_none() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let first = || {
        let mut command = Command::new(PROGRAM);
        command.args(["--listen", &taken.local_addr().unwrap().to_string()]).current_dir(dir.path());
        let text = String::from_utf8(command.stdin(Stdio::null()).output().unwrap().stderr).unwrap();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let none = first();
    assert!(none.contains("no configuration file was read") && none.contains("--config"), "{none}");
    std::fs::write(dir.path().join("tidegate.toml"), "").unwrap();
    let usual = first();
    assert!(usual.contains("configuration read") && usual.contains("tidegate.toml"), "{usual}");
}

#[test]
fn a_gateway_in_production_starts_without_the_secrets_of_others() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let secret = "x".repeat(32);
    let variables = [
        ("TIDEGATE_GATEWAY__LISTEN", address.as_str()),
        ("TIDEGATE_NATS__GATEWAY__PASSWORD", &secret),
        ("TIDEGATE_AUTH__HMAC_SECRET", &secret),
        ("TIDEGATE_API__KEY", ""),
        ("TIDEGATE_AUTH__MAX_TOKEN_LIFE", "24h"),
        ("TIDEGATE_NATS__WORKER__PASSWORD_FILE", "/nonexistent/secret"),
    ];
    let output = run("env = 'production'", &variables);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // The configuration is accepted: what ends the gateway is the taken address.
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&address), "{text}");
}

#[tokio::test]
async fn a_gateway_without_streams_names_the_way_out() {
    let extra = "[[namespace]]\nname = 'extra'\nhistory_size = 5";
    let stack = Stack::builder().config(extra).start().await.unwrap();
    stack.admin().await.unwrap().jetstream().delete_stream("TIDE_CH_extra").await.unwrap();
    let url = stack.nats_url().to_owned();
    let variables = [
        ("TIDEGATE_NATS__URL", url.as_str()),
        ("TIDEGATE_GATEWAY__LISTEN", "127.0.0.1:0"),
        ("TIDEGATE_GATEWAY__INTERNAL", "127.0.0.1:0"),
    ];
    let output = run(extra, &variables);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("TIDE_CH_extra") && text.contains("tidegate apply"), "{text}");
}

#[tokio::test]
async fn a_gateway_waits_for_the_broker_and_says_so() {
    let stack = quick("").gateways(1).start().await.unwrap();
    stack.hold("nats").await.unwrap();
    let before = stack.restarts("gateway-1");
    stack.kill("gateway-1").await.unwrap();
    eventually("it is started again and waits", || async {
        stack.restarts("gateway-1") > before && stack.log_of("gateway-1").contains("waiting for NATS")
    })
    .await;
    eventually("it says that it is not ready", || async {
        get(&stack, "/readyz").await == (503, "not connected to NATS\n".to_owned())
    })
    .await;
    assert_eq!(get(&stack, "/healthz").await.0, 200);
    stack.start_process("nats").await.unwrap();
    eventually("it is ready", || async { get(&stack, "/readyz").await.0 == 200 }).await;
}

#[test]
fn a_broker_that_is_too_old_is_refused_with_the_version_that_is_needed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let old = std::thread::spawn(move || serve_as_version(&listener, "2.9.10"));
    let variables = [
        ("TIDEGATE_NATS__URL", url.as_str()),
        ("TIDEGATE_GATEWAY__LISTEN", "127.0.0.1:0"),
        ("TIDEGATE_GATEWAY__INTERNAL", "127.0.0.1:0"),
    ];
    let output = run("", &variables);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("2.9.10") && text.contains("2.14.3"), "{text}");
    old.join().unwrap();
}

/// Speaks enough of the NATS protocol that a client learns the version.
fn serve_as_version(listener: &std::net::TcpListener, version: &str) {
    use std::io::{BufRead, BufReader, Write};
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let info = serde_json::json!({"server_id": "old", "version": version, "max_payload": 1_048_576, "headers": true, "proto": 1});
    write!(writer, "INFO {info}\r\n").unwrap();
    for line in BufReader::new(stream).lines() {
        match line {
            Ok(line) if line.starts_with("PING") => writer.write_all(b"PONG\r\n").unwrap(),
            Ok(_) => {}
            Err(_) => break,
        }
    }
}
