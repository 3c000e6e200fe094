//! Which faults happen and when: made of a seed alone, so that a run can be repeated. Pure.

use std::{fmt, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// How much longer than `ack_wait` a worker is stopped, at least and at most.
const BEYOND: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));
/// How long the broker or a gateway is stopped.
const STOPPED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(7));
/// How long a consumer is gone.
const GONE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// The time to recover after each fault. The next one may still meet a system that works off what is left.
const CALM: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(8));
/// The time without faults at the end of the run.
const END: Duration = Duration::from_secs(3);

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL of the gateway with this number, counted from 1.
    KillGateway(usize),
    KillWorker(usize),
    KillBroker,
    KillPurger,
    /// SIGKILL of every process at once.
    KillAll,
    /// SIGSTOP, and SIGCONT after this time: longer than `ack_wait`, so that other workers get its requests.
    StopWorker(usize, Duration),
    StopGateway(usize, Duration),
    StopBroker(Duration),
    /// One of the consumers of requests is deleted, and applied again after this time.
    DeleteConsumer(usize, Duration),
    /// Every connection of a client is reset.
    ResetConnections,
}

/// A fault, and the time to recover after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    pub(super) calm: Duration,
}

/// What the plan may fault.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) gateways: usize,
    pub(super) workers: usize,
    pub(super) ack_wait: Duration,
}

impl Fault {
    /// How long it lasts, without the restart of a process.
    fn time(self) -> Duration {
        match self {
            Self::StopWorker(_, time)
            | Self::StopGateway(_, time)
            | Self::StopBroker(time)
            | Self::DeleteConsumer(_, time) => time,
            Self::KillGateway(_)
            | Self::KillWorker(_)
            | Self::KillBroker
            | Self::KillPurger
            | Self::KillAll
            | Self::ResetConnections => Duration::ZERO,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillGateway(number) => write!(f, "kill -9 gateway-{number}"),
            Self::KillWorker(number) => write!(f, "kill -9 worker-{number}"),
            Self::KillBroker => write!(f, "kill -9 nats"),
            Self::KillPurger => write!(f, "kill -9 purger"),
            Self::KillAll => write!(f, "kill -9 every process"),
            Self::StopWorker(number, time) => write!(f, "SIGSTOP worker-{number} for {time:.1?}"),
            Self::StopGateway(number, time) => write!(f, "SIGSTOP gateway-{number} for {time:.1?}"),
            Self::StopBroker(time) => write!(f, "SIGSTOP nats for {time:.1?}"),
            Self::DeleteConsumer(_, time) => write!(f, "delete a consumer, apply again after {time:.1?}"),
            Self::ResetConnections => write!(f, "reset every connection of a client"),
        }
    }
}

/// Makes the faults of a run. They come in rounds: each round has every kind once, in an order of its own.
pub(super) fn plan(seed: u64, duration: Duration, shape: Shape) -> Vec<Step> {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut steps, mut left) = (Vec::new(), duration.saturating_sub(END));
    loop {
        for fault in round(&mut random, shape) {
            let calm = between(&mut random, CALM);
            let Some(rest) = left.checked_sub(fault.time() + calm) else { return steps };
            left = rest;
            steps.push(Step { fault, calm });
        }
    }
}

fn round(random: &mut StdRng, shape: Shape) -> [Fault; 10] {
    let gateway = |random: &mut StdRng| random.random_range(1..=shape.gateways.max(1));
    let worker = |random: &mut StdRng| random.random_range(1..=shape.workers.max(1));
    let mut round = [
        Fault::KillGateway(gateway(random)),
        Fault::KillWorker(worker(random)),
        Fault::KillBroker,
        Fault::KillPurger,
        Fault::KillAll,
        Fault::StopWorker(worker(random), shape.ack_wait + between(random, BEYOND)),
        Fault::StopGateway(gateway(random), between(random, STOPPED)),
        Fault::StopBroker(between(random, STOPPED)),
        Fault::DeleteConsumer(random.random_range(0..1024), between(random, GONE)),
        Fault::ResetConnections,
    ];
    round.shuffle(random);
    round
}

fn between(random: &mut StdRng, (least, most): (Duration, Duration)) -> Duration {
    random.random_range(least..=most)
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use proptest::prelude::*;

    use super::*;

    const SHAPE: Shape = Shape { gateways: 2, workers: 2, ack_wait: Duration::from_secs(5) };

    proptest! {
        #[test]
        fn every_plan_fits_its_time_and_each_fault_is_one_that_its_shape_allows(
            seed: u64, seconds in 0_u64..2000, gateways in 1_usize..4, workers in 1_usize..4, ack_wait in 1_u64..60,
        ) {
            let shape = Shape { gateways, workers, ack_wait: Duration::from_secs(ack_wait) };
            let duration = Duration::from_secs(seconds);
            let steps = plan(seed, duration, shape);
            prop_assert_eq!(&steps, &plan(seed, duration, shape));
            let total: Duration = steps.iter().map(|step| step.fault.time() + step.calm).sum();
            prop_assert!(total <= duration);
            for step in steps {
                prop_assert!(step.calm >= CALM.0);
                match step.fault {
                    Fault::KillGateway(number) | Fault::StopGateway(number, _) => prop_assert!((1..=gateways).contains(&number)),
                    Fault::KillWorker(number) => prop_assert!((1..=workers).contains(&number)),
                    Fault::StopWorker(number, time) => prop_assert!((1..=workers).contains(&number) && time > shape.ack_wait),
                    _ => {}
                }
            }
        }

        #[test]
        fn ten_minutes_have_every_kind_of_fault_several_times(seed: u64) {
            let steps = plan(seed, Duration::from_mins(10), SHAPE);
            for (index, kind) in steps.iter().take(10).enumerate() {
                let times = steps.iter().filter(|s| discriminant(&s.fault) == discriminant(&kind.fault)).count();
                prop_assert!(times >= 4, "{}: {times}", kind.fault);
                prop_assert!(!steps.iter().take(index).any(|s| discriminant(&s.fault) == discriminant(&kind.fault)));
            }
        }
    }

    #[test]
    fn two_seeds_give_two_plans() {
        let of = |seed| plan(seed, Duration::from_mins(1), SHAPE);
        assert_ne!(of(1), of(2));
    }
}
