//! An exception taken in Hyp itself: our own bug, so all that is known is printed and the machine
//! stops.

use super::sysreg::{HDFAR, HIFAR, HSR};
use crate::error;
use crate::syndrome::Hsr;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

/// The registers at the exception, as `switch.s` stores them.
#[repr(C)]
pub struct Dump {
    r: [u32; 13],
    pub(super) sp: u32,
    lr: u32,
    pc: u32,
    cpsr: u32,
}

const _: () = assert!(size_of::<Dump>() <= 72);

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, r) in self.r.iter().enumerate() {
            write!(
                f,
                "r{n:<3} {r:#010x}{}",
                if n % 4 == 3 { "\n" } else { "  " }
            )?;
        }
        writeln!(f, "sp   {:#010x}  lr   {:#010x}", self.sp, self.lr)?;
        write!(f, "pc   {:#010x}  cpsr {:#010x}", self.pc, self.cpsr)
    }
}

static FAULTED: AtomicBool = AtomicBool::new(false);

/// Whether an exception has been taken in Hyp: the machine is about to stop.
#[must_use]
pub fn faulted() -> bool {
    FAULTED.load(Ordering::Relaxed)
}

/// Called by the vectors: prints and stops.
pub(super) extern "C" fn fault(dump: &Dump, kind: u32) -> ! {
    FAULTED.store(true, Ordering::Relaxed);
    let (what, address) = match kind {
        0 => ("undefined instruction", None),
        1 => ("hypercall", None),
        2 => ("prefetch abort", Some(HIFAR::read())),
        _ => ("data abort", Some(HDFAR::read())),
    };
    let hsr = HSR::read();
    match address {
        Some(address) => {
            error!(
                "{what} in Hyp at pc {:#010x}, address {address:#010x}",
                dump.pc
            );
        }
        None => error!("{what} in Hyp at pc {:#010x}", dump.pc),
    }
    error!("HSR {hsr:#010x}: {}\n{dump}", Hsr(hsr));
    // In Thumb state r7 is the frame pointer.
    backtrace(dump.r[7]);
    die()
}

/// Prints the return addresses of the callers.
#[inline(never)]
pub fn trace() {
    let fp: u32;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, r7", out(reg) fp, options(nomem, nostack, preserves_flags));
    }
    backtrace(fp);
}

/// Prints the return addresses of the frames from `fp` on.
///
/// A frame pointer points at {caller's fp, return address}; frames lie in the stacks, which are
/// mapped memory that grows downwards, so the chain ends where it does not rise.
pub fn backtrace(mut fp: u32) {
    for _ in 0..32 {
        if fp & 3 != 0
            || super::mmu::pa_of(fp as usize).0 == 0
            || super::mmu::pa_of(fp as usize + 4).0 == 0
        {
            return;
        }
        // SAFETY: both words are mapped, as was just checked.
        let [next, lr] = unsafe { (fp as *const [u32; 2]).read() };
        error!("  from {lr:#010x}");
        if next <= fp {
            return;
        }
        fp = next;
    }
}

/// What is done once a panic has said all: stop, or start the machine anew.
static AT_DEATH: spin::Once<fn() -> !> = spin::Once::new();

/// Sets what [`die`] does.
pub fn at_death(what: fn() -> !) {
    AT_DEATH.call_once(|| what);
}

/// Ends a panic.
pub fn die() -> ! {
    match AT_DEATH.get() {
        Some(what) => what(),
        None => super::boot::stop(),
    }
}
