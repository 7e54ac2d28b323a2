//! Physical interrupts: whose they are, and who is told.

use crate::machine;
use crate::vcpu::Vcpu;
use crate::vm;
use core::sync::atomic::{Ordering, fence};

/// What an interrupt leaves to do for the CPU that took it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub enum Interrupt {
    /// Nothing.
    None,
    /// Nothing, but the vCPU that is live has something pending.
    Own,
    /// Another CPU has asked for something.
    Kick,
    /// The Hyp timer: a slice is over or a vCPU's deadline has come.
    Deadline,
    /// The console has something.
    Console,
}

/// Takes the interrupt that is pending, if one is; `loaded` is the vCPU that is live.
#[inline(always)]
pub fn take(loaded: Option<&mut Vcpu>) -> Interrupt {
    let acknowledged = machine::acknowledge();
    let id = acknowledged & 0x3ff;
    if id >= machine::SPURIOUS {
        return Interrupt::None;
    }
    machine::end(acknowledged);
    let wiring = machine::wiring();
    if id == wiring.virtual_timer
        && let Some(vcpu) = loaded
    {
        // It stays active: the guest deactivates it.
        vcpu.virtual_timer_fired();
        return Interrupt::Own;
    }
    let left = match id {
        machine::KICK => {
            // What was written before the kick is seen after it.
            fence(Ordering::Acquire);
            Interrupt::Kick
        }
        _ if id == wiring.hyp_timer => {
            machine::clear_deadline();
            Interrupt::Deadline
        }
        _ if id == wiring.maintenance => {
            if let Some(vcpu) = loaded {
                vcpu.sync();
            }
            Interrupt::None
        }
        _ if Some(id) == wiring.console => Interrupt::Console,
        _ => return device(id, loaded),
    };
    machine::deactivate(acknowledged);
    left
}

/// A device of a VM's has interrupted: the guest deactivates the interrupt.
#[inline(never)]
fn device(id: u32, loaded: Option<&mut Vcpu>) -> Interrupt {
    if !loaded.is_some_and(|vcpu| vcpu.device_fired(id)) {
        elsewhere(id);
    }
    Interrupt::None
}

/// So, where the vCPU that runs is not the one that it is for.
#[cold]
#[inline(never)]
fn elsewhere(id: u32) {
    match vm::wired(id) {
        None => machine::deactivate(id),
        Some((vm, wire)) => {
            // It comes where the guest wants it: the same CPU is to deactivate it.
            let home = vm.home(wire.virt);
            if home != machine::cpu_number() {
                machine::forward(id, wire.physical.edge, home);
            } else {
                vm.set_line(Some(wire.virt), true);
            }
        }
    }
}
