//! What waits for all clients together, in bytes, and how much of it one outbox may have.
//!
//! An outbox may hold what is left of the total, and no more than its own limit. So as the total fills up, those with the most waiting
//! are ended first, and there is always something left for the others (dynamic thresholds, as in switches with shared memory). Small
//! amounts are not counted: an outbox that is emptied at once touches nothing that others touch.

use std::{
    ops::{AddAssign, SubAssign},
    sync::Arc,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

/// The steps in which an outbox is counted, and what each may have whatever is left.
const STEP: usize = 4096;

/// The bytes that wait for all clients.
#[derive(Debug)]
pub(crate) struct Total {
    limit: usize,
    used: Gauge,
    shed: Counter,
}

/// The bytes of one outbox, or of one body that is being read. Dropping it takes them from the total.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    bytes: u32,
    /// What of it is in the total.
    told: u32,
    total: Option<Arc<Total>>,
}

impl Total {
    /// `used` shows the bytes; `shed` counts what was refused for them.
    pub(crate) fn new(limit: u64, used: Gauge, shed: Counter) -> Arc<Self> {
        Arc::new(Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), used, shed })
    }

    fn left(&self) -> usize {
        self.limit.saturating_sub(usize::try_from(self.used.get()).unwrap_or(0))
    }
}

impl Counted {
    /// Nothing yet, as a part of this total.
    pub(crate) fn of(total: Arc<Total>) -> Self {
        Self { total: Some(total), ..Self::default() }
    }

    pub(crate) fn get(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// The most that it may have now, if its own limit is this.
    pub(crate) fn most(&self, limit: usize) -> usize {
        self.total.as_ref().map_or(limit, |total| limit.min(total.left().max(STEP)))
    }

    /// Whether it may have so many bytes more. If not, this is counted.
    pub(crate) fn has_share(&self, more: usize) -> bool {
        let wanted = self.get().saturating_add(more);
        let Some(total) = self.total.as_ref().filter(|_| wanted > STEP) else { return true };
        let fits = wanted <= total.left();
        if !fits {
            total.shed.inc();
        }
        fits
    }

    pub(crate) fn set(&mut self, bytes: usize) {
        self.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Nothing at all is told exactly.
        self.tell(if bytes == 0 { 1 } else { STEP });
    }

    /// Tells the total if it is wrong by so much.
    fn tell(&mut self, least: usize) {
        let Some(total) = &self.total else { return };
        let difference = i64::from(self.bytes) - i64::from(self.told);
        if difference.unsigned_abs() >= least as u64 {
            total.used.inc_by(difference);
            self.told = self.bytes;
        }
    }
}

impl AddAssign<usize> for Counted {
    fn add_assign(&mut self, bytes: usize) {
        self.set(self.get().saturating_add(bytes));
    }
}

impl SubAssign<usize> for Counted {
    fn sub_assign(&mut self, bytes: usize) {
        self.set(self.get().saturating_sub(bytes));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1024;

    fn total(limit: usize) -> Arc<Total> {
        Total::new(limit as u64, Gauge::default(), Counter::default())
    }

    #[test]
    fn exactly_what_is_left_fits_and_one_byte_more_does_not() {
        let total = total(100 * KIB);
        let (mut first, second) = (Counted::of(Arc::clone(&total)), Counted::of(Arc::clone(&total)));
        first += 40 * KIB;
        for (more, fits) in [(60 * KIB - 1, true), (60 * KIB, true), (60 * KIB + 1, false)] {
            assert_eq!(second.has_share(more), fits, "{more}");
        }
        assert_eq!(total.shed.get(), 1);
    }

    #[test]
    fn the_fullest_are_refused_first_and_small_ones_never() {
        let total = total(100 * KIB);
        let mut all: Vec<_> = (0..3).map(|_| Counted::of(Arc::clone(&total))).collect();
        all[0] += 50 * KIB;
        all[1] += 20 * KIB;
        all[2] += KIB;
        assert!(!all[0].has_share(1), "it has more than is left");
        assert!(all[1].has_share(5 * KIB) && all[2].has_share(20 * KIB));
        all[1] += 30 * KIB;
        assert!(!all[1].has_share(1) && all[2].has_share(3 * KIB), "nothing is left but what everybody has");
        assert!(!all[2].has_share(4 * KIB));
        all.remove(0);
        assert!(all[1].has_share(30 * KIB), "a connection that ends gives its bytes back");
    }

    proptest! {
        #[test]
        fn the_total_is_what_waits_up_to_a_step_each(
            steps in proptest::collection::vec((0_usize..4, any::<bool>(), 0_usize..20 * KIB), 0..200),
        ) {
            let total = total(1 << 30);
            let mut all: Vec<_> = (0..4).map(|_| Counted::of(Arc::clone(&total))).collect();
            for (which, grows, bytes) in steps {
                if grows { all[which] += bytes } else { all[which] -= bytes }
                let waiting: usize = all.iter().map(Counted::get).sum();
                prop_assert!(waiting.abs_diff(usize::try_from(total.used.get()).unwrap()) < 4 * STEP);
            }
            drop(all);
            prop_assert_eq!(total.used.get(), 0);
        }
    }
}
