//! The other CPUs: started by PSCI with a function to run, off again when it returns.

use crate::cpu::{self, MAX_CPUS};
use crate::machine::machine;
use crate::{mmu, psci, timer};
use core::sync::atomic::{AtomicU32, Ordering};

unsafe extern "C" {
    fn _secondary();
}

/// What each CPU is to run; 0 when it took it.
static WORK: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Address where a CPU starts: it turns on the map and runs what `start` set, else `context` as a function.
#[must_use]
pub fn entry() -> u32 {
    _secondary as *const () as u32
}

/// Starts CPU number `n` of the tree with `work`; PSCI's answer.
pub fn start(n: usize, work: fn()) -> u32 {
    cpu::dsb();
    psci::cpu_on(machine().cpus[n], entry(), work as *const () as u32)
}

/// Waits until that CPU is off; false after a second.
#[must_use]
pub fn wait_off(n: usize) -> bool {
    timer::wait(1_000_000, || psci::affinity_info(machine().cpus[n]) == 1)
}

/// How many CPUs the tree has.
#[must_use]
pub fn count() -> usize {
    machine().cpu_count
}

#[unsafe(no_mangle)]
extern "C" fn secondary_entry(context: u32) -> ! {
    mmu::on();
    WORK[cpu::index()].store(context, Ordering::Relaxed);
    // SAFETY: `start` gave the address of a fn() as the context, the only use of `entry` in these guests.
    let work: fn() = unsafe { core::mem::transmute(context as usize) };
    work();
    psci::cpu_off();
}
