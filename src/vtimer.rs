//! The generic timers of a vCPU: what the emulated physical one does, and when each wants attention.
//!
//! The virtual timer runs in the hardware; the physical one is trapped and emulated here
//! (ARM DDI 0406C, B8.1.5). A timer is a comparison against a counter that only ever rises, so its
//! whole state is CTL and CVAL; the counter's value is an argument, in ticks as the guest reads
//! CNTPCT or CNTVCT.

/// CNTx_CTL.ENABLE.
const ENABLE: u32 = 1 << 0;
/// CNTx_CTL.IMASK.
const IMASK: u32 = 1 << 1;
/// CNTx_CTL.ISTATUS.
const ISTATUS: u32 = 1 << 2;

/// A timer's registers: the emulated physical timer, or the virtual one as saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timer {
    /// CTL without ISTATUS.
    control: u32,
    compare: u64,
    /// Whether the line has been seen asserted.
    seen: bool,
}

impl Timer {
    /// The timer with these values of CTL and CVAL.
    #[must_use]
    pub const fn new(control: u32, compare: u64) -> Self {
        Self {
            control: control & (ENABLE | IMASK),
            compare,
            seen: false,
        }
    }

    /// CNTx_CTL. ISTATUS, UNKNOWN while the timer is disabled, reads as zero then.
    #[inline]
    #[must_use]
    pub const fn control(&self, now_ticks: u64) -> u32 {
        if self.met(now_ticks) {
            self.control | ISTATUS
        } else {
            self.control
        }
    }

    /// CNTx_CVAL.
    #[must_use]
    pub const fn compare(&self) -> u64 {
        self.compare
    }

    /// CNTx_TVAL: the ticks left, negative after the deadline, as 32 bits.
    #[inline]
    #[must_use]
    pub const fn value(&self, now_ticks: u64) -> u32 {
        self.compare.wrapping_sub(now_ticks) as u32
    }

    /// Writes CNTx_CTL.
    #[inline]
    pub const fn set_control(&mut self, value: u32) {
        self.control = value & (ENABLE | IMASK);
    }

    /// Writes CNTx_CVAL.
    #[inline]
    pub const fn set_compare(&mut self, value: u64) {
        self.compare = value;
    }

    /// Writes CNTx_TVAL: the deadline is `value`, signed, from now.
    #[inline]
    pub const fn set_value(&mut self, value: u32, now_ticks: u64) {
        self.compare = now_ticks.wrapping_add_signed(value as i32 as i64);
    }

    /// Whether it is enabled.
    #[inline]
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// Whether the interrupt line is asserted.
    #[inline]
    #[must_use]
    pub const fn line(&self, now_ticks: u64) -> bool {
        self.control & IMASK == 0 && self.met(now_ticks)
    }

    /// Looks at the line: whether it is asserted.
    #[inline]
    pub const fn sample(&mut self, now_ticks: u64) -> bool {
        self.seen = self.line(now_ticks);
        self.seen
    }

    /// When to look at the line next if nothing is written, in ticks; `None` where the last look saw
    /// it asserted, or it won't be. That may have passed since that look.
    #[inline]
    #[must_use]
    pub const fn due(&self) -> Option<u64> {
        if self.control & (ENABLE | IMASK) == ENABLE && !self.seen {
            Some(self.compare)
        } else {
            None
        }
    }

    /// When the line will be asserted if nothing is written, in ticks; `None` where it won't be or
    /// already is.
    #[inline]
    #[must_use]
    pub const fn deadline(&self, now_ticks: u64) -> Option<u64> {
        if self.control & (ENABLE | IMASK) == ENABLE && now_ticks < self.compare {
            Some(self.compare)
        } else {
            None
        }
    }

    /// ENABLE is set and the counter has reached CVAL: an unsigned comparison of 64 bits.
    const fn met(&self, now_ticks: u64) -> bool {
        self.control & ENABLE != 0 && now_ticks >= self.compare
    }
}

/// When a vCPU that waits has to be woken for one of its timers, in ticks of the machine's counter:
/// the virtual timer's deadline is `offset_ticks` (CNTVOFF) earlier in its own. `None` where there is
/// none; a line that is known to be asserted is the interrupt controller's business.
#[must_use]
pub fn next_deadline(
    virtual_timer: &Timer,
    physical_timer: &Timer,
    offset_ticks: u64,
    now_ticks: u64,
) -> Option<u64> {
    let own = now_ticks.wrapping_sub(offset_ticks);
    let first = virtual_timer.deadline(own);
    // A deadline past the end of the machine's counter never comes.
    let first = first.and_then(|ticks| now_ticks.checked_add(ticks - own));
    match (first, physical_timer.due()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_asserts_its_line_from_its_deadline_on() {
        let timer = Timer::new(ENABLE, 1000);
        assert_eq!((timer.line(999), timer.control(999)), (false, 1));
        assert_eq!((timer.line(1000), timer.control(1000)), (true, 5));
        assert_eq!(timer.deadline(999), Some(1000));
        assert_eq!(timer.deadline(1000), None);
    }

    #[test]
    fn a_deadline_that_passes_unseen_is_still_due() {
        let mut timer = Timer::new(ENABLE, 1000);
        assert!(!timer.sample(999));
        assert_eq!(timer.due(), Some(1000));
        assert!(timer.sample(1001));
        assert_eq!(timer.due(), None);
        timer.set_compare(2000);
        assert!(!timer.sample(1002));
        assert_eq!(timer.due(), Some(2000));
    }

    #[test]
    fn a_masked_timer_shows_its_status_and_keeps_its_line() {
        let timer = Timer::new(ENABLE | IMASK, 1000);
        assert_eq!((timer.line(2000), timer.control(2000)), (false, 7));
        assert_eq!(timer.deadline(0), None);
    }

    #[test]
    fn a_disabled_timer_does_nothing() {
        let timer = Timer::new(0, 0);
        assert_eq!((timer.line(2000), timer.control(2000)), (false, 0));
        assert_eq!(timer.deadline(0), None);
    }

    #[test]
    fn control_keeps_enable_and_mask_only() {
        let mut timer = Timer::default();
        timer.set_control(u32::MAX);
        assert_eq!(timer.control(0), 7);
        timer.set_compare(1);
        assert_eq!(timer.control(0), 3);
    }

    #[test]
    fn the_timer_value_is_signed_both_ways() {
        let mut timer = Timer::default();
        timer.set_value(100, 5000);
        assert_eq!((timer.compare(), timer.value(5040)), (5100, 60));
        assert_eq!(timer.value(5200), -100i32 as u32);
        timer.set_value(-100i32 as u32, 5000);
        assert_eq!(timer.compare(), 4900);
        timer.set_value(0x8000_0000, 0);
        assert_eq!(timer.compare(), 0xffff_ffff_8000_0000);
        assert!(!Timer::new(ENABLE, timer.compare()).line(0));
    }

    #[test]
    fn the_counter_may_stand_anywhere() {
        for now in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let mut timer = Timer::new(ENABLE, 0);
            timer.set_value(i32::MAX as u32, now);
            assert_eq!(timer.value(now), i32::MAX as u32);
        }
    }

    #[test]
    fn a_waiting_vcpu_is_woken_by_the_earlier_timer() {
        let virt = Timer::new(ENABLE, 500);
        let mut phys = Timer::new(ENABLE, 1600);
        assert_eq!(next_deadline(&virt, &phys, 1000, 1200), Some(1500));
        assert_eq!(next_deadline(&virt, &phys, 1200, 1200), Some(1600));
        assert_eq!(next_deadline(&virt, &phys, 1000, 1550), Some(1600));
        // It has come, and been seen only then.
        assert_eq!(next_deadline(&virt, &phys, 1000, 1700), Some(1600));
        assert!(phys.sample(1700));
        assert_eq!(next_deadline(&virt, &phys, 1000, 1700), None);
        let never = Timer::new(ENABLE, u64::MAX);
        assert_eq!(next_deadline(&never, &Timer::default(), 1000, 1200), None);
    }
}
