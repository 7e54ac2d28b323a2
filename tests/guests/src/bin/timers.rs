//! The generic timer: both of a guest's timers, their interrupts, their waits and who may use them (ARM DDI 0406C, B8.1).
//!
//! Command line: `late_us=N`, how late an interrupt may be: 500,000 by default, as the host may be busy; under icount with the CPU to
//! itself 50 will do.
#![no_std]
#![no_main]

use bare::exception::{Frame, Kind, on_irq};
use bare::gic::{self, SPURIOUS, gicc, gicd};
use bare::machine::number;
use bare::probe::{Place, Probe};
use bare::report::Outcome;
use bare::timer::{self, ENABLE, IMASK, ISTATUS, Timer, now, physical_now, ticks};
use bare::{check, check_eq, cpu, fail, mcr, probes, smp, tests};
use core::sync::atomic::{AtomicU32, Ordering};

tests! {
    frequency_is_plausible_and_the_counts_run => counts_run,
    counts_never_go_back => || smp::everywhere(never_back),
    virtual_and_physical_count_keep_their_distance => || smp::everywhere(distance),
    counts_agree_between_cpus => counts_agree,
    timer_is_off_after_its_control_is_cleared => || both(off),
    timer_value_is_the_distance_to_the_deadline => || both(value),
    status_follows_the_deadline => || both(status),
    interrupt_comes_at_the_deadline_and_not_before => || everywhere(at_deadline),
    interrupt_comes_at_once_for_a_deadline_in_the_past => || everywhere(past),
    interrupt_never_comes_for_the_last_deadline_there_is => || both(never),
    masked_timer_gives_no_interrupt => || both(masked),
    unmasking_an_expired_timer_gives_its_interrupt => || both(unmasked),
    interrupt_comes_again_until_the_timer_is_quietened => || both(level),
    interrupt_goes_away_when_the_deadline_moves_on => || both(deadline_moved),
    interrupt_goes_away_when_the_timer_is_turned_off => || both(turned_off),
    interrupt_goes_away_when_the_timer_is_masked => || both(masked_late),
    interrupt_held_back_by_the_cpu_comes_when_it_is_let_in => || both(held_back),
    interrupt_held_back_by_the_distributor_comes_when_it_is_enabled => || both(disabled),
    wait_ends_at_the_deadline => || everywhere(wait_ends),
    wait_ends_with_interrupts_masked => || everywhere(wait_ends_masked),
    both_timers_run_side_by_side => || smp::everywhere(side_by_side),
    a_thousand_short_timers_all_arrive => || everywhere(thousand),
    user_mode_reads_counts_only_if_it_may => user_counts,
    user_mode_uses_timers_only_if_it_may => user_timers,
}

static TAKEN: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];
static WRONG: AtomicU32 = AtomicU32::new(0);

/// Quietens and counts the timer that interrupted.
fn handler(_: &mut Frame) {
    let iar = gic::acknowledge();
    match iar & 0x3ff {
        SPURIOUS => return,
        n if n == Timer::Virtual.interrupt() => Timer::Virtual.set_control(0),
        n if n == Timer::Physical.interrupt() => Timer::Physical.set_control(0),
        n => WRONG.store(n, Ordering::Relaxed),
    }
    gic::end(iar);
    TAKEN[cpu::index()].fetch_add(1, Ordering::AcqRel);
}

fn taken() -> u32 {
    TAKEN[cpu::index()].load(Ordering::Acquire)
}

/// Runs a test with each timer, its interrupt enabled.
fn both(test: fn(Timer) -> Outcome) -> Outcome {
    for timer in [Timer::Virtual, Timer::Physical] {
        ready(timer);
        let outcome = test(timer);
        cpu::mask_irq();
        timer.set_control(0);
        drain();
        gic::disable(timer.interrupt());
        outcome?;
    }
    Ok(())
}

/// The same on every CPU.
fn everywhere(test: fn(Timer) -> Outcome) -> Outcome {
    static TEST: AtomicU32 = AtomicU32::new(0);
    TEST.store(test as usize as u32, Ordering::Release);
    smp::everywhere(|| {
        // SAFETY: stored above.
        both(unsafe {
            core::mem::transmute::<usize, fn(Timer) -> Outcome>(
                TEST.load(Ordering::Acquire) as usize
            )
        })
    })
}

/// Ends what a test that failed left pending.
fn drain() {
    for _ in 0..8 {
        gic::dismiss_one();
    }
}

fn ready(timer: Timer) {
    cpu::mask_irq();
    Timer::Virtual.set_control(0);
    Timer::Physical.set_control(0);
    if cpu::index() == 0 {
        gic::write(gicd::CTLR, 1);
    }
    gic::init_cpu();
    on_irq(handler);
    gic::enable(timer.interrupt());
}

fn late() -> u64 {
    ticks(number("late_us", 500_000))
}

/// Whether the timer's interrupt is what this CPU would take next.
fn interrupts(timer: Timer) -> bool {
    gic::next() == timer.interrupt()
}

/// Takes the timer's interrupt as a handler does: acknowledge, quieten, end.
fn take(timer: Timer) -> Outcome {
    let iar = gic::acknowledge();
    timer.set_control(0);
    gic::end(iar);
    check_eq!(iar, timer.interrupt(), "IAR");
    Ok(())
}

/// Waits until the timer's interrupt, which nobody took, has gone. A hypervisor that leaves the virtual timer to the hardware
/// can take it back only when the guest leaves for it, as it does for each look at the distributor.
fn goes(timer: Timer) -> bool {
    timer::wait(1_000_000, || {
        !gic::bit(gicd::ISPENDR, timer.interrupt()) && !interrupts(timer)
    })
}

/// Waits for the timer's interrupt, masked.
fn comes(timer: Timer) -> bool {
    timer::wait(1_000_000, || interrupts(timer))
}

fn counts_run() -> Outcome {
    let frequency = timer::frequency();
    check!(
        (1_000_000..1_000_000_000).contains(&frequency),
        "CNTFRQ {frequency}"
    );
    let (v, p) = (now(), physical_now());
    for _ in 0..1000 {
        cpu::relax();
    }
    check!(now() > v && physical_now() > p, "a count stands still");
    Ok(())
}

fn never_back() -> Outcome {
    let (mut v, mut p) = (now(), physical_now());
    for _ in 0..10_000 {
        let (v2, p2) = (now(), physical_now());
        check!(v2 >= v && p2 >= p, "a count went back");
        (v, p) = (v2, p2);
    }
    Ok(())
}

fn distance() -> Outcome {
    let measure = || {
        let (v, p) = timer::both_now();
        p.wrapping_sub(v)
    };
    let before = measure();
    timer::delay(20_000);
    let apart = measure().abs_diff(before);
    check!(apart < ticks(100), "the distance changed by {apart} ticks");
    Ok(())
}

fn counts_agree() -> Outcome {
    static TURN: AtomicU32 = AtomicU32::new(0);
    static THEIRS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
    for n in 1..smp::count() {
        TURN.store(0, Ordering::Release);
        check_eq!(
            smp::start(n, || {
                for turn in (1..200).step_by(2) {
                    while TURN.load(Ordering::Acquire) != turn {
                        cpu::relax();
                    }
                    let count = now();
                    THEIRS[0].store(count as u32, Ordering::Relaxed);
                    THEIRS[1].store((count >> 32) as u32, Ordering::Relaxed);
                    TURN.store(turn + 1, Ordering::Release);
                }
            }),
            0,
            "CPU_ON of CPU {n}"
        );
        for turn in (0..199).step_by(2) {
            let before = now();
            TURN.store(turn + 1, Ordering::Release);
            check!(
                timer::wait(10_000_000, || TURN.load(Ordering::Acquire) == turn + 2),
                "CPU {n} is silent"
            );
            let theirs = u64::from(THEIRS[1].load(Ordering::Relaxed)) << 32
                | u64::from(THEIRS[0].load(Ordering::Relaxed));
            let after = now();
            check!(
                before <= theirs && theirs <= after,
                "CPU {n} read {theirs} between {before} and {after}"
            );
        }
        check!(smp::wait_off(n), "CPU {n} did not end");
    }
    Ok(())
}

fn off(timer: Timer) -> Outcome {
    timer.set_deadline(timer.count());
    timer.set_control(0);
    check_eq!(timer.control() & ENABLE, 0, "CTL.ENABLE");
    timer::delay(100);
    check!(!interrupts(timer), "an interrupt from a timer that is off");
    Ok(())
}

fn value(timer: Timer) -> Outcome {
    let before = timer.count();
    timer.set_value(100_000_000);
    let deadline = timer.deadline();
    check!(
        deadline >= before + 100_000_000 && deadline <= timer.count() + 100_000_000,
        "CVAL after TVAL was written"
    );
    let left = timer.value();
    check!(left <= 100_000_000 && left > 0, "TVAL {left}");
    timer.set_deadline(timer.count() - 1000);
    check!(
        (timer.value() as i32) <= -1000,
        "TVAL {} after the deadline",
        timer.value() as i32
    );
    timer.set_value(-5i32 as u32);
    check!(
        timer.deadline() < timer.count(),
        "a negative TVAL did not go back"
    );
    timer.set_deadline(0x0123_4567_89ab_cdef);
    check_eq!(timer.deadline(), 0x0123_4567_89ab_cdef, "CVAL");
    Ok(())
}

fn status(timer: Timer) -> Outcome {
    timer.set_deadline(timer.count() + ticks(1_000_000_000));
    timer.set_control(ENABLE | IMASK);
    check_eq!(timer.control(), ENABLE | IMASK, "CTL before the deadline");
    timer.set_deadline(timer.count());
    check_eq!(
        timer.control(),
        ENABLE | IMASK | ISTATUS,
        "CTL after the deadline"
    );
    timer.set_deadline(timer.count() + ticks(1_000_000_000));
    check_eq!(
        timer.control(),
        ENABLE | IMASK,
        "CTL after the deadline moved on"
    );
    Ok(())
}

fn at_deadline(timer: Timer) -> Outcome {
    for us in [1, 10, 100, 1000, 5000] {
        let deadline = timer.count() + ticks(us);
        timer.set_deadline(deadline);
        timer.set_control(ENABLE);
        check!(comes(timer), "no interrupt for {timer:?} in {us} us");
        let at = timer.count();
        check!(at >= deadline, "{} ticks early at {us} us", deadline - at);
        check!(
            at - deadline < late(),
            "{} ticks late at {us} us",
            at - deadline
        );
        take(timer)?;
    }
    Ok(())
}

fn past(timer: Timer) -> Outcome {
    for deadline in [0, 1, timer.count() - 1, timer.count()] {
        timer.set_deadline(deadline);
        timer.set_control(ENABLE);
        check!(comes(timer), "no interrupt for {timer:?} at {deadline}");
        take(timer)?;
        check!(!interrupts(timer), "an interrupt from a timer that is off");
    }
    Ok(())
}

fn turned_off(timer: Timer) -> Outcome {
    timer.set_deadline(timer.count());
    timer.set_control(ENABLE);
    check!(comes(timer), "no interrupt from {timer:?}");
    timer.set_control(0);
    check!(goes(timer), "{timer:?} still interrupts");
    Ok(())
}

fn never(timer: Timer) -> Outcome {
    timer.set_deadline(!0);
    timer.set_control(ENABLE);
    timer::delay(5_000);
    check!(
        !interrupts(timer) && timer.control() & ISTATUS == 0,
        "{timer:?} expired"
    );
    Ok(())
}

fn masked(timer: Timer) -> Outcome {
    timer.set_deadline(timer.count());
    timer.set_control(ENABLE | IMASK);
    timer::delay(1000);
    check!(
        !interrupts(timer),
        "an interrupt from {timer:?}, which is masked"
    );
    check!(
        !gic::bit(gicd::ISPENDR, timer.interrupt()),
        "pending although masked"
    );
    Ok(())
}

fn unmasked(timer: Timer) -> Outcome {
    masked(timer)?;
    timer.set_control(ENABLE);
    check!(comes(timer), "no interrupt from {timer:?}");
    take(timer)
}

fn masked_late(timer: Timer) -> Outcome {
    timer.set_deadline(timer.count());
    timer.set_control(ENABLE);
    check!(comes(timer), "no interrupt from {timer:?}");
    timer.set_control(ENABLE | IMASK);
    check!(goes(timer), "{timer:?} still interrupts");
    timer.set_control(ENABLE);
    check!(
        comes(timer),
        "no interrupt from {timer:?} after it was unmasked"
    );
    take(timer)
}

fn level(timer: Timer) -> Outcome {
    let n = timer.interrupt();
    timer.set_deadline(timer.count());
    timer.set_control(ENABLE);
    for round in 0..10 {
        check!(comes(timer), "no interrupt from {timer:?} in round {round}");
        check_eq!(gic::acknowledge(), n, "IAR");
        check!(gic::bit(gicd::ISACTIVER, n), "not active");
        gic::end(n);
    }
    check!(comes(timer), "no interrupt from {timer:?} at last");
    take(timer)?;
    check!(
        !interrupts(timer),
        "{timer:?} interrupts after it was turned off"
    );
    Ok(())
}

fn deadline_moved(timer: Timer) -> Outcome {
    timer.set_deadline(timer.count());
    timer.set_control(ENABLE);
    check!(comes(timer), "no interrupt from {timer:?}");
    timer.set_deadline(timer.count() + ticks(1_000_000_000));
    check!(goes(timer), "{timer:?} still interrupts");
    timer.set_value(0);
    check!(comes(timer), "no interrupt from {timer:?} after TVAL was 0");
    take(timer)
}

fn held_back(timer: Timer) -> Outcome {
    let before = taken();
    timer.set_value(ticks(100) as u32);
    timer.set_control(ENABLE);
    timer::delay(5_000);
    check_eq!(taken(), before, "interrupts taken while masked");
    cpu::unmask_irq();
    let came = timer::wait(1_000_000, || taken() > before);
    cpu::mask_irq();
    check!(came, "no interrupt from {timer:?}");
    check_eq!(taken(), before + 1, "interrupts taken");
    Ok(())
}

fn disabled(timer: Timer) -> Outcome {
    gic::disable(timer.interrupt());
    timer.set_deadline(timer.count());
    timer.set_control(ENABLE);
    timer::delay(1000);
    check!(!interrupts(timer), "{timer:?} interrupts although disabled");
    check!(
        gic::bit(gicd::ISPENDR, timer.interrupt()),
        "{timer:?} is not pending"
    );
    gic::enable(timer.interrupt());
    check!(comes(timer), "no interrupt from {timer:?}");
    take(timer)
}

fn wait_ends(timer: Timer) -> Outcome {
    cpu::unmask_irq();
    for us in [20, 200, 2000, 20_000] {
        let before = taken();
        let deadline = timer.count() + ticks(us);
        timer.set_deadline(deadline);
        timer.set_control(ENABLE);
        let give_up = deadline + late() + ticks(1_000_000);
        while taken() == before && timer.count() < give_up {
            cpu::mask_irq();
            if taken() == before {
                cpu::wfi();
            }
            cpu::unmask_irq();
            cpu::isb();
        }
        let at = timer.count();
        check!(taken() > before, "no interrupt from {timer:?} in {us} us");
        check!(
            at >= deadline && at - deadline < late(),
            "{} ticks from a deadline in {us} us",
            at as i64 - deadline as i64
        );
    }
    Ok(())
}

fn wait_ends_masked(timer: Timer) -> Outcome {
    for us in [20, 2000] {
        let deadline = timer.count() + ticks(us);
        timer.set_deadline(deadline);
        timer.set_control(ENABLE);
        while timer.count() < deadline {
            cpu::wfi();
        }
        check!(comes(timer), "no interrupt from {timer:?}");
        check!(
            timer.count() - deadline < late() + ticks(1000),
            "{} ticks late",
            timer.count() - deadline
        );
        take(timer)?;
    }
    Ok(())
}

fn side_by_side() -> Outcome {
    ready(Timer::Virtual);
    gic::enable(Timer::Physical.interrupt());
    cpu::unmask_irq();
    for (virtual_us, physical_us) in [(500, 1000), (1000, 500), (700, 700)] {
        let before = taken();
        Timer::Virtual.set_value(ticks(virtual_us) as u32);
        Timer::Physical.set_value(ticks(physical_us) as u32);
        Timer::Virtual.set_control(ENABLE);
        Timer::Physical.set_control(ENABLE);
        let came = timer::wait(1_000_000, || taken() == before + 2);
        check!(
            came,
            "{} interrupts of 2 for {virtual_us} and {physical_us} us",
            taken() - before
        );
        check_eq!(
            Timer::Virtual.control() | Timer::Physical.control(),
            0,
            "CTL of the two"
        );
    }
    cpu::mask_irq();
    gic::disable(Timer::Virtual.interrupt());
    gic::disable(Timer::Physical.interrupt());
    check_eq!(
        WRONG.load(Ordering::Relaxed),
        0,
        "an interrupt of something else"
    );
    Ok(())
}

fn thousand(timer: Timer) -> Outcome {
    cpu::unmask_irq();
    for round in 0..1000 {
        let before = taken();
        timer.set_value(ticks(10 + round % 50) as u32);
        timer.set_control(ENABLE);
        check!(
            timer::wait(1_000_000, || taken() > before),
            "no interrupt from {timer:?} in round {round}"
        );
    }
    check!(
        gic::read_cpu(gicc::RPR) >= 0xf8,
        "something is still active"
    );
    Ok(())
}

/// Each access from User mode goes through exactly if its bit of CNTKCTL is set.
fn user_access(probes: &[(&Probe, u32)]) -> Outcome {
    for enabled in 0..16 {
        let control = enabled & 3 | (enabled & 0xc) << 6;
        mcr!(15, 0, 14, 1, 0; control);
        for (probe, bit) in probes {
            for thumb in [false, true] {
                let place = Place { thumb, user: true };
                let next = (probe.code(thumb) & !1) + if thumb { 2 } else { 4 };
                let result = place.call(probe.code(thumb), [0, 0, 0, 0]);
                let allowed = control & bit != 0;
                mcr!(15, 0, 14, 1, 0; control);
                match result {
                    Ok(_) if !allowed => {
                        fail!("{} goes through with CNTKCTL {control:#x}", probe.name)
                    }
                    Err(fault) if allowed => fail!(
                        "{:?} at {} with CNTKCTL {control:#x}",
                        fault.kind,
                        probe.name
                    ),
                    Err(fault) => {
                        check!(
                            fault.kind == Kind::Undefined,
                            "{:?} at {}",
                            fault.kind,
                            probe.name
                        );
                        check_eq!(fault.lr, next, "lr at {}", probe.name);
                    }
                    Ok(_) => {}
                }
            }
        }
    }
    mcr!(15, 0, 14, 1, 0; 0);
    Ok(())
}

fn user_counts() -> Outcome {
    static COUNTS: &[Probe] = probes! { load "mrrc p15, 0, r0, r1, c14", load "mrrc p15, 1, r0, r1, c14", load "mrc p15, 0, r0, c14, c0, 0" };
    user_access(&[(&COUNTS[0], 1), (&COUNTS[1], 2), (&COUNTS[2], 3)])
}

fn user_timers() -> Outcome {
    static TIMERS: &[Probe] = probes! {
        load "mrc p15, 0, r0, c14, c3, 1", load "mcr p15, 0, r0, c14, c3, 1", load "mrrc p15, 3, r0, r1, c14",
        load "mrc p15, 0, r0, c14, c2, 1", load "mcr p15, 0, r0, c14, c2, 1", load "mrrc p15, 2, r0, r1, c14",
        load "mcr p15, 0, r0, c14, c2, 0", load "mcrr p15, 2, r0, r1, c14",
    };
    const BITS: [u32; 8] = [
        1 << 8,
        1 << 8,
        1 << 8,
        1 << 9,
        1 << 9,
        1 << 9,
        1 << 9,
        1 << 9,
    ];
    let probes: [(&Probe, u32); 8] = core::array::from_fn(|n| (&TIMERS[n], BITS[n]));
    let outcome = user_access(&probes);
    Timer::Virtual.set_control(0);
    Timer::Physical.set_control(0);
    outcome
}
