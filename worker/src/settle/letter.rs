//! Dead letters that fit: the request itself is kept whole, and what is said about it is cut first.
//!
//! Pure: makes the messages, and stores none.

use std::ops::Range;

use async_nats::HeaderMap;
use bytes::Bytes;
use tidegate_shared::{
    broker::{HEADERS_LIMIT, headers_len},
    envelope::JSON,
    header,
};

/// The fewest bytes of the reason that a dead letter has. Before less is left, headers that can be done without are left out.
const LEAST_REASON: usize = 16;

/// A failed message, and what its dead letter says about it.
#[derive(Debug)]
pub(super) struct Failed {
    /// The message's own headers.
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The dead letter's id, and the beginning of the id of its second part.
    pub(super) id: String,
    /// Attempts that were begun. `None` for a message that is not a request.
    pub(super) attempts: Option<u32>,
    pub(super) reason: String,
}

/// Headers that a dead letter may lack. Each step leaves out those of the steps before it, too.
#[derive(Debug, Clone, Copy)]
enum LeftOut {
    Nothing,
    /// What is known from the rest of the request, and when the request was accepted.
    Known,
    /// Everything that is no part of a request's identity.
    Rest,
}

/// Makes the messages of a dead letter, in the order in which they are stored: one, or two when the failed message alone is
/// about as long as the broker takes. The last one has the beginning of the body, and the reason.
pub(super) fn messages(failed: &Failed, max_payload: usize) -> Vec<(HeaderMap, Bytes)> {
    for left_out in [LeftOut::Nothing, LeftOut::Known, LeftOut::Rest] {
        let headers = headers(failed, left_out);
        if let Some(reason) = room(&headers, failed.body.len(), max_payload, &failed.reason) {
            return vec![(with_reason(headers, &failed.reason, reason), failed.body.clone())];
        }
    }
    in_two_parts(failed, max_payload)
}

fn in_two_parts(failed: &Failed, max_payload: usize) -> Vec<(HeaderMap, Bytes)> {
    let mut first = headers(failed, LeftOut::Rest);
    first.insert(header::DEAD_PART, "1/2");
    let first = with_reason(first, &failed.reason, header::MAX_TEXT);
    let mut second = HeaderMap::new();
    second.insert(header::MSG_ID, format!("{}.2", failed.id));
    second.insert(header::DEAD_PART, "2/2");
    if let Some(id) = failed.headers.get(header::ID) {
        second.insert(header::ID, id.clone());
    }
    let middle = max_payload.saturating_sub(headers_len(&first)).min(failed.body.len());
    let part = |range: Range<usize>| failed.body.slice(range);
    vec![(second, part(middle..failed.body.len())), (first, part(0..middle))]
}

/// The headers without the reason.
fn headers(failed: &Failed, left_out: LeftOut) -> HeaderMap {
    let kept = failed.headers.iter().filter(|(name, values)| {
        let name: &str = name.as_ref();
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let json = is(header::CONTENT_TYPE) && values.iter().all(|value| value.as_str() == JSON);
        match left_out {
            LeftOut::Nothing => true,
            LeftOut::Known => !json && !KNOWN.iter().any(|known| is(known)),
            LeftOut::Rest => !json && (IDENTITY.iter().any(|part| is(part)) || is(header::CONTENT_TYPE)),
        }
    });
    let mut headers: HeaderMap =
        kept.flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone()))).collect();
    headers.insert(header::MSG_ID, failed.id.as_str());
    if let Some(attempts) = failed.attempts {
        headers.insert(header::ATTEMPT, attempts.to_string());
    }
    headers
}

/// The key and the digest follow from the user and the body.
const KNOWN: [&str; 3] = [header::KEY, header::DIGEST, header::ACCEPTED_AT];
/// Without these a dead letter cannot become a request again.
const IDENTITY: [&str; 7] =
    [header::ID, header::USER, header::CLIENT, header::ROUTE, header::METHOD, header::CHANNEL, header::LATER];

/// How many bytes of the reason fit. `None` when they are too few.
fn room(headers: &HeaderMap, body: usize, max_payload: usize, reason: &str) -> Option<usize> {
    let taken = headers_len(headers) + header::DEAD_REASON.len() + ": \r\n".len();
    let room = HEADERS_LIMIT.checked_sub(taken)?.min(max_payload.checked_sub(taken.checked_add(body)?)?);
    (room >= reason.trim().len().min(LEAST_REASON)).then_some(room.min(header::MAX_TEXT))
}

fn with_reason(mut headers: HeaderMap, reason: &str, room: usize) -> HeaderMap {
    headers.insert(header::DEAD_REASON, header::text_within(reason, room));
    headers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_dead_letter_fits_and_loses_no_byte_of_the_request(
            reason in ".{0,40}", times in 1_usize..3000, user in "[a-z]{0,2000}", unknown in 0_usize..62_000, spare in 0_usize..400,
        ) {
            let max_payload = 200_000;
            let mut headers = HeaderMap::new();
            for (name, value) in [(header::ID, "k.1"), (header::CLIENT, "c"), (header::ROUTE, "r"), (header::USER, &user), (header::KEY, &user)] {
                headers.insert(name, value);
            }
            headers.insert("X-Unknown", "x".repeat(unknown));
            let body = Bytes::from(vec![b'7'; max_payload - headers_len(&headers) - spare]);
            let failed = Failed { headers, body: body.clone(), id: "k.1.dead".to_owned(), attempts: Some(u32::MAX), reason: reason.repeat(times) };
            let messages = messages(&failed, max_payload);
            let mut kept = Vec::new();
            for (headers, body) in messages.iter().rev() {
                prop_assert!(headers_len(headers) <= HEADERS_LIMIT);
                prop_assert!(headers_len(headers) + body.len() <= max_payload);
                kept.extend_from_slice(body);
            }
            prop_assert_eq!(kept, body);
            let (headers, _) = messages.last().unwrap();
            prop_assert_eq!(headers.get(header::USER).map(|user| user.as_str().len()), Some(user.len()));
        }
    }
}
