//! VFP and NEON, moved only when the next vCPU touches them.
//!
//! While HCPTR is closed, a VFP instruction traps — but only where FPEXC.EN is set; otherwise it is
//! undefined without a trap (ARM DDI 0406C, B1.14.3). So EN is set in the hardware whenever HCPTR is
//! closed, and the guest's own FPEXC comes with its registers.

use super::sysreg::{CPACR, HCPTR};
use aarch32_cpu::asm::isb;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// HCPTR with CP10 and CP11 trapped, and trace, and the bits that are one (B4.1.63).
pub(super) const CLOSED: u32 = OPEN | (1 << 10) | (1 << 11);
const OPEN: u32 = 0x33ff | (1 << 20);
const OPEN_MASK: u32 = 1 << 10;
const ENABLED: u32 = 1 << 30;

/// VFP and NEON registers of a vCPU that does not hold them in the hardware.
#[repr(C, align(8))]
#[derive(Default)]
pub struct State {
    d: [u64; 32],
    fpscr: u32,
    fpexc: u32,
}

impl State {
    /// Word `n`, 0 to 63: half of doubleword register `n / 2`.
    #[must_use]
    pub fn word(&self, n: u32) -> u32 {
        let double = self.d.get(n as usize / 2).copied().unwrap_or(0);
        if n & 1 == 0 {
            double as u32
        } else {
            (double >> 32) as u32
        }
    }

    /// Sets word `n`.
    pub fn set_word(&mut self, n: u32, value: u32) {
        if let Some(double) = self.d.get_mut(n as usize / 2) {
            let low = 32 * (n & 1);
            *double = *double & !(0xffff_ffff << low) | u64::from(value) << low;
        }
    }
}

global_asm!(
    ".section .text.vfp, \"ax\"",
    ".arm",
    ".fpu neon-vfpv4",
    // vfp_save(r0 = registers, r1 = whether there are 32)
    ".type vfp_save, %function",
    "vfp_save:",
    "vstmia r0!, {{d0-d15}}",
    "cmp r1, #0",
    "vstmiane r0!, {{d16-d31}}",
    "addeq r0, r0, #128",
    "vmrs r1, fpscr",
    "str r1, [r0]",
    "bx lr",
    // vfp_restore(r0 = registers, r1 = whether there are 32)
    ".type vfp_restore, %function",
    "vfp_restore:",
    "vldmia r0!, {{d0-d15}}",
    "cmp r1, #0",
    "vldmiane r0!, {{d16-d31}}",
    "addeq r0, r0, #128",
    "ldr r1, [r0]",
    "vmsr fpscr, r1",
    "bx lr",
);

unsafe extern "C" {
    fn vfp_save(state: *mut State, all: bool);
    fn vfp_restore(state: *const State, all: bool);
}

/// FPSID, MVFR1 and MVFR0, which trap: read once, since Hyp can't read them while HCPTR is closed.
static IDS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
static PRESENT: AtomicBool = AtomicBool::new(false);
static ALL_32: AtomicBool = AtomicBool::new(false);

fn write_hcptr(value: u32) {
    // SAFETY: rules what guests may use; Hyp itself is soft-float.
    unsafe { HCPTR::write(value) };
}

fn read_fpexc() -> u32 {
    let value;
    // SAFETY: HCPTR is open, so the register is accessible.
    unsafe {
        asm!(".fpu neon-vfpv4", "vmrs {}, fpexc", out(reg) value, options(nomem, nostack, preserves_flags));
    };
    value
}

fn write_fpexc(value: u32) {
    // SAFETY: HCPTR is open, so the register is accessible; Hyp is soft-float.
    unsafe {
        asm!(".fpu neon-vfpv4", "vmsr fpexc, {}", in(reg) value, options(nomem, nostack, preserves_flags));
    };
}

/// Finds out what there is, and closes it. HCPTR.TCP10 reads as one where there is no VFP or the
/// secure side keeps it (NSACR).
pub(super) fn init() {
    write_hcptr(OPEN);
    isb();
    if is_open() {
        let (fpsid, mvfr1, mvfr0): (u32, u32, u32);
        // SAFETY: HCPTR is open.
        unsafe {
            asm!(".fpu neon-vfpv4", "vmrs {}, fpsid", "vmrs {}, mvfr1", "vmrs {}, mvfr0",
                out(reg) fpsid, out(reg) mvfr1, out(reg) mvfr0,
                options(nomem, nostack, preserves_flags));
        }
        for (id, value) in IDS.iter().zip([fpsid, mvfr1, mvfr0]) {
            id.store(value, Ordering::Relaxed);
        }
        PRESENT.store(true, Ordering::Relaxed);
        ALL_32.store(mvfr0 & 0xf == 2, Ordering::Relaxed);
        write_fpexc(ENABLED);
    }
    write_hcptr(CLOSED);
    isb();
}

/// Whether guests can have VFP at all.
#[must_use]
pub fn present() -> bool {
    PRESENT.load(Ordering::Relaxed)
}

/// The ID register of number `n`, as VMRS encodes it: FPSID 0, MVFR1 6, MVFR0 7.
#[must_use]
pub fn id(n: u32) -> Option<u32> {
    let index = match n {
        0 => 0,
        6 => 1,
        7 => 2,
        _ => return None,
    };
    present().then(|| IDS[index].load(Ordering::Relaxed))
}

/// Whether the vCPU that is loaded holds the registers.
#[must_use]
pub(super) fn is_open() -> bool {
    HCPTR::read() & OPEN_MASK == 0
}

/// Lets the guest at the registers, which are its own.
pub(super) fn open(state: &State) {
    write_hcptr(OPEN);
    isb();
    write_fpexc(state.fpexc);
}

/// Keeps the next guest from the registers. They stay in the hardware; FPEXC is taken now.
pub(super) fn close(state: &mut State) {
    state.fpexc = read_fpexc();
    write_fpexc(ENABLED);
    write_hcptr(CLOSED);
}

/// Gives the registers to the vCPU that is loaded: those in the hardware go to `owner`, if they are
/// anyone's, and `state` comes.
pub fn switch(owner: Option<&mut State>, state: &State) {
    let all = ALL_32.load(Ordering::Relaxed);
    write_hcptr(OPEN);
    isb();
    // SAFETY: the layout is `State`'s, the registers accessible since HCPTR is open and EN set.
    unsafe {
        if let Some(owner) = owner {
            vfp_save(owner, all);
        }
        vfp_restore(state, all);
    }
    write_fpexc(state.fpexc);
}

/// Whether the vCPU that is loaded holds the registers, and lets its PL1, or its PL0, use them
/// (CPACR and FPEXC).
#[must_use]
pub fn usable(privileged: bool) -> bool {
    let allowed = if privileged { 0b0101 } else { 0b1111 } << 20;
    is_open() && CPACR::read() & allowed == allowed && read_fpexc() & ENABLED != 0
}

/// Copies the registers, which are [`usable`], to the state of the vCPU that holds them.
pub fn spill(state: &mut State) {
    // SAFETY: the layout is `State`'s; HCPTR is open and EN set.
    unsafe { vfp_save(state, ALL_32.load(Ordering::Relaxed)) };
}

/// Copies them back.
pub fn reload(state: &State) {
    // SAFETY: as above.
    unsafe { vfp_restore(state, ALL_32.load(Ordering::Relaxed)) };
}

/// Takes the registers of a vCPU that is not loaded from the hardware, before it goes elsewhere.
pub fn take(owner: &mut State) {
    let all = ALL_32.load(Ordering::Relaxed);
    write_hcptr(OPEN);
    isb();
    // SAFETY: as above.
    unsafe { vfp_save(owner, all) };
    write_hcptr(CLOSED);
}
