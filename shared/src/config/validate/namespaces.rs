//! The checks of namespaces.

use std::time::Duration;

use super::{Problem, plain, problem};
use crate::{
    channel::{Channel, DEFAULT_NAMESPACE, USER_NAMESPACE},
    config::{AnswerMode, Audience, Config, Fanout, Match, Namespace, PublishMode, Route, Storage},
};

pub(super) fn namespaces(config: &Config) -> Result<(), Problem> {
    for (index, namespace) in config.namespaces.iter().enumerate() {
        let key = format!("namespace.{index}.name");
        if !plain(&namespace.name) {
            return problem(
                key,
                format!("{:?} is not a namespace: use letters, digits, `_` and `-`", namespace.name),
            );
        }
        if namespace.name == USER_NAMESPACE
            && [
                namespace.allow_subscribe,
                namespace.allow_publish,
                namespace.allow_history,
                namespace.allow_presence,
            ] != [Audience::Nobody; 4]
        {
            return problem(
                key,
                "personal channels belong to their users: in the namespace `user` only history and presence can be set, and allow_subscribe must be \"nobody\"",
            );
        }
        audiences(index, namespace)?;
        if namespace.name == USER_NAMESPACE && namespace.fanout() != Fanout::Wildcard {
            return problem(
                format!("namespace.{index}.fanout"),
                "every gateway receives all personal channels: only \"wildcard\" is possible",
            );
        }
        if namespace.personal && [DEFAULT_NAMESPACE, USER_NAMESPACE].contains(&namespace.name.as_str()) {
            return problem(
                format!("namespace.{index}.personal"),
                "every user has the channel #<user> already: set `personal` in other namespaces only",
            );
        }
        automatic(index, namespace)?;
        if namespace.force_join_leave && !namespace.join_leave {
            return problem(
                format!("namespace.{index}.force_join_leave"),
                "has no effect without join_leave = true",
            );
        }
        if namespace.history_ttl < Duration::from_secs(1) {
            return problem(
                format!("namespace.{index}.history_ttl"),
                "must be at least 1s; to keep no history set history_size = 0",
            );
        }
        recovery(index, namespace)?;
        keeping(config, index, namespace)?;
        if config.namespaces.iter().take(index).any(|other| other.name == namespace.name) {
            return problem(key, format!("the namespace {:?} is declared twice", namespace.name));
        }
    }
    Ok(())
}

/// Checks the names of the channels that every connection is subscribed to at its start.
fn automatic(index: usize, namespace: &Namespace) -> Result<(), Problem> {
    for name in &namespace.automatic {
        let full = format!("{}{name}", namespace.prefix());
        let reason = match Channel::parse(&full) {
            _ if namespace.name == USER_NAMESPACE => "personal channels belong to their users".to_owned(),
            Err(error) => error.to_string(),
            Ok(channel) if channel.namespace() != namespace.name => {
                "the name belongs to another namespace".to_owned()
            }
            Ok(channel) if namespace.personal && channel.further_personal_user().is_some() => {
                "with personal = true a name that begins with `#` is the channel of one user".to_owned()
            }
            Ok(_) => continue,
        };
        return problem(format!("namespace.{index}.automatic"), format!("{full:?}: {reason}"));
    }
    Ok(())
}

fn keeping(config: &Config, index: usize, namespace: &Namespace) -> Result<(), Problem> {
    if namespace.duplicate_window.is_some_and(|window| window < config.gateway.answer_timeout) {
        return problem(
            format!("namespace.{index}.duplicate_window"),
            format!(
                "has to be at least gateway.answer_timeout, which is {}: for so long a gateway repeats a publication whose \
                 acknowledgement was lost",
                humantime::format_duration(config.gateway.answer_timeout)
            ),
        );
    }
    let replicas = namespace.replicas.unwrap_or(config.streams.replicas);
    if !(1..=5).contains(&replicas) {
        return problem(format!("namespace.{index}.replicas"), "must be between 1 and 5");
    }
    if namespace.storage == Storage::Memory && replicas < 3 {
        return problem(
            format!("namespace.{index}.storage"),
            "\"memory\" needs replicas = 3: one server forgets its memory streams, and that they were there, when it restarts",
        );
    }
    Ok(())
}

fn recovery(index: usize, namespace: &Namespace) -> Result<(), Problem> {
    if namespace.is_cache() && !namespace.has_history() {
        return problem(
            format!("namespace.{index}.recovery"),
            "\"cache\" brings the newest publication that is kept: set history_size, 1 is enough",
        );
    }
    if namespace.cache_on_subscribe && !namespace.is_cache() {
        return problem(
            format!("namespace.{index}.cache_on_subscribe"),
            "has no effect without recovery = \"cache\"",
        );
    }
    Ok(())
}

/// A namespace with publish = "worker" and the route that takes its publications need each other.
pub(super) fn publishes(config: &Config) -> Result<(), Problem> {
    let namespaces = config.all_namespaces();
    for (index, route) in config.routes.iter().enumerate() {
        let Match::Publish(name) = &route.matches else { continue };
        let decides =
            |namespace: &Namespace| namespace.name == *name && namespace.publish == PublishMode::Worker;
        if !namespaces.iter().any(decides) {
            return problem(
                format!("route.{index}.match"),
                format!("there is no [[namespace]] {name:?} with publish = \"worker\""),
            );
        }
        if route.answer == AnswerMode::Later {
            return problem(
                format!("route.{index}.answer"),
                "a publication has no answer: leave `answer` out",
            );
        }
    }
    for (index, namespace) in config.namespaces.iter().enumerate() {
        let key = format!("namespace.{index}.publish");
        let name = &namespace.name;
        let taken = |route: &Route| matches!(&route.matches, Match::Publish(taken) if taken == name);
        if namespace.publish == PublishMode::Worker && name == USER_NAMESPACE {
            return problem(key, "clients cannot publish in personal channels: set publish = \"direct\"");
        }
        if namespace.publish == PublishMode::Worker && !config.routes.iter().any(taken) {
            return problem(key, format!("\"worker\" needs a [[route]] with match = \"pub.{name}\""));
        }
    }
    Ok(())
}

fn audiences(index: usize, namespace: &Namespace) -> Result<(), Problem> {
    if namespace.allow_publish == Audience::Hook && namespace.publish == PublishMode::Worker {
        return problem(
            format!("namespace.{index}.allow_publish"),
            "\"hook\" with publish = \"worker\": one of them decides, and the worker may refuse too",
        );
    }
    for (key, audience, words) in [
        ("allow_subscribe", namespace.allow_subscribe, Audience::SUBSCRIBE),
        ("allow_publish", namespace.allow_publish, Audience::PUBLISH),
        ("allow_history", namespace.allow_history, Audience::READ),
        ("allow_presence", namespace.allow_presence, Audience::READ),
    ] {
        if !words.contains(&audience) {
            let words: Vec<_> = words.iter().map(|word| word.as_str()).collect();
            return problem(
                format!("namespace.{index}.{key}"),
                format!(
                    "{:?} is not a value of this key, which accepts {}",
                    audience.as_str(),
                    words.join(", ")
                ),
            );
        }
    }
    Ok(())
}
