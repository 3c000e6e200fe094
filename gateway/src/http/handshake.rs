//! What a WebSocket handshake has to have (RFC 6455, 4.2.1). Pure.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// The only version of the protocol.
pub(super) const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Why a request is no handshake: the status and a sentence.
pub(super) type Refused = (StatusCode, &'static str);

/// Checks a request's headers.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Refused> {
    let no_handshake = |why| Err((StatusCode::UPGRADE_REQUIRED, why));
    let malformed = |why| Err((StatusCode::BAD_REQUEST, why));
    if !has_token(headers, header::UPGRADE, "websocket") {
        return no_handshake("the header \"Upgrade: websocket\" is missing\n");
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return no_handshake("the header \"Connection: Upgrade\" is missing\n");
    }
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    match (versions.next(), versions.next()) {
        (Some(version), None) if version.as_bytes().trim_ascii() == VERSION.as_bytes() => {}
        (_, None) => return no_handshake("the header \"Sec-WebSocket-Version: 13\" is missing\n"),
        (_, Some(_)) => return malformed("the handshake has one Sec-WebSocket-Version header\n"),
    }
    if !has_key(headers) {
        return malformed("the handshake needs one Sec-WebSocket-Key header: 16 random bytes in base64\n");
    }
    // A proxy and the gateway could disagree about where the frames begin.
    if headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
    {
        return malformed("a handshake has no body\n");
    }
    Ok(())
}

/// Whether a header that is a list of words has this one.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Whether the client speaks this subprotocol.
pub(super) fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let mut offered = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    offered.any(|one| one.trim_ascii() == protocol.as_bytes())
}

/// Whether there is one key of 16 bytes.
fn has_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else { return false };
    // Some clients leave bits behind the last byte, which mean nothing.
    let key = key.as_bytes();
    key.len() == 24
        && key.ends_with(b"==")
        && key.iter().take(22).all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: [(&str, &str); 4] = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    /// The status for a whole handshake with the values of one header replaced, or one header more.
    fn status(name: &'static str, values: &[&'static str]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in WHOLE.iter().filter(|(other, _)| *other != name) {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        for value in values {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        check(&headers).map_or_else(|(status, _)| status.as_u16(), |()| 101)
    }

    #[test]
    fn a_handshake_has_each_header_as_the_standard_has_it() {
        for (name, values, expected) in [
            ("upgrade", &["websocket"][..], 101),
            ("upgrade", &["WebSocket"], 101),
            ("upgrade", &["h2c, websocket"], 101),
            ("upgrade", &[], 426),
            ("upgrade", &[""], 426),
            ("upgrade", &["websockets"], 426),
            ("upgrade", &["websocket/13"], 426),
            ("connection", &["keep-alive, Upgrade"], 101),
            ("connection", &["keep-alive", "upgrade"], 101),
            ("connection", &[], 426),
            ("connection", &["upgraded"], 426),
            ("connection", &["x-upgrade"], 426),
            ("sec-websocket-version", &["13"], 101),
            ("sec-websocket-version", &[" 13 "], 101),
            ("sec-websocket-version", &[], 426),
            ("sec-websocket-version", &["8"], 426),
            ("sec-websocket-version", &["13, 8"], 426),
            ("sec-websocket-version", &["013"], 426),
            ("sec-websocket-version", &["13", "13"], 400),
            ("sec-websocket-version", &["13", "8"], 400),
            ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAB=="], 101),
            ("sec-websocket-key", &[], 400),
            ("sec-websocket-key", &[""], 400),
            ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAAAA"], 400),
            ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAAAA=="], 400),
            ("content-length", &["0"], 101),
            ("content-length", &["5"], 400),
            ("transfer-encoding", &["chunked"], 400),
        ] {
            assert_eq!(status(name, values), expected, "{name}: {values:?}");
        }
    }
}
