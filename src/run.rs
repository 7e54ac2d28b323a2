//! Each CPU's loop: pick a vCPU, run it, do what its exit asks for.
//!
//! A vCPU belongs to one CPU, which alone touches it; others ask by its [`Link`](crate::vm::Link)
//! and a kick. Interrupts are masked in Hyp, so a kick that comes between the last look and the
//! entry brings the guest right out again, and one that comes before WFI ends it: nothing is lost.

use crate::exit::{self, Next};
use crate::fdt::VmConfig;
use crate::irq::{self, Interrupt};
use crate::loader::Start;
use crate::machine::{self, Live, vfp};
use crate::mem;
use crate::monitor;
use crate::regs::{mode, psr};
use crate::vcpu::{State, Vcpu};
use crate::vm::{self, MAX_CPUS, Vm, request};
use crate::vtimer::Timer;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

/// A vCPU that others are ready beside runs this long, in 1/256 s: near 8 ms.
const SLICE: u64 = 2;

/// Heap that building a VM may take, bytes: its tables above all.
const VM_HEAP: usize = 128 << 10;

/// vCPUs on their way to each CPU.
#[expect(
    clippy::vec_box,
    reason = "a vCPU is over a KiB, and stays where it is while its context is live"
)]
static INBOX: [Mutex<Vec<Box<Vcpu>>>; MAX_CPUS] = [const { Mutex::new(Vec::new()) }; MAX_CPUS];

/// Which of them are not empty: a bit for each CPU.
static MAIL: AtomicU32 = AtomicU32::new(0);

/// Gives `vcpu` to the CPU that its VM says it lives on.
pub fn adopt(vcpu: Box<Vcpu>) {
    let home = vcpu.vm.links.get(vcpu.index).map_or(0, |link| link.cpu());
    if let Some(inbox) = INBOX.get(home) {
        inbox.lock().push(vcpu);
        MAIL.fetch_or(1 << home, Ordering::Release);
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
        if !mem::reserve_heap(VM_HEAP) {
            log::error!(
                "{}: no memory left for what the hypervisor keeps of it",
                config.node
            );
            continue;
        }
        match Vm::build(config, &homes) {
            Ok(vm) => {
                home += homes.len();
                built.push(vm);
            }
            Err(why) => log::error!("{why}"),
        }
    }
    vm::connect(&built);
    for vm in &built {
        for index in 0..vm.links.len() {
            adopt(Box::new(Vcpu::new(vm.clone(), index)));
        }
        if vm.config.hold {
            log::info!("{} is held", vm.name());
        } else {
            vm.start();
        }
    }
    built.len()
}

/// One physical CPU.
pub struct Cpu {
    index: usize,
    #[expect(
        clippy::vec_box,
        reason = "a vCPU is over a KiB, and stays where it is while its context is live"
    )]
    vcpus: Vec<Box<Vcpu>>,
    /// The vCPU whose registers are in the hardware.
    loaded: Option<usize>,
    /// The vCPU whose VFP registers are.
    vfp: Option<usize>,
    /// Where the search for the next vCPU begins.
    next: usize,
    /// When the vCPU that runs gives way to the others that are ready, ticks.
    slice_end: Option<u64>,
    slice_ticks: u64,
}

impl Cpu {
    /// CPU number `index`, whose counter runs at `frequency` Hz.
    #[must_use]
    pub fn new(index: usize, frequency: u32) -> Self {
        Self {
            index,
            vcpus: Vec::new(),
            loaded: None,
            vfp: None,
            next: 0,
            slice_end: None,
            slice_ticks: (u64::from(frequency) * SLICE) >> 8,
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
            Some(index) => {
                self.vcpus[index].clock(true);
                self.turn(index);
                self.vcpus[index].clock(false);
            }
            None => self.idle(),
        }
    }

    /// Does what has been asked for; whether that was more than to bring list registers up to date.
    fn take_requests(&mut self) -> bool {
        let mut more = self.take_mail();
        for index in 0..self.vcpus.len() {
            let requests = self.vcpus[index].link().take();
            if requests != 0 {
                more |= self.serve(index, requests);
            }
        }
        more
    }

    #[inline(always)]
    fn take_mail(&mut self) -> bool {
        let own = 1 << self.index;
        let any = MAIL.load(Ordering::Relaxed) & own != 0;
        if any {
            self.open_mail(own);
        }
        any
    }

    #[cold]
    fn open_mail(&mut self, own: u32) {
        MAIL.fetch_and(!own, Ordering::Acquire);
        if let Some(inbox) = INBOX.get(self.index) {
            self.vcpus.append(&mut inbox.lock());
        }
    }

    fn serve(&mut self, index: usize, requests: u32) -> bool {
        let mut more = requests & !(request::WAKE | request::SYNC) != 0;
        if more {
            self.serve_rare(index, requests);
        }
        let vcpu = &mut self.vcpus[index];
        if self.loaded == Some(index) {
            if requests & request::SYNC != 0 {
                vcpu.sync();
            } else {
                vcpu.flush();
            }
        }
        if requests & request::WAKE != 0 && matches!(vcpu.state, State::Waiting(_)) {
            vcpu.state = State::Ready;
            more = true;
        }
        more
    }

    #[inline(never)]
    fn serve_rare(&mut self, index: usize, requests: u32) {
        let starting = requests & request::START != 0;
        if requests & request::STOP != 0 {
            self.leave(index, starting);
        } else if starting {
            self.start(index);
        }
        let vcpu = &mut self.vcpus[index];
        if requests & request::PAUSE != 0 && vcpu.state == State::Ready {
            vcpu.state = State::Waiting(Some(machine::now() + self.slice_ticks));
        }
        if requests & request::ANSWER != 0 && matches!(vcpu.state, State::Stalled(_)) {
            vcpu.state = State::Ready;
        }
        if requests & request::REPORT != 0 {
            vcpu.publish();
            monitor::published();
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
        self.slice_end = None;
        if self.wake_due() {
            return;
        }
        self.set_deadline();
        machine::wait();
        let loaded = self.loaded.map(|index| &mut *self.vcpus[index]);
        match irq::take(loaded) {
            Interrupt::Console => monitor::input(),
            Interrupt::Deadline => monitor::tick(),
            Interrupt::None | Interrupt::Kick => {}
        }
        // Whatever it was, the vCPU that is live may have something pending now.
        if let Some(index) = self.loaded
            && matches!(self.vcpus[index].state, State::Waiting(_))
        {
            self.vcpus[index].update_timer();
            if self.vcpus[index].pending() {
                self.vcpus[index].state = State::Ready;
            }
        }
    }

    /// Makes the vCPUs ready whose deadlines have come; whether there are any.
    fn wake_due(&mut self) -> bool {
        let mut any = false;
        for vcpu in &mut self.vcpus {
            // The real-time clock is the first vCPU's to look after.
            if vcpu.index == 0
                && let Some(alarm) = vcpu.vm.alarm_ticks()
                && alarm <= machine::now()
            {
                vcpu.vm.ring();
            }
            if let State::Waiting(Some(deadline)) | State::Stalled(deadline) = vcpu.state
                && deadline <= machine::now()
            {
                vcpu.state = State::Ready;
                any = true;
            }
        }
        any
    }

    /// Sets the Hyp timer to the first thing that is due: the end of the slice, a deadline of a vCPU
    /// that waits, or of the physical timer of the one that is live.
    fn set_deadline(&self) {
        const NEVER: u64 = u64::MAX;
        let mut first = monitor::due();
        let mut at = |deadline: Option<u64>| {
            if let Some(deadline) = deadline
                && deadline < first
            {
                first = deadline;
            }
        };
        at(self.slice_end);
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            if vcpu.index == 0 {
                at(vcpu.vm.alarm_ticks());
            }
            if self.loaded == Some(index) {
                at(vcpu.timer.due());
            }
            match vcpu.state {
                State::Waiting(deadline) => at(deadline),
                State::Stalled(deadline) => at(Some(deadline)),
                State::Off | State::Ready => {}
            }
        }
        match first {
            NEVER => machine::clear_deadline(),
            deadline => machine::set_deadline(deadline),
        }
    }

    /// What the vCPU that runs may do depends on whether it has its CPU to itself.
    fn share(&mut self, index: usize) {
        let (mut alone, mut crowded) = (true, false);
        for (other, vcpu) in self.vcpus.iter().enumerate() {
            if other != index {
                alone &= matches!(vcpu.state, State::Off);
                crowded |= matches!(vcpu.state, State::Ready);
            }
        }
        if !crowded {
            self.slice_end = None;
        } else if self.slice_end.is_none() {
            self.slice_end = Some(machine::now() + self.slice_ticks);
        }
        Live::trap_wfi(!alone);
        self.set_deadline();
        self.vcpus[index].watch_virtual_timer();
    }

    /// Runs vCPU `index` until something other than itself has to be done.
    fn turn(&mut self, index: usize) {
        self.load(index);
        self.slice_end = None;
        self.share(index);
        loop {
            let vcpu = &mut *self.vcpus[index];
            let next = if vcpu.pending.is_some() {
                exit::complete(vcpu)
            } else {
                exit::run(vcpu)
            };
            match next {
                Next::Resume => {}
                Next::Interrupt => match irq::take(Some(vcpu)) {
                    Interrupt::None => {}
                    interrupt => {
                        if !self.interrupted(index, interrupt) {
                            return;
                        }
                    }
                },
                Next::Vfp => self.give_vfp(index),
                Next::Timer => self.set_deadline(),
                Next::Yield => return,
                Next::Wait => {
                    if !vcpu.pending() {
                        vcpu.state = State::Waiting(None);
                        return;
                    }
                }
                Next::Stall => {
                    let deadline = vcpu.link().awaited.lock().deadline;
                    vcpu.state = State::Stalled(deadline);
                    return;
                }
                Next::Off => return self.leave(index, false),
                Next::Stop(stop) => {
                    vcpu.vm.stop(stop);
                    self.take_requests();
                    return;
                }
            }
        }
    }

    /// Does what an interrupt left to do; whether vCPU `index` goes on.
    fn interrupted(&mut self, index: usize, interrupt: Interrupt) -> bool {
        match interrupt {
            Interrupt::None => return true,
            Interrupt::Kick => {
                if !self.take_requests() {
                    return true;
                }
            }
            Interrupt::Console => monitor::input(),
            Interrupt::Deadline => {
                monitor::tick();
                self.wake_due();
                self.vcpus[index].look_at_timers();
            }
        }
        if self.vcpus[index].state != State::Ready || self.loaded != Some(index) {
            return false;
        }
        let over = self.slice_end.is_some_and(|end| machine::now() >= end);
        if !over {
            self.share(index);
        }
        !over
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
        vcpu.load_interrupts();
        vm::note_loaded(self.index, &vcpu.vm, vcpu.index);
        self.loaded = Some(index);
    }

    /// Takes the vCPU that is live from the hardware.
    fn put(&mut self) {
        if let Some(index) = self.loaded.take() {
            let vcpu = &mut self.vcpus[index];
            vcpu.put_interrupts();
            machine::put(&mut vcpu.context);
            if let State::Waiting(until) = vcpu.state {
                vcpu.state = vcpu.waiting().until(until);
            }
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
        let Start {
            entry,
            thumb,
            registers,
        } = vcpu.vm.started(vcpu.index);
        vcpu.context = vcpu.vm.context(vcpu.index);
        vcpu.timer = Timer::default();
        vcpu.pending = None;
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

    /// vCPU `index` is off from now on. It counts as on if it was about to start.
    fn leave(&mut self, index: usize, starting: bool) {
        self.forget(index);
        let vcpu = &mut self.vcpus[index];
        if starting || vcpu.state != State::Off {
            vcpu.state = State::Off;
            vcpu.vm.left(vcpu.index);
        }
    }
}
