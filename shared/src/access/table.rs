//! The table of rights. A new subject needs a line here and nothing else: nats.conf, `tidegate nats-config`, the probes and the
//! permission test follow.

use std::{collections::BTreeSet, time::Duration};

use self::publish::{passing, publications};
use super::{Account, Answers, Kind, Right};
use crate::{
    channel::USER_NAMESPACE,
    config::{Config, Namespace},
    subject::{SERVICES, Subjects},
    topology::{
        ADVISORIES, ATTEMPT, DEAD, FIRINGS, PARK, PRESENCE, REPLY, SWEEPER, Topology, channel_stream,
        last_stream,
    },
};

mod publish;

/// How long the server remembers a read of several messages after its last message.
const READ: Answers = Answers::Many(Duration::from_secs(30));
/// How long the server remembers a pull after its last message or heartbeat.
const PULL: Answers = Answers::Many(Duration::from_mins(1));

/// How long the server remembers a question to all workers after the last answer.
const SERVICE_ANSWERS: Answers = Answers::Many(Duration::from_secs(5));

/// The methods of the server API that the service user may call. `history_remove` and those about routes and dead letters are
/// left out on purpose: they need a right of their own.
const METHODS: [&str; 20] = [
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
    "enqueue",
    "job",
    "job_cancel",
    "schedule_set",
    "schedule_list",
    "schedule_show",
    "schedule_remove",
    "batch",
];

/// The methods of the server API that only operators may call over NATS.
const OPERATORS: [&str; 7] =
    ["routes", "route_pause", "route_resume", "dead_list", "dead_show", "dead_redrive", "dead_drop"];

/// The rights of every account.
pub(super) fn rights(config: &Config) -> Vec<(Account, Right)> {
    let (subjects, topology) = (config.subjects(), Topology::of(config));
    let tables = [
        (Account::Gateway, gateway(config, &subjects, &topology)),
        (Account::Worker, worker(config, &subjects, &topology)),
        (Account::Purger, purger(config, &subjects, &topology)),
        (Account::Service, service(config, &subjects)),
        (Account::Setup, setup(config, &topology)),
        (Account::Ops, ops(&subjects)),
    ];
    tables.into_iter().flat_map(|(account, rights)| rights.into_iter().map(move |r| (account, r))).collect()
}

fn gateway(config: &Config, subjects: &Subjects, topology: &Topology) -> Vec<Right> {
    let mut rights = vec![
        store(subjects.under("in.>"), "stores requests"),
        store(subjects.under("first.>"), "stores requests with priority"),
        store(subjects.under("park.*.*"), "stores schedules, and requests that are due later, or redriven"),
        store(subjects.under("due.removed.*.*"), "removes a cancelled request from the parked ones"),
        store(subjects.all_firings(), "removes a schedule and what it has fired"),
        store(subjects.under("reply.*.*"), "stores that a request is cancelled"),
        store(subjects.under("presence.>"), "stores its lease and the members of channels"),
        read(&format!("{REPLY}.{}", subjects.under("reply.>")), "looks for the answer to a repeated request"),
        api(&format!("DIRECT.GET.{REPLY}"), READ, "looks for the answers to several requests at once"),
        api(&format!("DIRECT.GET.{DEAD}"), READ, "reads, redrives and drops dead letters"),
        api(&format!("STREAM.MSG.DELETE.{DEAD}"), Answers::One, "reads, redrives and drops dead letters"),
        api(
            &format!("STREAM.PURGE.{REPLY}"),
            Answers::One,
            "forgets the error of a request that is redriven",
        ),
        api(&format!("DIRECT.GET.{PRESENCE}"), READ, "reads members and leases"),
        read(&format!("{PRESENCE}.>"), "reads members and leases"),
        api("STREAM.INFO.*", Answers::One, "checks the streams, reads epochs"),
        api(&format!("DIRECT.GET.{PARK}"), READ, "lists schedules"),
        api(&format!("CONSUMER.MSG.NEXT.{PARK}.{FIRINGS}"), PULL, "pulls the firings of schedules"),
        store(format!("$JS.ACK.{PARK}.{FIRINGS}.>"), "acknowledges the firings of schedules"),
    ];
    for stream in consumed(topology).into_iter().filter(|stream| stream != PARK) {
        for lane in ["in.>", "first.>"] {
            let requests = format!("{stream}.{}", subjects.under(lane));
            rights.push(read(&requests, "looks for an earlier copy of a repeated request"));
        }
    }
    for stream in consumed(topology) {
        const WHY: &str = "shows, pauses and resumes routes";
        let calls = [format!("CONSUMER.INFO.{stream}.*"), format!("CONSUMER.PAUSE.{stream}.*")];
        rights.extend(calls.map(|call| api(&call, Answers::One, WHY)));
    }
    rights.extend(parked(subjects));
    for namespace in config.all_namespaces().iter().filter(|namespace| namespace.has_history()) {
        rights.push(store(subjects.all_channels(&namespace.name).0, "stores publications"));
        rights.extend(history(namespace));
        if namespace.proves_quiet() {
            let last = last_stream(&namespace.name);
            rights.push(api(&format!("DIRECT.GET.{last}"), READ, "reads the last message of each channel"));
        }
    }
    rights.extend(conversations(subjects));
    rights.extend(passing(config, subjects));
    rights
}

/// What a gateway says and hears without a stream.
fn conversations(subjects: &Subjects) -> Vec<Right> {
    vec![
        Right::new(
            subjects.under("hook.*"),
            Kind::Call(&[Account::Worker, Account::Service], Answers::One),
            "asks back ends: programs with the user of workers or of services",
        ),
        Right::new(
            subjects.under("running.*.*"),
            Kind::Call(&[Account::Worker], Answers::One),
            "asks which worker runs a request",
        ),
        Right::new(
            subjects.under("cancel.*.*"),
            Kind::Call(&[Account::Worker], Answers::One),
            "tells the worker that a request is cancelled",
        ),
        Right::new(
            subjects.under("gone.*.*"),
            Kind::Call(&[Account::Worker], Answers::One),
            "tells workers that a client's connection has ended",
        ),
        Right::new(
            subjects.under("answer.*.*"),
            Kind::Talk,
            "tells the gateways that wait for a request that it is cancelled",
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
    ]
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

fn worker(config: &Config, subjects: &Subjects, topology: &Topology) -> Vec<Right> {
    let mut rights = vec![
        store(subjects.under("reply.*.*"), "stores answers"),
        store(
            subjects.under("park.*.*"),
            "parks requests until their next attempt, and follow-ups until they are due; sets schedules",
        ),
        store(subjects.all_firings(), "removes a schedule and what it has fired"),
        store(subjects.under("dead.*.*"), "stores dead letters"),
        store(
            subjects.under("in.>"),
            "stores follow-ups, and queues due requests again on routes with a strict order or a limit",
        ),
        store(subjects.under("first.>"), "stores follow-ups with priority"),
        store(subjects.under("attempt.*.*"), "remembers the attempts of requests in a strict order"),
        read(
            &format!("{ATTEMPT}.{}", subjects.under("attempt.>")),
            "remembers the attempts of requests in a strict order",
        ),
        store(subjects.under("start.*.*"), "counts starts on routes that limit them"),
        read(&format!("{REPLY}.{}", subjects.under("reply.>")), "looks for the answer to a repeated request"),
        api(&format!("DIRECT.GET.{REPLY}"), READ, "looks for the answers to several requests at once"),
        api(&format!("DIRECT.GET.{PARK}"), READ, "looks for parked copies of several requests at once"),
    ];
    for namespace in &config.all_namespaces() {
        rights.push(publications(namespace, subjects, "publishes to clients"));
    }
    rights.push(Right::new(
        subjects.barrier(),
        Kind::Barrier,
        "waits until the server has what was published",
    ));
    rights.extend(words_to_gateways(subjects));
    rights.extend(parked(subjects));
    let forwarded: BTreeSet<&str> =
        config.routes.iter().filter_map(|route| Some(route.forward.as_ref()?.subject.as_str())).collect();
    rights.extend(forwarded.into_iter().map(|subject| {
        let kind = Kind::Call(&[Account::Service], Answers::One);
        Right::new(subject.to_owned(), kind, "forwards requests to a service: the stock handler `forward`")
    }));
    for stream in consumed(topology) {
        const WHY: &str = "finds consumers, pulls requests, acknowledges";
        rights.extend([
            api(&format!("CONSUMER.INFO.{stream}.*"), Answers::One, WHY),
            api(&format!("CONSUMER.MSG.NEXT.{stream}.*"), PULL, WHY),
            store(format!("$JS.ACK.{stream}.>"), WHY),
        ]);
        if stream != PARK {
            let requests = format!("{stream}.{}", subjects.under("in.>"));
            rights
                .push(read(&requests, "queues due requests again on routes with a strict order or a limit"));
        }
    }
    for stream in consumed(topology).into_iter().filter(|stream| stream != PARK) {
        rights.push(api(&format!("DIRECT.GET.{stream}"), READ, "reads when the oldest request was stored"));
    }
    rights
}

/// What a worker tells and asks gateways.
fn words_to_gateways(subjects: &Subjects) -> Vec<Right> {
    const PROGRESS: &str = "tells clients how far their requests are";
    let calls = [
        ("answer.*.*", "brings answers to gateways"),
        ("connected.*.*", "asks whether a client is connected"),
        ("push.client.*.*", PROGRESS),
        ("push.user.*", PROGRESS),
    ];
    let call =
        |(words, why)| Right::new(subjects.under(words), Kind::Call(&[Account::Gateway], Answers::One), why);
    calls.map(call).into()
}

/// The rights to look for parked copies of a request.
fn parked(subjects: &Subjects) -> [Right; 2] {
    ["park.*.*", "due.>"].map(|words| {
        read(&format!("{PARK}.{}", subjects.under(words)), "looks for an earlier copy of a repeated request")
    })
}

fn purger(config: &Config, subjects: &Subjects, topology: &Topology) -> Vec<Right> {
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
    rights.extend(sweeper(config, subjects, topology));
    rights
}

/// What the purger needs to make dead letters of requests that a worker terminated, or that were delivered as often as allowed.
fn sweeper(config: &Config, subjects: &Subjects, topology: &Topology) -> Vec<Right> {
    const WHY: &str = "makes dead letters of requests that were terminated, or delivered as often as allowed";
    const TELLS: &str = "tells clients of dead letters";
    let mut rights = vec![
        api(&format!("STREAM.INFO.{ADVISORIES}"), Answers::One, WHY),
        api(&format!("CONSUMER.MSG.NEXT.{ADVISORIES}.{SWEEPER}"), PULL, WHY),
        store(format!("$JS.ACK.{ADVISORIES}.{SWEEPER}.>"), WHY),
        api(&format!("DIRECT.GET.{DEAD}"), READ, WHY),
        read(&format!("{REPLY}.{}", subjects.under("reply.>")), WHY),
        store(subjects.under("dead.*.*"), WHY),
        store(subjects.under("reply.*.*"), TELLS),
        Right::new(subjects.under("answer.*.*"), Kind::Call(&[Account::Gateway], Answers::One), TELLS),
    ];
    rights.extend(parked(subjects));
    let personal = config.all_namespaces().into_iter().find(|namespace| namespace.name == USER_NAMESPACE);
    rights.extend(personal.map(|namespace| publications(&namespace, subjects, TELLS)));
    for stream in consumed(topology) {
        rights.push(api(&format!("DIRECT.GET.{stream}"), READ, WHY));
        rights.push(api(&format!("STREAM.MSG.DELETE.{stream}"), Answers::One, WHY));
    }
    rights
}

fn service(config: &Config, subjects: &Subjects) -> Vec<Right> {
    let gateways = Kind::Call(&[Account::Gateway], Answers::One);
    // A line for each namespace: what is published for a namespace that does not exist would otherwise vanish without a word.
    let mut rights: Vec<Right> = config
        .all_namespaces()
        .iter()
        .map(|namespace| publications(namespace, subjects, "publishes to clients"))
        .collect();
    rights.extend([
        Right::new(subjects.barrier(), Kind::Barrier, "waits until the server has what was published"),
        Right::new(subjects.under("push.>"), gateways, "sends to one connection or to all"),
        methods(subjects, &METHODS, "calls the server API: one subject for each method"),
    ]);
    rights
}

fn setup(config: &Config, topology: &Topology) -> Vec<Right> {
    const STREAMS: &str = "compares, creates and updates streams";
    const CONSUMERS: &str = "compares, creates, updates, removes and pauses consumers";
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
    rights.push(api("CONSUMER.NAMES.*", Answers::One, CONSUMERS));
    for stream in consumed(topology).into_iter().chain([ADVISORIES.to_owned()]) {
        rights.extend(
            [
                format!("CONSUMER.CREATE.{stream}.>"),
                format!("CONSUMER.DELETE.{stream}.*"),
                format!("CONSUMER.PAUSE.{stream}.*"),
            ]
            .map(|call| api(&call, Answers::One, CONSUMERS)),
        );
    }
    rights
}

fn ops(subjects: &Subjects) -> Vec<Right> {
    let mut rights: Vec<Right> = [
        "STREAM.INFO.*",
        "STREAM.LIST",
        "STREAM.NAMES",
        "CONSUMER.INFO.*.*",
        "CONSUMER.LIST.*",
        "CONSUMER.NAMES.*",
    ]
    .map(|call| api(call, Answers::One, "reads the state of streams and consumers"))
    .into();
    rights.push(methods(subjects, &OPERATORS, "calls the methods of the server API that are for operators"));
    let workers = Kind::Call(&[Account::Worker], SERVICE_ANSWERS);
    rights.push(Right::new(SERVICES.to_owned(), workers, "lists the workers as NATS services"));
    rights
}

/// The right to call these methods of the server API: one subject for each.
fn methods(subjects: &Subjects, methods: &[&str], why: &'static str) -> Right {
    Right {
        only: methods.iter().map(|method| subjects.control(method)).collect(),
        ..Right::new(subjects.all_controls(), Kind::Call(&[Account::Gateway], Answers::One), why)
    }
}

/// The streams with consumers of requests. A wildcard cannot match a part of a stream's name, so each one has a line.
fn consumed(topology: &Topology) -> BTreeSet<String> {
    topology.consumers().map(|(stream, _)| stream).filter(|stream| stream != ADVISORIES).collect()
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
