//! Tells the service manager (systemd) that this process is ready, that it is alive, and that it ends. Where there is none, nothing is
//! said. And asks a running program whether it lives, for those that have no other way, such as the health check of a container.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use sd_notify::NotifyState;

use crate::lifecycle::Lifecycle;

/// How long the program that is asked may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// An answer is a line or a few.
const LONGEST: u64 = 16 * 1024;

/// The process serves now. From now on the service manager hears in time that its tasks still run (`WatchdogSec`), and when it drains.
/// Must be called within the runtime whose tasks are meant.
pub fn ready(lifecycle: &Lifecycle) {
    say(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        let watched = lifecycle.clone();
        lifecycle.spawn(async move {
            let mut beats = tokio::time::interval(limit / 2);
            loop {
                tokio::select! {
                    _ = beats.tick() => say(&[NotifyState::Watchdog]),
                    () = watched.finishing() => return,
                }
            }
        });
    }
    let ends = lifecycle.clone();
    lifecycle.spawn(async move {
        tokio::select! {
            biased;
            () = ends.draining() => say(&[NotifyState::Stopping]),
            () = ends.finishing() => {}
        }
    });
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told the state");
    }
}

/// Asks the program that listens at this address for `/healthz`. The error says what it answered.
pub fn health_check(address: SocketAddr) -> io::Result<()> {
    let address = SocketAddr::new(local(address.ip()), address.port());
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer);
    Err(io::Error::other(format!("{address} answered {:?}", said.lines().next().unwrap_or_default())))
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

    fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let count = stream.read(&mut head).unwrap();
            assert!(head[..count].starts_with(b"GET /healthz "), "{head:?}");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn a_health_check_succeeds_only_with_a_200() {
        health_check(answering("HTTP/1.1 200 OK\r\n\r\nok\n")).unwrap();
        let error = health_check(answering("HTTP/1.1 500 Internal Server Error\r\n\r\n")).unwrap_err();
        assert!(error.to_string().contains("500"), "{error}");
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(health_check(nobody).is_err());
    }
}
