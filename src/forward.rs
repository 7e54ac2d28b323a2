//! Accesses that another VM makes: the hypervisor's part between a VM and its device model.
//!
//! A vCPU puts its request into the model's [ring](crate::ring), then waits, and its CPU is free for others: the
//! model may live there. The model's answer is a hypercall, which leaves it in the vCPU's
//! [`Link`](crate::vm::Link) and kicks its CPU. Each VM's lock is taken by itself. Answers are told by
//! the request's tag, so that one that comes late, again or for nobody changes nothing; a vCPU
//! that gets none gives up in time.

use crate::addr::{Ipa, PAGE};
use crate::bus::{RINGS, interrupt};
use crate::machine;
use crate::ring::Request;
use crate::vm::{Awaited, Backend, State, Vm};

/// What comes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Nothing has to be waited for.
    Done,
    /// The vCPU has to wait.
    Waits,
    /// The device model has gone, or its ring is full.
    Refused,
}

/// Has `backend` make an access of `width` bytes at `address` for vCPU `index` of `client`. No VM's lock may be held.
pub fn send(
    client: &Vm,
    index: usize,
    backend: &Backend,
    address: u32,
    width: u32,
    store: Option<u32>,
) -> Sent {
    let (Some(model), Some(link)) = (backend.vm.upgrade(), client.links.get(index)) else {
        return Sent::Refused;
    };
    let deadline = machine::now() + backend.patience;
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
    let request = Request {
        offset: address.wrapping_sub(backend.base),
        width,
        store: store.map(|value| value & mask(width)),
        posted: backend.posted,
        tag,
    };
    let Some(mut state) = model.lock_to_serve() else {
        return Sent::Refused;
    };
    let State {
        clients,
        memory,
        gic,
        ..
    } = &mut *state;
    let Some(client) = clients.get_mut(backend.ring) else {
        return Sent::Refused;
    };
    let page = Ipa(u64::from(RINGS) + backend.ring as u64 * PAGE);
    let words = memory.ram.words(page).ok();
    let pushed = words.and_then(|mut words| client.ring.push(&mut words, request).ok());
    let Some(pushed) = pushed else {
        return Sent::Refused;
    };
    if pushed.interrupt {
        let kick = gic.pulse(0, interrupt::RINGS + backend.ring as u32);
        drop(state);
        model.wake(kick.0);
    }
    if pushed.waits {
        Sent::Waits
    } else {
        Sent::Done
    }
}

/// The bits of an access of `width` bytes, 1, 2 or 4.
#[must_use]
pub const fn mask(width: u32) -> u32 {
    u32::MAX >> (32 - 8 * width)
}

/// `model` answers the request of `tag` in its ring `ring`: what was loaded, or `None` for an external
/// abort. Whether it was asked.
#[must_use]
pub fn answer(model: &Vm, ring: u32, tag: u32, value: Option<u32>) -> bool {
    let client = {
        let mut state = model.state();
        let client = state.clients.get_mut(ring as usize);
        client.and_then(|client| match client.ring.answer(tag) {
            true => client.vm.upgrade(),
            false => None,
        })
    };
    if let Some(client) = &client {
        client.answer(tag, value);
    }
    client.is_some()
}

/// `model` sets the line of its device of ring `ring`; whether that has one.
#[must_use]
pub fn set_line(model: &Vm, ring: u32, level: bool) -> bool {
    let (client, interrupt) = match model.state().clients.get(ring as usize) {
        Some(client) => (client.vm.upgrade(), client.interrupt),
        None => (None, None),
    };
    if let (Some(client), true) = (client, interrupt.is_some()) {
        client.set_line(interrupt, level);
        return true;
    }
    false
}
