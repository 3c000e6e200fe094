//! Asks a running program whether it lives, for those who have no other way to ask, such as the health check of a container.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// How long the program that is asked may take, however it answers.
const PATIENCE: Duration = Duration::from_secs(3);
/// The beginning of an answer, with its status.
const STATUS: usize = "HTTP/1.1 200".len();

/// Asks the program that listens at this address for `/healthz`. The error says what it answered.
pub fn health_check(address: SocketAddr) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let address = SocketAddr::new(local(address.ip()), address.port());
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut status = [0; STATUS];
    let mut come = 0;
    while let Some(rest) = status.get_mut(come..).filter(|rest| !rest.is_empty()) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{address} does not answer in time"),
            ));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(rest)? {
            0 => break,
            count => come += count,
        }
    }
    if status == *b"HTTP/1.1 200" {
        return Ok(());
    }
    let said = String::from_utf8_lossy(status.get(..come).unwrap_or_default()).into_owned();
    Err(io::Error::other(format!("{address} answered {said:?} instead of 200")))
}

/// Where a program that listens on every address can be reached on its own machine.
fn local(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Serves one request with these pieces of an answer, each after a pause.
    fn answering(pieces: &'static [&'static str], pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let count = stream.read(&mut head).unwrap();
            assert!(head[..count].starts_with(b"GET /healthz "), "{head:?}");
            for piece in pieces {
                thread::sleep(pause);
                // Whoever asked may be gone.
                let _ = stream.write_all(piece.as_bytes());
            }
        });
        address
    }

    #[test]
    fn a_health_check_succeeds_only_with_a_200() {
        let at_once = Duration::ZERO;
        health_check(answering(&["HTTP/1.1 2", "00 OK\r\n\r\nok\n"], at_once)).unwrap();
        let error =
            health_check(answering(&["HTTP/1.1 503 Service Unavailable\r\n\r\n"], at_once)).unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        assert!(health_check(answering(&["HTTP"], at_once)).is_err(), "it ended within the status");
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(health_check(nobody).is_err());
    }

    #[test]
    fn a_program_that_answers_a_byte_at_a_time_is_not_waited_for() {
        let begun = Instant::now();
        let drip =
            answering(&["H", "T", "T", "P", "/", "1", ".", "1", " ", "2", "0", "0"], Duration::from_secs(1));
        assert!(health_check(drip).is_err());
        assert!(begun.elapsed() < PATIENCE * 2, "{:?}", begun.elapsed());
    }
}
