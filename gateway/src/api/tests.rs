//! How the parameters of every method are read.

use super::{method::METHODS, *};
use crate::fields::check;

#[test]
fn null_is_the_default_and_the_last_of_two_values_counts_in_every_parameter() {
    for method in METHODS {
        match method {
            Method::Publish | Method::Broadcast => check::<publish::PublishParams>(&["data"]),
            Method::Subscribe => check::<clients::SubscribeParams>(&[]),
            Method::Unsubscribe => check::<clients::UnsubscribeParams>(&[]),
            Method::Disconnect => {
                check::<clients::DisconnectParams>(&[]);
                check::<clients::Close>(&[]);
            }
            Method::Refresh => check::<clients::RefreshParams>(&[]),
            Method::Presence | Method::PresenceStats | Method::HistoryRemove => {
                check::<channels::ChannelParams>(&[]);
            }
            Method::History => check::<channels::HistoryParams>(&[]),
            Method::Channels => check::<channels::ChannelsParams>(&[]),
            Method::Info => check::<channels::InfoParams>(&[]),
            Method::Batch => {
                let read =
                    read::<BatchParams>(br#"{"commands":null,"commands":[{"info":null}],"parallel":null}"#);
                assert!(read.is_ok_and(|batch| batch.commands.len() == 1 && !batch.parallel));
            }
            Method::Rpc => check::<call::RpcParams>(&[]),
            Method::Routes => check::<routes::RoutesParams>(&[]),
            Method::RoutePause => check::<routes::PauseParams>(&[]),
            Method::RouteResume => check::<routes::ResumeParams>(&[]),
            Method::DeadList => check::<dead::DeadListParams>(&[]),
            Method::DeadShow | Method::DeadRedrive | Method::DeadDrop => check::<dead::LetterParams>(&[]),
            Method::Job | Method::JobCancel => check::<job::JobParams>(&[]),
            Method::Enqueue => check::<enqueue::EnqueueParams>(&[]),
            Method::ScheduleSet => check::<schedule::SetParams>(&["data"]),
            Method::ScheduleList => check::<schedule::ListParams>(&[]),
            Method::ScheduleShow | Method::ScheduleRemove => check::<schedule::NameParams>(&[]),
        }
    }
}

#[test]
fn a_parameter_that_is_unknown_or_of_a_wrong_type_is_named() {
    for (body, word) in [
        (r#"{"limit":null,"chanel":"a"}"#, "chanel"),
        (r#"{"limit":null,"channel":42}"#, "channel: invalid type"),
    ] {
        let error = read::<channels::HistoryParams>(body.as_bytes()).err().unwrap();
        assert!(error.code == 107 && error.message.contains(word), "{error:?}");
    }
}
