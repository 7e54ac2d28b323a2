//! Who answers an access: memory, a device, another VM, or nobody.

use super::memory;
use crate::addr::Ipa;
use crate::bus::Device;
use crate::forward::{self, Sent};
use crate::region::{Answer, FIRST_SLOT, Region};
use crate::stage2::Leaf;
use crate::vcpu::Vcpu;
use crate::vm::State;
use spin::MutexGuard;

/// What comes of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// What was loaded, 0 for a store.
    Value(u32),
    /// An external abort.
    Abort,
    /// Another VM will make it; wait until the counter has this value.
    Wait(u64),
}

/// Makes an aligned access of `width` bytes at `ipa`, which is no RAM that the guest could reach by itself; `leaf` is
/// what stage 2 says of it.
pub(super) fn ask(
    vcpu: &Vcpu,
    mut state: MutexGuard<'_, State>,
    leaf: Leaf,
    ipa: Ipa,
    width: u32,
    store: Option<u32>,
) -> Reply {
    let address = ipa.0 as u32;
    let chosen = |region: &Region| match store {
        None => region.read,
        Some(_) => region.write,
    };
    let regions = &state.memory.regions;
    let answer = match leaf {
        Leaf::Slot(slot) if slot < FIRST_SLOT => Some(Answer::Device(slot)),
        Leaf::Slot(slot) => regions.find(slot, address, width).map(chosen),
        Leaf::Ram { .. } => regions.find_by_address(address, width).map(chosen),
        Leaf::Nothing => None,
    };
    match (answer, store) {
        (Some(Answer::Device(slot)), None) => {
            Reply::Value(vcpu.load(state, Device::of_slot(slot), address, width))
        }
        (Some(Answer::Device(slot)), Some(value)) => {
            vcpu.store(state, Device::of_slot(slot), address, width, value);
            Reply::Value(0)
        }
        (Some(Answer::Memory), None) => {
            memory::read(&state.memory, ipa, width).map_or(Reply::Abort, Reply::Value)
        }
        (Some(Answer::Zero | Answer::Memory), _) => Reply::Value(0),
        (Some(Answer::Abort), _) => Reply::Abort,
        (Some(Answer::Forward(number)), _) => {
            let backend = state
                .backends
                .get(number as usize)
                .cloned()
                .unwrap_or_default();
            drop(state);
            match forward::send(&vcpu.vm, vcpu.index, &backend, address, width, store) {
                Sent::Done => Reply::Value(0),
                Sent::Waits(deadline) => Reply::Wait(deadline),
                Sent::Refused => Reply::Abort,
            }
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
