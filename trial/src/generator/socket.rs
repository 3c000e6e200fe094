//! A TCP connection that neither blocks nor waits: what cannot be written yet is kept, what was read is handed on.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::{Domain, Socket, Type};

/// Connections from one client address. One has about 28,000 ports.
const PER_ADDRESS: usize = 4000;
/// The receive buffer of a client that reads slowly: small, so that the server notices.
const SMALL: usize = 4096;
/// What may wait to be written, of one connection. More means that the server does not read.
const MOST_UNSENT: usize = 16 << 20;

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// What was read and is not a whole message.
    pub(super) rest: Vec<u8>,
    unsent: Vec<u8>,
    /// The server has ended its side. That may come with the last bytes and shows once: whoever reads has to read on to the end.
    ended: bool,
}

/// Whether more may be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// So many bytes, and the buffer was full.
    More(usize),
    /// So many bytes, and there was no more.
    All(usize),
    Ended,
}

impl Wire {
    /// Begins to connect, from one of many client addresses.
    pub(super) fn dial(
        to: SocketAddr,
        number: usize,
        small: bool,
        registry: &Registry,
        token: Token,
    ) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        let last = u8::try_from(1 + number / PER_ADDRESS % 250)?;
        if to.ip().is_loopback() {
            let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)), 0);
            socket.bind(&from.into())?;
        }
        socket.set_tcp_nodelay(true)?;
        if small {
            socket.set_recv_buffer_size(SMALL)?;
        }
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error.into());
            }
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, rest: Vec::new(), unsent: Vec::new(), ended: false })
    }

    /// Whether the connection has been established. An error if it could not be.
    pub(super) fn established(&self) -> anyhow::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        Ok(self.stream.peer_addr().is_ok())
    }

    /// Keeps bytes for the next `flush`.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        let mut written = 0;
        while let Some(rest) = self.unsent.get(written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if written == self.unsent.len() {
            // Thousands of connections must not keep their buffers.
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..written);
            anyhow::ensure!(self.unsent.len() <= MOST_UNSENT, "the server does not read");
        }
        Ok(())
    }

    /// Notes that the server has ended its side.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Reads once.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Input {
        loop {
            return match self.stream.read(buffer) {
                Ok(0) => Input::Ended,
                Ok(count) if count == buffer.len() || self.ended => Input::More(count),
                Ok(count) => Input::All(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    Input::All(0)
                }
                Err(_) => Input::Ended,
            };
        }
    }
}

/// Runs `take` on all whole messages of what was kept and what was read, and keeps the rest. `take` returns how many bytes it
/// has used: none, if the first message is not complete.
pub(super) fn messages(
    rest: &mut Vec<u8>,
    read: &[u8],
    mut take: impl FnMut(&[u8]) -> anyhow::Result<usize>,
) -> anyhow::Result<()> {
    let mut kept = std::mem::take(rest);
    // Mostly nothing is kept, and the messages are read where they are.
    let all = if kept.is_empty() {
        read
    } else {
        kept.extend_from_slice(read);
        &kept
    };
    let mut used = 0;
    while let Some(left) = all.get(used..).filter(|left| !left.is_empty()) {
        match take(left)? {
            0 => {
                *rest = left.to_vec();
                return Ok(());
            }
            count => used += count,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_behind_the_last_bytes_is_noticed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut poll = mio::Poll::new().unwrap();
        let mut wire =
            Wire::dial(listener.local_addr().unwrap(), 0, true, poll.registry(), Token(1)).unwrap();
        let mut server = listener.accept().unwrap().0;
        server.write_all(b"last").unwrap();
        drop(server);
        let mut events = mio::Events::with_capacity(8);
        let ended = || {
            poll.poll(&mut events, None).unwrap();
            events.iter().any(mio::event::Event::is_read_closed)
        };
        assert!(std::iter::repeat_with(ended).take(10).any(|ended| ended));
        wire.end();
        let mut buffer = [0; 100];
        assert_eq!(wire.read(&mut buffer), Input::More(4), "there is more to know");
        assert_eq!(wire.read(&mut buffer), Input::Ended);
    }

    #[test]
    fn messages_come_whole_wherever_reads_end() {
        let (mut rest, mut got) = (Vec::new(), Vec::new());
        for read in [&b"ab"[..], b"c;de", b"f;", b";gh"] {
            messages(&mut rest, read, |left| {
                let Some(end) = left.iter().position(|byte| *byte == b';') else { return Ok(0) };
                got.push(String::from_utf8_lossy(&left[..end]).into_owned());
                Ok(end + 1)
            })
            .unwrap();
        }
        assert_eq!((got.join(","), &rest[..]), ("abc,def,".to_owned(), &b"gh"[..]));
    }
}
