//! Accesses that another VM makes: the hypervisor's part between a VM and its device model.
//!
//! A vCPU puts its request into the model's [`ring`], then waits, and its CPU is free for others: the
//! model may live there. The model's answer is a hypercall, which leaves it in the vCPU's
//! [`Link`](crate::vm::Link) and kicks its CPU. Each VM's lock is taken by itself. Answers are told by
//! the request's tag, so that one that comes late, again or for nobody changes nothing; a vCPU
//! that gets none gives up in time.

use crate::addr::{Ipa, PAGE};
use crate::bus::{RINGS, interrupt};
use crate::machine;
use crate::mem::Ram;
use crate::ring::{Page, Request};
use crate::vm::{Awaited, Client, State, Vm};

/// What comes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Nothing has to be waited for.
    Done,
    /// The vCPU has to wait, until the counter has this value at the longest.
    Waits(u64),
    /// The device model has gone, or its ring is full.
    Refused,
}

/// A ring's page in the model's memory.
struct InRam<'a>(&'a mut Ram, Ipa);

impl Page for InRam<'_> {
    fn load(&mut self, offset: u32) -> u32 {
        let word = self.0.load_word(Ipa(self.1.0 + u64::from(offset)), 4);
        word.unwrap_or(0)
    }

    fn store(&mut self, offset: u32, words: &[u32]) {
        // The page is the model's RAM as long as it lives.
        let _ = self.0.store_words(Ipa(self.1.0 + u64::from(offset)), words);
    }
}

/// Has the device model of region `number` make an access of `width` bytes at `address` for vCPU `index` of
/// `client`. No VM's lock may be held.
pub fn send(
    client: &Vm,
    index: usize,
    number: u32,
    address: u32,
    width: u32,
    store: Option<u32>,
) -> Sent {
    let number = number as usize;
    let region = client.config.regions.get(number);
    let backend = client.backends.get().and_then(|all| all.get(number));
    let (Some(region), Some(backend), Some(link)) = (region, backend, client.links.get(index))
    else {
        return Sent::Refused;
    };
    let Some(model) = backend.vm.upgrade() else {
        return Sent::Refused;
    };
    let frequency = u64::from(machine::wiring().frequency);
    let deadline = machine::now() + frequency * u64::from(region.timeout_us) / 1_000_000;
    let tag = {
        let mut awaited = link.awaited.lock();
        // The vCPU's number below a count that is never 0.
        let count = (awaited.tag >> 3).wrapping_add(1) & 0x1fff_ffff;
        let tag = count.max(1) << 3 | index as u32 & 7;
        *awaited = Awaited {
            tag,
            deadline,
            answer: None,
        };
        tag
    };
    let base = region
        .ranges
        .first()
        .map_or(0, |range| range.start.0 as u32);
    let request = Request {
        offset: address.wrapping_sub(base),
        width,
        store,
        posted: region.posted,
        tag,
    };
    let mut state = model.lock();
    let State {
        rings,
        memory,
        power,
        gic,
        ..
    } = &mut *state;
    let Some(ring) = rings.get_mut(backend.ring).filter(|_| !power.all_off()) else {
        return Sent::Refused;
    };
    let page = Ipa(u64::from(RINGS) + backend.ring as u64 * PAGE);
    let Ok(pushed) = ring.push(&mut InRam(&mut memory.ram, page), request) else {
        return Sent::Refused;
    };
    if pushed.interrupt {
        let kick = gic.pulse(0, interrupt::RINGS + backend.ring as u32);
        drop(state);
        model.wake(kick.0);
    }
    if pushed.waits {
        Sent::Waits(deadline)
    } else {
        Sent::Done
    }
}

fn client(model: &Vm, ring: u32) -> Option<&Client> {
    model.clients.get()?.get(ring as usize)
}

/// `model` answers the request of `tag` in its ring `ring`: what was loaded, or `None` for an external
/// abort. Whether it was asked.
#[must_use]
pub fn answer(model: &Vm, ring: u32, tag: u32, value: Option<u32>) -> bool {
    let Some(client) = client(model, ring) else {
        return false;
    };
    let mut state = model.lock();
    let awaited = state
        .rings
        .get_mut(ring as usize)
        .is_some_and(|ring| ring.answer(tag));
    drop(state);
    if awaited && let Some(client) = client.vm.upgrade() {
        client.answer(tag, value);
    }
    awaited
}

/// `model` sets the line of its device of ring `ring`; whether that has one.
#[must_use]
pub fn set_line(model: &Vm, ring: u32, level: bool) -> bool {
    let found = client(model, ring).filter(|client| client.interrupt.is_some());
    if let Some(client) = found
        && let Some(vm) = client.vm.upgrade()
    {
        vm.set_line(client.interrupt, level);
    }
    found.is_some()
}
