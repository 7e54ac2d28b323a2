//! Loads, stores and fetches that stage 2 stopped.

use super::{Next, external_abort, skip};
use crate::addr::{Ipa, PAGE};
use crate::bus::{Access, PLACES};
use crate::inject::{self, Fault};
use crate::machine::Live;
use crate::stage2::Leaf;
use crate::syndrome::{DataAbort, FaultStatus, Hsr, PrefetchAbort};
use crate::vcpu::{Reason, Vcpu};

/// The address that stage 2 stopped: the page from HPFAR, which holds bits 39:12 in 31:4, and the
/// offset from the virtual address.
#[inline(always)]
fn faulting(far: u32) -> Ipa {
    Ipa(u64::from(Live::hpfar() >> 4) << 12 | u64::from(far) & (PAGE - 1))
}

/// The same after a permission fault, where HPFAR is UNKNOWN (ARM DDI 0406C, B3.13.3): by the
/// guest's own translation. `None` where that fails now, since another vCPU has changed its tables:
/// the guest just tries again.
fn translated(vcpu: &Vcpu, far: u32) -> Option<Ipa> {
    let par = Live::translate(far, vcpu.context.regs().privileged());
    (par & 1 == 0).then_some(Ipa(par & 0xff_ffff_f000 | u64::from(far) & (PAGE - 1)))
}

#[inline(always)]
pub(super) fn data_abort(vcpu: &mut Vcpu, abort: DataAbort, hsr: Hsr) -> Next {
    vcpu.count(Reason::DataAbort);
    let far = Live::hdfar();
    if !abort.mmio() {
        return not_mmio(vcpu, abort, far);
    }
    let ipa = if matches!(abort.status(), FaultStatus::Permission { .. }) {
        match translated(vcpu, far) {
            Some(ipa) => ipa,
            None => return Next::Resume,
        }
    } else {
        faulting(far)
    };
    let leaf = vcpu.vm.lock().memory.space.lookup(ipa);
    match leaf {
        Leaf::Slot(slot) if abort.isv() => device(vcpu, abort, hsr, slot, ipa),
        Leaf::Slot(_) => no_syndrome(vcpu, abort, far),
        Leaf::Ram { attrs, .. } if attrs.perms.write || !abort.write() => Next::Resume,
        // Flash takes no writes but commands, which do nothing.
        Leaf::Ram { .. } if abort.isv() => {
            skip(vcpu, hsr);
            Next::Resume
        }
        Leaf::Ram { .. } | Leaf::Nothing => external_abort(vcpu, far, abort.write()),
    }
}

/// An access to a device that the syndrome describes.
#[inline(always)]
fn device(vcpu: &mut Vcpu, abort: DataAbort, hsr: Hsr, slot: u32, ipa: Ipa) -> Next {
    let Some(place) = PLACES.get(slot as usize) else {
        return external_abort(vcpu, ipa.0 as u32, abort.write());
    };
    let (width, rt) = (abort.bytes(), abort.rt());
    let offset = (ipa.0 as u32).wrapping_sub(place.base);
    if abort.write() {
        let value = vcpu.gpr(rt);
        let value = in_order(vcpu, width, value);
        vcpu.access(
            place.device,
            Access {
                offset,
                width,
                store: Some(value),
            },
        );
    } else {
        let value = vcpu.access(
            place.device,
            Access {
                offset,
                width,
                store: None,
            },
        );
        let value = in_order(vcpu, width, value);
        let value = if abort.sign_extend() {
            extend(value, width)
        } else {
            value
        };
        vcpu.set_gpr(rt, value);
    }
    skip(vcpu, hsr);
    Next::Resume
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

/// An access to a device by an instruction that the syndrome does not describe.
#[cold]
fn no_syndrome(vcpu: &mut Vcpu, abort: DataAbort, far: u32) -> Next {
    external_abort(vcpu, far, abort.write())
}

/// A data abort that no load or store caused, or that is no matter of what lies at the address.
#[cold]
fn not_mmio(vcpu: &mut Vcpu, abort: DataAbort, far: u32) -> Next {
    let fault = match abort.status() {
        FaultStatus::Alignment => Fault::Alignment,
        _ if abort.s1ptw() => {
            return walk(vcpu, far, |vcpu, fault| {
                inject::data_abort(&mut vcpu.context, fault, far, abort.write());
            });
        }
        _ => Fault::External,
    };
    inject::data_abort(&mut vcpu.context, fault, far, abort.write());
    Next::Resume
}

/// A table walk of the guest that stage 2 stopped: an external abort on the walk, unless the table
/// is RAM by now.
fn walk(vcpu: &mut Vcpu, far: u32, abort: impl Fn(&mut Vcpu, Fault)) -> Next {
    let table = faulting(far).align_down(PAGE);
    let leaf = vcpu.vm.lock().memory.space.lookup(table);
    if !matches!(leaf, Leaf::Ram { .. }) {
        abort(vcpu, Fault::ExternalOnWalk(1));
    }
    Next::Resume
}

/// A fetch that stage 2 stopped.
#[cold]
pub(super) fn prefetch_abort(vcpu: &mut Vcpu, abort: PrefetchAbort) -> Next {
    vcpu.count(Reason::PrefetchAbort);
    let far = Live::hifar();
    if abort.s1ptw() {
        return walk(vcpu, far, |vcpu, fault| {
            inject::prefetch_abort(&mut vcpu.context, fault, far)
        });
    }
    let ipa = match abort.status() {
        FaultStatus::Translation { .. } => Some(faulting(far)),
        FaultStatus::Permission { .. } => translated(vcpu, far),
        _ => {
            inject::prefetch_abort(&mut vcpu.context, Fault::External, far);
            return Next::Resume;
        }
    };
    let Some(ipa) = ipa else { return Next::Resume };
    let leaf = vcpu.vm.lock().memory.space.lookup(ipa);
    if !matches!(leaf, Leaf::Ram { attrs, .. } if attrs.perms.exec) {
        inject::prefetch_abort(&mut vcpu.context, Fault::External, far);
    }
    Next::Resume
}
