//! What a VM may do to caches, TLBs and predictors, of which nothing may reach another VM. Under a hypervisor only: there
//! invalidating by set and way has to clean, too, for what lies in a cache is not this VM's alone.

use bare::{cpu, mcr, mrc};

/// Operations by set and way, another kind each round, and all that drop translations and predictions.
pub(super) fn everything(round: u32) {
    let selected = mrc!(15, 2, 0, 0, 0);
    for level in 0..2 {
        cpu::each_set_and_way(level, 4, |operand| match round % 3 {
            0 => mcr!(15, 0, 7, 6, 2; operand),  // DCISW
            1 => mcr!(15, 0, 7, 10, 2; operand), // DCCSW
            _ => mcr!(15, 0, 7, 14, 2; operand), // DCCISW
        });
    }
    mcr!(15, 2, 0, 0, 0; selected);
    cpu::dsb();
    mcr!(15, 0, 8, 3, 0; 0); // TLBIALLIS
    mcr!(15, 0, 8, 3, 2; 0); // TLBIASIDIS
    mcr!(15, 0, 8, 5, 0; 0); // ITLBIALL
    mcr!(15, 0, 8, 6, 0; 0); // DTLBIALL
    mcr!(15, 0, 8, 7, 0; 0); // TLBIALL
    mcr!(15, 0, 8, 7, 2; 0); // TLBIASID
    mcr!(15, 0, 7, 1, 0; 0); // ICIALLUIS
    mcr!(15, 0, 7, 1, 6; 0); // BPIALLIS
    mcr!(15, 0, 7, 5, 0; 0); // ICIALLU
    mcr!(15, 0, 7, 5, 6; 0); // BPIALL
    cpu::dsb();
    cpu::isb();
}
