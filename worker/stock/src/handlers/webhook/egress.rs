//! Which addresses a webhook may connect to: public ones, and those of the networks that its configuration allows.
//!
//! The check is behind the resolution of the host's name, and the connection goes to the very addresses that were checked.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The networks of private addresses that are allowed.
#[derive(Debug, Clone)]
pub(super) struct Egress(Arc<[IpNet]>);

/// A host has none but refused addresses.
#[derive(Debug, thiserror::Error)]
#[error("{host} is {address}, which is no public address: allow its network with `allow` if it is yours")]
pub(super) struct RefusedAddress {
    host: String,
    address: IpAddr,
}

impl Egress {
    /// Reads networks such as `10.20.0.0/16`. The error names the wrong one.
    pub(super) fn new(networks: &[String]) -> Result<Self, String> {
        let read = |text: &String| {
            text.parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| format!("{text:?} is not a network: write one as \"10.20.0.0/16\""))
        };
        Ok(Self(networks.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// Checks a host that is an address itself, which no resolver sees.
    pub(super) fn check_literal(&self, host: &str) -> Result<(), RefusedAddress> {
        let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() else { return Ok(()) };
        if self.allows(address) { Ok(()) } else { Err(RefusedAddress { host: host.to_owned(), address }) }
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.0.iter().any(|network| network.contains(&address))
    }

    async fn resolve(self, host: String) -> Result<Addrs, Box<dyn std::error::Error + Send + Sync>> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
        let (allowed, refused): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| self.allows(found.ip()));
        match (allowed.is_empty(), refused.first()) {
            (true, Some(refused)) => Err(Box::new(RefusedAddress { host, address: refused.ip() })),
            _ => Ok(Box::new(allowed.into_iter())),
        }
    }
}

impl Resolve for Egress {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(self.clone().resolve(name.as_str().to_owned()))
    }
}

/// Whether an address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        // "This network", shared addresses of providers, IETF assignments, benchmarks, and what is reserved.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !special
}

/// Only `2000::/3` is given out, without the ranges in it that documentation, tunnels and IPv4 addresses have.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    first & 0xe000 == 0x2000
        && first != 0x2002
        && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8))
        && first != 0x3fff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_refused_in_every_notation() {
        let none = Egress::new(&[]).unwrap();
        for refused in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.170",
            "198.18.0.1",
            "203.0.113.5",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            assert!(!none.allows(refused.parse().unwrap()), "{refused}");
        }
        for allowed in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(none.allows(allowed.parse().unwrap()), "{allowed}");
        }
        let some = Egress::new(&["10.20.0.0/16".to_owned(), "::1".to_owned()]).unwrap();
        assert!(
            some.allows("10.20.3.4".parse().unwrap()) && some.allows("::ffff:10.20.3.4".parse().unwrap())
        );
        assert!(some.allows("::1".parse().unwrap()) && !some.allows("10.21.0.1".parse().unwrap()));
        assert!(some.check_literal("10.21.0.1").is_err() && some.check_literal("[fd00::1]").is_err());
        assert!(some.check_literal("shop.example.com").is_ok());
        assert!(Egress::new(&["10.20".to_owned()]).unwrap_err().contains("10.20"));
    }

    #[tokio::test]
    async fn a_name_that_means_this_machine_is_refused_behind_its_resolution() {
        let resolved = Egress::new(&[]).unwrap().resolve("localhost".to_owned()).await;
        let error = resolved.err().unwrap();
        assert!(error.is::<RefusedAddress>(), "{error}");
        let allowed = ["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
        let resolved = Egress::new(&allowed).unwrap().resolve("localhost".to_owned()).await;
        assert!(resolved.unwrap().count() > 0);
    }
}
