//! The delivery options of a subscription, as far as its namespace grants them. Pure.

use tidegate_shared::{
    filter::{self, FilterNode},
    protocol::{Encoding, Publication, Reply, encode_reply},
};

/// How publications of one subscription are delivered. Most subscriptions have no options.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DeliveryOptions {
    /// Patches instead of whole payloads.
    pub(crate) delta: bool,
    /// Only publications whose tags match.
    pub(crate) filter: Option<FilterNode>,
}

impl DeliveryOptions {
    /// Whether a publication is wanted.
    pub(crate) fn wants(&self, publication: &Publication) -> bool {
        self.filter.as_ref().is_none_or(|node| filter::matches(node, &publication.tags))
    }
}

/// Bytes that the broker's offset and framing add to a push.
const POSITION: u64 = 64;

/// The length of the longest push of a publication, over all encodings and forms. Encodes only if it may exceed `limit`.
pub(super) fn longest_push(channel: &str, publication: &Publication, limit: u64, delta: bool) -> u64 {
    let tags = publication.tags.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
    let info = publication.info.as_ref();
    let info = info.map_or(0, |i| i.user.len() + i.client.len() + i.conn_info.len() + i.chan_info.len());
    // A byte becomes six at most: an escaped control character in a string.
    let bound = 6 * (publication.data.len() + tags + info + channel.len() + 100) as u64;
    if bound <= limit {
        return bound;
    }
    let longest = [Encoding::Json, Encoding::Protobuf].map(|encoding| {
        let suited = publication.clone().suited_to(encoding);
        // With patches, JSON clients receive the text as a string.
        let quoted = if delta && encoding == Encoding::Json {
            let text = String::from_utf8_lossy(&suited.data);
            serde_json::to_string(&text).map_or(usize::MAX, |string| string.len() - suited.data.len())
        } else {
            0
        };
        let push = encode_reply(encoding, &Reply::publication(channel, suited));
        push.map_or(u64::MAX, |push| (push.len() + quoted) as u64)
    });
    longest.into_iter().max().unwrap_or_default().saturating_add(POSITION)
}
