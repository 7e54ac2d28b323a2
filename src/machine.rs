//! What the hypervisor asks of the machine, as safe calls; `arch/fake.rs` answers them on the host.

use crate::addr::Pa;
use crate::arch::{context, counter, smc, tlb};
use crate::driver::gic;

pub use crate::arch::cache::forget_instructions;
pub use crate::arch::context::{Context, Exit, Live, enter, load, put};
pub use crate::arch::counter::{clear_deadline, now, set_deadline};
pub use crate::arch::tlb::{flush_all_vmids, flush_vmid};
pub use crate::arch::{tables::Pool, vfp, window};
pub use crate::console::put as console_put;

/// The interrupt of highest priority, taken: number in bits 9:0; 1020 and above: none.
#[inline(always)]
#[must_use]
pub fn acknowledge() -> u32 {
    gic::gic().map_or(gic::SPURIOUS, gic::Gic::acknowledge)
}
