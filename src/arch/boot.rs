//! From the loader to Rust (`boot.s`), and the other CPUs.

use super::{mmu, sysreg};
use crate::addr::Pa;
use crate::regs::mode;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

/// Where the image and the device tree lie.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Handover {
    /// The image's first byte.
    pub image: Pa,
    /// Bytes from there that are the image's, with its data.
    pub image_size: u64,
    /// What the loader gave as the device tree's address; 0: nothing.
    pub tree: Pa,
    /// The mode that the loader entered in.
    pub mode: u32,
}

global_asm!(
    include_str!("boot.s"),
    level1 = sym mmu::LEVEL1,
    level2 = sym mmu::LEVEL2,
    image_table = sym mmu::IMAGE_TABLE,
    identity = sym mmu::IDENTITY,
    TEXT_LOW = const mmu::TEXT_LOW,
    DATA_LOW = const mmu::DATA_LOW,
    XN_HIGH = const mmu::XN_HIGH,
    TEXT_BLOCK_LOW = const mmu::TEXT_BLOCK_LOW,
    MAIR = const mmu::MAIR,
    TCR = const mmu::TCR,
    HSCTLR = const mmu::HSCTLR,
    boot = sym boot,
    secondary = sym secondary,
);

global_asm!(include_str!("unpack.s"));

#[expect(improper_ctypes, reason = "both sides are this image's")]
unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    fn secondary_start();
    fn start(handover: &Handover) -> !;
    fn start_secondary(cpu: usize) -> !;
}

/// From boot.s, on the boot CPU, MMU and caches on.
extern "C" fn boot(tree: u32, image: u32, entered_in: u32) -> ! {
    let (first, end) = (
        &raw const __image_start as usize,
        &raw const __image_end as usize,
    );
    mmu::init();
    if entered_in == mode::HYP {
        super::context::set_vectors();
    }
    // SAFETY: the image's binary defines it.
    unsafe {
        start(&Handover {
            image: Pa(image.into()),
            image_size: (end - first) as u64,
            tree: Pa(tree.into()),
            mode: entered_in,
        })
    }
}

/// From boot.s, on a CPU that [`bring_up`] started.
extern "C" fn secondary(cpu: usize) -> ! {
    // SAFETY: the image's binary defines it.
    unsafe { start_secondary(cpu) }
}

/// What a starting CPU reads, MMU off: its stack's top and its number.
#[repr(C, align(64))]
struct Words([AtomicU32; 2]);
static WORDS: Words = Words([AtomicU32::new(0), AtomicU32::new(0)]);

/// Physical address of the entry for another CPU, and of its argument: it will run on `stack` and
/// be told that it is `cpu`. The words may be set again once it runs.
pub fn entry(stack: usize, cpu: usize) -> (u32, u32) {
    WORDS.0[0].store(stack as u32, Ordering::Relaxed);
    WORDS.0[1].store(cpu as u32, Ordering::Relaxed);
    let words = &raw const WORDS as usize;
    super::cache::clean(words, size_of::<Words>());
    (
        mmu::pa_of(secondary_start as *const () as usize).0 as u32,
        mmu::pa_of(words).0 as u32,
    )
}

/// MPIDR's affinity fields of this CPU.
#[must_use]
pub fn affinity() -> u32 {
    sysreg::MPIDR::read() & 0x00ff_ffff
}

/// This CPU's MIDR.
#[must_use]
pub fn midr() -> u32 {
    sysreg::MIDR::read()
}

/// The mode that this CPU is in.
#[must_use]
pub fn mode() -> u32 {
    let cpsr: u32;
    // SAFETY: reads a status register.
    unsafe {
        core::arch::asm!("mrs {}, cpsr", out(reg) cpsr, options(nomem, nostack, preserves_flags));
    };
    cpsr & mode::MASK
}

/// Stops this CPU for good.
pub fn stop() -> ! {
    loop {
        aarch32_cpu::asm::wfi();
    }
}
