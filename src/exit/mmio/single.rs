//! The load or store of one register, at a device, without a syndrome: mostly one that writes back its
//! base. It does what [`emulate`](super::emulate) does, which sees to everything else.

use super::memory;
use crate::addr::{PAGE, PAGE_SHIFT};
use crate::bus::Device;
use crate::decode::Single;
use crate::machine::LiveBanks;
use crate::region::FIRST_SLOT;
use crate::regs::Gprs;
use crate::syndrome::DataAbort;
use crate::vcpu::Vcpu;

/// Performs the instruction that `abort` stopped at address `far`, in page number `page` to the
/// guest. Where it is another, nothing has been done and the answer is `None`.
#[inline(always)]
pub(super) fn perform(vcpu: &mut Vcpu, abort: DataAbort, far: u32, page: u32) -> Option<()> {
    let state = vcpu.vm.lock();
    let slot = state.memory.space.device(page).ok()?;
    if slot >= FIRST_SLOT {
        return None;
    }
    let regs = vcpu.context.regs_mut();
    let instruction = memory::fetch(&state.memory, regs)?;
    let single = Single::of(instruction, regs)?;
    let banks = &mut LiveBanks;
    let gprs = Gprs { regs, banks };
    let (at, moved) = single.resolve(&gprs);
    let width = u32::from(single.size());
    // It may be another instruction by now, of which the abort says nothing.
    if at != far || at & (width - 1) != 0 || single.unprivileged() || single.load() == abort.write()
    {
        return None;
    }
    let (device, address) = (
        Device::of_slot(slot),
        page << PAGE_SHIFT | far & (PAGE as u32 - 1),
    );
    let value = single.stored(&gprs);
    let loaded = if single.load() {
        Some(vcpu.load(state, device, address, width))
    } else {
        vcpu.store(state, device, address, width, value);
        None
    };
    let regs = vcpu.context.regs_mut();
    single.finish(instruction, moved, loaded, &mut Gprs { regs, banks });
    Some(())
}
