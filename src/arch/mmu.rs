//! Hyp's own stage-1 tables: the image, stacks, devices, heap, and the windows onto guest memory.
//!
//! One level-1 and one level-2 table cover the first GiB of virtual addresses; nothing else is
//! mapped, so that a stray pointer faults. `boot.s` fills in the image and, for as long as CPUs come
//! up, the identity of its own 2 MiB. Layout, in 2 MiB steps (level-2 entries):
//!
//! | entries | what |
//! |---|---|
//! | 0 | nothing: a null pointer faults |
//! | 1 | the image, linked there |
//! | 2 | pages: stacks with a guard under each, device registers |
//! | 4–67 | heap: the first 2 MiB by pages, more by blocks |
//! | 96–97 | the device tree, while the board is read |
//! | 128–159 | windows: two for each of up to 16 CPUs |
//!
//! ARM DDI 0406C, B3.6.

use super::{sysreg, tlb};
use crate::addr::{BLOCK, PAGE, Pa};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

/// CPUs that there are windows and stacks for.
pub const MAX_CPUS: usize = 16;

const IMAGE: usize = 1;
const PAGES: usize = 2;
const HEAP: usize = 4;
const HEAP_END: usize = 68;
const TREE: usize = 96;
const WINDOWS: usize = 128;
const STEP: usize = BLOCK as usize;

/// The Hyp memory attributes: 0 normal, write-back; 1 device (B3.6.2, HMAIR0).
pub(super) const MAIR: u32 = 0x0000_04ff;
/// Table walks: T0SZ 0, inner shareable, write-back, and the bits that are one (HTCR). The same
/// value is a TTBCR with EAE set and TTBR1 off.
pub(super) const TCR: u32 = 0x8080_3500;
/// Hyp control: MMU, caches, CP15 barriers, no write and execute at once, and the bits that are one.
pub(super) const HSCTLR: u32 = 0x30c5_0838 | (1 << 19) | (1 << 12) | (1 << 2) | 1;

const VALID: u64 = 1;
const NOT_BLOCK: u64 = 2;
const DEVICE: u64 = 1 << 2;
const AP_ONE: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const NEVER_EXECUTE: u64 = 1 << 54;
const NORMAL: u64 = VALID | AP_ONE | INNER_SHAREABLE | ACCESSED;

/// Low word of a page of code: read-only, executable.
pub(super) const TEXT_LOW: u32 = (NORMAL | NOT_BLOCK | READ_ONLY) as u32;
/// Low word of a page of data: writable.
pub(super) const DATA_LOW: u32 = (NORMAL | NOT_BLOCK) as u32;
/// High word of everything but code.
pub(super) const XN_HIGH: u32 = (NEVER_EXECUTE >> 32) as u32;
/// Low word of the block that holds the start-up code.
pub(super) const TEXT_BLOCK_LOW: u32 = (NORMAL | READ_ONLY) as u32;

/// A table that the hardware walks.
#[repr(C, align(4096))]
pub(super) struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: entries are written whole by `set`, each by one CPU at a time: windows by the CPU that
// they belong to, everything else by the boot CPU before the others run or under the memory lock.
unsafe impl Sync for Table {}

impl Table {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    fn get(&self, index: usize) -> u64 {
        // SAFETY: `index` is checked by the array; see `Sync` for who writes.
        unsafe { (&raw const (*self.0.get())[index]).read_volatile() }
    }

    /// Clears an entry, for the walker from the next barrier on.
    #[inline(always)]
    fn clear(&self, index: usize) {
        // SAFETY: as for `set`.
        unsafe {
            let at = &raw mut (*self.0.get())[index];
            core::arch::asm!("strd r2, r3, [{at}]", at = in(reg) at, in("r2") 0, in("r3") 0,
                options(nostack, preserves_flags));
        }
    }

    /// Writes an entry in one piece (B3.6.1: a doubleword store is single-copy atomic here).
    #[inline(always)]
    fn set(&self, index: usize, value: u64) {
        let (low, high) = (value as u32, (value >> 32) as u32);
        // SAFETY: the address is that of an entry; the walker is coherent on every core with the
        // Virtualization Extensions (ID_MMFR3), so the barrier is all it needs.
        unsafe {
            let at = &raw mut (*self.0.get())[index];
            core::arch::asm!("strd r2, r3, [{at}]", "dsb ishst", "isb",
                at = in(reg) at, in("r2") low, in("r3") high,
                options(nostack, preserves_flags));
        }
    }
}

#[repr(C, align(32))]
pub(super) struct Level1(UnsafeCell<[u64; 4]>);
// SAFETY: written by boot.s and by `forget_identity`, both on the boot CPU.
unsafe impl Sync for Level1 {}

#[unsafe(link_section = ".bss.tables")]
pub(super) static LEVEL1: Level1 = Level1(UnsafeCell::new([0; 4]));
#[unsafe(link_section = ".bss.tables")]
pub(super) static LEVEL2: Table = Table::new();
#[unsafe(link_section = ".bss.tables")]
pub(super) static IMAGE_TABLE: Table = Table::new();
#[unsafe(link_section = ".bss.tables")]
pub(super) static IDENTITY: Table = Table::new();
#[unsafe(link_section = ".bss.tables")]
static PAGE_TABLE: Table = Table::new();
#[unsafe(link_section = ".bss.tables")]
static HEAP_TABLE: Table = Table::new();

/// The next free page of the page region, and of the heap region.
static NEXT_PAGE: AtomicUsize = AtomicUsize::new(1);
static HEAP_PAGES: AtomicUsize = AtomicUsize::new(0);

/// Links the static tables; once, on the boot CPU, before anything is mapped.
pub fn init() {
    for (index, table) in [(PAGES, &PAGE_TABLE), (HEAP, &HEAP_TABLE)] {
        LEVEL2.set(
            index,
            pa_of(table as *const _ as usize).0 | VALID | NOT_BLOCK,
        );
    }
}

/// Forgets the identity mapping of the start-up code; on the boot CPU, once no CPU needs it.
pub fn forget_identity(image: Pa) {
    let gib = (image.0 >> 30) as usize & 3;
    if gib == 0 {
        LEVEL2.set((image.0 >> 21) as usize & 511, 0);
    } else {
        // SAFETY: see `Level1`; a table descriptor is cleared, which the TLB flush makes visible.
        unsafe { (&raw mut (*LEVEL1.0.get())[gib]).write_volatile(0) };
    }
    tlb::flush_hyp();
}

/// The physical address behind a mapped virtual one; 0 where nothing is mapped.
#[must_use]
pub fn pa_of(va: usize) -> Pa {
    let entry = LEVEL2.get((va >> 21) & 511);
    let address = entry & 0xff_ffff_f000;
    match entry & 3 {
        1 => Pa((address & !(BLOCK - 1)) | (va as u64 & (BLOCK - 1))),
        3 => {
            // Level-3 tables lie in the image, which is mapped.
            let table = match va >> 21 {
                IMAGE => &IMAGE_TABLE,
                PAGES => &PAGE_TABLE,
                _ => &HEAP_TABLE,
            };
            match table.get((va >> 12) & 511) {
                0 => Pa(0),
                entry => Pa((entry & 0xff_ffff_f000) | (va as u64 & (PAGE - 1))),
            }
        }
        _ => Pa(0),
    }
}

/// Takes `pages` of the page region, with an unmapped one before them; the virtual address.
///
/// `None` when the region is full.
fn take_pages(pages: usize) -> Option<usize> {
    let first = NEXT_PAGE.fetch_add(pages + 1, Ordering::Relaxed);
    (first + pages < 512).then_some(PAGES * STEP + first * PAGE as usize)
}

/// Maps device registers, `size` bytes from `pa`; `None` when there is no room left.
///
/// # Safety
/// `pa` must be registers of a device that no other code maps.
#[must_use]
pub unsafe fn map_device(pa: Pa, size: u64) -> Option<usize> {
    let offset = pa.page_offset();
    let pages = (offset + size).div_ceil(PAGE) as usize;
    let va = take_pages(pages)?;
    for page in 0..pages {
        let entry = (pa.align_down(PAGE).0 + page as u64 * PAGE)
            | VALID
            | NOT_BLOCK
            | DEVICE
            | AP_ONE
            | ACCESSED
            | NEVER_EXECUTE;
        PAGE_TABLE.set(((va >> 12) & 511) + page, entry);
    }
    Some(va + offset as usize)
}

/// Maps a stack of `pages` pages at `pa` over an unmapped page; the address of its top.
///
/// # Safety
/// The frames must be the caller's own.
#[must_use]
pub unsafe fn map_stack(pa: Pa, pages: usize) -> Option<usize> {
    let va = take_pages(pages)?;
    for page in 0..pages {
        let entry = (pa.0 + page as u64 * PAGE) | NORMAL | NOT_BLOCK | NEVER_EXECUTE;
        PAGE_TABLE.set(((va >> 12) & 511) + page, entry);
    }
    Some(va + pages * PAGE as usize)
}

/// Maps `size` bytes at `pa` behind the heap's end; the virtual address. The first 2 MiB grow by
/// pages, then the heap grows by aligned blocks of 2 MiB only.
///
/// # Safety
/// The frames must be the caller's own, and calls must not overlap.
#[must_use]
pub unsafe fn map_heap(pa: Pa, size: u64) -> Option<usize> {
    let pages = (size / PAGE) as usize;
    let first = HEAP_PAGES.load(Ordering::Relaxed);
    let va = HEAP * STEP + first * PAGE as usize;
    if first + pages <= 512 {
        for page in 0..pages {
            let entry = (pa.0 + page as u64 * PAGE) | NORMAL | NOT_BLOCK | NEVER_EXECUTE;
            HEAP_TABLE.set(first + page, entry);
        }
        HEAP_PAGES.store(first + pages, Ordering::Relaxed);
        return Some(va);
    }
    let block = first.div_ceil(512);
    let blocks = (size / BLOCK) as usize;
    if !pa.is_aligned(BLOCK) || blocks == 0 || HEAP + block + blocks > HEAP_END {
        return None;
    }
    for n in 0..blocks {
        LEVEL2.set(
            HEAP + block + n,
            (pa.0 + n as u64 * BLOCK) | NORMAL | NEVER_EXECUTE,
        );
    }
    HEAP_PAGES.store((block + blocks) * 512, Ordering::Relaxed);
    Some((HEAP + block) * STEP)
}

/// Maps the up to 4 MiB that hold the device tree, read-only; the tree's virtual address.
pub fn map_tree(pa: Pa) -> usize {
    for n in 0..2 {
        let block = pa.align_down(BLOCK).0 + n as u64 * BLOCK;
        LEVEL2.set(TREE + n, block | NORMAL | READ_ONLY | NEVER_EXECUTE);
    }
    tlb::flush_hyp();
    TREE * STEP + (pa.0 & (BLOCK - 1)) as usize
}

/// Unmaps the device tree.
pub fn unmap_tree() {
    for n in 0..2 {
        LEVEL2.set(TREE + n, 0);
    }
    tlb::flush_hyp();
}

/// Which of a CPU's two windows.
#[derive(Clone, Copy)]
pub enum Window {
    /// For what is read or written.
    First,
    /// For the source of a copy between two physical places.
    Second,
}

/// Opens this CPU's window onto the 2 MiB that hold `pa`; the virtual address of `pa` itself.
///
/// # Safety
/// The memory must be RAM that nothing in Hyp refers to, and `close_window` must follow on this
/// CPU before another `open_window` of the same window.
pub unsafe fn open_window(window: Window, pa: Pa) -> usize {
    // SAFETY: the caller's word.
    unsafe { open_window_here(window, pa) }
}

/// The same without a call.
///
/// # Safety
/// As for [`open_window`].
#[inline(always)]
pub unsafe fn open_window_here(window: Window, pa: Pa) -> usize {
    let index = window_index(window);
    LEVEL2.set(index, pa.align_down(BLOCK).0 | NORMAL | NEVER_EXECUTE);
    index * STEP + (pa.0 & (BLOCK - 1)) as usize
}

/// Closes this CPU's window, its TLB entry too.
pub fn close_window(window: Window) {
    close_window_at(window_index(window) * STEP);
}

/// The same of the window at `va`.
#[inline(always)]
pub fn close_window_at(va: usize) {
    LEVEL2.clear(va / STEP);
    // Its barrier comes before the TLB's entry goes.
    tlb::flush_hyp_page(va);
}

#[inline(always)]
fn window_index(window: Window) -> usize {
    let cpu = sysreg::HTPIDR::read() as usize % MAX_CPUS;
    WINDOWS + 2 * cpu + window as usize
}
