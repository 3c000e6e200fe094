//! Does for a one-way client what it cannot do itself: subscribes, answers pings, and turns errors into disconnects.
//!
//! Sits between the client and an ordinary session, so that the session has one protocol. Pure.

use tidegate_shared::protocol::{
    Command, ConnectRequest, Push, Reply, Sub, SubscribeRequest,
    codes::{self, Disconnect, ErrorCode},
    lenient,
};

use crate::session::Budget;

pub(crate) mod event_cursor;
pub(crate) mod event_id;

/// The id of the connect command. The subscribe commands have the ids behind it.
const CONNECT: u32 = 1;

/// The missing half of a one-way client.
#[derive(Debug)]
pub(super) struct OneWay {
    begun: bool,
    /// What is left for publications in the reply to `connect`, which has those of all subscriptions.
    pub(super) budget: Budget,
    /// The subscriptions the client asked for.
    subscriptions: Vec<SubscribeRequest>,
    /// The reply to `connect` while subscriptions are unanswered, and how many are.
    held: Option<(Reply, usize)>,
}

/// What to do with a reply of the session.
#[derive(Debug, PartialEq)]
pub(super) enum Reaction {
    /// Send it to the client.
    Send(Reply),
    /// Send it to the client before anything queued.
    SendFirst(Reply),
    /// Send it to the client, and answer in its place.
    Ping(Reply),
    /// Hand these commands to the session.
    Commands(Vec<Command>),
    /// Close the connection.
    Close(Disconnect),
    /// Do nothing.
    Nothing,
}

impl OneWay {
    /// The missing half of a client whose outbox has this many bytes.
    pub(super) fn new(outbox: u64) -> Self {
        Self { begun: false, budget: Budget::of(outbox), subscriptions: Vec::new(), held: None }
    }

    /// The connect command in the client's first message. Later messages are ignored.
    pub(super) fn read(&mut self, frame: &[u8]) -> Option<Result<Command, serde_json::Error>> {
        if std::mem::replace(&mut self.begun, true) {
            return None;
        }
        Some(lenient::from_slice::<ConnectRequest>(frame).map(|connect| {
            // They stay in the command too: some may be server-side subscriptions.
            let subscriptions = connect.subs.clone().into_iter();
            self.subscriptions =
                subscriptions.map(|(channel, wish)| SubscribeRequest { channel, ..wish }).collect();
            Command { id: CONNECT, connect: Some(connect), ..Command::default() }
        }))
    }

    /// Whether the reply to `connect` is held back. Nothing else may reach the client before it.
    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Takes a reply of the session.
    pub(super) fn react(&mut self, reply: Reply) -> Reaction {
        match reply {
            Reply { id: 0, push: None, .. } => Reaction::Ping(reply),
            // The client cannot subscribe again, so it has to connect again and resume.
            Reply { id: 0, push: Some(Push { unsubscribe: Some(_), .. }), .. } => {
                Reaction::Close(codes::INSUFFICIENT_STATE)
            }
            Reply { id: 0, .. } => Reaction::Send(reply),
            Reply { id: CONNECT, error: Some(error), .. } => Reaction::Close(disconnect_for(error.code)),
            Reply { id: CONNECT, .. } => self.connected(reply),
            Reply { id, .. } => self.subscribed(id, reply),
        }
    }

    fn connected(&mut self, mut reply: Reply) -> Reaction {
        if let Some(connect) = &mut reply.connect {
            connect.pong = false;
            let chosen = |wish: &SubscribeRequest| connect.subs.iter().any(|sub| sub.channel == wish.channel);
            self.subscriptions.retain(|wish| !chosen(wish));
        }
        if self.subscriptions.is_empty() {
            return Reaction::SendFirst(reply);
        }
        let commands = (CONNECT + 1..).zip(&self.subscriptions).map(|(id, wish)| Command {
            id,
            subscribe: Some(wish.clone()),
            ..Command::default()
        });
        let commands: Vec<_> = commands.collect();
        self.held = Some((reply, commands.len()));
        Reaction::Commands(commands)
    }

    /// A refused channel is left out of the reply to `connect`.
    fn subscribed(&mut self, id: u32, reply: Reply) -> Reaction {
        let Some((connected, left)) = &mut self.held else { return Reaction::Nothing };
        let wish = usize::try_from(id - CONNECT - 1).ok().and_then(|index| self.subscriptions.get(index));
        if let (Some(wish), Some(result), Some(connect)) = (wish, reply.subscribe, &mut connected.connect) {
            connect.subs.push(Sub::new(wish.channel.as_str(), result));
        }
        *left -= 1;
        if *left > 0 {
            return Reaction::Nothing;
        }
        self.subscriptions = Vec::new();
        self.held.take().map_or(Reaction::Nothing, |(connected, _)| Reaction::SendFirst(connected))
    }
}

/// The disconnect that stands for an error, since a one-way client gets no error replies.
fn disconnect_for(error: u32) -> Disconnect {
    const EXPIRED: u32 = 110;
    const TOO_MANY_REQUESTS: u32 = 111;
    const DENIED: ErrorCode = codes::PERMISSION_DENIED;
    const TOKEN_EXPIRED: ErrorCode = codes::TOKEN_EXPIRED;
    match error {
        code if code == TOKEN_EXPIRED.code || code == EXPIRED => codes::EXPIRED,
        TOO_MANY_REQUESTS => codes::TOO_MANY_REQUESTS,
        code if code == DENIED.code => codes::DENIED,
        _ => codes::SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_shared::protocol::{ConnectResult, Publication, SubscribeResult, Unsubscribe};

    use super::*;

    fn connected() -> Reply {
        let connect = ConnectResult { client: "g.1".into(), pong: true, ..ConnectResult::default() };
        Reply { id: CONNECT, connect: Some(connect), ..Reply::default() }
    }

    fn granted(id: u32) -> Reply {
        Reply { id, subscribe: Some(SubscribeResult::default()), ..Reply::default() }
    }

    #[test]
    fn only_the_first_message_is_read() {
        let mut client = OneWay::new(10_000);
        let command = client.read(br#"{"token":"t"}"#).unwrap().unwrap();
        assert_eq!((command.id, command.connect.unwrap().token.as_str()), (1, "t"));
        assert!(client.read(b"nonsense").is_none());
        assert!(OneWay::new(10_000).read(b"nonsense").unwrap().is_err());
    }

    #[test]
    fn the_answer_to_connect_waits_for_the_channels_and_leaves_out_refused_ones() {
        let mut client = OneWay::new(10_000);
        client.read(br#"{"subs":{"a":{},"b":{}}}"#).unwrap().unwrap();
        let Reaction::Commands(commands) = client.react(connected()) else { panic!("it asks") };
        let asked: Vec<_> = commands.into_iter().map(|c| (c.id, c.subscribe.unwrap().channel)).collect();
        assert_eq!(asked, [(2, "a".to_owned()), (3, "b".to_owned())]);
        assert!(client.is_holding());
        assert_eq!(client.react(Reply::error(2, codes::PERMISSION_DENIED.error())), Reaction::Nothing);
        let Reaction::SendFirst(reply) = client.react(granted(3)) else { panic!("it is told") };
        let connect = reply.connect.unwrap();
        assert_eq!(connect.subs.iter().map(|sub| sub.channel.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(!connect.pong && !client.is_holding());
    }

    #[test]
    fn a_server_side_subscription_is_not_requested_again() {
        let mut client = OneWay::new(10_000);
        let command = client.read(br##"{"subs":{"a":{},"#42":{"recover":true}}}"##).unwrap().unwrap();
        assert_eq!(command.connect.unwrap().subs.len(), 2);
        let mut reply = connected();
        reply.connect.as_mut().unwrap().subs = vec![Sub::new("#42", SubscribeResult::default())];
        let Reaction::Commands(commands) = client.react(reply) else { panic!("it asks") };
        assert_eq!(commands.len(), 1);
        let Reaction::SendFirst(reply) = client.react(granted(2)) else { panic!("it is told") };
        assert_eq!(reply.connect.unwrap().subs.len(), 2);
    }

    #[test]
    fn pings_are_answered_for_the_client_and_pushes_pass() {
        let mut client = OneWay::new(10_000);
        assert_eq!(client.react(Reply::ping()), Reaction::Ping(Reply::ping()));
        let push = Reply::publication("c", Publication::default());
        assert_eq!(client.react(push.clone()), Reaction::Send(push));
    }

    #[test]
    fn a_lost_channel_ends_the_connection_so_that_the_client_resumes() {
        let unsubscribe = Some(Unsubscribe { code: 2500, reason: "insufficient state".into() });
        let push = Push { channel: "a".into(), unsubscribe, ..Push::default() };
        let reaction = OneWay::new(10_000).react(Reply { push: Some(push), ..Reply::default() });
        assert_eq!(reaction, Reaction::Close(codes::INSUFFICIENT_STATE));
    }

    #[test]
    fn an_error_ends_the_connection() {
        for (error, code) in [(109, 3005), (110, 3005), (111, 3013), (103, 3507), (100, 3004), (108, 3004)] {
            let error = tidegate_shared::protocol::Error { code: error, ..Default::default() };
            let reaction = OneWay::new(10_000).react(Reply::error(CONNECT, error));
            assert!(
                matches!(&reaction, Reaction::Close(disconnect) if disconnect.code == code),
                "{reaction:?}"
            );
        }
    }
}
