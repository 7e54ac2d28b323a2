//! Where files lie in the host's RAM: clear of the image, of QEMU's own device tree, and of each other.

use std::ops::Range;

use crate::failure::unusable;
use crate::size::{KIB, MIB};

/// Alignment of stage 2's large blocks: what is placed alike in the host and in the guest can be mapped in place.
const BLOCK: u64 = 2 * MIB;
/// Where a zImage or raw kernel lies in the guest, past a multiple of 2 MiB, as QEMU's `virt` places it.
pub const KERNEL_OFFSET: u64 = 64 * KIB;
/// What the image may take from where it is loaded: itself, its stacks and its heap.
const IMAGE_ROOM: u64 = 4 * MIB;
/// What QEMU's device tree may take.
const TREE_ROOM: u64 = MIB + 64 * KIB;

/// The free ranges of the host's RAM.
pub struct Layout {
    ram: Range<u64>,
    taken: Vec<Range<u64>>,
}

impl Layout {
    /// The layout of a machine whose RAM is `ram`, with the image loaded at `image`; the first `clear` bytes stay free.
    ///
    /// QEMU puts the device tree at the start of RAM for what it does not know as a kernel, and else behind half of the RAM or
    /// 128 MiB: both are kept free.
    #[must_use]
    pub fn new(ram: Range<u64>, image: u64, clear: u64) -> Self {
        let half = ((ram.end - ram.start) / 2).min(128 * MIB);
        let tree = ram.start + half;
        let taken = vec![
            ram.start..ram.start + clear.max(TREE_ROOM),
            image..image + IMAGE_ROOM,
            tree..tree + TREE_ROOM,
        ];
        Self { ram, taken }
    }

    /// Takes room for `what`, `size` bytes long, at `offset` past a large block or, where that fails, a page.
    pub fn place(&mut self, what: &str, size: u64, offset: u64) -> anyhow::Result<u64> {
        let size = size.max(1);
        let start = self
            .find(size, BLOCK, offset)
            .or_else(|| self.find(size, 4 * KIB, 0))
            .ok_or_else(|| {
                unusable(format!(
                    "{what} ({} KiB) does not fit in the host's {} MiB of RAM beside the hypervisor and the files \
                     placed before it: give the machine more with --memory",
                    size.div_ceil(KIB),
                    (self.ram.end - self.ram.start) / MIB,
                ))
            })?;
        self.taken.push(start..start + size);
        Ok(start)
    }

    /// The lowest free `size` bytes at an address that is `offset` modulo `align`.
    fn find(&self, size: u64, align: u64, offset: u64) -> Option<u64> {
        let first = |from: u64| from.saturating_sub(offset).next_multiple_of(align) + offset;
        let ends = self.taken.iter().map(|range| range.end);
        std::iter::once(self.ram.start)
            .chain(ends)
            .map(first)
            .filter(|&start| self.is_free(start, size))
            .min()
    }

    fn is_free(&self, start: u64, size: u64) -> bool {
        let end = start.saturating_add(size);
        let clear = |range: &Range<u64>| end <= range.start || range.end <= start;
        start >= self.ram.start && end <= self.ram.end && self.taken.iter().all(clear)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 0x4000_0000;

    #[test]
    fn files_lie_apart_from_each_other_the_image_and_the_tree() {
        for ram in [64 * MIB, 1024 * MIB, 8192 * MIB] {
            let mut layout = Layout::new(RAM..RAM + ram, RAM + KERNEL_OFFSET, 0);
            let mut seen = layout.taken.clone();
            for (size, offset) in [
                (6 * MIB, KERNEL_OFFSET),
                (3 * MIB + 1, 0),
                (17, KERNEL_OFFSET),
                (9 * MIB, 0),
            ] {
                let start = layout.place("a file", size, offset).unwrap();
                assert!(start >= RAM && start + size <= RAM + ram);
                assert!(
                    seen.iter()
                        .all(|other| start + size <= other.start || other.end <= start)
                );
                assert_eq!(start % BLOCK, offset);
                seen.push(start..start + size);
            }
        }
    }

    #[test]
    fn what_is_to_stay_free_at_the_start_does() {
        let mut layout = Layout::new(RAM..RAM + 64 * MIB, RAM + 40 * MIB, 32 * MIB);
        let start = layout.place("a file", MIB, KERNEL_OFFSET).unwrap();
        assert!(start >= RAM + 32 * MIB);
    }

    #[test]
    fn a_page_will_do_where_no_block_is_left() {
        let mut layout = Layout::new(RAM..RAM + 16 * MIB, RAM + KERNEL_OFFSET, 0);
        let starts: Vec<u64> =
            std::iter::from_fn(|| layout.place("a file", 300 * KIB, 0).ok()).collect();
        assert!(
            starts
                .iter()
                .any(|start| start % BLOCK != 0 && start % (4 * KIB) == 0)
        );
    }

    #[test]
    fn what_does_not_fit_is_named_with_the_sizes() {
        let mut layout = Layout::new(RAM..RAM + 64 * MIB, RAM + KERNEL_OFFSET, 0);
        let error = layout
            .place("big.cpio", 60 * MIB, 0)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("big.cpio (61440 KiB)") && error.contains("64 MiB"),
            "{error}"
        );
    }
}
