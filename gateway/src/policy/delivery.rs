//! The delivery options of a subscription, as far as its namespace grants them. Pure.

use tidegate_shared::{
    filter::{self, FilterNode},
    protocol::Publication,
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
