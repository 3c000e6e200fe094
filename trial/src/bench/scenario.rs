//! What is measured: scenarios, their cases, and the sides that can take part in each.

use serde::{Deserialize, Serialize};

use self::stand::Field;
use super::{results::Figure, server::Peer};

mod accepts;
mod bare;
mod beside;
mod channels;
mod crowds;
mod fanout;
mod faults;
mod hostile;
pub(super) mod stand;
mod times;

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Memory and processor time of idle connections
    Idle,
    /// Connects a second, with tokens
    Connect,
    /// One publication to many clients, and many channels with one client each
    Fanout,
    /// Requests and publications of clients that are stored before they are acknowledged
    Uplink,
    /// Requests a second, with their answers
    Rpc,
    /// A request to a worker and back, at a low rate
    Roundtrip,
    /// A client's publication, at a low rate
    Publish,
    /// A storm of clients that have missed publications
    Recovery,
    /// Clients whose connections are cut again and again
    Jitter,
    /// A gateway is killed, and its clients return to another one
    Avalanche,
    /// One client that reads slowly among many
    Slow,
    /// What a channel, and a publication, cost in memory
    Channels,
    /// Attackers beside a hundred clients
    Hostile,
}

impl Scenario {
    /// What the report calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Idle => "Idle connections",
            Self::Connect => "Connecting",
            Self::Fanout => "Fan-out",
            Self::Uplink => "Accepting from clients",
            Self::Rpc => "Requests and answers",
            Self::Roundtrip => "Round trip at a low rate",
            Self::Publish => "One publication at a low rate",
            Self::Recovery => "Recovery storm",
            Self::Jitter => "Connections that break",
            Self::Avalanche => "A gateway is killed",
            Self::Slow => "A slow reader",
            Self::Channels => "Memory of channels and publications",
            Self::Hostile => "Under attack",
        }
    }
}

/// One table.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) scenario: Scenario,
    pub(crate) name: String,
    pub(crate) peers: Vec<Peer>,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Crowd(crowds::Crowd),
    Fanout(fanout::Fanout),
    Accepts(accepts::Accepts),
    Times(times::Times),
    Fault(faults::Fault),
    Channels(channels::Held),
    Hostile(hostile::Hostile),
}

/// What one turn of one side has measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) figures: Vec<Figure>,
    pub(crate) remarks: Vec<String>,
    pub(crate) foreign_cpu_percent: f64,
}

/// The size of all runs. Small ones only show that everything works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Whole,
    /// The same load for a shorter time.
    Short,
    /// A handful of clients for a second.
    Small,
}

impl Scale {
    /// A number of clients.
    fn clients(self, count: usize) -> usize {
        if self == Self::Small { (count / 500).clamp(2, 20) } else { count }
    }

    /// A time in milliseconds.
    fn millis(self, millis: u64) -> u64 {
        match self {
            Self::Whole => millis,
            Self::Short => millis * 3 / 5,
            Self::Small => (millis / 10).clamp(200, 1500),
        }
    }

    /// A time that must not be shorter, because something else has this period.
    fn period(self, millis: u64) -> u64 {
        if self == Self::Small { self.millis(millis) } else { millis }
    }

    /// A rate a second, over all clients.
    fn rate(self, rate: u32) -> u32 {
        if self == Self::Small { (rate / 10).max(10) } else { rate }
    }
}

/// The cases of a scenario.
pub(crate) fn cases(scenario: Scenario, scale: Scale) -> Vec<Case> {
    let case = |(name, peers, what): (String, Vec<Peer>, What)| Case { scenario, name, peers, what };
    let all = match scenario {
        Scenario::Idle => crowds::idle(scale),
        Scenario::Connect => crowds::connect(scale),
        Scenario::Fanout => fanout::cases(scale),
        Scenario::Uplink => accepts::uplink(scale),
        Scenario::Rpc => accepts::rpc(scale),
        Scenario::Roundtrip => times::roundtrip(scale),
        Scenario::Publish => times::publish(scale),
        Scenario::Recovery => faults::recovery(scale),
        Scenario::Jitter => faults::jitter(scale),
        Scenario::Avalanche => faults::avalanche(scale),
        Scenario::Slow => faults::slow(scale),
        Scenario::Channels => channels::cases(scale),
        Scenario::Hostile => hostile::cases(scale),
    };
    all.into_iter().map(case).collect()
}

impl Case {
    /// Whether what is acknowledged is to be kept.
    pub(crate) fn keeps(&self) -> bool {
        match &self.what {
            What::Fanout(fanout) => fanout.keeps(),
            What::Accepts(accepts) => accepts.keeps(),
            What::Times(times) => times.keeps(),
            What::Fault(_) => true,
            What::Crowd(_) | What::Channels(_) | What::Hostile(_) => false,
        }
    }

    /// Measures one side once.
    pub(crate) async fn run(&self, peer: Peer, field: &Field) -> anyhow::Result<Measured> {
        match &self.what {
            What::Crowd(crowd) => Box::pin(crowd.run(peer, field)).await,
            What::Fanout(fanout) => Box::pin(fanout.run(peer, field)).await,
            What::Accepts(accepts) => Box::pin(accepts.run(peer, field)).await,
            What::Times(times) => Box::pin(times.run(peer, field)).await,
            What::Fault(fault) => Box::pin(fault.run(peer, field)).await,
            What::Channels(memory) => Box::pin(memory.run(peer, field)).await,
            What::Hostile(hostile) => Box::pin(hostile.run(peer, field)).await,
        }
    }
}
