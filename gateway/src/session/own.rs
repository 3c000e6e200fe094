//! `rpc("tide.status", ..)` and `rpc("tide.cancel", ..)`: a client asks about a request of its own user, or cancels it. The gateway
//! answers by itself, without a route.

use bytes::Bytes;
use serde::Deserialize;
use tidegate_shared::{
    id::RequestId,
    protocol::{Error, codes, lenient},
    route::{MAX_KEY_LEN, Method},
};

use super::{Effect, Effects, Session, refuse};
use crate::requests::jobs::OwnRequest;

/// How the methods begin that gateways answer by themselves.
const OWN: &str = "tide.";

#[derive(Debug, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Which {
    id: String,
    method: String,
    key: String,
}

impl Session {
    /// The effects of a method that gateways answer by themselves. `None` for any other.
    pub(super) fn own(&mut self, id: u32, method: &Method<'_>, data: &Bytes) -> Option<Effects> {
        let verb = method.name.strip_prefix(OWN)?;
        let cancel = match (verb, method.key) {
            ("status", None) => false,
            ("cancel", None) => true,
            _ => return Some(refuse(id, codes::METHOD_NOT_FOUND)),
        };
        let Some(user) = self.user().map(str::to_owned) else {
            return Some(refuse(id, codes::PERMISSION_DENIED.because("this needs an authenticated user")));
        };
        if self.waiting >= self.rules.limits.max_waiting {
            let why = "too many requests of this connection wait for an answer";
            return Some(refuse(id, codes::NOT_ACCEPTED.because(why)));
        }
        Some(match which(data, &user) {
            Ok((request, certain)) => {
                self.waiting += 1;
                let asked = OwnRequest { id: request, user, cancel, certain };
                vec![Effect::Own { command: id, request: Box::new(asked) }]
            }
            Err(error) => refuse(id, error),
        })
    }
}

/// The id of the request, and whether it was made of the user's name.
fn which(data: &Bytes, user: &str) -> Result<(RequestId, bool), Error> {
    let data: &[u8] = if data.is_empty() { b"{}" } else { data };
    let Which { id, method, key } =
        lenient::from_slice(data).map_err(|error| codes::BAD_REQUEST.because(error))?;
    if !id.is_empty() && method.is_empty() && key.is_empty() {
        let id = RequestId::parse(&id);
        return Ok((
            id.ok_or_else(|| codes::BAD_REQUEST.because("id: this is not the id of a request"))?,
            false,
        ));
    }
    if !id.is_empty() || method.is_empty() || key.is_empty() || key.len() > MAX_KEY_LEN {
        return Err(codes::BAD_REQUEST.because("either {\"id\"}, or {\"method\", \"key\"}"));
    }
    Ok((RequestId::keyed(user, &method, &key), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_its_id_or_by_method_and_key() {
        let read = |data: &'static str| which(&Bytes::from_static(data.as_bytes()), "42");
        let id = RequestId::parse("gw.1").unwrap();
        assert_eq!(read(r#"{"id":"gw.1"}"#), Ok((id, false)));
        let keyed = RequestId::keyed("42", "orders.place", "7f3c");
        assert_eq!(read(r#"{"method":"orders.place","key":"7f3c"}"#), Ok((keyed, true)));
        for wrong in [
            "",
            "{}",
            "1",
            r#"{"id":"a b"}"#,
            r#"{"method":"m"}"#,
            r#"{"key":"k"}"#,
            r#"{"id":"a.b","key":"k"}"#,
            r#"{"user":"43"}"#,
        ] {
            assert_eq!(read(wrong).map_err(|error| error.code), Err(107), "{wrong}");
        }
    }
}
