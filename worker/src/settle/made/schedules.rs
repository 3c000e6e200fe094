//! Setting and removing schedules for an attempt, and publications that wait for their time, which are schedules too. Each is stored
//! once over all attempts.

use bytes::Bytes;
use tidegate_shared::{
    broker::{broker_header, header_number},
    channel::Channel,
    envelope::one_line,
    header,
    id::publication_id,
    schedule::{self, Before, Change, Record, Schedule, What},
    topology::PARK,
};

use super::Made;
use crate::{
    backoff::Pauses,
    engine::Engine,
    follow_up::RouteBook,
    outlet::NotStored,
    publication::Publication,
    schedule::{Scheduled, SetSchedule, When},
    store::{self, FIRST_PAUSE},
};

impl Made {
    /// Sets a schedule for the handler.
    pub(super) async fn set(&self, set: SetSchedule) -> Result<Change, NotStored> {
        let cannot = |why: String| NotStored::Never(format!("cannot set the schedule {:?}: {why}", set.name));
        set.check(self.engine.clock.about_now()).map_err(cannot)?;
        let what = match &set.what {
            Scheduled::Request(follow_up) => {
                let Engine { config, clock, .. } = &*self.engine;
                let book = RouteBook { routes: &config.routes, longest_user: config.longest_user_id() };
                let request = follow_up.request(&self.request, "", &book, clock.about_now());
                What::request(&set.name, request.map_err(|refused| cannot(refused.to_string()))?)
            }
            Scheduled::Publication(publication) => {
                let channel = self.channel(publication).map_err(cannot)?;
                What::Publication(waiting(channel, None, publication).map_err(cannot)?)
            }
        };
        let schedule = self.schedule(set.name.clone(), &set.when, what).await.map_err(cannot)?;
        self.store_schedule(&schedule, false).await
    }

    /// Removes a schedule, and a firing of it that waits for a gateway.
    pub(super) async fn remove(&self, name: &str) -> Result<bool, NotStored> {
        let cannot = |why: &dyn ToString| {
            NotStored::Never(format!("cannot remove the schedule {name:?}: {}", why.to_string()))
        };
        schedule::check_name(name).map_err(|why| cannot(&why))?;
        let Engine { broker, subjects, .. } = &*self.engine;
        let (subject, firing, fired) = (subjects.schedule(name), subjects.firing(name), subjects.fired(name));
        let (there, waits, record) = tokio::join!(
            store::look_up(broker, PARK, &subject),
            store::look_up(broker, PARK, &firing),
            store::look_up(broker, PARK, &fired)
        );
        let waits = waits.is_some_and(|message| broker_header(&message, header::REMOVED).is_none());
        let removal = schedule::removal(subjects, name);
        store::store(broker, firing, removal, Bytes::new()).await.map_err(|rejected| cannot(&rejected))?;
        if record.is_some() {
            let gone = schedule::gone();
            store::store(broker, fired, gone, Bytes::new()).await.map_err(|rejected| cannot(&rejected))?;
        }
        Ok(there.is_some() || waits)
    }

    /// Stores a publication that waits for its time, under a name that is made of its id. What is set already stays as it is.
    pub(super) async fn publish_later(
        &self,
        id: String,
        channel: Channel,
        publication: &Publication,
        when: &When,
    ) -> Result<(), NotStored> {
        let cannot =
            |why: String| NotStored::Never(format!("cannot publish to {:?}: {why}", publication.channel));
        let name = publication_id(channel.name(), &id);
        let what = What::Publication(waiting(channel, Some(id), publication).map_err(cannot)?);
        let schedule = self.schedule(name, when, what).await.map_err(cannot)?;
        self.store_schedule(&schedule, true).await.map(drop)
    }

    async fn schedule(&self, name: String, when: &When, what: What) -> Result<Schedule, String> {
        let Engine { broker, clock, .. } = &*self.engine;
        let now = if when.is_relative() {
            clock.now(broker, PARK, &self.request.route).await
        } else {
            clock.about_now()
        };
        let schedule = Schedule::new(name, when.from(now)?, when.overlap(), what);
        Ok(schedule.set_by(&self.request.id, &when.said()))
    }

    async fn store_schedule(&self, schedule: &Schedule, keep: bool) -> Result<Change, NotStored> {
        let Engine { broker, subjects, .. } = &*self.engine;
        let cannot =
            |why: &str| NotStored::Never(format!("cannot set the schedule {:?}: {why}", schedule.name));
        let subject = subjects.schedule(&schedule.name);
        let (mut tried, mut pauses) = (None, Pauses::new(FIRST_PAUSE));
        loop {
            let before =
                store::look_up(broker, PARK, &subject).await.map_or_else(Before::default, |message| {
                    let seq = header_number(&message, header::SEQUENCE).unwrap_or(0);
                    Before::read(seq, &message.headers.unwrap_or_default(), message.payload)
                });
            // An acknowledgement was lost: this is what was stored.
            if let Some(change) = tried.filter(|_| before.is(schedule)) {
                return Ok(change);
            }
            // What another schedule of this name has fired, and what waits for a gateway.
            let fired = self.fired_by_another(schedule).await;
            let before = before.fired(fired.is_some());
            let change = schedule.change(&before, keep);
            if change == Change::Unchanged || (change == Change::Created && self.has_fired(schedule).await) {
                return Ok(Change::Unchanged);
            }
            let headers = schedule.setting(subjects, &before);
            match store::store_unless_full(broker, &subject, &headers, &schedule.body()).await {
                Ok(Some(store::Stored::New)) => {
                    if let Some(seq) = fired {
                        self.drop_fired(&schedule.name, seq).await;
                    }
                    return Ok(change);
                }
                // Another message has taken the subject, or this one was stored by a try that seemed to fail.
                Ok(Some(store::Stored::Already)) => tried = Some(change),
                Ok(None) => {
                    let reason = format!("the stream {PARK} is full: no schedule fits");
                    return Err(NotStored::Full { reason, after: self.pause });
                }
                Err(rejected) => {
                    let words = rejected.to_string();
                    return Err(cannot(schedule::When::refused(&words).unwrap_or(&words)));
                }
            }
            tokio::time::sleep(pauses.failed()).await;
        }
    }

    /// The sequence of a firing that waits for a gateway, of another schedule that has had this name.
    async fn fired_by_another(&self, schedule: &Schedule) -> Option<u64> {
        let Engine { broker, subjects, .. } = &*self.engine;
        let firing = store::look_up(broker, PARK, &subjects.firing(&schedule.name)).await?;
        let removed = broker_header(&firing, header::REMOVED).is_some();
        let own = broker_header(&firing, header::SCHEDULE_VERSION) == Some(&*schedule.version);
        if removed || own { None } else { header_number(&firing, header::SEQUENCE) }
    }

    /// Drops that firing, unless another one has come meanwhile.
    async fn drop_fired(&self, name: &str, seq: u64) {
        let Engine { broker, subjects, .. } = &*self.engine;
        let mut gone = schedule::gone();
        gone.insert(header::EXPECTED_LAST, seq.to_string());
        if let Err(rejected) = store::store(broker, subjects.firing(name), gone, Bytes::new()).await {
            tracing::warn!(schedule = name, %rejected, "a firing of a schedule that was replaced is not dropped");
        }
    }

    /// Whether an earlier attempt has set a schedule that fires once, and that has fired since.
    async fn has_fired(&self, schedule: &Schedule) -> bool {
        if !schedule.when.is_once() || !(self.repeated || self.request.id.is_keyed()) {
            return false;
        }
        let Engine { broker, subjects, .. } = &*self.engine;
        let (firing, fired) = (subjects.firing(&schedule.name), subjects.fired(&schedule.name));
        // The record is stored before the firing is gone.
        if let Some(firing) = store::look_up(broker, PARK, &firing).await
            && broker_header(&firing, header::SCHEDULE_VERSION) == Some(&*schedule.version)
        {
            return true;
        }
        let record = store::look_up(broker, PARK, &fired).await;
        let record: Option<Record> = record.and_then(|found| serde_json::from_slice(&found.payload).ok());
        record.is_some_and(|record| record.version == schedule.version)
    }
}

/// The publication as a schedule has it.
fn waiting(
    channel: Channel,
    id: Option<String>,
    publication: &Publication,
) -> Result<schedule::Publication, String> {
    let tag = |(name, value): (&String, &String)| Ok((header::tag(name)?, one_line(value)));
    let tags: Result<Vec<_>, header::BadTag> = publication.tags.iter().map(tag).collect();
    let tags = tags.map_err(|error| error.to_string())?;
    Ok(schedule::Publication { channel, id, tags, data: publication.data.clone() })
}
