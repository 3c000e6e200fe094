//! Building and parsing of NATS subjects. No other module does it.
//!
//! Every name from outside is encoded as a [`Token`], so a name can never widen a subject or a subscription.

mod address;
mod advisories;
mod running;
mod schedules;

use std::sync::Arc;

pub use self::{
    address::{Address, Kind, PARTS, part},
    advisories::{advisories, all_advisories},
};
use crate::{
    channel::Channel,
    hook::Event,
    id::{ClientId, GatewayId, RequestId},
    route::{Pattern, Priority, Word},
    token::Token,
};

/// What is asked of NATS services: every one, or one of a name, says what it is (ADR-32).
pub const SERVICES: &str = "$SRV.>";

/// The subjects of one deployment.
#[derive(Debug, Clone)]
pub struct Subjects {
    prefix: Arc<str>,
}

/// The stages of a request that no worker has parked yet: `in` is the normal lane of its route, `first` that of requests with
/// priority. Behind the stage comes the address.
const LANES: [&str; 2] = ["in", "first"];

/// In the place of a request's random part: several answers. No request has it.
const TOGETHER: &str = "=together";

impl Subjects {
    /// Creates the subjects under `prefix`. The configuration has checked that it is one token.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// A pattern under the prefix.
    pub(crate) fn under(&self, pattern: &str) -> String {
        format!("{}.{pattern}", self.prefix)
    }

    /// A request on its way to a worker, in the lane of its priority.
    pub fn request(&self, address: &Address) -> String {
        let [normal, first] = LANES;
        let stage = if address.priority == Priority::High { first } else { normal };
        format!("{}.{stage}.{}", self.prefix, address.words)
    }

    /// All requests, of every route.
    pub fn all_requests(&self) -> String {
        format!("{}.in.>", self.prefix)
    }

    /// The requests of a route whose rpc methods match `pattern`; `stage` is `in`, `first` or `due`.
    pub fn rpc_filter(&self, stage: &str, pattern: &Pattern) -> String {
        let mut filter = format!("{}.{stage}.rpc", self.prefix);
        for word in pattern.words() {
            filter.push('.');
            match word {
                Word::Literal(word) => filter.push_str(Token::encode(word).as_str()),
                Word::Any(_) => filter.push('*'),
            }
        }
        // Part and id come last, so an open pattern still requires at least one further word.
        filter.push_str(if pattern.is_open() { ".*.*.*.>" } else { ".*.*.*" });
        filter
    }

    /// The requests of the route that takes `send`; `stage` is `in` or `due`.
    pub fn send_filter(&self, stage: &str) -> String {
        format!("{}.{stage}.send.*.*.*", self.prefix)
    }

    /// The publications of clients in a namespace with publish = "worker"; `stage` is `in` or `due`.
    pub fn publish_filter(&self, stage: &str, namespace: &str) -> String {
        format!("{}.{stage}.pub.{namespace}.*.*.*.*", self.prefix)
    }

    /// The requests of one part alone, of a filter that does not end in `>`. Part and id are the last three words.
    pub fn of_part(filter: &str, part: u32) -> Option<String> {
        filter.strip_suffix(".*.*.*").map(|head| format!("{head}.{part}.*.*"))
    }

    /// A request that waits for its next attempt.
    pub fn park(&self, id: &RequestId) -> String {
        format!("{}.park.{id}", self.prefix)
    }

    /// All parked requests.
    pub fn all_parked(&self) -> String {
        format!("{}.park.*.*", self.prefix)
    }

    /// All parked requests that are due.
    pub fn all_due(&self) -> String {
        format!("{}.due.>", self.prefix)
    }

    /// Where the broker publishes a parked request when it is due, given the subject it was delivered on.
    pub fn due(&self, delivered: &str) -> Option<String> {
        let rest = delivered.strip_prefix(&*self.prefix)?.strip_prefix('.')?;
        let (stage, address) = rest.split_once('.')?;
        let known = stage == "due" || LANES.contains(&stage);
        known.then(|| format!("{}.due.{address}", self.prefix))
    }

    /// Where a request that was due goes to take its place among the waiting ones again, given the subject it was delivered on.
    pub fn again(&self, due: &str) -> Option<String> {
        let address = due.strip_prefix(&*self.prefix)?.strip_prefix(".due.")?;
        Some(format!("{}.in.{address}", self.prefix))
    }

    /// What is remembered of a request that keeps its place in a strict order while it waits.
    pub fn attempt(&self, id: &RequestId) -> String {
        format!("{}.attempt.{id}", self.prefix)
    }

    /// The subjects of the stream `TIDE_ATTEMPT`.
    pub fn all_attempts(&self) -> String {
        format!("{}.attempt.*.*", self.prefix)
    }

    /// The count of a route's attempts that begin in one window of time.
    pub fn start(&self, route: &str, window: u64) -> String {
        format!("{}.start.{}.{window}", self.prefix, Token::encode(route))
    }

    /// The count of the calls that a `[[rate_limit]]` lets begin in one window of time.
    pub fn limited(&self, limit: &str, window: u64) -> String {
        // No route has a name with a dot.
        self.start(&format!("limit.{limit}"), window)
    }

    /// The subjects of the stream `TIDE_START`.
    pub fn all_starts(&self) -> String {
        format!("{}.start.*.*", self.prefix)
    }

    /// The answer to a request.
    pub fn reply(&self, id: &RequestId) -> String {
        format!("{}.reply.{id}", self.prefix)
    }

    /// All stored answers: the subjects of TIDE_REPLY.
    pub fn all_replies(&self) -> String {
        format!("{}.reply.*.*", self.prefix)
    }

    /// Where workers bring the answer to one request: to a plain one as a request that its gateway confirms, to a keyed one as a
    /// copy for every gateway that waits.
    pub fn answer(&self, id: &RequestId) -> String {
        format!("{}.answer.{id}", self.prefix)
    }

    /// The answers to the plain requests of one gateway.
    pub fn answers_of(&self, gateway: &GatewayId) -> String {
        format!("{}.answer.{}.*", self.prefix, gateway.as_str())
    }

    /// Where workers bring several answers to the plain requests of one gateway in one message: no request has this subject.
    pub fn answers_together(&self, gateway: &GatewayId) -> String {
        format!("{}.answer.{}.{TOGETHER}", self.prefix, gateway.as_str())
    }

    /// Whether a subject is such a one.
    pub fn is_together(subject: &str) -> bool {
        Self::last_token(subject) == TOGETHER
    }

    /// The live copies of the answers to all requests with a key.
    pub fn answers_of_keys(&self) -> String {
        format!("{}.answer.k.*", self.prefix)
    }

    /// Where the message is stored that removes a request from the parked ones. No route has this subject.
    pub fn unpark(&self, id: &RequestId) -> String {
        format!("{}.due.removed.{id}", self.prefix)
    }

    /// Where a request with this id may be, among the requests of a route's methods, in the stage `in` or `due`. A pattern that is
    /// open has a subject for each number of further words, up to eight.
    pub fn rpc_places(&self, stage: &str, pattern: &Pattern, id: &RequestId) -> Vec<String> {
        let filter = self.rpc_filter(stage, pattern);
        let head = filter.strip_suffix(".>").unwrap_or(&filter);
        let head = head.strip_suffix(".*.*.*").unwrap_or(head);
        let further = if pattern.is_open() { 1..=8 } else { 0..=0 };
        further.map(|words| format!("{head}{}.*.{id}", ".*".repeat(words))).collect()
    }

    /// Where a `send` with this id may be, in the stage `in` or `due`.
    pub fn send_place(&self, stage: &str, id: &RequestId) -> String {
        format!("{}.{stage}.send.*.{id}", self.prefix)
    }

    /// A publication in a channel.
    pub fn channel(&self, channel: &Channel) -> String {
        format!("{}.ch.{}.{}", self.prefix, channel.namespace(), channel.token())
    }

    /// All publications of a namespace: the subjects of its stream, and the subjects that the broker republishes them on.
    pub fn all_channels(&self, namespace: &str) -> (String, String) {
        (
            format!("{}.ch.{namespace}.*", self.prefix),
            format!("{}.live.{namespace}.{{{{wildcard(1)}}}}", self.prefix),
        )
    }

    /// A milestone of a gateway in a namespace's stream. No channel has this subject: no token begins with `=m`.
    pub fn milestone(&self, namespace: &str, number: u64) -> String {
        format!("{}.ch.{namespace}.=m{number}", self.prefix)
    }

    /// The republished publications of one channel.
    pub fn live(&self, channel: &Channel) -> String {
        format!("{}.live.{}.{}", self.prefix, channel.namespace(), channel.token())
    }

    /// The same, from the two words that name a channel in subjects.
    pub fn live_of(&self, namespace: &str, channel: &str) -> String {
        format!("{}.live.{namespace}.{channel}", self.prefix)
    }

    /// The republished publications of all channels of a namespace.
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

    /// The members of all channels whose connections one gateway has.
    pub fn members_of_gateway(&self, gateway: &GatewayId) -> String {
        format!("{}.presence.member.*.*.{}.*", self.prefix, gateway.as_str())
    }

    /// The members of all channels.
    pub fn all_members(&self) -> String {
        format!("{}.presence.member.*.*.*.*", self.prefix)
    }

    /// The lease of a gateway.
    pub fn lease(&self, gateway: &GatewayId) -> String {
        format!("{}.presence.gateway.{}", self.prefix, gateway.as_str())
    }

    /// The leases of all gateways.
    pub fn all_leases(&self) -> String {
        format!("{}.presence.gateway.*", self.prefix)
    }

    /// Members and leases: the subjects of TIDE_PRESENCE, and the subjects that the broker republishes them on.
    pub fn all_presence(&self) -> (String, String) {
        (format!("{}.presence.>", self.prefix), format!("{}.here.>", self.prefix))
    }

    /// The republished joins and leaves of a channel.
    pub fn here(&self, channel: &Channel) -> String {
        format!("{}.here.member.{}.{}.*.*", self.prefix, channel.namespace(), channel.token())
    }

    /// The republished joins and leaves of all channels of a namespace.
    pub fn all_here(&self, namespace: &str) -> String {
        format!("{}.here.member.{namespace}.*.*.*", self.prefix)
    }

    /// The republished leases of all gateways.
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

    /// A message for the connections of one user.
    pub fn push_user(&self, user: &str) -> String {
        format!("{}.push.user.{}", self.prefix, Token::encode(user))
    }

    /// The messages for the connections of all users.
    pub fn pushes_to_users(&self) -> String {
        format!("{}.push.user.*", self.prefix)
    }

    /// A message for all connections.
    pub fn push_all(&self) -> String {
        format!("{}.push.all", self.prefix)
    }

    /// The dead letters of one route.
    pub fn dead(&self, service: &str, route: &str) -> String {
        format!("{}.dead.{}.{}", self.prefix, Token::encode(service), Token::encode(route))
    }

    /// The dead letters of one route, of every service.
    pub fn dead_of(&self, route: &str) -> String {
        format!("{}.dead.*.{}", self.prefix, Token::encode(route))
    }

    /// All dead letters: the subjects of TIDE_DEAD.
    pub fn all_dead(&self) -> String {
        format!("{}.dead.*.*", self.prefix)
    }

    /// Commands for the connections of one gateway that were posted to another gateway, as a request.
    pub fn emulate(&self, gateway: &GatewayId) -> String {
        format!("{}.emulate.{}", self.prefix, gateway.as_str())
    }

    /// A method of the server API, with or without a reply.
    pub fn control(&self, method: &str) -> String {
        format!("{}.ctl.{}", self.prefix, Token::encode(method))
    }

    /// All methods of the server API.
    pub fn all_controls(&self) -> String {
        format!("{}.ctl.*", self.prefix)
    }

    /// A question from another gateway, as a request.
    pub fn peer(&self, gateway: &GatewayId) -> String {
        format!("{}.peer.{}", self.prefix, gateway.as_str())
    }

    /// A question to a back end, as a request.
    pub fn hook(&self, event: Event) -> String {
        format!("{}.hook.{}", self.prefix, event.as_str())
    }

    /// A subject without a responder: the broker answers at once, after everything sent before.
    pub fn barrier(&self) -> String {
        format!("{}.barrier", self.prefix)
    }

    /// Returns the words of a subject behind the prefix. `None` for a subject of something else.
    pub fn words<'a>(&self, subject: &'a str) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        Some(subject.strip_prefix(&*self.prefix)?.strip_prefix('.')?.split('.'))
    }

    /// Returns the last token of a subject: a method.
    pub fn last_token(subject: &str) -> &str {
        subject.rsplit('.').next().unwrap_or_default()
    }

    /// Whether a reply subject leads to the program that asks: it is an inbox, or the server's own subject for a question from
    /// another account. The server does not check reply subjects: with another one, the answer would be stored or obeyed with
    /// the rights of the program that answers.
    pub fn is_inbox(reply: &str) -> bool {
        ["_INBOX.", "_INBOX_", "_R_."].iter().any(|inbox| reply.starts_with(inbox))
    }

    /// Returns the last two tokens of a subject: an id.
    pub fn id_in(subject: &str) -> Option<&str> {
        let end = subject.rmatch_indices('.').nth(1)?.0;
        subject.get(end + 1..)
    }

    /// Returns the gateway of a lease's subject.
    pub fn gateway_in(subject: &str) -> Option<GatewayId> {
        GatewayId::parse(subject.rsplit('.').next()?)
    }

    /// Returns the `<namespace>.<token>` of a republished join or leave.
    pub fn here_key<'a>(&self, subject: &'a str) -> Option<&'a str> {
        let rest = subject.strip_prefix(&*self.prefix)?.strip_prefix(".here.member.")?;
        rest.get(..rest.rmatch_indices('.').nth(1)?.0)
    }

    /// Returns the `<namespace>.<token>` of a republished publication.
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
    fn subjects_of_plain_channel_names_are_readable() {
        assert_eq!(subjects().channel(&Channel::parse("chat:lobby").unwrap()), "tide.ch.chat.lobby");
        assert_eq!(subjects().channel(&Channel::personal("42")), "tide.ch.user.42");
    }

    #[test]
    fn a_push_to_a_user_names_its_personal_channel() {
        for user in ["42", "jörg.7", ""] {
            let (push, channel) = (subjects().push_user(user), subjects().live(&Channel::personal(user)));
            assert_eq!(Subjects::id_in(&push), subjects().live_key(&channel));
            assert!(takes(&subjects().pushes_to_users(), &push) && !takes(&subjects().push_all(), &push));
        }
    }

    #[test]
    fn a_milestones_subject_is_in_the_namespaces_stream_and_belongs_to_no_channel() {
        let milestone = subjects().milestone("chat", 7);
        assert!(takes(&subjects().all_channels("chat").0, &milestone));
        assert_eq!(Token::decode(milestone.rsplit('.').next().unwrap()), None);
    }

    #[test]
    fn a_members_subject_has_the_channel_and_the_client() {
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
    fn a_request_is_in_one_of_the_places_of_its_id() {
        let id = RequestId::parse("gw.1").unwrap();
        for (pattern, method) in [
            ("echo", "echo"),
            ("{a}.{b}.{c}", "x.y.z"),
            ("orders.{order}.place", "orders.7.place"),
            ("open.>", "open.a"),
            ("open.>", "open.a.b.c"),
        ] {
            let places = subjects().rpc_places("in", &pattern.parse().unwrap(), &id);
            let subject = |id| subjects().request(&Address::new(Kind::Rpc(method), "42", id));
            assert_eq!(places.iter().filter(|place| takes(place, &subject(&id))).count(), 1, "{pattern}");
            let other = subject(&RequestId::parse("gw.2").unwrap());
            assert!(!places.iter().any(|place| takes(place, &other)), "{pattern}");
        }
        let sent = subjects().request(&Address::new(Kind::Send, "42", &id));
        assert!(takes(&subjects().send_place("in", &id), &sent));
    }

    #[test]
    fn a_requests_subject_carries_method_part_and_id() {
        let id = RequestId::parse("gw.1").unwrap();
        let subject = subjects().request(&Address::new(Kind::Rpc("orders.place"), "42", &id));
        assert_eq!(subject, format!("tide.in.rpc.orders.place.{}.gw.1", part("42")));
        assert_eq!(Subjects::id_in(&subject), Some("gw.1"));
        assert_eq!(subjects().due(&subject), Some(subject.replace(".in.", ".due.")));
        assert_eq!(subjects().due("tide.ch.a.b"), None);
        assert_eq!(subjects().again(&subject.replace(".in.", ".due.")), Some(subject));
    }

    #[test]
    fn a_request_with_priority_has_a_lane_of_its_own_and_returns_like_any_other() {
        let id = RequestId::parse("gw.1").unwrap();
        let address = Address::new(Kind::Rpc("orders.place"), "42", &id);
        let first = subjects().request(&address.clone().with(Priority::High));
        assert_eq!(first, format!("tide.first.rpc.orders.place.{}.gw.1", part("42")));
        assert_eq!(subjects().due(&first), subjects().due(&subjects().request(&address)));
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
            let filter = subjects().rpc_filter("in", &pattern);
            prop_assert_eq!(takes(&filter, &subject), pattern.matches(&method));
            let parts = (0..PARTS).filter_map(|part| Subjects::of_part(&filter, part));
            let taking = parts.filter(|filter| takes(filter, &subject)).count();
            prop_assert_eq!(taking, usize::from(pattern.matches(&method) && !open));
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
