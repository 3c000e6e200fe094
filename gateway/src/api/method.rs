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
    Routes,
    RoutePause,
    RouteResume,
    DeadList,
    DeadShow,
    DeadRedrive,
    DeadDrop,
    Enqueue,
    Job,
    JobCancel,
    ScheduleSet,
    ScheduleList,
    ScheduleShow,
    ScheduleRemove,
}

pub(super) const METHODS: [Method; 28] = [
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
    Method::Routes,
    Method::RoutePause,
    Method::RouteResume,
    Method::DeadList,
    Method::DeadShow,
    Method::DeadRedrive,
    Method::DeadDrop,
    Method::Enqueue,
    Method::Job,
    Method::JobCancel,
    Method::ScheduleSet,
    Method::ScheduleList,
    Method::ScheduleShow,
    Method::ScheduleRemove,
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
            Self::Routes => "routes",
            Self::RoutePause => "route_pause",
            Self::RouteResume => "route_resume",
            Self::DeadList => "dead_list",
            Self::DeadShow => "dead_show",
            Self::DeadRedrive => "dead_redrive",
            Self::DeadDrop => "dead_drop",
            Self::Enqueue => "enqueue",
            Self::Job => "job",
            Self::JobCancel => "job_cancel",
            Self::ScheduleSet => "schedule_set",
            Self::ScheduleList => "schedule_list",
            Self::ScheduleShow => "schedule_show",
            Self::ScheduleRemove => "schedule_remove",
        }
    }

    /// Whether users of the broker may call it only if its subject is permitted to them. A batch over NATS cannot hold it: the
    /// broker sees only the batch.
    pub(super) fn has_own_right(self) -> bool {
        matches!(
            self,
            Self::HistoryRemove
                | Self::Routes
                | Self::RoutePause
                | Self::RouteResume
                | Self::DeadList
                | Self::DeadShow
                | Self::DeadRedrive
                | Self::DeadDrop
        )
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
