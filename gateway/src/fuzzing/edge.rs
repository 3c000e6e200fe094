//! What arrives with an HTTP request: the headers of a handshake, origins, queries, first messages and event ids.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use bytes::Bytes;
use tidegate_shared::protocol::{ConnectRequest, lenient};

use super::cut;
use crate::{
    connection::one_way::{event_cursor::EventCursor, event_id},
    http::{admission::host_of, handshake, origin::Origins, query},
};

static ORIGINS: LazyLock<Origins> = LazyLock::new(|| {
    Origins::of(&super::backend::deployment(&[("gateway.origins", r#"["https://app.example.com"]"#)]))
});

/// A first message and an event id, separated by NUL, and then pushes, one a line. A cursor's own id is always read back.
pub(super) fn event_id(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.splitn(3, '\0');
    let first = Bytes::from(parts.next().unwrap_or_default().to_owned());
    let last = parts.next();
    let wishes =
        |first: &Bytes| lenient::from_slice::<ConnectRequest>(first).ok().map(|request| request.subs.len());
    let (resumed, cursor) = EventCursor::open(first.clone(), last);
    let Some(mut cursor) = cursor else {
        assert_eq!(resumed, first, "what is invalid stays as it is");
        return;
    };
    assert!(wishes(&resumed) >= wishes(&first), "no wish is lost");
    for push in parts.next().unwrap_or_default().lines() {
        cursor.follow(push.as_bytes());
        let Some(id) = cursor.id() else { continue };
        assert!(id.len() <= event_id::MAX_LEN, "an id fits into a header: {} bytes", id.len());
        let (_, again) = EventCursor::open(first.clone(), Some(&id));
        let again = again.expect("the first message is valid");
        assert!(again.id().is_none_or(|id| id.len() <= event_id::MAX_LEN));
    }
}

/// Whether this is a way to write `::1`.
fn is_loopback(address: &str) -> bool {
    address.parse().is_ok_and(|address: std::net::Ipv6Addr| address.is_loopback())
}

/// The target and the headers of a request, one a line. Nothing is read in two ways, and no foreign page is let in.
pub(super) fn handshake(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let target = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some((name, value)) = cut(line, b":") else { continue };
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let whole = handshake::check(&headers).is_ok();
    assert!(!whole || headers.get_all("sec-websocket-key").iter().count() == 1, "one key decides");
    if let Ok(uri) = target.parse::<Uri>()
        && let Some(first) = query::first_message(uri.query())
    {
        assert!(first.len() <= target.len(), "decoding never makes it longer");
    }
    for host in headers.get_all("host").iter().filter_map(host_of) {
        assert!(!host.as_str().contains(['@', '/', ' ']), "{host} is a host and nothing else");
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (origin, host) = (text("origin"), text("host"));
    let Some(origin) = origin.filter(|origin| ORIGINS.allow(Some(origin), host)) else { return };
    let page = origin.to_ascii_lowercase();
    let (_, rest) = page.split_once("://").unwrap_or_else(|| unreachable!("{origin} is no origin"));
    // In development pages of this machine may connect from any port.
    let ours = ["app.example.com", "localhost", "127.", "[::1]"].iter().any(|host| rest.starts_with(host))
        || rest.split(':').next().is_some_and(|host| host.trim_end_matches('.').ends_with(".localhost"))
        || rest.strip_prefix('[').and_then(|rest| rest.split(']').next()).is_some_and(is_loopback);
    let same = host.is_some_and(|host| {
        rest.starts_with(host.trim().to_ascii_lowercase().trim_end_matches([':', '0', '4', '3', '8']))
    });
    assert!(ours || same, "{origin} was let in at {host:?}");
    let _ = ORIGINS.advice(origin);
}
