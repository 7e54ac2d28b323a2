//! Each CPU's loop: pick a vCPU, run it, do what its exit asks for.
//!
//! A vCPU belongs to one CPU, which alone touches it; others ask by its [`Link`](crate::vm::Link)
//! and a kick. Interrupts are masked in Hyp, so a kick that comes between the last look and the
//! entry brings the guest right out again, and one that comes before WFI ends it: nothing is lost.

use crate::balance;
use crate::describe;
use crate::exit::{self, INVALID_PARAMETER, Next};
use crate::fdt::{ConfigError, OnCrash, VmConfig};
use crate::irq::{self, Interrupt};
use crate::loader::Start;
use crate::machine::{self, Live, vfp};
use crate::mem;
use crate::monitor;
use crate::regs::{mode, psr};
use crate::table::Table;
use crate::vcpu::{NEVER, State, Vcpu};
use crate::vm::{self, MAX_CPUS, Stop, Vm, news, request};
use crate::vtimer::Timer;
use crate::{error, info};
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;

/// Heap that building a VM may take, bytes: its tables, its devices' state, and trees on the way.
const VM_HEAP: usize = 256 << 10;

/// For how many turns a vCPU that has used VFP gets its registers at once. A use that traps costs three
/// times as much as to move them.
const KEEN: u8 = 32;

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
    balance::set_cpus(cpus.clamp(1, MAX_CPUS));
    let mut built = Vec::new();
    for config in configs {
        match settle(config) {
            Ok(vm) => built.push(vm),
            Err(why) => error!("{why}"),
        }
    }
    vm::connect(&built);
    // For what comes later, as far as it can be had.
    let _ = mem::reserve_heap(VM_HEAP);
    for vm in &built {
        if vm.config.hold {
            info!("{} is held", vm.name());
        } else {
            vm.start();
        }
    }
    built.len()
}

/// Builds a VM and gives its vCPUs to CPUs.
fn settle(config: VmConfig) -> Result<Arc<Vm>, ConfigError> {
    if !mem::reserve_heap(VM_HEAP) {
        return Err(config.no_memory(VM_HEAP as u64, mem::free_bytes()));
    }
    let homes = homes(&config)?;
    let vm = Vm::build(config, &homes)?;
    for index in 0..vm.links.len() {
        adopt(Box::new(Vcpu::new(vm.clone(), index)));
    }
    Ok(vm)
}

/// Where the vCPUs of a VM live at first: each on the CPU that has the fewest.
fn homes(config: &VmConfig) -> Result<Vec<usize>, ConfigError> {
    let mut tenants = [0; MAX_CPUS];
    for vm in vm::all() {
        for link in &vm.links {
            tenants[link.cpu() % MAX_CPUS] += 1;
        }
    }
    let mask = balance::present(config.policy.cpus);
    let mut homes = Vec::new();
    for _ in 0..config.cpus {
        let allowed = (0..MAX_CPUS).filter(|cpu| mask & 1 << cpu != 0);
        let Some(home) = allowed.min_by_key(|&cpu| tenants[cpu]) else {
            return Err(ConfigError::new(
                &config.node,
                "armillary,cpus",
                format_args!("of CPUs that are not there"),
                format_args!(
                    "name some of CPU 0 to {}",
                    balance::present(u32::MAX).trailing_ones() - 1
                ),
            ));
        };
        tenants[home] += 1;
        homes.push(home);
    }
    Ok(homes)
}

/// Builds the VM that `vcpu` asks for, and answers.
#[cold]
fn create(vcpu: &mut Vcpu) {
    let [_, at, size, ..] = vcpu.context.regs().r;
    let made = describe::described(&vcpu.vm, at, size).and_then(|(config, modules)| {
        let vm = settle(config).map_err(|why| why.to_string())?;
        *vm.modules.lock() = modules;
        vm::connect(core::slice::from_ref(&vm));
        Ok(vm)
    });
    let r = &mut vcpu.context.regs_mut().r;
    match made {
        Ok(vm) => (r[0], r[1]) = (0, vm.id),
        Err(why) => {
            r[0] = INVALID_PARAMETER;
            error!("{}: no VM created: {why}", vcpu.vm.name());
        }
    }
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
    /// Whether they take turns, or others that are ready wait for another CPU.
    sliced: bool,
    /// Whether several are ready, and there are other CPUs.
    crowded: bool,
    /// Whether one alone is on, and no other can come.
    alone: bool,
    /// When something is due for one that does not run, or the one that runs has used up its VM's time,
    /// ticks.
    due: u64,
}

/// No place among a CPU's vCPUs.
const NOWHERE: usize = usize::MAX;

#[inline(always)]
fn earlier(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

/// Whether `vcpu` is ready, and its VM runs.
#[inline(always)]
fn may_run(vcpu: &Vcpu) -> bool {
    vcpu.state == State::Ready && vcpu.vm.runs()
}

/// Has the Hyp timer fire at the end of a turn, when something is `due` for others, or for the console, or
/// for the timers of the vCPU that is `live`.
#[inline(always)]
fn wake_by(end: u64, due: u64, live: Option<&mut Vcpu>) {
    let mut first = earlier(monitor::due(), earlier(end, due));
    if let Some(due) = live.as_ref().and_then(|vcpu| vcpu.timer.due()) {
        first = earlier(first, due);
    }
    match first {
        NEVER => machine::clear_deadline(),
        deadline => machine::set_deadline(deadline),
    }
    if let Some(vcpu) = live
        && vcpu.watched
    {
        vcpu.watch_virtual_timer();
    }
}

/// One physical CPU.
pub struct Cpu {
    index: usize,
    #[expect(
        clippy::vec_box,
        reason = "a vCPU is over a KiB, and stays where it is while its context is live"
    )]
    vcpus: Table<Vec<Box<Vcpu>>>,
    /// The vCPU whose registers are in the hardware, or [`NOWHERE`].
    loaded: usize,
    /// The vCPU whose VFP registers are.
    vfp: usize,
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
    /// Since when that runs, ticks.
    granted: u64,
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
            vcpus: Table(Vec::new()),
            loaded: NOWHERE,
            vfp: NOWHERE,
            turns: Turns::default(),
            changed: true,
            now: 0,
            slice_end: NEVER,
            spent: NEVER,
            granted: 0,
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
        if self.changed | self.turns.crowded {
            self.settle();
        }
        match self.pick() {
            Some(index) => self.timed_turn(index),
            None => self.idle(),
        }
    }

    /// Sees to it that those are here who should be.
    #[inline(never)]
    fn settle(&mut self) {
        let changed = self.changed;
        if changed {
            if self.dropping {
                self.forget_dropped();
            }
            self.look_over();
        }
        if self.turns.crowded && (changed || self.now >= self.even) {
            self.hand_on();
        }
    }

    /// Looks what the vCPUs are.
    #[inline(never)]
    fn look_over(&mut self) {
        self.changed = false;
        self.now = machine::now();
        let queue = &mut self.turns.queue;
        queue.clear();
        let (mut next, mut priority, mut ready, mut on, mut due) = (0, 0, 0, 0, self.spent);
        let mut last = 0;
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
                State::Waiting | State::Stalled => due = earlier(due, vcpu.until),
                State::Ready if runs => {
                    ready += 1;
                    if vcpu.priority > priority {
                        priority = vcpu.priority;
                        (next, last) = (0, 0);
                        queue.clear();
                    }
                    if vcpu.priority == priority {
                        queue.push(index);
                        // Who has had its turn last is followed by the next.
                        if vcpu.served > last {
                            last = vcpu.served;
                            next = queue.len();
                        }
                    }
                }
                State::Ready => {}
            }
            // What it waited in WFI alone would be taken from its reservation.
            on += 1 + u32::from(vcpu.bounded);
        }
        let turns = &mut self.turns;
        let (several, count) = (balance::several(), turns.queue.len());
        (turns.next, turns.priority, turns.due) = (next, priority, due);
        turns.crowded = ready > 1 && several;
        turns.sliced = count > 1 || turns.crowded;
        turns.alone = on == 1 && balance::is_alone(self.index);
        if several {
            if ready != 0 {
                balance::runs(self.index, balance::load(priority, count as u32));
            }
            if ready < 2 {
                balance::spares(self.index, 0);
            }
        }
    }

    /// vCPU `index` has a turn, which counts as its time.
    #[inline(always)]
    fn timed_turn(&mut self, index: usize) {
        let Some(vcpu) = self.vcpus.get_mut(index) else {
            return;
        };
        vcpu.start_clock(self.now);
        if !vcpu.special || self.begins(index) {
            self.turn(index);
        }
        self.now = machine::now();
        if let Some(vcpu) = self.vcpus.get_mut(index) {
            vcpu.stop_clock(self.now);
            if vcpu.bounded {
                self.charge(index);
            }
        }
    }

    /// Whether vCPU `index`, whose VM's time is bounded or which is leaving, has a turn: the one lasts no longer
    /// than that time, the other scrubs instead.
    #[inline(never)]
    fn begins(&mut self, index: usize) -> bool {
        let vcpu = &self.vcpus[index];
        if vcpu.bounded {
            let Some(grant @ 1..) = vcpu.vm.grant(self.now) else {
                return false;
            };
            self.granted = self.now;
            self.spent = self.now + grant;
            self.turns.due = earlier(self.turns.due, self.spent);
        }
        if vcpu.leaving {
            self.scrub(index);
            return false;
        }
        true
    }

    /// Charges the turn that vCPU `index` has had, if it had one, to its VM.
    #[inline(never)]
    fn charge(&mut self, index: usize) {
        if self.spent != NEVER {
            self.spent = NEVER;
            self.changed = true;
            self.vcpus[index].vm.charge(self.granted, self.now);
        }
    }

    /// Hands vCPUs to CPUs that should rather run them, or have fewer.
    #[inline(never)]
    fn hand_on(&mut self) {
        while let Some((index, cpu)) = self.spare(None) {
            self.give(index, cpu);
        }
        if self.now >= self.even {
            self.even = self.now + self.even_out;
            if let Some((_, index, cpu)) = self.uneven() {
                self.give(index, cpu);
            }
        }
        if self.changed {
            self.look_over();
        }
    }

    fn ready(&self) -> impl Iterator<Item = (usize, &Vcpu)> + Clone {
        let vcpus = self.vcpus.iter().enumerate();
        vcpus
            .filter(|(_, vcpu)| may_run(vcpu))
            .map(|(index, vcpu)| (index, &**vcpu))
    }

    /// A vCPU that is ready, other than `running`, and the CPU that should rather run it.
    fn spare(&self, running: Option<usize>) -> Option<(usize, usize)> {
        // One stays: the best, and rather one that has to.
        let worth = |&(index, vcpu): &(usize, &Vcpu)| {
            (vcpu.priority, !self.movable(vcpu), self.loaded == index)
        };
        let best = || self.ready().max_by_key(worth).map(|(index, _)| index);
        let kept = running.or_else(best)?;
        let movable = |&(index, vcpu): &(usize, &Vcpu)| index != kept && self.movable(vcpu);
        let others = self.ready().filter(movable);
        let loads = others
            .clone()
            .map(|(_, vcpu)| balance::load(vcpu.priority, 0));
        balance::spares(self.index, loads.max().unwrap_or(0));
        others
            .map(|(index, vcpu)| (index, vcpu, balance::load(vcpu.priority, 0)))
            .find_map(|(index, vcpu, load)| Some((index, self.better(vcpu, load)?)))
    }

    /// The vCPU that had better be elsewhere for a while: since when it is here, which it is, and that CPU.
    fn uneven(&self) -> Option<(u64, usize, usize)> {
        let turns = &self.turns;
        let others = self.ready().filter_map(|(index, vcpu)| {
            // One that waits for those of a higher priority takes turns with any number of equals.
            let count = match vcpu.priority {
                priority if priority < turns.priority => balance::MANY,
                _ => turns.queue.len() as u32,
            };
            let cpu = self.better(vcpu, balance::load(vcpu.priority, count))?;
            Some((vcpu.came, index, cpu))
        });
        others.min()
    }

    /// The CPU that should rather run `vcpu`: the least of those that have less than `load`.
    fn better(&self, vcpu: &Vcpu, load: u32) -> Option<usize> {
        balance::better(self.index, vcpu.vm.config.policy.cpus, load)
    }

    /// Hands vCPU `index` to CPU number `cpu`.
    fn give(&mut self, index: usize, cpu: usize) {
        // Put first: VFP registers are taken from a vCPU that is not live.
        self.unload(index);
        if self.vfp == index {
            vfp::take(&mut self.vcpus[index].context.vfp);
        }
        let vcpu = self.remove(index);
        balance::gets(cpu, vcpu.priority);
        vcpu.link().mailbox.leave_for(cpu);
        vcpu.vm.rewire();
        adopt(vcpu);
        self.count_tenants();
    }

    /// Takes vCPU `index` from this CPU, with nothing of it left in the hardware.
    fn remove(&mut self, index: usize) -> Box<Vcpu> {
        self.forget(index);
        self.changed = true;
        let vcpu = self.vcpus.swap_remove(index);
        // The last one has taken its place.
        let last = self.vcpus.len();
        let moved = |place| if place == last { index } else { place };
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
        self.changed |= more;
        if news & news::ARRIVAL != 0 {
            self.adopt();
        }
        for index in 0..self.vcpus.len() {
            let requests = self.vcpus[index].link().mailbox.take();
            if requests != 0 {
                more |= self.serve(index, requests);
            }
        }
        more
    }

    /// Takes in the vCPUs that have come.
    #[cold]
    fn adopt(&mut self) {
        if let Some(inbox) = INBOX.get(self.index) {
            let first = self.vcpus.len();
            self.vcpus.append(&mut inbox.lock());
            let now = machine::now();
            for vcpu in self.vcpus.iter_mut().skip(first) {
                vcpu.came = now;
            }
            // Who comes so that shares are even does not go at once.
            self.even = now + self.even_out;
        }
        self.count_tenants();
    }

    fn serve(&mut self, index: usize, requests: u32) -> bool {
        let mut more = requests & !(request::WAKE | request::SYNC) != 0;
        if more {
            self.changed = true;
            self.serve_rare(index, requests);
        }
        let vcpu = &mut self.vcpus[index];
        if self.loaded == index {
            if requests & request::SYNC != 0 {
                vcpu.sync();
            } else {
                vcpu.flush();
            }
        } else {
            vcpu.stir();
        }
        if requests & request::WAKE != 0 && vcpu.state == State::Waiting {
            vcpu.state = State::Ready;
            more |= !self.joins(index);
        }
        more
    }

    /// vCPU `index`, which has waited, is ready: it is the last that takes turns, or the only one. Whether
    /// that is all.
    fn joins(&mut self, index: usize) -> bool {
        let turns = &mut self.turns;
        let vcpu = &self.vcpus[index];
        let alone = turns.queue.is_empty();
        let last = vcpu.priority == turns.priority && !balance::several();
        // Its deadline may be what is due.
        let due = vcpu.until != NEVER && vcpu.until <= turns.due;
        if !(alone || last) || due || !vcpu.vm.runs() {
            self.changed = true;
            return false;
        }
        turns.queue.push(index);
        if alone {
            turns.priority = vcpu.priority;
            balance::runs(self.index, balance::load(vcpu.priority, 1));
            return true;
        }
        turns.sliced = true;
        if self.slice_end == NEVER
            && let Some(vcpu) = self.vcpus.get_mut(self.loaded)
        {
            self.slice_end = machine::now() + vcpu.take_slice();
            machine::advance_deadline(self.slice_end);
        }
        true
    }

    /// vCPU `index`, whose turn it is, waits: if others take turns, they go on.
    fn leaves(&mut self, index: usize) {
        let turns = &mut self.turns;
        let count = turns.queue.len();
        let place = turns.next.wrapping_sub(1);
        if turns.queue.get(place) != Some(&index) || count < 2 || balance::several() {
            self.changed = true;
            return;
        }
        for at in turns.next..count {
            turns.queue.swap(at - 1, at);
        }
        turns.queue.pop();
        turns.next = place;
        turns.sliced = count > 2;
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
            vcpu.state = State::Waiting;
            vcpu.until = machine::now() + vcpu.vm.slice;
        }
        if requests & request::ANSWER != 0 && vcpu.state == State::Stalled {
            vcpu.state = State::Ready;
        }
        if requests & request::REPORT != 0 {
            vcpu.publish();
            monitor::published();
        }
        if requests & request::REGISTERS != 0 {
            self.show_registers(index);
        }
    }

    /// Shows the registers of vCPU `index`, which are all live once it is loaded.
    fn show_registers(&mut self, index: usize) {
        let loaded = self.loaded == index;
        self.load(index);
        monitor::registers(&self.vcpus[index]);
        if !loaded {
            self.unload(index);
        }
    }

    /// The next vCPU of the highest priority that is ready, round robin.
    #[inline(always)]
    fn pick(&mut self) -> Option<usize> {
        let turns = &mut self.turns;
        let (place, index) = match turns.queue.get(turns.next) {
            Some(&index) => (turns.next, index),
            None => (0, *turns.queue.first()?),
        };
        turns.next = place + 1;
        Some(index)
    }

    /// Waits for an interrupt: a kick, or the deadline of a vCPU that waits.
    fn idle(&mut self) {
        self.slice_end = NEVER;
        if self.wake_due() {
            return;
        }
        balance::runs(self.index, 0);
        self.set_deadline();
        machine::wait();
        self.take_interrupt();
        // Who is woken by that is not charged for the wait.
        self.now = machine::now();
    }

    /// Takes an interrupt while no guest runs; whether there is something to do.
    #[inline(never)]
    fn take_interrupt(&mut self) -> bool {
        let loaded = self.vcpus.get_mut(self.loaded).map(|vcpu| &mut **vcpu);
        let interrupt = irq::take(loaded);
        match interrupt {
            Interrupt::Console => monitor::input(),
            Interrupt::Deadline => monitor::tick(),
            // What a kick brings is a request.
            Interrupt::Kick | Interrupt::Own | Interrupt::None => {}
        }
        // What was due may be over.
        self.changed |= interrupt == Interrupt::Deadline;
        let index = self.loaded;
        if let Some(vcpu) = self.vcpus.get_mut(index)
            && vcpu.state == State::Waiting
        {
            // WFI may end though the guest does not take it (ARM DDI 0406C, B1.8.14).
            let mut pending = interrupt == Interrupt::Own;
            if interrupt == Interrupt::Deadline {
                vcpu.look_at_timers();
                pending = vcpu.pending();
            }
            if pending {
                vcpu.state = State::Ready;
                self.joins(index);
                return true;
            }
        }
        interrupt != Interrupt::None
    }

    /// Scrubs the memory of a VM that vCPU `index` has left as the last one, until there is something else to do.
    #[cold]
    #[inline(never)]
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
        vcpu.state = State::Off;
        vcpu.set_leaving(false);
        vcpu.vm.finish();
    }

    /// Makes the vCPUs ready whose deadlines have come; whether there are any.
    fn wake_due(&mut self) -> bool {
        let mut any = false;
        for vcpu in self.vcpus.iter_mut() {
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
            if matches!(vcpu.state, State::Waiting | State::Stalled) && vcpu.until <= machine::now()
            {
                vcpu.state = State::Ready;
                any = true;
            }
        }
        self.changed |= any;
        any
    }

    /// Sets the Hyp timer to the first thing that is due: the end of the slice, a deadline of a vCPU
    /// that waits, or of the timers of the one that is live.
    #[inline(never)]
    fn set_deadline(&mut self) {
        let live = self.vcpus.get_mut(self.loaded).map(|vcpu| &mut **vcpu);
        wake_by(self.slice_end, self.turns.due, live);
    }

    /// Whether vCPU `index` goes on after something has changed: not where one of a higher priority is ready, or
    /// one that should be elsewhere.
    #[cold]
    #[inline(never)]
    fn stays(&mut self, index: usize) -> bool {
        self.look_over();
        let turns = &self.turns;
        self.vcpus[index].priority >= turns.priority
            && !(turns.crowded && self.spare(Some(index)).is_some())
    }

    /// Whether vCPU `index` goes on. What it may do depends on whether it has its CPU to itself.
    #[inline(always)]
    fn share(&mut self, index: usize) -> bool {
        if self.changed && !self.stays(index) {
            return false;
        }
        let turns = &self.turns;
        let Some(vcpu) = self.vcpus.get_mut(index) else {
            return false;
        };
        if !turns.sliced {
            self.slice_end = NEVER;
        } else if self.slice_end == NEVER {
            self.slice_end = self.now + vcpu.take_slice();
        }
        if vcpu.traps_wfi == turns.alone {
            vcpu.traps_wfi = !turns.alone;
            Live::trap_wfi(!turns.alone);
        }
        wake_by(self.slice_end, turns.due, Some(vcpu));
        true
    }

    /// Runs vCPU `index` until something other than itself has to be done.
    #[inline(always)]
    fn turn(&mut self, index: usize) {
        self.load(index);
        self.slice_end = NEVER;
        while self.share(index) {
            if !self.go(index) {
                return;
            }
        }
        self.keep_turn(index);
    }

    /// Runs vCPU `index` until its turn is over, or, `true`, who shares the CPU is not what it was.
    #[inline(always)]
    fn go(&mut self, index: usize) -> bool {
        loop {
            let vcpu = &mut *self.vcpus[index];
            let next = if vcpu.pending.is_some() {
                exit::complete(vcpu)
            } else {
                exit::run(vcpu)
            };
            match next {
                Next::Resume => {}
                Next::Wake => {
                    let vcpus = vcpu.wakes;
                    if self.wake(index, vcpus) {
                        return self.goes_on(index);
                    }
                }
                Next::Interrupt => {
                    let interrupt = irq::take(Some(vcpu));
                    if interrupt > Interrupt::Own
                        && let Some(goes_on) = self.interrupted(index, interrupt)
                    {
                        return goes_on;
                    }
                }
                Next::Vfp => {
                    vcpu.keen = KEEN;
                    self.give_vfp(index);
                }
                Next::Timer => self.set_deadline(),
                Next::Yield => return false,
                // With others to run it is put, which looks for itself whether something is pending.
                Next::Wait => {
                    if self.turns.queue.len() > 1 || !vcpu.pending() {
                        (vcpu.state, vcpu.until) = (State::Waiting, NEVER);
                        self.leaves(index);
                        return false;
                    }
                }
                Next::Stall => {
                    let deadline = vcpu.link().awaited.lock().deadline;
                    (vcpu.state, vcpu.until) = (State::Stalled, deadline);
                    self.changed = true;
                    return false;
                }
                Next::Off => {
                    self.leave(index, false);
                    return false;
                }
                Next::Create => create(vcpu),
                Next::Stop(stop) => {
                    if stop == Stop::Crash && vcpu.vm.config.policy.on_crash == OnCrash::Dump {
                        monitor::registers(vcpu);
                    }
                    vcpu.vm.stop(stop);
                    self.take_requests();
                    return false;
                }
            }
        }
    }

    /// Does what an interrupt left to do. Whether vCPU `index` goes on, if it has to share anew; `None`
    /// where nothing has changed.
    fn interrupted(&mut self, index: usize, interrupt: Interrupt) -> Option<bool> {
        match interrupt {
            Interrupt::None | Interrupt::Own => return None,
            Interrupt::Kick => {
                if !self.take_requests() {
                    return None;
                }
            }
            Interrupt::Console => monitor::input(),
            Interrupt::Deadline => {
                monitor::tick();
                self.wake_due();
                self.vcpus[index].look_at_timers();
            }
        }
        Some(self.goes_on(index))
    }

    /// Whether vCPU `index`, whose turn it is, goes on.
    fn goes_on(&mut self, index: usize) -> bool {
        if !may_run(&self.vcpus[index]) || self.loaded != index || self.dropping {
            return false;
        }
        self.now = machine::now();
        self.now < earlier(self.slice_end, self.spent)
    }

    /// Wakes those of `vcpus` that wait, of the VM of vCPU `index`, which all live here; whether who shares
    /// the CPU has changed by more than that.
    #[inline(never)]
    fn wake(&mut self, index: usize, mut vcpus: u8) -> bool {
        let vm = Arc::as_ptr(&self.vcpus[index].vm);
        let mut more = false;
        while vcpus != 0 {
            let is_asked =
                |vcpu: &Vcpu| vcpus >> vcpu.index & 1 != 0 && Arc::as_ptr(&vcpu.vm) == vm;
            let Some(place) = self.vcpus.iter().position(|vcpu| is_asked(vcpu)) else {
                // They are only about to arrive.
                self.vcpus[index].vm.wake(vcpus);
                break;
            };
            let vcpu = &mut self.vcpus[place];
            vcpus &= !(1 << vcpu.index);
            vcpu.stir();
            if vcpu.state == State::Waiting {
                vcpu.state = State::Ready;
                more |= !self.joins(place);
            }
        }
        more
    }

    /// vCPU `index` gives way in the midst of its turn, and has the rest of it next, before its equals.
    #[cold]
    fn keep_turn(&mut self, index: usize) {
        let rest = self.slice_end.saturating_sub(self.now);
        if self.slice_end != NEVER && rest != 0 {
            let vcpu = &mut self.vcpus[index];
            (vcpu.slice, vcpu.served) = (rest, 0);
            self.changed = true;
        }
    }

    /// Makes vCPU `index` the one that is live.
    #[inline(always)]
    fn load(&mut self, index: usize) {
        if self.loaded != index {
            self.switch(index);
        }
    }

    /// Takes vCPU `index` from the hardware, if it is live.
    #[inline(always)]
    fn unload(&mut self, index: usize) {
        if self.loaded == index {
            self.switch(NOWHERE);
        }
    }

    /// Takes the vCPU that is live from the hardware, and makes vCPU `index` live, if that is one.
    #[inline(never)]
    fn switch(&mut self, index: usize) {
        let Some(lrs) = machine::list_registers() else {
            return;
        };
        if let Some(vcpu) = self.vcpus.get_mut(self.loaded)
            && vcpu.put(lrs)
        {
            self.turns.due = earlier(self.turns.due, vcpu.until);
            self.changed |= vcpu.state == State::Ready;
        }
        self.loaded = index;
        if let Some(vcpu) = self.vcpus.get_mut(index) {
            vcpu.make_live(self.index, self.vfp == index, lrs);
            if vcpu.keen != 0 {
                self.give_vfp(index);
            }
        }
    }

    /// vCPU `index`, which is live, gets its VFP registers.
    #[inline(never)]
    fn give_vfp(&mut self, index: usize) {
        let owner = core::mem::replace(&mut self.vfp, index);
        if owner == index {
            return;
        }
        let (owner, vcpu) = match self.vcpus.get_disjoint_mut([owner, index]) {
            Ok([owner, vcpu]) => (Some(&mut owner.context.vfp), vcpu),
            Err(_) => (None, &mut self.vcpus[index]),
        };
        vcpu.keen -= 1;
        vfp::switch(owner, &vcpu.context.vfp);
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
        (vcpu.traps_wfi, vcpu.keen) = (true, 0);
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
        if let Some(vcpu) = self.vcpus.get(index) {
            vcpu.forget_interrupts();
        }
        if self.vfp == index {
            self.vfp = NOWHERE;
        }
    }

    /// vCPU `index` is off from now on. It counts as on if it was about to start.
    fn leave(&mut self, index: usize, starting: bool) {
        self.changed = true;
        self.forget(index);
        let vcpu = &mut self.vcpus[index];
        if !vcpu.leaving && (starting || vcpu.state != State::Off) {
            vcpu.set_leaving(vcpu.vm.left(vcpu.index));
            vcpu.state = if vcpu.leaving {
                State::Ready
            } else {
                State::Off
            };
        }
    }
}
