//! A client of streaming HTTP responses over a bare socket, so that tests see the exact bytes.

use std::{collections::VecDeque, net::SocketAddr};

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_cli::stack::Stack;
use tidegate_shared::protocol::{EmulationRequest, Reply, json as lines, protobuf};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::support::{PATIENCE, http, token};

/// An open streaming response.
pub(crate) struct StreamClient {
    socket: BufReader<TcpStream>,
    pub(crate) status: u16,
    pub(crate) head: String,
    /// The received part of the body that is not consumed yet.
    pub(crate) body: Vec<u8>,
    /// The id of the newest event.
    pub(crate) last_event_id: Option<String>,
    replies: VecDeque<Reply>,
}

impl StreamClient {
    /// Sends a request and reads the head of the response.
    pub(crate) async fn open(address: SocketAddr, request: &[u8]) -> Self {
        let mut socket = BufReader::new(TcpStream::connect(address).await.unwrap());
        socket.write_all(request).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(timeout(PATIENCE, socket.read_line(&mut head)).await.unwrap().unwrap() > 0, "{head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (body, replies) = (Vec::new(), VecDeque::new());
        Self { socket, status, head: head.to_lowercase(), body, last_event_id: None, replies }
    }

    /// Posts a body.
    pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> Self {
        Self::open(address, post(path, "application/json", body.as_bytes()).as_slice()).await
    }

    pub(crate) async fn get(address: SocketAddr, target: &str) -> Self {
        Self::open(address, format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await
    }

    /// Reads one more chunk. Returns false at the end.
    pub(crate) async fn chunk(&mut self) -> bool {
        let mut size = String::new();
        timeout(PATIENCE, self.socket.read_line(&mut size)).await.expect("a chunk").unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let mut chunk = vec![0; size + 2];
        timeout(PATIENCE, self.socket.read_exact(&mut chunk)).await.unwrap().unwrap();
        self.body.extend_from_slice(&chunk[..size]);
        size > 0
    }

    /// Returns the next line that is not empty, without an event's `data:` prefix, or `None` at the end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            while let Some(end) = self.body.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.body.drain(..=end).collect();
                let line = String::from_utf8(line).unwrap();
                let line = line.trim().trim_start_matches("data: ");
                if let Some(id) = line.strip_prefix("id: ") {
                    self.last_event_id = Some(id.to_owned());
                } else if !(line.is_empty() || line.starts_with("retry: ")) {
                    return Some(line.to_owned());
                }
            }
            if !self.chunk().await {
                return None;
            }
        }
    }

    /// Returns the next message other than a ping, or `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await?;
            if line != "{}" {
                return Some(serde_json::from_str(&line).unwrap());
            }
        }
    }

    /// Returns the next protobuf reply.
    pub(crate) async fn reply(&mut self) -> Reply {
        while self.replies.is_empty() {
            assert!(self.chunk().await, "the stream goes on");
            self.replies.extend(protobuf::decode(self.body.split_off(0).into()).map(Result::unwrap));
        }
        self.replies.pop_front().unwrap()
    }

    /// Reads to the end and returns the last message, which contains the reason.
    pub(crate) async fn end(&mut self) -> Value {
        let mut last = Value::Null;
        while let Some(message) = self.message().await {
            last = message;
        }
        last
    }
}

/// Returns the bytes of a POST.
pub(crate) fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Returns the connect command of a user.
pub(crate) fn connect_command(stack: &Stack, user: &str) -> String {
    json!({"id": 1, "connect": {"token": token(stack, user)}}).to_string()
}

/// Encodes a message for a query string.
pub(crate) fn query(message: &str) -> String {
    message.bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).map(char::from).collect()
}

/// A connected two-way client: a stream for replies and pushes, and the session for its commands.
pub(crate) struct Emulated {
    pub(crate) stream: StreamClient,
    pub(crate) node: String,
    pub(crate) session: String,
}

impl Emulated {
    /// Creates the client from the first message of the stream.
    pub(crate) async fn of(mut stream: StreamClient) -> Self {
        assert_eq!(stream.status, 200, "{}", stream.head);
        let reply = stream.message().await.unwrap();
        let connect = &reply["connect"];
        let field = |name: &str| connect[name].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned();
        Self { node: field("node"), session: field("session"), stream }
    }

    /// Connects by POST.
    pub(crate) async fn connect(stack: &Stack, user: &str) -> Self {
        let address = stack.gateways()[0].public;
        let connect = connect_command(stack, user);
        Self::of(StreamClient::post(address, "/connection/http_stream", &connect).await).await
    }

    /// Posts commands to a gateway, which may be another than the client's.
    pub(crate) async fn say(&self, gateway: SocketAddr, commands: &str) -> u16 {
        emulate(gateway, &self.node, &self.session, commands).await.0
    }
}

/// Posts commands for a session. Returns status and body.
pub(crate) async fn emulate(gateway: SocketAddr, node: &str, session: &str, commands: &str) -> (u16, String) {
    let data = Bytes::copy_from_slice(commands.as_bytes());
    let request = EmulationRequest { node: node.to_owned(), session: session.to_owned(), data };
    let body = lines::encode(&request).unwrap();
    once(gateway, "/emulation", "application/json", &body).await
}

/// Posts a body and reads the whole response. Returns status and body.
pub(crate) async fn once(gateway: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
    let request = post(path, &format!("{content_type}\r\nconnection: close"), body);
    http(gateway, &String::from_utf8(request).unwrap()).await
}
