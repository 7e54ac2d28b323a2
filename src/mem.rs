//! RAM: the hypervisor's heap, the frames that are free, and guests' memory by the window.
//!
//! No guest memory is mapped in Hyp. It is reached through a window of 2 MiB that this CPU opens,
//! uses and closes ([`arch::window`](crate::arch)); [`Ram`] is what makes that safe: it holds frames
//! that nothing else does, and looks up every address in them.

use crate::addr::{PAGE, PAGE_SHIFT, Pa};
use buddy_system_allocator::FrameAllocator;
use core::alloc::Layout;
use spin::Mutex;

#[cfg(target_os = "none")]
mod heap {
    use buddy_system_allocator::Heap;
    use core::alloc::{GlobalAlloc, Layout};
    use core::mem::MaybeUninit;
    use core::ptr::{NonNull, null_mut};
    use spin::Mutex;

    /// What the hypervisor starts with, in its own image: enough to read the board.
    const FIRST: usize = 256 << 10;

    #[repr(C, align(4096))]
    struct Arena(MaybeUninit<[u8; FIRST]>);

    #[unsafe(link_section = ".noinit")]
    static mut ARENA: Arena = Arena(MaybeUninit::uninit());

    pub(super) struct HypHeap(Mutex<Heap<24>>);

    #[global_allocator]
    pub(super) static HEAP: HypHeap = HypHeap(Mutex::new(Heap::empty()));

    impl HypHeap {
        pub(super) fn init(&self) {
            // SAFETY: called once, before anything is allocated; the arena is used here alone.
            unsafe { self.0.lock().init((&raw mut ARENA) as usize, FIRST) };
        }

        /// # Safety
        /// The memory must be mapped, and nobody else's.
        pub(super) unsafe fn add(&self, start: usize, size: usize) {
            // SAFETY: the caller's word.
            unsafe { self.0.lock().add_to_heap(start, start + size) };
        }

        pub(super) fn free(&self) -> usize {
            let heap = self.0.lock();
            heap.stats_total_bytes() - heap.stats_alloc_actual()
        }

        pub(super) fn total(&self) -> usize {
            self.0.lock().stats_total_bytes()
        }
    }

    // SAFETY: the buddy allocator gives out disjoint blocks of the layout asked for.
    unsafe impl GlobalAlloc for HypHeap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.0.lock().alloc(layout).map_or(null_mut(), NonNull::as_ptr)
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            if let Some(at) = NonNull::new(at) {
                // SAFETY: the caller's word: `at` came from `alloc` with this layout.
                unsafe { self.0.lock().dealloc(at, layout) };
            }
        }
    }
}

/// Readies the heap; first of all.
#[cfg(target_os = "none")]
pub fn init() {
    heap::HEAP.init();
}

/// Free frames of 4 KiB, by number.
static FRAMES: Mutex<FrameAllocator<29>> = Mutex::new(FrameAllocator::new());

/// Adds free RAM; what is less than a page at either end is lost.
pub fn add_ram(start: Pa, size: u64) {
    let first = start.0.div_ceil(PAGE);
    let end = (start.0 + size) >> PAGE_SHIFT;
    if first < end {
        FRAMES.lock().add_frame(first as usize, end as usize);
    }
}

/// Takes `size` bytes aligned to `align`, both multiples of the page size.
#[must_use]
pub fn alloc(size: u64, align: u64) -> Option<Pa> {
    let frames = (size / PAGE) as usize;
    let layout = Layout::from_size_align(frames, (align / PAGE) as usize).ok()?;
    let frame = FRAMES.lock().alloc_aligned(layout)?;
    Some(Pa((frame as u64) << PAGE_SHIFT))
}

/// Gives back what [`alloc`] gave for the same size and alignment.
pub fn free(pa: Pa, size: u64, align: u64) {
    let frames = (size / PAGE) as usize;
    if let Ok(layout) = Layout::from_size_align(frames, (align / PAGE) as usize) {
        FRAMES.lock().dealloc_aligned((pa.0 >> PAGE_SHIFT) as usize, layout);
    }
}
