//! What operators and back ends write: the configuration, and the decisions of hooks.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::LazyLock};

use tidegate_shared::{
    config::{Config, Role},
    hook::{self, Decision},
    id::GatewayId,
    protocol::{Encoding, Reply, encode_reply},
};

/// The namespaces and routes of the gateway that targets run.
fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/gateway.toml")
}

/// The configuration of the gateway that targets run, with these keys changed.
pub(super) fn deployment(changes: &[(&str, &str)]) -> Config {
    let flags: Vec<_> = changes.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    let read = Config::from_sources_as(Role::Gateway, Some(&file()), BTreeMap::new(), &flags);
    read.unwrap_or_else(|error| unreachable!("fuzz/gateway.toml: {error}"))
}

/// The gateway of every run.
pub(super) fn gateway() -> GatewayId {
    GatewayId::parse("fuzz").expect("one plain token")
}

/// The file that holds the input: the configuration is read from files only.
static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("tidegate-fuzz-{}.toml", tidegate_shared::id::random_token::<8>());
    std::env::temp_dir().join(name)
});

/// A configuration is read, or refused with a sentence that names the place. What is read can be used.
pub(super) fn configuration(input: &[u8]) {
    // Keys that name files would read this machine's.
    if input.windows(5).any(|word| word == b"_file") {
        return;
    }
    fs::write(&*SCRATCH, input).expect("the scratch file is written");
    for role in [Role::All, Role::Gateway] {
        match Config::from_sources_as(role, Some(&SCRATCH), BTreeMap::new(), &[]) {
            Ok(config) => {
                let _ = (config.subjects(), config.all_namespaces(), config.all_issuers());
                let Ok(verifier) = crate::policy::tokens::Verifier::new(&config) else { continue };
                let rules = crate::policy::rules::Rules::new(&config, verifier, gateway());
                assert!(rules.limits.message > 0 && rules.limits.commands_per_message > 0);
            }
            Err(error) => assert!(!error.to_string().trim().is_empty(), "an error says something"),
        }
    }
    let _ = fs::remove_file(&*SCRATCH);
}

/// A decision keeps the limits of what it may say, and the client can be told it.
pub(super) fn hook_decision(input: &[u8]) {
    let read = hook::read(input);
    let json = serde_json::from_slice::<serde::de::IgnoredAny>(input).is_ok();
    match read {
        Err(why) => assert!(!why.is_empty()),
        Ok(_) if !json => unreachable!("what is not JSON decides nothing"),
        Ok(Decision::Disconnect(end)) => {
            assert!((4000..=4999).contains(&end.code) && end.reason.len() <= 123, "it fits a close frame");
        }
        Ok(Decision::Refused(error)) => {
            assert!((400..=1999).contains(&error.code));
            for encoding in [Encoding::Json, Encoding::Protobuf] {
                encode_reply(encoding, &Reply::error(1, error.clone())).expect("an error is told");
            }
        }
        Ok(Decision::Allowed(grant)) => {
            assert!(grant.ends() != Some(0));
            for info in [&grant.info].into_iter().chain(grant.subs.values().map(|sub| &sub.info)) {
                assert!(info.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(info).is_ok());
            }
        }
    }
}
