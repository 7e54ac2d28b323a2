//! The PL031 real-time clock, as a guest sees it (ARM DDI 0224).
//!
//! The clock is an offset: the owner says what time it is, in seconds of whatever it counts, and
//! the guest's clock is that plus what the guest has set. The alarm compares for equality, so the
//! owner has to come back at the [`deadline`](Pl031::deadline), or soon after it.

use crate::line::Line;

/// PeriphID0–3 and PCellID0–3 (ARM DDI 0224, 3.3.9 and 3.3.10).
const ID: [u8; 8] = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// Offsets of the registers (ARM DDI 0224, 3.2).
pub mod reg {
    #![expect(
        missing_docs,
        reason = "the names are the manual's own, one line per register"
    )]
    pub const DR: u32 = 0x00;
    pub const MR: u32 = 0x04;
    pub const LR: u32 = 0x08;
    pub const CR: u32 = 0x0c;
    pub const IMSC: u32 = 0x10;
    pub const RIS: u32 = 0x14;
    pub const MIS: u32 = 0x18;
    pub const ICR: u32 = 0x1c;
    /// The first of the eight identification registers.
    pub const PERIPH_ID0: u32 = 0xfe0;
}

/// One clock. All times are in seconds and wrap at 2^32.
#[derive(Clone, Debug, Default)]
pub struct Pl031 {
    /// What the guest's clock is ahead of the owner's.
    offset: u32,
    matched: u32,
    loaded: u32,
    /// Until when, in the guest's time, the alarm has been looked for.
    checked: u32,
    mask: bool,
    raw: bool,
    line: bool,
}

impl Pl031 {
    /// A clock that shows the owner's time, which is now `now_s`.
    #[must_use]
    pub fn new(now_s: u32) -> Self {
        Self {
            checked: now_s,
            ..Self::default()
        }
    }

    /// Reads the `width` bytes (1, 2 or 4) at `offset`; bytes of a register other than its lowest
    /// read as what a word read holds there.
    pub fn read(&mut self, offset: u32, width: u32, now_s: u32) -> (u32, Line) {
        let line = self.advance(now_s);
        let word = match offset & 0xffc {
            reg::DR => self.time(now_s),
            reg::MR => self.matched,
            reg::LR => self.loaded,
            // The clock is always on.
            reg::CR => 1,
            reg::IMSC => self.mask.into(),
            reg::RIS => self.raw.into(),
            reg::MIS => (self.raw && self.mask).into(),
            id @ reg::PERIPH_ID0.. => ID[(id >> 2) as usize & 7].into(),
            _ => 0,
        };
        (word >> (8 * (offset & 3)) & lanes(width), line)
    }

    /// Writes the low `width` bytes (1, 2 or 4) of `value` at `offset`. The bus has no byte lanes:
    /// the bytes of the register that are not written become zero.
    pub fn write(&mut self, offset: u32, width: u32, value: u32, now_s: u32) -> Line {
        self.look(now_s);
        let value = (value & lanes(width)) << (8 * (offset & 3));
        match offset & 0xffc {
            reg::MR => {
                self.matched = value;
                self.raw |= value == self.time(now_s);
            }
            reg::LR => {
                self.loaded = value;
                self.offset = value.wrapping_sub(now_s);
                self.checked = value;
                self.raw |= value == self.matched;
            }
            reg::IMSC => self.mask = value & 1 != 0,
            reg::ICR if value & 1 != 0 => self.raw = false,
            _ => {}
        }
        self.update()
    }

    /// The time is now `now_s`: to be called at the [`deadline`](Self::deadline).
    pub fn advance(&mut self, now_s: u32) -> Line {
        self.look(now_s);
        self.update()
    }

    /// When the interrupt line will be asserted, in the owner's time; `None` where it is masked or
    /// already asserted. The match being for equality, it may be up to 2^32 - 1 seconds ahead.
    #[must_use]
    pub const fn deadline(&self) -> Option<u32> {
        if self.mask && !self.raw {
            Some(self.matched.wrapping_sub(self.offset))
        } else {
            None
        }
    }

    /// Whether the interrupt line is asserted.
    #[must_use]
    pub const fn line(&self) -> bool {
        self.line
    }

    const fn time(&self, now_s: u32) -> u32 {
        now_s.wrapping_add(self.offset)
    }

    /// Raises the interrupt if the clock has passed the match since the last look.
    fn look(&mut self, now_s: u32) {
        let now = self.time(now_s);
        let to_match = self.matched.wrapping_sub(self.checked);
        if to_match != 0 && to_match <= now.wrapping_sub(self.checked) {
            self.raw = true;
        }
        self.checked = now;
    }

    const fn update(&mut self) -> Line {
        Line::change(&mut self.line, self.raw && self.mask)
    }
}

/// A mask of the low `width` bytes.
const fn lanes(width: u32) -> u32 {
    match width {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(rtc: &mut Pl031, offset: u32, now: u32) -> u32 {
        rtc.read(offset, 4, now).0
    }

    #[test]
    fn the_clock_follows_the_owner_until_it_is_set() {
        let mut rtc = Pl031::new(1_000_000);
        assert_eq!(get(&mut rtc, reg::DR, 1_000_007), 1_000_007);
        assert_eq!(rtc.write(reg::LR, 4, 50, 1_000_010), Line::Same);
        assert_eq!(get(&mut rtc, reg::LR, 1_000_020), 50);
        assert_eq!(get(&mut rtc, reg::DR, 1_000_020), 60);
        assert_eq!(rtc.write(reg::DR, 4, 7, 1_000_020), Line::Same);
        assert_eq!(get(&mut rtc, reg::DR, 1_000_020), 60);
        assert_eq!(rtc.write(reg::CR, 4, 0, 1_000_020), Line::Same);
        assert_eq!(get(&mut rtc, reg::CR, 1_000_020), 1);
    }

    #[test]
    fn identification_names_a_pl031() {
        let mut rtc = Pl031::default();
        let id: Vec<u32> = (0..8).map(|n| get(&mut rtc, 0xfe0 + 4 * n, 0)).collect();
        assert_eq!(id, [0x31, 0x10, 0x04, 0, 0x0d, 0xf0, 0x05, 0xb1]);
        assert_eq!(rtc.read(0xfe1, 1, 0).0, 0);
    }

    #[test]
    fn the_alarm_rings_at_its_deadline_and_stops_when_cleared() {
        let mut rtc = Pl031::new(100);
        assert_eq!(rtc.write(reg::LR, 4, 1000, 100), Line::Same);
        assert_eq!(rtc.deadline(), None);
        assert_eq!(rtc.write(reg::MR, 4, 1005, 101), Line::Same);
        assert_eq!(rtc.write(reg::IMSC, 4, 1, 101), Line::Same);
        assert_eq!(rtc.deadline(), Some(105));
        assert_eq!(rtc.advance(104), Line::Same);
        assert_eq!(rtc.advance(106), Line::Raised);
        assert_eq!(rtc.deadline(), None);
        assert_eq!(
            (get(&mut rtc, reg::RIS, 106), get(&mut rtc, reg::MIS, 106)),
            (1, 1)
        );
        assert_eq!(rtc.write(reg::ICR, 4, 0, 107), Line::Same);
        assert_eq!(rtc.write(reg::ICR, 4, 1, 107), Line::Lowered);
        assert_eq!(rtc.advance(200), Line::Same);
        assert!(!rtc.line());
    }

    #[test]
    fn a_masked_alarm_is_seen_when_it_is_unmasked() {
        let mut rtc = Pl031::new(100);
        assert_eq!(rtc.write(reg::MR, 4, 105, 100), Line::Same);
        assert_eq!(get(&mut rtc, reg::RIS, 104), 0);
        assert_eq!(get(&mut rtc, reg::RIS, 120), 1);
        assert_eq!(rtc.write(reg::IMSC, 4, 1, 120), Line::Raised);
        assert_eq!(rtc.write(reg::IMSC, 4, 0, 120), Line::Lowered);
    }

    #[test]
    fn a_match_in_the_past_waits_for_the_clock_to_wrap() {
        let mut rtc = Pl031::new(100);
        assert_eq!(rtc.write(reg::MR, 4, 50, 100), Line::Same);
        assert_eq!(rtc.write(reg::IMSC, 4, 1, 100), Line::Same);
        assert_eq!(rtc.advance(u32::MAX), Line::Same);
        assert_eq!(rtc.advance(49), Line::Same);
        assert_eq!(rtc.advance(50), Line::Raised);
    }

    #[test]
    fn setting_clock_and_match_to_the_same_second_rings() {
        let mut rtc = Pl031::new(100);
        assert_eq!(rtc.write(reg::IMSC, 4, 1, 100), Line::Same);
        assert_eq!(rtc.write(reg::MR, 4, 100, 100), Line::Raised);
        assert_eq!(rtc.write(reg::ICR, 4, 1, 100), Line::Lowered);
        assert_eq!(rtc.write(reg::MR, 4, 7, 100), Line::Same);
        assert_eq!(rtc.write(reg::LR, 4, 7, 100), Line::Raised);
    }
}
