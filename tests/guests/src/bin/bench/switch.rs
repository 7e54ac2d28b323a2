//! What it costs that one vCPU gives the CPU to another: of another VM, or of its own.
//!
//! The other one gives the CPU away N times in its life, and this one more often than that. If as many times somebody ran
//! meanwhile, they took turns one by one.

use crate::{Clock, print_figure, skip, wanted};
use bare::machine::{has, image, number};
use bare::{armillary, smp, vfp, xen};
use core::arch::global_asm;
use core::{ptr, slice};

global_asm!(include_str!("switch.s"), options(raw));

unsafe extern "C" {
    fn turns_armillary(n: u32, ticks: *mut u32, use_vfp: u32);
    fn turns_xen(n: u32, ticks: *mut u32, use_vfp: u32);
}

/// Instructions of a turn besides the call.
const TURN: i64 = 12;
/// Turns of the other one.
const N: usize = 8192;
/// Turns of one sample, which is of twice as many switches.
const SAMPLE: usize = 1024;
/// Turns in the beginning and in the end that are in no sample.
const EDGE: usize = 1024;

/// Gives the CPU away `n` times; how long each took goes to `ticks` where that is not null. VFP is used after each if asked.
///
/// # Safety
/// There is room for so many ticks, and VFP is on if it is used.
unsafe fn turns(n: usize, ticks: *mut u32, use_vfp: bool) {
    let turns = if armillary::present() {
        turns_armillary
    } else {
        turns_xen
    };
    // SAFETY: the caller's; the routines keep the procedure call standard.
    unsafe { turns(n as u32, ticks, use_vfp.into()) }
}

/// Does nothing but give the CPU away.
pub(super) fn give(use_vfp: bool) {
    if use_vfp {
        vfp::on();
    }
    // SAFETY: no ticks, and VFP is on.
    unsafe { turns(N, ptr::null_mut(), use_vfp) };
}

/// The switch between this VM and another on its CPU that gives it away.
pub(super) fn between_vms(clock: &Clock) {
    if has("vfp") {
        samples(clock, "vcpu_switch_vfp", true);
    } else {
        samples(clock, "vcpu_switch", false);
    }
}

/// The switch between this VM's two vCPUs, which share a CPU.
pub(super) fn within_vm(clock: &Clock) {
    for (name, use_vfp) in [("vcpu_switch_own", false), ("vcpu_switch_vfp_own", true)] {
        if !wanted(name) {
            continue;
        }
        if !armillary::present() && !xen::present() {
            skip(name, "no call to give up the CPU");
            continue;
        }
        smp::start(
            1,
            if use_vfp {
                || give(true)
            } else {
                || give(false)
            },
        );
        samples(clock, name, use_vfp);
        let _ = smp::wait_off(1);
    }
}

/// Takes turns with the other one, and prints the samples if these were one by one.
fn samples(clock: &Clock, name: &str, use_vfp: bool) {
    if use_vfp {
        vfp::on();
    }
    // SAFETY: RAM beyond the image, which nobody uses.
    let ticks = unsafe { slice::from_raw_parts_mut((image().base + (4 << 20)) as *mut u32, 2 * N) };
    // SAFETY: the room is there, and VFP is on if it is used.
    unsafe { turns(ticks.len(), ticks.as_mut_ptr(), use_vfp) };
    vfp::off();
    match shared(ticks) {
        Some(shared) => shared
            .chunks_exact(SAMPLE)
            .take(number("samples", 5) as usize)
            .for_each(|sample| {
                let ticks: u32 = sample.iter().sum();
                let switches = 2 * SAMPLE as i64;
                let tenths = i64::from(ticks) * i64::from(clock.nanoseconds_per_tick) * 10;
                print_figure(name, tenths - 10 * TURN * switches, switches as u32);
            }),
        None => skip(name, "they do not take turns"),
    }
}

/// The turns during which the other one had one of its own, without those at the edges; none where they did not alternate.
fn shared(ticks: &[u32]) -> Option<&[u32]> {
    // The other one has had all of its turns by then.
    let alone = *ticks.get(ticks.len() - EDGE..)?.iter().max()?;
    let first = ticks.iter().position(|&ticks| ticks > 2 * alone)?;
    // Longer ones are those of what comes before and after its turns.
    let usual = *ticks.get(first + N / 2)?;
    let one = |ticks: &&u32| **ticks > 2 * alone && **ticks < usual + usual / 4;
    let count = ticks.iter().filter(one).count();
    let sampled = ticks.get(first + EDGE..first + N - EDGE)?;
    (count.abs_diff(N) <= EDGE / 64 && sampled.iter().all(|ticks| one(&ticks))).then_some(sampled)
}
