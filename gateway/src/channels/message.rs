//! Reads a message of a channel's stream: a publication, or a removal mark (everything before it was removed on
//! purpose). Pure.

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use tidegate_shared::{
    envelope::get,
    header,
    protocol::{ClientInfo, Publication, json::Payload},
};

/// Whether a message is a removal mark.
pub(super) fn is_removal(message: &Message) -> bool {
    message.headers.as_ref().is_some_and(|headers| get(headers, header::REMOVED).is_some())
}

/// Reads a publication, whatever a publisher wrote into its headers: everything in it can be embedded in a frame. An info
/// that is not JSON becomes a JSON string.
pub(crate) fn read_publication(message: &Message) -> Publication {
    let none = HeaderMap::new();
    let headers = message.headers.as_ref().unwrap_or(&none);
    let json = |name| get(headers, name).map(json_or_text).unwrap_or_default();
    let info = get(headers, header::CLIENT).map(|client| ClientInfo {
        user: get(headers, header::USER).unwrap_or_default().to_owned(),
        client: client.to_owned(),
        conn_info: json(header::INFO),
        chan_info: json(header::CHANNEL_INFO),
    });
    let tags = headers.iter().filter_map(|(name, values)| {
        let name: &str = name.as_ref();
        Some((name.strip_prefix(header::TAG_PREFIX)?.to_owned(), values.first()?.as_str().to_owned()))
    });
    Publication { data: message.payload.clone(), info, tags: tags.collect(), ..Publication::default() }
}

/// Whether an info in the headers is not JSON.
pub(super) fn has_odd_info(message: &Message) -> bool {
    let Some(headers) = &message.headers else { return false };
    let odd = |name| get(headers, name).is_some_and(|text| json_or_text(text) != text);
    get(headers, header::CLIENT).is_some() && (odd(header::INFO) || odd(header::CHANNEL_INFO))
}

fn json_or_text(text: &str) -> Bytes {
    if text.is_empty() { Bytes::new() } else { Payload::from_any(&text.to_owned().into()).into_bytes() }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderValue;
    use proptest::prelude::*;
    use tidegate_shared::{
        id::{ClientId, GatewayId},
        protocol::{HistoryResult, PresenceResult, Reply, SubscribeResult, json},
    };

    use super::*;
    use crate::{channels::feed::patch, outbox::dialect::Dialect};

    const DIALECTS: [Dialect; 3] = [Dialect::Json, Dialect::Protobuf, Dialect::OneWay];

    fn message(headers: Vec<(String, String)>, payload: Vec<u8>) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, HeaderValue::from(value));
        }
        let payload = Bytes::from(payload);
        let (subject, length) = ("tide.live.chat.x".into(), payload.len());
        Message { subject, reply: None, payload, headers: Some(map), status: None, description: None, length }
    }

    /// Texts that are JSON, nearly JSON, or anything that a header can hold.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[{}\\[\\]\",:0-9a-z\\\\ ]{0,12}",
            r#"\{"a":[0-9]{1,3}\}[ -~]{0,2}"#,
            "[^\r\n]{0,20}",
            Just("\"\\ud800\"".to_owned()),
            (1usize..5000).prop_map(|deep| "[".repeat(deep) + &"]".repeat(deep)),
        ]
    }

    proptest! {
        /// Services write headers and payloads. Each message reaches every client, live, in a reply and as a patch.
        #[test]
        fn any_message_can_be_encoded_for_every_client(
            info in text(), channel_info in text(), user in text(), client in proptest::option::of(text()),
            tag in ("[!-9;-~]{1,8}", text()),
            payload in prop_oneof![text().prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..40)],
        ) {
            let mut headers = vec![
                (header::INFO.to_owned(), info), (header::CHANNEL_INFO.to_owned(), channel_info),
                (header::USER.to_owned(), user), (format!("{}{}", header::TAG_PREFIX, tag.0), tag.1),
            ];
            headers.extend(client.map(|client| (header::CLIENT.to_owned(), client)));
            let message = message(headers, payload);
            let publication = read_publication(&message);
            for dialect in DIALECTS {
                let encoding = dialect.encoding();
                let suited = publication.clone().suited_to(encoding);
                let publications = vec![suited.clone()];
                let patches = patch::chain([&publication, &publication].into_iter(), encoding);
                let replies = [
                    Reply::publication("chat:x", suited),
                    Reply { history: Some(HistoryResult { publications: publications.clone(), ..Default::default() }), ..Reply::default() },
                    Reply { subscribe: Some(SubscribeResult { publications, ..Default::default() }), ..Reply::default() },
                    Reply::publication("chat:x", patches[1].clone()),
                    Reply { history: Some(HistoryResult { publications: patches, ..Default::default() }), ..Reply::default() },
                ];
                for reply in replies {
                    let frame = dialect.encode(&reply).unwrap();
                    if dialect == Dialect::Json {
                        let message = frame.payload();
                        let text = std::str::from_utf8(&message).unwrap();
                        prop_assert_eq!(json::decode::<Reply>(text).count(), 1, "{}", text);
                        prop_assert!(json::decode::<Reply>(text).all(|read| read.is_ok()), "{}", text);
                    }
                }
            }
        }

        /// Members are stored by gateways, but anybody with the rights could write one.
        #[test]
        fn any_member_can_be_encoded_for_every_client(
            info in proptest::collection::vec(any::<u8>(), 0..40), user in text(),
        ) {
            let client = ClientId::random(&GatewayId::random()).to_string();
            let info = ClientInfo { user, client: client.clone(), conn_info: info.clone().into(), chan_info: info.into() };
            let members = PresenceResult { presence: [(client, info.clone())].into_iter().collect() };
            for dialect in DIALECTS {
                let encoding = dialect.encoding();
                for reply in [
                    Reply::join("chat:x", info.clone().suited_to(encoding)),
                    Reply { presence: Some(members.clone().suited_to(encoding)), ..Reply::default() },
                ] {
                    prop_assert!(dialect.encode(&reply).is_ok());
                }
            }
        }
    }

    #[test]
    fn an_info_that_is_not_json_becomes_a_text_and_is_noticed() {
        let with = |info: &str| {
            message(
                vec![("Tide-Client".to_owned(), "b".to_owned()), ("Tide-Info".to_owned(), info.to_owned())],
                vec![],
            )
        };
        for (info, told, odd) in [
            ("{\"a\":1}", "{\"a\":1}", false),
            ("oops", "\"oops\"", true),
            ("{\"a\":1}x", r#""{\"a\":1}x""#, true),
            ("", "", false),
        ] {
            let message = with(info);
            assert_eq!(read_publication(&message).info.unwrap().conn_info, told);
            assert_eq!(has_odd_info(&message), odd, "{info}");
        }
    }
}
