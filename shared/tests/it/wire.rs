//! Golden frames: the same messages in both encodings, byte by byte, as published SDKs send and expect them.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tidegate_shared::protocol::{
    ClientInfo, Command, ConnectRequest, ConnectResult, Empty, EmulationRequest, Encoding, Error, Presence,
    PresenceRequest, PresenceResult, PresenceStatsRequest, PresenceStatsResult, Publication, PublishRequest,
    Push, Reply, RpcRequest, RpcResult, SendRequest, Sub, SubRefreshRequest, SubRefreshResult,
    SubscribeRequest, SubscribeResult, Subscribed, Unsubscribe, UnsubscribeRequest, Verb, codes,
    encode_reply, json, protobuf,
};

/// Requests for the members of a channel, and for joins and leaves.
fn presence_commands() -> Vec<(Command, &'static str, &'static str)> {
    let command = |id| Command { id, ..Command::default() };
    vec![
        (
            Command {
                subscribe: Some(SubscribeRequest {
                    channel: "c".into(),
                    join_leave: true,
                    ..SubscribeRequest::default()
                }),
                ..command(7)
            },
            r#"{"id":7,"subscribe":{"channel":"c","join_leave":true}}"#,
            // channel (1), join_leave (11)
            "09 08 07 2a 05 0a 01 63 58 01",
        ),
        (
            Command { presence: Some(PresenceRequest { channel: "c".into() }), ..command(8) },
            r#"{"id":8,"presence":{"channel":"c"}}"#,
            // presence is field 8: tag 42
            "07 08 08 42 03 0a 01 63",
        ),
        (
            Command { presence_stats: Some(PresenceStatsRequest { channel: "c".into() }), ..command(9) },
            r#"{"id":9,"presence_stats":{"channel":"c"}}"#,
            // presence_stats is field 9: tag 4a
            "07 08 09 4a 03 0a 01 63",
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table of golden frames")]
fn commands() -> Vec<(Command, &'static str, &'static str)> {
    let command = |id| Command { id, ..Command::default() };
    vec![
        // A pong: no field at all; on the protobuf wire one byte, the length 0.
        (Command::default(), "{}", "00"),
        (
            Command {
                connect: Some(ConnectRequest {
                    token: "t".into(),
                    name: "js".into(),
                    version: "5.8".into(),
                    ..ConnectRequest::default()
                }),
                ..command(1)
            },
            r#"{"id":1,"connect":{"token":"t","name":"js","version":"5.8"}}"#,
            // length 16; id: 08 01; connect (4, bytes) of 12: token (1), name (4), version (5)
            "10 08 01 22 0c 0a 01 74 22 02 6a 73 2a 03 35 2e 38",
        ),
        (
            Command {
                subscribe: Some(SubscribeRequest {
                    channel: "c".into(),
                    recover: true,
                    epoch: "e".into(),
                    offset: 7,
                    ..SubscribeRequest::default()
                }),
                ..command(2)
            },
            r#"{"id":2,"subscribe":{"channel":"c","recover":true,"epoch":"e","offset":7}}"#,
            // subscribe (5) of 10: channel (1), recover (3), epoch (6), offset (7)
            "0e 08 02 2a 0a 0a 01 63 18 01 32 01 65 38 07",
        ),
        (
            Command { unsubscribe: Some(UnsubscribeRequest { channel: "c".into() }), ..command(3) },
            r#"{"id":3,"unsubscribe":{"channel":"c"}}"#,
            "07 08 03 32 03 0a 01 63",
        ),
        (
            Command {
                publish: Some(PublishRequest { channel: "c".into(), data: "{}".into(), kind: 0 }),
                ..command(4)
            },
            r#"{"id":4,"publish":{"channel":"c","data":{}}}"#,
            "0b 08 04 3a 07 0a 01 63 12 02 7b 7d",
        ),
        (
            Command { rpc: Some(RpcRequest { data: "1".into(), method: "m".into() }), ..command(5) },
            r#"{"id":5,"rpc":{"data":1,"method":"m"}}"#,
            // rpc is field 13: tag 6a
            "0a 08 05 6a 06 0a 01 31 12 01 6d",
        ),
        (
            Command { send: Some(SendRequest { data: "1".into() }), ..command(0) },
            r#"{"send":{"data":1}}"#,
            "05 62 03 0a 01 31",
        ),
        (
            Command {
                subscribe: Some(SubscribeRequest {
                    channel: "$c".into(),
                    token: "t".into(),
                    ..SubscribeRequest::default()
                }),
                ..command(6)
            },
            r#"{"id":6,"subscribe":{"channel":"$c","token":"t"}}"#,
            // channel (1), token (2)
            "0b 08 06 2a 07 0a 02 24 63 12 01 74",
        ),
        (
            Command {
                sub_refresh: Some(SubRefreshRequest { channel: "$c".into(), token: "t".into() }),
                ..command(7)
            },
            r#"{"id":7,"sub_refresh":{"channel":"$c","token":"t"}}"#,
            // sub_refresh is field 15: tag 7a
            "0b 08 07 7a 07 0a 02 24 63 12 01 74",
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table of golden frames")]
fn replies() -> Vec<(Reply, &'static str, &'static str)> {
    let reply = |id| Reply { id, ..Reply::default() };
    let result = ConnectResult {
        client: "g.1".into(),
        version: "0".into(),
        expires: true,
        ttl: 60,
        subs: vec![Sub::new("#42", SubscribeResult::default())],
        ping: 25,
        pong: true,
        ..ConnectResult::default()
    };
    let info = ClientInfo { client: "g.1".into(), ..ClientInfo::default() };
    let publication = Publication {
        data: "{}".into(),
        info: Some(info),
        offset: 9,
        tags: [("re".to_owned(), "x".to_owned())].into(),
        delta: false,
    };
    vec![
        (Reply::ping(), "{}", "00"),
        (
            Reply { connect: Some(result), ..reply(1) },
            r##"{"id":1,"connect":{"client":"g.1","version":"0","expires":true,"ttl":60,"subs":{"#42":{}},"ping":25,"pong":true}}"##,
            // subs (6) is a map: key (1) "#42", value (2) empty but there; ping (7) 19, pong (8) 01
            "1d 08 01 2a 19 0a 03 67 2e 31 12 01 30 18 01 20 3c 32 07 0a 03 23 34 32 12 00 38 19 40 01",
        ),
        (
            Reply { subscribe: Some(SubscribeResult::default()), ..reply(2) },
            r#"{"id":2,"subscribe":{}}"#,
            "04 08 02 32 00",
        ),
        (
            Reply {
                subscribe: Some(SubscribeResult { expires: true, ttl: 60, ..SubscribeResult::default() }),
                ..reply(2)
            },
            r#"{"id":2,"subscribe":{"expires":true,"ttl":60}}"#,
            // expires (1), ttl (2)
            "08 08 02 32 04 08 01 10 3c",
        ),
        (
            Reply { sub_refresh: Some(SubRefreshResult { expires: true, ttl: 60 }), ..reply(7) },
            r#"{"id":7,"sub_refresh":{"expires":true,"ttl":60}}"#,
            // sub_refresh is field 15: tag 7a
            "08 08 07 7a 04 08 01 10 3c",
        ),
        (
            Reply { sub_refresh: Some(SubRefreshResult::default()), ..reply(8) },
            r#"{"id":8,"sub_refresh":{}}"#,
            "04 08 08 7a 00",
        ),
        (
            Reply {
                push: Some(Push {
                    channel: "c".into(),
                    unsubscribe: Some(Unsubscribe { code: 2501, reason: "x".into() }),
                    ..Push::default()
                }),
                ..reply(0)
            },
            r#"{"push":{"channel":"c","unsubscribe":{"code":2501,"reason":"x"}}}"#,
            // push (4): channel (2), unsubscribe (7): code (2) 2501, reason (3)
            "0d 22 0b 12 01 63 3a 06 10 c5 13 1a 01 78",
        ),
        (Reply { unsubscribe: Some(Empty {}), ..reply(3) }, r#"{"id":3,"unsubscribe":{}}"#, "04 08 03 3a 00"),
        (Reply { publish: Some(Empty {}), ..reply(4) }, r#"{"id":4,"publish":{}}"#, "04 08 04 42 00"),
        (
            Reply { rpc: Some(RpcResult { data: "1".into() }), ..reply(5) },
            r#"{"id":5,"rpc":{"data":1}}"#,
            "07 08 05 6a 03 0a 01 31",
        ),
        (
            Reply::error(6, Error { code: 1000, message: "m".into(), temporary: true }),
            r#"{"id":6,"error":{"code":1000,"message":"m","temporary":true}}"#,
            "0c 08 06 12 08 08 e8 07 12 01 6d 18 01",
        ),
        (
            Reply::publication("c", publication),
            r#"{"push":{"channel":"c","pub":{"data":{},"info":{"user":"","client":"g.1"},"offset":9,"tags":{"re":"x"}}}}"#,
            // push (4): channel (2), pub (4): data (4), info (5), offset (6), tags (7)
            "1d 22 1b 12 01 63 22 16 22 02 7b 7d 2a 05 12 03 67 2e 31 30 09 3a 07 0a 02 72 65 12 01 78",
        ),
        (Reply::message("1".into()), r#"{"push":{"message":{"data":1}}}"#, "07 22 05 42 03 0a 01 31"),
    ]
}

/// Presence, joins and leaves, and server-side subscriptions.
fn replies_about_channels() -> Vec<(Reply, &'static str, &'static str)> {
    let info = ClientInfo { client: "g.1".into(), ..ClientInfo::default() };
    let presence = Presence { info: Some(info.clone()) };
    let push = |push| Reply { push: Some(Push { channel: "c".into(), ..push }), ..Reply::default() };
    let subscribed =
        Subscribed { recoverable: true, epoch: "e".into(), offset: 7, positioned: true, data: "1".into() };
    let members = PresenceResult { presence: [("g.1".to_owned(), info)].into() };
    let stats = PresenceStatsResult { num_clients: 2, num_users: 1 };
    vec![
        (
            Reply { id: 9, presence: Some(members), ..Reply::default() },
            r#"{"id":9,"presence":{"presence":{"g.1":{"user":"","client":"g.1"}}}}"#,
            // presence (9) of 14: a map (1): key (1), value (2): client (2)
            "12 08 09 4a 0e 0a 0c 0a 03 67 2e 31 12 05 12 03 67 2e 31",
        ),
        (
            Reply { id: 9, presence: Some(PresenceResult::default()), ..Reply::default() },
            r#"{"id":9,"presence":{"presence":{}}}"#,
            "04 08 09 4a 00",
        ),
        (
            Reply { id: 10, presence_stats: Some(stats), ..Reply::default() },
            r#"{"id":10,"presence_stats":{"num_clients":2,"num_users":1}}"#,
            // presence_stats (10): num_clients (1), num_users (2)
            "08 08 0a 52 04 08 02 10 01",
        ),
        (
            push(Push { join: Some(presence.clone()), ..Push::default() }),
            r#"{"push":{"channel":"c","join":{"info":{"user":"","client":"g.1"}}}}"#,
            // push (4) of 12: channel (2), join (5): info (1)
            "0e 22 0c 12 01 63 2a 07 0a 05 12 03 67 2e 31",
        ),
        (
            push(Push { leave: Some(presence), ..Push::default() }),
            r#"{"push":{"channel":"c","leave":{"info":{"user":"","client":"g.1"}}}}"#,
            // leave is field 6
            "0e 22 0c 12 01 63 32 07 0a 05 12 03 67 2e 31",
        ),
        (
            push(Push { subscribe: Some(subscribed), ..Push::default() }),
            r#"{"push":{"channel":"c","subscribe":{"recoverable":true,"epoch":"e","offset":7,"positioned":true,"data":1}}}"#,
            // push (4) of 17: channel (2), subscribe (9) of 12: recoverable (1), epoch (4), offset (5), positioned (6), data (7)
            "13 22 11 12 01 63 4a 0c 08 01 22 01 65 28 07 30 01 3a 01 31",
        ),
    ]
}

/// Messages that only clients of streams receive.
fn replies_on_streams() -> Vec<(Reply, &'static str, &'static str)> {
    let emulated = ConnectResult {
        client: "g.1".into(),
        session: "s".into(),
        node: "g".into(),
        ..ConnectResult::default()
    };
    vec![
        (
            Reply { id: 1, connect: Some(emulated), ..Reply::default() },
            r#"{"id":1,"connect":{"client":"g.1","version":"","session":"s","node":"g"}}"#,
            // connect (5) of 11: client (1), session (9), node (10)
            "0f 08 01 2a 0b 0a 03 67 2e 31 4a 01 73 52 01 67",
        ),
        (
            Reply::disconnect(codes::SHUTDOWN),
            r#"{"push":{"disconnect":{"code":3001,"reason":"shutdown"}}}"#,
            // push (4) of 15: disconnect (11) of 13: code (1), reason (2)
            "11 22 0f 5a 0d 08 b9 17 12 08 73 68 75 74 64 6f 77 6e",
        ),
    ]
}

fn bytes(hex: &str) -> Bytes {
    hex.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    protobuf::append(&mut frame, message);
    frame.freeze()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn commands_have_these_bytes() {
    for (command, text, binary) in commands().into_iter().chain(presence_commands()) {
        assert_eq!(json::encode(&command).unwrap(), text);
        assert_eq!(hex(&framed(&protobuf::encode(&command))), binary, "{text}");
        assert_eq!(
            json::decode::<Command>(text).map(Result::unwrap).collect::<Vec<_>>(),
            std::slice::from_ref(&command)
        );
        assert_eq!(
            protobuf::decode::<Command>(bytes(binary)).map(Result::unwrap).collect::<Vec<_>>(),
            [command]
        );
    }
}

#[test]
fn replies_have_these_bytes() {
    for (reply, text, binary) in
        replies().into_iter().chain(replies_about_channels()).chain(replies_on_streams())
    {
        assert_eq!(encode_reply(Encoding::Json, &reply).unwrap(), text);
        assert_eq!(hex(&framed(&encode_reply(Encoding::Protobuf, &reply).unwrap())), binary, "{text}");
        assert_eq!(
            json::decode::<Reply>(text).map(Result::unwrap).collect::<Vec<_>>(),
            std::slice::from_ref(&reply)
        );
        assert_eq!(protobuf::decode::<Reply>(bytes(binary)).map(Result::unwrap).collect::<Vec<_>>(), [reply]);
    }
}

#[test]
fn an_emulation_request_has_these_bytes() {
    let request = EmulationRequest { node: "g".into(), session: "s".into(), data: "{}".into() };
    let text = r#"{"node":"g","session":"s","data":"{}"}"#;
    assert_eq!(json::encode(&request).unwrap(), text);
    assert_eq!(serde_json::from_str::<EmulationRequest>(text).unwrap(), request);
    assert_eq!(hex(&protobuf::encode(&request)), "0a 01 67 12 01 73 1a 02 7b 7d");
}

#[test]
fn a_frame_carries_several_messages() {
    let text = commands().iter().map(|(_, text, _)| *text).collect::<Vec<_>>().join("\n");
    let binary: Bytes = commands().iter().flat_map(|(_, _, binary)| bytes(binary)).collect();
    let wanted: Vec<Command> = commands().into_iter().map(|(command, _, _)| command).collect();
    for text in [&text, &format!("{text}\n")] {
        assert_eq!(json::decode::<Command>(text).map(Result::unwrap).collect::<Vec<_>>(), wanted);
    }
    assert_eq!(protobuf::decode::<Command>(binary).map(Result::unwrap).collect::<Vec<_>>(), wanted);
}

#[test]
fn unknown_fields_are_ignored_and_the_first_verb_wins() {
    let text = r#"{"id":1,"flag":7,"rpc":{"method":"m","more":[1]},"publish":{"channel":"c"},"connect":{"flag":1,"headers":{"a":"b"}}}"#;
    let command = json::decode::<Command>(text).next().unwrap().unwrap();
    assert!(matches!(command.verb(), Verb::Connect(_)));
}

#[test]
fn payloads_keep_their_text_but_no_newlines() {
    let text = r#"{"id":1,"rpc":{"method":"m","data":{"b": 1,  "a":1.0}}}"#;
    let Verb::Rpc(rpc) = json::decode::<Command>(text).next().unwrap().unwrap().verb() else {
        panic!("an rpc")
    };
    assert_eq!(rpc.data, r#"{"b": 1,  "a":1.0}"#);
    let pretty = Reply { rpc: Some(RpcResult { data: "{\n\"a\": 1\r\n}".into() }), ..Reply::default() };
    assert_eq!(json::encode(&pretty).unwrap(), r#"{"rpc":{"data":{ "a": 1  }}}"#);
}

#[test]
fn a_payload_that_is_not_json_is_never_written_into_json() {
    for data in [&b"{"[..], b"hello", b"\xff", b"1 2", b"1}{"] {
        let reply = Reply { rpc: Some(RpcResult { data: Bytes::copy_from_slice(data) }), ..Reply::default() };
        assert!(encode_reply(Encoding::Json, &reply).is_err(), "{data:?}");
        let json = json::Payload::from_any(&Bytes::copy_from_slice(data)).into_bytes();
        let reply = Reply { rpc: Some(RpcResult { data: json }), ..Reply::default() };
        assert!(encode_reply(Encoding::Json, &reply).is_ok(), "{data:?}");
    }
}

#[test]
fn every_error_has_a_message_on_the_wire() {
    for code in codes::ERRORS {
        let text = encode_reply(Encoding::Json, &Reply::error(1, code.error())).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert!(!value["error"]["message"].as_str().unwrap().is_empty());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(frame in any::<Vec<u8>>()) {
        for message in protobuf::decode::<Command>(frame.clone().into()).take(100) {
            let _ = message.map(Command::verb);
        }
        if let Ok(text) = std::str::from_utf8(&frame) {
            for message in json::decode::<Command>(text).take(100) {
                let _ = message.map(Command::verb);
            }
        }
    }

    #[test]
    fn both_encodings_carry_the_same_publication(data in "[a-z]{0,9}", user in "\\PC{0,9}", offset in any::<u64>(), tags in proptest::collection::btree_map("[a-z]{1,5}", "\\PC{0,5}", 0..3)) {
        let info = Some(ClientInfo { user, client: "c".into(), conn_info: "{}".into(), chan_info: "1".into() });
        let reply = Reply::publication("c", Publication { data: format!("\"{data}\"").into(), info, offset, tags, delta: false });
        let text = encode_reply(Encoding::Json, &reply).unwrap();
        let binary = framed(&encode_reply(Encoding::Protobuf, &reply).unwrap());
        prop_assert_eq!(&json::decode::<Reply>(std::str::from_utf8(&text).unwrap()).next().unwrap().unwrap(), &reply);
        prop_assert_eq!(protobuf::decode::<Reply>(binary).next().unwrap().unwrap(), reply);
    }

    #[test]
    fn any_bytes_become_json(bytes in any::<Vec<u8>>()) {
        let json = json::Payload::from_any(&bytes.into()).into_bytes();
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
        prop_assert!(!json.contains(&b'\n'));
    }
}
