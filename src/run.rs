//! Each CPU's loop: pick a vCPU, run it, do what its exit asks for.
//!
//! A vCPU belongs to one CPU, which alone touches it; others ask by its [`Link`](crate::vm::Link)
//! and a kick. Interrupts are masked in Hyp, so a kick that comes between the last look and the
//! entry brings the guest right out again, and one that comes before WFI ends it: nothing is lost.

use crate::exit::{self, Next};
use crate::fdt::VmConfig;
use crate::irq::{self, Interrupt};
use crate::loader::Start;
use crate::machine::{self, vfp};
use crate::regs::{mode, psr};
use crate::vcpu::{State, Vcpu};
use crate::vm::{MAX_CPUS, Stop, Vm, request};
use alloc::boxed::Box;
use alloc::vec::Vec;
use spin::Mutex;

/// A vCPU that others are ready beside runs this long, in 1/256 s: near 8 ms.
const SLICE: u64 = 2;

/// vCPUs on their way to each CPU.
static INBOX: [Mutex<Vec<Box<Vcpu>>>; MAX_CPUS] = [const { Mutex::new(Vec::new()) }; MAX_CPUS];

/// Gives `vcpu` to the CPU that its VM says it lives on.
pub fn adopt(vcpu: Box<Vcpu>) {
    let home = vcpu.vm.links.get(vcpu.index).map_or(0, |link| link.cpu());
    if let Some(inbox) = INBOX.get(home) {
        inbox.lock().push(vcpu);
    }
    machine::kick(home);
}

/// Builds the VMs of `configs`, their vCPUs spread over `cpus` CPUs, and starts them; how many there
/// are then. What can't be built is logged.
pub fn build(configs: Vec<VmConfig>, cpus: usize) -> usize {
    let cpus = cpus.clamp(1, MAX_CPUS);
    let mut home = 0;
    let mut built = Vec::new();
    for config in configs {
        let homes: Vec<usize> = (home..home + config.cpus as usize)
            .map(|n| n % cpus)
            .collect();
        match Vm::build(config, &homes) {
            Ok(vm) => {
                home += homes.len();
                built.push(vm);
            }
            Err(why) => log::error!("{why}"),
        }
    }
    for vm in &built {
        for index in 0..vm.links.len() {
            adopt(Box::new(Vcpu::new(vm.clone(), index)));
        }
        vm.start();
    }
    built.len()
}

/// One physical CPU.
pub struct Cpu {
    index: usize,
    vcpus: Vec<Box<Vcpu>>,
    /// The vCPU whose registers are in the hardware.
    loaded: Option<usize>,
    /// The vCPU whose VFP registers are.
    vfp: Option<usize>,
    /// Where the search for the next vCPU begins.
    next: usize,
    slice_ticks: u64,
}

impl Cpu {
    /// CPU number `index`, whose counter runs at `frequency` Hz.
    #[must_use]
    pub fn new(index: usize, frequency: u32) -> Self {
        let slice_ticks = u64::from(frequency) * SLICE >> 8;
        Self {
            index,
            vcpus: Vec::new(),
            loaded: None,
            vfp: None,
            next: 0,
            slice_ticks,
        }
    }

    /// Runs guests for ever.
    pub fn run(&mut self) -> ! {
        loop {
            self.step();
        }
    }

    /// Does what has been asked for, then runs one vCPU for a turn or waits for an interrupt.
    pub fn step(&mut self) {
        self.take_requests();
        match self.pick() {
            Some(index) => self.turn(index),
            None => self.idle(),
        }
    }

    fn take_requests(&mut self) {
        if let Some(inbox) = INBOX.get(self.index) {
            self.vcpus.append(&mut inbox.lock());
        }
        for index in 0..self.vcpus.len() {
            let requests = self.vcpus[index].link().take();
            if requests & request::STOP != 0 {
                self.leave(index);
            }
            if requests & request::START != 0 {
                self.start(index);
            }
            let vcpu = &mut self.vcpus[index];
            if requests & request::WAKE != 0 && matches!(vcpu.state, State::Waiting(_)) {
                vcpu.state = State::Ready;
            }
        }
    }

    /// The next vCPU that is ready, round robin.
    fn pick(&mut self) -> Option<usize> {
        let count = self.vcpus.len();
        let ready = |index: &usize| self.vcpus[*index].state == State::Ready;
        let index = (self.next..count)
            .chain(0..self.next.min(count))
            .find(ready)?;
        self.next = index + 1;
        Some(index)
    }

    /// Waits for an interrupt: a kick, or the deadline of a vCPU that waits.
    fn idle(&mut self) {
        let now = machine::now();
        let mut earliest: Option<u64> = None;
        for vcpu in &mut self.vcpus {
            if let State::Waiting(Some(deadline)) = vcpu.state {
                if deadline <= now {
                    vcpu.state = State::Ready;
                    return;
                }
                earliest = Some(earliest.map_or(deadline, |other| other.min(deadline)));
            }
        }
        match earliest {
            Some(deadline) => machine::set_deadline(deadline),
            None => machine::clear_deadline(),
        }
        machine::wait();
        irq::take();
    }

    /// Runs vCPU `index` until something other than itself has to be done.
    fn turn(&mut self, index: usize) {
        self.load(index);
        let alone = self
            .vcpus
            .iter()
            .filter(|vcpu| vcpu.state != State::Off)
            .count()
            == 1;
        machine::Live::trap_wfi(!alone);
        if alone {
            machine::clear_deadline();
        } else {
            machine::set_deadline(machine::now() + self.slice_ticks);
        }
        loop {
            let vcpu = &mut self.vcpus[index];
            let exit = machine::enter(&mut vcpu.context);
            match exit::handle(vcpu, exit) {
                Next::Resume => {}
                Next::Interrupt => match irq::take() {
                    Interrupt::None => {}
                    Interrupt::Kick | Interrupt::Slice => return,
                },
                Next::Vfp => self.give_vfp(index),
                Next::Yield => return,
                Next::Wait => {
                    vcpu.state = State::Waiting(None);
                    return;
                }
                Next::Off => return self.leave(index),
                Next::Stop(stop) => return self.stop(index, stop),
            }
        }
    }

    /// Makes vCPU `index` the one that is live.
    fn load(&mut self, index: usize) {
        if self.loaded == Some(index) {
            return;
        }
        self.put();
        let vcpu = &self.vcpus[index];
        machine::load(
            &vcpu.context,
            vcpu.vm.vttbr(self.index),
            self.vfp == Some(index),
        );
        self.loaded = Some(index);
    }

    /// Takes the vCPU that is live from the hardware.
    fn put(&mut self) {
        if let Some(index) = self.loaded.take() {
            machine::put(&mut self.vcpus[index].context);
        }
    }

    fn give_vfp(&mut self, index: usize) {
        let Some(owner) = self.vfp.replace(index).filter(|&owner| owner != index) else {
            return vfp::switch(None, &self.vcpus[index].context.vfp);
        };
        if let Ok([owner, vcpu]) = self.vcpus.get_disjoint_mut([owner, index]) {
            vfp::switch(Some(&mut owner.context.vfp), &vcpu.context.vfp);
        }
    }

    /// Begins vCPU `index` from reset.
    fn start(&mut self, index: usize) {
        self.forget(index);
        let vcpu = &mut self.vcpus[index];
        let start = vcpu
            .vm
            .lock()
            .starts
            .get(vcpu.index)
            .copied()
            .unwrap_or_default();
        vcpu.context = vcpu.vm.context(vcpu.index);
        let Start {
            entry,
            thumb,
            registers,
        } = start;
        let regs = vcpu.context.regs_mut();
        regs.r[..3].copy_from_slice(&registers);
        regs.pc = entry;
        regs.cpsr = mode::SVC | psr::A | psr::I | psr::F | if thumb { psr::T } else { 0 };
        vcpu.state = State::Ready;
    }

    /// Drops what the hardware holds of vCPU `index`.
    fn forget(&mut self, index: usize) {
        if self.loaded == Some(index) {
            self.put();
        }
        if self.vfp == Some(index) {
            self.vfp = None;
        }
    }

    /// vCPU `index` is off from now on.
    fn leave(&mut self, index: usize) {
        self.forget(index);
        let vcpu = &mut self.vcpus[index];
        if vcpu.state != State::Off {
            vcpu.state = State::Off;
            vcpu.vm.left(vcpu.index);
        }
    }

    /// vCPU `index` stops its VM.
    fn stop(&mut self, index: usize, stop: Stop) {
        self.vcpus[index].vm.stop(stop);
    }
}
