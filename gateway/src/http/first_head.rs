//! Waits for the head of a socket's first request. The bytes stay in the kernel meanwhile: the HTTP library, and its buffers, begin
//! when there is something to answer. Answers nothing itself.

use std::io::{self, ErrorKind};

use rustix::net::{RecvFlags, recv};
use tokio::{io::Interest, net::TcpStream};

/// Of a longer head the library reads the rest as it comes.
const MOST: usize = 4096;
/// Of a head with more headers too.
const MOST_HEADERS: usize = 64;

/// Completes when the head has come, or something that is none, or the end.
pub(super) async fn arrived(stream: &TcpStream) -> io::Result<()> {
    loop {
        // A socket that was just accepted counts as readable until somebody has looked.
        if stream.ready(Interest::READABLE).await?.is_read_closed() {
            return Ok(());
        }
        match stream.try_io(Interest::READABLE, || look(stream)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            looked => return looked,
        }
    }
}

/// `WouldBlock` while more of the head has to come.
fn look(stream: &TcpStream) -> io::Result<()> {
    let mut head = [0; MOST];
    let (count, _) = recv(stream, &mut head, RecvFlags::PEEK)?;
    let come = head.get(..count).unwrap_or_default();
    if is_begun(come) { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

/// Whether these bytes are the beginning of a head, and not all of it.
fn is_begun(bytes: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let read = httparse::Request::new(&mut headers).parse(bytes);
    !bytes.is_empty() && bytes.len() < MOST && matches!(read, Ok(httparse::Status::Partial))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn it_waits_for_the_last_byte_of_a_head_and_takes_none() {
        let (mut client, mut server) = pair().await;
        let head = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let (last, before) = head.split_last().unwrap();
        for byte in before {
            client.write_all(&[*byte]).await.unwrap();
            assert!(timeout(Duration::from_millis(5), arrived(&server)).await.is_err());
        }
        client.write_all(&[*last]).await.unwrap();
        timeout(PATIENCE, arrived(&server)).await.expect("the head has come").unwrap();
        let mut read = vec![0; head.len()];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, head);
    }

    #[tokio::test]
    async fn a_socket_that_ends_within_a_head_is_not_waited_for() {
        for begun in [&b""[..], b"GET / HT"] {
            let (mut client, server) = pair().await;
            client.write_all(begun).await.unwrap();
            client.shutdown().await.unwrap();
            timeout(PATIENCE, arrived(&server)).await.expect("the end has come").unwrap();
        }
    }

    #[test]
    fn only_the_beginning_of_a_head_is_waited_on() {
        for begun in ["G", "GET", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nx: y\r\n"] {
            assert!(is_begun(begun.as_bytes()), "{begun}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(MOST_HEADERS + 1));
        let long = format!("GET /{}", "x".repeat(MOST));
        for other in [
            "",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\n\n",
            "\x16\x03\x01",
            "GET / HTTP/3\r\n",
            &many,
            &long,
        ] {
            assert!(!is_begun(other.as_bytes()), "{other:?}");
        }
    }
}
