//! What a two-way client does and a one-way client cannot: it asks for channels, answers pings and reads errors.
//!
//! Stands between such a client and an ordinary session, so that the session knows one kind of conversation. Pure.

use tidegate_shared::protocol::{
    Command, ConnectRequest, Push, Reply, Sub, SubscribeRequest,
    codes::{self, Disconnect, ErrorCode},
};

pub(crate) mod event_cursor;
mod event_id;

/// The command that connects; those that subscribe have the numbers behind it.
const CONNECT: u32 = 1;

/// The part of a client that its transport leaves out.
#[derive(Debug, Default)]
pub(super) struct OneWay {
    begun: bool,
    /// The channels the client wished for.
    wishes: Vec<SubscribeRequest>,
    /// The answer to `connect`, as long as wishes are not answered, and how many.
    held: Option<(Reply, usize)>,
}

/// What a session's reply means for the client.
#[derive(Debug, PartialEq)]
pub(super) enum Reaction {
    /// Tell it.
    Send(Reply),
    /// Tell it before anything that waits.
    SendFirst(Reply),
    /// Tell it, and answer in its place.
    Ping(Reply),
    /// Ask the session for this.
    Commands(Vec<Command>),
    /// It cannot go on.
    Close(Disconnect),
    /// Nothing.
    Nothing,
}

impl OneWay {
    /// The command that the client's first message stands for; its other messages mean nothing.
    pub(super) fn read(&mut self, frame: &[u8]) -> Option<Result<Command, serde_json::Error>> {
        if std::mem::replace(&mut self.begun, true) {
            return None;
        }
        Some(serde_json::from_slice::<ConnectRequest>(frame).map(|connect| {
            // They stay in the command too: some may be channels that the server chooses anyway.
            let wishes = connect.subs.clone().into_iter();
            self.wishes = wishes.map(|(channel, wish)| SubscribeRequest { channel, ..wish }).collect();
            Command { id: CONNECT, connect: Some(connect), ..Command::default() }
        }))
    }

    /// Whether the answer to `connect` waits: nothing else may reach the client before it.
    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Takes what the session says.
    pub(super) fn react(&mut self, reply: Reply) -> Reaction {
        match reply {
            Reply { id: 0, push: None, .. } => Reaction::Ping(reply),
            // It cannot subscribe again: it connects again, from where it is.
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
            self.wishes.retain(|wish| !chosen(wish));
        }
        if self.wishes.is_empty() {
            return Reaction::SendFirst(reply);
        }
        let commands = (CONNECT + 1..).zip(&self.wishes).map(|(id, wish)| Command {
            id,
            subscribe: Some(wish.clone()),
            ..Command::default()
        });
        let commands: Vec<_> = commands.collect();
        self.held = Some((reply, commands.len()));
        Reaction::Commands(commands)
    }

    /// A channel that is refused is left out of what the client is told.
    fn subscribed(&mut self, id: u32, reply: Reply) -> Reaction {
        let Some((connected, left)) = &mut self.held else { return Reaction::Nothing };
        let wish = usize::try_from(id - CONNECT - 1).ok().and_then(|index| self.wishes.get(index));
        if let (Some(wish), Some(result), Some(connect)) = (wish, reply.subscribe, &mut connected.connect) {
            connect.subs.push(Sub::new(wish.channel.as_str(), result));
        }
        *left -= 1;
        if *left > 0 {
            return Reaction::Nothing;
        }
        self.wishes = Vec::new();
        self.held.take().map_or(Reaction::Nothing, |(connected, _)| Reaction::SendFirst(connected))
    }
}

/// How an error ends a connection whose client cannot be told of errors.
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
    fn only_the_first_message_means_something() {
        let mut client = OneWay::default();
        let command = client.read(br#"{"token":"t"}"#).unwrap().unwrap();
        assert_eq!((command.id, command.connect.unwrap().token.as_str()), (1, "t"));
        assert!(client.read(b"nonsense").is_none());
        assert!(OneWay::default().read(b"nonsense").unwrap().is_err());
    }

    #[test]
    fn the_answer_to_connect_waits_for_the_channels_and_leaves_out_refused_ones() {
        let mut client = OneWay::default();
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
    fn what_the_server_has_chosen_is_not_asked_for_again() {
        let mut client = OneWay::default();
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
    fn pings_are_answered_in_its_place_and_pushes_pass() {
        let mut client = OneWay::default();
        assert_eq!(client.react(Reply::ping()), Reaction::Ping(Reply::ping()));
        let push = Reply::publication("c", Publication::default());
        assert_eq!(client.react(push.clone()), Reaction::Send(push));
    }

    #[test]
    fn a_channel_that_is_lost_ends_the_connection_so_that_it_comes_back_from_where_it_is() {
        let unsubscribe = Some(Unsubscribe { code: 2500, reason: "insufficient state".into() });
        let push = Push { channel: "a".into(), unsubscribe, ..Push::default() };
        let reaction = OneWay::default().react(Reply { push: Some(push), ..Reply::default() });
        assert_eq!(reaction, Reaction::Close(codes::INSUFFICIENT_STATE));
    }

    #[test]
    fn an_error_ends_the_connection() {
        for (error, code) in [(109, 3005), (110, 3005), (111, 3013), (103, 3507), (100, 3004), (108, 3004)] {
            let error = tidegate_shared::protocol::Error { code: error, ..Default::default() };
            let reaction = OneWay::default().react(Reply::error(CONNECT, error));
            assert!(
                matches!(&reaction, Reaction::Close(disconnect) if disconnect.code == code),
                "{reaction:?}"
            );
        }
    }
}
