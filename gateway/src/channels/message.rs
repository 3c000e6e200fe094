//! Reads a message of a channel's stream: a publication, or a removal mark (everything before it was removed on
//! purpose). Pure.

use async_nats::{HeaderMap, Message};
use tidegate_shared::{
    envelope::get,
    header,
    protocol::{ClientInfo, Publication},
};

/// Whether a message is a removal mark.
pub(super) fn is_removal(message: &Message) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(header::REMOVED).is_some())
}

pub(super) fn read_publication(message: &Message) -> Publication {
    let none = HeaderMap::new();
    let headers = message.headers.as_ref().unwrap_or(&none);
    let json = |name| get(headers, name).map(|json| json.to_owned().into()).unwrap_or_default();
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
