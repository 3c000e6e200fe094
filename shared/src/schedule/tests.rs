use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::{envelope::JSON, route::Priority};

fn subjects() -> Subjects {
    Subjects::new("tide")
}

fn request() -> Request {
    Request {
        id: RequestId::fired("report", 0, 0),
        user: None,
        client: None,
        route: "reports".to_owned(),
        method: Some("reports.make".to_owned()),
        channel: None,
        info: None,
        channel_info: None,
        key: Some("report".to_owned()),
        priority: Priority::High,
        later: true,
        attempt: 0,
        accepted_at: 0,
        trace: None,
        content_type: JSON.to_owned(),
        body: "{}".into(),
    }
}

fn publication() -> What {
    What::Publication(Publication {
        channel: Channel::parse("chat:a:b").unwrap(),
        id: Some("p.1".to_owned()),
        tags: vec![("Tide-Tag-a".to_owned(), "1".to_owned()), ("Tide-Tag-b".to_owned(), "2".to_owned())],
        data: "hello".into(),
    })
}

#[test]
fn a_schedule_is_read_as_it_was_written() {
    let cron = When::cron("0 3 * * *", Some("Europe/Berlin")).unwrap();
    for (when, overlap, what) in [
        (cron, Overlap::Skip, What::Request(Box::new(request()))),
        (When::every("5m").unwrap(), Overlap::Allow, publication()),
    ] {
        let schedule = Schedule::new("a name".to_owned(), when, overlap, what);
        let read = Schedule::read(&schedule.headers(&subjects()), schedule.body());
        assert_eq!(read, Ok(schedule));
    }
}

#[test]
fn two_schedules_are_the_same_if_nothing_but_their_version_differs() {
    let make =
        |every| Schedule::new("a".to_owned(), When::every(every).unwrap(), Overlap::Allow, publication());
    assert_ne!(make("5m"), make("5m"));
    assert!(make("5m").is_same(&make("300s")));
    assert!(!make("5m").is_same(&make("6m")));
}

/// A firing as the broker makes it of the schedule.
fn fired(schedule: &Schedule, seq: u64, at: SystemTime, next: &str) -> Firing {
    let mut headers = HeaderMap::new();
    for (name, values) in schedule.headers(&subjects()).iter() {
        let text: &str = name.as_ref();
        if !text.starts_with("Nats-") {
            headers.insert(name.clone(), values[0].clone());
        }
    }
    headers.insert(header::SCHEDULE_NEXT, next);
    Firing::read(&headers, schedule.body(), seq, at).unwrap()
}

#[test]
fn each_firing_has_an_id_of_its_own_which_is_the_same_on_every_delivery() {
    let every = When::every("1s").unwrap();
    let schedule =
        Schedule::new("report".to_owned(), every, Overlap::Allow, What::Request(Box::new(request())));
    let (at, next) = (UNIX_EPOCH + Duration::from_millis(1_500), "1970-01-01T00:00:02Z");
    let first = fired(&schedule, 7, at, next);
    assert_eq!(first, fired(&schedule, 7, at, next));
    assert_eq!(first.next, Some(UNIX_EPOCH + Duration::from_secs(2)));
    let What::Request(request) = &first.what else { panic!("{first:?}") };
    assert_eq!((&request.id, request.accepted_at, request.priority), (&first.id, 1_500, Priority::High));
    for (seq, at) in [(8, at), (7, at + Duration::from_secs(1))] {
        assert_ne!(fired(&schedule, seq, at, next).id, first.id, "{seq} {at:?}");
    }
    let other = Schedule { name: "other".to_owned(), ..schedule };
    assert_ne!(fired(&other, 7, at, next).id, first.id);
}

#[test]
fn a_firing_before_the_time_that_the_one_before_it_named_is_early() {
    let every = When::every("20s").unwrap();
    let schedule = Schedule::new("a".to_owned(), every, Overlap::Allow, publication());
    let second = |n| UNIX_EPOCH + Duration::from_secs(n);
    let first = fired(&schedule, 1, second(20), "1970-01-01T00:00:40Z");
    let record = first.record(FiringOutcome::Stored, None, None);
    assert!(!first.is_early(&record), "the same one, which is tried again");
    for (at, early) in [(30, true), (39, true), (40, false), (70, false)] {
        assert_eq!(fired(&schedule, 2, second(at), "purge").is_early(&record), early, "{at}");
    }
    let changed = Schedule { version: "other".to_owned(), ..schedule };
    assert!(!fired(&changed, 2, second(30), "purge").is_early(&record), "a changed schedule begins anew");
}

#[test]
fn a_record_remembers_the_newest_firing_that_was_stored() {
    let schedule = Schedule::new("a".to_owned(), When::every("1s").unwrap(), Overlap::Skip, publication());
    let first = fired(&schedule, 1, UNIX_EPOCH, "purge");
    let second = fired(&schedule, 2, UNIX_EPOCH, "purge");
    let stored = first.record(FiringOutcome::Stored, None, None);
    let skipped = second.record(FiringOutcome::Skipped, None, Some(&stored));
    assert_eq!((skipped.id, skipped.stored), (second.id.to_string(), Some(first.id.to_string())));
}

#[test]
fn a_firing_that_is_being_stored_is_remembered_by_those_after_it_and_does_not_count_as_stored() {
    let schedule = Schedule::new("a".to_owned(), When::every("1s").unwrap(), Overlap::Skip, publication());
    let [first, second] = [1, 2].map(|seq| fired(&schedule, seq, UNIX_EPOCH, "purge"));
    let storing = first.record(FiringOutcome::Storing, None, None);
    let failing = first.record(FiringOutcome::Failing, Some("why".to_owned()), Some(&storing));
    for record in [&storing, &failing] {
        assert!(!record.is_settled() && !record.has_stored(first.id.as_str()), "{record:?}");
        let after = second.record(FiringOutcome::Skipped, None, Some(record));
        assert_eq!(after.stored.as_deref(), Some(first.id.as_str()));
    }
    let stored = first.record(FiringOutcome::Stored, None, Some(&failing));
    assert!(stored.is_settled() && stored.has_stored(first.id.as_str()));
}

#[test]
fn the_record_of_a_firing_names_the_same_request() {
    let every = When::every("1s").unwrap();
    let schedule = Schedule::new("a".to_owned(), every, Overlap::Allow, What::Request(Box::new(request())));
    let first = fired(&schedule, 1, UNIX_EPOCH, "1970-01-01T00:00:02Z");
    let repeated = fired(&schedule, 2, UNIX_EPOCH, "1970-01-01T00:00:04Z");
    let record = first.record(FiringOutcome::Failing, None, None);
    assert_eq!(repeated.recorded(&record), Some(first));
}

#[test]
fn the_record_of_a_schedule_that_fires_once_ends_when_its_firing_is_done() {
    let at = When::At(UNIX_EPOCH);
    let firing =
        fired(&Schedule::new("a".to_owned(), at, Overlap::Allow, publication()), 1, UNIX_EPOCH, "purge");
    for (outcome, ends) in
        [(FiringOutcome::Storing, false), (FiringOutcome::Failing, false), (FiringOutcome::Stored, true)]
    {
        assert_eq!(firing.record_headers(outcome).get(header::TTL).is_some(), ends, "{outcome:?}");
    }
}

#[test]
fn a_name_fits_into_a_header() {
    for name in ["nightly", "every 5 minutes: orders/*.>", &"x".repeat(128)] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    for name in ["", " a", "a\nb", &"x".repeat(129)] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn a_firing_that_the_broker_left_out_is_one_of_a_schedule_that_goes_on() {
    let schedule = Schedule::new("a".to_owned(), When::every("1h").unwrap(), Overlap::Allow, publication());
    let missed = Firing::read(&schedule.missed(7_000), schedule.body(), 3, UNIX_EPOCH).unwrap();
    assert!(missed.repeats && missed.next.is_none() && missed.version == schedule.version);
    assert!(missed.record_headers(FiringOutcome::Stored).get(header::TTL).is_none(), "its record stays");
    assert_eq!(schedule.missed(7_000), schedule.missed(7_000));
}
