//! The clock is a PL031 (ARM DDI 0224B): it counts seconds, can be set, and its alarm is an interrupt.
#![no_std]
#![no_main]

use bare::gic::{self, gicd};
use bare::machine::machine;
use bare::report::{Outcome, Reason};
use bare::timer::{self, Timer, ticks};
use bare::{check, check_eq, cpu, mmio, skip, tests};

tests! {
    clock_identifies_itself_as_a_pl031 => identity,
    clock_counts_seconds => counts,
    clock_is_set_by_its_load_register => set,
    alarm_for_this_second_is_raised_at_once => alarm_now,
    alarm_reaches_the_cpu_only_while_unmasked => reaches_cpu,
    alarm_for_the_next_second_ends_a_wait => alarm_later,
    alarm_for_another_second_is_not_raised => no_alarm,
}

const DR: u32 = 0x00;
const MR: u32 = 0x04;
const LR: u32 = 0x08;
const CR: u32 = 0x0c;
const IMSC: u32 = 0x10;
const RIS: u32 = 0x14;
const MIS: u32 = 0x18;
const ICR: u32 = 0x1c;

/// The clock with no alarm pending and masked.
struct Clock(u32);

impl Clock {
    fn new() -> Result<Self, Reason> {
        let Some(base) = machine().rtc else {
            skip!("no clock")
        };
        let clock = Self(base);
        clock.write(IMSC, 0);
        clock.write(MR, clock.read(DR).wrapping_sub(10));
        clock.write(ICR, 1);
        Ok(clock)
    }

    fn read(&self, offset: u32) -> u32 {
        mmio::read(self.0 + offset)
    }

    fn write(&self, offset: u32, value: u32) {
        mmio::write(self.0 + offset, value);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.write(IMSC, 0);
        self.write(ICR, 1);
    }
}

fn identity() -> Outcome {
    let clock = Clock::new()?;
    for (n, expected) in [0x31, 0x10, 0x04, 0x00].into_iter().enumerate() {
        let mask = if n == 2 { 0x0f } else { 0xff }; // the upper half is the revision
        check_eq!(
            clock.read(0xfe0 + 4 * n as u32) & mask,
            expected,
            "RTCPeriphID{n}"
        );
    }
    for (n, expected) in [0x0d, 0xf0, 0x05, 0xb1].into_iter().enumerate() {
        check_eq!(
            clock.read(0xff0 + 4 * n as u32) & 0xff,
            expected,
            "RTCPCellID{n}"
        );
    }
    check_eq!(clock.read(CR) & 1, 1, "RTCCR: it runs");
    Ok(())
}

fn counts() -> Outcome {
    let clock = Clock::new()?;
    gic::init();
    let (start, at) = (clock.read(DR), timer::now());
    sleep(2_000_000, || false);
    let seconds = u64::from(clock.read(DR).wrapping_sub(start));
    let passed = (timer::now() - at) / u64::from(timer::frequency());
    check!(seconds.abs_diff(passed) <= 1, "{seconds} s of {passed} s");
    Ok(())
}

fn set() -> Outcome {
    let clock = Clock::new()?;
    let old = clock.read(DR);
    for value in [0, 1_000_000_000, 0xffff_ff00] {
        clock.write(LR, value);
        check_eq!(clock.read(LR), value, "RTCLR");
        check!(
            clock.read(DR).wrapping_sub(value) <= 1,
            "RTCDR is {:#x} after {value:#x}",
            clock.read(DR)
        );
    }
    clock.write(LR, old);
    Ok(())
}

fn alarm_now() -> Outcome {
    let clock = Clock::new()?;
    check_eq!(clock.read(RIS), 0, "RTCRIS");
    clock.write(MR, clock.read(DR));
    check!(
        timer::wait(100_000, || clock.read(RIS) == 1),
        "RTCRIS is not set"
    );
    check_eq!(clock.read(MIS), 0, "RTCMIS while masked");
    clock.write(IMSC, 1);
    check_eq!(clock.read(MIS), 1, "RTCMIS while unmasked");
    clock.write(ICR, 1);
    check_eq!(clock.read(RIS), 0, "RTCRIS after RTCICR");
    Ok(())
}

fn reaches_cpu() -> Outcome {
    let clock = Clock::new()?;
    let Some(n) = machine().rtc_irq else {
        skip!("the clock has no interrupt")
    };
    gic::init();
    gic::enable(n);
    clock.write(MR, clock.read(DR));
    check!(
        timer::wait(100_000, || clock.read(RIS) == 1),
        "RTCRIS is not set"
    );
    check!(!gic::bit(gicd::ISPENDR, n), "pending although masked");
    clock.write(IMSC, 1);
    check!(
        timer::wait(100_000, || gic::next() == n),
        "not pending although unmasked"
    );
    clock.write(ICR, 1);
    check!(
        timer::wait(100_000, || gic::next() != n),
        "pending after RTCICR"
    );
    gic::disable(n);
    Ok(())
}

/// Waits in WFI, at most so many microseconds, until `done`; whether it was.
fn sleep(microseconds: u32, done: impl Fn() -> bool) -> bool {
    let guard = Timer::Virtual;
    gic::init_cpu();
    gic::enable(guard.interrupt());
    guard.set_deadline(guard.count() + ticks(microseconds));
    guard.set_control(timer::ENABLE);
    while !done() && guard.control() & timer::ISTATUS == 0 {
        cpu::wfi();
    }
    // A timer that nobody quietened may still be pending.
    guard.set_control(0);
    if gic::next() == guard.interrupt() {
        gic::dismiss_one();
    }
    gic::disable(guard.interrupt());
    timer::wait(1000, done)
}

fn alarm_later() -> Outcome {
    let clock = Clock::new()?;
    let Some(n) = machine().rtc_irq else {
        skip!("the clock has no interrupt")
    };
    gic::init();
    gic::enable(n);
    for _ in 0..2 {
        clock.write(IMSC, 1);
        let second = clock.read(DR) + 1;
        clock.write(MR, second);
        check!(
            sleep(3_000_000, || gic::next() == n),
            "no interrupt in three seconds"
        );
        check_eq!(clock.read(DR), second, "the second of the alarm");
        check_eq!(gic::acknowledge(), n, "IAR");
        clock.write(ICR, 1);
        gic::end(n);
    }
    gic::disable(n);
    Ok(())
}

fn no_alarm() -> Outcome {
    let clock = Clock::new()?;
    gic::init();
    clock.write(MR, clock.read(DR) + 1000);
    clock.write(IMSC, 1);
    sleep(1_500_000, || false);
    check_eq!(clock.read(RIS), 0, "RTCRIS");
    Ok(())
}
