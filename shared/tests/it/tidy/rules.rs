//! Which part of the tree may use which, and the check of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::imports::{Import, Source, module_of};

/// Folders of a crate, each with the folders it may import.
pub(super) type Layers = [(&'static str, &'static [&'static str])];

/// The top-level folders of `gateway/src`. `lib.rs` and `main.rs` may import all of them.
pub(super) const GATEWAY_LAYERS: &Layers = &[
    ("fuzzing", &["http", "connection", "session", "channels", "policy", "requests", "outbox"]),
    ("conformance", &["http", "connection", "outbox", "metrics", "policy"]),
    ("http", &["connection", "api", "fleet", "policy", "channels", "outbox", "metrics"]),
    ("connection", &["session", "channels", "presence", "requests", "policy", "fleet", "outbox", "metrics"]),
    ("session", &["channels", "policy", "requests", "outbox"]),
    ("api", &["channels", "presence", "requests", "policy", "fleet", "outbox", "metrics"]),
    ("channels", &["presence", "policy", "outbox", "metrics"]),
    ("presence", &["fleet", "metrics"]),
    ("requests", &["metrics"]),
    ("policy", &["metrics"]),
    ("fleet", &["metrics"]),
    ("outbox", &[]),
    ("metrics", &[]),
];

/// A part of the tree that may not use some paths.
#[derive(Debug)]
struct Ban {
    /// The file or the folder, or both: `a` covers `a.rs` and `a/`.
    zone: &'static str,
    /// Paths, with everything below them.
    banned: &'static [&'static str],
    /// Paths below a banned one that may be used. The longer of two that match decides.
    except: &'static [&'static str],
}

const fn ban(zone: &'static str, banned: &'static [&'static str]) -> Ban {
    Ban { zone, banned, except: &[] }
}

/// No runtime, no network, no clock: time is an argument.
const WORLD: &[&str] = &[
    "tokio",
    "tokio::time::Instant::now",
    "axum",
    "async_nats",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
];
/// As `WORLD`, and not even the type for the time of day.
const WORLD_AND_DATES: &[&str] = &["tokio", "axum", "async_nats", "std::time::SystemTime"];

const BANS: &[Ban] = &[
    ban("shared/src/protocol", WORLD_AND_DATES),
    ban("shared/src/token", WORLD_AND_DATES),
    ban("shared/src/channel", WORLD_AND_DATES),
    ban("shared/src/delta", WORLD_AND_DATES),
    ban("shared/src/hook", WORLD_AND_DATES),
    ban("shared/src/filter", WORLD_AND_DATES),
    ban("shared/src/fault", WORLD),
    ban("shared/src/route", WORLD_AND_DATES),
    ban("shared/src/subject", WORLD_AND_DATES),
    ban("shared/src/envelope", &["tokio", "axum", "async_nats::Client", "async_nats::jetstream"]),
    ban("shared/src", &["axum", "tidegate_gateway", "tidegate_worker", "tidegate_cli"]),
    ban("gateway/src/session", WORLD),
    ban("gateway/src/policy/rules", WORLD),
    ban("gateway/src/policy/access", WORLD),
    ban("gateway/src/policy/tokens", WORLD),
    Ban { zone: "gateway/src/policy/hook_cache", banned: WORLD, except: &["tokio::time::Instant"] },
    Ban { zone: "gateway/src/outbox/order", banned: WORLD, except: &["tokio::time::Instant"] },
    ban("gateway/src/outbox/dialect", WORLD),
    ban("gateway/src/outbox/encoded", WORLD),
    Ban { zone: "gateway/src/channels/feed", banned: WORLD, except: &["tokio::sync::Mutex"] },
    Ban { zone: "gateway/src/presence/registry", banned: WORLD, except: &["tokio::sync::oneshot"] },
    ban("gateway/src/fleet/leases", WORLD),
    ban("gateway/src/requests/quota/ledger", WORLD),
    ban("gateway/src/http/origin", WORLD),
    ban("gateway/src/http/query", WORLD),
    ban("gateway/src/connection/one_way", WORLD),
    ban("gateway/src/api", &["axum"]),
    ban("gateway/src/channels", &["axum"]),
    ban("gateway/src/presence", &["axum"]),
    ban("gateway/src/requests", &["axum"]),
    ban("gateway/src/fleet", &["axum"]),
    ban("gateway/src", &["tidegate_worker", "tidegate_cli"]),
    ban("worker/src", &["tidegate_gateway", "tidegate_cli"]),
    ban("worker/src", &["sqlx", "reqwest"]),
    ban("worker/stock/src", &["tidegate_gateway", "tidegate_cli"]),
    ban("purger/src/schedule", WORLD),
    ban("purger/src/floor", WORLD),
    ban("purger/src/trouble", WORLD),
    ban("purger/src", &["tidegate_gateway", "tidegate_worker", "tidegate_cli"]),
    ban("cli/src", &["tidegate_gateway", "tidegate_worker"]),
];

/// Where in a crate a path may be used, and nowhere else: crate, path, zones.
const ONLY: &[(&str, &str, &[&str])] = &[
    (
        "gateway",
        "async_nats",
        &[
            "gateway/src/channels",
            "gateway/src/presence",
            "gateway/src/requests",
            "gateway/src/fleet",
            "gateway/src/policy/hooks",
            "gateway/src/api/nats",
            "gateway/src/fuzzing/broker",
        ],
    ),
    ("worker/stock", "async_nats", &["worker/stock/src/handlers/forward"]),
    ("worker/stock", "reqwest", &["worker/stock/src/handlers/webhook"]),
    ("worker/stock", "sqlx", &["worker/stock/src/handlers/sql", "worker/stock/src/handlers/quakes/store"]),
    // A worker's schedules are made of the broker's time; a test in the place of the gateway has a time of its own.
    ("worker", "std::time::SystemTime::now", &["worker/src/clock", "worker/src/testing/tide"]),
];

/// Crates without import cycles between files.
const ACYCLIC: [&str; 4] = ["gateway", "worker", "worker/stock", "purger"];

/// Lines of a file outside its tests.
const MOST_LINES: usize = 400;

/// Everything that breaks a rule in these sources, with the gateway's layers.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut broken: Vec<String> = sources.iter().flat_map(bans).collect();
    broken.extend(sources.iter().flat_map(only));
    broken.extend(layers(GATEWAY_LAYERS, sources.iter().filter(|s| s.krate == "gateway")));
    for krate in ACYCLIC {
        broken.extend(cycles(sources.iter().filter(|s| s.krate == krate)));
    }
    broken.extend(sources.iter().filter(|s| s.lines > MOST_LINES).map(|s| {
        format!(
            "{}:1: has {} lines outside tests; files have at most {MOST_LINES}: split it",
            s.path(),
            s.lines
        )
    }));
    broken
}

fn breaks(source: &Source, import: &Import, rule: &str) -> String {
    format!("{}:{}: imports `{}`: {rule}", source.path(), import.line, import.path)
}

/// Whether `path` is in `zone`.
fn within(path: &str, zone: &str) -> bool {
    path.strip_prefix(zone).is_some_and(|rest| rest == ".rs" || rest.is_empty() || rest.starts_with('/'))
}

/// Whether the use of `path` is a use of `target` or of what is below it. A glob may be a use of all below it.
fn uses(path: &str, target: &str) -> bool {
    match path.strip_suffix('*') {
        Some(parent) if target.starts_with(parent) => true,
        _ => path.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")),
    }
}

fn bans(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for ban in BANS.iter().filter(|ban| within(&source.path(), ban.zone)) {
        let longest = |paths: &[&'static str], import: &Import| {
            paths.iter().copied().filter(|p| uses(&import.path, p)).max_by_key(|p| p.len())
        };
        for import in &source.imports {
            let Some(banned) = longest(ban.banned, import) else { continue };
            if longest(ban.except, import).is_none_or(|excepted| excepted.len() < banned.len()) {
                broken.push(breaks(source, import, &format!("{} may not use `{banned}`", ban.zone)));
            }
        }
    }
    broken
}

fn only(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for (krate, path, zones) in ONLY.iter().filter(|(krate, ..)| *krate == source.krate) {
        if zones.iter().any(|zone| within(&source.path(), zone)) {
            continue;
        }
        let rule = format!("in {krate} only {} may use `{path}`", zones.join(", "));
        broken
            .extend(source.imports.iter().filter(|i| uses(&i.path, path)).map(|i| breaks(source, i, &rule)));
    }
    broken
}

/// Breaks of the layers of one crate, by folder.
pub(super) fn layers<'a>(layers: &Layers, sources: impl Iterator<Item = &'a Source>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut unlisted = BTreeSet::new();
    for source in sources {
        let Some(folder) = module_of(&source.file).first().copied() else { continue };
        let Some((_, allowed)) = layers.iter().find(|(name, _)| *name == folder) else {
            if unlisted.insert(folder) {
                broken.push(format!(
                    "{}:1: the top-level module `{folder}` has no line in the list of layers",
                    source.path()
                ));
            }
            continue;
        };
        for import in &source.imports {
            let mut path = import.path.split("::");
            let (Some("crate"), Some(target)) = (path.next(), path.next()) else { continue };
            if target != folder && !allowed.contains(&target) {
                let may = if allowed.is_empty() { "no other folder".to_owned() } else { allowed.join(", ") };
                broken.push(breaks(source, import, &format!("`{folder}` may import {may}, not `{target}`")));
            }
        }
    }
    broken
}

/// The first cycle in the lists of layers.
pub(super) fn cyclic_layers(layers: &Layers) -> Option<String> {
    let edges = layers.iter().map(|(folder, may)| (*folder, may.iter().copied().collect())).collect();
    layers
        .iter()
        .find_map(|(folder, _)| way_back(&edges, folder))
        .map(|way| format!("the lists of layers have a cycle: {}", way.join(" -> ")))
}

/// The shortest way from a node to itself, the node first and last.
fn way_back<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, node: &'a str) -> Option<Vec<&'a str>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([node]);
    while let Some(at) = queue.pop_front() {
        for next in edges.get(at).into_iter().flatten().copied() {
            if next == node {
                let mut way = vec![node, at];
                let mut last = at;
                while last != node {
                    last = came_from.get(last)?;
                    way.push(last);
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}

/// Import cycles between the files of one crate. A module and the modules inside it may import each other, and the
/// crate's root is not looked at.
pub(super) fn cycles<'a>(sources: impl Iterator<Item = &'a Source>) -> Vec<String> {
    let sources: Vec<&Source> = sources.collect();
    let files: BTreeMap<Vec<&str>, &Source> = sources.iter().map(|s| (module_of(&s.file), *s)).collect();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut lines: BTreeMap<(&str, &str), &Import> = BTreeMap::new();
    for source in &sources {
        let from = module_of(&source.file);
        for import in &source.imports {
            let Some(path) = import.path.strip_prefix("crate::") else { continue };
            let path: Vec<&str> = path.split("::").collect();
            let Some((to, target)) = (1..=path.len()).rev().find_map(|n| files.get_key_value(path.get(..n)?))
            else {
                continue;
            };
            if from.is_empty() || from.starts_with(to) || to.starts_with(&from) {
                continue;
            }
            edges.entry(&source.file).or_default().insert(&target.file);
            lines.entry((&source.file, &target.file)).or_insert(import);
        }
    }
    let mut seen = BTreeSet::new();
    let mut broken = Vec::new();
    for source in &sources {
        let Some(way) = way_back(&edges, &source.file) else { continue };
        if !seen.insert(way.iter().copied().collect::<BTreeSet<_>>()) {
            continue;
        }
        if let [first, second, ..] = *way
            && let Some(import) = lines.get(&(first, second))
        {
            broken.push(breaks(
                source,
                import,
                &format!("files may not import each other in a cycle: {}", way.join(" -> ")),
            ));
        }
    }
    broken
}
