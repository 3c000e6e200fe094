//! Ports of this machine: reserves free ones and names the owner of a taken one.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

/// The number of ports below the ephemeral range to choose from.
const POOL: u16 = 12_000;
/// Tries before any free port of the kernel is taken.
const ATTEMPTS: usize = 200;

/// A free loopback port. No other stack draws it until this is dropped, even while its own process is stopped.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    /// The UDP port of the same number marks the reservation: a draw must bind both.
    claim: UdpSocket,
    listener: Option<TcpListener>,
}

impl ReservedPort {
    /// Reserves a port outside the kernel's ephemeral range, so that a restarted process finds its port free even while
    /// thousands of clients connect.
    pub(crate) fn draw() -> io::Result<Self> {
        let end = first_ephemeral().unwrap_or(32_768).max(POOL + 1024);
        for _ in 0..ATTEMPTS {
            if let Ok(reserved) = Self::take(rand::random_range(end - POOL..end)) {
                return Ok(reserved);
            }
        }
        Self::take(0)
    }

    fn take(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let claim = UdpSocket::bind(listener.local_addr()?)?;
        Ok(Self { claim, listener: Some(listener) })
    }

    /// Returns the address.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.claim.local_addr()
    }

    /// Frees the TCP port for the process; the reservation stays.
    pub(crate) fn hand_over(&mut self) {
        self.listener = None;
    }
}

fn first_ephemeral() -> Option<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_whitespace().next()?.parse().ok()
}

/// Describes the owner of a port. Returns `None` if the port is free.
pub(crate) fn busy(address: SocketAddr) -> Option<String> {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Some(owner(address.port()).unwrap_or_else(|| "another process".to_owned()))
        }
        _ => None,
    }
}

/// Finds the process that listens on a port: the socket's inode in the kernel's tables, then the process that has it open.
fn owner(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| inode_of(table, port))?;
    let link = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut open = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        open.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == link.as_str())).then(
            || {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                format!("pid {pid} ({})", name.trim())
            },
        )
    })
}

/// Finds the inode of the socket that listens on `port`, from one of the kernel's tables.
fn inode_of(table: &str, port: u16) -> Option<String> {
    /// `TCP_LISTEN` in the kernel's numbering.
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (local.ends_with(&suffix) && *state == LISTEN).then(|| (*inode).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_handed_over_can_be_listened_on_and_is_not_drawn_again() {
        let mut reserved = ReservedPort::draw().unwrap();
        let address = reserved.address().unwrap();
        reserved.hand_over();
        drop(TcpListener::bind(address).unwrap());
        assert_eq!(ReservedPort::take(address.port()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(reserved);
        ReservedPort::take(address.port()).unwrap();
    }

    #[test]
    fn a_reserved_port_is_busy_until_it_is_dropped() {
        let reserved = ReservedPort::draw().unwrap();
        let address = reserved.address().unwrap();
        let owner = busy(address).unwrap();
        assert!(owner.contains(&std::process::id().to_string()), "{owner}");
        drop(reserved);
        assert_eq!(busy(address), None);
    }
}
