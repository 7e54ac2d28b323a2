//! What a vCPU has in the hardware, and the world switch: load, enter, put.
//!
//! [`enter`] runs the guest until something traps and touches only what `switch.s` says. Everything
//! else of a vCPU stays live in the hardware between [`load`] and [`put`], which bracket the time
//! that it has a CPU. ARM DDI 0406C, B1.3 (banked registers), B3.17 (CP15), B8 (timers).

use super::{sysreg::*, vfp};
use crate::regs::{Banked, Banks, Regs, psr};
use crate::vtimer::Timer;
use crate::walk::Stage1;
use aarch32_cpu::asm::isb;
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

/// What [`enter`] came back by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Exit {
    /// A trapped instruction, hypercall or stage-2 abort: HSR says which.
    Trap = 0,
    /// A physical interrupt.
    Irq = 1,
    /// A physical fast interrupt.
    Fiq = 2,
    /// An asynchronous external abort that the guest caused.
    AsyncAbort = 3,
}

/// The registers that `switch.s` saves and restores, and where it keeps its own stack pointer.
#[repr(C)]
struct Frame {
    regs: Regs,
    host_sp: u32,
}

global_asm!(
    include_str!("switch.s"),
    PC = const offset_of!(Frame, regs.pc),
    HOST_SP = const offset_of!(Frame, host_sp),
    MODE_MASK = const crate::regs::mode::MASK,
    HYP = const crate::regs::mode::HYP,
    TRAP = const Exit::Trap as u32,
    IRQ = const Exit::Irq as u32,
    FIQ = const Exit::Fiq as u32,
    ASYNC = const Exit::AsyncAbort as u32,
    DUMP_SIZE = const 72,
    DUMP_SP = const offset_of!(super::fault::Dump, sp),
    fault = sym super::fault::fault,
);

unsafe extern "C" {
    #[link_name = "enter"]
    unsafe fn enter_frame(frame: *mut Frame) -> u32;
    static vectors: [u32; 8];
}

/// Ten words, which one instruction stores or loads.
type Ten = [u32; 10];

#[inline(always)]
fn store(place: &mut Ten, [a, b, c, d, e, f, g, h, i, j]: Ten) {
    // SAFETY: writes that place alone.
    unsafe {
        asm!("stm {}, {{r1-r5, r8-r12}}", in(reg) place, in("r1") a, in("r2") b, in("r3") c,
            in("r4") d, in("r5") e, in("r8") f, in("r9") g, in("r10") h, in("r11") i, in("r12") j,
            options(nostack, preserves_flags));
    }
}

#[inline(always)]
fn fetch(place: &Ten) -> Ten {
    let (a, b, c, d, e, f, g, h, i, j): (u32, u32, u32, u32, u32, u32, u32, u32, u32, u32);
    // SAFETY: reads that place alone.
    unsafe {
        asm!("ldm {}, {{r1-r5, r8-r12}}", in(reg) place, out("r1") a, out("r2") b, out("r3") c,
            out("r4") d, out("r5") e, out("r8") f, out("r9") g, out("r10") h, out("r11") i,
            out("r12") j, options(readonly, nostack, preserves_flags));
    }
    [a, b, c, d, e, f, g, h, i, j]
}

macro_rules! cp15 {
    ($([$($ten:ident = $ten_reset:expr;)*])* $($field:ident: $register:ident = $reset:expr;)* 64: $($wide:ident: $wide_register:ident = $wide_reset:expr;)*) => {
        /// The PL1 registers of CP15 and CP14 that a switch carries, one line each with its reset
        /// value (ARM DDI 0406C, B3.17; UNKNOWN ones are zero so that nothing leaks).
        struct Cp15 {
            tens: [Ten; 2],
            $($field: u32,)*
            $($wide: u64,)*
        }

        impl Cp15 {
            const RESET: Self = Self {
                tens: [$([$($ten_reset),*]),*],
                $($field: $reset,)*
                $($wide: $wide_reset,)*
            };

            #[inline(always)]
            fn save(&mut self) {
                let mut tens = self.tens.iter_mut();
                $(if let Some(ten) = tens.next() {
                    store(ten, [$($ten::read()),*]);
                })*
                $(self.$field = $register::read();)*
                $(self.$wide = $wide_register::read();)*
            }

            /// # Safety
            /// Only while no guest's state is live.
            #[inline(always)]
            unsafe fn restore(&self) {
                // SAFETY: these registers rule PL1 and PL0 alone.
                unsafe {
                    let mut tens = self.tens.iter();
                    $(if let Some(ten) = tens.next() {
                        let mut words = fetch(ten).into_iter();
                        $($ten::write(words.next().unwrap_or(0));)*
                    })*
                    $($register::write(self.$field);)*
                    $($wide_register::write(self.$wide);)*
                }
            }
        }
    };
}

cp15! {
    [
        // CSSELR first: it selects no other register that is switched.
        CSSELR = 0;
        // MMU, caches and alignment checks off; the bits that read as one and CP15BEN.
        SCTLR = 0x00c5_0078;
        CPACR = 0;
        TTBCR = 0;
        DACR = 0;
        DFSR = 0;
        IFSR = 0;
        ADFSR = 0;
        AIFSR = 0;
        DFAR = 0;
    ]
    [
        IFAR = 0;
        PRRR = 0x0009_8aa4;
        NMRR = 0x44e0_48e0;
        AMAIR0 = 0;
        AMAIR1 = 0;
        VBAR = 0;
        CONTEXTIDR = 0;
        TPIDRURW = 0;
        TPIDRURO = 0;
        TPIDRPRW = 0;
    ]
    cntkctl: CNTKCTL = 0;
    cntv_ctl: CNTV_CTL = 0;
    64:
    ttbr0: TTBR0 = 0;
    ttbr1: TTBR1 = 0;
    par: PAR64 = 0;
    cntv_cval: CNTV_CVAL = 0;
}

macro_rules! read_banked {
    ($name:literal) => {{
        let value: u32;
        // SAFETY: reads a register of the guest.
        unsafe {
            asm!(concat!("mrs {}, ", $name), out(reg) value,
                options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

macro_rules! write_banked {
    ($name:literal, $value:expr) => {{
        let value: u32 = $value;
        // SAFETY: writes a register of the guest, which Hyp does not use.
        unsafe {
            asm!(concat!("msr ", $name, ", {}"), in(reg) value,
                options(nomem, nostack, preserves_flags));
        }
    }};
}

macro_rules! banked {
    ($([$($ten:ident = $ten_name:literal;)*])* $last:ident = $last_name:literal;) => {
        /// The registers that other modes than User bank, and the user stack pointer.
        #[derive(Default)]
        struct BankedRegs {
            tens: [Ten; 2],
            last: u32,
        }

        impl BankedRegs {
            #[inline(always)]
            fn save(&mut self) {
                let mut tens = self.tens.iter_mut();
                $(if let Some(ten) = tens.next() {
                    store(ten, [$(read_banked!($ten_name)),*]);
                })*
                self.last = read_banked!($last_name);
            }

            #[inline(always)]
            fn restore(&self) {
                let mut tens = self.tens.iter();
                $(if let Some(ten) = tens.next() {
                    let mut words = fetch(ten).into_iter();
                    $(write_banked!($ten_name, words.next().unwrap_or(0));)*
                })*
                write_banked!($last_name, self.last);
            }
        }

        /// The banked registers of the vCPU whose state is live.
        pub struct LiveBanks;

        impl Banks for LiveBanks {
            fn read(&self, register: Banked) -> u32 {
                match register {
                    $($(Banked::$ten => read_banked!($ten_name),)*)*
                    Banked::$last => read_banked!($last_name),
                }
            }

            #[inline(always)]
            fn write(&mut self, register: Banked, value: u32) {
                match register {
                    $($(Banked::$ten => write_banked!($ten_name, value),)*)*
                    Banked::$last => write_banked!($last_name, value),
                }
            }
        }
    };
}

banked! {
    [
        SpUsr = "sp_usr";
        R8Fiq = "r8_fiq";
        R9Fiq = "r9_fiq";
        R10Fiq = "r10_fiq";
        R11Fiq = "r11_fiq";
        R12Fiq = "r12_fiq";
        SpFiq = "sp_fiq";
        LrFiq = "lr_fiq";
        SpsrFiq = "spsr_fiq";
        SpIrq = "sp_irq";
    ]
    [
        LrIrq = "lr_irq";
        SpsrIrq = "spsr_irq";
        SpSvc = "sp_svc";
        LrSvc = "lr_svc";
        SpsrSvc = "spsr_svc";
        SpAbt = "sp_abt";
        LrAbt = "lr_abt";
        SpsrAbt = "spsr_abt";
        SpUnd = "sp_und";
        LrUnd = "lr_und";
    ]
    SpsrUnd = "spsr_und";
}

/// What the guest may not do by itself (ARM DDI 0406C, B4.1.65): stage 2 on, set/way operations
/// upgraded and trapped, interrupts and asynchronous aborts to Hyp, maintenance broadcast, barriers
/// at least inner-shareable, WFI, ID registers, SMC, implementation-defined CP15 and ACTLR trapped.
const HCR: u32 = hcr::VM
    | hcr::SWIO
    | hcr::PTW
    | hcr::FMO
    | hcr::IMO
    | hcr::AMO
    | hcr::FB
    | hcr::BSU_INNER
    | hcr::TID3
    | hcr::TSC
    | hcr::TIDCP
    | hcr::TAC
    | hcr::TSW;

/// Bits of HCR.
mod hcr {
    pub(super) const VM: u32 = 1 << 0;
    pub(super) const SWIO: u32 = 1 << 1;
    pub(super) const PTW: u32 = 1 << 2;
    pub(super) const FMO: u32 = 1 << 3;
    pub(super) const IMO: u32 = 1 << 4;
    pub(super) const AMO: u32 = 1 << 5;
    pub(super) const VA: u32 = 1 << 8;
    pub(super) const FB: u32 = 1 << 9;
    pub(super) const BSU_INNER: u32 = 1 << 10;
    pub(super) const TWI: u32 = 1 << 13;
    pub(super) const TID3: u32 = 1 << 18;
    pub(super) const TSC: u32 = 1 << 19;
    pub(super) const TIDCP: u32 = 1 << 20;
    pub(super) const TAC: u32 = 1 << 21;
    pub(super) const TSW: u32 = 1 << 22;
    pub(super) const TVM: u32 = 1 << 26;
}

/// The performance monitors and debug registers trap (B4.1.66), each counter left to Hyp.
const HDCR: u32 = (1 << 5) | (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11);
/// Jazelle and CP15 c15 trap (B4.1.68), and ThumbEE's registers until they are used.
const HSTR: u32 = HSTR_TTEE | (1 << 17) | (1 << 15);
const HSTR_TTEE: u32 = 1 << 16;

/// Everything of a vCPU that is not live in the hardware.
#[repr(C)]
pub struct Context {
    frame: Frame,
    banked: BankedRegs,
    cp15: Cp15,
    /// TEECR and TEEHBR, switched only once the guest has used them.
    thumbee: [u32; 2],
    uses_thumbee: bool,
    /// HCR, with the virtual aborts that are pending.
    hcr: u32,
    vmpidr: u32,
    cntvoff: u64,
    /// VFP and NEON.
    pub vfp: vfp::State,
}

impl Context {
    /// A vCPU at reset: SVC mode, ARM state, everything masked (B1.9.1), at address 0.
    ///
    /// `vmpidr` is the MPIDR that it sees, `cntvoff` what the virtual counter lags behind the
    /// physical one, ticks.
    #[must_use]
    pub fn new(vmpidr: u32, cntvoff: u64) -> Self {
        let cpsr = crate::regs::mode::SVC | psr::A | psr::I | psr::F;
        Self {
            frame: Frame {
                regs: Regs {
                    cpsr,
                    ..Regs::default()
                },
                host_sp: 0,
            },
            banked: BankedRegs::default(),
            cp15: Cp15::RESET,
            thumbee: [0; 2],
            hcr: HCR | hcr::TWI,
            uses_thumbee: false,
            vmpidr,
            cntvoff,
            vfp: vfp::State::default(),
        }
    }

    /// Lets the guest, which is live, have ThumbEE's registers.
    pub fn use_thumbee(&mut self) {
        self.uses_thumbee = true;
        // SAFETY: concerns the guest alone; what another left in the registers is overwritten.
        unsafe {
            HSTR::write(HSTR & !HSTR_TTEE);
            TEECR::write(0);
            TEEHBR::write(0);
        }
    }

    /// The virtual timer as it was put.
    #[must_use]
    pub fn virtual_timer(&self) -> Timer {
        Timer::new(self.cp15.cntv_ctl, self.cp15.cntv_cval)
    }

    /// What the virtual counter lags behind the physical one, ticks.
    #[must_use]
    pub fn cntvoff(&self) -> u64 {
        self.cntvoff
    }

    /// The registers that the last trap saved.
    #[must_use]
    pub fn regs(&self) -> &Regs {
        &self.frame.regs
    }

    /// The registers that the next entry loads.
    pub fn regs_mut(&mut self) -> &mut Regs {
        &mut self.frame.regs
    }

    /// The same, and VFP's and NEON's as [`vfp::spill`] has left them.
    pub fn registers(&mut self) -> (&mut Regs, &mut vfp::State) {
        (&mut self.frame.regs, &mut self.vfp)
    }
}

/// MPIDR's affinity fields of the CPUs, by number.
static AFFINITIES: [AtomicU32; super::mmu::MAX_CPUS] =
    [const { AtomicU32::new(u32::MAX) }; super::mmu::MAX_CPUS];

/// This CPU's number, found without HTPIDR, which an exception in Hyp loses.
#[must_use]
pub fn number() -> Option<usize> {
    let here = super::boot::affinity();
    AFFINITIES
        .iter()
        .position(|affinity| affinity.load(Ordering::Relaxed) == here)
}

/// Makes exceptions that are taken in Hyp be told, from the start.
pub fn set_vectors() {
    // SAFETY: the vectors are ours.
    unsafe { HVBAR::write((&raw const vectors) as u32) };
    isb();
}

/// Readies this CPU for guests: the traps that all of them share, and the vectors.
///
/// `cpu` is this CPU's number, which HTPIDR keeps.
pub fn init(cpu: usize) {
    if let Some(affinity) = AFFINITIES.get(cpu) {
        affinity.store(super::boot::affinity(), Ordering::Relaxed);
    }
    // SAFETY: no guest runs yet; the vectors are ours.
    unsafe {
        HTPIDR::write(cpu as u32);
        HVBAR::write((&raw const vectors) as u32);
        HDCR::write(HDCR | (HDCR::read() & 0x1f));
        VTCR::write(crate::stage2::VTCR_32);
        VPIDR::write(MIDR::read());
        // Physical timer to Hyp, physical counter free (B8.1.5).
        CNTHCTL::write(1);
        HSTR::write(HSTR);
        HCPTR::write(vfp::CLOSED);
        ICIALLU::write(0);
    }
    vfp::init();
    isb();
}

/// Makes the stage-2 tables and VMID of `vttbr` those of this CPU, from the next [`load`] on.
pub fn set_vttbr(vttbr: u64) {
    // SAFETY: no guest's state is live (the caller's word), and Hyp does not use it.
    unsafe { VTTBR::write(vttbr) };
}

/// Makes `context` live on this CPU, from the next [`enter`] on.
///
/// `vfp_live` says that its VFP registers are still in the hardware. No other may be live.
#[inline(always)]
pub fn load(context: &Context, vfp_live: bool) {
    // SAFETY: no guest's state is live (the caller's word), and Hyp uses none of these.
    unsafe {
        context.cp15.restore();
        HCR::write(context.hcr);
        if context.uses_thumbee {
            HSTR::write(HSTR & !HSTR_TTEE);
            TEECR::write(context.thumbee[0]);
            TEEHBR::write(context.thumbee[1]);
        }
        VMPIDR::write(context.vmpidr);
        CNTVOFF::write(context.cntvoff);
    }
    context.banked.restore();
    if vfp_live {
        vfp::open(&context.vfp);
    }
}

/// Takes `context` from the hardware, all but its VFP registers, which stay until another vCPU
/// needs them. Stage 2 stays on with the old tables: nothing of the guest runs until the next load.
#[inline(always)]
pub fn put(context: &mut Context) {
    context.banked.save();
    context.cp15.save();
    context.hcr = HCR::read();
    // SAFETY: the virtual timer must not fire for a vCPU that is not there, and ThumbEE's registers trap for
    // those that have not used them.
    unsafe {
        CNTV_CTL::write(0);
        if context.uses_thumbee {
            context.thumbee = [TEECR::read(), TEEHBR::read()];
            HSTR::write(HSTR);
        }
    }
    if vfp::is_open() {
        vfp::close(&mut context.vfp);
    }
}

/// Runs the guest that is live until something traps.
pub fn enter(context: &mut Context) -> Exit {
    // SAFETY: the frame is the live vCPU's; switch.s writes nothing else.
    match unsafe { enter_frame(&mut context.frame) } {
        0 => Exit::Trap,
        1 => Exit::Irq,
        2 => Exit::Fiq,
        _ => Exit::AsyncAbort,
    }
}

/// Registers of the vCPU that is live, beside its general ones: what a trap leaves for the
/// hypervisor, and what an exception is injected by.
pub struct Live;

impl Live {
    /// HSR: why the last trap was taken.
    #[inline(always)]
    #[must_use]
    pub fn hsr() -> u32 {
        HSR::read()
    }

    /// HDFAR: the virtual address of the last data abort.
    #[inline(always)]
    #[must_use]
    pub fn hdfar() -> u32 {
        HDFAR::read()
    }

    /// HIFAR: the virtual address of the last prefetch abort.
    #[must_use]
    pub fn hifar() -> u32 {
        HIFAR::read()
    }

    /// HPFAR: bits 39:12 of the last stage-2 fault's IPA, in bits 31:4. UNKNOWN after a permission
    /// fault that was not a table walk's.
    #[inline(always)]
    #[must_use]
    pub fn hpfar() -> u32 {
        HPFAR::read()
    }

    /// The registers that the guest's stage 1 follows.
    #[must_use]
    pub fn stage1() -> Stage1 {
        Stage1 {
            sctlr: SCTLR::read(),
            ttbcr: TTBCR::read(),
            ttbr0: TTBR0::read(),
            ttbr1: TTBR1::read(),
            dacr: DACR::read(),
            mair0: PRRR::read(),
            mair1: NMRR::read(),
        }
    }

    /// Those of them that [`walk::instruction`](crate::walk::instruction) follows; the others are 0.
    #[inline(always)]
    #[must_use]
    pub fn stage1_of_code() -> Stage1 {
        Stage1 {
            sctlr: SCTLR::read(),
            ttbcr: TTBCR::read(),
            ttbr0: TTBR0::read(),
            dacr: DACR::read(),
            ..Stage1::default()
        }
    }

    /// Whether the virtual timer asserts its line: enabled, not masked, and due (CNTV_CTL).
    #[inline(always)]
    #[must_use]
    pub fn virtual_timer_line() -> bool {
        CNTV_CTL::read() & 0b111 == 0b101
    }

    /// What the core leaves in PAR after ATS1CPR (0), ATS1CPW, ATS1CUR or ATS1CUW (3) of `va`, by the
    /// guest's own stage 1; PAR stays the guest's.
    pub fn core_translation(operation: u32, va: u32) -> u64 {
        let before = PAR64::read();
        // SAFETY: a translation changes PAR alone, which gets its value back.
        unsafe {
            match operation {
                0 => ATS1CPR::write(va),
                1 => ATS1CPW::write(va),
                2 => ATS1CUR::write(va),
                _ => ATS1CUW::write(va),
            }
            isb();
            let par = PAR64::read();
            PAR64::write(before);
            par
        }
    }

    /// Makes an asynchronous abort pending in the guest (HCR.VA).
    pub fn pend_async_abort() {
        // SAFETY: concerns the guest alone.
        unsafe { HCR::write(HCR::read() | hcr::VA) };
    }

    /// Sets the guest's TTBR0 or TTBR1.
    pub fn set_ttbr(n: u32, value: u64) {
        // SAFETY: concerns the guest alone.
        unsafe {
            match n {
                0 => TTBR0::write(value),
                _ => TTBR1::write(value),
            }
        }
    }

    /// Whether the guest's MMU and data cache are on (SCTLR.M and C): else it reaches memory past
    /// the caches.
    #[must_use]
    pub fn cached() -> bool {
        const M_AND_C: u32 = 1 | 1 << 2;
        SCTLR::read() & M_AND_C == M_AND_C
    }

    /// Whether the guest's data cache is on (SCTLR.C).
    #[must_use]
    pub fn caches_on() -> bool {
        SCTLR::read() & 1 << 2 != 0
    }

    /// Whether writes to the guest's MMU registers trap (HCR.TVM).
    #[must_use]
    pub fn watches_caches() -> bool {
        HCR::read() & hcr::TVM != 0
    }

    /// Makes writes to the guest's MMU registers trap, or not.
    pub fn watch_caches(on: bool) {
        let hcr = HCR::read();
        // SAFETY: concerns the guest alone.
        unsafe { HCR::write(if on { hcr | hcr::TVM } else { hcr & !hcr::TVM }) };
    }

    /// Writes one of the guest's MMU registers, as HCR.TVM traps them (B4.1.65); `None` for another.
    #[must_use]
    pub fn write_vm_register(crn: u32, crm: u32, opc2: u32, value: u32) -> Option<()> {
        // SAFETY: these registers rule PL1 and PL0 alone.
        unsafe {
            match (crn, crm, opc2) {
                (1, 0, 0) => SCTLR::write(value),
                (2, 0, 0) => TTBR0_32::write(value),
                (2, 0, 1) => TTBR1_32::write(value),
                (2, 0, 2) => TTBCR::write(value),
                (3, 0, 0) => DACR::write(value),
                (5, 0, 0) => DFSR::write(value),
                (5, 0, 1) => IFSR::write(value),
                (5, 1, 0) => ADFSR::write(value),
                (5, 1, 1) => AIFSR::write(value),
                (6, 0, 0) => DFAR::write(value),
                (6, 0, 2) => IFAR::write(value),
                (10, 2, 0) => PRRR::write(value),
                (10, 2, 1) => NMRR::write(value),
                (10, 3, 0) => AMAIR0::write(value),
                (10, 3, 1) => AMAIR1::write(value),
                (13, 0, 1) => CONTEXTIDR::write(value),
                _ => return None,
            }
        }
        isb();
        Some(())
    }

    /// Traps WFI, or not: not where the vCPU has its CPU to itself.
    pub fn trap_wfi(on: bool) {
        let hcr = HCR::read();
        // SAFETY: concerns the guest alone.
        unsafe { HCR::write(if on { hcr | hcr::TWI } else { hcr & !hcr::TWI }) };
    }
}

macro_rules! live {
    ($($(#[$doc:meta])* $get:ident, $set:ident: $register:ident;)*) => {
        impl Live {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $get() -> u32 {
                    $register::read()
                }

                $(#[$doc])*
                pub fn $set(value: u32) {
                    // SAFETY: the register rules PL1 and PL0 alone.
                    unsafe { $register::write(value) };
                }
            )*
        }
    };
}

live! {
    /// The guest's SCTLR.
    sctlr, set_sctlr: SCTLR;
    /// The guest's VBAR.
    vbar, set_vbar: VBAR;
    /// The guest's TTBCR.
    ttbcr, set_ttbcr: TTBCR;
    /// The guest's DFSR.
    dfsr, set_dfsr: DFSR;
    /// The guest's IFSR.
    ifsr, set_ifsr: IFSR;
    /// The guest's DFAR.
    dfar, set_dfar: DFAR;
    /// The guest's IFAR.
    ifar, set_ifar: IFAR;
    /// The guest's virtual timer control, CNTV_CTL.
    cntv_ctl, set_cntv_ctl: CNTV_CTL;
}

/// The ID registers of CRn 0, opc1 0 (B4.1.81 to B4.1.93) as a guest may see them: without
/// Virtualization and Security Extensions, debug and performance monitors; reserved ones are zero.
#[must_use]
pub fn id_register(crm: u32, opc2: u32) -> u32 {
    match (crm, opc2) {
        (1, 0) => ID_PFR0::read(),
        (1, 1) => ID_PFR1::read() & !0xf0f0,
        (1, 4) => ID_MMFR0::read(),
        (1, 5) => ID_MMFR1::read(),
        (1, 6) => ID_MMFR2::read(),
        (1, 7) => ID_MMFR3::read(),
        (2, 0) => ID_ISAR0::read(),
        (2, 1) => ID_ISAR1::read(),
        (2, 2) => ID_ISAR2::read(),
        (2, 3) => ID_ISAR3::read(),
        (2, 4) => ID_ISAR4::read() & !0xf0,
        (2, 5) => ID_ISAR5::read(),
        _ => 0,
    }
}

/// ACTLR, which guests share.
#[must_use]
pub fn actlr() -> u32 {
    ACTLR::read()
}
