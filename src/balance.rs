//! Which CPU a vCPU lives on: one that has nothing better to do takes from those that have too much.
//!
//! CPUs tell each other by words that each writes for itself: what it runs, whether it has a vCPU
//! ready that could run elsewhere, whether it has several on at all. A CPU that falls idle asks one that
//! has a vCPU to spare; one that gets one to spare looks for a CPU that runs less. So the highest
//! priorities run, wherever they may. Among equals a CPU with more of them than another hands one on
//! every [`EVEN_OUT`], which makes shares even over time where they can't be at once.

use crate::machine;
use crate::vm::{MAX_CPUS, news};
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// How often CPUs that are as even as can be change places, 1/s.
pub const EVEN_OUT: u32 = 100;

/// CPUs that run vCPUs.
static CPUS: AtomicU32 = AtomicU32::new(0);
/// What each runs: a priority plus one; 0: nothing.
static RUNNING: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// How many vCPUs each has ready.
static READY: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// CPUs with a vCPU ready that could run elsewhere, by bit.
static SPARE: AtomicU32 = AtomicU32::new(0);
/// CPUs with several vCPUs on, of which one could be elsewhere, by bit.
static CROWDED: AtomicU32 = AtomicU32::new(0);

/// Says how many CPUs there are.
pub fn set_cpus(count: usize) {
    CPUS.store(count as u32, Ordering::Relaxed);
}

/// The CPUs of `mask` that there are.
#[must_use]
pub fn present(mask: u32) -> u32 {
    mask & !(u32::MAX << CPUS.load(Ordering::Relaxed))
}

/// Whether there is more than one.
#[inline(always)]
#[must_use]
pub fn several() -> bool {
    CPUS.load(Ordering::Relaxed) > 1
}

/// Notes what CPU number `cpu` is going to run, of so many that are ready.
pub fn runs(cpu: usize, priority: u8, ready: u32) {
    if let (Some(running), Some(count)) = (RUNNING.get(cpu), READY.get(cpu)) {
        running.store(u32::from(priority) + 1, Ordering::Relaxed);
        count.store(ready, Ordering::Relaxed);
    }
}

/// CPU number `cpu` has nothing to run, and asks one that has too much.
pub fn idles(cpu: usize) {
    if let (Some(running), Some(count)) = (RUNNING.get(cpu), READY.get(cpu)) {
        running.store(0, Ordering::Relaxed);
        count.store(0, Ordering::Relaxed);
    }
    set(&SPARE, cpu, false);
    // Either this sees who has one to spare, or that one sees that this CPU idles.
    fence(Ordering::SeqCst);
    let spare = SPARE.load(Ordering::Relaxed) & !(1 << cpu);
    if spare != 0 {
        offer(spare.trailing_zeros() as usize);
    }
}

/// Notes whether CPU number `cpu` has a vCPU ready that could run elsewhere.
pub fn spares(cpu: usize, has: bool) {
    set(&SPARE, cpu, has);
    fence(Ordering::SeqCst);
}

/// The CPU of `mask` other than `own` that should rather run a vCPU of this priority than what it
/// runs: the one that runs the least.
#[must_use]
pub fn better(own: usize, mask: u32, priority: u8) -> Option<usize> {
    let others = each(present(mask) & !(1 << own));
    let running = others.map(|cpu| (RUNNING[cpu].load(Ordering::Relaxed), cpu));
    let (least, cpu) = running.min()?;
    (least <= u32::from(priority)).then_some(cpu)
}

/// A CPU of `mask` other than `own`, which has `ready` vCPUs ready, that has fewer.
#[must_use]
pub fn emptier(own: usize, mask: u32, ready: u32) -> Option<usize> {
    let others = each(present(mask) & !(1 << own));
    let counts = others.map(|cpu| (READY[cpu].load(Ordering::Relaxed), cpu));
    let (least, cpu) = counts.min()?;
    (least < ready).then_some(cpu)
}

/// CPU number `cpu` gets a vCPU of this priority: until it says so itself.
pub fn gets(cpu: usize, priority: u8) {
    if let (Some(running), Some(count)) = (RUNNING.get(cpu), READY.get(cpu)) {
        running.fetch_max(u32::from(priority) + 1, Ordering::Relaxed);
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Notes whether CPU number `cpu` has several vCPUs on, of which one could be elsewhere. The others have
/// to know: only where nobody could come do they leave WFI to the guest.
pub fn crowds(cpu: usize, is: bool) {
    let before = CROWDED.load(Ordering::Relaxed);
    if before & 1 << cpu == u32::from(is) << cpu {
        return;
    }
    set(&CROWDED, cpu, is);
    each(present(u32::MAX) & !(1 << cpu)).for_each(offer);
}

/// Whether no other CPU than `cpu` has vCPUs that could come.
#[inline(always)]
#[must_use]
pub fn is_alone(cpu: usize) -> bool {
    CROWDED.load(Ordering::Relaxed) & !(1 << cpu) == 0
}

fn set(word: &AtomicU32, cpu: usize, on: bool) {
    let bit = 1 << cpu;
    match (on, word.load(Ordering::Relaxed) & bit != 0) {
        (true, false) => _ = word.fetch_or(bit, Ordering::Relaxed),
        (false, true) => _ = word.fetch_and(!bit, Ordering::Relaxed),
        _ => {}
    }
}

/// Has CPU number `cpu` look anew.
fn offer(cpu: usize) {
    news::announce(cpu, news::OFFER);
    machine::kick(cpu);
}

fn each(mut mask: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let cpu = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (cpu < MAX_CPUS).then_some(cpu)
    })
}
