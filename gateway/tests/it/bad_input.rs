//! Bad input gets the documented code or message, other clients are not affected, and no process panics.

use std::time::Duration;

use tidegate_cli::client::{CallError, Client, ConnectError, Options};
use tidegate_cli::stack::Stack;
use tidegate_shared::protocol::{Command, Encoding, HistoryRequest, codes};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::socket::{Socket, TEXT, frame};
use crate::support::{
    PATIENCE, TOML, connect, connect_as, fresh, get, history, http, kept_toml, next, nothing_panicked, quick,
    raw, raw_connected, resume, service, start, token, url,
};

const STRICT: &str =
    "[gateway.limits]\nhandshake = '1s'\nfirst_frame = '1s'\nmessage = '2 KiB'\ncommands_per_message = 8\n";

async fn strict() -> Stack {
    start(quick(STRICT).gateways(1)).await
}

/// Runs a test next to another client, which must not be affected.
async fn with_bystander<F: Future<Output = ()>>(stack: &Stack, test: impl FnOnce() -> F) {
    let (bystander, _events) = connect(stack, 0, "bystander").await;
    test().await;
    bystander.subscribe("chat:calm").await.unwrap();
    nothing_panicked(stack);
}

#[tokio::test]
async fn a_request_that_is_not_a_websocket_handshake_gets_an_http_error() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        let public = stack.gateways()[0].public;
        let plain = "GET /connection/websocket HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let (status, body) = http(public, plain).await;
        assert_eq!(status, 426);
        assert!(body.contains("WebSocket"), "{body}");
        assert_eq!(
            http(public, &plain.replace("/connection/websocket", "/metrics")).await.0,
            404,
            "internal paths stay inside"
        );
        assert_eq!(http(public, "nonsense\r\n\r\n").await.0, 400);
    })
    .await;
}

#[tokio::test]
async fn an_incomplete_or_ambiguous_handshake_gets_400_and_a_sentence() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        let public = stack.gateways()[0].public;
        let headers = [
            "host: x",
            "connection: Upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        let ask = |path: &str, change: &dyn Fn(&str) -> String| {
            let headers: String = headers.iter().map(|header| change(header)).collect();
            let request = format!("GET {path} HTTP/1.1\r\n{headers}\r\n");
            async move { http(public, &request).await }
        };
        let line = |header: &str| format!("{header}\r\n");
        let instead = |name: &'static str, text: &'static str| {
            move |header: &str| {
                if header.starts_with(name) { text.to_owned() } else { format!("{header}\r\n") }
            }
        };
        for path in ["/connection/websocket", "/connection/uni_websocket"] {
            for (change, word) in [
                (instead("sec-websocket-key", ""), "Sec-WebSocket-Key"),
                (instead("sec-websocket-key", "sec-websocket-key:\r\n"), "Sec-WebSocket-Key"),
                (instead("sec-websocket-key", "sec-websocket-key: x\r\n"), "Sec-WebSocket-Key"),
                (
                    instead(
                        "sec-websocket-version",
                        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                    ),
                    "Sec-WebSocket-Key",
                ),
                (instead("host", ""), "Host"),
                (instead("host", "host:\r\n"), "Host"),
                (instead("host", "host: x\r\nhost: y\r\n"), "Host"),
                (instead("host", "host: x\r\norigin: http://x\r\norigin: http://x\r\n"), "Origin"),
                (instead("host", "host: x\r\norigin: http://x\r\norigin: https://evil\r\n"), "Origin"),
            ] {
                let (status, body) = ask(path, &change).await;
                assert!(status == 400 && body.contains(word), "{path}, {word}: {status} {body:?}");
            }
        }
        let whole: String = headers.iter().map(|header| line(header)).collect();
        let mut socket = TcpStream::connect(public).await.unwrap();
        let request = format!("GET /connection/websocket HTTP/1.1\r\n{whole}origin: http://x\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        timeout(PATIENCE, socket.read_exact(&mut begin)).await.unwrap().unwrap();
        assert_eq!(&begin, b"HTTP/1.1 101");
    })
    .await;
}

#[tokio::test]
async fn requests_of_the_other_transports_need_one_host_and_at_most_one_origin() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        let public = stack.gateways()[0].public;
        for path in ["/connection/http_stream", "/connection/sse", "/connection/uni_sse", "/emulation"] {
            let method = if path.contains("sse") { "GET" } else { "POST" };
            for (headers, word) in
                [("", "Host"), ("host: x\r\norigin: http://x\r\norigin: http://x\r\n", "Origin")]
            {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nconnection: close\r\n{headers}content-length: 0\r\n\r\n"
                );
                let (status, body) = http(public, &request).await;
                assert!(status == 400 && body.contains(word), "{path}, {word}: {status} {body:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn null_a_repeated_key_or_half_a_surrogate_pair_does_not_end_a_connection() {
    let stack = start(quick("").gateways(1)).await;
    let mut client = raw_connected(&stack).await;
    for (id, command) in [
        r#""subscribe":{"channel":"chat:n","token":null,"recover":null,"offset":null,"epoch":null,"data":null,"tf":null}"#,
        r#""publish":{"channel":"chat:other","channel":"chat:n","data":{"a":null,"a":1}}"#,
        r#""unsubscribe":{"channel":null,"channel":"chat:n"}"#,
        r#""subscribe":{"channel":"chat:\ud800"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let id = u32::try_from(id).unwrap() + 10;
        client.send_text(&format!(r#"{{"id":1,"id":{id},{command}}}"#)).await.unwrap();
        let reply = client.reply().await.unwrap();
        let reply = if reply.id == 0 { client.reply().await.unwrap() } else { reply };
        assert!(reply.id == id && reply.error.is_none(), "{command}: {reply:?}");
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_foreign_page_may_not_connect() {
    let origins = r#"["https://app.example.com"]"#;
    let stack = start(quick("").gateways(1).variable("gateway", "TIDEGATE_GATEWAY__ORIGINS", origins)).await;
    let with = |origin: &str| {
        let mut options = Options::new(url(&stack, 0)).token(token(&stack, "42"));
        options.origin = Some(origin.to_owned());
        Client::connect(options)
    };
    let refused = with("https://evil.example.com").await.unwrap_err();
    assert!(matches!(&refused, ConnectError::Http { status: 403, .. }), "{refused:?}");
    with("https://app.example.com").await.unwrap();
    with("https://evil.example.com").await.unwrap_err();
    let log = stack.log_of("gateway-1");
    assert_eq!(log.matches("refused a web page").count(), 1, "{log}");
    let line = r#"gateway.origins = ["https://app.example.com", "https://evil.example.com"]"#;
    assert!(log.contains(line), "{log}");
}

#[tokio::test]
async fn in_development_a_dev_servers_page_may_connect() {
    let stack = start(quick("").gateways(1)).await;
    for origin in ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:8080"] {
        let mut options = Options::new(url(&stack, 0)).token(token(&stack, "42"));
        options.origin = Some(origin.to_owned());
        Client::connect(options).await.unwrap();
    }
}

#[tokio::test]
async fn both_addresses_say_what_they_are_and_where_to_go() {
    let stack = start(quick("").gateways(1)).await;
    let gateway = &stack.gateways()[0];
    for (address, words) in [
        (gateway.public, ["Tidegate", "/connection/websocket", "gateway.internal"]),
        (gateway.internal, ["Tidegate", "/metrics", "gateway.listen"]),
    ] {
        for (path, status) in [("/", 200), ("/nowhere", 404), ("/connection", 404)] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let (found, page) = http(address, &request).await;
            assert_eq!(found, status, "{path}: {page}");
            for word in words {
                assert!(page.contains(word), "{path}: {page}");
            }
        }
    }
}

#[tokio::test]
async fn silent_connections_are_closed_at_the_deadline() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        let mut silent = TcpStream::connect(stack.gateways()[0].public).await.unwrap();
        let mut rest = Vec::new();
        // The connection may end with or without a close frame.
        let _ = timeout(PATIENCE, silent.read_to_end(&mut rest)).await.expect("the socket is closed");
        let mut mute = raw(&stack).await;
        assert_eq!(mute.expect_close(3502).await.unwrap(), "stale");
    })
    .await;
}

#[tokio::test]
async fn bytes_that_are_no_commands_end_the_connection() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        for text in ["{", "hello", "[]", "{\"id\":\"x\"}", "", "\n", "{}\n\n{}", "{\"id\":-1}", "\u{0}"] {
            let mut client = raw_connected(&stack).await;
            client.send_text(text).await.unwrap();
            client.expect_close(3501).await.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        }
        let mut client = raw_connected(&stack).await;
        client.send_binary(vec![0xff, 0xfe, 0x00]).await.unwrap();
        client.expect_close(3501).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn protobuf_that_ends_early_or_lies_ends_the_connection() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        for bytes in [
            &[][..],
            &[5, 8][..],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..],
            &[2, 0x22, 0x7f][..],
            &[1][..],
        ] {
            let options = Options::new(url(&stack, 0)).encoding(Encoding::Protobuf);
            let mut client = tidegate_cli::client::raw::RawClient::open(&options).await.unwrap();
            client.send_binary(bytes.to_vec()).await.unwrap();
            client.expect_close(3501).await.unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_may_be_as_long_as_the_limit_and_not_a_byte_longer() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        let of = |length: usize| {
            let empty = r#"{"id":2,"rpc":{"method":"nothing","data":""}}"#;
            empty.replace("\"\"", &format!("\"{}\"", "x".repeat(length - empty.len())))
        };
        for length in [2047, 2048] {
            let mut client = raw_connected(&stack).await;
            client.send_text(&of(length)).await.unwrap();
            assert_eq!(client.reply().await.unwrap().error.unwrap().code, codes::METHOD_NOT_FOUND.code);
        }
        for length in [2049, 60_000] {
            let mut client = raw_connected(&stack).await;
            client.send_text(&of(length)).await.unwrap();
            client.expect_close(1009).await.unwrap_or_else(|error| panic!("{length}: {error}"));
        }
        let mut client = raw_connected(&stack).await;
        client.send_text(&["{\"id\":2,\"ping\":{}}"; 9].join("\n")).await.unwrap();
        client.expect_close(3501).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn commands_out_of_order_end_the_connection() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        let mut early = raw(&stack).await;
        early.send_text(r#"{"id":1,"rpc":{"method":"echo"}}"#).await.unwrap();
        early.expect_close(3501).await.unwrap();
        let mut twice = raw_connected(&stack).await;
        twice.send_text(r#"{"id":2,"connect":{}}"#).await.unwrap();
        twice.expect_close(3501).await.unwrap();
        let mut unknown = raw_connected(&stack).await;
        unknown.send_text(r#"{"id":2,"dance":{}}"#).await.unwrap();
        assert_eq!(unknown.reply().await.unwrap().error.unwrap().code, 108);
        let mut nameless = raw_connected(&stack).await;
        nameless.send_text(r#"{"rpc":{"method":"echo"}}"#).await.unwrap();
        nameless.expect_close(3501).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_foreign_token_ends_the_connection_and_an_expired_one_asks_for_another() {
    let stack = strict().await;
    with_bystander(&stack, || async {
        let good = token(&stack, "42");
        let payload = good.split('.').nth(1).unwrap();
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        let forged = format!("{}x", good.rsplit_once('.').unwrap().0);
        for bad in [none, forged, "rubbish".to_owned()] {
            let mut client = raw(&stack).await;
            client
                .send_text(&serde_json::json!({"id": 1, "connect": {"token": bad}}).to_string())
                .await
                .unwrap();
            assert_eq!(client.expect_close(3500).await.unwrap(), "invalid token");
        }
        let long_ago = std::time::SystemTime::now() - Duration::from_hours(2);
        let expired = tidegate_cli::token::connection_token(
            &stack.config().auth,
            "42",
            Duration::from_mins(1),
            long_ago,
        )
        .unwrap();
        let error = Client::connect(Options::new(url(&stack, 0)).token(expired)).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Refused(CallError::Server { code: 109, .. })), "{error:?}");
        let mut nobody = raw(&stack).await;
        nobody.send_text(r#"{"id":1,"connect":{}}"#).await.unwrap();
        nobody.expect_close(3501).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn names_with_nats_wildcards_are_plain_names() {
    let stack = strict().await;
    let (stranger, mut events) = connect(&stack, 0, "stranger").await;
    with_bystander(&stack, || async {
        let (client, _events) = connect(&stack, 0, "42").await;
        let code = |result: Result<(), CallError>| result.unwrap_err().code().unwrap();
        for name in ["chat:*", "chat:>", "chat: ", "chat:.a", "chat:a.", "chat:a..b", "chat:a b", "chat:a.>"]
        {
            stranger.subscribe(name).await.unwrap();
        }
        client.publish("chat:secret", "\"for nobody else\"").await.unwrap();
        client.publish("chat:a.c", "\"for nobody else\"").await.unwrap();
        client.publish("chat:a..b", "\"for it\"").await.unwrap();
        assert_eq!(crate::support::publication(&mut events, "chat:a..b").await, "\"for it\"");
        for (name, expected) in [("*:a", 102), (">", 103), ("a b:c", 102), ("nowhere:a", 102)] {
            assert_eq!(code(client.publish(name, "1").await), expected, "{name:?}");
        }
        let long = format!("chat:{}", "c".repeat(300));
        assert_eq!(code(client.subscribe(&long).await.map(drop)), 107);
        assert_eq!(code(client.publish(&long, "1").await), 107);
        for method in ["*", ">", "ec ho", "echo.*", "echo.>"] {
            assert_eq!(code(client.rpc(method, "1").await.map(drop)), 104, "{method:?}");
        }
        for method in ["", ".echo", "echo.", "a..b", &"m".repeat(300)] {
            assert_eq!(code(client.rpc(method, "1").await.map(drop)), 107, "{method:?}");
        }
        let empty = client.call(Command {
            subscribe: Some(tidegate_shared::protocol::SubscribeRequest::default()),
            ..Command::default()
        });
        assert!(matches!(empty.await.unwrap_err(), CallError::Closed(end) if end.code == 3501));
    })
    .await;
    assert!(events.try_next().is_none(), "nothing leaked");
}

#[tokio::test]
async fn a_message_of_endless_empty_frames_ends_with_the_clients_time() {
    let limits =
        "[gateway]\nping_interval = '1s'\npong_timeout = '500ms'\n[gateway.limits]\nfirst_frame = '1s'";
    let stack = start(Stack::builder().config(&format!("{limits}\n{TOML}")).gateways(1)).await;
    let connect = serde_json::json!({"id": 1, "connect": {"token": token(&stack, "42")}}).to_string();
    for (first, code) in [(None, 3502_u16), (Some(connect), 3012)] {
        let mut socket = Socket::open(&stack).await;
        if let Some(connect) = first {
            socket.write(&frame(TEXT, connect.as_bytes())).await;
            assert_eq!(socket.frame(PATIENCE).await.0, TEXT);
        }
        // The beginning of a message, and frames without content that do not end it.
        let (start, more) = ([0x01, 0x80, 0, 0, 0, 0], [0x00, 0x80, 0, 0, 0, 0].repeat(1000));
        socket.write(&start).await;
        let ended = async {
            loop {
                // The gateway may have closed its side.
                let _ = socket.tcp.write_all(&more).await;
                let closed = timeout(Duration::from_millis(20), socket.frame(PATIENCE)).await;
                if let Ok((8, payload)) = closed {
                    return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                }
            }
        };
        assert_eq!(timeout(PATIENCE, ended).await.unwrap(), Some(code));
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn headers_that_are_not_json_break_a_channel_for_no_client() {
    let stack = start(quick(&kept_toml(20, "")).gateways(1)).await;
    let nats = async_nats::jetstream::new(service(&stack).await);
    let odd = ["oops", r#"{"a":1}x"#, "\"", "{\"a\":\u{1}}", "1 2", "\u{fffd}", "nul"];
    let (json, mut json_events) = connect_as(&stack, 0, "42", Encoding::Json).await;
    let (protobuf, mut protobuf_events) = connect_as(&stack, 0, "42", Encoding::Protobuf).await;
    for (subject, channel) in [("tide.ch.kept.x", "kept:x"), ("tide.ch.user.42", "#42")] {
        if channel != "#42" {
            fresh(&json, channel).await;
            fresh(&protobuf, channel).await;
        }
        for (n, text) in odd.iter().enumerate() {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Tide-Client", "b");
            headers.insert(if n % 2 == 0 { "Tide-Info" } else { "Tide-Channel-Info" }, *text);
            let body = n.to_string().into();
            nats.publish_with_headers(subject, headers, body).await.unwrap().await.unwrap();
            assert_eq!(next(&mut json_events).await.0, n.to_string(), "{channel}: {text}");
            assert_eq!(next(&mut protobuf_events).await.0, n.to_string(), "{channel}: {text}");
        }
        for client in [&json, &protobuf] {
            let request =
                HistoryRequest { channel: channel.to_owned(), limit: -1, ..HistoryRequest::default() };
            if channel != "#42" {
                let page = history(client, request).await.unwrap();
                assert_eq!(page.publications.len(), odd.len());
                client.unsubscribe(channel).await.unwrap();
                let result = resume(client, channel, 0, "").await;
                assert!(result.recovered && result.publications.len() == odd.len(), "{result:?}");
                let infos = result.publications.iter().filter_map(|publication| publication.info.as_ref());
                for (info, text) in infos.zip(odd) {
                    let told = if info.conn_info.is_empty() { &info.chan_info } else { &info.conn_info };
                    let told = serde_json::from_slice::<String>(told).unwrap_or_default();
                    assert_eq!(told.trim(), text.trim(), "what is not JSON is told as a text");
                }
            }
        }
    }
    let subs = serde_json::json!({"#42": {"recover": true, "offset": 0, "epoch": ""}});
    let mut raw = raw(&stack).await;
    let connect = serde_json::json!({"id": 1, "connect": {"token": token(&stack, "42"), "subs": subs}});
    raw.send_text(&connect.to_string()).await.unwrap();
    let connected = raw.reply().await.unwrap().connect.unwrap();
    let personal = connected.subs.iter().find(|sub| sub.channel == "#42").unwrap();
    assert_eq!(personal.result.as_ref().unwrap().publications.len(), odd.len());
    let (_, page) = get(&stack, "/metrics").await;
    let line =
        page.lines().find(|line| line.starts_with("tidegate_gateway_unreadable_total{reason=\"info\"}"));
    assert_eq!(line.map(|line| line.ends_with(&format!(" {}", 2 * odd.len()))), Some(true), "{line:?}");
}
