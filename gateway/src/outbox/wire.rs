//! A TCP socket that several tasks may write to, one at a time: whoever holds the outbox's lock. Only the connection's own
//! task reads from it and waits for it.
//!
//! Buffers belong to threads, not to sockets: an idle socket has none.

use std::{
    cell::RefCell,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::{io::Interest, net::TcpStream};

use super::flusher::Flusher;

/// The most bytes that one read takes.
const READ: usize = 16 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// A socket, and who writes what a fan-out queues for it.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    flusher: Arc<Flusher>,
}

/// How far a write came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// This many bytes. With less than all of them, the socket takes no more for now.
    Bytes(usize),
    /// The client is gone.
    Broken,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, flusher: Arc<Flusher>) -> Self {
        Self { stream, flusher }
    }

    pub(super) fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    /// Writes what the socket takes at once.
    pub(super) fn write(&self, bytes: &[u8]) -> Written {
        match self.stream.try_write(bytes) {
            Ok(count) => Written::Bytes(count),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Written::Bytes(0)
            }
            Err(_) => Written::Broken,
        }
    }

    /// Completes when the socket may take more. An error shows in the next write.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_write_ready(cx).map(|_| ())
    }

    /// Appends what has arrived. Returns how many bytes: with none, the client has closed its side.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let read = READ_BUFFER.with_borrow_mut(|buffer| self.read(buffer, into));
            match read {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                read => return Poll::Ready(read),
            }
        }
    }

    fn read(&self, buffer: &mut [u8], into: &mut BytesMut) -> io::Result<usize> {
        let mut read = None;
        let tried = self.stream.try_io(Interest::READABLE, || {
            let count = rustix::io::read(&self.stream, &mut *buffer)?;
            read = Some(count);
            // A read that does not fill the buffer has emptied the socket. To say so spares the read that would find out.
            if count > 0 && count < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        let Some(count) = read else { return tried.map(|()| 0) };
        into.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Ends the gateway's side of the connection.
    pub(crate) fn shut_down(&self) {
        // Best effort: the client may be gone.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
    }
}
