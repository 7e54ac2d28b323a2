//! The ring by which a VM that is a device model is told of the accesses to a region of another VM.
//!
//! It is a page of the model's memory, of little-endian words:
//!
//! | offset | | written by |
//! |---|---|---|
//! | 0x00 | [`MAGIC`] | hypervisor |
//! | 0x04 | version, 1 | hypervisor |
//! | 0x08 | requests that have been put into the ring, counted up, wrapping | hypervisor |
//! | 0x0c | requests that have been taken out of it, likewise | model |
//! | 0x40 + 16 · (n mod [`ENTRIES`]) | request n | hypervisor |
//!
//! and a request is of four words:
//!
//! | | |
//! |---|---|
//! | 0 | bits 1:0: 0 a load, 1 a store, 2 a store that nobody waits for; bits 15:8: 1, 2 or 4 bytes |
//! | 1 | its tag |
//! | 2 | offset in the region |
//! | 3 | what is stored |
//!
//! The model takes requests out in turn: it reads one, or several, then adds to 0x0c as many. It
//! gets an interrupt, of an edge, for a request that finds the ring empty; so once it has taken out
//! the last one it looks at 0x08 again, after a barrier. A load or store of kinds 0 and 1 it
//! answers by a hypercall that names the tag, in any order.
//!
//! **What the model writes is not believed.** The hypervisor keeps its own count and the tags that
//! wait for an answer; of the page it reads one word, 0x0c: for each request once to see whether there
//! is room, and once whether to interrupt. A count that can't be is a ring that is full: the access gets an external abort. A tag that nobody waits for is refused. So a
//! model can lose or spoil what it was asked, nothing else.

use core::sync::atomic::{Ordering, fence};

/// The ring's first word: "ring".
pub const MAGIC: u32 = u32::from_le_bytes(*b"ring");
/// Requests that the ring holds.
pub const ENTRIES: u32 = 64;
/// Of them those that no posted store takes: one for each vCPU.
const KEPT: u32 = 8;

/// What the hypervisor writes first.
pub const HEADER: [u32; 4] = [MAGIC, 1, 0, 0];
const PRODUCED: u32 = 0x08;
const CONSUMED: u32 = 0x0c;
const REQUESTS: u32 = 0x40;

const LOAD: u32 = 0;
const STORE: u32 = 1;
const POSTED: u32 = 2;

/// The page of a ring, which another CPU reads and writes meanwhile.
pub trait Page {
    /// Loads the word at `offset`.
    fn load(&mut self, offset: u32) -> u32;
    /// Stores the word at `offset`.
    fn store(&mut self, offset: u32, value: u32);
}

/// An access to be made by a device model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// From the region's start, bytes.
    pub offset: u32,
    /// 1, 2 or 4 bytes.
    pub width: u32,
    /// What is stored; `None` for a load.
    pub store: Option<u32>,
    /// Whether a store need not wait for its answer.
    pub posted: bool,
    /// By what its answer is known: not 0, the vCPU's number in bits 2:0.
    pub tag: u32,
}

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// Whether there will be an answer. A posted store that finds little room waits for one, too.
    pub waits: bool,
    /// Whether the model has to be interrupted.
    pub interrupt: bool,
}

/// There is no room, or the model's count is a lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// The hypervisor's side of a ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ring {
    produced: u32,
    /// For each vCPU, the tag of the request that it waits for; 0: none.
    awaited: [u32; 8],
}

impl Ring {
    /// Puts `request` into `page`.
    ///
    /// # Errors
    /// Where it can't: nothing has been written then.
    pub fn push(&mut self, page: &mut impl Page, request: Request) -> Result<Pushed, Full> {
        let used = self.produced.wrapping_sub(page.load(CONSUMED));
        let posted = request.posted && request.store.is_some() && used < ENTRIES - KEPT;
        if used >= ENTRIES {
            return Err(Full);
        }
        let kind = match request.store {
            None => LOAD,
            Some(_) if posted => POSTED,
            Some(_) => STORE,
        };
        if !posted && let Some(awaited) = self.awaited.get_mut(request.tag as usize & 7) {
            *awaited = request.tag;
        }
        let words = [
            kind | request.width << 8,
            request.tag,
            request.offset,
            request.store.unwrap_or(0),
        ];
        let at = REQUESTS + 16 * (self.produced % ENTRIES);
        for (n, word) in (0..).zip(words) {
            page.store(at + 4 * n, word);
        }
        let before = self.produced;
        self.produced = before.wrapping_add(1);
        fence(Ordering::Release);
        page.store(PRODUCED, self.produced);
        // Either the model sees the new count when it looks again, or it is seen to have taken all.
        fence(Ordering::SeqCst);
        Ok(Pushed {
            waits: !posted,
            interrupt: page.load(CONSUMED) == before,
        })
    }

    /// Whether somebody waits for the answer to `tag`; from now on nobody does.
    #[must_use]
    pub fn answer(&mut self, tag: u32) -> bool {
        match self.awaited.get_mut(tag as usize & 7) {
            Some(awaited) if tag != 0 && *awaited == tag => {
                *awaited = 0;
                true
            }
            _ => false,
        }
    }

    /// Begins anew, for a page of [`HEADER`] and zeroes; the tags for which there will be no answer.
    pub fn reset(&mut self) -> impl Iterator<Item = u32> + use<> {
        core::mem::take(self)
            .awaited
            .into_iter()
            .filter(|&tag| tag != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A page, and what the model does to it just before each of the hypervisor's loads.
    struct Shared {
        words: Vec<u32>,
        lies: Vec<u32>,
        loads: u32,
    }

    impl Shared {
        fn new() -> Self {
            let mut words = vec![0; 1024];
            words[..4].copy_from_slice(&HEADER);
            Self {
                words,
                lies: Vec::new(),
                loads: 0,
            }
        }
    }

    impl Page for Shared {
        fn load(&mut self, offset: u32) -> u32 {
            self.loads += 1;
            if let Some(lie) = self.lies.pop() {
                self.words[CONSUMED as usize / 4] = lie;
            }
            self.words[offset as usize / 4]
        }
        fn store(&mut self, offset: u32, value: u32) {
            self.words[offset as usize / 4] = value;
        }
    }

    fn request(tag: u32, store: Option<u32>, posted: bool) -> Request {
        Request {
            offset: tag * 4,
            width: 4,
            store,
            posted,
            tag,
        }
    }

    #[test]
    fn requests_come_out_as_they_went_in() {
        let (mut ring, mut page) = (Ring::default(), Shared::new());
        let pushed = ring.push(&mut page, request(9, None, false)).unwrap();
        assert_eq!((pushed.waits, pushed.interrupt), (true, true));
        let pushed = ring.push(&mut page, request(10, Some(7), true)).unwrap();
        assert_eq!((pushed.waits, pushed.interrupt), (false, false));
        assert_eq!(page.words[2], 2);
        assert_eq!(page.words[16..24], [0x400, 9, 36, 0, 0x402, 10, 40, 7]);
        assert!(!ring.answer(10) && !ring.answer(0) && !ring.answer(17));
        assert!(ring.answer(9));
        assert!(!ring.answer(9), "an answer counts once");
    }

    #[test]
    fn posted_stores_leave_room_for_those_that_wait() {
        let (mut ring, mut page) = (Ring::default(), Shared::new());
        for n in 0..ENTRIES - KEPT {
            let pushed = ring.push(&mut page, request(8, Some(n), true)).unwrap();
            assert_eq!((pushed.waits, pushed.interrupt), (false, n == 0));
        }
        for vcpu in 0..KEPT {
            assert!(
                ring.push(&mut page, request(8 + vcpu, Some(0), true))
                    .unwrap()
                    .waits
            );
        }
        assert_eq!(ring.push(&mut page, request(8, None, false)), Err(Full));
        page.words[3] = 1;
        assert!(ring.push(&mut page, request(8, None, false)).unwrap().waits);
        let mut left: Vec<u32> = ring.reset().collect();
        left.sort_unstable();
        assert_eq!(left, [8, 9, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn a_model_that_takes_all_before_it_looks_again_is_interrupted() {
        let (mut ring, mut page) = (Ring::default(), Shared::new());
        ring.push(&mut page, request(8, Some(1), true)).unwrap();
        // It takes the first request between the two looks of the second push.
        page.lies = vec![1, 0];
        assert!(
            ring.push(&mut page, request(8, Some(1), true))
                .unwrap()
                .interrupt
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u32, bool, bool),
        Answer(u32),
        Lie(u32),
        Reset,
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_lying_model_gets_answers_in_for_what_is_awaited_alone(steps in prop::collection::vec(prop_oneof![
            (0u32..64, any::<bool>(), any::<bool>()).prop_map(|(tag, store, posted)| Step::Push(tag + 8, store, posted)),
            (0u32..72).prop_map(Step::Answer),
            prop_oneof![0u32..200, any::<u32>()].prop_map(Step::Lie),
            Just(Step::Reset),
        ], 1..300)) {
            let (mut ring, mut page) = (Ring::default(), Shared::new());
            let mut awaited = [0u32; 8];
            let mut count = 0u32;
            for step in steps {
                match step {
                    Step::Push(tag, store, posted) => {
                        let claimed = page.words[3];
                        page.loads = 0;
                        let pushed = ring.push(&mut page, request(tag, store.then_some(3), posted));
                        let used = count.wrapping_sub(claimed);
                        prop_assert_eq!(pushed.is_err(), used >= ENTRIES);
                        prop_assert!(page.loads <= 2);
                        if let Ok(pushed) = pushed {
                            count += 1;
                            prop_assert!(pushed.waits || posted && store);
                            prop_assert_eq!(pushed.interrupt, used == 0);
                            if pushed.waits {
                                awaited[tag as usize & 7] = tag;
                            }
                        }
                        prop_assert_eq!(page.words[2], count);
                    }
                    Step::Answer(tag) => {
                        let expected = tag != 0 && awaited[tag as usize & 7] == tag;
                        prop_assert_eq!(ring.answer(tag), expected);
                        if expected {
                            awaited[tag as usize & 7] = 0;
                        }
                    }
                    Step::Lie(word) => page.words[3] = word,
                    Step::Reset => {
                        let left: Vec<u32> = ring.reset().collect();
                        let expected: Vec<u32> = awaited.into_iter().filter(|&tag| tag != 0).collect();
                        prop_assert_eq!(left, expected);
                        (awaited, count, page) = ([0; 8], 0, Shared::new());
                    }
                }
            }
        }
    }
}
