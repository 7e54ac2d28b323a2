//! Each CPU's loop: pick a vCPU, run it, do what its exit asks for.
//!
//! A vCPU belongs to one CPU, which alone touches it; others ask by its [`Link`](crate::vm::Link)
//! and a kick. Interrupts are masked in Hyp, so a kick that comes between the last look and the
//! entry brings the guest right out again, and one that comes before WFI ends it: nothing is lost.

use crate::balance;
use crate::exit::{self, Next};
use crate::fdt::{ConfigError, OnCrash, VmConfig};
use crate::irq::{self, Interrupt};
use crate::loader::Start;
use crate::machine::{self, Live, vfp};
use crate::mem;
use crate::monitor;
use crate::regs::{mode, psr};
use crate::vcpu::{State, Vcpu};
use crate::vm::{self, MAX_CPUS, Stop, Vm, news, request};
use crate::vtimer::Timer;
use alloc::boxed::Box;
use alloc::vec::Vec;
use spin::Mutex;

/// Heap that building a VM may take, bytes: its tables, its devices' state, and trees on the way.
const VM_HEAP: usize = 256 << 10;

/// vCPUs on their way to each CPU.
#[expect(
    clippy::vec_box,
    reason = "a vCPU is over a KiB, and stays where it is while its context is live"
)]
static INBOX: [Mutex<Vec<Box<Vcpu>>>; MAX_CPUS] = [const { Mutex::new(Vec::new()) }; MAX_CPUS];

/// Gives `vcpu` to the CPU that its VM says it lives on.
pub fn adopt(vcpu: Box<Vcpu>) {
    let home = vcpu.vm.links.get(vcpu.index).map_or(0, |link| link.cpu());
    if let Some(inbox) = INBOX.get(home) {
        inbox.lock().push(vcpu);
        news::announce(home, news::ARRIVAL);
    }
    machine::kick(home);
}

/// Builds the VMs of `configs`, their vCPUs spread over `cpus` CPUs, and starts them; how many there
/// are then. What can't be built is logged.
pub fn build(configs: Vec<VmConfig>, cpus: usize) -> usize {
    let cpus = cpus.clamp(1, MAX_CPUS);
    balance::set_cpus(cpus);
    let mut tenants = [0; MAX_CPUS];
    let mut built = Vec::new();
    for config in configs {
        if !mem::reserve_heap(VM_HEAP) {
            log::error!(
                "{}: no memory left for what the hypervisor keeps of it",
                config.node
            );
            continue;
        }
        let mut taken = tenants;
        match homes(&config, cpus, &mut taken).and_then(|homes| Vm::build(config, &homes)) {
            Ok(vm) => {
                tenants = taken;
                for index in 0..vm.links.len() {
                    adopt(Box::new(Vcpu::new(vm.clone(), index)));
                }
                built.push(vm);
            }
            Err(why) => log::error!("{why}"),
        }
    }
    vm::connect(&built);
    // For what comes later, as far as it can be had.
    let _ = mem::reserve_heap(VM_HEAP);
    for vm in &built {
        if vm.config.hold {
            log::info!("{} is held", vm.name());
        } else {
            vm.start();
        }
    }
    built.len()
}

/// Where the vCPUs of a VM live at first: each on the CPU that has the fewest `tenants`.
fn homes(
    config: &VmConfig,
    cpus: usize,
    tenants: &mut [u32; MAX_CPUS],
) -> Result<Vec<usize>, ConfigError> {
    let mask = balance::present(config.policy.cpus);
    let mut homes = Vec::new();
    for _ in 0..config.cpus {
        let allowed = (0..cpus).filter(|cpu| mask & 1 << cpu != 0);
        let Some(home) = allowed.min_by_key(|&cpu| tenants[cpu]) else {
            return Err(ConfigError::new(
                &config.node,
                "armillary,cpus",
                format_args!("of CPUs that are not there"),
                format_args!("name some of CPU 0 to {}", cpus - 1),
            ));
        };
        tenants[home] += 1;
        homes.push(home);
    }
    Ok(homes)
}

/// What the vCPUs of a CPU are, as long as none changes: a switch looks at this alone.
#[derive(Default)]
struct Turns {
    /// The ready ones of the highest priority, by number.
    queue: Vec<usize>,
    /// Whose turn is next, by place in the queue.
    next: usize,
    /// That priority.
    priority: u8,
    /// How many are ready, whatever their priority.
    ready: u32,
    /// How many are on; one with a reservation counts twice.
    on: u32,
    /// When something is due for one that does not run, ticks.
    due: u64,
}

/// No time, ticks.
const NEVER: u64 = u64::MAX;

#[inline(always)]
fn earlier(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
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
    /// Who runs by turns.
    turns: Turns,
    /// Whether a vCPU is not what `turns` says.
    changed: bool,
    /// When this turn began, ticks.
    now: u64,
    /// When the vCPU that runs gives way to the others that are ready, ticks; or [`NEVER`].
    slice_end: u64,
    /// When its VM has used up its time, ticks; or [`NEVER`].
    spent: u64,
    /// When the CPU may hand on a vCPU to have shares even, ticks.
    even: u64,
    /// Between two such times, ticks.
    even_out: u64,
    /// Whether a vCPU is to be forgotten.
    dropping: bool,
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
            turns: Turns::default(),
            changed: true,
            now: 0,
            slice_end: NEVER,
            spent: NEVER,
            even: 0,
            even_out: u64::from(frequency / balance::EVEN_OUT),
            dropping: false,
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
        if self.dropping {
            self.forget_dropped();
        }
        if self.changed {
            self.look_over();
        }
        if self.turns.ready > 1 && balance::several() {
            self.hand_on();
        }
        match self.pick() {
            Some(index) => {
                self.vcpus[index].start_clock(self.now);
                self.bounded_turn(index);
                self.vcpus[index].stop_clock(self.now);
            }
            None => self.idle(),
        }
    }

    /// Looks what the vCPUs are.
    #[inline(never)]
    fn look_over(&mut self) {
        self.changed = false;
        self.now = machine::now();
        let queue = &mut self.turns.queue;
        queue.clear();
        let (mut next, mut priority, mut ready, mut on, mut due) = (0, 0, 0, 0, NEVER);
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            let runs = vcpu.vm.runs();
            if vcpu.index == 0
                && let Some(alarm) = vcpu.vm.alarm_ticks()
            {
                due = earlier(due, alarm);
            }
            if !runs && let Some(again) = vcpu.vm.again() {
                due = earlier(due, again);
            }
            match vcpu.state {
                State::Off => continue,
                State::Waiting(Some(deadline)) | State::Stalled(deadline) => {
                    due = earlier(due, deadline);
                }
                State::Ready if runs => {
                    ready += 1;
                    if vcpu.priority > priority {
                        priority = vcpu.priority;
                        next = 0;
                        queue.clear();
                    }
                    if vcpu.priority == priority {
                        queue.push(index);
                        next += usize::from(index < self.next);
                    }
                }
                _ => {}
            }
            // What it waited in WFI alone would be taken from its reservation.
            on += 1 + u32::from(vcpu.bounded);
        }
        let turns = &mut self.turns;
        (turns.next, turns.priority, turns.ready) = (next, priority, ready);
        (turns.on, turns.due) = (on, due);
        if balance::several() {
            if ready != 0 {
                balance::runs(self.index, priority, ready);
            }
            if ready < 2 {
                balance::spares(self.index, false);
            }
        }
    }

    /// A turn that lasts no longer than the VM's time, and is charged to it.
    #[inline(always)]
    fn bounded_turn(&mut self, index: usize) {
        let (since, bounded) = (self.now, self.vcpus[index].bounded);
        if bounded && !self.begin_bounded(index) {
            return;
        }
        self.turn(index);
        self.now = machine::now();
        if bounded {
            self.spent = NEVER;
            self.vcpus[index].vm.charge(since, self.now);
        }
    }

    /// Whether vCPU `index` has time left to run. One that is leaving has used it.
    #[inline(never)]
    fn begin_bounded(&mut self, index: usize) -> bool {
        match self.vcpus[index].vm.grant(self.now) {
            Some(0) => return false,
            Some(grant) => self.spent = self.now + grant,
            None => {}
        }
        if !self.vcpus[index].leaving {
            return true;
        }
        let (vm, since) = (self.vcpus[index].vm.clone(), self.now);
        self.scrub(index);
        self.now = machine::now();
        self.spent = NEVER;
        vm.charge(since, self.now);
        false
    }

    /// Hands vCPUs to CPUs that should rather run them, or have fewer.
    #[inline(never)]
    fn hand_on(&mut self) {
        while let Some((index, cpu)) = self.spare(None) {
            self.give(index, cpu);
        }
        if self.changed {
            self.look_over();
        }
        let ready = self.turns.ready;
        if ready > 1 && self.now >= self.even {
            self.even = self.now + self.even_out;
            let last = self.next.wrapping_sub(1);
            let order = (self.next..self.vcpus.len()).chain(0..self.next.min(self.vcpus.len()));
            let movable = order
                .filter(|&index| index != last && self.may_run(index))
                .find_map(|index| {
                    let mask = self.vcpus[index].vm.config.policy.cpus;
                    Some((index, balance::emptier(self.index, mask, ready)?))
                });
            if let Some((index, cpu)) = movable {
                self.give(index, cpu);
                self.look_over();
            }
        }
    }

    /// A vCPU that is ready, other than `running`, and the CPU that should rather run it.
    fn spare(&self, running: Option<usize>) -> Option<(usize, usize)> {
        let ready = (0..self.vcpus.len()).filter(|&index| self.may_run(index));
        let mask = |index: usize| self.vcpus[index].vm.config.policy.cpus;
        let movable = |index: usize| self.movable(&self.vcpus[index]);
        // One stays: the best, and rather one that has to.
        let worth = |&index: &usize| {
            let priority = self.vcpus[index].priority;
            (priority, !movable(index), self.loaded == Some(index))
        };
        let kept = running.or_else(|| ready.clone().max_by_key(worth))?;
        let mut others = ready.filter(|&index| index != kept && movable(index));
        balance::spares(self.index, others.clone().next().is_some());
        others.find_map(|index| {
            let cpu = balance::better(self.index, mask(index), self.vcpus[index].priority)?;
            Some((index, cpu))
        })
    }

    /// Hands vCPU `index` to CPU number `cpu`.
    fn give(&mut self, index: usize, cpu: usize) {
        // Put first: VFP registers are taken from a vCPU that is not live.
        self.unload(index);
        if self.vfp == Some(index) {
            vfp::take(&mut self.vcpus[index].context.vfp);
        }
        let vcpu = self.remove(index);
        balance::gets(cpu, vcpu.priority);
        vcpu.link().mailbox.leave_for(cpu);
        adopt(vcpu);
        self.count_tenants();
    }

    /// Takes vCPU `index` from this CPU, with nothing of it left in the hardware.
    fn remove(&mut self, index: usize) -> Box<Vcpu> {
        self.forget(index);
        self.changed = true;
        let vcpu = self.vcpus.swap_remove(index);
        // The last one has taken its place.
        let moved = |place: Option<usize>| match place {
            Some(place) if place == self.vcpus.len() => Some(index),
            place => place,
        };
        (self.loaded, self.vfp) = (moved(self.loaded), moved(self.vfp));
        vcpu
    }

    #[cold]
    fn forget_dropped(&mut self) {
        self.dropping = false;
        while let Some(index) = self.vcpus.iter().position(|vcpu| vcpu.dropped) {
            drop(self.remove(index));
        }
        self.count_tenants();
    }

    /// Lets the other CPUs know whether vCPUs that are on could come to them.
    fn count_tenants(&self) {
        let mut on = self.vcpus.iter().filter(|vcpu| vcpu.state != State::Off);
        let several = on.clone().count() > 1;
        let movable = on.any(|vcpu| self.movable(vcpu));
        balance::crowds(self.index, several && movable);
    }

    /// Whether `vcpu` may run on another CPU, too.
    fn movable(&self, vcpu: &Vcpu) -> bool {
        balance::present(vcpu.vm.config.policy.cpus) & !(1 << self.index) != 0
    }

    /// Whether vCPU `index` is ready, and its VM runs.
    #[inline(always)]
    fn may_run(&self, index: usize) -> bool {
        let vcpu = &self.vcpus[index];
        vcpu.state == State::Ready && vcpu.vm.runs()
    }

    /// Does what has been asked for; whether that was more than to bring list registers up to date.
    #[inline(always)]
    fn take_requests(&mut self) -> bool {
        match news::take(self.index) {
            0 => false,
            news => self.take_news(news),
        }
    }

    #[inline(never)]
    fn take_news(&mut self, news: u32) -> bool {
        let mut more = news & (news::ARRIVAL | news::OFFER) != 0;
        if news & news::ARRIVAL != 0 {
            self.adopt();
        }
        for index in 0..self.vcpus.len() {
            let requests = self.vcpus[index].link().mailbox.take();
            if requests != 0 {
                more |= self.serve(index, requests);
            }
        }
        self.changed |= more;
        more
    }

    /// Takes in the vCPUs that have come.
    #[cold]
    fn adopt(&mut self) {
        if let Some(inbox) = INBOX.get(self.index) {
            self.vcpus.append(&mut inbox.lock());
        }
        self.count_tenants();
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
        if requests & request::DROP != 0 {
            self.vcpus[index].dropped = true;
            self.dropping = true;
        }
        self.count_tenants();
        let vcpu = &mut self.vcpus[index];
        if requests & request::PAUSE != 0 && vcpu.state == State::Ready {
            vcpu.state = State::Waiting(Some(machine::now() + vcpu.vm.slice));
        }
        if requests & request::ANSWER != 0 && matches!(vcpu.state, State::Stalled(_)) {
            vcpu.state = State::Ready;
        }
        if requests & request::REPORT != 0 {
            vcpu.publish();
            monitor::published();
        }
    }

    /// The next vCPU of the highest priority that is ready, round robin.
    #[inline(always)]
    fn pick(&mut self) -> Option<usize> {
        let turns = &mut self.turns;
        let index = match turns.queue.get(turns.next) {
            Some(&index) => index,
            None => {
                turns.next = 0;
                *turns.queue.first()?
            }
        };
        turns.next += 1;
        // One that goes before others does not change whose turn it is among them.
        if turns.queue.len() == turns.ready as usize {
            self.next = index + 1;
        }
        Some(index)
    }

    /// Waits for an interrupt: a kick, or the deadline of a vCPU that waits.
    fn idle(&mut self) {
        self.slice_end = NEVER;
        self.changed = true;
        if self.wake_due() {
            return;
        }
        balance::idles(self.index);
        self.set_deadline();
        machine::wait();
        self.take_interrupt();
    }

    /// Takes an interrupt while no guest runs; whether there is something to do.
    #[inline(never)]
    fn take_interrupt(&mut self) -> bool {
        let loaded = self.loaded.map(|index| &mut *self.vcpus[index]);
        let interrupt = irq::take(loaded);
        match interrupt {
            Interrupt::Console => monitor::input(),
            Interrupt::Deadline => monitor::tick(),
            Interrupt::None | Interrupt::Kick => {}
        }
        // Whatever it was, the vCPU that is live may have something pending now.
        if let Some(index) = self.loaded
            && let vcpu = &mut *self.vcpus[index]
            && matches!(vcpu.state, State::Waiting(_))
        {
            vcpu.update_timer();
            if vcpu.pending() {
                vcpu.state = State::Ready;
                self.changed = true;
                return true;
            }
        }
        interrupt != Interrupt::None
    }

    /// Scrubs the memory of a VM that vCPU `index` has left as the last one, until there is something else to do.
    fn scrub(&mut self, index: usize) {
        self.slice_end = self.now + self.vcpus[index].vm.slice;
        self.set_deadline();
        while !self.vcpus[index].vm.scrub() {
            if self.take_interrupt() {
                self.wake_due();
                return;
            }
        }
        self.changed = true;
        let vcpu = &mut *self.vcpus[index];
        vcpu.set_leaving(false);
        vcpu.state = State::Off;
        vcpu.vm.finish();
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
                self.changed = true;
            }
            if vcpu.bounded && !vcpu.vm.runs() {
                vcpu.vm.replenish(machine::now());
                any |= vcpu.vm.runs();
                self.changed = true;
            }
            if let State::Waiting(Some(deadline)) | State::Stalled(deadline) = vcpu.state
                && deadline <= machine::now()
            {
                vcpu.state = State::Ready;
                any = true;
            }
        }
        self.changed |= any;
        any
    }

    /// Sets the Hyp timer to the first thing that is due: the end of the slice, a deadline of a vCPU
    /// that waits, or of the physical timer of the one that is live.
    fn set_deadline(&self) {
        let mut first = earlier(monitor::due(), self.turns.due);
        first = earlier(first, earlier(self.slice_end, self.spent));
        if let Some(timer) = self.loaded.and_then(|index| self.vcpus[index].timer.due()) {
            first = earlier(first, timer);
        }
        match first {
            NEVER => machine::clear_deadline(),
            deadline => machine::set_deadline(deadline),
        }
    }

    /// vCPU `index` keeps its turn, and the rest of its slice if that has an end.
    #[cold]
    fn cut_short(&mut self, index: usize) {
        self.next = index;
        if self.slice_end != NEVER {
            self.vcpus[index].rest = (self.slice_end - self.now) as u32;
        }
    }

    #[cold]
    fn go_on_with_slice(&mut self, index: usize) {
        let rest = core::mem::take(&mut self.vcpus[index].rest);
        self.slice_end = self.now + u64::from(rest);
    }

    /// What the vCPU that runs may do depends on whether it has its CPU to itself. Whether it goes on:
    /// not where one of a higher priority is ready, or one that should be elsewhere.
    #[inline(always)]
    fn share(&mut self, index: usize) -> bool {
        if self.changed {
            self.look_over();
        }
        let turns = &self.turns;
        let vcpu = &self.vcpus[index];
        if vcpu.priority < turns.priority {
            self.cut_short(index);
            return false;
        }
        if turns.ready > 1 && balance::several() && self.spare(Some(index)).is_some() {
            return false;
        }
        let turns = &self.turns;
        let alone = turns.on == 1 && balance::is_alone(self.index);
        if turns.queue.len() < 2 {
            self.slice_end = NEVER;
        } else if self.slice_end == NEVER {
            let vcpu = &self.vcpus[index];
            self.slice_end = self.now + vcpu.vm.slice;
            if vcpu.rest != 0 {
                self.go_on_with_slice(index);
            }
        }
        Live::trap_wfi(!alone);
        self.set_deadline();
        self.vcpus[index].watch_virtual_timer();
        true
    }

    /// Runs vCPU `index` until something other than itself has to be done.
    #[inline(never)]
    fn turn(&mut self, index: usize) {
        self.load(index);
        self.slice_end = NEVER;
        if !self.share(index) {
            return;
        }
        loop {
            let vcpu = &mut *self.vcpus[index];
            let next = if vcpu.pending.is_some() {
                exit::complete(vcpu)
            } else {
                exit::run(vcpu)
            };
            match next {
                Next::Resume => {}
                Next::Interrupt | Next::Look => {
                    let interrupt = match next {
                        Next::Look => Interrupt::Kick,
                        _ => irq::take(Some(vcpu)),
                    };
                    if interrupt != Interrupt::None && !self.interrupted(index, interrupt) {
                        return;
                    }
                }
                Next::Vfp => self.give_vfp(index),
                Next::Timer => self.set_deadline(),
                Next::Yield => return,
                Next::Wait => {
                    if !vcpu.pending() {
                        vcpu.state = State::Waiting(None);
                        self.changed = true;
                        return;
                    }
                }
                Next::Stall => {
                    let deadline = vcpu.link().awaited.lock().deadline;
                    vcpu.state = State::Stalled(deadline);
                    self.changed = true;
                    return;
                }
                Next::Off => return self.leave(index, false),
                Next::Stop(stop) => {
                    if stop == Stop::Crash && vcpu.vm.config.policy.on_crash == OnCrash::Dump {
                        vcpu.dump();
                    }
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
        if !self.may_run(index) || self.loaded != Some(index) || self.dropping {
            return false;
        }
        self.now = machine::now();
        self.now < earlier(self.slice_end, self.spent) && self.share(index)
    }

    /// Makes vCPU `index` the one that is live.
    #[inline(always)]
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
        if vcpu.vm.takes_turns(self.index, vcpu.index) {
            machine::flush_own_vmid();
        }
        vcpu.load_interrupts();
        vm::note_loaded(self.index, &vcpu.vm, vcpu.index);
        self.loaded = Some(index);
    }

    /// Takes the vCPU that is live from the hardware.
    #[inline(never)]
    fn put(&mut self) {
        if let Some(index) = self.loaded.take() {
            let vcpu = &mut self.vcpus[index];
            vcpu.put_interrupts();
            machine::put(&mut vcpu.context);
            if let State::Waiting(until) = vcpu.state {
                self.note_wait(index, until);
            }
        }
    }

    /// Takes vCPU `index` from the hardware, if it is live.
    #[inline(always)]
    fn unload(&mut self, index: usize) {
        if self.loaded == Some(index) {
            self.put();
        }
    }

    /// Looks until when vCPU `index` waits, which has just been put.
    #[inline(never)]
    fn note_wait(&mut self, index: usize, until: Option<u64>) {
        let vcpu = &mut self.vcpus[index];
        vcpu.state = vcpu.waiting().until(until);
        match vcpu.state {
            State::Waiting(None) => {}
            State::Waiting(Some(deadline)) => self.turns.due = earlier(self.turns.due, deadline),
            _ => self.changed = true,
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
    #[inline(never)]
    fn forget(&mut self, index: usize) {
        self.unload(index);
        if self.vfp == Some(index) {
            self.vfp = None;
        }
    }

    /// vCPU `index` is off from now on. It counts as on if it was about to start.
    fn leave(&mut self, index: usize, starting: bool) {
        self.changed = true;
        self.forget(index);
        let vcpu = &mut self.vcpus[index];
        if !vcpu.leaving && (starting || vcpu.state != State::Off) {
            let last = vcpu.vm.left(vcpu.index);
            vcpu.set_leaving(last);
            vcpu.state = if last { State::Ready } else { State::Off };
        }
    }
}
