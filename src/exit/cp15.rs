//! CP15 and CP14 registers that trap: what the guest gets, one line each (ARM DDI 0406C, B3.17).
//!
//! A register that is in none of these lists is undefined for the guest, as on a processor that has
//! not got it.

use super::Next;
use crate::inject;
use crate::machine::{self, Live, vfp};
use crate::syndrome::{Hsr, Transfer, TransferDouble, register};
use crate::vcpu::{Reason, Vcpu};

// CP15, by name.
const ACTLR: u32 = register(1, 0, 0, 1);
const DCISW: u32 = register(7, 0, 6, 2);
const DCCSW: u32 = register(7, 0, 10, 2);
const DCCISW: u32 = register(7, 0, 14, 2);
const L2CTLR: u32 = register(9, 1, 0, 2);
const L2ECTLR: u32 = register(9, 1, 0, 3);
const CNTP_TVAL: u32 = register(14, 0, 2, 0);
const CNTP_CTL: u32 = register(14, 0, 2, 1);
/// The base of the interrupt controller.
const CBAR: u32 = register(15, 4, 0, 0);
// CP14, by name.
const DBGDIDR: u32 = register(0, 0, 0, 0);
const TEECR: u32 = register(0, 6, 0, 0);
const TEEHBR: u32 = register(1, 6, 0, 0);
const JIDR: u32 = register(0, 7, 0, 0);
const JOSCR: u32 = register(1, 7, 0, 0);
const JMCR: u32 = register(2, 7, 0, 0);

/// MCR and MRC to CP15.
#[inline(always)]
pub(super) fn cp15(vcpu: &mut Vcpu, transfer: Transfer, hsr: Hsr) -> Next {
    let regs = vcpu.context.regs();
    if !hsr.executes(regs) {
        return next_instruction(vcpu);
    }
    let privileged = regs.privileged();
    vcpu.count(Reason::Cp15);
    if !transfer.read() {
        return write15(vcpu, transfer, privileged);
    }
    let value = match transfer.register() {
        CNTP_TVAL => vcpu.timer.value(machine::now()),
        CNTP_CTL => vcpu.timer.control(machine::now()),
        // The others are PL1's.
        ACTLR if privileged => machine::actlr(),
        _ => match other15(vcpu, transfer, privileged) {
            Some(value) => value,
            None => return undefined(vcpu),
        },
    };
    vcpu.set_gpr(transfer.rt(), value);
    next_instruction(vcpu)
}

/// MCR to CP15.
#[inline(never)]
fn write15(vcpu: &mut Vcpu, transfer: Transfer, privileged: bool) -> Next {
    let value = vcpu.gpr(transfer.rt());
    match transfer.register() {
        CNTP_TVAL => vcpu.timer.set_value(value, machine::now()),
        CNTP_CTL => vcpu.timer.set_control(value),
        _ => {
            let done = privileged && set15(vcpu, transfer, value).is_some();
            return finish(vcpu, done.then_some(()));
        }
    }
    timer(vcpu)
}

/// MCR and MRC to CP14.
pub(super) fn cp14(vcpu: &mut Vcpu, transfer: Transfer) -> Next {
    vcpu.count(Reason::Cp15);
    let done = match transfer.register() {
        // The guest has begun to use ThumbEE: from now on the registers are switched.
        TEECR | TEEHBR => {
            vcpu.context.use_thumbee();
            return Next::Resume;
        }
        // Jazelle's trivial implementation (B1.10.5), and no debug: they read as zero.
        JIDR | JOSCR | JMCR | DBGDIDR if transfer.read() => zero(vcpu, transfer),
        JOSCR | JMCR => Some(()),
        // The debug registers (opc1 = 0, C11.2) read as zero and ignore writes.
        _ if transfer.opc1() == 0 && transfer.read() && transfer.rt() != 15 => zero(vcpu, transfer),
        _ if transfer.opc1() == 0 => Some(()),
        _ => None,
    };
    finish(vcpu, done)
}

/// A register that reads as zero.
fn zero(vcpu: &mut Vcpu, transfer: Transfer) -> Option<()> {
    vcpu.set_gpr(transfer.rt(), 0);
    Some(())
}

/// VMRS of an ID register; a write to FPSID is ignored (B4.1.58).
pub(super) fn vfp_id(vcpu: &mut Vcpu, transfer: Transfer) -> Next {
    vcpu.count(Reason::Cp15);
    let done = vfp::id(transfer.crn()).map(|value| {
        if transfer.read() {
            vcpu.set_gpr(transfer.rt(), value);
        }
    });
    finish(vcpu, done)
}

/// MCRR and MRRC to CP15.
pub(super) fn cp15_double(vcpu: &mut Vcpu, transfer: TransferDouble) -> Next {
    vcpu.count(Reason::Cp15);
    let value = u64::from(vcpu.gpr(transfer.rt2())) << 32 | u64::from(vcpu.gpr(transfer.rt()));
    let done = match (transfer.crm(), transfer.opc1(), transfer.read()) {
        // CNTPCT, which is never meant to trap: QEMU 7.2 does so at PL0.
        (14, 0, true) => {
            let value = machine::now();
            vcpu.set_gpr(transfer.rt(), value as u32);
            vcpu.set_gpr(transfer.rt2(), (value >> 32) as u32);
            Some(())
        }
        // CNTP_CVAL.
        (14, 2, true) => {
            let value = vcpu.timer.compare();
            vcpu.set_gpr(transfer.rt(), value as u32);
            vcpu.set_gpr(transfer.rt2(), (value >> 32) as u32);
            Some(())
        }
        (14, 2, false) => {
            vcpu.timer.set_compare(value);
            return timer(vcpu);
        }
        // TTBR0 and TTBR1, trapped while set/way operations are watched.
        (2, opc1 @ 0..=1, false) => {
            Live::set_ttbr(opc1, value);
            Some(())
        }
        _ => None,
    };
    finish(vcpu, done)
}

/// The physical timer has been written: its line follows, and the CPU's deadline.
fn timer(vcpu: &mut Vcpu) -> Next {
    next_instruction(vcpu);
    vcpu.update_timer();
    Next::Timer
}

fn finish(vcpu: &mut Vcpu, done: Option<()>) -> Next {
    match done {
        Some(()) => next_instruction(vcpu),
        None => undefined(vcpu),
    }
}

/// Goes to the next instruction: in Thumb too one of a coprocessor has 4 bytes.
#[inline(always)]
fn next_instruction(vcpu: &mut Vcpu) -> Next {
    vcpu.context.regs_mut().skip(4);
    Next::Resume
}

fn undefined(vcpu: &mut Vcpu) -> Next {
    inject::undefined(&mut vcpu.context);
    Next::Resume
}

#[cold]
#[inline(never)]
fn other15(vcpu: &Vcpu, transfer: Transfer, privileged: bool) -> Option<u32> {
    if !privileged {
        return None;
    }
    match transfer.register() {
        // Cores less one in bits 25:24 (Cortex-A15 TRM, 4.3.46).
        L2CTLR => Some((vcpu.vm.links.len() as u32 - 1).min(3) << 24),
        L2ECTLR => Some(0),
        CBAR => Some(vcpu.vm.state().memory.places.gicd),
        _ if transfer.crn() == 0 && transfer.opc1() == 0 => {
            Some(machine::id_register(transfer.crm(), transfer.opc2()))
        }
        _ => None,
    }
}

fn set15(vcpu: &mut Vcpu, transfer: Transfer, value: u32) -> Option<()> {
    match transfer.register() {
        // SMP and prefetch bits that a guest may not change.
        ACTLR | L2CTLR | L2ECTLR => Some(()),
        DCISW | DCCSW | DCCISW => {
            set_way(vcpu);
            Some(())
        }
        // The MMU's registers, trapped while set/way operations are watched.
        _ => {
            let caches_were_on = Live::caches_on();
            Live::write_vm_register(transfer.crn(), transfer.crm(), transfer.opc2(), value)?;
            if caches_were_on != Live::caches_on() {
                vcpu.vm.state().memory.ram.clean_all();
                Live::watch_caches(!Live::caches_on());
            }
            Some(())
        }
    }
}

/// A cache operation by set and way reaches this CPU's caches only, and of any VM. What it is for,
/// is to write back all that the guest has cached before it turns its caches off or on: so that is
/// done once by address, and again when they have been turned, which is watched for.
fn set_way(vcpu: &mut Vcpu) {
    if !Live::watches_caches() {
        vcpu.vm.state().memory.ram.clean_all();
        Live::watch_caches(true);
    }
}
