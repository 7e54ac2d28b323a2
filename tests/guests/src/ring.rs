//! A device model's side of the ring by which Armillary tells of accesses (src/ring.rs there).
//!
//! One request is taken out at a time. After the last one the count of requests is looked at again, behind a
//! barrier: the interrupt comes for a request that finds the ring empty, not for one that comes just before.

use crate::armillary::{ANSWER, REFUSE, SET_LINE};
use crate::machine;
use crate::psci::hvc;
use core::sync::atomic::{AtomicU32, Ordering, fence};

const MAGIC: u32 = u32::from_le_bytes(*b"ring");
const ENTRIES: u32 = 64;

/// The page as both sides see it.
#[repr(C)]
struct Page {
    magic: AtomicU32,
    version: AtomicU32,
    produced: AtomicU32,
    consumed: AtomicU32,
    unused: [u32; 12],
    requests: [[AtomicU32; 4]; ENTRIES as usize],
}

/// An access to the device.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Offset in the device's region.
    pub offset: u32,
    /// Bytes: 1, 2 or 4.
    pub width: u32,
    /// What is stored; none for a load.
    pub store: Option<u32>,
    /// By what it is answered; none if nobody waits.
    pub tag: Option<u32>,
}

/// A ring.
pub struct Ring {
    number: u32,
    page: &'static Page,
    taken: u32,
}

impl Ring {
    /// The ring that the device tree describes so; none if the page does not begin as one.
    #[must_use]
    pub fn open(described: machine::Ring) -> Option<Self> {
        // SAFETY: the page is memory that nothing else here uses, and the other side changes it by whole words.
        let page = unsafe { &*(described.page as *const Page) };
        (page.magic.load(Ordering::Relaxed) == MAGIC && page.version.load(Ordering::Relaxed) == 1)
            .then(|| Self {
                number: described.number,
                page,
                taken: page.consumed.load(Ordering::Relaxed),
            })
    }

    /// Takes a request out, if there is one.
    pub fn take(&mut self) -> Option<Request> {
        if self.page.produced.load(Ordering::Acquire) == self.taken {
            return None;
        }
        let request = &self.page.requests[(self.taken % ENTRIES) as usize];
        let [kind, tag, offset, value] = [0, 1, 2, 3].map(|n| request[n].load(Ordering::Relaxed));
        self.taken = self.taken.wrapping_add(1);
        self.page.consumed.store(self.taken, Ordering::Release);
        fence(Ordering::SeqCst);
        Some(Request {
            offset,
            width: kind >> 8 & 0xff,
            store: (kind & 3 != 0).then_some(value),
            tag: (kind & 3 != 2).then_some(tag),
        })
    }

    /// Claims to have taken so many.
    pub fn lie(&mut self, taken: u32) {
        self.page.consumed.store(taken, Ordering::Release);
    }

    /// Answers a request: with what was loaded, anything for a store. Whether somebody waited for it.
    pub fn answer(&self, tag: u32, value: u32) -> bool {
        hvc(ANSWER, self.number, tag, value)[0] == 0
    }

    /// Answers a request by an external abort.
    pub fn refuse(&self, tag: u32) -> bool {
        hvc(REFUSE, self.number, tag, 0)[0] == 0
    }

    /// Sets the line of the device's interrupt; whether it has one.
    pub fn set_line(&self, level: bool) -> bool {
        hvc(SET_LINE, self.number, level.into(), 0)[0] == 0
    }
}
