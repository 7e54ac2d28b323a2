//! Physical interrupts: whose they are, and who is told.

use crate::machine;

/// What an interrupt means for the CPU that took it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// Nothing more to do.
    None,
    /// Another CPU has asked for something.
    Kick,
    /// The Hyp timer: a slice is over or a vCPU's deadline has come.
    Slice,
}

/// Takes the interrupt that is pending, if one is.
#[inline(always)]
pub fn take() -> Interrupt {
    let acknowledged = machine::acknowledge();
    let id = acknowledged & 0x3ff;
    if id >= machine::SPURIOUS {
        return Interrupt::None;
    }
    machine::end(acknowledged);
    let meaning = if id == machine::KICK {
        Interrupt::Kick
    } else if id == machine::hyp_timer() {
        machine::clear_deadline();
        Interrupt::Slice
    } else {
        Interrupt::None
    };
    machine::deactivate(acknowledged);
    meaning
}
