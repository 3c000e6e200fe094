//! Which address a client has: that of its socket, or what trusted proxies say about it. Pure.
//!
//! Everybody can write an `X-Forwarded-For`. It counts on a socket from a trusted proxy only, and is read from the right: each proxy
//! appends the address it was reached from. The first one from the right that is no trusted proxy is the client's. `Forwarded` is not
//! read: with two headers a client could write the one that its proxy does not.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;

/// The address of a client, for limits and logs. IPv4 inside IPv6 is IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientAddress(IpAddr);

/// The addresses that count as one client: a single one of IPv4, a /64 network of IPv6, of which one customer has them all.
///
/// The bits of either. The networks of IPv6 that would be mistaken for an address of IPv4 are reserved, and nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressGroup(u64);

/// The networks whose word on a client's address counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies(Box<[IpNet]>);

impl ClientAddress {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    pub(crate) fn group(self) -> AddressGroup {
        AddressGroup(match self.0 {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or_default(),
        })
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Proxies {
    pub(crate) fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into())
    }

    /// Whether the address is that of a trusted proxy.
    pub(crate) fn trust(&self, address: ClientAddress) -> bool {
        self.0.iter().any(|network| network.contains(&address.0))
    }

    /// The client's address, from the socket's and from the values of `X-Forwarded-For` in the order of the headers.
    pub(crate) fn client<'a>(
        &self,
        socket: ClientAddress,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> ClientAddress {
        let mut client = socket;
        for hop in forwarded.rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
            if !self.trust(client) {
                break;
            }
            // A hop without an address hides what is left of it: the proxy that wrote it is the last one that is known.
            let Some(address) = address_of(hop) else { break };
            client = address;
        }
        client
    }
}

/// The address of a hop. Some proxies add its port.
fn address_of(hop: &[u8]) -> Option<ClientAddress> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    address.ok().or_else(bracketed).map(ClientAddress::of)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies() -> Proxies {
        Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()])
    }

    fn address(text: &str) -> ClientAddress {
        ClientAddress::of(text.parse().unwrap())
    }

    fn client(socket: &str, headers: &[&str]) -> String {
        proxies().client(address(socket), headers.iter().map(|header| header.as_bytes())).to_string()
    }

    #[test]
    fn the_client_is_the_first_hop_from_the_right_that_is_no_trusted_proxy() {
        for (socket, headers, expected) in [
            ("203.0.113.7", &[][..], "203.0.113.7"),
            ("203.0.113.7", &["198.51.100.1"], "203.0.113.7"),
            ("203.0.113.7", &["10.0.0.1"], "203.0.113.7"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1,198.51.100.1 , 10.9.9.9"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.9.9.9"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("fd00::1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1, _hidden, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1,"], "10.0.0.1"),
            ("10.0.0.1", &["localhost"], "10.0.0.1"),
        ] {
            assert_eq!(client(socket, headers), expected, "{socket}: {headers:?}");
        }
    }

    #[test]
    fn a_customers_network_of_ipv6_counts_as_one() {
        let group = |text| address(text).group();
        assert_eq!(group("2001:db8::1"), group("2001:db8::ffff:0:1"));
        assert_ne!(group("2001:db8::1"), group("2001:db8:0:1::1"));
        assert_ne!(group("198.51.100.1"), group("198.51.100.2"));
        assert_eq!(group("198.51.100.1"), group("::ffff:198.51.100.1"));
    }

    proptest! {
        #[test]
        fn what_a_client_writes_itself_never_becomes_its_address(
            written in proptest::collection::vec("[ -~]{0,20}|10\\.0\\.0\\.[0-9]|9\\.9\\.9\\.9", 0..4),
            direct: bool,
        ) {
            // The client writes headers, and a trusted proxy appends the address from which it was reached.
            let mut headers: Vec<&str> = written.iter().map(String::as_str).collect();
            let socket = if direct { "203.0.113.7" } else { headers.push("203.0.113.7"); "10.0.0.1" };
            prop_assert_eq!(client(socket, &headers), "203.0.113.7");
        }

        #[test]
        fn no_header_is_too_strange(headers in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let headers: Vec<&[u8]> = headers.iter().map(Vec::as_slice).collect();
            let _ = proxies().client(address("10.0.0.1"), headers.into_iter());
        }
    }
}
