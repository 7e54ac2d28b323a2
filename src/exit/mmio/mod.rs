//! Loads, stores and fetches that stage 2 stopped.

mod dispatch;
mod emulate;
pub(super) mod memory;
mod single;

use super::{Next, external_abort};
use crate::addr::{Ipa, PAGE, PAGE_SHIFT};
use crate::bus::Device;
use crate::forward::mask;
use crate::inject::{self, Fault};
use crate::machine::{self, Context, Live};
use crate::regs::{Regs, psr};
use crate::stage2::{Leaf, NOTHING_THERE, RAM_THERE};
use crate::syndrome::{DataAbort, FaultStatus, Hsr, PrefetchAbort};
use crate::vcpu::{Pending, Reason, Vcpu};
use crate::vm::State;
use crate::walk::{self, Kind};
use dispatch::Reply;
use spin::MutexGuard;

/// DFSR.CM: a cache maintenance operation aborted (B4.1.52).
const DFSR_CM: u32 = 1 << 13;

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
    let found = memory::translate(&vcpu.vm.state().memory, far, access);
    found.ok().map(|found| found.ipa)
}

/// A plain load or store that stage 2 stopped, see [`Hsr::plain_access`](crate::syndrome::Hsr::plain_access).
#[inline(always)]
pub(super) fn plain(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    vcpu.count(Reason::DataAbort);
    if abort.write() {
        plain_store(vcpu, abort)
    } else {
        plain_load(vcpu, abort)
    }
}

/// What a plain access transfers, by its place among the saved registers, and its offset in the page: where it is
/// in ARM state, aligned, and in little-endian order.
#[inline(always)]
fn operands(regs: &Regs, abort: DataAbort) -> Option<(usize, u32)> {
    let far = Live::hdfar();
    if far & (abort.bytes() - 1) != 0 || regs.cpsr & (psr::T | psr::E) != 0 {
        return None;
    }
    Some((regs.unbanked(abort.rt())?, far % PAGE as u32))
}

/// The number of the page that stage 2 stopped.
#[inline(always)]
fn page() -> u32 {
    Live::hpfar() >> 4
}

/// A plain load. It does what [`access`] does, which sees to everything else.
#[inline(never)]
fn plain_load(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    let Some((rt, offset)) = operands(vcpu.context.regs(), abort) else {
        return described(vcpu, abort);
    };
    let state = vcpu.vm.lock();
    let value = match state.memory.space.device(page()) {
        Device::UART => vcpu.load_uart(state, offset, abort.bytes()),
        Device::GICD => vcpu.load_gicd(state, offset, abort.bytes()),
        NOTHING_THERE if !vcpu.vm.config.unassigned_zero => {
            return nothing(&mut vcpu.context, state, abort);
        }
        _ => {
            drop(state);
            return described(vcpu, abort);
        }
    };
    let regs = vcpu.context.regs_mut();
    regs.r[rt] = value;
    regs.pc = regs.pc.wrapping_add(4);
    Next::Resume
}

/// The same for a store.
#[inline(never)]
fn plain_store(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    let regs = vcpu.context.regs();
    let Some((rt, offset)) = operands(regs, abort) else {
        return described(vcpu, abort);
    };
    let value = regs.r[rt];
    let state = vcpu.vm.lock();
    let mut here = 0;
    match state.memory.space.device(page()) {
        Device::UART => vcpu.store_uart(state, offset, abort.bytes(), value),
        Device::GICD => here = vcpu.ask_gicd(state, offset, abort.bytes(), value),
        NOTHING_THERE if !vcpu.vm.config.unassigned_zero => {
            return nothing(&mut vcpu.context, state, abort);
        }
        _ => {
            drop(state);
            return described(vcpu, abort);
        }
    }
    let regs = vcpu.context.regs_mut();
    regs.pc = regs.pc.wrapping_add(4);
    if here == 0 {
        return Next::Resume;
    }
    vcpu.wakes = here;
    Next::Wake
}

/// A plain access where nothing is.
#[inline(never)]
fn nothing(context: &mut Context, mut state: MutexGuard<'_, State>, abort: DataAbort) -> Next {
    let far = Live::hdfar();
    state.unassigned.note(faulting(far).0 as u32);
    drop(state);
    inject::external_abort(context, far, abort.write());
    Next::Resume
}

/// A load or store that the syndrome describes.
#[inline(never)]
fn described(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    access(vcpu, abort, faulting(Live::hdfar()))
}

/// A load or store at `ipa` that the syndrome describes.
#[inline(never)]
fn access(vcpu: &mut Vcpu, abort: DataAbort, ipa: Ipa) -> Next {
    let (width, rt) = (abort.bytes(), abort.rt());
    let mislabelled =
        abort.write() && vcpu.context.regs().thumb() && machine::thumb_stores_mislabelled();
    let mut state = vcpu.vm.lock();
    let slot = state.memory.space.device((ipa.0 >> PAGE_SHIFT) as u32);
    if slot == RAM_THERE && is_there(&state, ipa, abort.write()) {
        return Next::Resume;
    }
    if slot == NOTHING_THERE && !vcpu.vm.config.unassigned_zero {
        state.unassigned.note(ipa.0 as u32);
        drop(state);
        return external_abort(vcpu, Live::hdfar(), abort.write());
    }
    if ipa.0 as u32 & (width - 1) != 0 || rt == 15 || mislabelled {
        drop(state);
        return undescribed(vcpu, abort, ipa);
    }
    let store = abort.write().then(|| in_order(vcpu, width, vcpu.gpr(rt)));
    let far = Live::hdfar();
    match dispatch::ask(vcpu, state, slot, ipa.0 as u32, width, store) {
        Reply::Value(value) => finish(vcpu, abort, value),
        Reply::Abort => return external_abort(vcpu, far, abort.write()),
        Reply::Wait => {
            vcpu.pending = Some(Pending::Described(abort, far));
            return Next::Stall;
        }
    }
    Next::Resume
}

/// Whether `ipa` is by now RAM that the guest may reach by itself.
#[cold]
fn is_there(state: &State, ipa: Ipa, write: bool) -> bool {
    let found = state.memory.space.translate(ipa);
    found.is_some_and(|(_, attrs)| !write || attrs.perms.write)
}

/// Completes an access that the syndrome describes, for which `value` was on the bus.
fn finish(vcpu: &mut Vcpu, abort: DataAbort, value: u32) {
    if !abort.write() {
        let width = abort.bytes();
        let value = in_order(vcpu, width, value);
        let value = if abort.sign_extend() {
            extend(value, width)
        } else {
            value
        };
        vcpu.set_gpr(abort.rt(), value);
    }
    vcpu.context.regs_mut().skip(abort.length());
}

/// Goes on with the access that waits for another VM, if that has answered or the time is over.
#[cold]
pub(super) fn complete(vcpu: &mut Vcpu) -> Next {
    let answer = {
        let mut awaited = vcpu.link().awaited.lock();
        match awaited.answer.take() {
            Some(answer) => answer,
            None if machine::now() < awaited.deadline => return Next::Stall,
            None => {
                // A late answer is nobody's.
                awaited.answer = Some(None);
                None
            }
        }
    };
    match vcpu.pending.take() {
        None => Next::Resume,
        Some(Pending::Described(abort, far)) => match answer {
            Some(value) => {
                finish(vcpu, abort, value & mask(abort.bytes()));
                Next::Resume
            }
            None => external_abort(vcpu, far, abort.write()),
        },
        Some(Pending::Emulated(emulation)) => emulate::go_on(vcpu, emulation, answer),
    }
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

/// A data abort that is not plain.
#[inline(never)]
pub(super) fn data_abort(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    vcpu.count(Reason::DataAbort);
    if abort.undescribed()
        && single::perform(vcpu, abort, Live::hdfar(), Live::hpfar() >> 4).is_some()
    {
        return Next::Resume;
    }
    any_data_abort(vcpu, abort)
}

/// One that no single load or store at a device caused.
#[inline(never)]
fn any_data_abort(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    let far = Live::hdfar();
    let kind = if abort.write() {
        Kind::Write
    } else {
        Kind::Read
    };
    if abort.described() {
        return described(vcpu, abort);
    }
    let permission = matches!(abort.status(), FaultStatus::Permission { .. });
    if permission
        && abort.write()
        && !abort.s1ptw()
        && let Some(ipa) = translated(vcpu, far, kind)
        && vcpu.vm.state().memory.keep(ipa)
    {
        return Next::Resume;
    }
    if abort.mmio() {
        let ipa = if permission {
            translated(vcpu, far, kind)
        } else {
            Some(faulting(far))
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
        if abort.cm() {
            Live::set_dfsr(Live::dfsr() | DFSR_CM);
        }
    }
    Next::Resume
}

/// A table walk of the guest, for `far`, that stage 2 stopped: the abort, unless all its tables
/// are RAM by now.
fn stopped_walk(vcpu: &Vcpu, far: u32, kind: Kind) -> Option<Fault> {
    let privileged = vcpu.context.regs().privileged();
    let access = walk::Access { kind, privileged };
    let found = memory::translate(&vcpu.vm.state().memory, far, access);
    let on_walk = |fault: &walk::Fault| matches!(fault.status, FaultStatus::ExternalOnWalk { .. });
    found.err().filter(on_walk).map(Fault::Stage1)
}

/// A value between a register and a bus that is little-endian, as the guest's data endianness has
/// it.
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
        let before = vcpu.context.regs().pc;
        inject::prefetch_abort(&mut vcpu.context, fault, far);
        // Where its handler can't be fetched either, nothing else would come for ever.
        if vcpu.context.regs().pc == before {
            return super::stop(vcpu, Hsr(Live::hsr()));
        }
    }
    Next::Resume
}

/// The abort of a fetch from `ipa`, unless that is memory to be executed by now.
fn not_code(vcpu: &Vcpu, ipa: Option<Ipa>) -> Option<Fault> {
    match vcpu.vm.state().memory.space.lookup(ipa?) {
        Leaf::Ram { attrs, .. } if attrs.perms.exec => None,
        _ => Some(Fault::External),
    }
}
