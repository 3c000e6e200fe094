//! Who sent a request.

/// The client that sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sender {
    /// The authenticated user's id. `None` for an anonymous client.
    pub user: Option<String>,
    /// The id of the connection. `None` for a request that no client made.
    pub client: Option<String>,
    /// The `info` of the connection token, as JSON. Only a publication has it.
    pub info: Option<String>,
    /// The `info` of the subscription token, as JSON. Only a publication has it.
    pub channel_info: Option<String>,
}
