//! What an access did to a device's interrupt line.
//!
//! Devices know nothing of the interrupt controller: they say what became of their line, and the
//! owner, who knows the wiring, passes it on. Most accesses change nothing, and saying so costs the
//! owner one comparison.

/// A change of an interrupt line, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub enum Line {
    /// As before.
    #[default]
    Same,
    /// Now asserted.
    Raised,
    /// Now deasserted.
    Lowered,
}

impl Line {
    /// What it takes to get from level `old` to level `new`, which is stored in `old`.
    #[inline(always)]
    pub const fn change(old: &mut bool, new: bool) -> Self {
        if *old == new {
            return Self::Same;
        }
        *old = new;
        if new { Self::Raised } else { Self::Lowered }
    }
}
