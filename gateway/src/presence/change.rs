//! A member of a channel has joined or left: what subscribers that asked for joins and leaves are told. Pure.

use tidegate_shared::protocol::ClientInfo;

/// A member has joined a channel or left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MembershipChange {
    pub(crate) info: ClientInfo,
    /// True for a join, false for a leave.
    pub(crate) joined: bool,
}
