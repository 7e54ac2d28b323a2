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
        &["ipi_one_cpu", "vcpu_switch", "vfp_first_use", "wakeup"]
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
        switches(&clock);
        wakeup(&clock);
    } else {
        round_trips(&clock, "ipi_two_cpus_wfi", true);
        round_trips(&clock, "ipi_two_cpus_spin", false);
        cpu_on(&clock);
    }
}

/// The timer's deadline to the handler in WFI where its CPU is the other vCPU's, too, which waits as well.
fn wakeup(clock: &Clock) {
    if wanted("wakeup") {
        smp::start(1, || {
            loop {
                cpu::wfi();
            }
        });
        timer::delay(100);
        latency::timer(clock, "wakeup", Timer::Virtual, 100, true);
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

/// Gives the CPU to the other, `n` times; uses VFP after each if asked.
#[inline(always)]
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

/// Two vCPUs that give the CPU to each other, without and with a use of VFP after each switch.
fn switches(clock: &Clock) {
    if !wanted("vcpu_switch") && !wanted("vfp_first_use") {
        return;
    }
    match (armillary::present(), xen::present()) {
        (true, _) => switches_on::<false>(clock),
        (_, true) => switches_on::<true>(clock),
        _ => {
            skip("vcpu_switch", "no call to give up the CPU");
            skip("vfp_first_use", "no call to give up the CPU");
        }
    }
}

fn switches_on<const XEN: bool>(clock: &Clock) {
    const N: u32 = 1024;
    vfp::on();
    let once = |use_vfp: bool| {
        STOP.store(0, Ordering::Release);
        USES_VFP.store(use_vfp.into(), Ordering::Release);
        let before = TURNS.load(Ordering::Acquire);
        smp::start(1, || {
            vfp::on();
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
        skip("vcpu_switch", "the two vCPUs do not take turns");
        return skip("vfp_first_use", "the two vCPUs do not take turns");
    }
    // Each turn of this one is two switches.
    report("vcpu_switch", 2 * N, || once(false).0);
    report("vfp_first_use", 2 * N, || once(true).0 - once(false).0);
    vfp::off();
}
