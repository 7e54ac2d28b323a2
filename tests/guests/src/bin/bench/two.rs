//! Figures that need a second CPU: interrupts there and back, its start, and what a switch between two vCPUs costs.
//!
//! Under icount the count is the sum of what both CPUs do, so every wait yields.

use crate::{Clock, latency, report, skip, wanted};
use bare::gic::{self, gicd};
use bare::machine::{has, machine};
use bare::timer::Timer;
use bare::{armillary, cpu, psci, smp, timer, vfp, xen};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

unsafe extern "C" {
    fn ping_pong(rally: &Rally);
    safe fn started_cpu();
}

/// What latency.s takes.
#[repr(C)]
struct Rally {
    address: u32,
    value: u32,
    gicc: u32,
    n: u32,
    wfi: u32,
    first: u32,
}

pub(super) fn all(clock: &Clock) {
    let shared = has("one_cpu");
    let names: &[&str] = if shared {
        &[
            "ipi_one_cpu",
            "wakeup",
            "vcpu_switch",
            "vcpu_switch_vfp",
            "vfp_first_use",
        ]
    } else {
        &["ipi_two_cpus_wfi", "ipi_two_cpus_spin", "cpu_on"]
    };
    if smp::count() < 2 {
        return names
            .iter()
            .filter(|name| wanted(name))
            .for_each(|name| skip(name, "one CPU"));
    }
    // PMCCNTR counts one CPU's cycles: the virtual count is common to both.
    let clock = Clock {
        pmu: false,
        ..*clock
    };
    if shared {
        round_trips(&clock, "ipi_one_cpu", true);
        wakeup(&clock);
        switches(&clock);
    } else {
        round_trips(&clock, "ipi_two_cpus_wfi", true);
        round_trips(&clock, "ipi_two_cpus_spin", false);
        cpu_on(&clock);
    }
}

/// Round trips of one sample.
const TRIPS: u32 = 1024;
static WFI: AtomicU32 = AtomicU32::new(0);
static READY: AtomicU32 = AtomicU32::new(0);

/// One side: the first CPU serves.
fn rally(first: bool) {
    let rally = Rally {
        address: machine().gicd + gicd::SGIR,
        value: 1 << (16 + u32::from(first)),
        gicc: machine().gicc,
        n: TRIPS,
        wfi: WFI.load(Ordering::Acquire),
        first: first.into(),
    };
    // SAFETY: the vectors are in place, the routine keeps the procedure call standard.
    unsafe { ping_pong(&rally) };
}

fn round_trips(clock: &Clock, name: &str, wfi: bool) {
    if !wanted(name) {
        return;
    }
    gic::init();
    WFI.store(wfi.into(), Ordering::Release);
    report(name, TRIPS, || {
        READY.store(0, Ordering::Release);
        smp::start(1, || {
            gic::init_cpu();
            let old = latency::install();
            READY.store(1, Ordering::Release);
            rally(false);
            latency::restore(old);
        });
        timer::wait(10_000_000, || READY.load(Ordering::Acquire) == 1);
        // Let it come to its wait.
        timer::delay(100);
        let old = latency::install();
        let passed = clock.time(|| rally(true));
        latency::restore(old);
        let _ = smp::wait_off(1);
        passed as i64
    });
}

/// Wakes up while the other is in WFI, so that WFI traps and the CPU idles.
fn wakeup(clock: &Clock) {
    if !wanted("wakeup") {
        return;
    }
    gic::init();
    STOP.store(0, Ordering::Release);
    READY.store(0, Ordering::Release);
    smp::start(1, || {
        gic::init_cpu();
        READY.store(1, Ordering::Release);
        while STOP.load(Ordering::Acquire) == 0 {
            cpu::wfi();
        }
    });
    timer::wait(10_000_000, || READY.load(Ordering::Acquire) == 1);
    latency::timer(clock, "wakeup", Timer::Virtual, 100, true);
    STOP.store(1, Ordering::Release);
    bare::mmio::write(machine().gicd + gicd::SGIR, 1 << 17);
    let _ = smp::wait_off(1);
}

/// From the call of CPU_ON to the first instruction of the CPU that it starts.
fn cpu_on(clock: &Clock) {
    const N: u32 = 64;
    if !wanted("cpu_on") {
        return;
    }
    report("cpu_on", N, || {
        (0..N)
            .map(|n| {
                let state = [const { AtomicU32::new(0) }; 2];
                // Another phase of the count each time.
                (0..n % 16).for_each(|_| cpu::relax());
                let start = timer::now() as u32;
                let _ = psci::cpu_on(
                    machine().cpus[1],
                    started_cpu as *const () as u32,
                    state.as_ptr() as u32,
                );
                timer::wait(10_000_000, || state[1].load(Ordering::Acquire) == 1);
                let _ = smp::wait_off(1);
                i64::from(state[0].load(Ordering::Acquire).wrapping_sub(start))
                    * i64::from(clock.nanoseconds_per_tick)
            })
            .sum()
    });
}

static STOP: AtomicU32 = AtomicU32::new(0);
static TURNS: AtomicU32 = AtomicU32::new(0);
static USES_VFP: AtomicU32 = AtomicU32::new(0);

/// Gives the CPU to the other, `n` times; uses VFP after each if asked. A function by itself: a trace is cut at its call.
#[inline(never)]
fn turns<const XEN: bool>(n: u32, use_vfp: bool) {
    for _ in 0..n {
        if XEN {
            xen::yield_now();
        } else {
            armillary::yield_now();
        }
        if use_vfp {
            // SAFETY: VFP is on, and the compiled code holds nothing in it.
            unsafe { asm!(".fpu neon", "vmov.f32 s0, s0", options(nostack)) };
        }
    }
}

const SWITCHES: [&str; 3] = ["vcpu_switch", "vcpu_switch_vfp", "vfp_first_use"];

/// Two vCPUs that give the CPU to each other, without VFP and with a use of it after each switch.
fn switches(clock: &Clock) {
    if !SWITCHES.into_iter().any(wanted) {
        return;
    }
    match (armillary::present(), xen::present()) {
        (true, _) => switches_on::<false>(clock),
        (_, true) => switches_on::<true>(clock),
        _ => skip_switches("no call to give up the CPU"),
    }
}

fn skip_switches(why: &str) {
    SWITCHES.into_iter().for_each(|name| skip(name, why));
}

fn switches_on<const XEN: bool>(clock: &Clock) {
    const N: u32 = 1024;
    let once = |use_vfp: bool| {
        STOP.store(0, Ordering::Release);
        USES_VFP.store(use_vfp.into(), Ordering::Release);
        let before = TURNS.load(Ordering::Acquire);
        smp::start(1, || {
            if USES_VFP.load(Ordering::Acquire) == 1 {
                vfp::on();
            }
            while STOP.load(Ordering::Acquire) == 0 {
                turns::<XEN>(1, USES_VFP.load(Ordering::Acquire) == 1);
                TURNS.fetch_add(1, Ordering::AcqRel);
            }
        });
        timer::wait(10_000_000, || {
            turns::<XEN>(1, false);
            TURNS.load(Ordering::Acquire).wrapping_sub(before) > 2
        });
        let before = TURNS.load(Ordering::Acquire);
        let passed = clock.time(|| turns::<XEN>(N, use_vfp)) as i64;
        let taken = TURNS.load(Ordering::Acquire).wrapping_sub(before);
        STOP.store(1, Ordering::Release);
        let _ = smp::wait_off(1);
        (passed, taken.abs_diff(N) < N / 16)
    };
    if !once(false).1 {
        return skip_switches("the two vCPUs do not take turns");
    }
    // Each turn of this one is two switches.
    report("vcpu_switch", 2 * N, || once(false).0);
    vfp::on();
    report("vcpu_switch_vfp", 2 * N, || once(true).0);
    // What that adds to a switch: a trap, where the registers don't come with it.
    report("vfp_first_use", 2 * N, || once(true).0 - once(false).0);
    vfp::off();
}
