//! A join or a leave, as subscribers receive it. Pure.

use tidegate_shared::protocol::ClientInfo;

/// A member joined or left a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MembershipChange {
    pub(crate) info: ClientInfo,
    /// True for a join, false for a leave.
    pub(crate) joined: bool,
}
