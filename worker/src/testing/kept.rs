//! The schedules that jobs of a test have set, in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    clock::Clock,
    outlet::NotStored,
    schedule::{ScheduleChange, Scheduled, SetSchedule, When},
};

/// The schedules that the jobs of a test have set and not removed. Give it to each of them with
/// [`TestJob::schedules`](super::TestJob::schedules); a job without it begins with none.
///
/// ```
/// use tidegate_worker::{Failure, FollowUp, Router, Scheduled, Schedules, When, on, testing};
///
/// async fn begin(schedules: Schedules) -> Result<(), Failure> {
///     schedules.set("nightly", When::cron("0 3 * * *"), FollowUp::json("report", &7)?).await?;
///     Ok(())
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let kept = testing::KeptSchedules::default();
/// let router: Router = Router::new().route("begin", on(begin));
/// router.call(testing::job("begin").schedules(&kept)).await.unwrap();
/// let report = FollowUp::json("report", &7).unwrap();
/// assert_eq!(kept.get("nightly"), Some((When::cron("0 3 * * *"), Scheduled::Request(report))));
/// # });
/// ```
#[derive(Debug, Clone, Default)]
pub struct KeptSchedules(Arc<Mutex<BTreeMap<String, (When, Scheduled)>>>);

impl KeptSchedules {
    /// The schedule of this name: when it fires, and what it brings. `None` if it was not set, or was removed.
    pub fn get(&self, name: &str) -> Option<(When, Scheduled)> {
        self.lock().get(name).cloned()
    }

    /// The names of all schedules, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Nothing is checked here that needs a configuration: routes, namespaces.
    pub(super) fn set(&self, set: SetSchedule) -> Result<ScheduleChange, NotStored> {
        let cannot = |why| NotStored::Never(format!("cannot set the schedule {:?}: {why}", set.name));
        set.check(Clock::new().about_now()).map_err(cannot)?;
        let (relative, schedule) = (set.when.is_relative(), (set.when, set.what));
        let mut kept = self.lock();
        // What is counted from now has another time than before.
        if kept.get(&set.name).is_some_and(|before| !relative && *before == schedule) {
            return Ok(ScheduleChange::Unchanged);
        }
        let replaced = kept.insert(set.name, schedule).is_some();
        Ok(if replaced { ScheduleChange::Replaced } else { ScheduleChange::Created })
    }

    pub(super) fn remove(&self, name: &str) -> bool {
        self.lock().remove(name).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (When, Scheduled)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
