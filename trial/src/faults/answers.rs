//! The keys of one user, and the answer that each has. Pure.

use crate::job::{Job, Stamp};

use super::findings::{Findings, Wrong};

/// The routes, as in the configuration.
pub(super) const ROUTES: [&str; 3] = ["steady", "flaky", "later"];
/// The route whose answers come on the personal channel.
pub(super) const LATER: &str = "later";

/// The answers of one user: for each route the run that answered each key; 0 while it has no answer.
#[derive(Debug)]
pub(super) struct Answers {
    user: String,
    runs: [Vec<u64>; ROUTES.len()],
}

impl Answers {
    pub(super) fn new(user: &str) -> Self {
        Self { user: user.to_owned(), runs: Default::default() }
    }

    /// Begins a new key on a route. Returns its number.
    pub(super) fn begin(&mut self, route: &str) -> u64 {
        let Some(runs) = self.of(route) else { return 0 };
        runs.push(0);
        runs.len() as u64 - 1
    }

    /// Takes an answer that came for this key. Adds what is wrong with it.
    pub(super) fn take(&mut self, (route, n): (&str, u64), answer: &Stamp, findings: &mut Findings) {
        let user = self.user.clone();
        if answer.to != user {
            findings.add(Wrong::Leaked, || format!("{user} got the answer of {}: {answer:?}", answer.to));
            return;
        }
        if (answer.by.as_str(), answer.n) != (route, n) {
            findings.add(Wrong::Misinformed, || {
                format!("{user}: {route}-{n} got the answer of another key: {answer:?}")
            });
            return;
        }
        let known = usize::try_from(n).ok().and_then(|n| self.of(route)?.get_mut(n));
        match known {
            None => findings.add(Wrong::Misinformed, || {
                format!("{user}: an answer to {route}-{n}, which was never sent")
            }),
            Some(known) if *known == 0 => *known = answer.run,
            Some(known) if *known == answer.run => {}
            Some(known) => {
                let first = *known;
                findings.add(Wrong::Doubled, || {
                    format!("{user}: {route}-{n} has two answers, of the runs {first} and {}", answer.run)
                });
            }
        }
    }

    /// The keys of a route that have no answer.
    pub(super) fn open(&self, route: &str) -> Vec<u64> {
        let runs = self.runs_of(route).iter().zip(0..);
        runs.filter_map(|(run, n)| (*run == 0).then_some(n)).collect()
    }

    /// How many keys a route has.
    pub(super) fn begun(&self, route: &str) -> u64 {
        self.runs_of(route).len() as u64
    }

    /// The run that answered a key.
    pub(super) fn run(&self, route: &str, n: u64) -> Option<u64> {
        let run = self.runs_of(route).get(usize::try_from(n).ok()?)?;
        (*run != 0).then_some(*run)
    }

    fn runs_of(&self, route: &str) -> &[u64] {
        let place = ROUTES.iter().position(|name| *name == route);
        place.and_then(|place| self.runs.get(place)).map_or(&[], Vec::as_slice)
    }

    fn of(&mut self, route: &str) -> Option<&mut Vec<u64>> {
        let place = ROUTES.iter().position(|name| *name == route)?;
        self.runs.get_mut(place)
    }
}

/// The request of a key. It depends on the key alone, so that every repetition has the same body.
pub(super) fn job(user: &str, channel: &str, route: &str, n: u64) -> Job {
    let mix = user
        .bytes()
        .chain(route.bytes())
        .fold(n, |mix, byte| (mix ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(23));
    // Most are quick. One of sixteen runs for seconds, so that faults meet it.
    let work_ms = if mix % 16 == 0 { 1000 + mix / 16 % 2000 } else { mix / 16 % 120 };
    let failures = if route == "flaky" { u32::try_from(mix / 32_000 % 4).unwrap_or_default() } else { 0 };
    Job { to: user.to_owned(), by: route.to_owned(), n, channel: channel.to_owned(), work_ms, failures }
}

/// The idempotency key.
pub(super) fn key(n: u64) -> String {
    format!("k{n}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(to: &str, by: &str, n: u64, run: u64) -> Stamp {
        Stamp { to: to.to_owned(), by: by.to_owned(), n, run }
    }

    #[test]
    fn a_key_has_one_answer_however_often_it_comes() {
        let (mut answers, mut findings) = (Answers::new("u1"), Findings::default());
        assert_eq!((answers.begin("steady"), answers.begin("steady"), answers.begin("later")), (0, 1, 0));
        answers.take(("steady", 1), &stamp("u1", "steady", 1, 7), &mut findings);
        answers.take(("steady", 1), &stamp("u1", "steady", 1, 7), &mut findings);
        assert!(findings.is_empty());
        assert_eq!((answers.open("steady"), answers.open("later")), (vec![0], vec![0]));
        assert_eq!((answers.run("steady", 1), answers.run("steady", 0)), (Some(7), None));
        answers.take(("steady", 1), &stamp("u1", "steady", 1, 8), &mut findings);
        assert_eq!(findings.count(Wrong::Doubled), 1);
    }

    #[test]
    fn an_answer_of_somebody_else_or_to_another_key_is_found() {
        let (mut answers, mut findings) = (Answers::new("u1"), Findings::default());
        answers.begin("steady");
        answers.take(("steady", 0), &stamp("u2", "steady", 0, 7), &mut findings);
        assert_eq!(findings.count(Wrong::Leaked), 1);
        answers.take(("steady", 0), &stamp("u1", "steady", 1, 7), &mut findings);
        answers.take(("steady", 5), &stamp("u1", "steady", 5, 7), &mut findings);
        assert_eq!(findings.count(Wrong::Misinformed), 2);
        assert_eq!(answers.open("steady"), [0]);
    }

    #[test]
    fn the_body_of_a_key_is_always_the_same_and_some_keys_fail_first() {
        assert_eq!(job("u1", "c", "flaky", 3), job("u1", "c", "flaky", 3));
        let failing = (0..100).filter(|n| job("u1", "c", "flaky", *n).failures > 0).count();
        let slow = (0..100).filter(|n| job("u1", "c", "steady", *n).work_ms >= 1000).count();
        assert!((50..95).contains(&failing) && (1..20).contains(&slow), "{failing} {slow}");
        assert!((0..100).all(|n| job("u1", "c", "steady", n).failures == 0));
    }
}
