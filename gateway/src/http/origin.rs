//! Which web pages may connect. Pure.
//!
//! Browsers attach cookies and cannot be stopped from opening WebSockets to anywhere, so the gateway compares the page's
//! origin exactly: scheme, host and port, no prefixes or suffixes.

/// The configured origins.
#[derive(Debug, Clone)]
pub(crate) struct Origins {
    any: bool,
    allowed: Vec<String>,
}

impl Origins {
    pub(crate) fn new(configured: &[String]) -> Self {
        let any = configured.iter().any(|origin| origin == "*");
        Self { any, allowed: configured.iter().map(|origin| normal(origin)).collect() }
    }

    /// Whether a request with this `Origin` and `Host` may become a connection. Programs send no origin; pages of the
    /// gateway's own host may always connect.
    pub(crate) fn allow(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        if self.any {
            return true;
        }
        let origin = normal(origin);
        let own = host.is_some_and(|host| {
            let host = host.to_ascii_lowercase();
            origin == normal(&format!("http://{host}")) || origin == normal(&format!("https://{host}"))
        });
        own || self.allowed.contains(&origin)
    }
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
        let origins = Origins::new(&["https://app.example.com".to_owned()]);
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
        let origins = Origins::new(&[]);
        assert!(origins.allow(None, Some("gate:8000")));
        assert!(origins.allow(Some("http://gate:8000"), Some("gate:8000")));
        assert!(!origins.allow(Some("http://gate:8001"), Some("gate:8000")));
    }

    #[test]
    fn a_star_allows_every_origin() {
        assert!(Origins::new(&["*".to_owned()]).allow(Some("http://anywhere"), None));
    }
}
