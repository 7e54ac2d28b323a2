//! Which VM has which of the board's devices.

use crate::addr::Pa;
use crate::fdt::{self, ConfigError, Passed, Range, Spare, Tree, VmConfig, Wire};
use crate::machine;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use spin::Mutex;

/// What the board has to give. Its lock is taken with no other held.
static SPARES: Mutex<Vec<Spare>> = Mutex::new(Vec::new());

/// Lets VMs have these devices, too.
pub fn offer(spares: &[Spare]) {
    SPARES.lock().extend_from_slice(spares);
}

/// The devices that a VM has been given, until this is dropped.
#[derive(Debug, Default)]
pub struct Assigned(Vec<Passed>);

impl Assigned {
    /// Gives the VM of `config` what its partial tree, which is the module `module`, asks for.
    ///
    /// # Errors
    /// What of that can't be had; nothing is given then.
    #[cold]
    #[inline(never)]
    pub fn take(config: &VmConfig, tree: &Tree<'_, '_>, module: &str) -> Result<Self, ConfigError> {
        let mut spares = SPARES.lock();
        let given = Self(fdt::passed(tree, module, &spares, config.direct_map)?);
        given.set_owner(&mut spares, Some(format!("{} has", config.node)));
        for wire in given.wires() {
            machine::trigger(wire.physical.id, wire.physical.edge);
        }
        Ok(given)
    }

    fn set_owner(&self, spares: &mut [Spare], owner: Option<String>) {
        for spare in spares {
            if self.0.iter().any(|device| device.node == spare.node) {
                spare.owner = owner.clone();
            }
        }
    }

    /// The devices.
    #[must_use]
    pub fn devices(&self) -> &[Passed] {
        &self.0
    }

    /// Where the guest sees registers, and how many bytes of them, each place once.
    pub fn places(&self) -> impl Iterator<Item = (u64, u64)> {
        let pages = || self.0.iter().flat_map(|device| &device.pages);
        let fresh = move |&(n, page): &(usize, &(Range, u64))| {
            !pages().take(n).any(|before| before == page)
        };
        let all = pages().enumerate().filter(fresh);
        all.map(|(_, &(range, guest))| (guest, range.size))
    }

    /// What of the board the guest sees at `guest`.
    #[must_use]
    pub fn find(&self, guest: u64) -> Option<Pa> {
        let mut pages = self.0.iter().flat_map(|device| &device.pages);
        let (range, at) = pages.find(|(range, at)| guest.wrapping_sub(*at) < range.size)?;
        range.start.checked_add(guest - at)
    }

    /// Whether it sees something of it there.
    #[must_use]
    pub fn is_at(&self, guest: u64) -> bool {
        self.find(guest).is_some()
    }

    /// Their interrupts.
    pub fn wires(&self) -> impl Iterator<Item = Wire> {
        self.0.iter().flat_map(|device| &device.wires).copied()
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        for wire in self.wires() {
            machine::silence(wire.physical.id);
        }
        self.set_owner(&mut SPARES.lock(), None);
    }
}
