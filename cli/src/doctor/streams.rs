//! The streams: whether they are as configured, how full they are, what waits in them, and whether the broker's clock agrees with this one.

use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};

use tidegate_shared::{
    broker::Broker,
    config::Config,
    topology::{DEAD, PARK, Topology},
};

use super::Finding;

/// From how many per cent on a stream counts as nearly full, and as full.
const NEARLY: u64 = 70;
const FULL: u64 = 90;
/// How far this machine's clock may be from the broker's.
const SKEW: Duration = Duration::from_secs(1);

pub(super) async fn examine(config: &Config, broker: &Broker) -> Vec<Finding> {
    let topology = Topology::of(config);
    let mut findings = Vec::new();
    match topology.plan(broker.jetstream()).await {
        Ok(plan) if plan.is_empty() => {
            findings.push(Finding::ok("streams", "every stream and consumer is as configured"));
        }
        Ok(plan) => {
            let what: Vec<_> = plan.iter().map(|change| format!("\n  {}", change.what)).collect();
            let found = format!("{} changes are not carried out:{}", plan.len(), what.concat());
            findings.push(Finding::wrong("streams", found, "tidegate apply"));
        }
        Err(error) => findings.push(Finding::wrong("streams", error.to_string(), "tidegate apply --dry-run")),
    }
    match topology.leftovers(broker.jetstream()).await {
        Ok(leftovers) if leftovers.is_empty() => {
            findings.push(Finding::ok("leftovers", "no stream belongs to a route that was removed"));
        }
        Ok(leftovers) => findings.extend(
            leftovers
                .iter()
                .map(|leftover| Finding::warning("leftovers", leftover.advice(), "do as it says")),
        ),
        Err(error) => {
            findings.push(Finding::wrong("leftovers", error.to_string(), "tidegate apply --dry-run"));
        }
    }
    findings.extend(rooms(broker, &topology).await);
    findings.extend(waiting(config, broker).await);
    findings.push(clock(broker).await);
    findings
}

async fn rooms(broker: &Broker, topology: &Topology) -> Vec<Finding> {
    let (mut findings, mut most) = (Vec::new(), 0);
    for stream in topology.streams() {
        let (bytes, limit) = match broker.stream_room(stream).await {
            Ok(room) => room,
            Err(error) => {
                findings.push(unread("room", stream, &error));
                continue;
            }
        };
        let per_cent = bytes.saturating_mul(100).checked_div(limit).unwrap_or(0);
        most = most.max(per_cent);
        findings.extend(room(stream, per_cent));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("room", format!("the fullest stream has {most} % of its bytes")));
    }
    findings
}

fn room(stream: &str, per_cent: u64) -> Option<Finding> {
    let found = format!("stream {stream} has {per_cent} % of the bytes it may have");
    let next = "let workers catch up, delete dead letters, or raise the limit under [streams] and run `tidegate apply`";
    match per_cent {
        FULL.. => Some(Finding::wrong("room", found, next)),
        NEARLY.. => Some(Finding::warning("room", found, next)),
        _ => None,
    }
}

async fn waiting(config: &Config, broker: &Broker) -> Vec<Finding> {
    let mut findings = Vec::new();
    match broker.routes(&config.routes).await {
        Ok(routes) => {
            let (waiting, running) = (
                routes.iter().map(|r| r.waiting).sum::<u64>(),
                routes.iter().map(|r| r.running).sum::<u64>(),
            );
            findings.push(Finding::ok(
                "requests",
                format!("{waiting} requests wait, {running} run, on {} routes", routes.len()),
            ));
            let idle = routes.iter().filter(|route| route.waiting > 0 && route.running == 0);
            findings.extend(idle.map(|route| match route.paused_until {
                Some(_) => Finding::warning(
                    "requests",
                    format!("route {} is paused, and {} requests wait", route.name, route.waiting),
                    format!("tidegate route resume {}", route.name),
                ),
                None => Finding::warning(
                    "requests",
                    format!("{} requests of route {} wait, and none runs", route.waiting, route.name),
                    "start a worker for this route, or look at the logs of its workers",
                ),
            }));
        }
        Err(error) => findings.push(Finding::wrong("requests", error.to_string(), "tidegate apply")),
    }
    findings.push(match broker.jetstream().get_stream(DEAD).await {
        Ok(stream) => match stream.cached_info().state.messages {
            0 => Finding::ok("dead letters", "there are none"),
            letters => Finding::warning(
                "dead letters",
                format!("{letters} requests have failed for good"),
                "tidegate dead ls, then redrive or drop them",
            ),
        },
        Err(error) => unread("dead letters", DEAD, &error),
    });
    findings
}

/// A stream that cannot be read: it is missing, or the broker does not answer.
fn unread(check: &'static str, stream: &str, error: &dyn Display) -> Finding {
    Finding::wrong(
        check,
        format!("stream {stream} cannot be read: {error}"),
        "tidegate apply, if it is missing",
    )
}

/// Compares this machine's clock with the broker's, which carries schedules and expiries out.
async fn clock(broker: &Broker) -> Finding {
    let before = SystemTime::now();
    let there = match broker.time(&format!("STREAM.INFO.{PARK}")).await {
        Ok(there) => there,
        Err(error) => return unread("clock", PARK, &error),
    };
    let after = SystemTime::now();
    let ahead = there.duration_since(after).unwrap_or_default();
    let behind = before.duration_since(there).unwrap_or_default();
    skew(ahead.max(behind))
}

fn skew(by: Duration) -> Finding {
    if by <= SKEW {
        return Finding::ok("clock", "this machine's clock agrees with the broker's");
    }
    let found = format!("this machine's clock and the broker's are {:.1} s apart", by.as_secs_f64());
    Finding::warning("clock", found, "run NTP (chrony or systemd-timesyncd) on every host")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn a_stream_is_nearly_full_before_it_is_full() {
        let grade = |per_cent| room("S", per_cent).map(|finding| finding.grade);
        assert_eq!(
            [69, 70, 89, 90].map(grade),
            [None, Some(Grade::Warning), Some(Grade::Warning), Some(Grade::Wrong)]
        );
    }

    #[test]
    fn clocks_that_are_more_than_a_second_apart_are_told() {
        assert_eq!(skew(Duration::from_secs(1)).grade, Grade::Ok);
        assert_eq!(skew(Duration::from_millis(1001)).grade, Grade::Warning);
    }
}
