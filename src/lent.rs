//! Memory that stands in for a guest's own until the guest writes to it.
//!
//! A kernel's module is such: nobody copies what is only read, and the module stays as it was for
//! the VM's next reset.

use crate::addr::{Ipa, Pa};
use alloc::vec;
use alloc::vec::Vec;

/// Bytes that are kept at once: few enough to copy in one exit, and enough to make these few.
pub const GRAIN: u64 = 64 << 10;

/// A loan of contiguous memory.
#[derive(Debug)]
pub struct Lent {
    ipa: Ipa,
    pa: Pa,
    size: u64,
    /// By grain, whether the guest has its own by now.
    kept: Vec<bool>,
}

impl Lent {
    /// Lends `size` bytes at `pa` to a guest that sees them at `ipa`.
    #[must_use]
    pub fn new(ipa: Ipa, pa: Pa, size: u64) -> Self {
        let kept = vec![false; size.div_ceil(GRAIN) as usize];
        Self {
            ipa,
            pa,
            size,
            kept,
        }
    }

    /// Where `ipa` is lent from, if it is, and for how many bytes from there on this is so.
    #[must_use]
    pub fn find(&self, ipa: Ipa) -> (Option<Pa>, u64) {
        let offset = ipa.0.wrapping_sub(self.ipa.0);
        if offset >= self.size {
            let before = self.ipa.0.checked_sub(ipa.0);
            return (None, before.unwrap_or(u64::MAX));
        }
        let kept = self.kept.get((offset / GRAIN) as usize);
        let room = (GRAIN - offset % GRAIN).min(self.size - offset);
        let lent = kept == Some(&false);
        (lent.then(|| Pa(self.pa.0.wrapping_add(offset))), room)
    }

    /// Ends the loan of the grain of `ipa`: where that began, was lent from, and its bytes. `None`
    /// where nothing is lent.
    pub fn keep(&mut self, ipa: Ipa) -> Option<(Ipa, Pa, u64)> {
        self.find(ipa).0?;
        let grain = ipa.0.wrapping_sub(self.ipa.0) / GRAIN;
        let start = Ipa(self.ipa.0 + grain * GRAIN);
        let (from, size) = self.find(start);
        *self.kept.get_mut(grain as usize)? = true;
        Some((start, from?, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPA: Ipa = Ipa(0x4200_0000);
    const PA: Pa = Pa(0x1_8000_3000);

    #[test]
    fn a_grain_is_lent_until_it_is_kept() {
        let mut lent = Lent::new(IPA, PA, 2 * GRAIN + 0x3000);
        assert_eq!(lent.find(Ipa(IPA.0 - 0x1000)), (None, 0x1000));
        assert_eq!(lent.find(IPA), (Some(PA), GRAIN));
        let inside = Ipa(IPA.0 + GRAIN + 8);
        assert_eq!(lent.find(inside), (Some(Pa(PA.0 + GRAIN + 8)), GRAIN - 8));
        let grain = (Ipa(IPA.0 + GRAIN), Pa(PA.0 + GRAIN), GRAIN);
        assert_eq!(lent.keep(inside), Some(grain));
        assert_eq!(lent.find(inside), (None, GRAIN - 8));
        assert_eq!(lent.keep(inside), None);
        let last = Ipa(IPA.0 + 2 * GRAIN + 0x2fff);
        assert_eq!(lent.find(last), (Some(Pa(PA.0 + 2 * GRAIN + 0x2fff)), 1));
        assert_eq!(lent.keep(last).map(|(_, _, size)| size), Some(0x3000));
        assert_eq!(lent.find(Ipa(last.0 + 1)), (None, u64::MAX));
        assert_eq!(lent.keep(Ipa(last.0 + 1)), None);
    }
}
