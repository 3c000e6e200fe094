//! Carrying out a plan: creates and updates streams and consumers, and says what to do when the broker refuses.

use async_nats::jetstream::{
    self,
    stream::{Config as Stream, PersistenceMode},
};

use super::{ApplyError, Change, Step, Topology, epoch, last, raised};

impl Topology {
    /// Applies a plan. If one of its steps is refused, applies none of them.
    pub async fn apply(&self, jetstream: &jetstream::Context, plan: &[Change]) -> Result<(), ApplyError> {
        for change in plan {
            if let Step::Refuse(reason) = &change.step {
                return Err(ApplyError { what: "nothing was changed".to_owned(), reason: reason.clone() });
            }
        }
        self.carry_out(jetstream, plan).await.map_err(|mut error| {
            if error.reason.contains(NO_ROOM) {
                error.reason = format!("{}; {}", error.reason, self.reserved());
            }
            error
        })
    }

    async fn carry_out(&self, jetstream: &jetstream::Context, plan: &[Change]) -> Result<(), ApplyError> {
        for change in plan {
            match &change.step {
                Step::Refuse(_) => {}
                Step::RecreateStream(name) => {
                    jetstream.delete_stream(name).await.map_err(|e| failed(&change.what, &e))?;
                    self.create(jetstream, name, &change.what).await?;
                }
                Step::CreateStream(name) => self.create(jetstream, name, &change.what).await?,
                Step::RemoveStream(name) => {
                    jetstream.delete_stream(name).await.map_err(|e| failed(&change.what, &e))?;
                }
                Step::UpdateStream(name, persist_mode) => {
                    let updated = self.update(jetstream, name, *persist_mode).await;
                    updated.map_err(|error| failed(&change.what, &*error))?;
                }
                Step::Consumer(stream, name) => self.make_consumer(jetstream, change, stream, name).await?,
                Step::RemoveConsumer(stream, name) => {
                    let removed = jetstream.delete_consumer_from_stream(name, stream).await;
                    removed.map_err(|e| failed(&change.what, &e))?;
                }
            }
        }
        Ok(())
    }

    async fn create(&self, jetstream: &jetstream::Context, name: &str, what: &str) -> Result<(), ApplyError> {
        let mut wanted = self.stream(name);
        if let Some(origin) = last::origin(&wanted) {
            // The namespace's stream comes first in the plan.
            let found = jetstream.get_stream(origin).await.map_err(|e| failed(what, &e))?;
            wanted = last::of_epoch(wanted, epoch(found.cached_info()));
        }
        jetstream.create_stream(wanted).await.map_err(|e| failed(what, &e))?;
        Ok(())
    }

    /// Updates a stream. If it keeps more of each channel from now on, its metadata says since when.
    async fn update(
        &self,
        jetstream: &jetstream::Context,
        name: &str,
        persist_mode: Option<PersistenceMode>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let found = jetstream.get_stream(name).await?;
        let found = found.cached_info();
        let mut wanted = Stream { persist_mode, ..self.stream(name) };
        // No update can turn it off.
        wanted.allow_message_ttl |= found.config.allow_message_ttl;
        wanted.metadata.clone_from(&found.config.metadata);
        raised::open(found, &wanted.clone(), &mut wanted.metadata);
        let info = jetstream.update_stream(wanted).await?;
        if raised::is_open(&info.config) {
            let info = jetstream.get_stream(name).await?;
            jetstream.update_stream(raised::close(info.cached_info())).await?;
        }
        Ok(())
    }

    /// The sizes that the broker reserves for the streams of this configuration, for the error that they do not fit.
    fn reserved(&self) -> String {
        let sizes = self.streams.iter().filter_map(|stream| {
            let bytes = u64::try_from(stream.max_bytes).ok().filter(|bytes| *bytes > 0)?;
            Some((stream.name.as_str(), bytes))
        });
        let (mut total, mut parts) = (0_u64, Vec::new());
        for (name, bytes) in sizes {
            total = total.saturating_add(bytes);
            parts.push(format!("{name} {}", bytesize::ByteSize(bytes)));
        }
        format!("this configuration reserves {}: {}", bytesize::ByteSize(total), parts.join(", "))
    }
}

/// What the broker says when the sizes of all streams exceed its storage.
const NO_ROOM: &str = "insufficient storage";

pub(super) fn failed(what: &str, error: &dyn std::error::Error) -> ApplyError {
    let mut reason = error.to_string();
    if reason.contains("not unique") {
        reason.push_str(": a consumer of an earlier configuration takes the same requests; remove it with `nats consumer rm`");
    }
    if reason.contains(NO_ROOM) {
        reason.push_str(": the max_bytes of all streams are reserved; lower max_bytes of routes or streams.*_max_bytes, or raise max_file in nats.conf");
    }
    if reason.contains("overlap") {
        reason.push_str(": a stream takes the same requests; if routes swap what they match, apply in two steps, with neither of the two matches in the first");
    }
    ApplyError { what: what.to_owned(), reason }
}
