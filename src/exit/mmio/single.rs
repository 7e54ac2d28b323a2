//! The load or store of one register, at a device, without a syndrome: mostly one that writes back its
//! base. It does what [`emulate`](super::emulate) does, which sees to everything else.

use super::memory;
use crate::addr::PAGE;
use crate::bus::Device;
use crate::decode::Single;
use crate::loader::Memory;
use crate::machine::LiveBanks;
use crate::region::FIRST_SLOT;
use crate::regs::{Gprs, Regs};
use crate::syndrome::DataAbort;
use crate::vcpu::Vcpu;

/// Performs the instruction that `abort` stopped at address `far`, in page number `page` to the
/// guest. Where it is another, nothing has been done and the answer is `None`.
#[inline(always)]
pub(super) fn perform(vcpu: &mut Vcpu, abort: DataAbort, far: u32, page: u32) -> Option<()> {
    let state = vcpu.vm.lock();
    let slot = state.memory.space.device(page);
    if slot >= FIRST_SLOT {
        return None;
    }
    let regs = vcpu.context.regs_mut();
    let (single, length) = if regs.thumb() {
        thumb(&state.memory, regs)?
    } else {
        let word = memory::fetch_word(&state.memory, regs, regs.pc)?;
        (Single::of_word(word, regs)?, 4)
    };
    let banks = &mut LiveBanks;
    let gprs = Gprs { regs, banks };
    let (at, moved) = single.resolve(&gprs);
    let width = u32::from(single.size());
    let stores = u32::from(abort.write());
    // It may be another instruction by now, of which the abort says nothing.
    if at != far
        || at & (width - 1) != 0
        || single.unprivileged()
        || u32::from(single.load()) == stores
    {
        return None;
    }
    let offset = page.wrapping_mul(PAGE as u32) | (far % PAGE as u32);
    let value = single.stored(&gprs);
    let loaded = if stores == 0 {
        Some(vcpu.load(state, Device::of_slot(slot), offset, width))
    } else if slot == Device::UART {
        vcpu.store_uart(state, offset, width, value);
        None
    } else {
        vcpu.store(state, Device::of_slot(slot), offset, width, value);
        None
    };
    let regs = vcpu.context.regs_mut();
    single.finish(length, moved, loaded, &mut Gprs { regs, banks });
    Some(())
}

#[inline(never)]
fn thumb(memory: &Memory, regs: &Regs) -> Option<(Single, u32)> {
    let instruction = memory::fetch(memory, regs)?;
    Some((Single::of(instruction, regs)?, instruction.length()))
}
