//! `tidegate-trial raw`: the floor. A loop over `send()` that writes the bytes of a delivery to one socket after the other, with no
//! queue and no state of a session. It speaks as much of the Centrifuge protocol as its one kind of client needs.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
};

use anyhow::Context;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use socket2::{Domain, Socket, Type};

use super::frame;

const LISTENER: Token = Token(usize::MAX);
/// Handshakes that may wait.
const BACKLOG: i32 = 4096;
const BUFFER: usize = 1 << 16;
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A client of the loop.
struct Client {
    stream: TcpStream,
    /// What was read and is not a whole message.
    rest: Vec<u8>,
    open: bool,
}

/// Listens on a free port, prints it, and serves until it is killed.
pub(crate) fn run() -> anyhow::Result<()> {
    crate::process::raise_descriptors()?;
    let mut poll = Poll::new()?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(BACKLOG)?;
    let mut listener = TcpListener::from_std(socket.into());
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    let (mut events, mut sockets) = (Events::with_capacity(4096), Vec::<Client>::new());
    let (mut buffer, mut channels) = (vec![0; BUFFER], Channels::new());
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let token = Token(sockets.len());
                    poll.registry().register(&mut stream, token, Interest::READABLE)?;
                    sockets.push(Client { stream, rest: Vec::new(), open: false });
                }
                continue;
            }
            for (channel, frame) in read(&mut sockets, event.token().0, &mut buffer, &mut channels) {
                for at in channels.get(&channel).into_iter().flatten() {
                    if let Some(socket) = sockets.get_mut(*at) {
                        send(&mut socket.stream, &frame);
                    }
                }
            }
        }
    }
}

/// The subscribers of each channel.
type Channels = HashMap<String, Vec<usize>>;

/// What a command asks for.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    Nothing,
    Subscribe(String),
    /// These bytes to all of a channel.
    Publish(String, Vec<u8>),
}

/// Reads commands, answers them, and returns the frames to send to the subscribers of channels.
fn read(
    sockets: &mut [Client],
    at: usize,
    buffer: &mut [u8],
    channels: &mut Channels,
) -> Vec<(String, Vec<u8>)> {
    let mut publications = Vec::new();
    let Some(socket) = sockets.get_mut(at) else { return publications };
    while let Ok(count @ 1..) = socket.stream.read(buffer) {
        socket.rest.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    if !socket.open {
        if !socket.rest.ends_with(b"\r\n\r\n") {
            return publications;
        }
        socket.rest.clear();
        socket.open = true;
        send(&mut socket.stream, UPGRADED);
    }
    let (mut used, mut answers) = (0, Vec::new());
    while let Some((body, length)) =
        socket.rest.get(used..).filter(|rest| !rest.is_empty()).and_then(frame::first_of_client)
    {
        if let Some((answer, effect)) = command(body) {
            frame::server_text(answer.as_bytes(), &mut answers);
            match effect {
                Effect::Nothing => {}
                Effect::Subscribe(channel) => channels.entry(channel).or_default().push(at),
                Effect::Publish(channel, frame) => publications.push((channel, frame)),
            }
        }
        used += length;
    }
    socket.rest.drain(..used);
    send(&mut socket.stream, &answers);
    publications
}

/// Returns the answer to a command, and its effect.
fn command(text: &[u8]) -> Option<(String, Effect)> {
    let text = str::from_utf8(text).ok()?;
    let id = text.strip_prefix(r#"{"id":"#)?.split(',').next()?;
    if text.contains(r#","connect":"#) {
        return Some((format!(r#"{{"id":{id},"connect":{{"client":"raw"}}}}"#), Effect::Nothing));
    }
    let channel = text.split_once(r#""channel":""#)?.1.split('"').next()?.to_owned();
    if text.contains(r#","subscribe":"#) {
        return Some((format!(r#"{{"id":{id},"subscribe":{{}}}}"#), Effect::Subscribe(channel)));
    }
    let data = text.split_once(r#""data":"#)?.1.strip_suffix("}}")?;
    let mut bytes = Vec::new();
    let push = format!(r#"{{"push":{{"channel":"{channel}","pub":{{"data":{data}}}}}}}"#);
    frame::server_text(push.as_bytes(), &mut bytes);
    Some((format!(r#"{{"id":{id},"publish":{{}}}}"#), Effect::Publish(channel, bytes)))
}

/// Writes all bytes, and waits for room if it must.
fn send(stream: &mut TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => return,
        }
    }
}

/// Reads the address that the process prints.
pub(crate) fn address(line: &str) -> anyhow::Result<SocketAddr> {
    line.trim().parse().context("the raw loop prints no address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_becomes_the_push_that_a_gateway_writes() {
        let text = br#"{"id":7,"publish":{"channel":"bench:c0","data":{"m":1}}}"#;
        let (answer, effect) = command(text).unwrap();
        assert_eq!(answer, r#"{"id":7,"publish":{}}"#);
        let Effect::Publish(channel, bytes) = effect else { panic!("{effect:?}") };
        assert_eq!(channel, "bench:c0");
        let frame = frame::first(&bytes).unwrap().unwrap();
        assert_eq!(frame.body, br#"{"push":{"channel":"bench:c0","pub":{"data":{"m":1}}}}"#);
        let (_, effect) = command(br#"{"id":2,"subscribe":{"channel":"c"}}"#).unwrap();
        assert_eq!(effect, Effect::Subscribe("c".to_owned()));
    }
}
