//! `tidegate sub`: prints the publications of channels, one JSON line each.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_cli::{
    client::{CallError, Event, Events, ReconnectOptions, ReconnectingClient},
    output,
};
use tidegate_shared::channel::Channel;
use tokio::time::Instant;

use crate::command::access::{self, AccessArgs};

/// How long the first connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `tidegate sub`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The channels, such as chat:lobby.
    #[arg(value_name = "CHANNEL", required_unless_present = "all")]
    channels: Vec<String>,
    /// Also print the personal channel and messages.
    #[arg(long)]
    all: bool,
    /// End after this many lines.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    #[command(flatten)]
    access: AccessArgs,
}

/// One line of output.
#[derive(Serialize)]
struct PublicationLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    for channel in &args.channels {
        Channel::parse(channel).with_context(|| format!("{channel:?}"))?;
    }
    let connection = args.access.options()?;
    let urls = vec![connection.url.clone()];
    let (session, events) =
        ReconnectingClient::start(ReconnectOptions { connection, urls, channels: args.channels.clone() });
    if let Err(error) = session.client(Instant::now() + PATIENCE).await {
        let why = match error {
            CallError::Timeout => {
                // One more attempt says what stands in the way.
                access::connect(args.access.options()?).await?;
                access::NO_CONNECTION
            }
            CallError::Server { .. } => "the gateway refused the connection or a channel",
            CallError::Closed(_) | CallError::Payload(_) => access::REFUSED,
        };
        return Err(anyhow::Error::from(error).context(why));
    }
    tokio::select! {
        () = show(&args, events) => {}
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    match session.client(Instant::now()).await {
        Err(error @ CallError::Closed(_)) => {
            output::note(format!("error: {error}"));
            Ok(ExitCode::FAILURE)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

async fn show(args: &Args, mut events: Events) {
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        let Some(event) = events.next().await else { return };
        if let Some(line) = line(event, args.all) {
            output::line(line);
            shown += 1;
        }
    }
}

/// Turns a publication or message into a line. Prints other events to standard error.
fn line(event: Event, all: bool) -> Option<String> {
    match event {
        Event::Publication { channel, data, offset, tags, info } if all || !channel.starts_with('#') => {
            let data = raw(&data)?;
            let user = info.map(|info| info.user);
            let offset = (offset > 0).then_some(offset);
            serde_json::to_string(&PublicationLine { channel: Some(&channel), offset, data, tags, user }).ok()
        }
        Event::Message { data } if all => {
            let data = raw(&data)?;
            serde_json::to_string(&PublicationLine {
                channel: None,
                offset: None,
                data,
                tags: BTreeMap::new(),
                user: None,
            })
            .ok()
        }
        Event::Publication { .. } | Event::Message { .. } => None,
        Event::Connected { url, .. } => {
            output::note(format!("connected to {url}"));
            None
        }
        Event::Disconnected(closed) => {
            output::note(closed.to_string());
            None
        }
        Event::Unsubscribed { channel, code, reason } => {
            output::note(format!("unsubscribed from {channel}: {code} {reason}"));
            None
        }
    }
}

/// A JSON connection carries only JSON. An empty payload is `null`.
fn raw(data: &Bytes) -> Option<&RawValue> {
    if data.is_empty() { serde_json::from_str("null").ok() } else { serde_json::from_slice(data).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(channel: &str) -> Event {
        let tags = BTreeMap::from([("re".to_owned(), "a.b".to_owned())]);
        Event::Publication {
            channel: channel.into(),
            data: r#"{"b":1,"a":2.50}"#.into(),
            offset: 7,
            tags,
            info: None,
        }
    }

    #[test]
    fn a_line_keeps_the_payload_as_it_was_written() {
        let shown = line(publication("chat:lobby"), false).unwrap();
        assert_eq!(
            shown,
            r#"{"channel":"chat:lobby","offset":7,"data":{"b":1,"a":2.50},"tags":{"re":"a.b"}}"#
        );
    }

    #[test]
    fn the_personal_channel_and_messages_are_shown_when_asked_for() {
        assert_eq!(line(publication("#42"), false), None);
        assert!(line(publication("#42"), true).is_some());
        assert_eq!(line(Event::Message { data: "1".into() }, false), None);
        assert_eq!(line(Event::Message { data: "1".into() }, true).unwrap(), r#"{"data":1}"#);
    }
}
