//! A vCPU, as the CPU that runs it has it.

use crate::bus::{Access, Device};
use crate::machine::{Context, LiveBanks};
use crate::regs::Gprs;
use crate::vm::{Link, Vm};
use alloc::sync::Arc;

/// The physical timer of a vCPU (ARM DDI 0406C, B8.1.5).
#[derive(Clone, Copy, Default, Debug)]
pub struct PhysicalTimer {
    ctl: u32,
    cval: u64,
}

impl PhysicalTimer {
    /// CNTP_CTL at `now`, ticks: ISTATUS where it is enabled and due.
    #[must_use]
    pub fn ctl(&self, now: u64) -> u32 {
        self.ctl
            | if self.ctl & 1 != 0 && now >= self.cval {
                4
            } else {
                0
            }
    }

    /// Sets CNTP_CTL.
    pub fn set_ctl(&mut self, value: u32) {
        self.ctl = value & 3;
    }

    /// CNTP_TVAL at `now`, ticks.
    #[must_use]
    pub fn tval(&self, now: u64) -> u32 {
        self.cval.wrapping_sub(now) as u32
    }

    /// Sets CNTP_TVAL at `now`, ticks.
    pub fn set_tval(&mut self, value: u32, now: u64) {
        self.cval = now.wrapping_add(i64::from(value as i32) as u64);
    }

    /// CNTP_CVAL.
    #[must_use]
    pub fn cval(&self) -> u64 {
        self.cval
    }

    /// Sets CNTP_CVAL.
    pub fn set_cval(&mut self, value: u64) {
        self.cval = value;
    }
}

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
    /// Its physical timer, which is emulated.
    pub timer: PhysicalTimer,
    banks: LiveBanks,
    exits: [u64; REASONS],
}

impl Vcpu {
    /// A vCPU that is off.
    #[must_use]
    pub fn new(vm: Arc<Vm>, index: usize) -> Self {
        let context = vm.context(index);
        Self {
            vm,
            index,
            context,
            state: State::Off,
            timer: PhysicalTimer::default(),
            banks: LiveBanks,
            exits: [0; REASONS],
        }
    }

    /// How other CPUs reach it.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.vm.links[self.index]
    }

    /// Its general registers by number.
    pub fn gprs(&mut self) -> Gprs<'_, LiveBanks> {
        Gprs {
            regs: self.context.regs_mut(),
            banks: &mut self.banks,
        }
    }

    /// Register `n`, below 15.
    #[inline(always)]
    #[must_use]
    pub fn gpr(&self, n: u32) -> u32 {
        // No mode banks the low ones.
        match self.context.regs().r.get(n as usize) {
            Some(&value) if n < 8 => value,
            _ => self.banked_gpr(n),
        }
    }

    #[inline(never)]
    fn banked_gpr(&self, n: u32) -> u32 {
        let mut regs = *self.context.regs();
        Gprs {
            regs: &mut regs,
            banks: &mut LiveBanks,
        }
        .get(n)
    }

    /// Sets register `n`, below 15.
    #[inline(always)]
    pub fn set_gpr(&mut self, n: u32, value: u32) {
        match self.context.regs_mut().r.get_mut(n as usize) {
            Some(register) if n < 8 => *register = value,
            _ => self.set_banked_gpr(n, value),
        }
    }

    #[inline(never)]
    fn set_banked_gpr(&mut self, n: u32, value: u32) {
        self.gprs().set(n, value);
    }

    /// Performs a load or store of the guest at `device`; what a load gets.
    #[inline(always)]
    pub fn access(&mut self, device: Device, access: Access) -> u32 {
        match device {
            Device::Uart => self.uart(access),
        }
    }

    fn uart(&mut self, access: Access) -> u32 {
        let Access {
            offset,
            width,
            store,
        } = access;
        let mut state = self.vm.lock();
        match store {
            None => {
                let (value, _line) = state.uart.read(offset, width);
                value
            }
            Some(value) => {
                let effect = state.uart.write(offset, width, value);
                drop(state);
                if let Some(byte) = effect.tx {
                    self.vm.print(byte);
                }
                0
            }
        }
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
