//! Replays files of bytes, handshakes and frames, and checks what the gateway does with each. The table is `frames/outcomes.txt`.
//!
//! Each file is sent in one write, and most of them in single bytes too: a reader must not depend on how bytes arrive.

use std::{collections::BTreeSet, fmt, fs, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tidegate_cli::stack::Stack;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    socket::{Socket, TEXT, frame},
    support::{PATIENCE, connect, eventually, get, nothing_panicked, quick, start, token},
};

/// Times that a busy machine does not need for single bytes. A few files wait for them.
const LIMITS: &str =
    "[gateway.limits]\nhandshake = '5s'\nfirst_frame = '5s'\nmessage = '2 KiB'\ncommands_per_message = 8\n";
/// Longer files are sent in one write only.
const MOST_BYTES_ALONE: usize = 1200;
/// Files that are replayed at a time.
const AT_ONCE: usize = 8;

/// What a file is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Nothing,
    Handshake,
    Connect,
}

/// What the gateway does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// The status of an answer, and the close frame that follows on a WebSocket.
    Status(u16, Option<u16>),
    /// A close frame, with a code or without one.
    Close(Option<u16>),
    /// The end of the socket.
    End,
    /// So many replies, after which the connection goes on.
    GoesOn(usize),
}

struct Case {
    name: String,
    bytes: Vec<u8>,
    behind: Behind,
    /// Each of them is right.
    outcomes: Vec<Outcome>,
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u16>().map_err(|error| format!("{text}: {error}"));
        Ok(match text.split_once(' ') {
            Some(("close", code)) => Self::Close(Some(number(code)?)),
            Some(("replies", count)) => Self::GoesOn(number(count)?.into()),
            None if text == "close" => Self::Close(None),
            None if text == "end" => Self::End,
            None => Self::Status(number(text)?, None),
            Some(_) if text == "goes on" => Self::GoesOn(0),
            Some((status, close)) => {
                let status = status.strip_suffix(',').ok_or(text)?;
                Self::Status(number(status)?, Some(number(close.strip_prefix("close ").ok_or(text)?)?))
            }
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status, None) => write!(f, "{status}"),
            Self::Status(status, Some(code)) => write!(f, "{status}, close {code}"),
            Self::Close(Some(code)) => write!(f, "close {code}"),
            Self::Close(None) => f.write_str("close"),
            Self::End => f.write_str("end"),
            Self::GoesOn(0) => f.write_str("goes on"),
            Self::GoesOn(count) => write!(f, "replies {count}"),
        }
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/frames")
}

fn cases() -> Vec<Case> {
    let table = fs::read_to_string(folder().join("outcomes.txt")).unwrap();
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|row| {
        let [name, sent, outcome, what] = row.split(" | ").collect::<Vec<_>>()[..] else { panic!("{row}") };
        let behind = match sent {
            "request" => Behind::Nothing,
            "frames" => Behind::Handshake,
            "connected" => Behind::Connect,
            other => panic!("{other}: {row}"),
        };
        assert!(!what.is_empty(), "{row}");
        Case {
            name: name.to_owned(),
            bytes: fs::read(folder().join(format!("{name}.bin")))
                .unwrap_or_else(|error| panic!("{name}: {error}")),
            behind,
            outcomes: outcome
                .split(" or ")
                .map(|one| one.parse().unwrap_or_else(|error| panic!("{row}: {error}")))
                .collect(),
        }
    })
    .collect()
}

#[test]
fn every_file_of_bytes_is_in_the_table() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let cases = cases();
    assert_eq!(cases.iter().map(|case| case.name.clone()).collect::<BTreeSet<_>>(), files);
    assert_eq!(cases.len(), files.len(), "each name once");
}

#[tokio::test]
async fn every_file_of_bytes_has_its_outcome_and_harms_nobody_else() {
    let stack = start(quick(LIMITS).gateways(1)).await;
    let (bystander, _events) = connect(&stack, 0, "bystander").await;
    let before = open_connections(&stack).await;
    let cases = cases();
    let replays = cases.iter().flat_map(|case| {
        let alone = case.bytes.len() <= MOST_BYTES_ALONE;
        [Some(false), alone.then_some(true)].into_iter().flatten().map(move |alone| (case, alone))
    });
    let wrong = stream::iter(replays)
        .map(|(case, alone)| {
            let (stack, bystander) = (&stack, &bystander);
            async move {
                let found = replay(stack, case, alone).await;
                let answered = bystander.rpc("nothing", "1").await.unwrap_err();
                assert_eq!(answered.code(), Some(104), "the bystander is answered beside {}", case.name);
                (!case.outcomes.contains(&found)).then(|| {
                    format!("{}: {found} instead of {:?} (single bytes: {alone})", case.name, case.outcomes)
                })
            }
        })
        .buffered(AT_ONCE)
        .filter_map(async |wrong| wrong)
        .collect::<Vec<_>>()
        .await;
    assert!(wrong.is_empty(), "{} files:\n{}", wrong.len(), wrong.join("\n"));
    eventually("all other sockets are closed", || async { open_connections(&stack).await == before }).await;
    assert!(bystander.closed().is_none());
    assert_eq!(get(&stack, "/healthz").await.0, 200, "the gateway lives");
    nothing_panicked(&stack);
}

async fn open_connections(stack: &Stack) -> String {
    let (_, page) = get(stack, "/metrics").await;
    let line = page.lines().find(|line| line.starts_with("tidegate_gateway_connections ")).unwrap();
    line.to_owned()
}

async fn replay(stack: &Stack, case: &Case, alone: bool) -> Outcome {
    let timed = timeout(PATIENCE, async {
        match case.behind {
            Behind::Nothing => request(stack.gateways()[0].public, case, alone).await,
            Behind::Handshake => {
                let socket = Socket::open(stack).await;
                frames(stack, socket, case, alone).await
            }
            Behind::Connect => {
                let socket = Socket::connected(stack).await;
                frames(stack, socket, case, alone).await
            }
        }
    });
    timed.await.unwrap_or_else(|_| panic!("{}: nothing happens (single bytes: {alone})", case.name))
}

/// Writes the file. The gateway may close the socket before it has read everything.
async fn write(tcp: &mut TcpStream, bytes: &[u8], alone: bool) {
    if !alone {
        let _ = tcp.write_all(bytes).await;
        return;
    }
    for byte in bytes {
        if tcp.write_all(&[*byte]).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn request(address: SocketAddr, case: &Case, alone: bool) -> Outcome {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    write(&mut tcp, &case.bytes, alone).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Outcome::End,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let deflate = head.contains("sec-websocket-extensions");
    assert!(!deflate, "{}: no extension is agreed on: {head}", case.name);
    let follows = case.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Status(_, Some(_))));
    if status != 101 || !follows {
        return Outcome::Status(status, None);
    }
    match next(&mut Socket::over(tcp)).await {
        Some((8, payload)) => Outcome::Status(status, code(&payload)),
        _ => Outcome::Status(status, None),
    }
}

async fn frames(stack: &Stack, mut socket: Socket, case: &Case, alone: bool) -> Outcome {
    write(&mut socket.tcp, &case.bytes, alone).await;
    let goes_on = case.outcomes.iter().find_map(|outcome| match outcome {
        Outcome::GoesOn(count) => Some(*count),
        _ => None,
    });
    let expected = goes_on.unwrap_or(usize::MAX);
    let mut replies = 0;
    while replies < expected {
        match next(&mut socket).await {
            None => return Outcome::End,
            Some((8, payload)) => return Outcome::Close(code(&payload)),
            Some((TEXT, payload)) => replies += answers(&payload).len(),
            Some(_) => {}
        }
    }
    // The next command is answered: the connection goes on.
    let command = match case.behind {
        Behind::Connect => r#"{"id":4242,"rpc":{"method":"nothing"}}"#.to_owned(),
        _ => serde_json::json!({"id": 4242, "connect": {"token": token(stack, "42")}}).to_string(),
    };
    write(&mut socket.tcp, &frame(TEXT, command.as_bytes()), false).await;
    loop {
        match next(&mut socket).await {
            None => return Outcome::End,
            Some((8, payload)) => return Outcome::Close(code(&payload)),
            Some((TEXT, payload)) => {
                let answers = answers(&payload);
                if answers.contains(&4242) {
                    return Outcome::GoesOn(replies + answers.len() - 1);
                }
                replies += answers.len();
            }
            Some(_) => {}
        }
    }
}

/// The next frame. `None` at the end of the socket.
async fn next(socket: &mut Socket) -> Option<(u8, Vec<u8>)> {
    socket.frame_or_end(Duration::MAX).await
}

fn code(payload: &[u8]) -> Option<u16> {
    payload.first_chunk().map(|code| u16::from_be_bytes(*code))
}

/// The ids of the replies in a frame.
fn answers(payload: &[u8]) -> Vec<u64> {
    let lines = std::str::from_utf8(payload).unwrap().lines();
    lines.filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64()).collect()
}
