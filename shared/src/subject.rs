//! The only place where a NATS subject is built or parsed.
//!
//! Every foreign name passes through [`Token`], so a name can never widen a subject or a subscription.

use std::sync::Arc;

use crate::{
    channel::Channel,
    hook::Event,
    id::{ClientId, GatewayId, RequestId},
    route::{Pattern, Word},
    token::Token,
};

/// How many parts the ordering keys are spread over.
const PARTS: u32 = 64;

/// The subjects of one deployment.
#[derive(Debug, Clone)]
pub struct Subjects {
    prefix: Arc<str>,
}

/// What a request's subject says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// An rpc with this method.
    Rpc(&'a str),
    /// A message without a reply.
    Send,
    /// A publication for this channel, which a worker decides about.
    Publish(&'a Channel),
}

/// Where a request goes within a route's stream: the words behind `tide.in` or `tide.due`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Returns the address of a request: what it asks for, the part its ordering key falls into, its id.
    pub fn new(kind: Kind<'_>, key: &str, id: &RequestId) -> Self {
        let address = match kind {
            Kind::Rpc(method) => {
                let mut address = "rpc".to_owned();
                for word in method.split('.') {
                    address.push('.');
                    address.push_str(Token::encode(word).as_str());
                }
                address
            }
            Kind::Send => "send".to_owned(),
            Kind::Publish(channel) => format!("pub.{}.{}", channel.namespace(), channel.token()),
        };
        Self(format!("{address}.{}.{id}", part(key)))
    }
}

/// Returns the part an ordering key falls into, 0 to 63.
pub fn part(key: &str) -> u32 {
    // FNV-1a: stable across versions and languages, which a worker's strict order will rest on.
    key.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) % PARTS
}

impl Subjects {
    /// The subjects under `prefix`; the configuration has checked that it is one token.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// A request on its way to a worker.
    pub fn request(&self, address: &Address) -> String {
        format!("{}.in.{}", self.prefix, address.0)
    }

    /// Every request: what TIDE_IN keeps.
    pub fn all_requests(&self) -> String {
        format!("{}.in.>", self.prefix)
    }

    /// The requests of a route whose rpc methods match `pattern`; `stage` is `in` or `due`.
    pub fn rpc_filter(&self, stage: &str, pattern: &Pattern) -> String {
        let mut filter = format!("{}.{stage}.rpc", self.prefix);
        for word in pattern.words() {
            filter.push('.');
            match word {
                Word::Literal(word) => filter.push_str(Token::encode(word).as_str()),
                Word::Any(_) => filter.push('*'),
            }
        }
        // Part and id come last, so an open pattern still asks for at least one word more.
        filter.push_str(if pattern.is_open() { ".*.*.*.>" } else { ".*.*.*" });
        filter
    }

    /// The requests of the route that takes `send`; `stage` is `in` or `due`.
    pub fn send_filter(&self, stage: &str) -> String {
        format!("{}.{stage}.send.*.*.*", self.prefix)
    }

    /// What clients publish in a namespace whose publications a worker decides about; `stage` is `in` or `due`.
    pub fn publish_filter(&self, stage: &str, namespace: &str) -> String {
        format!("{}.{stage}.pub.{namespace}.*.*.*.*", self.prefix)
    }

    /// A request that waits for its next attempt.
    pub fn park(&self, id: &RequestId) -> String {
        format!("{}.park.{id}", self.prefix)
    }

    /// Every waiting request.
    pub fn all_parked(&self) -> String {
        format!("{}.park.*.*", self.prefix)
    }

    /// Every request whose time has come again.
    pub fn all_due(&self) -> String {
        format!("{}.due.>", self.prefix)
    }

    /// Where the broker publishes a parked request when its time has come, given the subject it was delivered on.
    pub fn due(&self, delivered: &str) -> Option<String> {
        let rest = delivered.strip_prefix(&*self.prefix)?.strip_prefix('.')?;
        let (stage, address) = rest.split_once('.')?;
        matches!(stage, "in" | "due").then(|| format!("{}.due.{address}", self.prefix))
    }

    /// The answer to a request.
    pub fn reply(&self, id: &RequestId) -> String {
        format!("{}.reply.{id}", self.prefix)
    }

    /// Every answer: what TIDE_REPLY keeps, and where the broker repeats it.
    pub fn all_replies(&self) -> (String, String) {
        (
            format!("{}.reply.*.*", self.prefix),
            format!("{}.answer.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}", self.prefix),
        )
    }

    /// The live copy of one request's answer.
    pub fn answer(&self, id: &RequestId) -> String {
        format!("{}.answer.{id}", self.prefix)
    }

    /// The live copies of the answers to the plain requests of one gateway.
    pub fn answers_of(&self, gateway: &GatewayId) -> String {
        format!("{}.answer.{}.*", self.prefix, gateway.as_str())
    }

    /// A publication in a channel.
    pub fn channel(&self, channel: &Channel) -> String {
        format!("{}.ch.{}.{}", self.prefix, channel.namespace(), channel.token())
    }

    /// Every publication of a namespace: what its stream keeps, and where the broker repeats it.
    pub fn all_channels(&self, namespace: &str) -> (String, String) {
        (
            format!("{}.ch.{namespace}.*", self.prefix),
            format!("{}.live.{namespace}.{{{{wildcard(1)}}}}", self.prefix),
        )
    }

    /// The live copies of one channel's publications.
    pub fn live(&self, channel: &Channel) -> String {
        format!("{}.live.{}.{}", self.prefix, channel.namespace(), channel.token())
    }

    /// The live copies of all publications of a namespace.
    pub fn all_live(&self, namespace: &str) -> String {
        format!("{}.live.{namespace}.*", self.prefix)
    }

    /// A member of a channel.
    pub fn member(&self, channel: &Channel, client: &ClientId) -> String {
        format!("{}.presence.member.{}.{}.{client}", self.prefix, channel.namespace(), channel.token())
    }

    /// The members of one channel.
    pub fn members_of_channel(&self, channel: &Channel) -> String {
        format!("{}.presence.member.{}.{}.*.*", self.prefix, channel.namespace(), channel.token())
    }

    /// The members of all channels that are connected to one gateway.
    pub fn members_of_gateway(&self, gateway: &GatewayId) -> String {
        format!("{}.presence.member.*.*.{}.*", self.prefix, gateway.as_str())
    }

    /// The members of all channels.
    pub fn all_members(&self) -> String {
        format!("{}.presence.member.*.*.*.*", self.prefix)
    }

    /// A gateway's sign of life.
    pub fn lease(&self, gateway: &GatewayId) -> String {
        format!("{}.presence.gateway.{}", self.prefix, gateway.as_str())
    }

    /// The signs of life of all gateways.
    pub fn all_leases(&self) -> String {
        format!("{}.presence.gateway.*", self.prefix)
    }

    /// Members and signs of life: what TIDE_PRESENCE keeps, and where the broker repeats it.
    pub fn all_presence(&self) -> (String, String) {
        (format!("{}.presence.>", self.prefix), format!("{}.here.>", self.prefix))
    }

    /// The live copies of who comes to a channel and leaves it.
    pub fn here(&self, channel: &Channel) -> String {
        format!("{}.here.member.{}.{}.*.*", self.prefix, channel.namespace(), channel.token())
    }

    /// The same for all channels of a namespace.
    pub fn all_here(&self, namespace: &str) -> String {
        format!("{}.here.member.{namespace}.*.*.*", self.prefix)
    }

    /// The live copies of the signs of life of all gateways.
    pub fn here_leases(&self) -> String {
        format!("{}.here.gateway.*", self.prefix)
    }

    /// A message for one connection.
    pub fn push_client(&self, client: &ClientId) -> String {
        format!("{}.push.client.{client}", self.prefix)
    }

    /// The messages for the connections of one gateway.
    pub fn pushes_of(&self, gateway: &GatewayId) -> String {
        format!("{}.push.client.{}.*", self.prefix, gateway.as_str())
    }

    /// A message for everybody.
    pub fn push_all(&self) -> String {
        format!("{}.push.all", self.prefix)
    }

    /// The dead letters of one route.
    pub fn dead(&self, service: &str, route: &str) -> String {
        format!("{}.dead.{}.{}", self.prefix, Token::encode(service), Token::encode(route))
    }

    /// Every dead letter: what TIDE_DEAD keeps.
    pub fn all_dead(&self) -> String {
        format!("{}.dead.*.*", self.prefix)
    }

    /// Commands for the connections of one gateway that another gateway was given, as a request.
    pub fn emulate(&self, gateway: &GatewayId) -> String {
        format!("{}.emulate.{}", self.prefix, gateway.as_str())
    }

    /// A method of the server API, as a request or without one.
    pub fn control(&self, method: &str) -> String {
        format!("{}.ctl.{}", self.prefix, Token::encode(method))
    }

    /// Every method of the server API.
    pub fn all_controls(&self) -> String {
        format!("{}.ctl.*", self.prefix)
    }

    /// What other gateways ask a gateway, as a request.
    pub fn peer(&self, gateway: &GatewayId) -> String {
        format!("{}.peer.{}", self.prefix, gateway.as_str())
    }

    /// What a back end is asked, as a request.
    pub fn hook(&self, event: Event) -> String {
        format!("{}.hook.{}", self.prefix, event.as_str())
    }

    /// A subject nobody serves: the broker answers at once, behind everything sent before it.
    pub fn barrier(&self) -> String {
        format!("{}.barrier", self.prefix)
    }

    /// The last token of a subject: a method.
    pub fn last_token(subject: &str) -> &str {
        subject.rsplit('.').next().unwrap_or_default()
    }

    /// The last two tokens of a subject: an id.
    pub fn id_in(subject: &str) -> Option<&str> {
        let end = subject.rmatch_indices('.').nth(1)?.0;
        subject.get(end + 1..)
    }

    /// The gateway whose sign of life has this subject.
    pub fn gateway_in(subject: &str) -> Option<GatewayId> {
        GatewayId::parse(subject.rsplit('.').next()?)
    }

    /// The `<namespace>.<token>` of the live copy of somebody's coming or leaving.
    pub fn here_key<'a>(&self, subject: &'a str) -> Option<&'a str> {
        let rest = subject.strip_prefix(&*self.prefix)?.strip_prefix(".here.member.")?;
        rest.get(..rest.rmatch_indices('.').nth(1)?.0)
    }

    /// The `<namespace>.<token>` of a live publication's subject.
    pub fn live_key<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&*self.prefix)?.strip_prefix(".live.")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subjects() -> Subjects {
        Subjects::new("tide")
    }

    /// NATS' own rule of which subjects a filter takes.
    fn takes(filter: &str, subject: &str) -> bool {
        let mut words = subject.split('.');
        for token in filter.split('.') {
            match (token, words.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (token, Some(word)) if token == word => {}
                _ => return false,
            }
        }
        words.next().is_none()
    }

    #[test]
    fn a_person_can_type_a_channels_subject() {
        assert_eq!(subjects().channel(&Channel::parse("chat:lobby").unwrap()), "tide.ch.chat.lobby");
        assert_eq!(subjects().channel(&Channel::personal("42")), "tide.ch.user.42");
    }

    #[test]
    fn a_members_subject_says_where_and_who() {
        let gateway = GatewayId::random();
        let client = ClientId::random(&gateway);
        let channel = Channel::parse("chat:a:b").unwrap();
        let member = subjects().member(&channel, &client);
        assert_eq!(member, format!("tide.presence.member.chat.a=3Ab.{client}"));
        assert_eq!(Subjects::id_in(&member), Some(client.as_str()));
        for filter in [
            subjects().members_of_channel(&channel),
            subjects().members_of_gateway(&gateway),
            subjects().all_members(),
        ] {
            assert!(takes(&filter, &member), "{filter}");
        }
        assert!(!takes(&subjects().members_of_gateway(&GatewayId::random()), &member));
        assert!(!takes(&subjects().members_of_channel(&Channel::parse("chat:a").unwrap()), &member));
        let here = member.replace(".presence.", ".here.");
        assert!(takes(&subjects().here(&channel), &here) && takes(&subjects().all_here("chat"), &here));
        assert_eq!(subjects().here_key(&here), Some("chat.a=3Ab"));
        let lease = subjects().lease(&gateway);
        assert!(takes(&subjects().all_leases(), &lease) && !takes(&subjects().all_members(), &lease));
        assert_eq!(Subjects::gateway_in(&lease), Some(gateway.clone()));
        assert_eq!(client.gateway(), gateway);
    }

    #[test]
    fn a_requests_subject_carries_method_part_and_id() {
        let id = RequestId::parse("gw.1").unwrap();
        let subject = subjects().request(&Address::new(Kind::Rpc("orders.place"), "42", &id));
        assert_eq!(subject, format!("tide.in.rpc.orders.place.{}.gw.1", part("42")));
        assert_eq!(Subjects::id_in(&subject), Some("gw.1"));
        assert_eq!(subjects().due(&subject), Some(subject.replace(".in.", ".due.")));
        assert_eq!(subjects().due("tide.ch.a.b"), None);
    }

    proptest! {
        #[test]
        fn a_filter_takes_exactly_the_methods_its_pattern_matches(
            words in proptest::collection::vec(prop_oneof!["[ab]", Just("{x}".to_owned())], 1..4), open in any::<bool>(),
            method in proptest::collection::vec("[abc*>. ]{1,3}", 1..5),
        ) {
            let pattern: Pattern = format!("{}{}", words.join("."), if open { ".>" } else { "" }).parse().unwrap();
            let method = method.join(".").replace("..", ".x.");
            prop_assume!(crate::route::Method::parse(&method).is_ok());
            let id = RequestId::parse("gw.1").unwrap();
            let subject = subjects().request(&Address::new(Kind::Rpc(&method), "", &id));
            prop_assert_eq!(takes(&subjects().rpc_filter("in", &pattern), &subject), pattern.matches(&method));
        }

        #[test]
        fn a_filter_takes_exactly_the_publishes_of_its_namespace(name in any::<String>(), namespace in "[a-z]{1,3}", user in any::<String>()) {
            for name in [name.clone(), format!("{namespace}:{name}")] {
                let Ok(channel) = Channel::parse(&name) else { continue };
                prop_assume!(!channel.namespace().contains(['.', '*', '>', ' ']));
                let id = RequestId::parse("gw.1").unwrap();
                let subject = subjects().request(&Address::new(Kind::Publish(&channel), &user, &id));
                for stage in ["in", "due"] {
                    let subject = if stage == "in" { subject.clone() } else { subjects().due(&subject).unwrap() };
                    prop_assert_eq!(takes(&subjects().publish_filter(stage, &namespace), &subject), channel.namespace() == namespace);
                    prop_assert!(!takes(&subjects().send_filter(stage), &subject));
                }
                prop_assert_eq!(Subjects::id_in(&subject), Some("gw.1"));
            }
        }

        #[test]
        fn no_channel_name_reaches_another_channels_subject(a in any::<String>(), b in any::<String>()) {
            let (Ok(a), Ok(b)) = (Channel::parse(&a), Channel::parse(&b)) else { return Ok(()) };
            prop_assume!(!a.namespace().contains(['.', '*', '>', ' ']) && !b.namespace().contains(['.', '*', '>', ' ']));
            prop_assert_eq!(takes(&subjects().live(&a), &subjects().live(&b)), a == b);
        }
    }
}
