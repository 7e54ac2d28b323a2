//! Time passes at the same rate for every CPU and every VM, asleep or awake.
//!
//! Command line: `seconds=N` to sleep, 2 by default; `late_us=N`, how late a CPU may wake, 500,000 by default. Prints
//! `TIME start` and `TIME end` with the counts and the clock, so that the host can compare VMs.
#![no_std]
#![no_main]

use bare::gic::{self, gicd};
use bare::machine::{machine, number};
use bare::report::Outcome;
use bare::timer::{self, ENABLE, Timer, both_now, now, ticks};
use bare::{check, cpu, mmio, println, skip, smp, tests};

tests! {
    every_cpu_sleeps_to_its_deadline_and_no_longer => || { gic::write(gicd::CTLR, 1); smp::everywhere(|| sleep(100)) },
    every_cpu_sleeps_to_many_short_deadlines => || smp::everywhere(short_sleeps),
    clocks_agree_after_a_long_sleep => long_sleep,
}

/// Sleeps to a deadline in `milliseconds`, in pieces that TVAL could hold.
fn sleep(milliseconds: u32) -> Outcome {
    let timer = Timer::Virtual;
    gic::init_cpu();
    gic::enable(timer.interrupt());
    let deadline = now() + u64::from(milliseconds) * u64::from(timer::frequency() / 1000);
    timer.set_deadline(deadline);
    timer.set_control(ENABLE);
    while timer.control() & timer::ISTATUS == 0 {
        cpu::wfi();
    }
    let at = now();
    timer.set_control(0);
    gic::dismiss_one();
    gic::disable(timer.interrupt());
    let late = ticks(number("late_us", 500_000));
    check!(
        at >= deadline && at - deadline < late,
        "CPU {} woke {} ticks from its deadline",
        cpu::index(),
        at as i64 - deadline as i64
    );
    Ok(())
}

fn short_sleeps() -> Outcome {
    (1..50).try_for_each(|n| sleep(n % 7 + 1))
}

fn clock() -> u32 {
    machine().rtc.map_or(0, mmio::read)
}

fn long_sleep() -> Outcome {
    let seconds = number("seconds", 2);
    if seconds == 0 {
        skip!("no time to sleep");
    }
    let ((v, p), c) = (both_now(), clock());
    println!("TIME start cntvct={v} cntpct={p} clock={c}");
    for _ in 0..seconds {
        sleep(1000)?;
    }
    let ((v2, p2), c2) = (both_now(), clock());
    println!("TIME end cntvct={v2} cntpct={p2} clock={c2}");
    let apart = (v2 - v).abs_diff(p2 - p);
    check!(apart < ticks(1000), "the counts are {apart} ticks apart");
    let by_count = (v2 - v) / u64::from(timer::frequency());
    check!(
        machine().rtc.is_none() || by_count.abs_diff(u64::from(c2 - c)) <= 1,
        "{} s by the clock, {by_count} by the count",
        c2 - c
    );
    Ok(())
}
