//! A vCPU, as the CPU that runs it has it.

use crate::machine::Context;
use crate::vm::Vm;
use alloc::sync::Arc;

/// What a vCPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Off, by PSCI or because its VM is.
    Off,
    /// Running or ready to run.
    Ready,
    /// In WFI, until something is pending or the counter reaches the deadline, ticks.
    Waiting(Option<u64>),
}

/// Why guests leave, as they are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Reason {
    /// HVC.
    Hvc = 1,
    /// SMC.
    Smc,
    /// A trapped CP15 or CP14 register.
    Cp15,
    /// The first use of VFP or NEON.
    Vfp,
    /// A load or store that stage 2 stopped.
    DataAbort,
    /// A fetch that stage 2 stopped.
    PrefetchAbort,
    /// WFI or WFE.
    Wait,
    /// A physical interrupt.
    Irq,
    /// Anything else.
    Other,
}

/// Counts by [`Reason`]; the first is unused.
pub const REASONS: usize = 10;

/// A vCPU.
pub struct Vcpu {
    /// Its VM.
    pub vm: Arc<Vm>,
    /// Its number in the VM.
    pub index: usize,
    /// Its registers.
    pub context: Context,
    /// What it is doing.
    pub state: State,
    exits: [u64; REASONS],
}

impl Vcpu {
    /// A vCPU that is off.
    #[must_use]
    pub fn new(vm: Arc<Vm>, index: usize) -> Self {
        let context = vm.context(index);
        Self { vm, index, context, state: State::Off, exits: [0; REASONS] }
    }

    /// Counts an exit.
    #[inline(always)]
    pub fn count(&mut self, reason: Reason) {
        let count = &mut self.exits[reason as usize];
        *count = count.wrapping_add(1);
    }

    /// Exits so far by the number of their [`Reason`], 0 for all; `None` for a number that is none.
    #[must_use]
    pub fn exits(&self, reason: u32) -> Option<u64> {
        match reason {
            0 => Some(self.exits.iter().sum()),
            _ => self.exits.get(reason as usize).copied(),
        }
    }
}
