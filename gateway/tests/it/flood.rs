//! Peers that try to exhaust a gateway: floods of sockets, and peers that are slow on purpose. Each ends at a limit, and those who are
//! connected are answered meanwhile.

use std::{fs, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tidegate_cli::{
    client::{Client, Options},
    stack::Stack,
};
use tidegate_shared::protocol::HistoryRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};

use crate::{
    limits::metric,
    socket::{Socket, TEXT, frame},
    support::{
        PATIENCE, connect, eventually, fresh, history, kept_toml, nothing_panicked, quick, resume, start,
        texts, token, url,
    },
};

fn pid(stack: &Stack) -> i32 {
    stack.pid("gateway-1").expect("the gateway runs")
}

/// The resident memory of the gateway, in KiB.
fn memory(stack: &Stack) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid(stack))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Opens sockets without a word.
async fn sockets(stack: &Stack, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpStream::connect(stack.gateways()[0].public).await.unwrap());
    }
    all
}

/// Waits until a new client is served.
async fn serves_again(stack: &Stack) {
    eventually("a new client is served", || async {
        let options = Options { timeout: Duration::from_secs(2), ..Options::new(url(stack, 0)) };
        Client::connect(options.token(token(stack, "new"))).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn sockets_without_a_whole_request_cost_no_more_than_a_small_task() {
    const EACH: usize = 1000;
    let stack = start(quick("").gateways(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let before = memory(&stack);
    let silent = sockets(&stack, EACH).await;
    let mut begun = sockets(&stack, EACH).await;
    for socket in &mut begun {
        socket.write_all(b"GET /connection/websocket HTTP/1.1\r\nX-Endless: x").await.unwrap();
    }
    // The gateway has accepted them all when it serves a later one.
    serves_again(&stack).await;
    let each = memory(&stack).saturating_sub(before) / (2 * EACH as u64);
    assert!(each < 8, "{each} KiB a socket");
    drop((silent, begun, client));
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_flood_beyond_the_limit_of_connections_is_turned_away_and_sessions_are_answered() {
    let stack = start(quick("[gateway.limits]\nconnections = 200").gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    assert_eq!(client.rpc("echo", "0").await.unwrap(), "0");
    let before = memory(&stack);
    let mut flood = Vec::new();
    for round in 0..10 {
        flood.extend(sockets(&stack, 100).await);
        assert_eq!(client.rpc("echo", round.to_string()).await.unwrap(), round.to_string());
    }
    eventually("the flood is turned away", || async {
        metric(&stack, "tidegate_gateway_connections_refused_total{reason=\"full\"}").await >= 801
    })
    .await;
    assert!(memory(&stack) < before + 64 * 1024, "{before} KiB, then {}", memory(&stack));
    drop(flood);
    serves_again(&stack).await;
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_gateway_without_descriptors_answers_its_sessions_and_goes_on_when_there_are_some() {
    let stack = start(quick("").gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let pid = pid(&stack);
    let open = u64::try_from(fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()).unwrap();
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(open + 40), maximum: most };
    prlimit(Pid::from_raw(pid), Resource::Nofile, limit).unwrap();
    let flood = sockets(&stack, 200).await;
    eventually("the gateway has no descriptor left", || async {
        stack.log_of("gateway-1").contains("cannot accept a connection")
    })
    .await;
    for n in 0..20 {
        assert_eq!(client.rpc("echo", n.to_string()).await.unwrap(), n.to_string());
    }
    drop(flood);
    serves_again(&stack).await;
    nothing_panicked(&stack);
}

#[tokio::test]
async fn headers_that_come_byte_by_byte_end_with_the_time_of_the_handshake() {
    let stack = start(quick("[gateway.limits]\nhandshake = '1s'").gateways(1).workers(1)).await;
    let (client, _events) = connect(&stack, 0, "42").await;
    let mut all = sockets(&stack, 50).await;
    let endless =
        "GET /connection/websocket HTTP/1.1\r\nhost: x\r\nx-fill: ".bytes().chain(std::iter::repeat(b'x'));
    let mut tick = interval(Duration::from_millis(20));
    let drip = async {
        for byte in endless {
            tick.tick().await;
            let mut open = 0;
            for socket in &mut all {
                // The gateway may have answered, and closed its side.
                let ended =
                    matches!(timeout(Duration::ZERO, socket.read(&mut [0; 512])).await, Ok(Ok(0) | Err(_)));
                open += usize::from(!ended && socket.write_all(&[byte]).await.is_ok());
            }
            if open == 0 {
                return;
            }
        }
    };
    timeout(PATIENCE, drip).await.expect("all of them are closed");
    assert_eq!(client.rpc("echo", "1").await.unwrap(), "1");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_peer_that_is_silently_gone_ends_with_the_time_for_its_pong() {
    let pings = "[gateway]\nping_interval = '1s'\npong_timeout = '500ms'\n";
    let stack = start(Stack::builder().config(&format!("{pings}{}", crate::support::TOML)).gateways(1)).await;
    // Their sockets stay open, and nobody reads or answers.
    let mut gone = Vec::new();
    for _ in 0..20 {
        gone.push(Socket::connected(&stack).await);
    }
    eventually("they are closed for the missing pong", || async {
        metric(&stack, "tidegate_gateway_disconnects_total{code=\"3012\"}").await == 20
    })
    .await;
    eventually("and leave nothing behind", || async {
        metric(&stack, "tidegate_gateway_connections").await == 0
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_ends_at_its_bound_and_resumes_where_it_was() {
    let toml = format!("[gateway.limits]\noutbox = '1 MiB'\nmessage = '256 KiB'\n{}", kept_toml(50, ""));
    let stack = start(quick(&toml).gateways(1).workers(1)).await;
    let (publisher, _events) = connect(&stack, 0, "publisher").await;
    let begin = fresh(&publisher, "kept:other").await;
    let mut slow = Socket::connected(&stack).await;
    slow.write(&frame(TEXT, br#"{"id":2,"subscribe":{"channel":"kept:a"}}"#)).await;
    slow.replies(1).await;
    let data = json!("x".repeat(100_000)).to_string();
    let closed = async || metric(&stack, "tidegate_gateway_disconnects_total{code=\"3008\"}").await == 1;
    let publish = async {
        while !closed().await {
            publisher.publish("kept:a", data.clone()).await.unwrap();
            assert_eq!(publisher.rpc("echo", "1").await.unwrap(), "1", "others are answered");
            assert!(metric(&stack, "tidegate_gateway_buffered_bytes").await <= 1 << 20);
        }
    };
    let read = async {
        let (mut tick, mut some) = (interval(Duration::from_millis(100)), [0; 1024]);
        loop {
            tick.tick().await;
            // Its socket ends after it is closed.
            let _ = slow.tcp.read(&mut some).await;
        }
    };
    tokio::select! {
        published = timeout(PATIENCE, publish) => published.expect("the slow reader is closed"),
        () = read => {}
    }
    let (again, _events) = connect(&stack, 0, "42").await;
    let newest =
        HistoryRequest { channel: "kept:a".into(), limit: 4, reverse: true, ..HistoryRequest::default() };
    let page = history(&again, newest).await.unwrap();
    let position = page.publications.last().unwrap().offset;
    let result = resume(&again, "kept:a", position, &begin.epoch).await;
    assert!(result.recovered, "{}", result.offset);
    assert_eq!(texts(&result), vec![data; 3]);
    nothing_panicked(&stack);
}
