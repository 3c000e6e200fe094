//! What a session is given: commands, positions, decisions, tokens. Pure.

use std::sync::{Arc, LazyLock};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use tidegate_shared::{
    hook::{Decision, Grant},
    protocol::{
        Command, ConnectRequest, Empty, HistoryRequest, PresenceRequest, PresenceStatsRequest, Publication,
        PublishRequest, RefreshRequest, RpcRequest, SendRequest, SubRefreshRequest, SubscribeRequest,
        UnsubscribeRequest,
        codes::{self, Disconnect},
    },
};

use crate::{
    channels::feed::{Joined, Part},
    policy::Verdict,
    session::Position,
};

/// When a run begins, in seconds since 1970.
pub(super) const START: u64 = 1_800_000_000;

/// Channels of every kind.
pub(super) const CHANNELS: [&str; 20] = [
    "chat:a",
    "chat:b",
    "open:a",
    "kept:a",
    "kept:b",
    "closed:a",
    "shut:a",
    "asked:a",
    "room:a",
    "seen:a",
    "board:a",
    "dialogs:x#42,43",
    "chat:$vip",
    "#42",
    "#43",
    "nowhere:a",
    "",
    "chat:",
    "a",
    "user:42",
];
const METHODS: [&str; 8] =
    ["echo", "orders.7.place", "orders.7.place#k", "echo#k", "tide.status", "tide.cancel", "nothing", ".."];

static TOKENS: LazyLock<Vec<String>> = LazyLock::new(tokens);

fn tokens() -> Vec<String> {
    let claims = [
        serde_json::json!({"sub": "42"}),
        serde_json::json!({"sub": "42", "exp": START + 30, "info": {"name": "Ann"}}),
        serde_json::json!({"sub": "42", "exp": START + 300, "channels": ["chat:a", "kept:a"]}),
        serde_json::json!({"sub": "42", "channels": ["chat:a", "chat:b", "kept:a", "kept:b", "open:a", "open:b", "a"]}),
        serde_json::json!({"sub": "43", "exp": START + 60}),
        serde_json::json!({"sub": "42", "exp": START - 60}),
        serde_json::json!({"sub": "42", "channels": ["#43"]}),
        serde_json::json!({"iss": "https://ids", "sub": "42"}),
        serde_json::json!({"sub": "42", "channel": "closed:a", "exp": START + 20}),
        serde_json::json!({"sub": "42", "channel": "closed:a"}),
        serde_json::json!({"sub": "42", "channel": "chat:$vip", "info": 1, "b64data": "/wA="}),
        serde_json::json!({"sub": "43", "channel": "closed:a"}),
    ];
    let config = crate::fuzzing::backend::deployment(&[]);
    let key = jsonwebtoken::EncodingKey::from_secret(config.auth.hmac_secret.expose().as_bytes());
    let sign =
        |claims| jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).expect("it is signed");
    claims.iter().map(sign).chain(["forged".to_owned(), String::new()]).collect()
}

/// Takes any one of a list.
pub(super) fn pick<T>(list: &mut Vec<T>, input: &mut Unstructured<'_>) -> Result<Option<T>> {
    if list.is_empty() {
        return Ok(None);
    }
    let index = input.choose_index(list.len())?;
    Ok(Some(list.swap_remove(index)))
}

pub(super) fn command(input: &mut Unstructured<'_>) -> Result<Command> {
    let id = u32::from(input.arbitrary::<u8>()?);
    let channel = || (*CHANNELS.first().unwrap_or(&"")).to_owned();
    let none = Command { id, ..Command::default() };
    let named = input.choose(&CHANNELS).map_or_else(|_| channel(), |name| (*name).to_owned());
    let token = input.choose(&TOKENS)?.clone();
    let data = Bytes::from_static(input.choose(&[&b"1"[..], b"{\"id\":\"a.b\"}", b"", b"\"x\""])?);
    Ok(match input.int_in_range(0..=15_u8)? {
        0..=2 => {
            Command { connect: Some(ConnectRequest { token, data, ..ConnectRequest::default() }), ..none }
        }
        3..=5 => {
            let subscribe = SubscribeRequest {
                channel: named,
                token: if input.arbitrary()? { token } else { String::new() },
                recover: input.arbitrary()?,
                epoch: "e".into(),
                offset: u64::from(input.arbitrary::<u8>()?),
                flag: i64::from(input.int_in_range(0..=3_u8)?),
                join_leave: input.arbitrary()?,
                delta: if input.ratio(1, 4)? { "fossil".into() } else { String::new() },
                ..SubscribeRequest::default()
            };
            Command { subscribe: Some(subscribe), ..none }
        }
        6 | 7 => Command { unsubscribe: Some(UnsubscribeRequest { channel: named }), ..none },
        8 => Command { publish: Some(PublishRequest { channel: named, data, kind: 0 }), ..none },
        9 => {
            let method = (*input.choose(&METHODS)?).to_owned();
            Command { rpc: Some(RpcRequest { method, data }), ..none }
        }
        10 => Command { send: Some(SendRequest { data }), ..none },
        11 => Command { refresh: Some(RefreshRequest { token }), ..none },
        12 => Command { sub_refresh: Some(SubRefreshRequest { channel: named, token }), ..none },
        13 => {
            let limit = i32::from(input.arbitrary::<i8>()?);
            let reverse = input.arbitrary()?;
            let history = HistoryRequest { channel: named, limit, reverse, ..HistoryRequest::default() };
            Command { history: Some(history), ..none }
        }
        14 if input.arbitrary()? => Command { presence: Some(PresenceRequest { channel: named }), ..none },
        14 => Command { presence_stats: Some(PresenceStatsRequest { channel: named }), ..none },
        _ if input.arbitrary()? => Command { ping: Some(Empty {}), ..none },
        _ => none,
    })
}

pub(super) fn publication(input: &mut Unstructured<'_>) -> Result<Publication> {
    let data =
        Bytes::copy_from_slice(input.choose(&[&b"1"[..], b"{ \"a\":\n1 }", b"\xff\x00", b"text", b""])?);
    Ok(Publication { data, offset: u64::from(input.arbitrary::<u8>()?), ..Publication::default() })
}

pub(super) fn position(input: &mut Unstructured<'_>) -> Result<Position> {
    let position = u64::from(input.arbitrary::<u8>()?);
    let joined = match input.int_in_range(0..=4_u8)? {
        0 => return Ok(Position::live()),
        1 => Joined::At { position },
        2 => Joined::Resumed { missed: vec![Arc::new(publication(input)?)] },
        3 => {
            let publications = vec![Arc::new(publication(input)?)];
            let part = Part { epoch: "e".into(), after: 0, until: position, publications };
            Joined::Part { position, part: Arc::new(part) }
        }
        _ => Joined::Newest { position, newest: Some(Arc::new(publication(input)?)) },
    };
    Ok(Position { joined, epoch: Some("e".into()) })
}

pub(super) fn verdict(input: &mut Unstructured<'_>) -> Result<Verdict> {
    let seconds = u64::from(input.arbitrary::<u8>()?);
    let expire_at = if seconds == 0 { 0 } else { START + seconds };
    let channels = if input.ratio(1, 4)? { vec![(*input.choose(&CHANNELS)?).to_owned()] } else { Vec::new() };
    let grant = |user: &str, expired| {
        let user = user.to_owned();
        Ok(Decision::Allowed(Box::new(Grant {
            user,
            expire_at,
            expired,
            channels: channels.clone(),
            ..Grant::default()
        })))
    };
    Ok(match input.int_in_range(0..=9_u8)? {
        0..=3 => grant("42", false),
        4 => grant("", false),
        5 => grant("43", false),
        6 => grant("42", true),
        7 => Ok(Decision::Refused(codes::PERMISSION_DENIED.error())),
        8 => Ok(Decision::Disconnect(Disconnect { code: 4501, reason: "go away".into() })),
        _ => Err(codes::INTERNAL.error()),
    })
}
