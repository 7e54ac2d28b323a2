//! Hypercalls: PSCI, the SMC Calling Convention, and Armillary's own (ARM DEN 0022, DEN 0028).

use super::Next;
use crate::inject;
use crate::syndrome::Hsr;
use crate::vcpu::{Reason, Vcpu};
use crate::vm::Stop;

/// Armillary's own calls, in the range of vendor-specific hypervisors (DEN 0028, 6.1).
mod own {
    /// r0 = a bit for each of the calls from here on.
    pub(super) const FEATURES: u32 = 0x8600_0000;
    /// r0 = 0: to measure a hypercall by.
    pub(super) const NULL: u32 = 0x8600_0001;
    /// Gives up the rest of the slice; r0 = 0.
    pub(super) const YIELD: u32 = 0x8600_0002;
    /// r1 = reason, 0 for all; r0 = 0, r1 and r2 = exits of this vCPU, low and high.
    pub(super) const EXITS: u32 = 0x8600_0003;
    /// r0 to r3 = Armillary's UUID.
    pub(super) const CALL_UID: u32 = 0x8600_ff01;
    /// r0, r1 = version, major and minor.
    pub(super) const REVISION: u32 = 0x8600_ff03;
}
/// What [`own::FEATURES`] answers.
const FEATURES: u32 = 0b1111;
/// 8f1f5b30-6f2d-4c8e-9a57-a2d1c0de1a12, in the byte order of DEN 0028, 6.2.
const UID: [u32; 4] = [0x305b_1f8f, 0x8e4c_2d6f, 0xd1a2_579a, 0x121a_dec0];
/// What an unknown call answers.
const NOT_SUPPORTED: u32 = -1i32 as u32;
const INVALID_PARAMETER: u32 = -3i32 as u32;

/// HVC: the return address is already that of the next instruction.
#[inline(always)]
pub(super) fn hvc(vcpu: &mut Vcpu, imm16: u16) -> Next {
    vcpu.count(Reason::Hvc);
    if imm16 == 0 {
        return call(vcpu);
    }
    vcpu.context.regs_mut().r[0] = NOT_SUPPORTED;
    Next::Resume
}

/// SMC: a conduit like HVC, its return address still that of the SMC.
pub(super) fn smc(vcpu: &mut Vcpu, hsr: Hsr) -> Next {
    vcpu.count(Reason::Smc);
    if !vcpu.context.regs().privileged() {
        inject::undefined(&mut vcpu.context);
        return Next::Resume;
    }
    super::skip(vcpu, hsr);
    call(vcpu)
}

#[inline(always)]
fn call(vcpu: &mut Vcpu) -> Next {
    let r = &mut vcpu.context.regs_mut().r;
    match r[0] {
        own::NULL => {
            r[0] = 0;
            Next::Resume
        }
        _ => other(vcpu),
    }
}

#[inline(never)]
fn other(vcpu: &mut Vcpu) -> Next {
    let [function, argument] = [vcpu.context.regs().r[0], vcpu.context.regs().r[1]];
    let exits = vcpu.exits(argument);
    let r = &mut vcpu.context.regs_mut().r;
    match function {
        own::FEATURES => r[0] = FEATURES,
        own::YIELD => {
            r[0] = 0;
            return Next::Yield;
        }
        own::EXITS => match exits {
            Some(count) => [r[0], r[1], r[2]] = [0, count as u32, (count >> 32) as u32],
            None => r[0] = INVALID_PARAMETER,
        },
        own::CALL_UID => r[..4].copy_from_slice(&UID),
        own::REVISION => [r[0], r[1]] = [0, 1],
        0x8400_0000 => r[0] = 0x0001_0001,
        0x8000_0000 => r[0] = 0x0001_0002,
        0x8400_0002 => return Next::Off,
        0x8400_0008 => return Next::Stop(Stop::Off),
        0x8400_0009 => return Next::Stop(Stop::Reset),
        _ => r[0] = NOT_SUPPORTED,
    }
    Next::Resume
}
