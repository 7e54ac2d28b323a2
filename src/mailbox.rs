//! What is asked of a vCPU's CPU, by any other: bits, and where that CPU is.
//!
//! Nothing that is asked gets lost, though the vCPU may move meanwhile. Who asks sets the bits, then
//! reads where the vCPU lives, and kicks that CPU. Who moves it writes its new home, hands it over,
//! and kicks; the new home looks at the bits after it has got it. A fence on either side sees to it
//! that one of the two sees what the other wrote: the new home the bits, or the asker the new home.
//! A kick is remembered by the interrupt controller until it is taken, in WFI too.

use core::sync::atomic::{AtomicU32, Ordering, fence};

/// An atomic word: the core's, or that of a test that tries every order.
pub trait Word {
    /// A word of this value.
    fn new(value: u32) -> Self;
    /// Its value.
    fn load(&self, order: Ordering) -> u32;
    /// Writes it.
    fn store(&self, value: u32, order: Ordering);
    /// Writes it; its value before.
    fn swap(&self, value: u32, order: Ordering) -> u32;
    /// Sets bits; its value before.
    fn set(&self, bits: u32, order: Ordering) -> u32;
    /// Clears bits; its value before.
    fn clear(&self, bits: u32, order: Ordering) -> u32;
    /// Orders all accesses before with all after.
    fn fence();
}

impl Word for AtomicU32 {
    fn new(value: u32) -> Self {
        Self::new(value)
    }
    #[inline(always)]
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }
    #[inline(always)]
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.swap(value, order)
    }
    #[inline(always)]
    fn set(&self, bits: u32, order: Ordering) -> u32 {
        self.fetch_or(bits, order)
    }
    #[inline(always)]
    fn clear(&self, bits: u32, order: Ordering) -> u32 {
        self.fetch_and(!bits, order)
    }
    #[inline(always)]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// What is asked of one vCPU's CPU.
#[derive(Debug)]
pub struct Mailbox<W = AtomicU32> {
    bits: W,
    home: W,
}

impl<W: Word> Mailbox<W> {
    /// Nothing asked of a vCPU that lives on CPU number `home`.
    #[must_use]
    pub fn new(home: usize) -> Self {
        Self {
            bits: W::new(0),
            home: W::new(home as u32),
        }
    }

    /// The CPU that the vCPU lives on.
    #[inline(always)]
    #[must_use]
    pub fn home(&self) -> usize {
        self.home.load(Ordering::Relaxed) as usize
    }

    /// Asks for `bits`; the CPU to kick.
    #[inline(always)]
    #[must_use = "that CPU must be kicked"]
    pub fn ask(&self, bits: u32) -> usize {
        self.bits.set(bits, Ordering::Release);
        W::fence();
        self.home()
    }

    /// Whether something of `bits` has been asked for and not taken.
    #[inline(always)]
    #[must_use]
    pub fn is_asked(&self, bits: u32) -> bool {
        self.bits.load(Ordering::Acquire) & bits != 0
    }

    /// Takes everything that has been asked for.
    #[inline(always)]
    #[must_use]
    pub fn take(&self) -> u32 {
        // The load alone costs no exclusive access, and mostly finds nothing.
        match self.bits.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.bits.swap(0, Ordering::Acquire),
        }
    }

    /// Takes `bits` alone; whether something of them had been asked for.
    #[inline(always)]
    #[must_use]
    pub fn take_some(&self, bits: u32) -> bool {
        self.is_asked(bits) && self.bits.clear(bits, Ordering::AcqRel) & bits != 0
    }

    /// The vCPU, which is in its home's hands, is about to be handed to CPU number `home`.
    pub fn leave_for(&self, home: usize) {
        self.home.store(home as u32, Ordering::Relaxed);
        W::fence();
    }
}
