//! A TCP socket with a WebSocket handshake on it, for tests that decide which bytes go into one write, or that do not read.

use std::time::Duration;

use serde_json::Value;
use tidegate_cli::stack::Stack;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{PATIENCE, token};

pub(crate) const TEXT: u8 = 1;
pub(crate) const PING: u8 = 9;

/// A WebSocket whose frames the test writes itself.
pub(crate) struct Socket {
    pub(crate) tcp: TcpStream,
    unread: Vec<u8>,
}

/// One masked frame. The mask is zero, so the payload stands as it is.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ ..126), _) => frame.push(0x80 | len),
        (_, Ok(len)) => {
            frame.push(0x80 | 0x7e);
            frame.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 0x7f);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

impl Socket {
    /// Opens a WebSocket. Sends no connect command.
    pub(crate) async fn open(stack: &Stack) -> Self {
        Self::open_with(stack, "").await
    }

    /// As [`Self::open`], with further headers, each with its line end.
    pub(crate) async fn open_with(stack: &Stack, headers: &str) -> Self {
        let tcp = TcpStream::connect(stack.gateways()[0].public).await.unwrap();
        Self::shake_hands(tcp, headers).await
    }

    /// As [`Self::open`], for which the kernel keeps little: what the test does not read waits in the gateway.
    pub(crate) async fn open_narrow(stack: &Stack) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        Self::shake_hands(socket.connect(stack.gateways()[0].public).await.unwrap(), "").await
    }

    async fn shake_hands(mut tcp: TcpStream, headers: &str) -> Self {
        let host = tcp.peer_addr().unwrap();
        tcp.set_nodelay(true).unwrap();
        let request = format!(
            "GET /connection/websocket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, tcp.read_u8()).await.unwrap().unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Self { tcp, unread: Vec::new() }
    }

    /// Opens a WebSocket and connects as user 42.
    pub(crate) async fn connected(stack: &Stack) -> Self {
        Self::connected_as(stack, "42").await
    }

    /// Opens a WebSocket and connects as this user.
    pub(crate) async fn connected_as(stack: &Stack, user: &str) -> Self {
        Self::open(stack).await.connect(stack, user).await
    }

    /// Connects as this user.
    pub(crate) async fn connect(self, stack: &Stack, user: &str) -> Self {
        let mut socket = self;
        let connect = serde_json::json!({"id": 1, "connect": {"token": token(stack, user)}}).to_string();
        socket.write(&frame(TEXT, connect.as_bytes())).await;
        let reply = &socket.replies(1).await[0];
        assert!(reply.get("connect").is_some(), "{reply}");
        socket
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.tcp.write_all(bytes)).await.unwrap().unwrap();
    }

    /// Reads until `count` replies with an id are there. Pushes and pings are skipped.
    pub(crate) async fn replies(&mut self, count: usize) -> Vec<Value> {
        let mut replies = Vec::new();
        while replies.len() < count {
            let (opcode, payload) = self.frame(PATIENCE).await;
            assert!(
                opcode != 8,
                "closed after {} replies: {}",
                replies.len(),
                String::from_utf8_lossy(&payload)
            );
            if opcode == TEXT {
                let lines = std::str::from_utf8(&payload).unwrap().lines();
                let values = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
                replies.extend(values.filter(|reply| reply.get("id").is_some()));
            }
        }
        replies
    }

    /// A WebSocket whose handshake the test has made.
    pub(crate) fn over(tcp: TcpStream) -> Self {
        Self { tcp, unread: Vec::new() }
    }

    /// The next frame of the gateway: its opcode and its payload.
    pub(crate) async fn frame(&mut self, patience: Duration) -> (u8, Vec<u8>) {
        self.frame_or_end(patience).await.expect("the socket ended")
    }

    /// The next frame of the gateway. `None` at the end of the socket.
    pub(crate) async fn frame_or_end(&mut self, patience: Duration) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((frame, len)) = parse(&self.unread) {
                self.unread.drain(..len);
                return Some(frame);
            }
            let read = timeout(patience, self.tcp.read_buf(&mut self.unread)).await.expect("a frame in time");
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }
}

/// The first frame in these bytes, and how many of them it has. `None` if it is not whole.
pub(crate) fn parse(bytes: &[u8]) -> Option<((u8, Vec<u8>), usize)> {
    let (opcode, short) = (bytes.first()? & 0x0f, bytes.get(1)? & 0x7f);
    let (head, len) = match short {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        len => (2, u64::from(len)),
    };
    let end = head + usize::try_from(len).ok()?;
    Some(((opcode, bytes.get(head..end)?.to_vec()), end))
}
