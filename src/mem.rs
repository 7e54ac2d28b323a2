//! RAM: the hypervisor's heap, the frames that are free, and guests' memory by the window.
//!
//! No guest memory is mapped in Hyp. It is reached through a window of 2 MiB that this CPU opens,
//! uses and closes ([`window`]); [`Ram`] is what makes that safe: it holds frames
//! that nothing else does, and looks up every address in them.

use crate::addr::{BLOCK, Ipa, PAGE, PAGE_SHIFT, Pa};
use crate::fdt::Range;
use crate::lent::Lent;
use crate::machine::window;
use crate::ring::Page;
use alloc::vec::Vec;
use core::cell::Cell;
use core::marker::PhantomData;
use frames::Frames;
use spin::{Mutex, MutexGuard};

mod frames;

#[cfg(target_os = "none")]
mod heap {
    use buddy_system_allocator::Heap;
    use core::alloc::{GlobalAlloc, Layout};
    use core::mem::MaybeUninit;
    use core::ptr::{NonNull, null_mut};
    use spin::{Mutex, MutexGuard};

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
        #[inline(never)]
        fn lock(&self) -> MutexGuard<'_, Heap<24>> {
            self.0.lock()
        }

        pub(super) fn init(&self) {
            // SAFETY: called once, before anything is allocated; the arena is used here alone.
            unsafe { self.lock().init((&raw mut ARENA) as usize, FIRST) };
        }

        /// # Safety
        /// The memory must be mapped, and nobody else's.
        pub(super) unsafe fn add(&self, start: usize, size: usize) {
            // SAFETY: the caller's word.
            unsafe { self.lock().add_to_heap(start, start + size) };
        }

        /// Whether it has `bytes` free bytes in one piece.
        pub(super) fn has(&self, bytes: usize) -> bool {
            let mut heap = self.lock();
            let Ok(layout) = Layout::from_size_align(bytes, 1) else {
                return false;
            };
            let block = heap.alloc(layout);
            if let Ok(block) = block {
                // SAFETY: just allocated with this layout.
                unsafe { heap.dealloc(block, layout) };
            }
            block.is_ok()
        }

        /// Bytes in all, and those of them that are free.
        pub(super) fn sizes(&self) -> (usize, usize) {
            let heap = self.lock();
            let total = heap.stats_total_bytes();
            (total, total - heap.stats_alloc_actual())
        }
    }

    // SAFETY: the buddy allocator gives out disjoint blocks of the layout asked for.
    unsafe impl GlobalAlloc for HypHeap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.lock()
                .alloc(layout)
                .map_or(null_mut(), NonNull::as_ptr)
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            if let Some(at) = NonNull::new(at) {
                // SAFETY: the caller's word: `at` came from `alloc` with this layout.
                unsafe { self.lock().dealloc(at, layout) };
            }
        }
    }
}

/// Readies the heap; first of all.
#[cfg(target_os = "none")]
pub fn init() {
    heap::HEAP.init();
}

/// Free frames of 4 KiB.
static FRAMES: Mutex<Frames> = Mutex::new(Frames::new());

#[inline(never)]
fn frames() -> MutexGuard<'static, Frames> {
    FRAMES.lock()
}

/// Bytes of RAM that are free.
#[must_use]
pub fn free_bytes() -> u64 {
    frames().count() << PAGE_SHIFT
}

/// Adds free RAM; what is less than a page at either end is lost.
pub fn add_ram(start: Pa, size: u64) {
    let first = start.0.div_ceil(PAGE);
    let end = (start.0 + size) >> PAGE_SHIFT;
    frames().put(first as u32, end as u32);
}

/// Takes `size` bytes aligned to `align`, both multiples of the page size.
#[must_use]
pub fn alloc(size: u64, align: u64) -> Option<Pa> {
    let frame = frames().take(order(size, align))?;
    Some(Pa(u64::from(frame) << PAGE_SHIFT))
}

/// Gives back what [`alloc()`] gave for the same size and alignment.
pub fn free(pa: Pa, size: u64, align: u64) {
    let first = (pa.0 >> PAGE_SHIFT) as u32;
    frames().put(first, first + (1 << order(size, align)));
}

/// Of the block of frames that is taken for so much.
fn order(size: u64, align: u64) -> u32 {
    let frames = (size.max(align) >> PAGE_SHIFT) as u32;
    frames.next_power_of_two().ilog2()
}

/// A guest's address that is not in its RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotRam(pub Ipa);

/// One contiguous piece of a guest's RAM.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Where the guest sees it.
    pub ipa: Ipa,
    /// Where it is; its alignment is its size, a power of two.
    pub pa: Pa,
    /// Bytes.
    pub size: u64,
}

/// A guest's RAM: frames that are its own, from [`alloc()`] until it is dropped.
#[derive(Debug)]
pub struct Ram {
    extents: Vec<Extent>,
    /// What stands in for some of it.
    lent: Option<Lent>,
    /// The block that was asked for last, address / 2 MiB, and the one where all of it is.
    recent: Cell<(u32, u32)>,
    /// How much of it, from its start, has been scrubbed since it was in use.
    scrubbed: u64,
}

/// Bytes that are scrubbed in one go.
pub const PART: u64 = 64 << 10;
/// No number of a block.
const NO_BLOCK: u32 = u32::MAX;

impl Default for Ram {
    fn default() -> Self {
        Self {
            extents: Vec::new(),
            lent: None,
            recent: Cell::new((NO_BLOCK, 0)),
            scrubbed: 0,
        }
    }
}

impl Ram {
    /// Adds `size` bytes at `ipa`, in as few pieces as the free frames allow. They hold what they
    /// held: zeroes where another guest had them, and after reset whatever the board left in them.
    ///
    /// # Errors
    /// The bytes that could be had, where they are fewer; none are taken then.
    pub fn add(&mut self, ipa: Ipa, size: u64) -> Result<(), u64> {
        let before = self.extents.len();
        let mut done = 0;
        let mut largest = 1 << 38;
        while done < size {
            let left = size - done;
            // As large as what is left, the address and the free frames allow.
            let mut piece = (1 << left.ilog2()).min(largest).max(PAGE);
            let at = ipa.0 + done;
            if at != 0 {
                piece = piece.min(1 << at.trailing_zeros());
            }
            match alloc(piece, piece) {
                Some(pa) => {
                    self.extents.push(Extent {
                        ipa: Ipa(at),
                        pa,
                        size: piece,
                    });
                    done += piece;
                }
                None if piece > PAGE => largest = piece / 2,
                None => {
                    self.release(before);
                    return Err(done);
                }
            }
        }
        Ok(())
    }

    /// As [`add`](Self::add), but in one piece below 4 GiB, which the guest sees where it is. It
    /// begins at a multiple of 128 MiB if it can, from which Linux before 5.12 finds it by rounding
    /// down, else of 2 MiB. `None` where no such piece is free.
    #[cold]
    pub fn add_direct(&mut self, size: u64) -> Option<Ipa> {
        let end = 1 << (32 - PAGE_SHIFT);
        let count = u32::try_from(size >> PAGE_SHIFT).ok()?;
        let run = |order| frames().take_run(count, order, end);
        let first = run(27 - PAGE_SHIFT).or_else(|| run(21 - PAGE_SHIFT))?;
        let base = u64::from(first) << PAGE_SHIFT;
        let mut at = base;
        while at < base + size {
            let piece = 1 << (base + size - at).ilog2().min(at.trailing_zeros());
            self.extents.push(Extent {
                ipa: Ipa(at),
                pa: Pa(at),
                size: piece,
            });
            at += piece;
        }
        Some(Ipa(base))
    }

    /// The pieces, in ascending order of each [`add`](Self::add).
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// All its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.extents.iter().map(|extent| extent.size).sum()
    }

    /// Where `ipa` is, and the bytes from there to the end of its piece.
    ///
    /// # Errors
    /// Where it is not RAM.
    pub fn find(&self, ipa: Ipa) -> Result<(Pa, u64), NotRam> {
        let (pa, room) = self.find_own(ipa)?;
        let Some(lent) = &self.lent else {
            return Ok((pa, room));
        };
        let (from, same) = lent.find(ipa);
        Ok((from.unwrap_or(pa), room.min(same)))
    }

    /// The same, whatever stands in for it.
    fn find_own(&self, ipa: Ipa) -> Result<(Pa, u64), NotRam> {
        let inside = |extent: &&Extent| ipa.0.wrapping_sub(extent.ipa.0) < extent.size;
        let extent = self.extents.iter().find(inside).ok_or(NotRam(ipa))?;
        let offset = ipa.0 - extent.ipa.0;
        Ok((Pa(extent.pa.0 + offset), extent.size - offset))
    }

    /// Calls `each` with the places of the `size` bytes from `ipa` on and how many came before.
    fn pieces(
        &self,
        ipa: Ipa,
        size: u64,
        mut each: impl FnMut(Pa, u64, u64),
    ) -> Result<(), NotRam> {
        let mut done = 0;
        while done < size {
            let (pa, room) = self.find(ipa.checked_add(done).ok_or(NotRam(ipa))?)?;
            let part = room.min(size - done);
            each(pa, done, part);
            done += part;
        }
        Ok(())
    }

    /// Reads from `ipa` on.
    ///
    /// # Errors
    /// The first address that is not RAM; what comes before it has been read.
    pub fn read(&self, ipa: Ipa, buffer: &mut [u8]) -> Result<(), NotRam> {
        self.pieces(ipa, buffer.len() as u64, |pa, done, size| {
            let part = &mut buffer[done as usize..(done + size) as usize];
            // SAFETY: the frames are this guest's alone, and mapped nowhere in Hyp.
            unsafe { window::read(pa, part) };
        })
    }

    /// Refuses to write to what is lent.
    fn check_own(&self, ipa: Ipa, size: u64) -> Result<(), NotRam> {
        let Some(lent) = &self.lent else {
            return Ok(());
        };
        let mut done = 0;
        while done < size {
            let at = Ipa(ipa.0.saturating_add(done));
            match lent.find(at) {
                (None, same) => done = done.saturating_add(same),
                (Some(_), _) => return Err(NotRam(at)),
            }
        }
        Ok(())
    }

    /// Lends `size` bytes of a module, from `offset` on, in place of what is at `ipa`; where they
    /// are. All three are multiples of the page size, and there is one loan at a time.
    ///
    /// # Errors
    /// The first address that is not RAM.
    pub fn lend(
        &mut self,
        ipa: Ipa,
        module: &ModuleMemory,
        offset: u64,
        size: u64,
    ) -> Result<Pa, NotRam> {
        let size = size.min(module.size.saturating_sub(offset));
        self.pieces(ipa, size, |_, _, _| ())?;
        let pa = Pa(module.pa.0 + offset);
        self.lent = Some(Lent::new(ipa, pa, size));
        self.recent.set((NO_BLOCK, 0));
        Ok(pa)
    }

    /// Ends the loan: what is the guest's own holds what it held before.
    pub fn take_back(&mut self) {
        self.lent = None;
    }

    /// Copies what is lent around `ipa`, to be the guest's own: from where on, and how many bytes.
    /// `None` where nothing is lent.
    pub fn keep(&mut self, ipa: Ipa) -> Option<(Ipa, u64)> {
        let (at, from, size) = self.lent.as_mut()?.keep(ipa)?;
        let copied = self.pieces(at, size, |pa, done, part| {
            // SAFETY: as for `load`.
            unsafe { window::copy(pa, Pa(from.0 + done), part) };
        });
        debug_assert_eq!(copied, Ok(()), "lent in place of RAM");
        self.clean(at, size);
        Some((at, size))
    }

    /// Writes to `ipa` on.
    ///
    /// # Errors
    /// The first address that is not RAM, or lent; what comes before it may have been written.
    pub fn write(&mut self, ipa: Ipa, bytes: &[u8]) -> Result<(), NotRam> {
        self.check_own(ipa, bytes.len() as u64)?;
        self.pieces(ipa, bytes.len() as u64, |pa, done, size| {
            // SAFETY: as for `read`.
            unsafe { window::write(pa, &bytes[done as usize..(done + size) as usize]) };
        })
    }

    /// Has `read` read words, which may lie near each other.
    #[inline(always)]
    pub fn read_near<R>(&self, read: impl FnOnce(&mut Reader<'_>) -> R) -> R {
        let mut reader = Reader {
            ram: self,
            number: 0,
            block: None,
        };
        let result = read(&mut reader);
        if let Some(block) = reader.block {
            block.close();
        }
        result
    }

    /// Reads `size` bytes, 1, 2 or 4, in one piece from `ipa`, which counts as aligned to that.
    ///
    /// # Errors
    /// Where it is not RAM.
    pub fn load_word(&self, ipa: Ipa, size: u32) -> Result<u32, NotRam> {
        self.read_near(|reader| reader.load(ipa, size))
    }

    /// The same for 8 bytes.
    ///
    /// # Errors
    /// Where it is not RAM.
    pub fn load_double(&self, ipa: Ipa) -> Result<u64, NotRam> {
        let load = |block: &window::Block, offset| block.load_double(offset);
        self.read_near(|reader| reader.with(ipa, load))
    }

    /// The number of the block that holds `ipa`, and the offset there.
    #[inline(always)]
    fn place(&self, ipa: Ipa) -> Result<(u32, u32), NotRam> {
        let (known, block) = self.recent.get();
        if (ipa.0 / BLOCK) as u32 == known {
            return Ok((block, ipa.0 as u32 % BLOCK as u32));
        }
        self.find_place(ipa)
    }

    #[inline(never)]
    fn find_place(&self, ipa: Ipa) -> Result<(u32, u32), NotRam> {
        if let Ok((pa, BLOCK..)) = self.find(ipa.align_down(BLOCK))
            && pa.is_aligned(BLOCK)
        {
            let blocks = ((ipa.0 / BLOCK) as u32, (pa.0 / BLOCK) as u32);
            self.recent.set(blocks);
        }
        let (pa, _) = self.find(ipa)?;
        Ok(((pa.0 / BLOCK) as u32, pa.0 as u32 % BLOCK as u32))
    }

    /// Writes `size` bytes, 1, 2 or 4, in one piece to `ipa`, which counts as aligned to that.
    ///
    /// # Errors
    /// Where it is not RAM, or lent.
    pub fn store_word(&mut self, ipa: Ipa, size: u32, value: u32) -> Result<(), NotRam> {
        self.check_own(ipa, 1)?;
        let (pa, _) = self.find(ipa.align_down(size.into()))?;
        // SAFETY: as for `read`; no piece ends inside an aligned word.
        unsafe { window::store(pa, size, value) };
        Ok(())
    }

    /// The words of the page at `ipa`.
    ///
    /// # Errors
    /// Where it is not RAM.
    pub fn words(&mut self, ipa: Ipa) -> Result<Words<'_>, NotRam> {
        let (pa, _) = self.find(ipa)?;
        // SAFETY: as for `store_word`; nothing else of it can be reached before this is dropped.
        Ok(Words(unsafe { window::Words::open(pa) }, PhantomData))
    }

    /// Copies `size` bytes of a module to `ipa`.
    ///
    /// # Errors
    /// The first address that is not RAM, or lent; what comes before it may have been written.
    pub fn load(
        &mut self,
        ipa: Ipa,
        module: &ModuleMemory,
        offset: u64,
        size: u64,
    ) -> Result<(), NotRam> {
        let size = size.min(module.size.saturating_sub(offset));
        self.check_own(ipa, size)?;
        self.pieces(ipa, size, |pa, done, part| {
            // SAFETY: as for `read`; a module's memory is in no frame allocator's hands.
            unsafe { window::copy(pa, Pa(module.pa.0 + offset + done), part) };
        })
    }

    /// It is in use from now on.
    pub fn begin(&mut self) {
        self.scrubbed = 0;
    }

    /// Zeroes the next [`PART`] of it, which is no longer in use, and nothing is lent any more; whether all is
    /// zero.
    pub fn scrub(&mut self) -> bool {
        self.take_back();
        let mut done = self.scrubbed;
        for extent in &self.extents {
            if done < extent.size {
                let (pa, size) = (Pa(extent.pa.0 + done), PART.min(extent.size - done));
                // SAFETY: as for `read`.
                unsafe {
                    window::zero(pa, size);
                    // Whoever has it next may begin with its caches off.
                    window::clean(pa, size);
                }
                self.scrubbed += size;
                return false;
            }
            done -= extent.size;
        }
        true
    }

    /// Zeroes `size` bytes from `ipa` on.
    ///
    /// # Errors
    /// The first address that is not RAM, or lent; what comes before it may have been zeroed.
    pub fn clear(&mut self, ipa: Ipa, size: u64) -> Result<(), NotRam> {
        const LINE: u64 = 64;
        self.check_own(ipa, size)?;
        self.pieces(ipa, size, |pa, _, size| {
            let head = (pa.0.wrapping_neg() % LINE).min(size);
            let lines = (size - head) / LINE * LINE;
            let tail = size - head - lines;
            let zeroes = [0; LINE as usize];
            // SAFETY: as for `read`.
            unsafe {
                window::write(pa, &zeroes[..head as usize]);
                window::zero(Pa(pa.0 + head), lines);
                window::write(Pa(pa.0 + head + lines), &zeroes[..tail as usize]);
            }
        })
    }

    /// Writes everything that caches hold of `size` bytes from `ipa` on to memory, for a guest
    /// whose caches are off.
    pub fn clean(&self, ipa: Ipa, size: u64) {
        // What is not RAM has nothing to clean.
        let _ = self.pieces(ipa, size, |pa, _, part| {
            // SAFETY: as for `read`.
            unsafe { window::clean(pa, part) };
        });
    }

    /// Writes everything that caches hold of it to memory.
    pub fn clean_all(&self) {
        for extent in &self.extents {
            // SAFETY: as for `read`.
            unsafe { window::clean(extent.pa, extent.size) };
        }
    }

    fn release(&mut self, from: usize) {
        self.recent.set((NO_BLOCK, 0));
        for extent in self.extents.iter().skip(from) {
            free(extent.pa, extent.size, extent.size);
        }
        self.extents.truncate(from);
    }
}

/// A reader of words: its window stays open for the next one that is near.
pub struct Reader<'a> {
    ram: &'a Ram,
    /// The number of the block that the window shows.
    number: u32,
    block: Option<window::Block>,
}

impl Reader<'_> {
    /// Reads `size` bytes, 1, 2 or 4, in one piece from `ipa`, which counts as aligned to that.
    ///
    /// # Errors
    /// Where it is not RAM.
    #[inline(always)]
    pub fn load(&mut self, ipa: Ipa, size: u32) -> Result<u32, NotRam> {
        self.with(ipa, |block, offset| block.load(offset, size))
    }

    #[inline(always)]
    fn with<R>(
        &mut self,
        ipa: Ipa,
        load: impl FnOnce(&window::Block, u32) -> R,
    ) -> Result<R, NotRam> {
        let (number, offset) = self.ram.place(ipa)?;
        if let Some(block) = &self.block {
            if number == self.number {
                return Ok(load(block, offset));
            }
            block.close();
        }
        self.number = number;
        // SAFETY: as for `Ram::read`; this closes it, or `Ram::read_near`.
        let block = self.block.insert(unsafe { window::Block::open(number) });
        Ok(load(block, offset))
    }
}

/// The words of a page of a guest's RAM, which the guest may write meanwhile.
pub struct Words<'a>(window::Words, PhantomData<&'a mut Ram>);

impl Page for Words<'_> {
    #[inline(always)]
    fn load(&mut self, offset: u32) -> u32 {
        self.0.load(offset)
    }

    #[inline(always)]
    fn store(&mut self, offset: u32, value: u32) {
        self.0.store(offset, value);
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        while !self.scrub() {}
        self.release(0);
    }
}

/// A module's memory, which the loader filled and nothing else uses.
#[derive(Clone, Copy, Debug)]
pub struct ModuleMemory {
    pa: Pa,
    size: u64,
}

/// Modules, which are nobody's RAM: [`reserve_module`] says so.
static MODULES: Mutex<Vec<Range>> = Mutex::new(Vec::new());

/// Notes that `range` holds a module.
///
/// # Safety
/// It must be RAM that is never given to [`add_ram`], nor mapped in Hyp.
pub unsafe fn reserve_module(range: Range) {
    MODULES.lock().push(range);
}

/// The module in `range`; an empty one where no such module has been reserved.
#[must_use]
pub fn module(range: Range) -> ModuleMemory {
    let known = MODULES.lock().iter().any(|module| module.contains(&range));
    ModuleMemory {
        pa: range.start,
        size: if known { range.size } else { 0 },
    }
}

/// A module that is the hypervisor's own copy, as long as this lives.
pub struct OwnModule {
    ram: Ram,
    range: Range,
}

impl OwnModule {
    /// Room for `size` bytes; `None` where there is none in one piece.
    #[must_use]
    pub fn new(size: u64) -> Option<Self> {
        let mut ram = Ram::default();
        let start = Pa(ram.add_direct(size.checked_next_multiple_of(PAGE)?)?.0);
        let range = Range { start, size };
        MODULES.lock().push(range);
        Some(Self { ram, range })
    }

    /// Where it is.
    #[must_use]
    pub fn range(&self) -> Range {
        self.range
    }

    /// Writes `bytes` to its own, `offset` into it.
    ///
    /// # Errors
    /// The first address beyond it.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), NotRam> {
        let at = Ipa(self.range.start.0 + offset);
        self.ram.write(at, bytes)?;
        // A guest may have it in place of a copy, its caches off.
        self.ram.clean(at, bytes.len() as u64);
        Ok(())
    }
}

impl Drop for OwnModule {
    fn drop(&mut self) {
        MODULES.lock().retain(|module| *module != self.range);
    }
}

impl ModuleMemory {
    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads from `offset` on; what lies beyond its end stays as it was.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) {
        let size = self.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        // SAFETY: `reserve_module`'s caller vouched for it.
        unsafe { window::read(Pa(self.pa.0 + offset), &mut buffer[..size]) };
    }
}

/// Makes the heap have at least `bytes` free bytes in one piece; whether it has.
///
/// It grows by 256 KiB while its first 2 MiB of addresses last, then by blocks of 2 MiB. Its frames
/// lie below 4 GiB, where stage-2 tables have to be.
#[cfg(target_os = "none")]
#[must_use]
pub fn reserve_heap(bytes: usize) -> bool {
    use crate::arch::mmu;
    while !heap::HEAP.has(bytes) {
        let grown = [BLOCK / 8, BLOCK].into_iter().any(|size| {
            let Some(pa) = alloc(size, size) else {
                return false;
            };
            // SAFETY: the frames are the heap's from now on.
            let va = (pa.0 >> 32 == 0)
                .then(|| unsafe { mmu::map_heap(pa, size) })
                .flatten();
            match va {
                // SAFETY: just mapped.
                Some(va) => unsafe { heap::HEAP.add(va, size as usize) },
                None => free(pa, size, size),
            }
            *OWN.lock() += if va.is_some() { size } else { 0 };
            va.is_some()
        });
        if !grown {
            return false;
        }
    }
    true
}

/// Bytes of RAM that are the hypervisor's own.
static OWN: Mutex<u64> = Mutex::new(0);

/// As [`alloc()`], for the hypervisor itself and for good.
#[must_use]
pub fn alloc_own(size: u64) -> Option<Pa> {
    let pa = alloc(size, size)?;
    *OWN.lock() += size;
    Some(pa)
}

/// Counts `size` bytes as the hypervisor's own: its image, which nothing here has given out.
pub fn count_own(size: u64) {
    *OWN.lock() += size;
}

/// Bytes of RAM that are the hypervisor's own: its image, stacks and heap.
#[must_use]
pub fn own_bytes() -> u64 {
    *OWN.lock()
}

/// Bytes that the heap has in all, and those of them that are free.
#[cfg(target_os = "none")]
#[must_use]
pub fn heap() -> (usize, usize) {
    heap::HEAP.sizes()
}

/// On the host nothing of the heap is the hypervisor's own.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn heap() -> (usize, usize) {
    (0, 0)
}

/// On the host the heap is the host's.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn reserve_heap(_bytes: usize) -> bool {
    true
}
