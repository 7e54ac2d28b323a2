//! The machine of tests on the host: the names of `machine.rs`, with scripts for guests.
//!
//! Each thread has a machine of its own. What the hardware does by itself is modelled: a vCPU's
//! registers are live between [`load`] and [`put`], a pending interrupt comes before the guest's
//! next instruction, VFP traps while it is closed, RAM holds rubbish until it is written, and what
//! is written stays in the caches until it is cleaned. What a guest does is a queue of steps, one
//! for each entry. With no step left, the guest is noted as it was found ([`test::found`]) and the
//! run ends by unwinding to [`test::run`].

use crate::addr::Pa;
use crate::fdt::Range;
use crate::psci::Workaround;
use crate::regs::{Banked, Banks, Regs, mode, psr};
use crate::stage2::{Table, Tables};
use crate::vgic::Lrs;
use crate::vtimer::Timer;
use crate::walk::Stage1;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use test::{Event, Guest};

/// What [`enter`] came back by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A trapped instruction, hypercall or stage-2 abort: HSR says which.
    Trap,
    /// A physical interrupt.
    Irq,
    /// A physical fast interrupt.
    Fiq,
    /// An asynchronous external abort that the guest caused.
    AsyncAbort,
}

/// The interrupt that one CPU sends another.
pub const KICK: u32 = 0;
/// What [`acknowledge`] gives from here on is no interrupt.
pub const SPURIOUS: u32 = 1020;

const CPUS: usize = 8;
const PAGE: u64 = crate::addr::PAGE;
/// What every byte of RAM is before anybody has written it.
const RUBBISH: u8 = 0xa5;

type Step = Box<dyn FnOnce(&mut Guest) -> Exit>;

struct Machine {
    cpus: [Cpu; CPUS],
    /// The CPU that this runs on.
    here: usize,
    /// Pages that have been written; `None` is one of zeroes.
    memory: BTreeMap<u64, Option<Box<[u8; PAGE as usize]>>>,
    /// Pages that caches hold newer than memory.
    cached: BTreeSet<u64>,
    now: u64,
    /// What `now` moves on by at each look.
    stride: u64,
    wiring: &'static Wiring,
    contexts: u32,
    pools: u32,
    script: VecDeque<Step>,
    found: Option<Guest>,
    thumb_stores_mislabelled: bool,
    events: Vec<Event>,
    console: Vec<(usize, String, u8)>,
    console_full: bool,
    prefixes: Vec<String>,
    prompt: String,
    said: Vec<String>,
    named: bool,
    typed: VecDeque<u8>,
    due: Option<u64>,
    /// Shared interrupts that are let through, and to which CPU.
    wired: BTreeMap<u32, usize>,
    edges: BTreeSet<u32>,
    /// Lines of devices that are asserted.
    high: BTreeSet<u32>,
    /// Whether a window is open.
    window: bool,
}

/// The GIC's virtual interface control registers.
struct Gich {
    lr: [u32; 4],
    hcr: u32,
    vmcr: u32,
    apr: u32,
}

impl Default for Gich {
    /// As with no vCPU loaded: on, with nothing in it.
    fn default() -> Self {
        Self {
            lr: [0; 4],
            hcr: 1,
            vmcr: 0,
            apr: 0,
        }
    }
}

#[derive(Default)]
struct Cpu {
    /// The context whose registers are live, by number.
    live: Option<(u32, Registers)>,
    vttbr: u64,
    fault: test::FaultRegisters,
    vfp: vfp::State,
    vfp_open: bool,
    pending: VecDeque<u32>,
    /// What has been acknowledged and its priority not dropped.
    running: Option<u32>,
    active: BTreeSet<u32>,
    gich: Gich,
    deadline: Option<u64>,
}

/// What [`load`] brings and [`put`] takes.
#[derive(Clone, Default)]
struct Registers {
    system: test::System,
    banks: [u32; 21],
}

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new(Machine {
        cpus: Default::default(),
        here: 0,
        memory: BTreeMap::new(),
        cached: BTreeSet::new(),
        now: 0,
        stride: 0,
        wiring: &QEMU,
        contexts: 0,
        pools: 0,
        script: VecDeque::new(),
        found: None,
        thumb_stores_mislabelled: false,
        events: Vec::new(),
        console: Vec::new(),
        console_full: false,
        prefixes: Vec::new(),
        prompt: String::new(),
        said: Vec::new(),
        named: false,
        typed: VecDeque::new(),
        due: None,
        wired: BTreeMap::new(),
        edges: BTreeSet::new(),
        high: BTreeSet::new(),
        window: false,
    });
}

fn machine<R>(with: impl FnOnce(&mut Machine) -> R) -> R {
    MACHINE.with_borrow_mut(with)
}

/// The CPU that this runs on.
fn cpu<R>(with: impl FnOnce(&mut Cpu) -> R) -> R {
    machine(|machine| with(&mut machine.cpus[machine.here]))
}

fn note(event: Event) {
    machine(|machine| machine.events.push(event));
}

fn live<R>(with: impl FnOnce(&mut Registers) -> R) -> R {
    cpu(|cpu| match &mut cpu.live {
        Some((_, live)) => with(live),
        None => panic!("no vCPU is live"),
    })
}

fn system<R>(with: impl FnOnce(&mut test::System) -> R) -> R {
    live(|live| with(&mut live.system))
}

/// Everything of a vCPU that is not live.
pub struct Context {
    number: u32,
    regs: Regs,
    kept: Registers,
    /// VFP and NEON.
    pub vfp: vfp::State,
}

impl Context {
    /// A vCPU at reset, as the machine's own.
    #[must_use]
    pub fn new(vmpidr: u32, cntvoff: u64) -> Self {
        let number = machine(|machine| {
            machine.contexts += 1;
            machine.contexts
        });
        let regs = Regs {
            cpsr: mode::SVC | psr::A | psr::I | psr::F,
            ..Regs::default()
        };
        let system = test::System {
            sctlr: 0x00c5_0078,
            vmpidr,
            cntvoff,
            wfi_traps: true,
            ..Default::default()
        };
        Self {
            number,
            regs,
            kept: Registers {
                system,
                banks: [0; 21],
            },
            vfp: vfp::State::default(),
        }
    }

    /// Lets the guest, which is live, have ThumbEE's registers.
    pub fn use_thumbee(&mut self) {
        system(|system| system.thumbee = true);
    }

    /// The virtual timer as it was put.
    #[must_use]
    pub fn virtual_timer(&self) -> Timer {
        Timer::new(self.kept.system.cntv_ctl, self.kept.system.cntv_cval)
    }

    /// What the virtual counter lags behind the physical one, ticks.
    #[must_use]
    pub fn cntvoff(&self) -> u64 {
        self.kept.system.cntvoff
    }

    /// The registers that the last trap saved.
    #[must_use]
    pub fn regs(&self) -> &Regs {
        &self.regs
    }

    /// The registers that the next entry loads.
    pub fn regs_mut(&mut self) -> &mut Regs {
        &mut self.regs
    }

    /// The same, and VFP's as [`vfp::spill`] has left them.
    pub fn registers(&mut self) -> (&mut Regs, &mut vfp::State) {
        (&mut self.regs, &mut self.vfp)
    }
}

/// Makes the stage-2 tables and VMID of `vttbr` those of this CPU.
pub fn set_vttbr(vttbr: u64) {
    cpu(|cpu| {
        assert!(cpu.live.is_none(), "another vCPU is live");
        cpu.vttbr = vttbr;
    });
}

/// Makes `context` live on this CPU.
pub fn load(context: &Context, vfp_live: bool) {
    note(Event::Load {
        vttbr: cpu(|cpu| cpu.vttbr),
        vmpidr: context.kept.system.vmpidr,
    });
    cpu(|cpu| {
        assert!(cpu.live.is_none(), "another vCPU is live");
        cpu.live = Some((context.number, context.kept.clone()));
        assert_eq!(cpu.gich.lr, [0; 4], "another vCPU's interrupts");
        if vfp_live {
            cpu.vfp_open = true;
            cpu.vfp.fpexc = context.vfp.fpexc;
        }
    });
}

/// Takes `context` from this CPU.
pub fn put(context: &mut Context) {
    note(Event::Put);
    cpu(|cpu| {
        let (number, live) = cpu.live.take().unwrap_or_default();
        assert_eq!(number, context.number, "another vCPU is live");
        context.kept = live;
        if std::mem::take(&mut cpu.vfp_open) {
            context.vfp.fpexc = cpu.vfp.fpexc;
        }
    });
}

/// Lets an interrupt come, or runs the next step of the script.
pub fn enter(context: &mut Context) -> Exit {
    let number = cpu(|cpu| cpu.live.as_ref().map(|(number, _)| *number));
    assert_eq!(number, Some(context.number), "another vCPU is live");
    let interrupted = machine(|machine| {
        let (now, timer) = (machine.now, machine.wiring.hyp_timer);
        let cpu = &mut machine.cpus[machine.here];
        if cpu.deadline.is_some_and(|deadline| deadline <= now) && !cpu.pending.contains(&timer) {
            cpu.pending.push_back(timer);
        }
        cpu.signalled().is_some()
    });
    if interrupted {
        return Exit::Irq;
    }
    let mut guest = Guest::entered(context.regs);
    let Some(step) = machine(|machine| machine.script.pop_front()) else {
        machine(|machine| machine.found = Some(guest));
        std::panic::resume_unwind(Box::new(test::End::Entered));
    };
    let exit = step(&mut guest);
    context.regs = guest.leave();
    exit
}

/// Registers of the vCPU that is live.
pub struct Live;

impl Live {
    /// HSR.
    #[must_use]
    pub fn hsr() -> u32 {
        cpu(|cpu| cpu.fault.hsr)
    }

    /// HDFAR.
    #[must_use]
    pub fn hdfar() -> u32 {
        cpu(|cpu| cpu.fault.hdfar)
    }

    /// HIFAR.
    #[must_use]
    pub fn hifar() -> u32 {
        cpu(|cpu| cpu.fault.hifar)
    }

    /// HPFAR.
    #[must_use]
    pub fn hpfar() -> u32 {
        cpu(|cpu| cpu.fault.hpfar)
    }

    /// What the core would leave in PAR: here the operation, and that nothing is there.
    #[must_use]
    pub fn core_translation(operation: u32, _: u32) -> u64 {
        u64::from(operation) << 1 | 1
    }

    /// The registers that the guest's stage 1 follows; TEX remap has none.
    #[must_use]
    pub fn stage1() -> Stage1 {
        system(|system| Stage1 {
            sctlr: system.sctlr,
            ttbcr: system.ttbcr,
            ttbr0: system.ttbr0,
            ttbr1: system.ttbr1,
            dacr: system.dacr,
            ..Stage1::default()
        })
    }

    /// Those of them that instructions follow.
    #[must_use]
    pub fn stage1_of_code() -> Stage1 {
        Stage1 {
            ttbr1: 0,
            ..Self::stage1()
        }
    }

    /// Whether the guest's MMU and data cache are on.
    #[must_use]
    pub fn cached() -> bool {
        system(|system| system.sctlr & 5 == 5)
    }

    /// Whether the virtual timer asserts its line.
    #[must_use]
    pub fn virtual_timer_line() -> bool {
        let (now, system) = (now(), system(|system| *system));
        Timer::new(system.cntv_ctl, system.cntv_cval).line(now.wrapping_sub(system.cntvoff))
    }

    /// Makes an asynchronous abort pending in the guest.
    pub fn pend_async_abort() {
        system(|system| system.abort_pending = true);
    }

    /// Sets the guest's TTBR0 or TTBR1.
    pub fn set_ttbr(n: u32, value: u64) {
        system(|system| match n {
            0 => system.ttbr0 = value,
            _ => system.ttbr1 = value,
        });
    }

    /// Whether the guest's data cache is on.
    #[must_use]
    pub fn caches_on() -> bool {
        system(|system| system.sctlr & 1 << 2 != 0)
    }

    /// Whether writes to the guest's MMU registers trap.
    #[must_use]
    pub fn watches_caches() -> bool {
        system(|system| system.mmu_traps)
    }

    /// Makes writes to the guest's MMU registers trap, or not.
    pub fn watch_caches(on: bool) {
        system(|system| system.mmu_traps = on);
    }

    /// Writes one of the guest's MMU registers; `None` for another.
    #[must_use]
    pub fn write_vm_register(crn: u32, crm: u32, opc2: u32, value: u32) -> Option<()> {
        system(|system| {
            match (crn, crm, opc2) {
                (1, 0, 0) => system.sctlr = value,
                (2, 0, 0) => system.ttbr0 = value.into(),
                (2, 0, 1) => system.ttbr1 = value.into(),
                (2, 0, 2) => system.ttbcr = value,
                (3, 0, 0) => system.dacr = value,
                (5, 0, 0) => system.dfsr = value,
                (5, 0, 1) => system.ifsr = value,
                (6, 0, 0) => system.dfar = value,
                (6, 0, 2) => system.ifar = value,
                (13, 0, 1) => system.contextidr = value,
                // ADFSR, AIFSR, PRRR, NMRR, AMAIR0 and AMAIR1, which nobody looks at here.
                (5, 1, 0 | 1) | (10, 2 | 3, 0 | 1) => {}
                _ => return None,
            }
            Some(())
        })
    }

    /// Traps WFI, or not.
    pub fn trap_wfi(on: bool) {
        system(|system| system.wfi_traps = on);
    }
}

macro_rules! live {
    ($($get:ident, $set:ident;)*) => {
        #[expect(missing_docs, reason = "the guest's register of that name, as in the machine's own")]
        impl Live {
            $(
                #[must_use]
                pub fn $get() -> u32 {
                    system(|system| system.$get)
                }

                pub fn $set(value: u32) {
                    system(|system| system.$get = value);
                }
            )*
        }
    };
}

live! {
    sctlr, set_sctlr;
    vbar, set_vbar;
    ttbcr, set_ttbcr;
    dfsr, set_dfsr;
    ifsr, set_ifsr;
    dfar, set_dfar;
    ifar, set_ifar;
    cntv_ctl, set_cntv_ctl;
}

/// The banked registers of the vCPU that is live.
pub struct LiveBanks;

impl Banks for LiveBanks {
    fn read(&self, register: Banked) -> u32 {
        live(|live| live.banks[register as usize])
    }

    fn write(&mut self, register: Banked, value: u32) {
        live(|live| live.banks[register as usize] = value);
    }
}

/// VFP and NEON.
pub mod vfp {
    use super::{cpu, note, test::Event};

    /// VFP registers that are not in the hardware; one stands for all but FPEXC.
    #[derive(Clone, Default)]
    pub struct State {
        pub(super) d0: u64,
        pub(super) fpexc: u32,
    }

    /// Gives the registers to the vCPU that is loaded: those in the hardware go to `owner`, if they
    /// are anyone's, and `state` comes.
    pub fn switch(owner: Option<&mut State>, state: &State) {
        note(Event::Vfp {
            saved: owner.is_some(),
        });
        cpu(|cpu| {
            if let Some(owner) = owner {
                owner.d0 = cpu.vfp.d0;
            }
            cpu.vfp = state.clone();
            cpu.vfp_open = true;
        });
    }

    impl State {
        /// Word `n`: that of the one register, whatever the number.
        #[must_use]
        pub fn word(&self, n: u32) -> u32 {
            (self.d0 >> (32 * (n & 1))) as u32
        }

        /// Sets word `n`.
        pub fn set_word(&mut self, n: u32, value: u32) {
            let low = 32 * (n & 1);
            self.d0 = self.d0 & !(0xffff_ffff << low) | u64::from(value) << low;
        }
    }

    /// Whether the vCPU that is loaded holds the registers.
    #[must_use]
    pub fn usable(_privileged: bool) -> bool {
        cpu(|cpu| cpu.vfp_open)
    }

    /// Copies the registers to the state of the vCPU that holds them.
    pub fn spill(state: &mut State) {
        cpu(|cpu| state.d0 = cpu.vfp.d0);
    }

    /// Copies them back.
    pub fn reload(state: &State) {
        cpu(|cpu| cpu.vfp.d0 = state.d0);
    }

    /// Takes the registers of a vCPU that is not loaded from the hardware.
    pub fn take(owner: &mut State) {
        note(Event::Vfp { saved: true });
        cpu(|cpu| {
            assert!(!cpu.vfp_open, "taken from the vCPU that is live");
            owner.d0 = cpu.vfp.d0;
        });
    }

    /// The ID register of number `n`, as VMRS encodes it: a value that names it.
    #[must_use]
    pub fn id(n: u32) -> Option<u32> {
        matches!(n, 0 | 6 | 7).then_some(0xf0 + n)
    }

    /// Whether guests can have VFP at all.
    #[must_use]
    pub fn present() -> bool {
        true
    }
}

/// Physical memory.
pub mod window {
    use super::{Event, Machine, PAGE, RUBBISH, machine, note};
    use crate::addr::{BLOCK, Pa};

    impl Machine {
        fn byte(&self, at: u64) -> u8 {
            match self.memory.get(&(at / PAGE)) {
                None => RUBBISH,
                Some(None) => 0,
                Some(Some(page)) => page[(at % PAGE) as usize],
            }
        }

        fn set_byte(&mut self, at: u64, value: u8) {
            let old = self
                .memory
                .entry(at / PAGE)
                .or_insert_with(|| Some(Box::new([RUBBISH; PAGE as usize])));
            old.get_or_insert_with(|| Box::new([0; PAGE as usize]))[(at % PAGE) as usize] = value;
            self.cached.insert(at / PAGE);
        }
    }

    /// 2 MiB of physical memory to read from.
    pub struct Block(Pa);

    impl Block {
        /// Block number `block`.
        ///
        /// # Safety
        /// As for [`read`].
        #[must_use]
        pub unsafe fn open(block: u32) -> Self {
            machine(|machine| {
                assert!(!machine.window, "a window is open");
                machine.window = true;
            });
            Self(Pa(u64::from(block) * BLOCK))
        }

        fn bytes<const N: usize>(&self, offset: u32) -> [u8; N] {
            let offset = u64::from(offset) & (BLOCK - 1) & !(N as u64 - 1);
            let mut bytes = [0; N];
            machine(|machine| {
                for (at, byte) in (self.0.0 + offset..).zip(&mut bytes) {
                    *byte = machine.byte(at);
                }
            });
            bytes
        }

        /// Reads `size` bytes in one piece.
        #[must_use]
        pub fn load(&self, offset: u32, size: u32) -> u32 {
            match size {
                1 => u8::from_le_bytes(self.bytes(offset)).into(),
                2 => u16::from_le_bytes(self.bytes(offset)).into(),
                _ => u32::from_le_bytes(self.bytes(offset)),
            }
        }

        /// The same for 8 bytes.
        #[must_use]
        pub fn load_double(&self, offset: u32) -> u64 {
            u64::from_le_bytes(self.bytes(offset))
        }

        /// Closes the window.
        pub fn close(&self) {
            machine(|machine| {
                assert!(machine.window, "no window is open");
                machine.window = false;
            });
        }
    }

    /// The words of a page.
    pub struct Words(Pa);

    impl Words {
        /// Of the page of `pa`.
        ///
        /// # Safety
        /// As for [`read`].
        #[must_use]
        pub unsafe fn open(pa: Pa) -> Self {
            Self(pa.align_down(PAGE))
        }

        /// Loads the word at `offset` of the page.
        #[must_use]
        pub fn load(&self, offset: u32) -> u32 {
            let mut bytes = [0; 4];
            // SAFETY: none needed here.
            unsafe { read(Pa(self.0.0 + u64::from(offset & 0xffc)), &mut bytes) };
            u32::from_le_bytes(bytes)
        }

        /// Stores the word at `offset` of the page.
        pub fn store(&mut self, offset: u32, value: u32) {
            // SAFETY: none needed here.
            unsafe { store(Pa(self.0.0 + u64::from(offset & 0xffc)), 4, value) };
        }
    }

    /// Reads from `pa` on.
    ///
    /// # Safety
    /// None needed here: the machine's own asks for it.
    pub unsafe fn read(pa: Pa, buffer: &mut [u8]) {
        machine(|machine| {
            assert!(!machine.window, "a window is open");
            for (at, byte) in (pa.0..).zip(buffer) {
                *byte = machine.byte(at);
            }
        });
    }

    /// Writes `bytes` to `pa`.
    ///
    /// # Safety
    /// As for [`read`].
    pub unsafe fn write(pa: Pa, bytes: &[u8]) {
        machine(|machine| {
            assert!(!machine.window, "a window is open");
            for (at, &byte) in (pa.0..).zip(bytes) {
                machine.set_byte(at, byte);
            }
        });
    }

    /// Writes `size` bytes in one piece.
    ///
    /// # Safety
    /// As for [`read`].
    pub unsafe fn store(pa: Pa, size: u32, value: u32) {
        assert!(pa.0.is_multiple_of(size.into()), "unaligned");
        // SAFETY: none needed here.
        unsafe { write(pa, &value.to_le_bytes()[..size as usize]) };
    }

    /// Copies `size` bytes.
    ///
    /// # Safety
    /// As for [`read`].
    pub unsafe fn copy(to: Pa, from: Pa, size: u64) {
        machine(|machine| {
            for at in 0..size {
                machine.set_byte(to.0 + at, machine.byte(from.0 + at));
            }
        });
    }

    /// Zeroes `size` bytes, a multiple of 64 from a multiple of 64; whole pages here.
    ///
    /// # Safety
    /// As for [`read`].
    pub unsafe fn zero(pa: Pa, size: u64) {
        assert!((pa.0 | size).is_multiple_of(PAGE), "zeroes parts of pages");
        note(Event::Zero { pa, size });
        machine(|machine| {
            for page in pa.0 / PAGE..(pa.0 + size) / PAGE {
                machine.memory.insert(page, None);
                machine.cached.insert(page);
            }
        });
    }

    /// Writes what caches hold of `size` bytes to memory.
    ///
    /// # Safety
    /// As for [`read`].
    pub unsafe fn clean(pa: Pa, size: u64) {
        note(Event::Clean { pa, size });
        machine(|machine| {
            assert!(!machine.window, "a window is open");
            for page in pa.0 / PAGE..(pa.0 + size).div_ceil(PAGE) {
                machine.cached.remove(&page);
            }
        });
    }
}

/// A VM's stage-2 tables.
#[derive(Debug)]
pub struct Pool {
    base: u32,
    pages: Vec<[u64; 512]>,
    free: u64,
    /// The VTTBR under which the TLBs may know entries; 0 where there is none.
    pub vttbr: u64,
}

impl Pool {
    /// A pool of `pages` pages, 1 to 64.
    #[must_use]
    pub fn new(pages: u32) -> Option<Self> {
        let pages = pages.clamp(1, 64);
        let number = machine(|machine| {
            machine.pools += 1;
            machine.pools
        });
        Some(Self {
            base: 0x1000_0000 + number * (64 << 12),
            pages: vec![[u64::MAX; 512]; pages as usize],
            free: u64::MAX >> (64 - pages),
            vttbr: 0,
        })
    }

    fn page(&self, table: Table) -> usize {
        ((table.0 - self.base) >> 12) as usize
    }
}

impl Tables for Pool {
    fn alloc(&mut self, pages: u32) -> Option<Table> {
        let fits = |page: &u32| {
            let mask = ((1 << pages) - 1) << page;
            page.is_multiple_of(pages) && self.free & mask == mask
        };
        let first = (0..=64 - pages).find(fits)?;
        for page in first..first + pages {
            self.free &= !(1 << page);
            self.pages[page as usize] = [0; 512];
        }
        Some(Table(self.base + (first << 12)))
    }

    fn free(&mut self, table: Table, pages: u32) {
        self.free |= ((1 << pages) - 1) << self.page(table);
    }

    fn read(&self, table: Table, index: u32) -> u64 {
        self.pages[self.page(table) + index as usize / 512][index as usize % 512]
    }

    fn write(&mut self, table: Table, index: u32, entry: u64) {
        let page = self.page(table);
        self.pages[page + index as usize / 512][index as usize % 512] = entry;
    }

    fn flush(&mut self) {
        if self.vttbr != 0 {
            note(Event::FlushVmid(self.vttbr));
        }
    }
}

/// Forgets every guest's translations and instructions, on all CPUs.
pub fn flush_all_vmids() {
    note(Event::FlushAll);
}

/// Forgets this CPU's translations of the VMID that is loaded.
pub fn flush_own_vmid() {
    note(Event::FlushOwnVmid);
}

/// Forgets every CPU's instructions.
pub fn forget_instructions() {
    note(Event::ForgetInstructions);
}

impl Cpu {
    /// The place in the queue of the first interrupt that is not active too.
    fn signalled(&self) -> Option<usize> {
        self.pending.iter().position(|id| !self.active.contains(id))
    }
}

/// Takes the interrupt that came first.
#[must_use]
pub fn acknowledge() -> u32 {
    cpu(|cpu| {
        assert_eq!(cpu.running, None, "its priority is not dropped");
        cpu.running = cpu.signalled().and_then(|place| cpu.pending.remove(place));
        cpu.active.extend(cpu.running);
        cpu.running.unwrap_or(1023)
    })
}

/// Drops the priority of what [`acknowledge`] gave.
pub fn end(acknowledged: u32) {
    cpu(|cpu| assert_eq!(cpu.running.take(), Some(acknowledged), "ended out of turn"));
}

/// Deactivates what [`acknowledge`] gave.
pub fn deactivate(acknowledged: u32) {
    set_active(acknowledged, false);
}

/// Deactivates a virtual interrupt of the guest that is live, as by its GICC_DIR.
pub fn deactivate_virtual(value: u32) {
    cpu(|cpu| {
        let listed = |lr: &&mut u32| **lr & 0x3ff == value & 0x3ff && **lr >> 29 & 1 != 0;
        if let Some(lr) = cpu.gich.lr.iter_mut().find(listed) {
            *lr &= !(1 << 29);
            if *lr >> 31 != 0 {
                cpu.active.remove(&(*lr >> 10 & 0x3ff));
            }
        }
    });
}

/// Makes interrupt `id`, of this CPU where it is private, active or inactive.
pub fn set_active(id: u32, on: bool) {
    machine(|machine| {
        let here = machine.here;
        for (n, cpu) in machine.cpus.iter_mut().enumerate() {
            if n == here && on {
                cpu.active.insert(id);
            } else if n == here || id >= 32 {
                cpu.active.remove(&id);
            }
        }
    });
}

/// Makes the shared interrupt `id` edge-triggered, or level.
pub fn trigger(id: u32, edge: bool) {
    machine(|machine| match edge {
        true => machine.edges.insert(id),
        false => machine.edges.remove(&id),
    });
}

/// Lets the shared interrupt `id` through to CPU number `cpu`.
pub fn wire(id: u32, cpu: usize) {
    machine(|machine| machine.wired.insert(id, cpu));
}

/// Sends the shared interrupt `id`, which is active on this CPU, to CPU number `cpu` instead.
pub fn forward(id: u32, _edge: bool, to: usize) {
    wire(id, to);
    cpu(|cpu| cpu.active.remove(&id));
    test::interrupt(to, id);
}

/// Whether interrupt `id` is pending, active or not.
#[must_use]
pub fn is_pending(id: u32) -> bool {
    machine(|machine| machine.high.contains(&id))
}

/// Keeps the shared interrupt `id` back, and forgets it where it has come.
pub fn silence(id: u32) {
    machine(|machine| {
        machine.wired.remove(&id);
        for cpu in &mut machine.cpus {
            cpu.active.remove(&id);
            cpu.pending.retain(|&pending| pending != id);
        }
    });
}

/// This CPU's number.
#[must_use]
pub fn cpu_number() -> usize {
    machine(|machine| machine.here)
}

/// This CPU's list registers.
#[derive(Clone, Copy)]
pub struct ListRegisters;

/// This CPU's list registers.
#[must_use]
pub fn list_registers() -> Option<ListRegisters> {
    Some(ListRegisters)
}

impl Lrs for ListRegisters {
    fn count(&self) -> usize {
        cpu(|cpu| cpu.gich.lr.len())
    }

    fn read(&self, n: usize) -> u32 {
        cpu(|cpu| cpu.gich.lr[n])
    }

    fn write(&mut self, n: usize, value: u32) {
        cpu(|cpu| cpu.gich.lr[n] = value);
    }

    /// Neither pending nor active: bits 29:28.
    fn elrsr(&self) -> u32 {
        cpu(|cpu| {
            let empty = |n: &usize| cpu.gich.lr[*n] >> 28 & 3 == 0;
            let bits = (0..cpu.gich.lr.len()).filter(empty);
            bits.map(|n| 1 << n).sum()
        })
    }

    fn hcr(&self) -> u32 {
        cpu(|cpu| cpu.gich.hcr)
    }

    fn set_hcr(&mut self, value: u32) {
        cpu(|cpu| cpu.gich.hcr = value);
    }

    fn vmcr(&self) -> u32 {
        cpu(|cpu| cpu.gich.vmcr)
    }

    fn set_vmcr(&mut self, value: u32) {
        cpu(|cpu| cpu.gich.vmcr = value);
    }

    fn apr(&self) -> u32 {
        cpu(|cpu| cpu.gich.apr)
    }

    fn set_apr(&mut self, value: u32) {
        cpu(|cpu| cpu.gich.apr = value);
    }
}

/// Interrupts CPU number `cpu`.
pub fn kick(cpu: usize) {
    note(Event::Kick(cpu));
    test::interrupt(cpu, KICK);
}

/// Waits for an interrupt; WFI may end at any time (ARM DDI 0406C, B1.8.14), and here it does at once.
pub fn wait() {
    note(Event::Wait);
}

/// Where the machine's interrupts and the guests' CPU interface are.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as in the machine's own")]
pub struct Wiring {
    pub hyp_timer: u32,
    pub virtual_timer: u32,
    pub maintenance: u32,
    pub console: Option<u32>,
    pub gicv: Range,
    pub frequency: u32,
    /// Seconds of the machine's clock at counter value 0.
    pub seconds_at_zero: u32,
}

const QEMU: Wiring = Wiring {
    hyp_timer: 26,
    virtual_timer: 27,
    maintenance: 25,
    console: Some(33),
    gicv: Range {
        start: Pa(0x0804_0000),
        size: 0x2000,
    },
    frequency: 62_500_000,
    seconds_at_zero: 0,
};

/// Sets what [`wiring`] answers.
pub fn set_wiring(wiring: Wiring) {
    machine(|machine| machine.wiring = Box::leak(Box::new(wiring)));
}

/// Where the machine's interrupts are.
#[must_use]
pub fn wiring() -> &'static Wiring {
    machine(|machine| machine.wiring)
}

/// Forgets this CPU's branch predictions.
pub fn forget_branches() {
    note(Event::ForgetBranches);
}

/// Whether guests have to mitigate branch target injection.
#[must_use]
pub fn spectre_v2() -> Workaround {
    Workaround::Required
}

/// The same for branch history injection.
#[must_use]
pub fn spectre_bhb() -> Workaround {
    Workaround::Required
}

/// Ticks of the counter, which [`test::advance`] moves.
#[must_use]
pub fn now() -> u64 {
    machine(|machine| {
        machine.now += machine.stride;
        machine.now
    })
}

/// Makes the Hyp timer interrupt this CPU at `deadline`, ticks.
pub fn set_deadline(deadline: u64) {
    note(Event::Deadline(Some(deadline)));
    cpu(|cpu| cpu.deadline = Some(deadline));
}

/// Makes the Hyp timer interrupt this CPU at `deadline`, ticks, or earlier if it is set so.
pub fn advance_deadline(deadline: u64) {
    if cpu(|cpu| cpu.deadline.is_none_or(|own| own > deadline)) {
        set_deadline(deadline);
    }
}

/// Stops this CPU's Hyp timer.
pub fn clear_deadline() {
    note(Event::Deadline(None));
    cpu(|cpu| cpu.deadline = None);
}

/// The console: what is written is noted, and nobody types.
pub mod console {
    use super::machine;

    /// Who writes: the place of its prefix.
    pub type Writer = usize;

    /// A new writer, whose lines begin with `prefix` where there are several.
    #[must_use]
    pub fn open(prefix: String) -> Writer {
        machine(|machine| {
            machine.prefixes.push(prefix);
            machine.prefixes.len() - 1
        })
    }

    /// `writer` has written its last.
    pub fn close(_: Writer) {}

    /// Whether lines begin with their writers' names.
    pub fn set_named(named: bool) {
        machine(|machine| machine.named = named);
    }

    /// Shows what `writer` writes as it comes.
    pub fn set_focus(_: Writer) {}

    /// Has `text` stand below all that is written.
    pub fn prompt(text: String) {
        machine(|machine| machine.prompt = text);
    }

    /// Answers the operator.
    pub fn say(text: std::fmt::Arguments<'_>) {
        let text = text.to_string();
        machine(|machine| machine.said.push(text));
    }

    /// Writes one byte of `writer`; `false` where [`test::fill_console`] says so.
    ///
    /// [`test::fill_console`]: super::test::fill_console
    #[must_use]
    pub fn put(writer: Writer, byte: u8) -> bool {
        machine(|machine| {
            let prefix = match machine.prefixes.get(writer) {
                Some(prefix) if machine.named => prefix.clone(),
                _ => String::new(),
            };
            machine.console.push((writer, prefix, byte));
            !machine.console_full
        })
    }

    /// A byte that has been typed.
    #[must_use]
    pub fn get() -> Option<u8> {
        machine(|machine| machine.typed.pop_front())
    }

    /// Takes bytes from the keyboard, or leaves them where they are.
    pub fn listen(on: bool) {
        super::note(super::Event::Listen(on));
    }

    /// Acknowledges the UART's interrupt.
    pub fn acknowledge() {}

    /// Has [`tick`] called at `due`, ticks.
    pub fn wake_at(due: u64) {
        machine(|machine| machine.due = Some(machine.due.map_or(due, |old| old.min(due))));
    }

    /// When [`tick`] has to be called, ticks; the greatest: never.
    #[must_use]
    pub fn due() -> u64 {
        machine(|machine| machine.due).unwrap_or(u64::MAX)
    }

    /// Does what is due; whether something was.
    pub fn tick() -> bool {
        machine(|machine| {
            let is_due = machine.due.is_some_and(|due| due <= machine.now);
            if is_due {
                machine.due = None;
            }
            is_due
        })
    }
}

/// Ends the run: [`test::run`] says so.
pub fn power_off() -> ! {
    std::panic::resume_unwind(Box::new(test::End::PoweredOff))
}

/// Ends the run likewise.
pub fn reset() -> ! {
    std::panic::resume_unwind(Box::new(test::End::Reset))
}

/// The ID registers: a value that names the register.
#[must_use]
pub fn id_register(crm: u32, opc2: u32) -> u32 {
    0x1d00_0000 | crm << 8 | opc2
}

/// ACTLR.
#[must_use]
pub fn actlr() -> u32 {
    0x41
}

/// Whether the syndrome of a store in Thumb state may name the wrong register.
#[must_use]
pub fn thumb_stores_mislabelled() -> bool {
    machine(|machine| machine.thumb_stores_mislabelled)
}

/// This core's `compatible` in device trees.
#[must_use]
pub fn cpu_compatible() -> &'static str {
    "arm,cortex-a15"
}

/// The test's side of the machine.
pub mod test {
    use super::{Exit, KICK, LiveBanks, PAGE, cpu, live, machine};
    use crate::addr::Pa;
    use crate::regs::{Banked, Banks, Regs};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    /// What the hypervisor did to the machine.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[expect(missing_docs, reason = "named as the calls")]
    pub enum Event {
        Load { vttbr: u64, vmpidr: u32 },
        Put,
        Kick(usize),
        Wait,
        FlushAll,
        FlushOwnVmid,
        FlushVmid(u64),
        ForgetInstructions,
        ForgetBranches,
        Deadline(Option<u64>),
        Listen(bool),
        Vfp { saved: bool },
        Zero { pa: Pa, size: u64 },
        Clean { pa: Pa, size: u64 },
    }

    /// What a trap leaves for Hyp.
    #[derive(Clone, Copy, Default, Debug)]
    #[expect(missing_docs, reason = "the architecture's names")]
    pub struct FaultRegisters {
        pub hsr: u32,
        pub hdfar: u32,
        pub hifar: u32,
        pub hpfar: u32,
    }

    /// System registers of a guest, and what of it traps.
    #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
    #[expect(missing_docs, reason = "the architecture's names")]
    pub struct System {
        pub sctlr: u32,
        pub vbar: u32,
        pub ttbr0: u64,
        pub ttbr1: u64,
        pub ttbcr: u32,
        pub dacr: u32,
        pub dfsr: u32,
        pub ifsr: u32,
        pub dfar: u32,
        pub ifar: u32,
        pub contextidr: u32,
        pub cntv_ctl: u32,
        pub cntv_cval: u64,
        pub cntvoff: u64,
        pub vmpidr: u32,
        /// HCR.TWI.
        pub wfi_traps: bool,
        /// HCR.TVM.
        pub mmu_traps: bool,
        /// HCR.VA.
        pub abort_pending: bool,
        /// HSTR.TTEE is clear.
        pub thumbee: bool,
    }

    /// A guest as it runs: what a step finds, and may change.
    #[derive(Clone, Debug)]
    pub struct Guest {
        /// The general registers, pc and CPSR.
        pub regs: Regs,
        /// Its system registers.
        pub system: System,
        /// What its exit leaves.
        pub fault: FaultRegisters,
        /// One VFP register for all; `None` while VFP traps.
        pub vfp: Option<u64>,
        /// VTTBR: the VM that runs.
        pub vttbr: u64,
        /// What the Hyp timer is set to.
        pub deadline: Option<u64>,
        /// Its list registers.
        pub lr: [u32; 4],
    }

    impl Guest {
        pub(super) fn entered(regs: Regs) -> Self {
            let system = live(|live| live.system);
            cpu(|cpu| Self {
                regs,
                system,
                fault: cpu.fault,
                vfp: cpu.vfp_open.then_some(cpu.vfp.d0),
                vttbr: cpu.vttbr,
                deadline: cpu.deadline,
                lr: cpu.gich.lr,
            })
        }

        pub(super) fn leave(self) -> Regs {
            live(|live| live.system = self.system);
            cpu(|cpu| {
                cpu.fault = self.fault;
                cpu.gich.lr = self.lr;
                if let (Some(value), true) = (self.vfp, cpu.vfp_open) {
                    cpu.vfp.d0 = value;
                }
            });
            self.regs
        }

        /// A banked register, of the vCPU that is live.
        #[must_use]
        pub fn banked(&self, register: Banked) -> u32 {
            LiveBanks.read(register)
        }

        /// Sets a banked register.
        pub fn set_banked(&mut self, register: Banked, value: u32) {
            LiveBanks.write(register, value);
        }

        /// Its number in its VM.
        #[must_use]
        pub fn index(&self) -> u32 {
            self.system.vmpidr & 0xff
        }

        /// Its VMID.
        #[must_use]
        pub fn vmid(&self) -> u8 {
            (self.vttbr >> 48) as u8
        }

        /// Traps with HSR `hsr`.
        pub fn trap(&mut self, hsr: u32) -> Exit {
            self.fault.hsr = hsr;
            Exit::Trap
        }
    }

    /// How a run ended.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum End {
        /// It came to its own end.
        Returned,
        /// A guest was entered with no step left: [`found`] has it.
        Entered,
        /// The machine was powered off.
        PoweredOff,
        /// The machine was started anew.
        Reset,
    }

    /// Runs the hypervisor until one of these ends. No lock of its own is held at any of them.
    pub fn run(what: impl FnOnce()) -> End {
        match catch_unwind(AssertUnwindSafe(what)).map_err(|end| end.downcast()) {
            Ok(()) => End::Returned,
            Err(Ok(end)) => *end,
            Err(Err(panic)) => resume_unwind(panic),
        }
    }

    /// Appends what a guest does once it is entered.
    pub fn push(step: impl FnOnce(&mut Guest) -> Exit + 'static) {
        machine(|machine| machine.script.push_back(Box::new(step)));
    }

    /// Steps that no guest has come to.
    #[must_use]
    pub fn steps_left() -> usize {
        machine(|machine| machine.script.len())
    }

    /// The guest that was entered last with no step left, since this was asked before.
    pub fn found() -> Option<Guest> {
        machine(|machine| machine.found.take())
    }

    /// Goes on as CPU number `cpu`.
    pub fn on_cpu(cpu: usize) {
        machine(|machine| machine.here = cpu);
    }

    /// Makes interrupt `id` pending at CPU number `cpu`.
    pub fn interrupt(cpu: usize, id: u32) {
        machine(|machine| {
            let pending = &mut machine.cpus[cpu].pending;
            if id != KICK || !pending.contains(&KICK) {
                pending.push_back(id);
            }
        });
    }

    /// Asserts the line of the shared interrupt `id`, or deasserts it.
    pub fn set_line(id: u32, level: bool) {
        machine(|machine| match level {
            true => machine.high.insert(id),
            false => machine.high.remove(&id),
        });
    }

    /// Shared interrupts that are let through: whether by an edge, and to which CPU.
    #[must_use]
    pub fn wired() -> Vec<(u32, bool, usize)> {
        machine(|machine| {
            machine
                .wired
                .iter()
                .map(|(&id, &cpu)| (id, machine.edges.contains(&id), cpu))
                .collect()
        })
    }

    /// Interrupts that are active at CPU number `cpu`.
    #[must_use]
    pub fn active(cpu: usize) -> Vec<u32> {
        machine(|machine| machine.cpus[cpu].active.iter().copied().collect())
    }

    /// Has the counter, which all CPUs read, stand at `ticks`.
    pub fn set_now(ticks: u64) {
        machine(|machine| machine.now = ticks);
    }

    /// Lets `ticks` pass.
    pub fn advance(ticks: u64) {
        machine(|machine| machine.now += ticks);
    }

    /// Lets time pass between any two looks at the counter.
    pub fn stride(ticks: u64) {
        machine(|machine| machine.stride = ticks);
    }

    /// Makes the core one that names wrong registers for stores in Thumb state.
    pub fn mislabel_thumb_stores() {
        machine(|machine| machine.thumb_stores_mislabelled = true);
    }

    /// What has been done since this was asked before.
    pub fn events() -> Vec<Event> {
        machine(|machine| std::mem::take(&mut machine.events))
    }

    /// Has whoever writes to the console wait, or not.
    pub fn fill_console(full: bool) {
        machine(|machine| machine.console_full = full);
    }

    /// Types `text`.
    pub fn type_in(text: &[u8]) {
        machine(|machine| machine.typed.extend(text));
    }

    /// What stands below all that is written.
    pub fn prompt() -> String {
        machine(|machine| machine.prompt.clone())
    }

    /// What the operator has been answered since this was asked before.
    pub fn said() -> Vec<String> {
        machine(|machine| std::mem::take(&mut machine.said))
    }

    /// What has been written to the console since this was asked before: writer, prefix and byte.
    pub fn console() -> Vec<(usize, String, u8)> {
        machine(|machine| std::mem::take(&mut machine.console))
    }

    /// Reads physical memory, through the caches.
    pub fn read(pa: Pa, buffer: &mut [u8]) {
        // SAFETY: there is nothing to keep.
        unsafe { super::window::read(pa, buffer) };
    }

    /// Puts `bytes` into physical memory, as a boot loader does.
    pub fn store(pa: Pa, bytes: &[u8]) {
        // SAFETY: there is nothing to keep.
        unsafe { super::window::write(pa, bytes) };
        let pages = pa.0 / PAGE..=(pa.0 + bytes.len() as u64) / PAGE;
        machine(|machine| machine.cached.retain(|page| !pages.contains(page)));
    }

    /// Whether caches hold anything newer than memory in `size` bytes from `pa` on.
    #[must_use]
    pub fn is_cached(pa: Pa, size: u64) -> bool {
        let pages = pa.0 / PAGE..(pa.0 + size).div_ceil(PAGE);
        machine(|machine| machine.cached.range(pages).next().is_some())
    }
}
