//! Numbers for the jobs that run at the same time: the lowest that is free, in all and by project.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, btree_map::Entry},
    fmt,
    sync::{Arc, Mutex},
};

use crate::{handler::Concurrent, sync::lock};

/// The numbers by project; `None` is for all of them.
#[derive(Default)]
pub(super) struct Slots(Mutex<BTreeMap<Option<u64>, Numbers>>);

#[derive(Default)]
struct Numbers {
    /// The lowest that was never taken.
    next: usize,
    /// Those below it that are free again, the lowest first.
    free: BinaryHeap<Reverse<usize>>,
}

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
        let mut numbers = lock(&self.0);
        let mut lowest = |of| numbers.entry(of).or_default().take();
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
        let mut numbers = lock(&self.slots.0);
        let Concurrent { id, project_id } = self.concurrent;
        for (of, number) in [(None, id), (self.project, project_id)] {
            if let Entry::Occupied(mut of) = numbers.entry(of)
                && of.get_mut().give_back(number)
            {
                of.remove();
            }
        }
    }
}

impl Numbers {
    fn take(&mut self) -> usize {
        self.free.pop().map_or_else(
            || {
                self.next += 1;
                self.next - 1
            },
            |Reverse(number)| number,
        )
    }

    /// Gives whether all are free now.
    fn give_back(&mut self, number: usize) -> bool {
        self.free.push(Reverse(number));
        self.free.len() == self.next
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
