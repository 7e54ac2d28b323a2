//! The guest's registers as a trap saved them, and the banked ones that stay in the hardware.
//!
//! A trap to Hyp stores r0–r12, the user link register, ELR_hyp and SPSR_hyp ([`Regs`]). Which
//! physical register "r13" then means depends on the mode that the guest was in (ARM DDI 0406C,
//! B1.3.2): [`Gprs`] picks it, through [`Banks`] where it is still live in the hardware.

/// The processor modes that a guest can be in (ARM DDI 0406C, B1.3.1), CPSR.M.
pub mod mode {
    /// User.
    pub const USR: u32 = 0x10;
    /// Fast interrupt.
    pub const FIQ: u32 = 0x11;
    /// Interrupt.
    pub const IRQ: u32 = 0x12;
    /// Supervisor.
    pub const SVC: u32 = 0x13;
    /// Secure monitor.
    pub const MON: u32 = 0x16;
    /// Abort.
    pub const ABT: u32 = 0x17;
    /// Hyp.
    pub const HYP: u32 = 0x1a;
    /// Undefined.
    pub const UND: u32 = 0x1b;
    /// System.
    pub const SYS: u32 = 0x1f;
    /// The bits of CPSR that hold the mode.
    pub const MASK: u32 = 0x1f;

    /// A mode's name.
    #[must_use]
    pub fn name(mode: u32) -> &'static str {
        match mode {
            USR => "User",
            FIQ => "FIQ",
            IRQ => "IRQ",
            SVC => "Supervisor",
            MON => "Monitor",
            ABT => "Abort",
            HYP => "Hyp",
            UND => "Undefined",
            SYS => "System",
            _ => "an unknown",
        }
    }
}

/// Bits of the program status registers (ARM DDI 0406C, B1.3.3).
pub mod psr {
    /// Thumb state.
    pub const T: u32 = 1 << 5;
    /// FIQs masked.
    pub const F: u32 = 1 << 6;
    /// IRQs masked.
    pub const I: u32 = 1 << 7;
    /// Asynchronous aborts masked.
    pub const A: u32 = 1 << 8;
    /// Data is big-endian.
    pub const E: u32 = 1 << 9;
    /// Jazelle state.
    pub const J: u32 = 1 << 24;
    /// Both parts of ITSTATE: bits 26:25 hold IT\[1:0\], bits 15:10 IT\[7:2\].
    pub const IT: u32 = 0x0600_fc00;
}

/// A register that is banked by mode and stays live in the hardware over an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "the names are the architecture's own, one line per register"
)]
#[repr(u8)]
pub enum Banked {
    SpUsr,
    R8Fiq,
    R9Fiq,
    R10Fiq,
    R11Fiq,
    R12Fiq,
    SpFiq,
    LrFiq,
    SpsrFiq,
    SpIrq,
    LrIrq,
    SpsrIrq,
    SpSvc,
    LrSvc,
    SpsrSvc,
    SpAbt,
    LrAbt,
    SpsrAbt,
    SpUnd,
    LrUnd,
    SpsrUnd,
}

/// The banked registers of the vCPU that is loaded.
pub trait Banks {
    /// Reads one.
    fn read(&self, register: Banked) -> u32;
    /// Writes one.
    fn write(&mut self, register: Banked, value: u32);
}

/// What a trap saves. The layout is known to `arch/switch.s` by `offset_of!`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Regs {
    /// r0 to r12 as user mode sees them.
    pub r: [u32; 13],
    /// The user mode's link register, which Hyp shares.
    pub lr_usr: u32,
    /// ELR_hyp: where the guest goes on.
    pub pc: u32,
    /// SPSR_hyp: the guest's CPSR.
    pub cpsr: u32,
}

impl Regs {
    /// The guest's mode, CPSR.M.
    #[must_use]
    pub const fn mode(&self) -> u32 {
        self.cpsr & mode::MASK
    }

    /// Whether the guest is at PL1: in any mode but User, the one whose low bits are clear.
    #[must_use]
    pub const fn privileged(&self) -> bool {
        self.cpsr & 0xf != 0
    }

    /// Whether the guest is in Thumb state.
    #[must_use]
    pub const fn thumb(&self) -> bool {
        self.cpsr & psr::T != 0
    }

    /// Whether the guest's data accesses are big-endian.
    #[must_use]
    pub const fn big_endian(&self) -> bool {
        self.cpsr & psr::E != 0
    }

    /// ITSTATE, zero outside IT blocks and in ARM state.
    #[must_use]
    pub const fn it_state(&self) -> u8 {
        (((self.cpsr >> 8) & 0xfc) | ((self.cpsr >> 25) & 3)) as u8
    }

    /// Goes to the next instruction after one of `length` bytes, ITSTATE advanced
    /// (ARM DDI 0406C, A2.5.2).
    #[inline(always)]
    pub const fn skip(&mut self, length: u32) {
        self.pc = self.pc.wrapping_add(length);
        if self.thumb() && self.cpsr & psr::IT != 0 {
            self.advance_it();
        }
    }

    #[cold]
    #[inline(never)]
    const fn advance_it(&mut self) {
        let it = self.it_state() as u32;
        let next = if it & 7 == 0 {
            0
        } else {
            (it & 0xe0) | ((it << 1) & 0x1f)
        };
        self.cpsr = (self.cpsr & !psr::IT) | ((next & 0xfc) << 8) | ((next & 3) << 25);
    }

    /// Which of [`r`](Self::r) is register `n` in the guest's mode; `None` where it is none of them: FIQ mode banks r8 to
    /// r12, others no lower one than r13.
    #[inline(always)]
    #[must_use]
    pub const fn unbanked(&self, n: u32) -> Option<usize> {
        if n < 8 || n < 13 && self.mode() != mode::FIQ {
            Some(n as usize)
        } else {
            None
        }
    }

    /// What [`Gprs::get`] reads, with the banked registers of `banks`.
    #[must_use]
    pub fn get(&self, banks: &impl Banks, n: u32) -> u32 {
        match (n, bank(self.mode(), n)) {
            (_, Some(banked)) => banks.read(banked),
            (0..=12, _) => self.r[n as usize],
            (14, _) => self.lr_usr,
            _ => self.pc.wrapping_add(if self.thumb() { 4 } else { 8 }),
        }
    }

    /// Whether condition `cond` (4 bits) holds for the guest's flags (ARM DDI 0406C, A8.3).
    #[must_use]
    pub fn condition(&self, cond: u32) -> bool {
        let flag = |bit: u32| self.cpsr & (1 << bit) != 0;
        let (n, z, c, v) = (flag(31), flag(30), flag(29), flag(28));
        let holds = match (cond >> 1) & 7 {
            0 => z,
            1 => c,
            2 => n,
            3 => v,
            4 => c && !z,
            5 => n == v,
            6 => n == v && !z,
            _ => return true,
        };
        holds != (cond & 1 != 0)
    }
}

/// The general registers by the number that an instruction holds, in the guest's current mode.
pub struct Gprs<'a, B> {
    /// What the trap saved.
    pub regs: &'a mut Regs,
    /// What is still in the hardware.
    pub banks: &'a mut B,
}

impl<B: Banks> Gprs<'_, B> {
    /// Register `n`; 15 reads as the address of the trapped instruction plus 8, in Thumb state
    /// plus 4.
    #[must_use]
    pub fn get(&self, n: u32) -> u32 {
        self.regs.get(self.banks, n)
    }

    /// Sets register `n`, which is below 15; 15 and above are ignored, a load into pc is a jump
    /// and no register write.
    pub fn set(&mut self, n: u32, value: u32) {
        match (n, bank(self.regs.mode(), n)) {
            (_, Some(banked)) => self.banks.write(banked, value),
            (0..=12, _) => self.regs.r[n as usize] = value,
            (14, _) => self.regs.lr_usr = value,
            _ => {}
        }
    }
}

/// Where register `n` of `mode` is banked; `None` where [`Regs`] holds it.
#[must_use]
pub fn bank(mode: u32, n: u32) -> Option<Banked> {
    use Banked::*;
    match (n, mode) {
        (8, mode::FIQ) => Some(R8Fiq),
        (9, mode::FIQ) => Some(R9Fiq),
        (10, mode::FIQ) => Some(R10Fiq),
        (11, mode::FIQ) => Some(R11Fiq),
        (12, mode::FIQ) => Some(R12Fiq),
        (13, mode::FIQ) => Some(SpFiq),
        (14, mode::FIQ) => Some(LrFiq),
        (13, mode::IRQ) => Some(SpIrq),
        (14, mode::IRQ) => Some(LrIrq),
        (13, mode::SVC) => Some(SpSvc),
        (14, mode::SVC) => Some(LrSvc),
        (13, mode::ABT) => Some(SpAbt),
        (14, mode::ABT) => Some(LrAbt),
        (13, mode::UND) => Some(SpUnd),
        (14, mode::UND) => Some(LrUnd),
        (13, _) => Some(SpUsr),
        _ => None,
    }
}
