//! This gateway's part in questions to all gateways: its channels, its clients, and orders for them.
//!
//! Never waits and never asks other gateways.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tidegate_shared::{
    VERSION,
    channel::{Channel, USER_NAMESPACE},
    id::{ClientId, GatewayId},
};
use tokio::time::Instant;

use super::{raw, read_owned};
use crate::{channels::hub::Hub, fleet::peers::Respond, outbox::Outbox, outbox::order::Order};

/// The most channels in one answer, which has to fit into one NATS message.
const MOST_CHANNELS: usize = 5_000;

/// Answers questions for this gateway.
pub(crate) struct Local {
    pub(crate) gateway: GatewayId,
    pub(crate) name: String,
    pub(crate) hub: Arc<Hub>,
    pub(crate) started: Instant,
}

/// A question to every gateway.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeerQuestion {
    Order(Order),
    Channels { pattern: String },
    Info,
}

/// The answer of one gateway.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PeerAnswer {
    Done,
    Channels { channels: BTreeMap<String, usize>, more: bool },
    Info(Node),
}

/// A gateway and its numbers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Node {
    uid: String,
    name: String,
    version: String,
    num_clients: usize,
    num_users: usize,
    num_subs: usize,
    num_channels: usize,
    uptime: u64,
}

impl Local {
    /// The function that answers other gateways.
    pub(crate) fn respond(self: Arc<Self>) -> Respond {
        Arc::new(move |asked| raw(&self.answer(&read_owned(asked)?)).ok())
    }

    pub(super) fn answer(&self, ask: &PeerQuestion) -> PeerAnswer {
        match ask {
            PeerQuestion::Order(order) => {
                let order = Arc::new(order.clone());
                for outbox in self.recipients(&order) {
                    outbox.order(&order);
                }
                PeerAnswer::Done
            }
            PeerQuestion::Channels { pattern } => self.channels(pattern),
            PeerQuestion::Info => PeerAnswer::Info(self.info()),
        }
    }

    /// The connections an order is for. An order for a session goes to that session's connection alone.
    fn recipients(&self, order: &Order) -> Vec<Arc<Outbox>> {
        let of_user = || {
            // In this order: a connection that arrives meanwhile is in one of the two, or in both.
            let mut found: HashMap<_, _> = self.hub.arriving.of(&order.user).into_iter().collect();
            // Every connection of a user is subscribed to the personal channel.
            let personal = Channel::personal(&order.user);
            let feed = self.hub.feed(&format!("{}.{}", personal.namespace(), personal.token()));
            found.extend(feed.map(|feed| feed.subscribers()).unwrap_or_default());
            found
        };
        let listed = |client: &ClientId| order.whitelist.iter().any(|listed| listed == client.as_str());
        if !order.session.is_empty() {
            let session = self.hub.session(&order.session).filter(|(client, _)| {
                !listed(client)
                    && (order.client.is_empty() || order.client == client.as_str())
                    && (order.user.is_empty() || of_user().contains_key(client))
            });
            return session.map(|(_, outbox)| outbox).into_iter().collect();
        }
        match (order.user.is_empty(), ClientId::parse(&order.client)) {
            (true, Some(client)) => {
                self.hub.client(&client).filter(|_| !listed(&client)).into_iter().collect()
            }
            (true, None) if order.client.is_empty() => self.hub.clients(),
            (true, None) => Vec::new(),
            (false, _) => {
                let recipients = of_user().into_iter().filter(|(client, _)| {
                    !listed(client) && (order.client.is_empty() || order.client == client.as_str())
                });
                recipients.map(|(_, outbox)| outbox).collect()
            }
        }
    }

    fn channels(&self, pattern: &str) -> PeerAnswer {
        let mut channels = BTreeMap::new();
        let mut more = false;
        for feed in self.hub.feeds("") {
            let clients = feed.len();
            if clients == 0 || !(pattern.is_empty() || matches(pattern, feed.name())) {
                continue;
            }
            more = channels.len() >= MOST_CHANNELS;
            if more {
                break;
            }
            channels.insert(feed.name().to_owned(), clients);
        }
        PeerAnswer::Channels { channels, more }
    }

    fn info(&self) -> Node {
        let feeds = self.hub.feeds("");
        let sizes = feeds.iter().map(|feed| (feed.channel(), feed.len())).filter(|(_, clients)| *clients > 0);
        let (mut num_users, mut num_subs, mut num_channels) = (0, 0, 0);
        for (channel, clients) in sizes {
            num_users += usize::from(channel.namespace() == USER_NAMESPACE);
            num_subs += clients;
            num_channels += 1;
        }
        Node {
            uid: self.gateway.as_str().to_owned(),
            name: self.name.clone(),
            version: VERSION.to_owned(),
            num_clients: self.hub.len(),
            num_users,
            num_subs,
            num_channels,
            uptime: self.started.elapsed().as_secs(),
        }
    }
}

/// Whether a name matches a pattern: `*` stands for any characters, `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut read) = (0, 0);
    // The position of the last star, and how much of the name it covers so far.
    let mut star: Option<(usize, usize)> = None;
    while let Some(letter) = name.get(read) {
        match (pattern.get(at), star) {
            (Some('*'), _) => {
                star = Some((at, read));
                at += 1;
            }
            (Some(wanted), _) if *wanted == '?' || wanted == letter => {
                at += 1;
                read += 1;
            }
            (_, Some((place, taken))) => {
                star = Some((place, taken + 1));
                at = place + 1;
                read = taken + 1;
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(at).all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests {
    use tidegate_shared::protocol::Encoding;

    use super::*;

    #[test]
    fn an_order_for_a_session_reaches_no_other_connection() {
        let hub = Arc::new(Hub::new());
        let gateway = GatewayId::random();
        let connections: Vec<_> = (0..3)
            .map(|_| {
                let (client, outbox) =
                    (ClientId::random(&gateway), Arc::new(Outbox::new(Encoding::Json, 1000)));
                hub.register(client.clone(), Arc::clone(&outbox));
                (client, outbox)
            })
            .collect();
        hub.name_session("secret", connections[1].0.clone());
        let local = Local { gateway, name: String::new(), hub: Arc::clone(&hub), started: Instant::now() };
        let order = |order: Order| local.recipients(&order);
        let to = |session: &str| Order { session: session.to_owned(), ..Order::default() };
        let found = order(to("secret"));
        assert!(found.len() == 1 && Arc::ptr_eq(&found[0], &connections[1].1));
        assert!(order(to("other")).is_empty());
        assert!(order(Order { client: connections[0].0.to_string(), ..to("secret") }).is_empty());
        assert!(order(Order { user: "42".to_owned(), ..to("secret") }).is_empty(), "another user's");
        assert!(order(Order { whitelist: vec![connections[1].0.to_string()], ..to("secret") }).is_empty());
    }

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, name, expected) in [
            ("*", "chat:lobby", true),
            ("chat:*", "chat:lobby", true),
            ("chat:*", "news:lobby", false),
            ("*lobby", "chat:lobby", true),
            ("c*t:l*y", "chat:lobby", true),
            ("c*t:l*x", "chat:lobby", false),
            ("chat:?obby", "chat:lobby", true),
            ("chat:lobb", "chat:lobby", false),
            ("chat:lobby*", "chat:lobby", true),
            ("", "chat:lobby", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
