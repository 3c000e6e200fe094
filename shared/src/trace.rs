//! W3C trace context: the trace that a request belongs to, from the client to the answer.
//!
//! Pure: parses and writes the headers `traceparent` and `tracestate`. Values that are not well formed are no trace: a client may
//! write anything into them. Nothing here records or exports spans, so the caller's span stays the parent all the way.

use std::{fmt, sync::Arc};

use async_nats::HeaderMap;

use crate::header;

/// The longest `tracestate` that is passed on, in bytes.
const MAX_STATE: usize = 512;
/// The most members of a `tracestate`.
const MAX_MEMBERS: usize = 32;
/// The flags that are passed on: sampled, and random.
const FLAGS: u8 = 0b11;
/// The length of a `traceparent` of version 00.
const PARENT_LEN: usize = 55;

/// The id of a trace: 32 hexadecimal digits, never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The trace that a request belongs to, and the span of its caller. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace(Arc<Values>);

#[derive(Debug, PartialEq, Eq)]
struct Values {
    id: TraceId,
    span: u64,
    flags: u8,
    state: Option<Box<str>>,
}

impl Trace {
    /// Begins a trace that nobody has asked to record.
    pub fn random() -> Self {
        // Neither may be zero.
        let (id, span) = (TraceId(rand::random::<u128>() | 1), rand::random::<u64>() | 1);
        Self(Arc::new(Values { id, span, flags: 0, state: None }))
    }

    /// Reads the two values of a caller. `None` if `traceparent` is not well formed. A `tracestate` that is not is left out.
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let version = hex(parent.get(..2)?)?;
        let rest = parent.get(PARENT_LEN..)?;
        let well_ended =
            if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        let dashes = [2, 35, 52].iter().all(|at| parent.as_bytes().get(*at) == Some(&b'-'));
        if version == 0xff || !well_ended || !dashes {
            return None;
        }
        let id = hex(parent.get(3..35)?).filter(|id| *id != 0)?;
        let span = hex(parent.get(36..52)?).filter(|span| *span != 0)?;
        let flags = hex(parent.get(53..PARENT_LEN)?)?;
        Some(Self(Arc::new(Values {
            id: TraceId(id),
            span: u64::try_from(span).ok()?,
            flags: u8::try_from(flags).ok()? & FLAGS,
            state: state.map(str::trim).filter(|state| is_state(state)).map(Into::into),
        })))
    }

    /// Reads the headers of a message. `None` without a well-formed trace.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let value = |name: &str| headers.get(name).map(async_nats::HeaderValue::as_str);
        Self::parse(value(header::TRACE_PARENT)?, value(header::TRACE_STATE))
    }

    /// Adds the trace to the headers of a message.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(header::TRACE_PARENT, self.parent());
        if let Some(state) = &self.0.state {
            headers.insert(header::TRACE_STATE, &**state);
        }
    }

    /// The trace's id, the same in every log line and message of a request.
    pub fn id(&self) -> TraceId {
        self.0.id
    }

    /// The value of `traceparent`.
    pub fn parent(&self) -> String {
        format!("00-{}-{:016x}-{:02x}", self.0.id, self.0.span, self.0.flags)
    }

    /// The value of `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.0.state.as_deref()
    }
}

/// Reads hexadecimal digits. Capital ones are not allowed.
fn hex(digits: &str) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    digits.bytes().all(lower).then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

fn is_state(state: &str) -> bool {
    let members = || state.split(',').map(str::trim);
    (1..=MAX_STATE).contains(&state.len())
        && members().count() <= MAX_MEMBERS
        && members().all(|member| {
            let Some((key, value)) = member.split_once('=') else { return false };
            let key_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
            let value_byte = |b: u8| matches!(b, b' '..=b'~') && b != b'=';
            !key.is_empty() && key.bytes().all(key_byte) && !value.is_empty() && value.bytes().all(value_byte)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    proptest! {
        #[test]
        fn a_trace_survives_the_journey(id in 1..u128::MAX, span in 1..u64::MAX, flags in 0..=FLAGS, state in proptest::option::of("[a-z][a-z0-9]{0,8}=[!-+\\--<>-~]{1,20}(,v@e=[0-9]{1,9}){0,3}")) {
            let trace = Trace(Arc::new(Values { id: TraceId(id), span, flags, state: state.map(Into::into) }));
            let mut headers = HeaderMap::new();
            trace.write(&mut headers);
            prop_assert_eq!(Trace::read(&headers), Some(trace));
        }

        #[test]
        fn whatever_a_client_writes_becomes_a_well_formed_trace_or_none(parent in "\\PC{0,70}|[0-9a-fF\\-]{50,60}", state in any::<String>()) {
            if let Some(trace) = Trace::parse(&parent, Some(&state)) {
                prop_assert_eq!(Trace::parse(&trace.parent(), trace.state()), Some(trace.clone()));
                prop_assert!(trace.parent().len() == PARENT_LEN && trace.state().is_none_or(is_state));
            }
        }
    }

    #[test]
    fn what_is_not_well_formed_is_no_trace() {
        assert_eq!(Trace::parse(PARENT, None).unwrap().parent(), PARENT);
        let longer = PARENT.replacen("00", "cc", 1) + "-what-comes-later";
        assert_eq!(Trace::parse(&longer, None).unwrap().parent(), PARENT);
        for wrong in [
            String::new(),
            PARENT.to_uppercase(),
            PARENT.replacen("00", "ff", 1),
            format!("{PARENT}-more"),
            PARENT.replacen("00-", "000", 1),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16)),
            PARENT.replace("4bf9", "+bf9"),
            "00-\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}-00f067aa0ba902b7-01".to_owned(),
        ] {
            assert_eq!(Trace::parse(&wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn a_state_that_is_not_well_formed_is_left_out() {
        let state = |state: &str| Trace::parse(PARENT, Some(state)).unwrap().state().map(str::to_owned);
        assert_eq!(state(" a=1, b@c=x y ").as_deref(), Some("a=1, b@c=x y"));
        let long = format!("a={}", "x".repeat(MAX_STATE));
        for wrong in ["", "a", "a=", "A=1", "a=1\r\nTide-User: 1", "a=\u{e4}", &"a=1,".repeat(40), &long] {
            assert_eq!(state(wrong), None, "{wrong:?}");
        }
    }
}
