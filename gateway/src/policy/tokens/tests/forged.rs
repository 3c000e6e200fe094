//! The table of forged tokens, at the verifier alone.

use super::*;
use crate::forged::{Forger, Refusal};

#[test]
fn every_forged_token_is_refused_as_the_table_says() {
    let forger = Forger::new(NOW);
    let verifier = issuers::trusting(&forger.toml());
    assert!(verifier.verify(&forger.good(), NOW).is_ok());
    let cases = forger.cases();
    assert!(cases.len() >= 90, "{}", cases.len());
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(what, token, refusal)| {
            let expected = match refusal {
                Refusal::Forged => Invalid::Forged,
                Refusal::Expired => Invalid::Expired,
            };
            let found = verifier.verify(token, NOW);
            (found != Err(expected)).then(|| format!("{what}: {found:?} instead of {expected:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_forged_token_permits_a_channel() {
    let forger = Forger::new(NOW);
    let verifier = issuers::trusting(&forger.toml());
    // What makes a token one of a subscription is no forgery there.
    let of_channels = ["a channel: a subscription token", "an empty channel"];
    for (what, token, _) in forger.cases().iter().filter(|(what, ..)| !of_channels.contains(what)) {
        assert!(verifier.verify_subscription(token, NOW).is_err(), "{what}");
    }
    let connecting = forger.good();
    assert_eq!(verifier.verify_subscription(&connecting, NOW), Err(Invalid::Forged), "it is for connections");
}
