//! A vCPU, as the CPU that runs it has it: its registers, and what it does to its VM's devices.

use crate::bus::{Device, interrupt};
use crate::decode::{Instruction, Transfer};
use crate::flash;
use crate::line::Line;
use crate::machine::{self, Context, ListRegisters, Live, LiveBanks};
use crate::pl031::Pl031;
use crate::regs::Gprs;
use crate::syndrome::DataAbort;
use crate::vgic::{Interface, Kick, Loaded, Put, Vgic};
use crate::vm::{self, Figures, Link, REASONS, State as Shared, Vm, request};
use crate::vtimer::{self, Timer};
use crate::warn;
use alloc::sync::Arc;
use core::cell::Cell;
use spin::MutexGuard;

/// What a vCPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Off, by PSCI or because its VM is.
    Off,
    /// Running or ready to run.
    Ready,
    /// In WFI, until something is pending or it has waited long enough.
    Waiting,
    /// In an access, until another VM has made it or it has waited long enough.
    Stalled,
}

/// The VM's lock, taken.
type Locked<'a> = MutexGuard<'a, Shared>;

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

/// The names of the [`Reason`]s.
pub const NAMES: [&str; REASONS] = [
    "", "HVC", "SMC", "CP15", "VFP", "data", "fetch", "wait", "IRQ", "other",
];

/// No time, ticks.
pub const NEVER: u64 = u64::MAX;

/// An access under way.
#[derive(Clone, Copy, Debug)]
pub enum Pending {
    /// One that the syndrome describes, of this virtual address.
    Described(DataAbort, u32),
    /// One of an instruction's.
    Emulated(Emulation),
}

/// An instruction that is being performed, see `exit/mmio/emulate.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Emulation {
    /// What is left to do.
    pub transfer: Transfer,
    /// The abort that began it.
    pub abort: DataAbort,
    /// The address of that.
    pub far: u32,
    /// Whether an access has been made.
    pub begun: bool,
    /// Of an unaligned access, how many bytes have been made.
    pub bytes: u32,
    /// What they have loaded.
    pub loaded: u32,
}

/// A vCPU.
pub struct Vcpu {
    /// Its VM.
    pub vm: Arc<Vm>,
    /// Its number in the VM.
    pub index: usize,
    link: Arc<Link>,
    /// Its registers.
    pub context: Context,
    /// What it is doing.
    pub state: State,
    /// How long it waits at the most, ticks of the counter; or [`NEVER`] ends.
    pub until: u64,
    /// Whether it is to be forgotten.
    pub dropped: bool,
    /// Its VM's priority.
    pub priority: u8,
    /// Whether what its VM may take is bounded.
    pub bounded: bool,
    /// How long its next turn is, ticks: a slice, or what is left of one.
    pub slice: u64,
    /// When its last turn began, ticks; 0: it had none, or has not had all of it.
    pub served: u64,
    /// Since when it is on its CPU, ticks.
    pub came: u64,
    /// Whether it has left as the last of its VM, whose memory it scrubs in its turns.
    pub leaving: bool,
    /// Which vCPUs of its VM it has asked this CPU to wake, a bit each.
    pub wakes: u8,
    /// Whether its turns are not like others': bounded, or leaving.
    pub special: bool,
    /// Whether WFI traps.
    pub traps_wfi: bool,
    /// For how many turns it gets its VFP registers without a trap.
    pub keen: u8,
    /// Its physical timer, which is emulated.
    pub timer: Timer,
    /// Loads and stores that could not be performed, UNPREDICTABLE ones among them, and the last one.
    pub refused: (u32, Option<Instruction>),
    /// The access that it is in while another VM makes it.
    pub pending: Option<Pending>,
    banks: LiveBanks,
    /// What its interrupts' interface holds, if that is all there is to switch: see [`Loaded::quiet`].
    quiet: Cell<Option<Interface>>,
    /// Whether the virtual timer has fired, and is not known to have been deactivated since.
    pub watched: bool,
    exits: [u64; REASONS],
    /// How long it has had a CPU, and since when it has it now, ticks; [`NEVER`]: it has none.
    ran: u64,
    since: u64,
    /// Whether the next exit is timed, [`NEXT`], or one is being timed, [`TIMED`].
    sample: u8,
    /// When that began, ticks.
    left: u64,
    /// What timed exits took, ticks, and how many there were.
    sampled: (u64, u32),
}

/// Interrupts between two exits that are timed. To time all would cost each two reads of the counter.
const SAMPLE: u32 = 64;
const NEXT: u8 = 1;
const TIMED: u8 = 2;

impl Vcpu {
    /// A vCPU that is off.
    #[must_use]
    pub fn new(vm: Arc<Vm>, index: usize) -> Self {
        let context = vm.context(index);
        let (timer, exits) = (Timer::default(), [0; REASONS]);
        let policy = &vm.config.policy;
        let (priority, bounded) = (policy.priority, policy.budget_us.is_some());
        Self {
            slice: vm.slice,
            link: vm.links[index].clone(),
            served: 0,
            came: 0,
            vm,
            index,
            context,
            state: State::Off,
            until: NEVER,
            dropped: false,
            priority,
            bounded,
            leaving: false,
            wakes: 0,
            special: bounded,
            traps_wfi: true,
            keen: 0,
            timer,
            refused: (0, None),
            pending: None,
            banks: LiveBanks,
            quiet: Cell::new(None),
            watched: false,
            exits,
            ran: 0,
            since: NEVER,
            sample: NEXT,
            left: 0,
            sampled: (0, 0),
        }
    }

    /// How other CPUs reach it.
    #[inline(always)]
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Counts an exit.
    #[inline(always)]
    pub fn count(&mut self, reason: Reason) {
        let count = &mut self.exits[reason as usize];
        *count = count.wrapping_add(1);
    }

    /// Counts an interrupt, and has what comes next timed now and then.
    #[inline(always)]
    pub fn count_interrupt(&mut self) {
        self.count(Reason::Irq);
        let count = self.exits[Reason::Irq as usize] as u32;
        if count.is_multiple_of(SAMPLE) {
            self.sample |= NEXT;
        }
    }

    /// It is about to go on: whether its next exit is to be timed. What was timed ends.
    #[inline(always)]
    pub fn sample(&mut self) -> bool {
        self.sample != 0 && self.end_sample()
    }

    #[cold]
    fn end_sample(&mut self) -> bool {
        if self.sample & TIMED != 0 {
            self.sampled.0 += machine::now() - self.left;
            self.sampled.1 += 1;
        }
        core::mem::take(&mut self.sample) & NEXT != 0
    }

    /// The exit that is to be timed has just come.
    pub fn begin_sample(&mut self) {
        self.sample |= TIMED;
        self.left = machine::now();
    }

    /// How long its exits have taken, as far as those that were timed tell, ticks.
    fn in_hyp(&self) -> u64 {
        let (ticks, count) = self.sampled;
        let exits: u64 = self.exits.iter().sum();
        // An exit is short, and there are fewer than 2^40 of them.
        (ticks * 256 / u64::from(count.max(1)) * exits / 256).min(self.ran)
    }

    /// From now on it scrubs in its turns, or does no more.
    pub fn set_leaving(&mut self, leaving: bool) {
        self.leaving = leaving;
        self.special = self.bounded || leaving;
    }

    /// How long its turn that begins may last, ticks; the next one has a whole slice again.
    #[inline(always)]
    pub fn take_slice(&mut self) -> u64 {
        core::mem::replace(&mut self.slice, self.vm.slice)
    }

    /// It gets a CPU at `now`, ticks.
    #[inline(always)]
    pub fn start_clock(&mut self, now: u64) {
        (self.since, self.served) = (now, now);
    }

    /// It loses its CPU at `now`, ticks.
    #[inline(always)]
    pub fn stop_clock(&mut self, now: u64) {
        self.ran += now - self.since;
        self.since = NEVER;
        // What others do until it runs again is none of its exits.
        self.sample &= !TIMED;
    }

    /// Lets other CPUs see what it has done.
    pub fn publish(&mut self) {
        if self.since != NEVER {
            let now = machine::now();
            self.stop_clock(now);
            self.since = now;
        }
        *self.link().figures.lock() = Figures {
            doing: match self.state {
                State::Off => "off",
                State::Ready => "runs",
                State::Waiting => "waits",
                State::Stalled => "waits for a device model",
            },
            exits: self.exits,
            ran: self.ran,
            in_hyp: self.in_hyp(),
            refused: self.refused,
        };
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

/// How soon the virtual timer's line is looked at again, 1/s: near 2 ms.
const SOON: u32 = 512;

/// General registers.
impl Vcpu {
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
        let regs = self.context.regs();
        match regs.unbanked(n) {
            Some(n) => regs.r[n],
            None => self.banked_gpr(n),
        }
    }

    #[cold]
    #[inline(never)]
    fn banked_gpr(&self, n: u32) -> u32 {
        self.context.regs().get(&self.banks, n)
    }

    /// Sets register `n`, below 15.
    #[inline(always)]
    pub fn set_gpr(&mut self, n: u32, value: u32) {
        let regs = self.context.regs_mut();
        match regs.unbanked(n) {
            Some(n) => regs.r[n] = value,
            None => self.set_banked_gpr(n, value),
        }
    }

    #[cold]
    #[inline(never)]
    fn set_banked_gpr(&mut self, n: u32, value: u32) {
        self.gprs().set(n, value);
    }
}

/// Devices: loads and stores of `width` bytes, 1, 2 or 4, with the VM's lock taken. Of `offset` the
/// bits above the device's size do not count: a device is aligned to its size, so that it may as
/// well be the address.
impl Vcpu {
    /// What the guest loads at `offset` of `device`.
    #[inline(never)]
    pub fn load(&self, state: Locked<'_>, device: Device, offset: u32, width: u32) -> u32 {
        match device {
            Device::Uart => self.load_uart(state, offset, width),
            Device::Gicd => self.load_gicd(state, offset, width),
            Device::Rtc => self.load_rtc(state, offset, width),
            Device::Flash => state.flash[bank(offset)].read(offset, width),
            Device::GiccDir => 0,
        }
    }

    /// Stores `value` at `offset` of `device`.
    #[inline(never)]
    pub fn store(
        &self,
        mut state: Locked<'_>,
        device: Device,
        offset: u32,
        width: u32,
        value: u32,
    ) {
        match device {
            Device::Uart => self.store_uart(state, offset, width, value),
            Device::Gicd => self.store_gicd(state, offset, width, value),
            Device::Rtc => self.store_rtc(state, offset, width, value),
            Device::GiccDir => self.store_dir(state, offset, value),
            Device::Flash => state.flash[bank(offset)].write(offset, width, value),
        }
    }

    /// A store to the distributor.
    #[inline(always)]
    fn store_gicd(&self, mut state: Locked<'_>, offset: u32, width: u32, value: u32) {
        let kick = self.write_gicd(&mut state, offset, width, value);
        if kick != Kick(0) {
            self.change_gic(state, |_, _, _| kick);
        }
    }

    /// The same. Which vCPUs of its VM are to be woken on this CPU, a bit each.
    #[inline(always)]
    pub fn ask_gicd(&self, mut state: Locked<'_>, offset: u32, width: u32, value: u32) -> u8 {
        match self.write_gicd(&mut state, offset, width, value) {
            Kick(0) => 0,
            kick => self.ask(state, kick),
        }
    }

    /// Does what follows from a change that has led to `kick`, but to wake those that live here: they are returned.
    #[inline(never)]
    fn ask(&self, state: Locked<'_>, mut kick: Kick) -> u8 {
        if state.gic.needs_flush(self.index) {
            kick = self.apply(state, |_, _, _| kick);
        } else {
            drop(state);
        }
        self.vm
            .wake_elsewhere(kick.0 & !(1 << self.index), self.link.cpu())
    }

    #[inline(always)]
    fn write_gicd(&self, state: &mut Shared, offset: u32, width: u32, value: u32) -> Kick {
        let offset = offset & 0xfff;
        if !Vgic::is_live(offset) {
            state.gic.poke(self.index, offset, width, value)
        } else if Vgic::sends(offset, width)
            && let Some(mut lrs) = machine::list_registers()
        {
            state.gic.send(self.index, value, &mut lrs)
        } else {
            self.write_gicd_state(state, offset, width, value)
        }
    }

    #[inline(never)]
    fn write_gicd_state(&self, state: &mut Shared, offset: u32, width: u32, value: u32) -> Kick {
        let Some(mut lrs) = machine::list_registers() else {
            return Kick(0);
        };
        let mut kick = state.gic.write(self.index, offset, width, value, &mut lrs);
        if state.gic.needs_flush(self.index) {
            kick |= Kick(1 << self.index);
        }
        kick
    }

    /// A load from the distributor.
    #[inline(always)]
    pub fn load_gicd<'a>(&'a self, state: Locked<'a>, offset: u32, width: u32) -> u32 {
        let offset = offset & 0xfff;
        if Vgic::is_live(offset) {
            return self.load_gicd_state(state, offset, width);
        }
        state.gic.peek(self.index, offset, width)
    }

    /// Pending and active state, of which list registers may know more.
    #[cold]
    #[inline(never)]
    fn load_gicd_state<'a>(&'a self, mut state: Locked<'a>, offset: u32, width: u32) -> u32 {
        let Some(mut lrs) = machine::list_registers() else {
            return 0;
        };
        let stale = state.gic.stale(self.index, offset);
        if stale != 0 {
            drop(state);
            self.sync_others(offset, stale);
            state = self.vm.state();
        }
        self.sample_timer(&mut state.gic);
        let kick = self.vm.sample_lines(&mut state.gic);
        let value = state.gic.read(self.index, offset, width, &mut lrs);
        if state.gic.needs_flush(self.index) || kick != Kick(0) {
            self.settle(&mut state, kick);
        }
        value
    }

    /// Has the CPUs of the vCPUs `others` fold their list registers into the model, and waits until
    /// they have, or have put the vCPU: it may be on its way to this CPU, which would wait for itself.
    #[cold]
    fn sync_others(&self, offset: u32, others: u8) {
        let of_others = || {
            let links = self.vm.links.iter().enumerate();
            links.filter(move |(index, _)| others & (1 << index) != 0)
        };
        for (_, link) in of_others() {
            link.request(request::SYNC);
        }
        let holds =
            |index: usize| self.vm.state().gic.stale(self.index, offset) & (1 << index) != 0;
        for (index, link) in of_others() {
            // One of this CPU is not live, and holds nothing.
            while link.mailbox.is_asked(request::SYNC)
                && link.cpu() != self.link().cpu()
                && holds(index)
            {
                // Another vCPU of the VM may be waiting for this one in the same way.
                if self.link().mailbox.take_some(request::SYNC) {
                    self.sync();
                }
                core::hint::spin_loop();
            }
        }
    }

    /// GICC_DIR, trapped since more interrupts have been active than there are list registers.
    #[cold]
    fn store_dir(&self, state: Locked<'_>, offset: u32, value: u32) {
        if offset & 0xfff == 0 {
            self.change_gic(state, |gic, vcpu, lrs| {
                if gic.traps_dir(vcpu) {
                    return gic.deactivate(vcpu, value, lrs);
                }
                machine::deactivate_virtual(value);
                Kick(0)
            });
        }
    }

    /// A load from the UART.
    #[inline(always)]
    pub fn load_uart(&self, state: Locked<'_>, offset: u32, width: u32) -> u32 {
        match state.uart.flags(offset, width) {
            Some(flags) => flags,
            None => self.load_uart_any(state, offset, width),
        }
    }

    #[cold]
    #[inline(never)]
    fn load_uart_any(&self, mut state: Locked<'_>, offset: u32, width: u32) -> u32 {
        let (value, line) = state.uart.read(offset, width);
        self.uart_line(&mut state, line);
        value
    }

    /// A store to the UART.
    #[inline(always)]
    pub fn store_uart(&self, mut state: Locked<'_>, offset: u32, width: u32, value: u32) {
        if state.uart.sends(offset) {
            drop(state);
            return self.print(value as u8);
        }
        self.store_uart_any(state, offset, width, value);
    }

    #[inline(never)]
    fn store_uart_any(&self, mut state: Locked<'_>, offset: u32, width: u32, value: u32) {
        let effect = state.uart.write(offset, width, value);
        self.uart_line(&mut state, effect.line);
        drop(state);
        if let Some(byte) = effect.tx {
            self.print(byte);
        }
    }

    /// Writes a byte to the console.
    #[inline(always)]
    fn print(&self, byte: u8) {
        if !self.vm.print(byte) {
            self.link().request(request::PAUSE);
        }
    }

    /// Passes on what an access did to the UART's line, after what has been typed has filled the
    /// room that it made.
    #[inline(always)]
    fn uart_line(&self, state: &mut Shared, line: Line) {
        if state.typed || line != Line::Same {
            self.change_uart_line(state, line);
        }
    }

    #[inline(never)]
    fn change_uart_line(&self, state: &mut Shared, line: Line) {
        if state.typed {
            state.refill();
            let level = state.uart.line();
            self.set_line(state, interrupt::UART, level);
        } else {
            self.set_line(state, interrupt::UART, line == Line::Raised);
        }
    }

    #[inline(never)]
    fn load_rtc(&self, state: Locked<'_>, offset: u32, width: u32) -> u32 {
        self.use_rtc(state, |rtc, now| rtc.read(offset, width, now))
    }

    #[inline(never)]
    fn store_rtc(&self, state: Locked<'_>, offset: u32, width: u32, value: u32) {
        self.use_rtc(state, |rtc, now| (0, rtc.write(offset, width, value, now)));
    }

    fn use_rtc(
        &self,
        mut state: Locked<'_>,
        access: impl FnOnce(&mut Pl031, u32) -> (u32, Line),
    ) -> u32 {
        let (value, line) = access(&mut state.rtc, self.vm.seconds());
        self.vm.note_alarm(&state);
        if line != Line::Same {
            self.set_line(&mut state, interrupt::RTC, line == Line::Raised);
        }
        value
    }

    /// Sets a shared interrupt's line, with the VM's lock held.
    #[cold]
    #[inline(never)]
    fn set_line(&self, state: &mut Shared, intid: u32, level: bool) {
        let kick = state.gic.set_level(self.index, intid, level);
        self.settle(state, kick);
    }
}

/// Interrupts, for the vCPU that is loaded.
impl Vcpu {
    /// Changes the interrupt controller, and lets everybody know what follows.
    #[inline(always)]
    fn with_gic(&self, change: impl FnOnce(&mut Vgic, usize, &mut ListRegisters) -> Kick) {
        self.change_gic(self.vm.lock(), change);
    }

    /// So, with the VM's lock taken.
    #[inline(always)]
    fn change_gic(
        &self,
        state: Locked<'_>,
        change: impl FnOnce(&mut Vgic, usize, &mut ListRegisters) -> Kick,
    ) {
        let kick = self.apply(state, change);
        self.vm.kick(kick, self.index);
    }

    /// So, and leaves it to the caller to let the others know.
    #[inline(always)]
    fn apply(
        &self,
        mut state: Locked<'_>,
        change: impl FnOnce(&mut Vgic, usize, &mut ListRegisters) -> Kick,
    ) -> Kick {
        let Some(mut lrs) = machine::list_registers() else {
            return Kick(0);
        };
        let mut kick = change(&mut state.gic, self.index, &mut lrs);
        if state.gic.needs_flush(self.index) {
            self.quiet.set(None);
            kick |= state.gic.flush(self.index, &mut lrs);
            self.release(&mut state);
            if state.gic.traps_dir(self.index) {
                self.watch_dir(&mut state);
            }
        }
        kick
    }

    /// From now on GICC_DIR traps, for the VM's whole life: the hardware does not tell which of
    /// several interrupts that are active outside of list registers a write means.
    #[cold]
    fn watch_dir(&self, state: &mut Shared) {
        if !state.dir_trapped {
            state.dir_trapped = true;
            if let Err(why) = state.memory.trap_dir() {
                warn!("{}: GICC_DIR is not watched: {why}", self.vm.name());
            }
        }
    }

    /// Lets the virtual timer's interrupt go where the guest has quietened the timer without
    /// acknowledging it.
    ///
    /// The hardware does not: a pending list register stays so, and no access to CNTV traps. So the
    /// guest may see the interrupt until the next time that the hypervisor looks: when the
    /// distributor is asked for pending or active state, and before WFI.
    fn sample_timer(&self, gic: &mut Vgic) {
        const ID: u32 = interrupt::VIRTUAL_TIMER;
        if gic.outstanding(self.index, ID) && !Live::virtual_timer_line() {
            let kick = gic.set_level(self.index, ID, false);
            debug_assert!(
                kick.0 & !(1 << self.index) == 0,
                "a private interrupt is nobody else's"
            );
        }
    }

    /// After a change with the lock held already.
    fn settle(&self, state: &mut Shared, mut kick: Kick) {
        if state.gic.needs_flush(self.index)
            && let Some(mut lrs) = machine::list_registers()
        {
            self.quiet.set(None);
            kick |= state.gic.flush(self.index, &mut lrs);
            self.release(state);
        }
        self.vm.kick(kick, self.index);
    }

    /// Deactivates the physical interrupts that nothing virtual stands for any more.
    #[inline(always)]
    fn release(&self, state: &mut Shared) {
        while let Some(id) = state.gic.next_release(self.index) {
            machine::set_active(id.into(), false);
        }
    }

    /// Brings its list registers up to date.
    pub fn flush(&self) {
        self.with_gic(|_, _, _| Kick(0));
    }

    /// Folds its list registers into the model, and fills them anew.
    pub fn sync(&self) {
        self.with_gic(|gic, vcpu, lrs| gic.sync(vcpu, lrs));
    }

    /// The virtual timer has fired; its physical interrupt stays active until the guest
    /// deactivates it.
    ///
    /// QEMU deactivates it then without looking at the timer's line again (7.2, gic_complete_irq):
    /// where that has risen meanwhile, nothing is seen of it until the next change of any line. The
    /// Hyp timer makes one soon, and again while the interrupt is active. Hardware has no need.
    pub fn virtual_timer_fired(&mut self) {
        self.watched = true;
        look_soon();
        self.quiet.set(None);
        self.with_gic(|gic, vcpu, lrs| gic.raise(vcpu, interrupt::VIRTUAL_TIMER, lrs));
    }

    /// The board's interrupt `id` has come; whether it is of a device of its VM, and for it first of all. What is
    /// said above holds for it too.
    pub fn device_fired(&mut self, id: u32) -> bool {
        let (Some(intid), Some(mut lrs)) = (self.vm.wired_to(id), machine::list_registers()) else {
            return false;
        };
        let mut state = self.vm.lock();
        match state.gic.raise_shared(self.index, intid, &mut lrs) {
            None => return false,
            Some(Kick(0)) => drop(state),
            Some(kick) => self.change_gic(state, |_, _, _| kick),
        }
        self.watched = true;
        look_soon();
        true
    }

    /// Sees to the virtual timer as above, where it is [watched](Self::watched), after the Hyp timer has
    /// been set for other things.
    #[inline(never)]
    pub fn watch_virtual_timer(&mut self) {
        const ID: u32 = interrupt::VIRTUAL_TIMER;
        let state = self.vm.lock();
        let lines = self.vm.has_line_out(&state.gic);
        self.watched = state.gic.outstanding(self.index, ID) || lines;
        drop(state);
        if self.watched {
            look_soon();
        }
    }

    /// Gives the line of the physical timer the level that it has now.
    pub fn update_timer(&mut self) {
        let level = self.timer.sample(machine::now());
        self.with_gic(|gic, vcpu, _| gic.set_level(vcpu, interrupt::PHYSICAL_TIMER, level));
    }

    /// The Hyp timer has fired, perhaps for the physical timer's line, and perhaps so that it is known
    /// whether the virtual timer's interrupt has been deactivated.
    pub fn look_at_timers(&mut self) {
        let level = self.timer.sample(machine::now());
        let watched = self.watched;
        self.with_gic(|gic, vcpu, lrs| {
            let mut kick = Kick(0);
            if watched {
                kick = gic.sync(vcpu, lrs);
                kick |= self.vm.sample_lines(gic);
            }
            kick |= gic.set_level(vcpu, interrupt::PHYSICAL_TIMER, level);
            kick
        });
    }

    /// Whether something ends its WFI.
    #[must_use]
    pub fn pending(&self) -> bool {
        let mut pending = true;
        self.with_gic(|gic, vcpu, lrs| {
            self.sample_timer(gic);
            let mut kick = self.vm.sample_lines(gic);
            let (signalled, others) = gic.pending_loaded(vcpu, lrs);
            pending = signalled;
            kick |= others;
            kick
        });
        pending
    }

    /// Makes it live on CPU number `cpu`, which this is and has `lrs`; `vfp_live`: its VFP registers are there still.
    #[inline(always)]
    pub fn make_live(&mut self, cpu: usize, vfp_live: bool, mut lrs: ListRegisters) {
        let takes_turns = vm::loads(cpu, &self.vm, self.index);
        machine::load(&self.context, vfp_live);
        if takes_turns {
            machine::flush_own_vmid();
        }
        match self.quiet.get() {
            Some(interface) => interface.load(&mut lrs),
            None => self.load_interrupts(lrs),
        }
    }

    #[inline(never)]
    fn load_interrupts(&mut self, mut lrs: ListRegisters) {
        let wired = self.vm.has_wires();
        self.watched |= wired;
        let mut state = self.vm.lock();
        let Loaded { kick, held, quiet } = state.gic.load(self.index, &mut lrs);
        each_bit(held, |id| machine::set_active(id, true));
        self.release(&mut state);
        if !wired {
            self.quiet.set(quiet);
        }
        drop(state);
        self.vm.kick(kick, self.index);
    }

    /// Takes it from this CPU, which has `lrs`, all but its VFP registers. Whether it was in WFI: it is ready again
    /// where something has come for it.
    #[inline(always)]
    pub fn put(&mut self, lrs: ListRegisters) -> bool {
        machine::put(&mut self.context);
        let quiet = self.state == State::Ready && self.quiet.get() == Some(Interface::of(&lrs));
        !quiet && self.put_interrupts(lrs)
    }

    #[inline(never)]
    fn put_interrupts(&mut self, mut lrs: ListRegisters) -> bool {
        self.quiet.set(None);
        let mut state = self.vm.lock();
        let Put { kick, held, ready } = state.gic.put(self.index, &mut lrs);
        self.release(&mut state);
        each_bit(held, |id| machine::set_active(id, false));
        let waits = self.state == State::Waiting;
        let pending = waits && ready && state.gic.pending_for(self.index);
        drop(state);
        self.vm.kick(kick, self.index);
        if pending {
            self.state = State::Ready;
        } else if waits && (self.timer.is_on() || self.context.virtual_timer().is_on()) {
            self.wait_for_timers(held & 1 << interrupt::VIRTUAL_TIMER != 0);
        }
        waits
    }

    /// Something has come for it, which is not live: it is not enough to switch its interface.
    pub fn stir(&self) {
        self.quiet.set(None);
    }

    /// It is not live, and will not be soon.
    pub fn forget_interrupts(&self) {
        if self.quiet.take().is_some() {
            self.vm.lock().gic.forget(self.index);
        }
    }

    /// It waits no longer than for its timers. The virtual one's line is `noticed`; where that has risen
    /// unnoticed, it fires again once the vCPU is loaded.
    #[inline(never)]
    fn wait_for_timers(&mut self, noticed: bool) {
        let now = machine::now();
        let timer = self.context.virtual_timer();
        let offset = self.context.cntvoff();
        if !noticed && timer.line(now.wrapping_sub(offset)) {
            self.state = State::Ready;
        } else if let Some(first) = vtimer::next_deadline(&timer, &self.timer, offset, now) {
            self.until = self.until.min(first);
        }
    }
}

/// The number of the bank of flash at `address`.
const fn bank(address: u32) -> usize {
    (address / flash::BANK % 2) as usize
}

/// Has the Hyp timer fire soon, whatever else it is set for.
fn look_soon() {
    machine::advance_deadline(machine::now() + u64::from(machine::wiring().frequency / SOON));
}

#[inline(always)]
fn each_bit(mut bits: u32, mut each: impl FnMut(u32)) {
    while bits != 0 {
        each(bits.trailing_zeros());
        bits &= bits - 1;
    }
}
