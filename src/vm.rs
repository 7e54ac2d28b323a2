//! A VM: its memory, its devices, its vCPUs' links, and its life.
//!
//! **Locks.** One lock for each VM guards all that its vCPUs share ([`State`]). It is taken here
//! alone, by [`Vm::lock`]; whoever holds it may take those of the console and of the free frames, in
//! that order, and no other VM's. A [`Link`]'s are taken with nothing else held.
//!
//! **Life.** A VM stops when its vCPUs have all left their guests: [`Vm::stop`] asks them to. The last one
//! keeps its place among those that take turns until the memory is scrubbed; then comes what was asked for.

use crate::bus::{Unplaced, interrupt};
use crate::decode::Instruction;
use crate::fdt::{ConfigError, Interrupt, OnCrash, VmConfig, Wire};
use crate::flash::Flash;
use crate::kept::Kept;
use crate::line::Line;
use crate::loader::{Memory, Start};
use crate::machine::{self, Context, console};
use crate::mailbox::Mailbox;
use crate::mem::{self, OwnModule};
use crate::pl011::Pl011;
use crate::pl031::Pl031;
use crate::psci::{CpuPower, Power};
use crate::ring;
use crate::sched::Reservation;
use crate::tty::{FULL, Ring};
use crate::vgic::{Kick, Vgic};
use crate::vmid::{self, Vmid, Vmids};
use crate::{error, info, warn};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use spin::{Mutex, MutexGuard};

/// What one CPU asks of the CPU that a vCPU lives on, as bits of [`Link`].
pub mod request {
    /// Begin at its [`Start`](crate::loader::Start), from reset.
    pub const START: u32 = 1;
    /// Leave the guest for good.
    pub const STOP: u32 = 2;
    /// Something is pending: end WFI, bring the list registers up to date.
    pub const WAKE: u32 = 4;
    /// Fold the list registers into the model.
    pub const SYNC: u32 = 8;
    /// Pause: the console has not sent yet what the VM has written.
    pub const PAUSE: u32 = 16;
    /// Publish the vCPU's [`Figures`](super::Figures).
    pub const REPORT: u32 = 32;
    /// Look when the real-time clock's alarm is due.
    pub const ALARM: u32 = 64;
    /// Look whether it may still run.
    pub const LOOK: u32 = 128;
    /// Forget the vCPU.
    pub const DROP: u32 = 256;
    /// The device model has answered.
    pub const ANSWER: u32 = 512;
    /// Show the vCPU's registers to the operator.
    pub const REGISTERS: u32 = 1024;
}

/// A vCPU as other CPUs see it.
#[derive(Debug)]
pub struct Link {
    /// What is asked of the CPU that it lives on.
    pub mailbox: Mailbox,
    /// What the vCPU last published.
    pub figures: Mutex<Figures>,
    /// The access that the vCPU waits with. No other lock is taken while it is.
    pub awaited: Mutex<Awaited>,
}

/// An access that another VM is to make, as [`ring`] has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Awaited {
    /// The tag of its request; another one each time.
    pub tag: u32,
    /// How long the vCPU waits, ticks.
    pub deadline: u64,
    /// What was loaded, 0 for a store; `Some(None)`: an external abort.
    pub answer: Option<Option<u32>>,
}

/// Addresses where nothing is that a guest has tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unassigned {
    /// How often.
    pub count: u32,
    /// The first of them.
    pub first: [u32; 8],
}

impl Unassigned {
    /// Counts an access to `address`.
    #[inline(always)]
    pub fn note(&mut self, address: u32) {
        if let Some(first) = self.first.get_mut(self.count as usize) {
            *first = address;
        }
        self.count = self.count.wrapping_add(1);
    }
}

/// A region's device model.
#[derive(Clone, Default)]
pub struct Backend {
    /// The VM; nothing where there is none, or it could not be built.
    pub vm: Weak<Vm>,
    /// Which of its rings.
    pub ring: usize,
    /// Where the region is.
    pub base: u32,
    /// How long an access waits, ticks.
    pub patience: u64,
    /// Whether stores wait for nothing.
    pub posted: bool,
}

/// Whom a VM is the device model for.
#[derive(Clone, Default)]
pub struct Client {
    /// What has been asked.
    pub ring: ring::Ring,
    /// The VM.
    pub vm: Weak<Vm>,
    /// The interrupt that may be raised there.
    pub interrupt: Option<u32>,
}

/// What a vCPU has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// What it is doing.
    pub doing: &'static str,
    /// Exits by the number of their [`Reason`](crate::vcpu::Reason).
    pub exits: [u64; REASONS],
    /// For how long it has had a CPU, ticks.
    pub ran: u64,
    /// How much of that was the hypervisor's, ticks; estimated.
    pub in_hyp: u64,
    /// Loads and stores that could not be performed, and the last one.
    pub refused: (u32, Option<Instruction>),
}

impl Link {
    /// The CPU that the vCPU lives on.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.mailbox.home()
    }

    /// Asks for what the bits of `requests` say.
    pub fn request(&self, requests: u32) {
        self.ask(requests);
    }

    #[inline(always)]
    fn ask(&self, requests: u32) {
        let home = self.mailbox.ask(requests);
        if let Some(news) = NEWS.get(home) {
            // The mailbox has ordered what was written before, and its bits.
            news.fetch_or(news::REQUEST, Ordering::Relaxed);
        }
        machine::kick(home);
    }
}

/// What may be new for each CPU, as bits of [`news`].
static NEWS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// What may be new for a CPU.
pub mod news {
    use super::{NEWS, Ordering};
    use crate::mailbox;

    /// A request to one of its vCPUs.
    pub const REQUEST: u32 = 1;
    /// A vCPU.
    pub const ARRIVAL: u32 = 2;
    /// A CPU that could take a vCPU, or one that needs somebody to.
    pub const OFFER: u32 = 4;

    /// Says what is new for CPU number `cpu`, after it has been put where it is found.
    pub fn announce(cpu: usize, what: u32) {
        if let Some(news) = NEWS.get(cpu) {
            news.fetch_or(what, Ordering::Release);
        }
    }

    /// Takes what is new for CPU number `cpu`, which asks.
    #[inline(always)]
    #[must_use]
    pub fn take(cpu: usize) -> u32 {
        mailbox::take(&NEWS[cpu % NEWS.len()])
    }
}

/// What becomes of a VM once its vCPUs have left it. A word, so that [`exit::Next`](crate::exit::Next), which may
/// hold it, is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Stop {
    /// It asked to be off, or has no vCPU that is on.
    Off,
    /// It begins anew.
    Reset,
    /// It did what can't go on; the reason has been logged.
    Crash,
}

/// What the vCPUs of a VM share, under its lock.
pub struct State {
    /// Stage 2 and RAM.
    pub memory: Memory,
    /// The console UART.
    pub uart: Pl011,
    /// Whether something typed waits for room in the UART.
    pub typed: bool,
    /// What the guest has tried where nothing is.
    pub unassigned: Unassigned,
    input: Box<Ring>,
    /// Since when the keyboard waits for room in the input, ticks.
    deaf: Option<u64>,
    /// Whether what is typed is lost once the input is full.
    unheard: bool,
    /// Where each vCPU begins when it is asked to start.
    pub starts: Vec<Start>,
    /// The interrupt controller.
    pub gic: Vgic,
    /// Whether the guest's writes to GICC_DIR trap.
    pub dir_trapped: bool,
    /// The real-time clock.
    pub rtc: Pl031,
    /// The two banks of flash.
    pub flash: [Flash<Kept>; 2],
    /// The device models of its regions, as they stand in its description.
    pub backends: Vec<Backend>,
    /// The regions that it is the device model for, by ring.
    pub clients: Vec<Client>,
    /// Whether it has been started.
    pub begun: bool,
    /// Which vCPUs are on.
    pub power: Power,
    /// What the VM is being stopped for.
    stop: Option<Stop>,
}

/// A virtual machine.
pub struct Vm {
    /// Its number, unique as long as the machine runs.
    pub id: u32,
    /// Its description.
    pub config: VmConfig,
    /// What it is loaded from, where that was in another VM's memory.
    pub modules: Mutex<Vec<OwnModule>>,
    /// What writes its lines.
    pub writer: console::Writer,
    /// Interrupts of the board's devices that it has.
    wires: Vec<Wire>,
    /// Its vCPUs as other CPUs see them.
    pub links: Vec<Arc<Link>>,
    /// Whether it makes other VMs' accesses: it will begin, or has not left.
    serves: AtomicBool,
    /// How long a vCPU runs while others of its priority are ready, ticks.
    pub slice: u64,
    /// What its vCPUs may take, if that is bounded.
    reservation: Option<Box<Mutex<Reservation>>>,
    /// Whether it is up, or on its way there.
    up: AtomicBool,
    /// Why none of them runs, as bits of [`halt`].
    halted: AtomicU32,
    /// When it last began anew by itself, and how often around then.
    restarts: Mutex<(u64, u32)>,
    /// For each CPU the vCPU that was last loaded there. Before the first there is nothing to confuse.
    last_loaded: [AtomicU8; MAX_CPUS],
    /// When the real-time clock's alarm is due, in seconds of the counter; [`NO_ALARM`]: never.
    alarm: AtomicU32,
    vmid: Vmid,
    /// VTTBR without a VMID.
    root: u64,
    state: Mutex<State>,
}

/// Why a VM does not run though it is up.
pub mod halt {
    /// It is paused.
    pub const PAUSED: u32 = 1;
    /// It has used up its time.
    pub const SPENT: u32 = 2;
    /// It is to be destroyed, and never starts again.
    pub const DOOMED: u32 = 4;
}

/// Times that a VM may begin anew by itself in a minute.
const RESTARTS: u32 = 5;

/// So many microseconds in ticks of the counter.
fn ticks(us: u32) -> u64 {
    u64::from(us) * u64::from(machine::wiring().frequency) / 1_000_000
}

static VMIDS: Vmids<MAX_CPUS> = Vmids::new();
/// Its lock is taken with no other held.
static VMID_POOL: Mutex<vmid::Pool> = Mutex::new(vmid::Pool::new());
/// Reasons of exits that are counted; the first is unused.
pub const REASONS: usize = 10;
/// CPUs that run vCPUs.
pub const MAX_CPUS: usize = 8;

/// Every VM that there still is, the oldest first. Its lock is taken with no other held.
static VMS: Mutex<Vec<Weak<Vm>>> = Mutex::new(Vec::new());
/// The VM that is typed to.
static FOCUS: AtomicU32 = AtomicU32::new(0);
/// After what time a guest that reads nothing is taken not to hear, s.
const HEARING: u64 = 5;
/// What [`Vm::alarm`] holds where there is none.
const NO_ALARM: u32 = u32::MAX;

/// VMs that are up.
static UP: AtomicUsize = AtomicUsize::new(0);
/// VMs that have been built.
static BUILT: AtomicUsize = AtomicUsize::new(0);

impl Vm {
    /// Builds the VM of `config` with its vCPUs on the CPUs of `homes`, loaded and ready to
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// What in the description can't be had.
    pub fn build(config: VmConfig, homes: &[usize]) -> Result<Arc<Self>, ConfigError> {
        let mut memory = Memory::build(&config)?;
        let start = memory.load(&config)?;
        let mut starts = vec![Start::default(); homes.len()];
        starts[0] = start;
        let wires: Vec<Wire> = memory.assigned.wires().collect();
        let gic = interrupt_controller(homes.len(), &wires);
        let state = State {
            memory,
            uart: Pl011::new(),
            typed: false,
            unassigned: Unassigned::default(),
            input: Box::default(),
            deaf: None,
            unheard: false,
            gic,
            dir_trapped: false,
            rtc: Pl031::new(0),
            flash: Default::default(),
            backends: Vec::new(),
            clients: Vec::new(),
            begun: false,
            power: Power::new(homes.len()),
            starts,
            stop: None,
        };
        let id = BUILT.fetch_add(1, Ordering::Relaxed) as u32;
        let links = homes
            .iter()
            .map(|&cpu| {
                Arc::new(Link {
                    mailbox: Mailbox::new(cpu),
                    figures: Mutex::default(),
                    awaited: Mutex::default(),
                })
            })
            .collect();
        let reservation = config.policy.budget_us.map(|budget| {
            let period = ticks(config.policy.period_us);
            Box::new(Mutex::new(Reservation::new(ticks(budget), period)))
        });
        let prefix = alloc::format!("\x1b[3{}m{}:\x1b[0m ", 1 + id % 6, config.name);
        let writer = console::open(prefix);
        let vmid = Vmid::new(NonZeroU32::MIN.saturating_add(id));
        let root = state.memory.space.vttbr(0);
        let vm = Arc::new(Self {
            id,
            modules: Mutex::default(),
            writer,
            wires,
            links,
            serves: AtomicBool::new(true),
            slice: ticks(config.policy.slice_us),
            up: AtomicBool::new(!config.hold),
            config,
            reservation,
            halted: AtomicU32::new(0),
            restarts: Mutex::default(),
            last_loaded: [const { AtomicU8::new(0) }; MAX_CPUS],
            alarm: AtomicU32::new(NO_ALARM),
            vmid,
            root,
            state: Mutex::new(state),
        });
        VMS.lock().push(Arc::downgrade(&vm));
        if vm.is_up() {
            let up = UP.fetch_add(1, Ordering::Relaxed) + 1;
            console::set_named(up > 1);
            if up == 1 {
                vm.focus();
            }
        }
        Ok(vm)
    }

    /// Takes the VM's lock.
    #[inline(always)]
    pub fn lock(&self) -> MutexGuard<'_, State> {
        match self.state.try_lock() {
            Some(state) => state,
            None => self.wait_for_lock(),
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for_lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// As [`lock`](Self::lock), for another VM that it is to make an access for; `None` where it won't. While its
    /// memory is scrubbed its lock is held for long.
    #[must_use]
    pub fn lock_to_serve(&self) -> Option<MutexGuard<'_, State>> {
        while self.serves.load(Ordering::Acquire) {
            if let Some(state) = self.state.try_lock() {
                return Some(state);
            }
            core::hint::spin_loop();
        }
        None
    }

    /// As [`lock`](Self::lock), for what is rare: a call in place of the lock's code.
    #[inline(never)]
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.lock()
    }

    /// VTTBR for a vCPU of it that is being loaded on CPU number `cpu`.
    #[inline(always)]
    #[must_use]
    pub fn vttbr(&self, cpu: usize) -> u64 {
        if let Some(vmid) = VMIDS.load(cpu, &self.vmid) {
            return self.root | u64::from(vmid) << 48;
        }
        self.renew_vttbr(cpu)
    }

    #[cold]
    #[inline(never)]
    fn renew_vttbr(&self, cpu: usize) -> u64 {
        let vmid = VMIDS.renew(
            &mut VMID_POOL.lock(),
            cpu,
            &self.vmid,
            machine::flush_all_vmids,
        );
        let vttbr = self.root | u64::from(vmid) << 48;
        self.state().memory.space.tables_mut().vttbr = vttbr;
        vttbr
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The registers of vCPU `index` at reset.
    #[must_use]
    pub fn context(&self, index: usize) -> Context {
        Context::new(1 << 31 | index as u32, 0)
    }

    /// Places a device of a VM that has not begun, see [`Places::set`](crate::bus::Places::set).
    ///
    /// # Errors
    /// As there; [`Unplaced::Invalid`] where something else is at the address, too.
    pub fn place(&self, id: u32, address: u64) -> Result<(), Unplaced> {
        let mut state = self.state();
        if state.begun {
            return Err(Unplaced::Begun);
        }
        let mut places = state.memory.places;
        places.set(id, address)?;
        state.memory.place(&self.config, places).map_err(|why| {
            info!("{why}");
            Unplaced::Invalid
        })
    }

    /// Starts the first vCPU.
    pub fn start(&self) {
        self.rewire();
        let mut state = self.state();
        state.begun = true;
        // From now on it is asked to stop, too.
        state.power.started(0);
        if let Some(link) = self.links.first() {
            link.request(request::START | state.stop_request());
        }
    }

    /// Lets its devices interrupt the CPUs on which the guest wants them.
    ///
    /// QEMU before 9.1 has an active shared interrupt remembered by the CPU that took it, where it stays so if
    /// the guest has moved before it deactivates it.
    pub fn rewire(&self) {
        for wire in &self.wires {
            let home = self.home(wire.virt);
            if !self.state().gic.is_out(wire.virt) {
                machine::set_active(wire.physical.id, false);
            }
            machine::wire(wire.physical.id, home);
        }
    }

    /// The guest's number of the board's interrupt `id`, if that is of a device of its.
    #[inline]
    #[must_use]
    pub fn wired_to(&self, id: u32) -> Option<u32> {
        let wire = self.wires.iter().find(|wire| wire.physical.id == id)?;
        Some(wire.virt)
    }

    /// Whether it has interrupts of the board's devices.
    #[inline(always)]
    #[must_use]
    pub fn has_wires(&self) -> bool {
        !self.wires.is_empty()
    }

    /// Whether an interrupt of the board's devices has not been deactivated as far as is known.
    #[must_use]
    pub fn has_line_out(&self, gic: &Vgic) -> bool {
        self.wires.iter().any(|wire| gic.is_out(wire.virt))
    }

    /// Takes interrupts of the board's devices back where the guest has quietened the device without
    /// acknowledging them.
    #[inline(always)]
    pub fn sample_lines(&self, gic: &mut Vgic) -> Kick {
        if self.wires.is_empty() {
            return Kick(0);
        }
        self.sample(gic)
    }

    #[inline(never)]
    fn sample(&self, gic: &mut Vgic) -> Kick {
        let mut kick = Kick(0);
        for wire in &self.wires {
            let Interrupt { id, edge } = wire.physical;
            if !edge && gic.is_out(wire.virt) && !machine::is_pending(id) {
                kick |= gic.set_level(0, wire.virt, false);
            }
        }
        kick
    }

    /// The CPU on which the guest wants the shared interrupt `intid`.
    #[must_use]
    pub fn home(&self, intid: u32) -> usize {
        self.home_by(&self.state().gic, intid)
    }

    /// So, with the VM's lock taken.
    #[must_use]
    pub fn home_by(&self, gic: &Vgic, intid: u32) -> usize {
        let target = gic.target(intid).unwrap_or(0);
        self.links.get(target).map_or(0, |link| link.cpu())
    }

    /// Starts vCPU `index`, which is off, at `start`.
    pub fn start_vcpu(&self, index: usize, start: Start) {
        let state = &mut *self.state();
        if let (Some(place), Some(link)) = (state.starts.get_mut(index), self.links.get(index)) {
            *place = start;
            link.request(request::START | state.stop_request());
        }
    }

    /// Asks all vCPUs to leave, for what `stop` says; the first reason stands, or that it is to be off. Whether it is up.
    /// Paused it is no longer, unless it is again before it begins anew.
    pub fn stop(&self, stop: Stop) -> bool {
        let mut state = self.state();
        let up = self.is_up();
        if up {
            state.stop = state.stop.filter(|_| stop != Stop::Off).or(Some(stop));
            self.halted.fetch_and(!halt::PAUSED, Ordering::Relaxed);
            for (index, link) in self.links.iter().enumerate() {
                if state.power.cpu(index) != CpuPower::Off {
                    link.request(request::STOP);
                }
            }
        }
        up
    }

    /// Whether its vCPUs may run.
    #[inline(always)]
    #[must_use]
    pub fn runs(&self) -> bool {
        self.halted.load(Ordering::Relaxed) & !halt::DOOMED == 0
    }

    /// Lets none of its vCPUs run until [`resume`](Self::resume). Time passes for it.
    pub fn pause(&self) {
        self.halt(halt::PAUSED);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.unhalt(halt::PAUSED);
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.halted.load(Ordering::Relaxed) & halt::PAUSED != 0
    }

    fn halt(&self, why: u32) {
        self.halted.fetch_or(why, Ordering::Relaxed);
        self.ask_all(request::LOOK);
    }

    fn unhalt(&self, why: u32) {
        self.halted.fetch_and(!why, Ordering::Relaxed);
        self.ask_all(request::LOOK);
    }

    /// Asks all its vCPUs.
    pub fn ask_all(&self, requests: u32) {
        for link in &self.links {
            link.request(requests);
        }
    }

    /// How long a vCPU of it may run from `now` on, ticks; `None` where nothing bounds it. Where that is
    /// nothing, none of them runs before [`again`](Self::again).
    #[must_use]
    pub fn grant(&self, now: u64) -> Option<u64> {
        let left = self.reservation.as_ref()?.lock().left(now);
        if left == 0 {
            self.halt(halt::SPENT);
        }
        // All its vCPUs may be running.
        Some(left.div_ceil(self.links.len() as u64))
    }

    /// Charges what a vCPU of it has run.
    pub fn charge(&self, since: u64, now: u64) {
        if let Some(reservation) = &self.reservation {
            reservation.lock().charge(since, now);
        }
    }

    /// When it may run again after it has used up its time, ticks.
    #[must_use]
    pub fn again(&self) -> Option<u64> {
        if self.halted.load(Ordering::Relaxed) & halt::SPENT == 0 {
            return None;
        }
        self.reservation.as_ref()?.lock().again()
    }

    /// Lets it run again if that time has come.
    pub fn replenish(&self, now: u64) {
        if self.again().is_some_and(|again| again <= now) {
            self.unhalt(halt::SPENT);
        }
    }

    /// Kicks the vCPUs of `kick` but the one that asks for it.
    #[inline(always)]
    pub fn kick(&self, kick: Kick, own: usize) {
        if kick != Kick(0) {
            self.wake(kick.0 & !(1 << own));
        }
    }

    /// The device model has gone: what waits for it gets external aborts, and its interrupts are quiet.
    fn stop_serving(&self) {
        self.serves.store(false, Ordering::Release);
        for number in 0.. {
            let (client, interrupt, tags) = {
                let mut state = self.state();
                let Some(client) = state.clients.get_mut(number) else {
                    return;
                };
                (client.vm.upgrade(), client.interrupt, client.ring.reset())
            };
            let Some(client) = client else { continue };
            for tag in tags {
                client.answer(tag, None);
            }
            client.set_line(interrupt, false);
        }
    }

    /// The access of `tag` has been made: what was loaded, or `None` for an external abort.
    pub fn answer(&self, tag: u32, answer: Option<u32>) {
        let Some(link) = self.links.get(tag as usize & 7) else {
            return;
        };
        let mut awaited = link.awaited.lock();
        // One that has been given up is late.
        if awaited.tag == tag && awaited.answer.is_none() {
            awaited.answer = Some(answer);
            drop(awaited);
            link.request(request::ANSWER);
        }
    }

    /// A device of its that is not the hypervisor's sets its interrupt's line.
    pub fn set_line(&self, interrupt: Option<u32>, level: bool) {
        if let Some(intid) = interrupt {
            let kick = self.state().gic.set_level(0, intid, level);
            self.wake(kick.0);
        }
    }

    /// Wakes the vCPUs of `vcpus`.
    #[inline(never)]
    pub fn wake(&self, vcpus: u8) {
        let _ = self.wake_elsewhere(vcpus, MAX_CPUS);
    }

    /// Wakes those of `vcpus` that live on other CPUs than number `here`. The others, which are left to that CPU
    /// to wake.
    #[inline(always)]
    #[must_use = "they are not woken yet"]
    pub fn wake_elsewhere(&self, vcpus: u8, here: usize) -> u8 {
        let (mut left, mut found) = (vcpus, 0);
        while left != 0 {
            let first = left & left.wrapping_neg();
            left &= !first;
            if let Some(link) = self.links.get(first.trailing_zeros() as usize) {
                if link.cpu() == here {
                    found |= first;
                } else {
                    link.ask(request::WAKE);
                }
            }
        }
        found
    }

    /// Seconds of the machine's clock.
    #[must_use]
    pub fn seconds(&self) -> u32 {
        let wiring = machine::wiring();
        let up = machine::now() / u64::from(wiring.frequency);
        wiring.seconds_at_zero.wrapping_add(up as u32)
    }

    /// Notes when the alarm is due, after the real-time clock has been written: the first vCPU's CPU
    /// looks after it.
    pub fn note_alarm(&self, state: &State) {
        let up = self
            .seconds()
            .wrapping_sub(machine::wiring().seconds_at_zero);
        // The match is for equality: one that has passed, in this second too, comes again in 136
        // years.
        let left = |due: u32| due.wrapping_sub(self.seconds());
        let due = state.rtc.deadline().map(left).filter(|&left| left != 0);
        let due = due.map_or(NO_ALARM, |left| up.saturating_add(left));
        if self.alarm.swap(due, Ordering::Relaxed) != due
            && let Some(link) = self.links.first()
        {
            link.request(request::ALARM);
        }
    }

    /// When the real-time clock's alarm is due, ticks.
    #[inline(always)]
    #[must_use]
    pub fn alarm_ticks(&self) -> Option<u64> {
        match self.alarm.load(Ordering::Relaxed) {
            NO_ALARM => None,
            due => Some(u64::from(due) * u64::from(machine::wiring().frequency)),
        }
    }

    /// Lets the real-time clock look whether its alarm is due.
    pub fn ring(&self) {
        let now = self.seconds();
        let mut state = self.state();
        let line = state.rtc.advance(now);
        let kick = match line {
            Line::Same => Kick(0),
            _ => state.gic.set_level(0, interrupt::RTC, line == Line::Raised),
        };
        self.note_alarm(&state);
        drop(state);
        self.wake(kick.0);
    }

    /// vCPU `index` begins; where.
    pub fn started(&self, index: usize) -> Start {
        let mut state = self.state();
        state.power.started(index);
        state.gic.reset_interface(index);
        state.starts.get(index).copied().unwrap_or_default()
    }

    /// vCPU `index` has left for good; whether it was the last, which has to [`scrub`](Self::scrub).
    pub fn left(&self, index: usize) -> bool {
        let mut state = self.state();
        state.power.stopped(index);
        let last = state.power.all_off();
        drop(state);
        if last {
            self.stop_serving();
            for wire in &self.wires {
                machine::silence(wire.physical.id);
            }
        }
        last
    }

    /// Scrubs a part of its memory; whether that is done, and it may [`finish`](Self::finish).
    pub fn scrub(&self) -> bool {
        self.state().memory.ram.scrub()
    }

    /// It ends or begins anew.
    pub fn finish(&self) {
        let stop = {
            let mut state = self.state();
            state.forget_input();
            state.stop.take().unwrap_or(Stop::Off)
        };
        let again = match stop {
            Stop::Off => false,
            Stop::Reset => true,
            Stop::Crash => self.config.policy.on_crash == OnCrash::Restart && self.may_restart(),
        };
        if !again || self.is_doomed() || !self.begin("reset") {
            self.end();
        }
    }

    /// It is off.
    fn end(&self) {
        self.tell("off");
        let up = UP.fetch_sub(1, Ordering::AcqRel) - 1;
        if up == 0 {
            info!("every VM is off");
            machine::power_off();
        }
        console::set_named(up > 1);
        {
            let mut state = self.state();
            state.stop = None;
            self.up.store(false, Ordering::SeqCst);
        }
        if FOCUS.load(Ordering::Relaxed) == self.id {
            focus_next();
        }
        if self.is_doomed() {
            self.ask_all(request::DROP);
        }
    }

    /// Starts it where it is off or held; whether it is, and could be loaded. What has been placed anew its
    /// device tree says.
    pub fn start_again(&self) -> bool {
        if self.is_doomed() || self.up.swap(true, Ordering::SeqCst) {
            return false;
        }
        console::set_named(UP.fetch_add(1, Ordering::AcqRel) > 0);
        // It may have been destroyed meanwhile.
        let begun = !self.is_doomed() && self.begin("started");
        if !begun {
            self.end();
        }
        begun
    }

    /// Ends it for good: its vCPUs are forgotten, and what it had is free once they are.
    pub fn destroy(&self) {
        self.halted.fetch_or(halt::DOOMED, Ordering::SeqCst);
        if !self.stop(Stop::Off) {
            self.ask_all(request::DROP);
        }
    }

    fn is_doomed(&self) -> bool {
        self.halted.load(Ordering::SeqCst) & halt::DOOMED != 0
    }

    /// Whether it has not begun anew too often in the last minute.
    fn may_restart(&self) -> bool {
        let now = machine::now();
        let minute = u64::from(machine::wiring().frequency) * 60;
        let (since, count) = &mut *self.restarts.lock();
        if now - *since > minute {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > RESTARTS {
            info!("{}: crashed {RESTARTS} times in a minute", self.name());
        }
        *count <= RESTARTS
    }

    /// Logs `what` has become of it.
    fn tell(&self, what: &str) {
        info!(
            "{}: {what} ({} KiB free)",
            self.name(),
            mem::free_bytes() / 1024
        );
    }

    /// Loads it into memory that is scrubbed, and starts its first vCPU; whether it could be loaded.
    fn begin(&self, how: &str) -> bool {
        let loaded = {
            let mut state = self.state();
            state.uart = Pl011::new();
            state.rtc = Pl031::new(0);
            state.gic = interrupt_controller(self.links.len(), &self.wires);
            state
                .memory
                .load(&self.config)
                .map(|start| state.starts[0] = start)
        };
        if let Err(why) = loaded {
            error!("{why}");
            return false;
        }
        self.serves.store(true, Ordering::Release);
        self.tell(how);
        self.start();
        true
    }

    /// Writes a byte to the VM's console; `false` where the vCPU had better pause.
    #[inline(always)]
    #[must_use]
    pub fn print(&self, byte: u8) -> bool {
        console::put(self.writer, byte)
    }
}

/// A VM's interrupt controller at reset, for `vcpus` vCPUs.
fn interrupt_controller(vcpus: usize, wires: &[Wire]) -> Vgic {
    let mut gic = Vgic::new(vcpus, interrupt::SHARED);
    gic.link(
        interrupt::VIRTUAL_TIMER,
        machine::wiring().virtual_timer as u16,
    );
    for wire in wires {
        gic.link(wire.virt, wire.physical.id as u16);
    }
    gic
}

/// The VM that has the device of the board's interrupt `id`, and how that is wired.
#[must_use]
pub fn wired(id: u32) -> Option<(Arc<Vm>, Wire)> {
    for vm in VMS.lock().iter().filter_map(Weak::upgrade) {
        for wire in &vm.wires {
            if wire.physical.id == id {
                let wire = *wire;
                return Some((vm, wire));
            }
        }
    }
    None
}

/// Tells VMs that have been built of each other's regions.
pub fn connect(vms: &[Arc<Vm>]) {
    for vm in vms {
        for region in &vm.config.regions {
            let name = region.backend.as_ref();
            let model = vms.iter().find(|model| Some(&model.config.name) == name);
            let mut backend = Backend {
                base: region
                    .ranges
                    .first()
                    .map_or(0, |range| range.start.0 as u32),
                patience: ticks(region.timeout_us),
                posted: region.posted,
                ..Backend::default()
            };
            if let (Some(model), Some(ring)) = (model, region.ring) {
                (backend.vm, backend.ring) = (Arc::downgrade(model), ring);
                let clients = &mut model.state().clients;
                // Those of VMs that could not be built stay nobody's.
                while clients.len() <= ring {
                    clients.push(Client::default());
                }
                clients[ring].vm = Arc::downgrade(vm);
                clients[ring].interrupt = region.interrupt;
            } else if let Some(name) = name {
                error!(
                    "{}: armillary,backend is {name}, which is no VM with a ring left: it aborts",
                    region.node
                );
            }
            vm.state().backends.push(backend);
        }
    }
}

/// Every VM, by its place in the list that the console counts by.
#[must_use]
pub fn all() -> Vec<Arc<Vm>> {
    let mut vms = VMS.lock();
    vms.retain(|vm| vm.strong_count() != 0);
    vms.iter().filter_map(Weak::upgrade).collect()
}

/// What each CPU has loaded last: a VM's number and one in bits 31:3, a vCPU's in 2:0; 0: nothing. That many VMs
/// are not made while a machine runs.
static LOADED: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// CPU number `cpu` loads vCPU `index` of `vm`: makes the VM's stage 2 that of the CPU. Whether the CPU had
/// another vCPU of the VM last. Its TLB then holds translations that look like this one's: on a machine of
/// its own each has its own tables, and may use the same ASIDs for them. What a vCPU invalidates is
/// broadcast, so what it left elsewhere does no harm.
#[inline(always)]
#[must_use]
pub fn loads(cpu: usize, vm: &Vm, index: usize) -> bool {
    let (loaded, last) = (&LOADED[cpu % MAX_CPUS], &vm.last_loaded[cpu % MAX_CPUS]);
    let own = (vm.id + 1) << 3 | index as u32;
    // Only that CPU writes these.
    let before = loaded.load(Ordering::Relaxed);
    loaded.store(own, Ordering::Relaxed);
    let of_vm = last.load(Ordering::Relaxed);
    last.store(index as u8, Ordering::Relaxed);
    // The VMID stays with the VM that has been loaded last.
    if (before ^ own) >> 3 == 0 {
        return before != own;
    }
    machine::set_vttbr(vm.vttbr(cpu));
    of_vm != index as u8
}

/// Says what each CPU has loaded; `here` is the CPU that panics. Waits for no lock, which that CPU
/// may hold itself.
pub fn last_words(here: Option<usize>) {
    let vms = VMS.try_lock();
    for (cpu, loaded) in LOADED.iter().enumerate() {
        let loaded = loaded.load(Ordering::Relaxed);
        let (Some(id), index) = ((loaded >> 3).checked_sub(1), loaded & 7) else {
            continue;
        };
        let this = if here == Some(cpu) { ", this one," } else { "" };
        let known = vms.iter().flat_map(|vms| vms.iter());
        match known.filter_map(Weak::upgrade).find(|vm| vm.id == id) {
            Some(vm) => error!("CPU {cpu}{this} has vCPU {index} of {}", vm.name()),
            None => error!("CPU {cpu}{this} has vCPU {index} of VM {id}"),
        }
    }
}

/// The VM that is typed to.
#[must_use]
pub fn focused() -> Option<Arc<Vm>> {
    let id = FOCUS.load(Ordering::Relaxed);
    all().into_iter().find(|vm| vm.id == id)
}

/// The next VM that is up is typed to.
pub fn focus_next() {
    let vms = all();
    let id = FOCUS.load(Ordering::Relaxed);
    let here = vms.iter().position(|vm| vm.id == id);
    let after = here.map_or(0, |place| place + 1);
    let mut turn = vms.iter().cycle().skip(after).take(vms.len());
    if let Some(vm) = turn.find(|vm| vm.is_up()) {
        vm.focus();
    }
}

/// What is typed.
impl Vm {
    /// Whether it is neither off nor held: it has begun, or will without being started.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    /// From now on what is typed goes to this VM.
    pub fn focus(&self) {
        let before = focused().filter(|vm| vm.id != self.id);
        FOCUS.store(self.id, Ordering::Relaxed);
        console::set_focus(self.writer);
        if let Some(before) = before {
            before.state().hear();
            info!("input goes to {}", self.name());
        }
    }

    /// Whether it takes what is typed. It does not while its input is full.
    #[must_use]
    pub fn hears(&self) -> bool {
        self.state().deaf.is_none()
    }

    /// A byte has been typed.
    pub fn type_in(&self, byte: u8) {
        let kick = {
            let mut state = self.state();
            state.type_in(byte);
            let level = state.uart.line();
            state.gic.set_level(0, interrupt::UART, level)
        };
        self.wake(kick.0);
    }

    /// Gives up on a guest that has read nothing for a while: what is typed beyond its input is
    /// lost, so that the operator's commands are heard again. When to ask again, ticks.
    pub fn give_up(&self) -> Option<u64> {
        let mut state = self.state();
        let until = state.deaf? + u64::from(machine::wiring().frequency) * HEARING;
        if machine::now() < until {
            return Some(until);
        }
        state.hear();
        state.unheard = true;
        drop(state);
        warn!("{} reads nothing: what is typed is lost", self.name());
        None
    }
}

impl State {
    /// What to ask of a vCPU that starts, besides: the VM may have been stopped before that one was known to.
    fn stop_request(&self) -> u32 {
        self.stop.map_or(0, |_| request::STOP)
    }

    fn type_in(&mut self, byte: u8) {
        if !self.typed && self.uart.receive(byte).is_ok() {
            // Whether more is to come can't be known: the guest need not wait for it.
            let _ = self.uart.time_out();
            return;
        }
        self.typed = true;
        // It is heard only while there is room, but for a guest that has been given up.
        let _ = self.input.push(byte);
        if self.input.len() >= FULL && !self.unheard && self.deaf.is_none() {
            let now = machine::now();
            self.deaf = Some(now);
            console::listen(false);
            console::wake_at(now + u64::from(machine::wiring().frequency) * HEARING);
        }
    }

    /// Moves on what was typed, if the UART has room.
    #[cold]
    pub fn refill(&mut self) {
        while self.uart.room()
            && let Some(byte) = self.input.pop()
        {
            let _ = self.uart.receive(byte);
            self.unheard = false;
        }
        let _ = self.uart.time_out();
        self.typed = !self.input.is_empty();
        if self.deaf.is_some() {
            self.deaf = Some(machine::now());
            if self.input.len() < FULL / 2 {
                self.hear();
            }
        }
    }

    fn forget_input(&mut self) {
        self.input.clear();
        self.typed = false;
        self.unheard = false;
        self.hear();
    }

    /// Lets the keyboard go on.
    fn hear(&mut self) {
        if self.deaf.take().is_some() {
            console::listen(true);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        console::close(self.writer);
    }
}
