//! Loads and stores that the syndrome does not describe: fetched, decoded, performed.
//!
//! The guest executed the instruction, or this could not be reached; but it may have been rewritten
//! since, and the tables may have changed. So nothing is taken for granted: whatever is no longer as
//! it was sends the guest back to try again, as long as nothing has been done.
//!
//! **Exclusives.** LDREX of a device is given an external abort, and STREX too. No monitor watches a
//! device that is emulated, and the core's own can't be set from here: a LDREX that succeeded would
//! be followed by a STREX that fails in the core, without a trap, for ever.

use super::dispatch::{Reply, ask};
use super::memory;
use crate::addr::{Ipa, PAGE};
use crate::decode::{Access, Form, Reason, Refusal, Transfer, Vectors};
use crate::exit::Next;
use crate::info;
use crate::inject::{self, Fault};
use crate::machine::{LiveBanks, vfp};
use crate::regs::{Banked, Banks, Gprs};
use crate::stage2::Leaf;
use crate::syndrome::DataAbort;
use crate::vcpu::{Emulation, Pending, Vcpu};
use crate::walk::{self, Kind};

/// Every register that an instruction can transfer: banked ones live, VFP's as they were spilled.
struct File<'a>(LiveBanks, &'a mut vfp::State);

impl Banks for File<'_> {
    fn read(&self, register: Banked) -> u32 {
        self.0.read(register)
    }

    fn write(&mut self, register: Banked, value: u32) {
        self.0.write(register, value);
    }
}

impl Vectors for File<'_> {
    fn word(&self, n: u32) -> u32 {
        self.1.word(n)
    }

    fn set_word(&mut self, n: u32, value: u32) {
        self.1.set_word(n, value);
    }
}

#[inline(always)]
fn registers<R>(vcpu: &mut Vcpu, with: impl FnOnce(&mut Gprs<'_, File<'_>>) -> R) -> R {
    let (regs, vfp) = vcpu.context.registers();
    with(&mut Gprs {
        regs,
        banks: &mut File(LiveBanks, vfp),
    })
}

/// Why an access is not made.
enum Unmade {
    /// The guest gets this abort, of this address.
    Abort(Fault, u32),
    /// The guest tries again.
    Again,
    /// Another VM makes it.
    Wait,
}

/// A page that is known to be translated.
struct Page {
    va: u32,
    ipa: Ipa,
    rights: walk::Access,
}

/// What an access is to be one with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bond {
    None,
    /// The store of a SWP, or its load.
    Swap,
    /// The core's exclusive monitor.
    Monitor,
}

/// Performs the instruction that the guest is at, which `abort` stopped at address `far`, `ipa` to
/// the guest.
pub(super) fn emulate(vcpu: &mut Vcpu, abort: DataAbort, far: u32, ipa: Ipa) -> Next {
    let fetched = memory::fetch(&vcpu.vm.lock().memory, vcpu.context.regs());
    let Some(instruction) = fetched else {
        return Next::Resume;
    };
    let mut emulation = Emulation {
        transfer: registers(vcpu, |registers| Transfer::new(instruction, registers)),
        abort,
        far,
        begun: false,
        bytes: 0,
        loaded: 0,
    };
    if emulation.transfer.op().uses_vectors() {
        // Executed natively it will trap, or be undefined, before it gets here again.
        if !vfp::usable(vcpu.context.regs().privileged()) {
            return Next::Resume;
        }
        vfp::spill(&mut vcpu.context.vfp);
    }
    // The abort has vouched for the first address.
    let mut page = Page {
        va: page_of(far),
        ipa: ipa.align_down(PAGE),
        rights: walk::Access {
            kind: if abort.write() {
                Kind::Write
            } else {
                Kind::Read
            },
            privileged: vcpu.context.regs().privileged(),
        },
    };
    carry_out(vcpu, &mut emulation, &mut page, None)
}

/// Goes on with an instruction whose access another VM has made: what that has loaded, or `None` for an
/// external abort.
#[cold]
pub(super) fn go_on(vcpu: &mut Vcpu, mut emulation: Emulation, answer: Option<u32>) -> Next {
    let privileged = vcpu.context.regs().privileged();
    // Where another vCPU has the registers meanwhile, this one's are in memory already.
    if emulation.transfer.op().uses_vectors() && vfp::usable(privileged) {
        vfp::spill(&mut vcpu.context.vfp);
    }
    let Some(value) = answer else {
        let next = registers(vcpu, |registers| emulation.transfer.next(registers));
        let address = next.map_or(emulation.far, |access| {
            access.address.wrapping_add(emulation.bytes)
        });
        inject::data_abort(
            &mut vcpu.context,
            Fault::External,
            address,
            emulation.abort.write(),
        );
        return Next::Resume;
    };
    // No page is known to be translated any more.
    let mut page = Page {
        va: 1,
        ipa: Ipa(0),
        rights: walk::Access {
            kind: Kind::Read,
            privileged,
        },
    };
    carry_out(vcpu, &mut emulation, &mut page, Some(value))
}

#[inline(never)]
fn carry_out(
    vcpu: &mut Vcpu,
    emulation: &mut Emulation,
    page: &mut Page,
    answer: Option<u32>,
) -> Next {
    let done = perform(vcpu, emulation, page, answer);
    let Emulation { abort, far, .. } = *emulation;
    let vectors = emulation.transfer.op().uses_vectors();
    if vectors
        && matches!(done, Ok(Ok(())) | Err(Unmade::Wait))
        && vfp::usable(vcpu.context.regs().privileged())
    {
        vfp::reload(&vcpu.context.vfp);
    }
    match done {
        Ok(Ok(())) | Err(Unmade::Again) => {}
        Ok(Err(refusal)) => refuse(vcpu, refusal, abort, far),
        Err(Unmade::Abort(fault, address)) => {
            inject::data_abort(&mut vcpu.context, fault, address, abort.write());
        }
        Err(Unmade::Wait) => {
            emulation.begun = true;
            vcpu.pending = Some(Pending::Emulated(*emulation));
            return Next::Stall;
        }
    }
    Next::Resume
}

/// Makes every access of the instruction, the first one with the `answer` that there is, and completes it.
#[inline(always)]
fn perform(
    vcpu: &mut Vcpu,
    emulation: &mut Emulation,
    page: &mut Page,
    mut answer: Option<u32>,
) -> Result<Result<(), Refusal>, Unmade> {
    let bond = match emulation.transfer.op().form {
        Form::Swap { .. } => Bond::Swap,
        Form::Exclusive { .. } => Bond::Monitor,
        _ => Bond::None,
    };
    while let Some(access) = registers(vcpu, |registers| emulation.transfer.next(registers)) {
        let value = match reach(vcpu, emulation, page, access, bond, answer.take()) {
            // The hardware will find the same, or another vCPU has changed it meanwhile.
            Err(Unmade::Abort(Fault::Stage1(_), _)) if !emulation.begun => {
                return Err(Unmade::Again);
            }
            value => value?,
        };
        emulation.begun = true;
        registers(vcpu, |registers| {
            emulation.transfer.complete(value, registers);
        });
    }
    Ok(registers(vcpu, |registers| {
        emulation.transfer.finish(registers)
    }))
}

/// Makes an access, of which `answer` has come already; what a load gets.
fn reach(
    vcpu: &Vcpu,
    emulation: &mut Emulation,
    page: &mut Page,
    access: Access,
    bond: Bond,
    answer: Option<u32>,
) -> Result<u32, Unmade> {
    let size = u32::from(access.size);
    let rights = walk::Access {
        kind: match access.value {
            None => Kind::Read,
            Some(_) => Kind::Write,
        },
        privileged: !access.unprivileged && vcpu.context.regs().privileged(),
    };
    if access.address & (size - 1) == 0 {
        if let Some(value) = answer {
            return Ok(value);
        }
        let ipa = page.find(vcpu, access.address, rights)?;
        return one(vcpu, access.address, ipa, size, access.value, bond);
    }
    // Normal memory at stage 1: byte by byte. The value is in the bus's order already.
    if let Some(value) = answer {
        emulation.loaded |= (value & 0xff) << (8 * emulation.bytes);
        emulation.bytes += 1;
    }
    while emulation.bytes < size {
        let n = emulation.bytes;
        let va = access.address.wrapping_add(n);
        let found = memory::translate(&vcpu.vm.lock().memory, va, rights);
        let found = found.map_err(|fault| Unmade::Abort(Fault::Stage1(fault), va))?;
        if found.attributes.is_device() {
            return Err(Unmade::Abort(Fault::Alignment, access.address));
        }
        let value = access.value.map(|value| value >> (8 * n) & 0xff);
        emulation.loaded |= one(vcpu, va, found.ipa, 1, value, bond)? << (8 * n);
        emulation.bytes += 1;
    }
    emulation.bytes = 0;
    Ok(core::mem::take(&mut emulation.loaded))
}

impl Page {
    /// Translates `va`.
    fn find(&mut self, vcpu: &Vcpu, va: u32, rights: walk::Access) -> Result<Ipa, Unmade> {
        if page_of(va) != self.va || rights != self.rights {
            let found = memory::translate(&vcpu.vm.lock().memory, va, rights);
            let found = found.map_err(|fault| Unmade::Abort(Fault::Stage1(fault), va))?;
            *self = Self {
                va: page_of(va),
                ipa: found.ipa.align_down(PAGE),
                rights,
            };
        }
        Ok(Ipa(self.ipa.0 | u64::from(va) & (PAGE - 1)))
    }
}

/// Makes an aligned access of `size` bytes at `ipa`, `va` to the guest.
fn one(
    vcpu: &Vcpu,
    va: u32,
    ipa: Ipa,
    size: u32,
    store: Option<u32>,
    bond: Bond,
) -> Result<u32, Unmade> {
    let mut state = vcpu.vm.lock();
    let nothing = Unmade::Abort(Fault::External, va);
    if store.is_some() {
        state.memory.keep(ipa);
    }
    let leaf = state.memory.space.lookup(ipa);
    match (leaf, store) {
        // In RAM the guest's own instruction does what no sequence of accesses can.
        (Leaf::Ram { attrs, .. }, _) if bond != Bond::None && attrs.perms.write => {
            return Err(Unmade::Again);
        }
        (Leaf::Ram { .. }, None) => {
            return memory::read(&state.memory, ipa, size).map_err(|_| nothing);
        }
        (Leaf::Ram { attrs, .. }, Some(value)) if attrs.perms.write => {
            let written = memory::write(&mut state.memory, ipa, size, value);
            return written.map(|()| 0).map_err(|_| nothing);
        }
        (_, _) if bond == Bond::Monitor => return Err(nothing),
        _ => {}
    }
    match ask(vcpu, state, leaf.slot(), ipa.0 as u32, size, store) {
        Reply::Value(value) => Ok(value),
        Reply::Abort => Err(nothing),
        Reply::Wait => Err(Unmade::Wait),
    }
}

/// The guest gets what comes closest to what its core would have done, and the log a line now and
/// then.
#[cold]
fn refuse(vcpu: &mut Vcpu, refusal: Refusal, abort: DataAbort, far: u32) {
    let count = vcpu.refused.0.wrapping_add(1);
    vcpu.refused = (count, Some(refusal.instruction));
    if count.is_power_of_two() {
        info!(
            "{}: vCPU {} at {:#010x}: {} at {far:#010x} is not performed: {:?} ({count} so far)",
            vcpu.vm.name(),
            vcpu.index,
            vcpu.context.regs().pc,
            refusal.instruction,
            refusal.reason
        );
    }
    let fault = match refusal.reason {
        Reason::Undefined | Reason::Mode => return inject::undefined(&mut vcpu.context),
        Reason::Unaligned => Fault::Alignment,
        _ => Fault::External,
    };
    inject::data_abort(&mut vcpu.context, fault, far, abort.write());
}

const fn page_of(va: u32) -> u32 {
    va & !(PAGE as u32 - 1)
}
