//! Loads, stores and fetches that stage 2 stopped.

mod emulate;
mod memory;

use super::{Next, external_abort};
use crate::addr::{Ipa, PAGE};
use crate::bus::Device;
use crate::inject::{self, Fault};
use crate::machine::{self, Live};
use crate::stage2::{Attrs, Leaf};
use crate::syndrome::{DataAbort, FaultStatus, PrefetchAbort};
use crate::vcpu::{Reason, Vcpu};
use crate::walk::{self, Kind};

/// The address that stage 2 stopped: the page from HPFAR, which holds bits 39:12 in 31:4, and the
/// offset from the virtual address.
#[inline(always)]
fn faulting(far: u32) -> Ipa {
    Ipa(u64::from(Live::hpfar() >> 4) << 12 | u64::from(far) & (PAGE - 1))
}

/// The same after a permission fault, where HPFAR is UNKNOWN (ARM DDI 0406C, B3.13.3): by the
/// guest's own translation. `None` where that fails now, since another vCPU has changed its tables:
/// the guest just tries again.
fn translated(vcpu: &Vcpu, far: u32, kind: Kind) -> Option<Ipa> {
    let privileged = vcpu.context.regs().privileged();
    let access = walk::Access { kind, privileged };
    let found = memory::translate(&vcpu.vm.lock().memory, far, access);
    found.ok().map(|found| found.ipa)
}

/// A load or store that stage 2 stopped.
#[inline(always)]
pub(super) fn data_abort(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    vcpu.count(Reason::DataAbort);
    if abort.described() {
        access(vcpu, abort, faulting(Live::hdfar()))
    } else {
        unusual(vcpu, abort)
    }
}

/// A load or store at `ipa` that the syndrome describes.
#[inline(never)]
fn access(vcpu: &mut Vcpu, abort: DataAbort, ipa: Ipa) -> Next {
    let state = vcpu.vm.lock();
    let slot = match state.memory.space.lookup(ipa) {
        Leaf::Slot(slot) => slot,
        Leaf::Nothing => {
            drop(state);
            return external_abort(vcpu, Live::hdfar(), abort.write());
        }
        Leaf::Ram { attrs, .. } => {
            drop(state);
            return memory_there(vcpu, abort, attrs);
        }
    };
    let (address, width, rt) = (ipa.0 as u32, abort.bytes(), abort.rt());
    if address & (width - 1) != 0 || rt == 15 {
        drop(state);
        return undescribed(vcpu, abort, ipa);
    }
    let device = Device::of_slot(slot);
    if abort.write() {
        if vcpu.context.regs().thumb() && machine::thumb_stores_mislabelled() {
            drop(state);
            return undescribed(vcpu, abort, ipa);
        }
        let value = in_order(vcpu, width, vcpu.gpr(rt));
        vcpu.store(state, device, address, width, value);
    } else {
        let value = vcpu.load(state, device, address, width);
        loaded(vcpu, abort, value);
    }
    let regs = vcpu.context.regs_mut();
    if regs.thumb() {
        regs.skip(abort.length());
    } else {
        regs.pc = regs.pc.wrapping_add(4);
    }
    Next::Resume
}

/// Register `rt` gets what was loaded.
#[inline(always)]
fn loaded(vcpu: &mut Vcpu, abort: DataAbort, value: u32) {
    let value = in_order(vcpu, abort.bytes(), value);
    let value = if abort.sign_extend() {
        extend(value, abort.bytes())
    } else {
        value
    };
    vcpu.set_gpr(abort.rt(), value);
}

/// A load or store in memory, which is there by now, or takes no stores.
#[cold]
fn memory_there(vcpu: &mut Vcpu, abort: DataAbort, attrs: Attrs) -> Next {
    if abort.write() && !attrs.perms.write {
        // Read-only memory is flash: what is written to it is a command, which does nothing.
        vcpu.context.regs_mut().skip(abort.length());
    }
    Next::Resume
}

/// An access of which the syndrome does not say enough: a core gets it wrong, or it is unaligned.
#[cold]
fn undescribed(vcpu: &mut Vcpu, abort: DataAbort, ipa: Ipa) -> Next {
    let far = Live::hdfar();
    if abort.rt() == 15 && !abort.write() {
        // A device holds no code to go to.
        inject::prefetch_abort(&mut vcpu.context, Fault::External, far);
        return Next::Resume;
    }
    emulate::emulate(vcpu, abort, far, ipa)
}

/// A data abort without a syndrome, or whose address is not in HPFAR, or that no load or store
/// caused.
#[cold]
fn unusual(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    let far = Live::hdfar();
    let kind = if abort.write() {
        Kind::Write
    } else {
        Kind::Read
    };
    if abort.mmio() {
        let ipa = match abort.status() {
            FaultStatus::Permission { .. } => translated(vcpu, far, kind),
            _ => Some(faulting(far)),
        };
        return match ipa {
            Some(ipa) if abort.isv() => access(vcpu, abort, ipa),
            Some(ipa) => emulate::emulate(vcpu, abort, far, ipa),
            None => Next::Resume,
        };
    }
    let fault = match abort.status() {
        FaultStatus::Alignment => Some(Fault::Alignment),
        _ if abort.s1ptw() => stopped_walk(vcpu, far, kind),
        _ => Some(Fault::External),
    };
    if let Some(fault) = fault {
        inject::data_abort(&mut vcpu.context, fault, far, abort.write());
    }
    Next::Resume
}

/// A table walk of the guest, for `far`, that stage 2 stopped: the abort, unless all its tables
/// are RAM by now.
fn stopped_walk(vcpu: &Vcpu, far: u32, kind: Kind) -> Option<Fault> {
    let privileged = vcpu.context.regs().privileged();
    let access = walk::Access { kind, privileged };
    let found = memory::translate(&vcpu.vm.lock().memory, far, access);
    let on_walk = |fault: &walk::Fault| matches!(fault.status, FaultStatus::ExternalOnWalk { .. });
    found.err().filter(on_walk).map(Fault::Stage1)
}

/// A value between a register and a bus that is little-endian, as the guest's data endianness has
/// it.
#[inline(always)]
fn in_order(vcpu: &Vcpu, width: u32, value: u32) -> u32 {
    if !vcpu.context.regs().big_endian() {
        return value;
    }
    value.swap_bytes() >> (32 - 8 * width.min(4))
}

/// The sign of a value of `width` bytes, extended.
fn extend(value: u32, width: u32) -> u32 {
    match width {
        1 => value as i8 as u32,
        2 => value as i16 as u32,
        _ => value,
    }
}

/// A fetch that stage 2 stopped.
#[cold]
pub(super) fn prefetch_abort(vcpu: &mut Vcpu, abort: PrefetchAbort) -> Next {
    vcpu.count(Reason::PrefetchAbort);
    let far = Live::hifar();
    let fault = match abort.status() {
        _ if abort.s1ptw() => stopped_walk(vcpu, far, Kind::Execute),
        FaultStatus::Translation { .. } => not_code(vcpu, Some(faulting(far))),
        FaultStatus::Permission { .. } => {
            let ipa = translated(vcpu, far, Kind::Execute);
            not_code(vcpu, ipa)
        }
        _ => Some(Fault::External),
    };
    if let Some(fault) = fault {
        inject::prefetch_abort(&mut vcpu.context, fault, far);
    }
    Next::Resume
}

/// The abort of a fetch from `ipa`, unless that is memory to be executed by now.
fn not_code(vcpu: &Vcpu, ipa: Option<Ipa>) -> Option<Fault> {
    match vcpu.vm.lock().memory.space.lookup(ipa?) {
        Leaf::Ram { attrs, .. } if attrs.perms.exec => None,
        _ => Some(Fault::External),
    }
}
