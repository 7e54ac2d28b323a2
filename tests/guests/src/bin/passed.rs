//! The board's PL031 (ARM DDI 0224B), passed through: its registers, and its interrupt by the list registers.
#![no_std]
#![no_main]

use bare::gic::{self, gicd};
use bare::machine::machine;
use bare::report::{Outcome, Reason};
use bare::timer;
use bare::{check, check_eq, cpu, mmio, skip, tests};

tests! {
    clock_counts => counts,
    alarm_comes_again_and_again => again,
    line_that_stays_high_interrupts_again => stays_high,
    alarm_ends_a_wait => ends_wait,
    line_that_falls_is_seen_to_fall => falls,
    alarm_waits_until_it_is_enabled => enabled_later,
}

const DR: u32 = 0x00;
const MR: u32 = 0x04;
const LR: u32 = 0x08;
const IMSC: u32 = 0x10;
const RIS: u32 = 0x14;
const ICR: u32 = 0x1c;

struct Clock(u32, u32);

impl Clock {
    /// The clock with its interrupt, enabled, and no alarm.
    fn new() -> Result<Self, Reason> {
        let (Some(base), Some(n)) = (machine().rtc, machine().rtc_irq) else {
            skip!("no clock")
        };
        let clock = Self(base, n);
        clock.quieten();
        clock.write(IMSC, 1);
        gic::init();
        gic::enable(n);
        Ok(clock)
    }

    fn read(&self, offset: u32) -> u32 {
        mmio::read(self.0 + offset)
    }

    fn write(&self, offset: u32, value: u32) {
        mmio::write(self.0 + offset, value);
    }

    /// Has the alarm raised now.
    fn ring(&self) {
        self.write(MR, self.read(DR));
    }

    fn quieten(&self) {
        self.write(MR, self.read(DR).wrapping_sub(10));
        self.write(ICR, 1);
    }

    fn comes(&self) -> bool {
        timer::wait(500_000, || gic::next() == self.1)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.write(IMSC, 0);
        self.quieten();
        gic::disable(self.1);
    }
}

fn counts() -> Outcome {
    let clock = Clock::new()?;
    clock.write(LR, 1_000_000);
    let first = clock.read(DR);
    check!(first - 1_000_000 < 2, "RTCDR is {first} after it was set");
    check!(
        timer::wait(3_000_000, || clock.read(DR) != first),
        "it stands still"
    );
    Ok(())
}

fn again() -> Outcome {
    let clock = Clock::new()?;
    for nth in 0..200 {
        clock.ring();
        check!(clock.comes(), "no interrupt {nth}");
        check_eq!(gic::acknowledge(), clock.1, "IAR");
        clock.quieten();
        gic::end(clock.1);
    }
    check_eq!(clock.read(RIS), 0, "RTCRIS");
    Ok(())
}

fn stays_high() -> Outcome {
    let clock = Clock::new()?;
    clock.ring();
    for nth in 0..20 {
        check!(clock.comes(), "no interrupt {nth}");
        check_eq!(gic::acknowledge(), clock.1, "IAR");
        gic::end(clock.1);
    }
    check!(clock.comes(), "no interrupt after the last");
    check_eq!(gic::acknowledge(), clock.1, "IAR");
    clock.quieten();
    gic::end(clock.1);
    check!(
        timer::wait(100_000, || !gic::bit(gicd::ISPENDR, clock.1)),
        "pending after RTCICR"
    );
    Ok(())
}

fn ends_wait() -> Outcome {
    let clock = Clock::new()?;
    for _ in 0..2 {
        clock.write(MR, clock.read(DR) + 1);
        while gic::next() != clock.1 {
            cpu::wfi();
        }
        check_eq!(gic::acknowledge(), clock.1, "IAR");
        clock.quieten();
        gic::end(clock.1);
    }
    Ok(())
}

fn falls() -> Outcome {
    let clock = Clock::new()?;
    clock.ring();
    check!(clock.comes(), "no interrupt");
    clock.quieten();
    check!(!gic::bit(gicd::ISPENDR, clock.1), "pending after RTCICR");
    check!(gic::next() != clock.1, "still signalled");
    Ok(())
}

fn enabled_later() -> Outcome {
    let clock = Clock::new()?;
    gic::disable(clock.1);
    clock.ring();
    check!(
        timer::wait(100_000, || gic::bit(gicd::ISPENDR, clock.1)),
        "not pending while disabled"
    );
    check!(gic::next() != clock.1, "signalled while disabled");
    gic::enable(clock.1);
    check!(clock.comes(), "no interrupt once enabled");
    check_eq!(gic::acknowledge(), clock.1, "IAR");
    clock.quieten();
    gic::end(clock.1);
    Ok(())
}
