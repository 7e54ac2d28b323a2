//! Who answers an access: memory, a device, another VM, or nobody.

use super::memory;
use crate::addr::Ipa;
use crate::bus::Device;
use crate::forward::{self, Sent};
use crate::region::{Answer, FIRST_SLOT, Region};
use crate::stage2::{NOTHING_THERE, RAM_THERE};
use crate::vcpu::Vcpu;
use crate::vm::{Backend, State};
use spin::MutexGuard;

/// What comes of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// What was loaded, 0 for a store.
    Value(u32),
    /// An external abort.
    Abort,
    /// Another VM will make it.
    Wait,
}

/// Makes an aligned access of `width` bytes at `address`, where no RAM is that the guest could reach by itself;
/// `slot` is what [`Stage2::device`](crate::stage2::Stage2::device) says of it.
#[inline(always)]
pub(super) fn ask(
    vcpu: &Vcpu,
    state: MutexGuard<'_, State>,
    slot: u32,
    address: u32,
    width: u32,
    store: Option<u32>,
) -> Reply {
    if slot < FIRST_SLOT {
        let device = Device::of_slot(slot);
        return Reply::Value(match store {
            None => vcpu.load(state, device, address, width),
            Some(value) => {
                vcpu.store(state, device, address, width, value);
                0
            }
        });
    }
    region(vcpu, state, slot, address, width, store)
}

/// The same where no device has the page to itself.
#[inline(never)]
fn region(
    vcpu: &Vcpu,
    mut state: MutexGuard<'_, State>,
    slot: u32,
    address: u32,
    width: u32,
    store: Option<u32>,
) -> Reply {
    let chosen = |region: &Region| match store {
        None => region.read,
        Some(_) => region.write,
    };
    let regions = &state.memory.regions;
    let answer = match slot {
        NOTHING_THERE => None,
        RAM_THERE => regions.find_by_address(address, width).map(chosen),
        slot => regions.find(slot, address, width).map(chosen),
    };
    match (answer, store) {
        (Some(Answer::Memory), None) => memory::read(&state.memory, Ipa(address.into()), width)
            .map_or(Reply::Abort, Reply::Value),
        (Some(Answer::Zero | Answer::Memory), _) => Reply::Value(0),
        (Some(Answer::Abort | Answer::Device(_)), _) => Reply::Abort,
        (Some(Answer::Forward(number)), _) => {
            let backend = state.backends.get(number as usize).cloned();
            drop(state);
            forward(vcpu, &backend.unwrap_or_default(), address, width, store)
        }
        (None, _) => {
            state.unassigned.note(address);
            if vcpu.vm.config.unassigned_zero {
                Reply::Value(0)
            } else {
                Reply::Abort
            }
        }
    }
}

/// Has another VM make the access.
#[inline(never)]
fn forward(vcpu: &Vcpu, backend: &Backend, address: u32, width: u32, store: Option<u32>) -> Reply {
    match forward::send(&vcpu.vm, vcpu.index, backend, address, width, store) {
        Sent::Done => Reply::Value(0),
        Sent::Waits => Reply::Wait,
        Sent::Refused => Reply::Abort,
    }
}
