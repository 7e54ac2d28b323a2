//! Why a guest left, and what comes of it: one match.

mod cp15;
mod hvc;
mod mmio;

pub use hvc::INVALID_PARAMETER;

use crate::info;
use crate::inject;
use crate::machine::{self, Exit, Live};
use crate::regs::psr;
use crate::syndrome::{Hsr, Syndrome};
use crate::vcpu::{Reason, Vcpu};
use crate::vm::Stop;

/// What the CPU does next: one word, which is returned in a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Enters the guest again.
    Resume,
    /// Takes a physical interrupt.
    Interrupt,
    /// Wakes those of the VM's vCPUs that [`Vcpu::wakes`] says, which live on this CPU.
    Wake,
    /// Gives the vCPU its VFP registers.
    Vfp,
    /// Looks when the vCPU's physical timer is due.
    Timer,
    /// Lets another vCPU run.
    Yield,
    /// Lets the vCPU wait until something is pending.
    Wait,
    /// Lets the vCPU wait for another VM to make its access.
    Stall,
    /// Builds the VM that r1 and r2 describe.
    Create,
    /// Turns the vCPU off.
    Off,
    /// Stops the VM.
    Stop(Stop),
}

/// Runs `vcpu`, which is live, until there is something else to do than to run on.
#[inline(always)]
pub fn run(vcpu: &mut Vcpu) -> Next {
    // An interrupt alone asks for it, and ends here.
    if vcpu.sample() {
        return timed(vcpu);
    }
    loop {
        let exit = machine::enter(&mut vcpu.context);
        let next = handle(vcpu, exit);
        if next != Next::Resume {
            return next;
        }
    }
}

/// So until the first exit, which is timed until the vCPU runs again.
#[cold]
fn timed(vcpu: &mut Vcpu) -> Next {
    let exit = machine::enter(&mut vcpu.context);
    vcpu.begin_sample();
    handle(vcpu, exit)
}

/// Goes on with the access that `vcpu`, which is live, waited with.
pub fn complete(vcpu: &mut Vcpu) -> Next {
    mmio::complete(vcpu)
}

#[inline(always)]
fn handle(vcpu: &mut Vcpu, exit: Exit) -> Next {
    match exit {
        Exit::Trap => trap(vcpu),
        Exit::Irq | Exit::Fiq => {
            vcpu.count_interrupt();
            Next::Interrupt
        }
        Exit::AsyncAbort => {
            vcpu.count(Reason::Other);
            Live::pend_async_abort();
            Next::Resume
        }
    }
}

#[inline(always)]
fn trap(vcpu: &mut Vcpu) -> Next {
    let hsr = Hsr(Live::hsr());
    if hsr.is_abort() {
        return match (hsr.plain_access(), hsr.data_abort()) {
            (Some(abort), _) => mmio::plain(vcpu, abort),
            (_, Some(abort)) => mmio::data_abort(vcpu, abort),
            _ => rare(vcpu, hsr),
        };
    }
    match hsr.decode() {
        Syndrome::Hvc { imm16 } => hvc::hvc(vcpu, imm16),
        _ => instruction(vcpu, hsr),
    }
}

/// An instruction that is no hypercall.
#[inline(never)]
fn instruction(vcpu: &mut Vcpu, hsr: Hsr) -> Next {
    match hsr.decode() {
        Syndrome::Cp15(transfer) => cp15::cp15(vcpu, transfer, hsr),
        // One that is not executed finds that out by itself.
        Syndrome::Coprocessor(coprocessor) if coprocessor.vfp() => {
            vcpu.count(Reason::Vfp);
            Next::Vfp
        }
        Syndrome::Wait(wait) if hsr.executes(vcpu.context.regs()) => {
            vcpu.count(Reason::Wait);
            skip(vcpu, hsr);
            if wait.wfe() { Next::Yield } else { Next::Wait }
        }
        _ => rare(vcpu, hsr),
    }
}

/// Everything that is not on a hot path.
#[inline(never)]
fn rare(vcpu: &mut Vcpu, hsr: Hsr) -> Next {
    let syndrome = hsr.decode();
    if !hsr.executes(vcpu.context.regs()) {
        skip(vcpu, hsr);
        return Next::Resume;
    }
    match syndrome {
        Syndrome::Smc => hvc::smc(vcpu, hsr),
        Syndrome::Cp15Double(transfer) => cp15::cp15_double(vcpu, transfer),
        Syndrome::VfpId(transfer) => cp15::vfp_id(vcpu, transfer),
        Syndrome::Cp14(transfer) => cp15::cp14(vcpu, transfer),
        Syndrome::PrefetchAbort(abort) => mmio::prefetch_abort(vcpu, abort),
        Syndrome::Bxj(bxj) => {
            vcpu.count(Reason::Other);
            jump(vcpu, bxj.rm());
            Next::Resume
        }
        Syndrome::Cp14Memory(_) | Syndrome::Cp14Double(_) | Syndrome::Coprocessor(_) => {
            vcpu.count(Reason::Cp15);
            inject::undefined(&mut vcpu.context);
            Next::Resume
        }
        // The first four have been seen to.
        Syndrome::Cp15(_)
        | Syndrome::Wait(_)
        | Syndrome::DataAbort(_)
        | Syndrome::Hvc { .. }
        | Syndrome::Unknown
        | Syndrome::Svc { .. }
        | Syndrome::PcAlignment
        | Syndrome::HypPrefetchAbort(_)
        | Syndrome::HypDataAbort(_)
        | Syndrome::Reserved { .. } => stop(vcpu, hsr),
    }
}

/// BXJ without Jazelle is BX (A8.8.28).
fn jump(vcpu: &mut Vcpu, rm: u32) {
    let target = vcpu.gprs().get(rm);
    let regs = vcpu.context.regs_mut();
    regs.skip(0);
    regs.cpsr = if target & 1 != 0 {
        regs.cpsr | psr::T
    } else {
        regs.cpsr & !psr::T
    };
    regs.pc = target & !1;
}

/// Stops the VM for an exit that has no meaning.
fn stop(vcpu: &mut Vcpu, hsr: Hsr) -> Next {
    vcpu.count(Reason::Other);
    let pc = vcpu.context.regs().pc;
    info!(
        "{}: vCPU {} stopped at {pc:#010x}: {}",
        vcpu.vm.name(),
        vcpu.index,
        hsr
    );
    Next::Stop(Stop::Crash)
}

/// Goes to the next instruction. Where the syndrome does not hold the length, the instruction is a
/// coprocessor one, of 4 bytes in Thumb too.
fn skip(vcpu: &mut Vcpu, hsr: Hsr) {
    let regs = vcpu.context.regs_mut();
    let length = hsr.length(regs).unwrap_or(4);
    regs.skip(length);
}

/// Gives the guest the abort of an address where nothing answers.
#[inline(never)]
fn external_abort(vcpu: &mut Vcpu, address: u32, write: bool) -> Next {
    inject::external_abort(&mut vcpu.context, address, write);
    Next::Resume
}
