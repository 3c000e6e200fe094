//! How large a message is on the wire, and the broker's two limits for it.

use async_nats::HeaderMap;

use super::Refusal;

/// The most bytes of headers that a stream takes with one message. The broker has no setting for it.
pub const HEADERS_LIMIT: usize = 65_535;

/// Returns how many bytes these headers have on the wire. A message without headers has none.
pub fn headers_len(headers: &HeaderMap) -> usize {
    if headers.is_empty() {
        return 0;
    }
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(|value| name.len() + ": ".len() + value.as_str().len() + "\r\n".len())
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

/// Checks both limits: the headers alone, and the whole message against the broker's `max_payload`.
pub(super) fn check(headers: usize, body: usize, max_payload: usize) -> Result<(), Refusal> {
    if headers > HEADERS_LIMIT {
        return Err(Refusal::TooLarge { what: "the header block", bytes: headers, limit: HEADERS_LIMIT });
    }
    let bytes = headers.saturating_add(body);
    if bytes > max_payload {
        let what = "the message with its headers";
        return Err(Refusal::TooLarge { what, bytes, limit: max_payload });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_are_exact() {
        assert_eq!(check(HEADERS_LIMIT, 10, HEADERS_LIMIT + 10), Ok(()));
        let refused = check(HEADERS_LIMIT, 11, HEADERS_LIMIT + 10).unwrap_err().to_string();
        assert_eq!(
            refused,
            "the message with its headers is too large: 65546 bytes, and the broker takes at most 65545"
        );
        let refused = check(HEADERS_LIMIT + 1, 0, usize::MAX).unwrap_err().to_string();
        assert_eq!(refused, "the header block is too large: 65536 bytes, and the broker takes at most 65535");
    }

    #[test]
    fn the_length_of_headers_is_that_of_their_lines() {
        let mut headers = HeaderMap::new();
        assert_eq!(headers_len(&headers), 0);
        headers.append("A", "1");
        headers.append("A", "22");
        assert_eq!(headers_len(&headers), "NATS/1.0\r\nA: 1\r\nA: 22\r\n\r\n".len());
    }
}
