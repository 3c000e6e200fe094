//! The methods of the server API, by name.

/// A method of the server API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Publish,
    Broadcast,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Refresh,
    Presence,
    PresenceStats,
    History,
    HistoryRemove,
    Channels,
    Info,
    Batch,
    Rpc,
}

pub(super) const METHODS: [Method; 14] = [
    Method::Publish,
    Method::Broadcast,
    Method::Subscribe,
    Method::Unsubscribe,
    Method::Disconnect,
    Method::Refresh,
    Method::Presence,
    Method::PresenceStats,
    Method::History,
    Method::HistoryRemove,
    Method::Channels,
    Method::Info,
    Method::Batch,
    Method::Rpc,
];

impl Method {
    /// The name in a path and in a subject.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Broadcast => "broadcast",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Disconnect => "disconnect",
            Self::Refresh => "refresh",
            Self::Presence => "presence",
            Self::PresenceStats => "presence_stats",
            Self::History => "history",
            Self::HistoryRemove => "history_remove",
            Self::Channels => "channels",
            Self::Info => "info",
            Self::Batch => "batch",
            Self::Rpc => "rpc",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        METHODS.into_iter().find(|method| method.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_describes_every_method_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(crate::api::OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let described: Vec<&str> =
            paths.iter().filter(|(_, path)| path["post"].is_object()).map(|(path, _)| &path[1..]).collect();
        let mut methods: Vec<String> = METHODS.map(|method| format!("api/{}", method.name())).into();
        methods.sort();
        assert_eq!(described, methods);
        assert!(METHODS.into_iter().all(|method| Method::parse(method.name()) == Some(method)));
    }
}
