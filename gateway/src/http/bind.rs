//! The sockets on which the gateway listens, with settings that accepted ones inherit.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Sockets whose handshakes wait to be accepted. The kernel may allow fewer (net.core.somaxconn).
const BACKLOG: u32 = 4096;
/// What the kernel takes for a client beyond what is on its way. Without this bound it takes megabytes for one that does not read:
/// then the outbox bounds neither the memory of slow clients nor how old what they read is.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// As [`TcpListener::bind`], whose backlog of 128 is too short: the handshakes of a storm that do not fit are sent again by the clients
/// a second later, or two.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncWriteExt, time::timeout};

    use super::*;

    #[tokio::test]
    async fn the_kernel_takes_little_for_a_client_that_does_not_read() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let (client, accepted) =
            tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
        let (_client, mut accepted) = (client.unwrap(), accepted.unwrap().0);
        let mut taken = 0;
        while let Ok(written) = timeout(Duration::from_millis(200), accepted.write(&[0; 4096])).await {
            taken += written.unwrap();
            assert!(taken < 512 * 1024, "the kernel takes more and more");
        }
        assert!(taken >= 4096);
    }
}
