//! The table of rights. A new subject needs a line here and nothing else: nats.conf, `tidegate nats-config`, the probes and the
//! permission test follow.

use std::{collections::BTreeSet, time::Duration};

use super::{Account, Answers, Kind, Right};
use crate::{
    config::{Config, Namespace},
    subject::Subjects,
    topology::{PARK, PRESENCE, REPLY, Topology, channel_stream, last_stream},
};

/// How long the server remembers a read of several messages after its last message.
const READ: Answers = Answers::Many(Duration::from_secs(30));
/// How long the server remembers a pull after its last message or heartbeat.
const PULL: Answers = Answers::Many(Duration::from_mins(1));

/// The methods of the server API that the service user may call. `history_remove` is left out on purpose.
const METHODS: [&str; 13] = [
    "publish",
    "broadcast",
    "history",
    "presence",
    "presence_stats",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "refresh",
    "channels",
    "info",
    "rpc",
    "batch",
];

/// The rights of every account.
pub(super) fn rights(config: &Config) -> Vec<(Account, Right)> {
    let (subjects, topology) = (config.subjects(), Topology::of(config));
    let tables = [
        (Account::Gateway, gateway(config, &subjects, &topology)),
        (Account::Worker, worker(&subjects, &topology)),
        (Account::Purger, purger(&subjects, &topology)),
        (Account::Service, service(config, &subjects)),
        (Account::Setup, setup(config, &topology)),
        (Account::Ops, ops()),
    ];
    tables.into_iter().flat_map(|(account, rights)| rights.into_iter().map(move |r| (account, r))).collect()
}

fn gateway(config: &Config, subjects: &Subjects, topology: &Topology) -> Vec<Right> {
    let mut rights = vec![
        store(subjects.under("in.>"), "stores requests"),
        store(subjects.under("ch.>"), "stores publications"),
        store(subjects.under("presence.>"), "stores its lease and the members of channels"),
        read(&format!("{REPLY}.{}", subjects.under("reply.>")), "looks for the answer to a repeated request"),
        api(&format!("DIRECT.GET.{PRESENCE}"), READ, "reads members and leases"),
        read(&format!("{PRESENCE}.>"), "reads members and leases"),
        api("STREAM.INFO.*", Answers::One, "checks the streams, reads epochs"),
    ];
    for stream in consumed(topology).into_iter().filter(|stream| stream != PARK) {
        let requests = format!("{stream}.{}", subjects.under("in.>"));
        rights.push(read(&requests, "looks for an earlier copy of a repeated request"));
    }
    rights.extend(parked(subjects));
    for namespace in config.all_namespaces().iter().filter(|namespace| namespace.has_history()) {
        rights.extend(history(namespace));
        if namespace.proves_quiet() {
            let last = last_stream(&namespace.name);
            rights.push(api(&format!("DIRECT.GET.{last}"), READ, "reads the last message of each channel"));
        }
    }
    rights.extend([
        Right::new(
            subjects.under("hook.*"),
            Kind::Call(&[Account::Worker, Account::Service], Answers::One),
            "asks back ends: programs with the user of workers or of services",
        ),
        Right::new(subjects.under("live.>"), Kind::Hear, "receives publications"),
        Right::new(subjects.under("here.>"), Kind::Hear, "receives joins, leaves and the ends of leases"),
        Right::new(subjects.under("emulate.*"), Kind::Talk, "hands posted commands to another gateway"),
        Right::new(subjects.under("peer.*"), Kind::Talk, "asks other gateways"),
        Right::new(
            subjects.barrier(),
            Kind::Barrier,
            "waits until the server has handled what was sent before",
        ),
    ]);
    rights
}

/// The rights in the stream of a namespace with history.
fn history(namespace: &Namespace) -> [Right; 3] {
    let stream = channel_stream(&namespace.name);
    [
        api(&format!("DIRECT.GET.{stream}"), READ, "reads and empties channels of a namespace with history"),
        read(&format!("{stream}.>"), "reads and empties channels of a namespace with history"),
        api(
            &format!("STREAM.PURGE.{stream}"),
            Answers::One,
            "reads and empties channels of a namespace with history",
        ),
    ]
}

fn worker(subjects: &Subjects, topology: &Topology) -> Vec<Right> {
    let mut rights = vec![
        store(subjects.under("reply.*.*"), "stores answers"),
        store(subjects.under("ch.>"), "stores publications"),
        Right::new(
            subjects.under("answer.*.*"),
            Kind::Call(&[Account::Gateway], Answers::One),
            "brings answers to gateways",
        ),
        store(subjects.under("park.*.*"), "parks requests until their next attempt"),
        store(subjects.under("dead.*.*"), "stores dead letters"),
        read(&format!("{REPLY}.{}", subjects.under("reply.>")), "looks for the answer to a repeated request"),
    ];
    rights.extend(parked(subjects));
    for stream in consumed(topology) {
        const WHY: &str = "finds consumers, pulls requests, acknowledges";
        rights.extend([
            api(&format!("CONSUMER.INFO.{stream}.*"), Answers::One, WHY),
            api(&format!("CONSUMER.MSG.NEXT.{stream}.*"), PULL, WHY),
            store(format!("$JS.ACK.{stream}.>"), WHY),
        ]);
    }
    rights
}

/// The rights to look for parked copies of a request with a key.
fn parked(subjects: &Subjects) -> [Right; 2] {
    ["park.k.*", "due.>"].map(|words| {
        read(&format!("{PARK}.{}", subjects.under(words)), "looks for an earlier copy of a repeated request")
    })
}

fn purger(subjects: &Subjects, topology: &Topology) -> Vec<Right> {
    const WHY: &str = "reads how far the workers are, removes what they have acknowledged";
    // A list without a subject would allow every subject, and there may be no route.
    let mut rights = vec![Right::new(subjects.barrier(), Kind::Barrier, WHY)];
    for stream in consumed(topology).into_iter().filter(|stream| stream != PARK) {
        rights.extend(
            [
                format!("CONSUMER.INFO.{stream}.*"),
                format!("STREAM.INFO.{stream}"),
                format!("STREAM.PURGE.{stream}"),
            ]
            .map(|call| api(&call, Answers::One, WHY)),
        );
    }
    rights
}

fn service(config: &Config, subjects: &Subjects) -> Vec<Right> {
    let gateways = Kind::Call(&[Account::Gateway], Answers::One);
    // A line for each namespace: what is published for a namespace that does not exist would otherwise vanish without a word.
    let mut rights: Vec<Right> = config
        .all_namespaces()
        .iter()
        .map(|namespace| store(subjects.all_channels(&namespace.name).0, "stores publications"))
        .collect();
    rights.extend([
        Right::new(subjects.under("push.>"), gateways.clone(), "sends to one connection or to all"),
        Right {
            only: METHODS.iter().map(|method| subjects.control(method)).collect(),
            ..Right::new(
                subjects.all_controls(),
                gateways,
                "calls the server API: one subject for each method",
            )
        },
    ]);
    rights
}

fn setup(config: &Config, topology: &Topology) -> Vec<Right> {
    const STREAMS: &str = "compares, creates and updates streams";
    const CONSUMERS: &str = "compares, creates, updates and removes consumers";
    let mut rights: Vec<Right> = ["STREAM.NAMES", "STREAM.INFO.*", "STREAM.CREATE.*", "STREAM.UPDATE.*"]
        .map(|call| api(call, Answers::One, STREAMS))
        .into();
    for namespace in config.all_namespaces() {
        for stream in [channel_stream(&namespace.name), last_stream(&namespace.name)] {
            let call = format!("STREAM.DELETE.{stream}");
            rights.push(api(&call, Answers::One, "makes the streams of namespaces anew"));
        }
    }
    rights.push(api("STREAM.DELETE.TIDE_IN", Answers::One, "removes the queue of earlier versions"));
    rights.push(api("CONSUMER.INFO.*.*", Answers::One, CONSUMERS));
    for stream in consumed(topology) {
        rights.extend(
            [format!("CONSUMER.CREATE.{stream}.>"), format!("CONSUMER.DELETE.{stream}.*")]
                .map(|call| api(&call, Answers::One, CONSUMERS)),
        );
    }
    rights
}

fn ops() -> Vec<Right> {
    [
        "STREAM.INFO.*",
        "STREAM.LIST",
        "STREAM.NAMES",
        "CONSUMER.INFO.*.*",
        "CONSUMER.LIST.*",
        "CONSUMER.NAMES.*",
    ]
    .map(|call| api(call, Answers::One, "reads the state of streams and consumers"))
    .into()
}

/// The streams that have consumers. A wildcard cannot match a part of a stream's name, so each one has a line.
fn consumed(topology: &Topology) -> BTreeSet<String> {
    topology.consumers().map(|(stream, _)| stream).collect()
}

fn store(subject: String, why: &'static str) -> Right {
    Right::new(subject, Kind::Call(&[Account::Store], Answers::One), why)
}

/// A call of JetStream's API.
fn api(call: &str, answers: Answers, why: &'static str) -> Right {
    Right::new(format!("$JS.API.{call}"), Kind::Call(&[Account::Store], answers), why)
}

/// A read of the last message of a subject.
fn read(subject: &str, why: &'static str) -> Right {
    api(&format!("DIRECT.GET.{subject}"), Answers::One, why)
}

impl Right {
    fn new(subject: String, kind: Kind, why: &'static str) -> Self {
        Self { subject, kind, only: Vec::new(), why }
    }
}
