//! The other CPUs: started by PSCI with a function to run, off again when it returns.

use crate::cpu::{self, MAX_CPUS};
use crate::machine::machine;
use crate::report::Outcome;
use crate::{check, check_eq, mmu, psci, timer};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

unsafe extern "C" {
    fn _secondary();
}

/// Address where a CPU starts: it turns on the map and runs the function at `context`.
#[must_use]
pub fn entry() -> u32 {
    _secondary as *const () as u32
}

/// How often each CPU was started, and how often it came here: QEMU says that a CPU is off until it really runs.
static STARTED: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static BEGUN: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Starts CPU number `n` of the tree with `work`; PSCI's answer.
pub fn start(n: usize, work: fn()) -> u32 {
    cpu::dsb();
    let answer = psci::cpu_on(machine().cpus[n], entry(), work as *const () as u32);
    if answer == 0 {
        STARTED[n].fetch_add(1, Ordering::AcqRel);
    }
    answer
}

/// Whether that CPU was never started, or ran and is off again.
fn is_off(n: usize) -> bool {
    BEGUN[n].load(Ordering::Acquire) == STARTED[n].load(Ordering::Acquire)
        && psci::affinity_info(machine().cpus[n]) == 1
}

/// Waits until that CPU has done its work and is off; false after ten seconds.
#[must_use]
pub fn wait_off(n: usize) -> bool {
    timer::wait(10_000_000, || is_off(n))
}

/// How many CPUs the tree has.
#[must_use]
pub fn count() -> usize {
    machine().cpu_count
}

#[unsafe(no_mangle)]
extern "C" fn secondary_entry(context: u32) -> ! {
    mmu::on();
    BEGUN[cpu::index()].fetch_add(1, Ordering::AcqRel);
    // SAFETY: `start` gave the address of a fn() as the context, the only use of `entry` in these guests.
    let work: fn() = unsafe { core::mem::transmute(context as usize) };
    work();
    psci::cpu_off();
}

/// Runs `test` on every CPU of the tree at once, the first one included; the first failure, if any.
///
/// # Errors
/// What a CPU's test returned, or that a CPU did not start or did not end in a minute.
pub fn everywhere(test: fn() -> Outcome) -> Outcome {
    TEST.store(test as usize, Ordering::Release);
    for cpu in 1..count() {
        RESULTS.set(cpu, Ok(()));
        let answer = start(cpu, run_test);
        check_eq!(answer, 0, "CPU_ON of CPU {cpu}");
    }
    let own = test();
    for cpu in 1..count() {
        let end = timer::wait(60_000_000, || is_off(cpu));
        check!(end, "CPU {cpu} did not end");
    }
    own?;
    (1..count()).try_for_each(|cpu| RESULTS.take(cpu))
}

static TEST: AtomicUsize = AtomicUsize::new(0);

/// What the test came to on each CPU.
struct Results(UnsafeCell<[Outcome; MAX_CPUS]>);
// SAFETY: an element is written by its own CPU while that is on, and touched by the first CPU only while it is off.
unsafe impl Sync for Results {}
static RESULTS: Results = Results(UnsafeCell::new([const { Ok(()) }; MAX_CPUS]));

impl Results {
    fn set(&self, cpu: usize, outcome: Outcome) {
        // SAFETY: see above.
        unsafe { (*self.0.get())[cpu] = outcome };
    }

    fn take(&self, cpu: usize) -> Outcome {
        // SAFETY: see above.
        unsafe { core::mem::replace(&mut (*self.0.get())[cpu], Ok(())) }
    }
}

fn run_test() {
    // SAFETY: only `everywhere` stores here, before it starts this CPU.
    let test: fn() -> Outcome = unsafe { core::mem::transmute(TEST.load(Ordering::Acquire)) };
    RESULTS.set(cpu::index(), test());
}
