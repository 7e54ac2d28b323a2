//! Figures that need a second CPU: interrupts there and back, and its start.
//!
//! Under icount the count is the sum of what both CPUs do, so every wait yields.

use crate::{Clock, latency, report, skip, switch, wanted};
use bare::gic::{self, gicd};
use bare::machine::{has, machine};
use bare::timer::Timer;
use bare::{cpu, psci, smp, timer};
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
            "vcpu_switch_own",
            "vcpu_switch_vfp_own",
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
        switch::within_vm(&clock);
    } else {
        round_trips(&clock, "ipi_two_cpus_wfi", true);
        round_trips(&clock, "ipi_two_cpus_spin", false);
        cpu_on(&clock);
    }
}

/// Round trips of one sample.
const TRIPS: u32 = 1024;
static STOP: AtomicU32 = AtomicU32::new(0);
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
