//! How much of the CPUs a VM gets: counts what it does from one time to another of the machine's clock, and prints
//! `SHARE vCPU rounds`.
//!
//! Command line: `from=N` and `for=N`, milliseconds, 1000 by default; `period=N`: works for a tenth of every N microseconds
//! only, sleeps otherwise, and prints `LATE n` for the periods that it began late, by more than `late=N` microseconds (N).
#![no_std]
#![no_main]

use bare::gic::{self, gicd};
use bare::machine::number;
use bare::timer::{self, Timer, physical_now};
use bare::{cpu, println, psci, smp};
use core::sync::atomic::{AtomicU32, Ordering};

/// CPUs that have printed.
static DONE: AtomicU32 = AtomicU32::new(0);

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    gic::write(gicd::CTLR, 1);
    for n in 1..smp::count() {
        smp::start(n, work);
    }
    work();
    while DONE.load(Ordering::Acquire) < smp::count() as u32 {
        cpu::relax();
    }
    psci::system_off();
}

fn work() {
    let millisecond = u64::from(timer::frequency() / 1000);
    let from = u64::from(number("from", 1000)) * millisecond;
    let until = from + u64::from(number("for", 1000)) * millisecond;

    while physical_now() < from {}
    match number("period", 0) {
        0 => {
            let mut rounds = 0u32;
            while physical_now() < until {
                rounds += 1;
            }
            println!("SHARE {} {rounds}", cpu::index());
        }
        period => periods(u64::from(period), until),
    }
    DONE.fetch_add(1, Ordering::AcqRel);
}

/// Begins anew at every period's start, on the virtual timer's interrupt.
fn periods(microseconds: u64, until: u64) {
    let timer = Timer::Virtual;
    let period = microseconds * u64::from(timer::frequency()) / 1_000_000;
    let most =
        u64::from(number("late", microseconds as u32)) * u64::from(timer::frequency()) / 1_000_000;
    gic::init_cpu();
    gic::enable(timer.interrupt());
    let (mut next, mut late, mut count) = (timer.count(), 0, 0);
    while physical_now() < until {
        next += period;
        timer.set_deadline(next);
        timer.set_control(timer::ENABLE);
        while timer.control() & timer::ISTATUS == 0 {
            cpu::wfi();
        }
        late += u32::from(timer.count() - next > most);
        count += 1;
        timer.set_control(0);
        gic::dismiss_one();
        let busy = timer.count() + period / 10;
        while timer.count() < busy {}
    }
    println!("LATE {late} of {count}");
}
