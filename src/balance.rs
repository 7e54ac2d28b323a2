//! Which CPU a vCPU lives on: one that has nothing better to do takes from those that have too much.
//!
//! CPUs tell each other by words that each writes for itself: what it runs, what it has ready that could
//! run elsewhere, whether it has several vCPUs on at all. A CPU that comes to run less than before asks
//! the one that has the most to spare; one that gets something to spare looks for a CPU that runs less.
//! So the highest priorities run, wherever they may. Among equals a CPU with more of them than another
//! hands one on every [`EVEN_OUT`], the one that has been there the longest, to the next such CPU: so all
//! go round, and shares are even over time where they can't be at once.

use crate::machine;
use crate::vm::{MAX_CPUS, news};
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// How often CPUs that are as even as can be change places, 1/s.
pub const EVEN_OUT: u32 = 100;
/// More than any CPU has.
pub const MANY: u32 = 0xffff;

/// CPUs that run vCPUs.
static CPUS: AtomicU32 = AtomicU32::new(0);
/// The [`load`] of each.
static LOAD: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// Of what each has ready that could run elsewhere the load of the best.
static SPARE: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// CPUs with several vCPUs on, of which one could be elsewhere, by bit.
static CROWDED: AtomicU32 = AtomicU32::new(0);

/// What a CPU has to do that runs so many vCPUs of this priority by turns: the more, the greater. None:
/// 0.
#[must_use]
pub fn load(priority: u8, turns: u32) -> u32 {
    (u32::from(priority) + 1) << 16 | turns.min(MANY)
}

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

/// Notes the load of CPU number `cpu`. Where it is of a lower priority than before, it asks for more.
pub fn runs(cpu: usize, load: u32) {
    let Some(own) = LOAD.get(cpu) else { return };
    let before = own.load(Ordering::Relaxed);
    own.store(load, Ordering::Relaxed);
    if load >> 16 < before >> 16 {
        // Either this sees who has one to spare, or that one sees what is run here.
        fence(Ordering::SeqCst);
        let others = each(present(!(1 << cpu)));
        let spare = others.map(|cpu| (SPARE[cpu].load(Ordering::Relaxed), cpu));
        if let Some((best, other)) = spare.max()
            && best >> 16 > load >> 16
        {
            offer(other);
        }
    }
}

/// Notes of what CPU number `cpu` has ready that could run elsewhere the load of the best; 0: nothing.
pub fn spares(cpu: usize, best: u32) {
    if let Some(spare) = SPARE.get(cpu) {
        spare.store(best, Ordering::Relaxed);
    }
    fence(Ordering::SeqCst);
}

/// The CPU of `mask` other than `own` that has the least load, if that is below `load`: of several the
/// next after `own`.
#[must_use]
pub fn better(own: usize, mask: u32, load: u32) -> Option<usize> {
    let others = each(present(mask) & !(1 << own));
    let loads = others.map(|cpu| (LOAD[cpu].load(Ordering::Relaxed), cpu < own, cpu));
    let (least, _, cpu) = loads.min()?;
    (least < load).then_some(cpu)
}

/// CPU number `cpu` gets a vCPU of this priority: until it says so itself.
pub fn gets(cpu: usize, priority: u8) {
    if let Some(own) = LOAD.get(cpu) {
        let one = load(priority, 1);
        let before = own.load(Ordering::Relaxed);
        let more = if before >> 16 == one >> 16 {
            before + 1
        } else {
            before.max(one)
        };
        own.store(more, Ordering::Relaxed);
    }
}

/// Notes whether CPU number `cpu` has several vCPUs on, of which one could be elsewhere. The others have
/// to know: only where nobody could come do they leave WFI to the guest.
pub fn crowds(cpu: usize, is: bool) {
    if set(&CROWDED, cpu, is) {
        each(present(u32::MAX) & !(1 << cpu)).for_each(offer);
    }
}

/// Whether no other CPU than `cpu` has vCPUs that could come.
#[inline(always)]
#[must_use]
pub fn is_alone(cpu: usize) -> bool {
    CROWDED.load(Ordering::Relaxed) & !(1 << cpu) == 0
}

/// Sets the bit of CPU number `cpu`, which alone writes it; whether that was otherwise.
fn set(word: &AtomicU32, cpu: usize, on: bool) -> bool {
    let bit = 1 << cpu;
    let changed = on != (word.load(Ordering::Relaxed) & bit != 0);
    if changed {
        word.fetch_xor(bit, Ordering::Relaxed);
    }
    changed
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
