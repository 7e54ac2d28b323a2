//! The frames that are free: a buddy allocator's choice without its lists.
//!
//! Board and guests leave a few long ranges, so those are all that is stored. A range falls into
//! blocks, each as large as its address and the range's end allow; they are what a buddy allocator
//! would have in its lists, and found as fast as they are few.

use alloc::vec::Vec;

/// Free frames by number, in ranges that neither overlap nor touch.
#[derive(Debug)]
pub(super) struct Frames {
    free: Vec<Range>,
}

/// Frames from the first to before the second.
type Range = (u32, u32);

impl Frames {
    pub(super) const fn new() -> Self {
        Self { free: Vec::new() }
    }

    /// How many are free.
    pub(super) fn count(&self) -> u64 {
        let frames = self.free.iter().map(|&(start, end)| end - start);
        frames.sum::<u32>().into()
    }

    /// Adds the frames from `start` to before `end`, none of which is free.
    pub(super) fn put(&mut self, mut start: u32, mut end: u32) {
        if start >= end {
            return;
        }
        self.free.retain(|&(first, behind)| {
            if behind == start {
                start = first;
            } else if first == end {
                end = behind;
            } else {
                return true;
            }
            false
        });
        self.free.push((start, end));
    }

    /// Takes 1 << `order` frames, aligned to as many: from the smallest block, to keep the large
    /// ones whole, and of those from the lowest.
    pub(super) fn take(&mut self, order: u32) -> Option<u32> {
        let mut best = None;
        for (i, &(mut at, end)) in self.free.iter().enumerate() {
            while at < end {
                let block = at.trailing_zeros().min((end - at).ilog2());
                if block >= order && best.is_none_or(|(size, frame, _)| (block, at) < (size, frame))
                {
                    best = Some((block, at, i));
                }
                at += 1 << block;
            }
        }
        let (_, at, i) = best?;
        let (start, end) = self.free.swap_remove(i);
        self.put(start, at);
        self.put(at + (1 << order), end);
        Some(at)
    }

    /// Takes `count` frames in a row, the first a multiple of 1 << `order` and all below `limit`:
    /// from the smallest range that has them.
    pub(super) fn take_run(&mut self, count: u32, order: u32, limit: u32) -> Option<u32> {
        let begin = |start: u32| start.checked_next_multiple_of(1 << order);
        let fits = |&(_, &(start, end)): &(usize, &Range)| {
            let behind = begin(start).and_then(|at| at.checked_add(count));
            behind.is_some_and(|behind| behind <= end.min(limit))
        };
        let ranges = self.free.iter().enumerate().filter(fits);
        let (i, &(start, end)) = ranges.min_by_key(|(_, (start, end))| end - start)?;
        let at = begin(start)?;
        self.free.swap_remove(i);
        self.put(start, at);
        self.put(at + count, end);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn config() -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    #[test]
    fn a_run_comes_whole_and_aligned_from_the_smallest_range() {
        let mut frames = Frames::new();
        frames.put(1, 30);
        frames.put(100, 110);
        assert_eq!(frames.take_run(7, 1, 200), Some(100));
        assert_eq!(frames.take_run(7, 1, 8), None);
        assert_eq!(frames.take_run(7, 3, 200), Some(8));
        assert_eq!(frames.count(), 29 + 10 - 14);
        assert_eq!(frames.take_run(15, 0, 200), Some(15));
        assert_eq!(frames.take_run(8, 0, 200), None);
        assert_eq!(frames.take_run(1, 31, 200), None);
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn every_frame_is_free_or_taken_once_and_free_ones_join_again(
            ranges in prop::collection::btree_map(0u32..40, 1u32..25, 1..8),
            steps in prop::collection::vec((0u32..7, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut frames = Frames::new();
            let mut free = BTreeSet::new();
            for (&at, &size) in &ranges {
                frames.put(25 * at, 25 * at + size);
                free.extend(25 * at..25 * at + size);
            }
            let all = free.clone();
            let mut taken = Vec::new();
            for (order, which) in steps {
                if order < 5 {
                    let size = 1 << order;
                    let fits = |&at: &u32| at % size == 0 && (at..at + size).all(|n| free.contains(&n));
                    let place = frames.take(order);
                    prop_assert_eq!(place.is_some(), all.iter().any(fits));
                    if let Some(at) = place {
                        prop_assert!(fits(&at));
                        free.retain(|n| !(at..at + size).contains(n));
                        taken.push((at, size));
                    }
                } else if !taken.is_empty() {
                    let (at, size) = taken.swap_remove(which.index(taken.len()));
                    frames.put(at, at + size);
                    free.extend(at..at + size);
                }
                prop_assert_eq!(frames.count(), free.len() as u64);
            }
            for (at, size) in taken {
                frames.put(at, at + size);
            }
            let mut whole = frames.free.clone();
            whole.sort_unstable();
            let joined = all.iter().filter(|&&n| n == 0 || !all.contains(&(n - 1)));
            prop_assert!(whole.iter().map(|range| &range.0).eq(joined));
        }
    }

    #[test]
    fn small_takings_leave_large_blocks_whole() {
        let mut frames = Frames::new();
        frames.put(3, 64);
        assert_eq!(frames.take(0), Some(3));
        assert_eq!(frames.take(0), Some(4));
        assert_eq!(frames.take(5), Some(32));
        assert_eq!(frames.take(1), Some(6));
        assert_eq!(frames.take(6), None);
    }
}
