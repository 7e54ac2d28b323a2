//! Hypercalls: PSCI, the SMC Calling Convention, and Armillary's own (ARM DEN 0022, DEN 0028).

use super::Next;
use super::mmio::memory;
use crate::addr::Ipa;
use crate::forward;
use crate::inject;
use crate::loader::{Memory, Start};
use crate::machine;
use crate::psci::{self, Answer, NOT_SUPPORTED, Platform, Workaround};
use crate::syndrome::Hsr;
use crate::vcpu::{Reason, Vcpu};
use crate::vm::{self, State, Stop, request};
use smccc::psci::PSCI_VERSION;

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
    /// r1 = virtual address, r2 = operation, as opc2 of `MCR p15, 0, r1, c7, c8`, or one of ATS1C plus 8
    /// by the core; r0 = 0, r1 and r2 = what PAR would be, low and high.
    pub(super) const TRANSLATE: u32 = 0x8600_0004;
    /// r1 = ring, r2 = tag, r3 = what was loaded: answers a request. r0 = 0.
    pub(super) const ANSWER: u32 = 0x8600_0010;
    /// r1 = ring, r2 = tag: answers a request by an external abort. r0 = 0.
    pub(super) const REFUSE: u32 = 0x8600_0011;
    /// r1 = ring, r2 = level, 0 or 1: sets the line of the device's interrupt. r0 = 0.
    pub(super) const SET_LINE: u32 = 0x8600_0012;
    /// r1 = VM, r2 = identifier, r3 and r4 = address, low and high: places a device. r0 = 0, or why not.
    pub(super) const SET_DEVICE_ADDR: u32 = 0x8600_0013;
    /// r1 = VM: starts one that is held or off. r0 = 0.
    pub(super) const START: u32 = 0x8600_0014;
    /// r1 = VM: lets none of its vCPUs run. r0 = 0.
    pub(super) const PAUSE: u32 = 0x8600_0015;
    /// r1 = VM: lets them go on. r0 = 0.
    pub(super) const RESUME: u32 = 0x8600_0016;
    /// r1 = VM: resets it. r0 = 0.
    pub(super) const RESET: u32 = 0x8600_0017;
    /// r1 = VM: turns it off. r0 = 0.
    pub(super) const STOP: u32 = 0x8600_0018;
    /// r1 = VM: turns it off, and gives back what it has. r0 = 0.
    pub(super) const DESTROY: u32 = 0x8600_0019;
    /// r1 = VM; r0 = 0, or 1 where it is off, 2 where it is paused.
    pub(super) const STATE: u32 = 0x8600_001a;
    /// r1 = VM: shows the registers of its vCPUs on the console. r0 = 0.
    pub(super) const DUMP: u32 = 0x8600_001b;
    /// r1 = a device tree's address, r2 = its bytes: builds the VM that it describes, which is held. r0 = 0,
    /// r1 = the VM.
    pub(super) const CREATE: u32 = 0x8600_001c;
    /// r0 to r3 = Armillary's UUID.
    pub(super) const CALL_UID: u32 = 0x8600_ff01;
    /// r0, r1 = version, major and minor.
    pub(super) const REVISION: u32 = 0x8600_ff03;
}
/// What [`own::FEATURES`] answers.
const FEATURES: u32 = 0x1fff_001f;
/// 8f1f5b30-6f2d-4c8e-9a57-a2d1c0de1a12, in the byte order of DEN 0028, 6.2.
const UID: [u32; 4] = [0x305b_1f8f, 0x8e4c_2d6f, 0xd1a2_579a, 0x121a_dec0];
/// What a call with a wrong argument answers.
pub const INVALID_PARAMETER: u32 = -3i32 as u32;

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
    const YIELD: u32 = own::YIELD - own::NULL;
    // By this one people measure a hypervisor, and nothing of the VM is needed for it.
    const VERSION: u32 = PSCI_VERSION.wrapping_sub(own::NULL);
    match r[0].wrapping_sub(own::NULL) {
        0 => {
            r[0] = 0;
            Next::Resume
        }
        YIELD => {
            r[0] = 0;
            Next::Yield
        }
        VERSION => {
            r[0] = psci::VERSION;
            Next::Resume
        }
        _ => other(vcpu),
    }
}

#[inline(never)]
fn other(vcpu: &mut Vcpu) -> Next {
    let [function, a, b, c, ..] = vcpu.context.regs().r;
    let results = match function {
        own::FEATURES => [FEATURES, a, b, c],
        own::EXITS => match vcpu.exits(a) {
            Some(count) => [0, count as u32, (count >> 32) as u32, c],
            None => [INVALID_PARAMETER, a, b, c],
        },
        own::TRANSLATE => match memory::par(&vcpu.vm.state().memory, a, b) {
            Some(par) => [0, par as u32, (par >> 32) as u32, c],
            None => [INVALID_PARAMETER, a, b, c],
        },
        own::CREATE if vcpu.vm.config.control => return Next::Create,
        own::ANSWER..=own::CREATE => [of_vms(vcpu, function, [a, b, c]), a, b, c],
        own::CALL_UID => UID,
        own::REVISION => [0, 1, b, c],
        _ => return standard(vcpu, function, [a, b, c]),
    };
    vcpu.context.regs_mut().r[..4].copy_from_slice(&results);
    Next::Resume
}

/// What a VM does for another one, or to it.
#[inline(never)]
fn of_vms(vcpu: &Vcpu, function: u32, [a, b, c]: [u32; 3]) -> u32 {
    match function {
        own::ANSWER => done(forward::answer(&vcpu.vm, a, b, Some(c))),
        own::REFUSE => done(forward::answer(&vcpu.vm, a, b, None)),
        own::SET_LINE => done(forward::set_line(&vcpu.vm, a, b & 1 != 0)),
        own::SET_DEVICE_ADDR..=own::DUMP => control(vcpu, function, [a, b, c]),
        _ => NOT_SUPPORTED,
    }
}

/// What a VM that has control does to another one.
fn control(vcpu: &Vcpu, function: u32, [vm, id, low]: [u32; 3]) -> u32 {
    if !vcpu.vm.config.control {
        return NOT_SUPPORTED;
    }
    let Some(vm) = vm::all().into_iter().find(|other| other.id == vm) else {
        return INVALID_PARAMETER;
    };
    match function {
        own::START => return done(vm.start_again()),
        own::PAUSE => vm.pause(),
        own::RESUME => vm.resume(),
        own::RESET => return done(vm.stop(Stop::Reset)),
        own::STOP => return done(vm.stop(Stop::Off)),
        own::DESTROY => vm.destroy(),
        own::DUMP => vm.ask_all(request::REGISTERS),
        own::STATE if !vm.is_up() => return 1,
        own::STATE => return if vm.is_paused() { 2 } else { 0 },
        _ => {
            let high = vcpu.context.regs().r[4];
            let placed = vm.place(id, u64::from(high) << 32 | u64::from(low));
            return placed.map_or_else(|why| why as u32, |()| 0);
        }
    }
    0
}

/// What a call answers that has no result, or a wrong argument.
fn done(right: bool) -> u32 {
    if right { 0 } else { INVALID_PARAMETER }
}

/// PSCI and the calls of the SMC Calling Convention.
fn standard(vcpu: &mut Vcpu, function: u32, args: [u32; 3]) -> Next {
    let answer = {
        let mut state = vcpu.vm.state();
        let State { memory, power, .. } = &mut *state;
        psci::call(function, args, vcpu.index, power, &mut Host { memory })
    };
    let r = &mut vcpu.context.regs_mut().r;
    match answer {
        Answer::Return(value) => r[0] = value,
        Answer::Return4(values) => r[..4].copy_from_slice(&values),
        Answer::InvalidatePredictor => {
            r[0] = 0;
            machine::forget_branches();
        }
        Answer::SystemOff => return Next::Stop(Stop::Off),
        Answer::SystemReset => return Next::Stop(Stop::Reset),
        Answer::CpuOff => return Next::Off,
        Answer::Suspend => {
            r[0] = 0;
            return Next::Wait;
        }
        Answer::StartCpu { index, entry } => {
            r[0] = 0;
            let registers = [entry.context, 0, 0];
            vcpu.vm.start_vcpu(
                index,
                Start {
                    entry: entry.address,
                    thumb: entry.thumb,
                    registers,
                },
            );
        }
    }
    Next::Resume
}

/// What answers depend on.
struct Host<'a> {
    memory: &'a Memory,
}

impl Platform for Host<'_> {
    fn is_memory(&self, address: u32) -> bool {
        self.memory.space.translate(Ipa(address.into())).is_some()
    }

    fn workaround_1(&self) -> Workaround {
        machine::spectre_v2()
    }

    fn workaround_3(&self) -> Workaround {
        machine::spectre_bhb()
    }
}
