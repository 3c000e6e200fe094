//! Which web pages may connect. Pure.
//!
//! Browsers attach cookies and cannot be stopped from opening WebSockets to anywhere, so the gateway compares the page's
//! origin exactly: scheme, host and port, no prefixes or suffixes.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use parking_lot::Mutex;
use tidegate_shared::config::{Config, Environment};

/// Refused origins that are logged. A client chooses its origin, so both their number and their length are bounded.
const LOGGED: usize = 64;
/// The longest logged origin in bytes; the longest host name has 253.
const LOGGED_LENGTH: usize = 300;

/// The configured origins.
#[derive(Debug)]
pub(crate) struct Origins {
    any: bool,
    /// Whether pages from this machine may connect on any port: the dev servers of web pages choose one each.
    loopback: bool,
    allowed: Vec<String>,
    /// The refused origins that were logged.
    logged: Mutex<BTreeSet<String>>,
}

impl Origins {
    /// The origins of a configuration. In development pages from this machine may connect too.
    pub(crate) fn of(config: &Config) -> Self {
        Self::new(&config.gateway.origins, config.env == Environment::Development)
    }

    fn new(configured: &[String], loopback: bool) -> Self {
        let any = configured.iter().any(|origin| origin == "*");
        let allowed = configured.iter().map(|origin| normal(origin)).collect();
        Self { any, loopback, allowed, logged: Mutex::default() }
    }

    /// Whether a request with this `Origin` and `Host` may become a connection. Programs send no origin; pages of the
    /// gateway's own host may always connect.
    pub(crate) fn allow(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let origin = normal(origin);
        if self.any || (self.loopback && is_loopback(&origin)) {
            return true;
        }
        // Without a host an origin is nobody's own.
        let own = host.filter(|_| origin.contains("://")).is_some_and(|host| {
            let host = host.to_ascii_lowercase();
            origin == normal(&format!("http://{host}")) || origin == normal(&format!("https://{host}"))
        });
        own || self.allowed.contains(&origin)
    }

    /// What the log says about a refused origin: `Some` the first time, for a bounded number of origins.
    pub(crate) fn advice(&self, origin: &str) -> Option<String> {
        let origin = normal(origin);
        let mut logged = self.logged.lock();
        let known = origin.len() > LOGGED_LENGTH || logged.len() >= LOGGED || !logged.insert(origin.clone());
        if known {
            return None;
        }
        let last = if logged.len() == LOGGED { "; no further origin is logged" } else { "" };
        let all: Vec<_> = self.allowed.iter().chain([&origin]).map(|origin| format!("{origin:?}")).collect();
        let all = all.join(", ");
        Some(format!("to let its pages connect, set gateway.origins = [{all}] and restart the gateway{last}"))
    }
}

/// Whether a page of this origin was loaded from this machine. `origin` is normal.
fn is_loopback(origin: &str) -> bool {
    let Some((_, authority)) =
        origin.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))
    else {
        return false;
    };
    let end =
        if authority.starts_with('[') { authority.find(']').map(|end| end + 1) } else { authority.find(':') };
    let (host, port) = authority.split_at(end.unwrap_or(authority.len()));
    let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = host.strip_suffix('.').unwrap_or(host);
    // Browsers take every name below localhost for this machine (RFC 6761).
    let here = name == "localhost"
        || name.ends_with(".localhost")
        || host.parse().is_ok_and(|host: Ipv4Addr| host.is_loopback())
        || ipv6.is_some_and(|host| host.parse() == Ok(Ipv6Addr::LOCALHOST));
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    here && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Lower case, without a trailing slash and without the port the scheme implies.
fn normal(origin: &str) -> String {
    let origin = origin.trim().trim_end_matches('/').to_ascii_lowercase();
    let implied = if origin.starts_with("https://") { ":443" } else { ":80" };
    origin.strip_suffix(implied).map(str::to_owned).unwrap_or(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_origins_may_connect() {
        let origins = Origins::new(&["https://app.example.com".to_owned()], false);
        assert!(origins.allow(Some("https://app.example.com"), None));
        assert!(origins.allow(Some("https://APP.example.com:443"), None));
        for foreign in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.net",
            "https://evil.net/https://app.example.com",
            "null",
            "",
        ] {
            assert!(!origins.allow(Some(foreign), Some("gate.example.com")), "{foreign:?}");
        }
    }

    #[test]
    fn programs_and_the_gateways_own_pages_may_connect() {
        let origins = Origins::new(&[], false);
        assert!(origins.allow(None, Some("gate:8000")));
        assert!(origins.allow(Some("http://gate:8000"), Some("gate:8000")));
        assert!(!origins.allow(Some("http://gate:8001"), Some("gate:8000")));
        for (origin, host) in [("https:/", ""), ("http://", " "), ("http:", "/")] {
            assert!(!origins.allow(Some(origin), Some(host)), "{origin:?} at {host:?}");
        }
    }

    #[test]
    fn a_star_allows_every_origin() {
        assert!(Origins::new(&["*".to_owned()], false).allow(Some("http://anywhere"), None));
    }

    #[test]
    fn in_development_pages_of_this_machine_may_connect_from_any_port() {
        let (development, production) = (Origins::new(&[], true), Origins::new(&[], false));
        for here in [
            "http://localhost:5173",
            "https://LocalHost:8443",
            "http://localhost",
            "http://127.0.0.1:3000",
            "http://[::1]:3000",
            "https://[::1]",
            "http://app.localhost:3000",
            "http://localhost.:3000",
            "http://127.0.0.2:3000",
        ] {
            assert!(development.allow(Some(here), Some("127.0.0.1:8000")), "{here}");
            assert!(!production.allow(Some(here), Some("127.0.0.1:8000")), "{here}");
        }
        for foreign in [
            "http://localhost.evil.net",
            "http://evillocalhost:80",
            "http://.evil.net",
            "http://128.0.0.1",
            "http://localhost:80@evil.net",
            "http://127.0.0.1.evil.net",
            "http://evil.net:127",
            "http://[::1].evil.net",
            "http://[::2]:3000",
            "http://localhost:",
            "http://localhost:99999",
            "ftp://localhost:21",
            "localhost:3000",
            "null",
            "",
        ] {
            assert!(!development.allow(Some(foreign), Some("127.0.0.1:8000")), "{foreign:?}");
        }
    }

    #[test]
    fn a_refused_origin_is_logged_once_with_what_to_write_and_at_most_64_are() {
        let origins = Origins::new(&["https://app.example.com".to_owned()], false);
        let advice = origins.advice("http://Shop.example.com").unwrap();
        let line = r#"gateway.origins = ["https://app.example.com", "http://shop.example.com"]"#;
        assert!(advice.contains(line), "{advice}");
        assert_eq!(origins.advice("http://shop.example.com"), None);
        assert_eq!(origins.advice(&format!("http://{}", "a".repeat(4096))), None);
        let logged: Vec<_> =
            (0..1000).filter_map(|n| origins.advice(&format!("http://{n}.example.com"))).collect();
        assert_eq!(logged.len(), 63);
        assert!(logged.last().unwrap().contains("no further origin is logged"));
    }
}
