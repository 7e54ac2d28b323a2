//! How much of the CPUs a VM gets: counts what it does from one time to another of the machine's clock, and prints
//! `SHARE vCPU rounds` for each vCPU, then `TOTAL rounds asked`.
//!
//! Command line: `from=N` and `for=N`, milliseconds, 1000 by default; `asked=N`, thousandths of the CPUs that it should get,
//! for whoever reads that; `period=N`: does a job of a tenth of every N microseconds only, sleeps otherwise, and prints
//! `LATE n of m, at most t us` for the jobs that did not end within `late=N` microseconds (N) of their period's start.
#![no_std]
#![no_main]

use bare::gic::{self, gicd};
use bare::machine::number;
use bare::timer::{self, Timer, physical_now};
use bare::{cpu, println, psci, smp};
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

/// CPUs that are done.
static DONE: AtomicU32 = AtomicU32::new(0);
/// What they have counted together.
static TOTAL: AtomicU32 = AtomicU32::new(0);

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
    let total = TOTAL.load(Ordering::Relaxed);
    println!("TOTAL {total} {}", number("asked", 0));
    psci::system_off();
}

fn work() {
    let millisecond = u64::from(timer::frequency() / 1000);
    // Where time is the host's, it may be past that by now.
    let from = physical_now().max(u64::from(number("from", 1000)) * millisecond);
    let until = from + u64::from(number("for", 1000)) * millisecond;

    match number("period", 0) {
        0 => {
            while physical_now() < from {
                cpu::relax();
            }
            let mut rounds = 0u32;
            while physical_now() < until {
                rounds += 1;
                // Where QEMU counts instructions, another CPU gets to run now.
                if rounds.is_multiple_of(64) {
                    cpu::relax();
                }
            }
            println!("SHARE {} {rounds}", cpu::index());
            TOTAL.fetch_add(rounds, Ordering::Relaxed);
        }
        period => periods(period, from, until),
    }
    DONE.fetch_add(1, Ordering::AcqRel);
}

/// Does a job in each period, from the virtual timer's interrupt at its start.
fn periods(microseconds: u32, from: u64, until: u64) {
    let timer = Timer::Virtual;
    let period = timer::ticks(microseconds);
    let most = timer::ticks(number("late", microseconds));
    gic::init_cpu();
    gic::enable(timer.interrupt());
    let first = timer.count() + from.saturating_sub(physical_now());
    let (mut next, mut late, mut count, mut longest) = (first, 0, 0, 0);
    while physical_now() < until {
        next += period;
        timer.set_deadline(next);
        timer.set_control(timer::ENABLE);
        while timer.control() & timer::ISTATUS == 0 {
            cpu::wfi();
        }
        timer.set_control(0);
        gic::dismiss_one();
        // An instruction takes about a nanosecond, and a round four.
        for n in 0..microseconds * 25 {
            black_box(n);
        }
        let took = timer.count() - next;
        late += u32::from(took > most);
        longest = took.max(longest);
        count += 1;
    }
    let longest = longest / timer::ticks(1);
    println!("LATE {late} of {count}, at most {longest} us");
}
