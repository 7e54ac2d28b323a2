//! The generic timer (ARM DDI 0406C, B8.1).

use crate::{cpu, mcr, mcrr, mrc, mrrc};

/// CTL.ENABLE.
pub const ENABLE: u32 = 1;
/// CTL.IMASK.
pub const IMASK: u32 = 2;
/// CTL.ISTATUS.
pub const ISTATUS: u32 = 4;

/// Ticks per second: CNTFRQ.
#[must_use]
pub fn frequency() -> u32 {
    mrc!(15, 0, 14, 0, 0)
}

/// Virtual count, in ticks.
#[must_use]
pub fn now() -> u64 {
    cpu::isb();
    mrrc!(1, 14)
}

/// Physical count, in ticks.
#[must_use]
pub fn physical_now() -> u64 {
    cpu::isb();
    mrrc!(0, 14)
}

/// Virtual and physical count of one moment: the closest of many readings, as another may run between two.
#[must_use]
pub fn both_now() -> (u64, u64) {
    let reading = || {
        let (before, physical, after) = (now(), physical_now(), now());
        (after - before, before, physical)
    };
    let (_, v, p) = (0..100).map(|_| reading()).min().unwrap_or_default();
    (v, p)
}

/// That many microseconds in ticks.
#[must_use]
pub fn ticks(microseconds: u32) -> u64 {
    u64::from(microseconds) * u64::from(frequency()) / 1_000_000
}

/// Spins for that many microseconds.
pub fn delay(microseconds: u32) {
    let end = now() + ticks(microseconds);
    while now() < end {
        cpu::relax();
    }
}

/// Waits until `done` says so; false when `microseconds` pass first.
pub fn wait(microseconds: u32, mut done: impl FnMut() -> bool) -> bool {
    let end = now() + ticks(microseconds);
    loop {
        if done() {
            return true;
        }
        if now() >= end {
            return done();
        }
        cpu::relax();
    }
}

/// One of the two timers that a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// CNTV.
    Virtual,
    /// CNTP.
    Physical,
}

impl Timer {
    /// Its count, in ticks.
    #[must_use]
    pub fn count(self) -> u64 {
        match self {
            Self::Virtual => now(),
            Self::Physical => physical_now(),
        }
    }

    /// Reads CTL.
    #[must_use]
    pub fn control(self) -> u32 {
        match self {
            Self::Virtual => mrc!(15, 0, 14, 3, 1),
            Self::Physical => mrc!(15, 0, 14, 2, 1),
        }
    }

    /// Writes CTL.
    pub fn set_control(self, value: u32) {
        match self {
            Self::Virtual => mcr!(15, 0, 14, 3, 1; value),
            Self::Physical => mcr!(15, 0, 14, 2, 1; value),
        }
    }

    /// Reads CVAL.
    #[must_use]
    pub fn deadline(self) -> u64 {
        match self {
            Self::Virtual => mrrc!(3, 14),
            Self::Physical => mrrc!(2, 14),
        }
    }

    /// Writes CVAL.
    pub fn set_deadline(self, ticks: u64) {
        match self {
            Self::Virtual => mcrr!(3, 14; ticks),
            Self::Physical => mcrr!(2, 14; ticks),
        }
    }

    /// Reads TVAL.
    #[must_use]
    pub fn value(self) -> u32 {
        match self {
            Self::Virtual => mrc!(15, 0, 14, 3, 0),
            Self::Physical => mrc!(15, 0, 14, 2, 0),
        }
    }

    /// Writes TVAL.
    pub fn set_value(self, ticks: u32) {
        match self {
            Self::Virtual => mcr!(15, 0, 14, 3, 0; ticks),
            Self::Physical => mcr!(15, 0, 14, 2, 0; ticks),
        }
    }

    /// Its interrupt number.
    #[must_use]
    pub fn interrupt(self) -> u32 {
        let machine = crate::machine::machine();
        match self {
            Self::Virtual => machine.vtimer_irq,
            Self::Physical => machine.ptimer_irq,
        }
    }
}
