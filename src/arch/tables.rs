//! The stage-2 tables of a VM: a bounded piece of the heap, taken when the VM is built.
//!
//! One piece, so that a table's virtual address is its physical one less a constant: a walk reads
//! three entries at the price of three loads.

use super::{cache, mmu, tlb};
use crate::addr::PAGE;
use crate::stage2::{Table, Tables};
use alloc::alloc::{Layout, alloc, dealloc};
use core::arch::asm;

/// The pages that hold one VM's tables, and what the TLBs know them by.
#[derive(Debug)]
pub struct Pool {
    start: usize,
    layout: Layout,
    /// What a page's physical address lies above its virtual one, wrapping.
    offset: u32,
    /// A bit for each page that is free.
    free: u64,
    /// The VTTBR under which the TLBs may know entries; 0 where there is none.
    pub vttbr: u64,
}

impl Pool {
    /// A pool of `pages` pages, 1 to 64; `None` where the heap has no such piece.
    #[must_use]
    pub fn new(pages: u32) -> Option<Self> {
        let pages = pages.clamp(1, 64);
        let layout =
            Layout::from_size_align(pages as usize * PAGE as usize, 2 * PAGE as usize).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) } as usize;
        if start == 0 {
            return None;
        }
        let offset = (mmu::pa_of(start).0 as u32).wrapping_sub(start as u32);
        Some(Self {
            start,
            layout,
            offset,
            free: u64::MAX >> (64 - pages),
            vttbr: 0,
        })
    }

    #[inline(always)]
    fn entry(&self, table: Table, index: u32) -> *mut u64 {
        table.0.wrapping_sub(self.offset).wrapping_add(index * 8) as *mut u64
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout.
        unsafe { dealloc(self.start as *mut u8, self.layout) };
    }
}

impl Tables for Pool {
    fn alloc(&mut self, pages: u32) -> Option<Table> {
        // Two pages stand on an even one: every table is aligned to its size.
        let candidates = if pages == 2 {
            self.free & (self.free >> 1) & 0x5555_5555_5555_5555
        } else {
            self.free
        };
        if candidates == 0 {
            return None;
        }
        let first = candidates.trailing_zeros();
        self.free &= !(((1 << pages) - 1) << first);
        let (va, size) = (
            self.start + first as usize * PAGE as usize,
            pages as usize * PAGE as usize,
        );
        // SAFETY: the pages are this pool's, and no table.
        unsafe { core::ptr::write_bytes(va as *mut u8, 0, size) };
        cache::clean(va, size);
        Some(Table((va as u32).wrapping_add(self.offset)))
    }

    fn free(&mut self, table: Table, pages: u32) {
        let first = (self.entry(table, 0) as usize - self.start) / PAGE as usize;
        self.free |= ((1 << pages) - 1) << first;
    }

    #[inline(always)]
    fn read(&self, table: Table, index: u32) -> u64 {
        // SAFETY: the stage-2 code passes tables that `alloc` gave and an index inside them.
        unsafe { self.entry(table, index).read() }
    }

    fn write(&mut self, table: Table, index: u32, entry: u64) {
        let at = self.entry(table, index);
        // SAFETY: as for `read`; a doubleword store is single-copy atomic with LPAE (A3.5.3), and
        // the line is cleaned for walkers that don't look into the caches.
        unsafe {
            asm!("strd r2, r3, [{at}]", at = in(reg) at, in("r2") entry as u32,
                in("r3") (entry >> 32) as u32, options(nostack, preserves_flags));
        }
        cache::clean_line(at as usize);
    }

    fn flush(&mut self) {
        if self.vttbr != 0 {
            tlb::flush_vmid(self.vttbr);
        }
    }
}
