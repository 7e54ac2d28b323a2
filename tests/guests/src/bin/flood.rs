//! Keeps the hypervisor as busy as a VM can, until a time of the machine's clock, then prints `FLOOD rounds interrupts`.
//!
//! Command line: what with: `interrupts` (to itself and by both timers, which are always due again), `calls`, `exits` (loads and
//! stores on devices), `console`; `until=N`, milliseconds, 3000 by default.
#![no_std]
#![no_main]

use bare::exception::Frame;
use bare::machine::{has, machine, number};
use bare::timer::{self, ENABLE, Timer, physical_now};
use bare::{armillary, console, cpu, exception, gic, mmio, println, psci};
use core::sync::atomic::{AtomicU32, Ordering};

/// A word of the command line, and a round of what it asks for.
type Kind = (&'static str, fn(u32));

static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
const TIMERS: [Timer; 2] = [Timer::Virtual, Timer::Physical];
/// Between two interrupts of a timer, ticks: some instructions of the guest's own.
const SOON: u32 = 50;

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let until = u64::from(number("until", 3000)) * u64::from(timer::frequency() / 1000);
    const KINDS: [Kind; 4] = [
        ("interrupts", interrupt),
        ("calls", call),
        ("exits", exit),
        ("console", print),
    ];
    let kinds = KINDS.map(|(word, round)| (has(word), round));
    gic::init();
    if has("interrupts") {
        exception::on_irq(count);
        for timer in TIMERS {
            gic::enable(timer.interrupt());
            timer.set_value(SOON);
            timer.set_control(ENABLE);
        }
        cpu::unmask_irq();
    }
    let mut rounds = 0u32;
    while physical_now() < until {
        for (_, round) in kinds.iter().filter(|(wanted, _)| *wanted) {
            round(rounds);
        }
        rounds = rounds.wrapping_add(1);
    }
    cpu::mask_irq();
    println!("FLOOD {rounds} {}", INTERRUPTS.load(Ordering::Relaxed));
    psci::system_off();
}

/// Ends an interrupt, and has its timer fire again.
fn count(_: &mut Frame) {
    let iar = gic::acknowledge();
    let intid = iar & 0x3ff;
    if intid == gic::SPURIOUS {
        return;
    }
    for timer in TIMERS {
        if timer.interrupt() == intid {
            timer.set_value(SOON);
        }
    }
    gic::end(iar);
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

fn interrupt(round: u32) {
    gic::send(round % 16, 1 << cpu::index());
}

fn call(_: u32) {
    let _ = psci::version();
    let _ = armillary::exits(armillary::Reason::Total);
    let _ = armillary::translate(machine().memory.base, 0);
}

/// A load that has a syndrome, a store, and a load that has to be decoded.
fn exit(round: u32) {
    let _ = mmio::read(machine().uart + console::FR);
    gic::set_priority(40, (round << 3) as u8);
    let typer = machine().gicd + gic::gicd::TYPER;
    // SAFETY: loads a register of the distributor, which has no effect.
    unsafe {
        core::arch::asm!("ldr {}, [{}], #4", out(reg) _, inout(reg) typer => _, options(nostack));
    }
}

fn print(round: u32) {
    println!("a line of no use, number {round}, as long as a line may well be on a console");
}
