//! From an event to the first instruction of its interrupt handler: latency.s says how it is exact.

use crate::{Clock, print_figure, skip, wanted};
use bare::gic::{self, gicd};
use bare::machine::{has, machine};
use bare::timer::{self, ENABLE, Timer, physical_now, ticks};
use bare::{cpu, mcr, mmio, mrc, mrrc};
use core::arch::global_asm;

global_asm!(include_str!("latency.s"), options(raw));

unsafe extern "C" {
    static bench_vectors: u8;
    fn latency(event: &mut Event);
}

/// What latency.s takes and returns.
#[repr(C)]
struct Event {
    address: u32,
    value: u32,
    gicc: u32,
    nops: u32,
    wfi: u32,
    limit: u32,
    lead: u32,
    start: u32,
    end: u32,
    iar: u32,
}

/// Puts latency.s's vectors in place; what to restore.
pub(super) fn install() -> u32 {
    let old = mrc!(15, 0, 12, 0, 0);
    mcr!(15, 0, 12, 0, 0; &raw const bench_vectors as u32);
    old
}

/// Back to the framework's vectors.
pub(super) fn restore(vectors: u32) {
    mcr!(15, 0, 12, 0, 0; vectors);
}

/// What moves the phases of one measurement.
#[derive(Clone, Copy)]
struct Wait {
    nops: u32,
    lead: u32,
}

/// How often each of the 16 readings is taken for one sample; a multiple of the three leads.
const REPEAT: u32 = 9;
/// A spin is given up after this many rounds of two instructions.
const LIMIT: u32 = 10_000_000;

/// Stores `value` to `address` at a tick and waits; the ticks at the store and in the handler, or none if another
/// interrupt than `expected`, or no one, came.
fn measure(address: u32, value: u32, wait: Wait, wfi: bool, expected: u32) -> Option<(u32, u32)> {
    let limit = if wfi { 1000 } else { LIMIT };
    let mut event = Event {
        address,
        value,
        gicc: machine().gicc,
        nops: 4 * (16 - wait.nops),
        wfi: wfi.into(),
        limit,
        lead: 4 * wait.lead,
        start: 0,
        end: 0,
        iar: 0,
    };
    // SAFETY: the vectors are in place, the routine keeps the procedure call standard, the address is a device register or
    // this guest's own memory.
    unsafe { latency(&mut event) };
    (event.iar & 0x3ff == expected && event.iar != !0).then_some((event.start, event.end))
}

/// The mean over the 16 readings, in tenths of an instruction, of `once(nops)` in ticks; none if an event got lost.
fn mean(clock: &Clock, mut once: impl FnMut(Wait) -> Option<i64>) -> Option<i64> {
    let mut sum = 0;
    for round in 0..REPEAT {
        for nops in 0..16 {
            sum += once(Wait {
                nops,
                lead: round % 3,
            })?;
        }
    }
    // The 16 readings add up to instructions where a tick has 16 of them.
    Some(sum * 10 * i64::from(clock.nanoseconds_per_tick) / 16 / i64::from(REPEAT))
}

/// Prints the samples of one figure, or why there is none.
fn figures(clock: &Clock, name: &str, overhead: i64, mut once: impl FnMut(Wait) -> Option<i64>) {
    if !wanted(name) {
        return;
    }
    gic::init();
    let vectors = install();
    let mut lost = false;
    for _ in 0..bare::machine::number("samples", 5) {
        match mean(clock, &mut once) {
            Some(tenths) => print_figure(name, tenths - 10 * overhead, 1),
            None => {
                lost = true;
                break;
            }
        }
    }
    restore(vectors);
    if lost {
        skip(name, "the interrupt does not come");
    }
}

/// The reading of the start is one instruction behind the tick in the mean, the store three more behind that and itself
/// one; the handler reads after two.
const AROUND_STORE: i64 = 7;
/// The handler reads after two instructions.
const HANDLER: i64 = 2;

/// Figures of timers: name, which timer, how far ahead in microseconds, whether in WFI.
const TIMERS: [(&str, Timer, u32, bool); 8] = [
    ("vtimer_spin_10us", Timer::Virtual, 10, false),
    ("vtimer_spin", Timer::Virtual, 100, false),
    ("vtimer_wfi_10us", Timer::Virtual, 10, true),
    ("vtimer_wfi_24us", Timer::Virtual, 24, true),
    ("vtimer_wfi", Timer::Virtual, 100, true),
    ("vtimer_wfi_1ms", Timer::Virtual, 1000, true),
    ("ptimer", Timer::Physical, 100, false),
    ("ptimer_wfi", Timer::Physical, 100, true),
];

pub(super) fn all(clock: &Clock) {
    sgi_self(clock);
    for (name, which, us, wfi) in TIMERS {
        timer(clock, name, which, us, wfi);
    }
    device(clock);
}

fn sgi_self(clock: &Clock) {
    let target = 1 << (16 + cpu::index());
    let sgir = machine().gicd + gicd::SGIR;
    figures(clock, "sgi_self", AROUND_STORE, |wait| {
        measure(sgir, target, wait, false, 0).map(|(start, end)| i64::from(end.wrapping_sub(start)))
    });
}

/// Physical minus virtual count: exact, as both change at the same moment.
fn offset() -> u64 {
    loop {
        let before = mrrc!(1, 14);
        let physical = physical_now();
        if mrrc!(1, 14) == before {
            return physical.wrapping_sub(before);
        }
    }
}

/// The timer's deadline to the handler, spinning or in WFI, for a deadline so many microseconds ahead.
pub(super) fn timer(clock: &Clock, name: &str, timer: Timer, us: u32, wfi: bool) {
    static SPARE: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);
    let offset = if timer == Timer::Physical {
        offset()
    } else {
        0
    };
    figures(clock, name, HANDLER, |wait| {
        gic::enable(timer.interrupt());
        let deadline = timer.count() + ticks(us);
        timer.set_deadline(deadline);
        timer.set_control(ENABLE);
        let result = measure(SPARE.as_ptr() as u32, 0, wait, wfi, timer.interrupt());
        timer.set_control(0);
        result.map(|(_, end)| {
            i64::from(end.wrapping_sub(deadline.wrapping_sub(offset) as u32) as i32)
        })
    });
}

/// An interrupt of the clock (PL031): a match with the second that it is raises it at once; the next second, from WFI.
///
/// When that begins depends on whose clock it is: the board's own, which is QEMU's, comes a second after it was asked for, one that
/// Armillary emulates when the physical count is a whole number of seconds.
fn device(clock: &Clock) {
    const MATCH: u32 = 0x04;
    const MASK: u32 = 0x10;
    const CLEAR: u32 = 0x1c;
    let emulated = has("emulated");
    let (spin, wfi) = if emulated {
        ("device_irq_emulated_spin", "device_irq_emulated_wfi")
    } else {
        ("device_irq_spin", "device_irq_wfi")
    };
    let (Some(rtc), Some(n)) = (machine().rtc, machine().rtc_irq) else {
        skip(spin, "no clock with an interrupt");
        return skip(wfi, "no clock with an interrupt");
    };
    let event = |wait, wfi, seconds: u32| {
        gic::enable(n);
        mmio::write(rtc + CLEAR, 1);
        mmio::write(rtc + MASK, 1);
        let result = measure(
            rtc + MATCH,
            mmio::read(rtc).wrapping_add(seconds),
            wait,
            wfi,
            n,
        );
        mmio::write(rtc + MASK, 0);
        mmio::write(rtc + CLEAR, 1);
        result
    };
    figures(clock, spin, AROUND_STORE, |wait| {
        event(wait, false, 0).map(|(start, end)| i64::from(end.wrapping_sub(start)))
    });
    if !wanted(wfi) {
        return;
    }
    let second = u64::from(bare::timer::frequency());
    let ahead = offset();
    let late = |(start, end): (u32, u32)| {
        if !emulated {
            return i64::from(end.wrapping_sub(start)) - second as i64;
        }
        let now = timer::now();
        let end = now - u64::from((now as u32).wrapping_sub(end));
        ((end + ahead) % second) as i64
    };
    let overhead = if emulated { HANDLER } else { AROUND_STORE };
    // So long a wait needs a guard: the interrupt may never come.
    gic::init();
    let guard = Timer::Virtual;
    gic::enable(guard.interrupt());
    guard.set_deadline(guard.count() + ticks(2_000_000));
    guard.set_control(ENABLE);
    let vectors = install();
    let first = event(Wait { nops: 0, lead: 0 }, true, 1);
    guard.set_control(0);
    restore(vectors);
    match first {
        Some(_) => figures(clock, wfi, overhead, |wait| event(wait, true, 1).map(late)),
        None => skip(wfi, "the interrupt does not come"),
    }
}
