//! Guest memory through this CPU's windows: a chunk is mapped, copied and unmapped.
//!
//! A guest may write what is being copied at any moment, from another CPU: bytes are moved by
//! assembly, never borrowed.

use super::mmu::{self, Window};
use crate::addr::{BLOCK, PAGE, Pa};
use core::arch::asm;

/// Bytes from `pa` to the end of its 2 MiB, at most `size`.
fn chunk(pa: Pa, size: usize) -> usize {
    size.min((BLOCK - (pa.0 & (BLOCK - 1))) as usize)
}

/// Copies `size` bytes: 64 at a time where both addresses allow it.
///
/// # Safety
/// Both places must be mapped, and not overlap.
unsafe fn move_bytes(to: usize, from: usize, size: usize) {
    let (mut to, mut from) = (to, from);
    let (words, tail) = if (to | from) & 3 == 0 {
        (size & !63, size & 63)
    } else {
        (0, size)
    };
    // SAFETY: the caller's word; the loops stop after `words` and `tail` bytes.
    unsafe {
        if words != 0 {
            asm!(
                "2: ldmia {from}!, {{r0-r3, r5, r8, r9, r12}}",
                "stmia {to}!, {{r0-r3, r5, r8, r9, r12}}",
                "ldmia {from}!, {{r0-r3, r5, r8, r9, r12}}",
                "subs {left}, {left}, #64",
                "stmia {to}!, {{r0-r3, r5, r8, r9, r12}}",
                "bne 2b",
                from = inout(reg) from, to = inout(reg) to, left = inout(reg) words => _,
                out("r0") _, out("r1") _, out("r2") _, out("r3") _, out("r5") _, out("r8") _,
                out("r9") _, out("r12") _, options(nostack),
            );
        }
        asm!(
            "2: cmp {left}, #0",
            "beq 3f",
            "ldrb {byte}, [{from}], #1",
            "strb {byte}, [{to}], #1",
            "sub {left}, {left}, #1",
            "b 2b",
            "3:",
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) tail => _,
            byte = out(reg) _, options(nostack),
        );
    }
}

/// Reads physical memory from `pa` on into `buffer`.
///
/// # Safety
/// It must be RAM that nothing in Hyp refers to.
pub unsafe fn read(pa: Pa, buffer: &mut [u8]) {
    let mut done = 0;
    while done < buffer.len() {
        let at = Pa(pa.0 + done as u64);
        let size = chunk(at, buffer.len() - done);
        // SAFETY: the caller's word; the window holds `size` bytes from `at`.
        unsafe {
            let va = mmu::open_window(Window::First, at);
            move_bytes(buffer.as_mut_ptr().add(done) as usize, va, size);
        }
        mmu::close_window(Window::First);
        done += size;
    }
}

/// Writes `bytes` to physical memory at `pa`.
///
/// # Safety
/// It must be RAM that nothing in Hyp refers to.
pub unsafe fn write(pa: Pa, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = Pa(pa.0 + done as u64);
        let size = chunk(at, bytes.len() - done);
        // SAFETY: as in `read`.
        unsafe {
            let va = mmu::open_window(Window::First, at);
            move_bytes(va, bytes.as_ptr().add(done) as usize, size);
        }
        mmu::close_window(Window::First);
        done += size;
    }
}

/// Writes `size` bytes, 1, 2 or 4, in one piece to `pa`, which is aligned to that.
///
/// # Safety
/// It must be RAM that nothing in Hyp refers to.
pub unsafe fn store(pa: Pa, size: u32, value: u32) {
    // SAFETY: the caller's word; an aligned access stays inside the window.
    unsafe {
        let at = mmu::open_window(Window::First, pa);
        match size {
            1 => asm!("strb {}, [{}]", in(reg) value, in(reg) at, options(nostack)),
            2 => asm!("strh {}, [{}]", in(reg) value, in(reg) at, options(nostack)),
            _ => asm!("str {}, [{}]", in(reg) value, in(reg) at, options(nostack)),
        }
    }
    mmu::close_window(Window::First);
}

/// 2 MiB of physical memory to read from, until [`close`](Self::close).
pub struct Block(usize);

impl Block {
    /// Opens the window onto block number `block`, the address / 2 MiB.
    ///
    /// # Safety
    /// As for [`store`]; this must be closed before a window is opened again, and not be used after.
    #[inline(always)]
    #[must_use]
    pub unsafe fn open(block: u32) -> Self {
        let pa = Pa(u64::from(block) * BLOCK);
        // SAFETY: the caller's word.
        Self(unsafe { mmu::open_window_here(Window::First, pa) })
    }

    /// Reads `size` bytes, 1, 2 or 4, at `offset`, which counts as aligned to that.
    #[inline(always)]
    #[must_use]
    pub fn load(&self, offset: u32, size: u32) -> u32 {
        let (at, offset) = (self.0, offset & (BLOCK as u32 - 1));
        let value;
        // SAFETY: an access by the number of its unit stays inside the window.
        unsafe {
            match size {
                1 => asm!("ldrb {}, [{}, {}]", out(reg) value, in(reg) at, in(reg) offset,
                    options(nostack, readonly)),
                2 => asm!("ldrh {}, [{}, {}, lsl #1]", out(reg) value, in(reg) at,
                    in(reg) offset >> 1, options(nostack, readonly)),
                _ => asm!("ldr {}, [{}, {}, lsl #2]", out(reg) value, in(reg) at,
                    in(reg) offset >> 2, options(nostack, readonly)),
            }
        }
        value
    }

    /// The same for 8 bytes: a guest that changes its table's entry sees it read before or after.
    #[inline(always)]
    #[must_use]
    pub fn load_double(&self, offset: u32) -> u64 {
        let at = self.0 + (offset & (BLOCK as u32 - 1) & !7) as usize;
        let (low, high): (u32, u32);
        // SAFETY: as in `load`; LDRD is single-copy atomic with LPAE (A3.5.3).
        unsafe {
            asm!("ldrd r2, r3, [{}]", in(reg) at, out("r2") low, out("r3") high,
                options(nostack, readonly));
        }
        u64::from(high) << 32 | u64::from(low)
    }

    /// Closes the window.
    #[inline(always)]
    pub fn close(&self) {
        mmu::close_window_at(self.0);
    }
}

/// The words of a page, as long as the window is open.
pub struct Words(usize);

impl Words {
    /// Opens the window onto the page of `pa`.
    ///
    /// # Safety
    /// As for [`store`]; the window must not be opened again before this is dropped.
    #[inline(always)]
    #[must_use]
    pub unsafe fn open(pa: Pa) -> Self {
        // SAFETY: the caller's word; `drop` closes it.
        Self(unsafe { mmu::open_window(Window::First, pa.align_down(PAGE)) })
    }

    /// Loads the word at `offset` of the page.
    #[inline(always)]
    #[must_use]
    pub fn load(&self, offset: u32) -> u32 {
        let value;
        let at = self.0 + (offset & 0xffc) as usize;
        // SAFETY: an aligned word of the page.
        unsafe { asm!("ldr {}, [{}]", out(reg) value, in(reg) at, options(nostack, readonly)) };
        value
    }

    /// Stores the word at `offset` of the page.
    #[inline(always)]
    pub fn store(&mut self, offset: u32, value: u32) {
        let at = self.0 + (offset & 0xffc) as usize;
        // SAFETY: as in `load`.
        unsafe { asm!("str {}, [{}]", in(reg) value, in(reg) at, options(nostack)) };
    }
}

impl Drop for Words {
    #[inline(always)]
    fn drop(&mut self) {
        mmu::close_window(Window::First);
    }
}

/// Copies `size` bytes of physical memory.
///
/// # Safety
/// Both must be RAM that nothing in Hyp refers to, and not overlap.
pub unsafe fn copy(to: Pa, from: Pa, size: u64) {
    let mut done = 0;
    while done < size {
        let (to, from) = (Pa(to.0 + done), Pa(from.0 + done));
        let left = usize::try_from(size - done).unwrap_or(BLOCK as usize);
        let part = chunk(to, chunk(from, left));
        // SAFETY: as in `read`, with a window each.
        unsafe {
            let source = mmu::open_window(Window::Second, from);
            let target = mmu::open_window(Window::First, to);
            move_bytes(target, source, part);
        }
        mmu::close_window(Window::First);
        mmu::close_window(Window::Second);
        done += part as u64;
    }
}

/// Zeroes `size` bytes of physical memory, a multiple of 64 from a multiple of 64.
///
/// # Safety
/// It must be RAM that nothing in Hyp refers to.
pub unsafe fn zero(pa: Pa, size: u64) {
    let mut done = 0;
    while done < size {
        let at = Pa(pa.0 + done);
        let part = chunk(at, usize::try_from(size - done).unwrap_or(BLOCK as usize));
        // SAFETY: as in `read`; `part` is a multiple of 64.
        unsafe {
            let va = mmu::open_window(Window::First, at);
            asm!(
                "2: stmia {to}!, {{r0-r3, r5, r8, r9, r12}}",
                "subs {left}, {left}, #64",
                "stmia {to}!, {{r0-r3, r5, r8, r9, r12}}",
                "bne 2b",
                to = inout(reg) va => _, left = inout(reg) part => _,
                inout("r0") 0 => _, inout("r1") 0 => _, inout("r2") 0 => _, inout("r3") 0 => _,
                inout("r5") 0 => _, inout("r8") 0 => _, inout("r9") 0 => _, inout("r12") 0 => _,
                options(nostack),
            );
        }
        mmu::close_window(Window::First);
        done += part as u64;
    }
}

/// Cleans and invalidates `size` bytes of physical memory to the point of coherency, and forgets
/// instructions: for what was loaded or scrubbed while the guest's caches are off.
///
/// # Safety
/// It must be RAM that nothing in Hyp refers to.
pub unsafe fn clean(pa: Pa, size: u64) {
    let mut done = 0;
    while done < size {
        let at = Pa(pa.0 + done);
        let part = chunk(at, usize::try_from(size - done).unwrap_or(BLOCK as usize));
        // SAFETY: as in `read`.
        let va = unsafe { mmu::open_window(Window::First, at) };
        super::cache::clean_invalidate(va, part);
        mmu::close_window(Window::First);
        done += part as u64;
    }
}
