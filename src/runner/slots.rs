//! Numbers for the jobs that run at the same time: the lowest that is free, in all and by project.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
};

use crate::{handler::Concurrent, sync::lock};

/// The numbers that are in use, by project; `None` is for all of them.
#[derive(Default)]
pub(super) struct Slots(Mutex<BTreeMap<Option<u64>, BTreeSet<usize>>>);

/// The numbers of one job, free again when this is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    project: Option<u64>,
    pub(super) concurrent: Concurrent,
}

impl Slots {
    /// Numbers for a job of this project; jobs of no known project share one.
    pub(super) fn take(self: &Arc<Self>, project: Option<u64>) -> Slot {
        let project = Some(project.unwrap_or(0));
        let mut used = lock(&self.0);
        let mut lowest = |of| {
            let used: &mut BTreeSet<usize> = used.entry(of).or_default();
            let free = (0..).zip(&*used).find(|(number, used)| number != *used);
            let free = free.map_or(used.len(), |(number, _)| number);
            used.insert(free);
            free
        };
        let concurrent = Concurrent {
            id: lowest(None),
            project_id: lowest(project),
        };
        Slot {
            slots: Arc::clone(self),
            project,
            concurrent,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut used = lock(&self.slots.0);
        let Concurrent { id, project_id } = self.concurrent;
        for (of, number) in [(None, id), (self.project, project_id)] {
            if let Some(numbers) = used.get_mut(&of) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    used.remove(&of);
                }
            }
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.concurrent.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_taken() {
        let slots = Arc::new(Slots::default());
        let numbers = |slot: &Slot| (slot.concurrent.id, slot.concurrent.project_id);
        let first = slots.take(Some(7));
        let second = slots.take(Some(8));
        let third = slots.take(Some(7));
        assert_eq!(
            [&first, &second, &third].map(numbers),
            [(0, 0), (1, 0), (2, 1)]
        );
        drop(first);
        let fourth = slots.take(Some(8));
        let fifth = slots.take(None);
        assert_eq!([&fourth, &fifth].map(numbers), [(0, 1), (3, 0)]);
        drop((second, third, fourth, fifth));
        assert!(lock(&slots.0).is_empty());
    }
}
