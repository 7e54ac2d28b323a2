//! Devices of the board that VMs are given, in Xen's bindings: `xen,passthrough` on the board's node, and a partial
//! tree for the VM whose `/passthrough` node says which, where, and with what interrupts.
//!
//! A device is given with whole pages. So whatever shares one with it goes to the same VM, or it goes to
//! none.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use core::fmt;

use super::tree::{number, string};
use super::{ConfigError, Id, Interrupt, Range, Tree};
use crate::addr::{PAGE, Pa};

/// A device that the board has to give away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spare {
    /// Path of its node.
    pub node: String,
    /// Its registers.
    pub registers: Vec<Range>,
    /// Its interrupts, in the node's order.
    pub interrupts: Vec<Interrupt>,
    /// Why it can't be given away, after "which".
    pub conflict: Option<String>,
    /// Who has it, after "which": "... has".
    pub owner: Option<String>,
}

/// An interrupt of the board's that is a VM's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The board's.
    pub physical: Interrupt,
    /// Its number for the guest.
    pub virt: u32,
}

/// A device that a VM is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Path of the board's node.
    pub node: String,
    /// Whole pages of registers, and where the guest sees them.
    pub pages: Vec<(Range, u64)>,
    /// Its interrupts.
    pub wires: Vec<Wire>,
}

/// The whole pages that `range` touches.
fn pages(range: &Range) -> Range {
    let start = range.start.align_down(PAGE);
    let end = range.end().0.checked_next_multiple_of(PAGE);
    let size = end.unwrap_or(!(PAGE - 1)).saturating_sub(start.0);
    Range { start, size }
}

impl Spare {
    /// Whether some of `range` lies in a page of its.
    fn touches(&self, range: &Range) -> bool {
        self.registers.iter().any(|own| pages(own).overlaps(range))
    }

    /// Whether it can't be another VM's than `other` is.
    fn is_tied_to(&self, other: &Self) -> bool {
        let same = |own: &Interrupt| other.interrupts.iter().any(|their| their.id == own.id);
        other.registers.iter().any(|range| self.touches(range)) || self.interrupts.iter().any(same)
    }
}

/// The devices that `tree` has to give away; `used` is what the hypervisor has in use itself.
#[cold]
pub(super) fn spares(
    tree: &Tree<'_, '_>,
    used: &[(&str, Range)],
    console: Option<u32>,
) -> Vec<Spare> {
    let mut spares = Vec::new();
    for id in tree.ids() {
        if tree.is_spare(id) {
            let mut spare = Spare {
                node: tree.path(id),
                registers: tree.reg(id).unwrap_or_default(),
                ..Spare::default()
            };
            while let Some(irq) = Interrupt::of(tree, id, spare.interrupts.len()) {
                spare.interrupts.push(irq);
            }
            spare.conflict = conflict(tree, id, &spare, used, console);
            spares.push(spare);
        }
    }
    spares
}

/// Why the device of node `id` can't be given away.
fn conflict(
    tree: &Tree<'_, '_>,
    id: Id,
    spare: &Spare,
    used: &[(&str, Range)],
    console: Option<u32>,
) -> Option<String> {
    for (what, range) in used {
        if spare.touches(range) {
            return Some(format!("is {what}"));
        }
    }
    if spare.interrupts.iter().any(|irq| Some(irq.id) == console) {
        return Some("has the console's interrupt".into());
    }
    for other in tree.ids() {
        // A bus may have registers of its own around those of its devices.
        let above = |a, b| tree.ancestors(a).any(|above| above == b);
        if tree.is_spare(other) || above(id, other) || above(other, id) {
            continue;
        }
        for range in tree.reg(other).unwrap_or_default() {
            if spare.touches(&range) {
                let other = tree.path(other);
                return Some(format!("shares a page with {other}, which is for no VM"));
            }
        }
    }
    None
}

/// A node of a VM's partial tree.
struct Wanted<'t, 'b, 'a> {
    tree: &'t Tree<'b, 'a>,
    id: Id,
    module: &'t str,
}

impl Wanted<'_, '_, '_> {
    /// What is wrong with it.
    #[cold]
    #[inline(never)]
    fn refuse(&self, property: &'static str, value: fmt::Arguments<'_>, fix: &str) -> ConfigError {
        let node = format!("{} {}", self.module, self.tree.path(self.id));
        ConfigError::new(&node, property, value, format_args!("{fix}"))
    }

    fn has(&self, property: &str) -> bool {
        self.tree.property(self.id, property).is_some()
    }
}

const PATH: &str = "xen,path";
const REG: &str = "xen,reg";
const FORCE: &str = "xen,force-assign-without-iommu";

/// What a VM is given by its partial tree, which is the module `module`. `direct`: its RAM is where it
/// seems to be.
///
/// # Errors
/// What in the tree can't be had.
#[cold]
pub fn passed(
    tree: &Tree<'_, '_>,
    module: &str,
    spares: &[Spare],
    direct: bool,
) -> Result<Vec<Passed>, ConfigError> {
    let mut all: Vec<Passed> = Vec::new();
    let mut ids = Vec::new();
    for id in tree.ids() {
        let wanted = Wanted { tree, id, module };
        let mut above = tree.ancestors(id);
        if above.any(|above| tree.place(above) == ("passthrough", None))
            && let Some(passed) = wanted.passed(spares, direct)?
        {
            if all.iter().any(|other| other.node == passed.node) {
                let node = &passed.node;
                return Err(wanted.refuse(PATH, format_args!("{node} once more"), "name it once"));
            }
            all.push(passed);
            ids.push(id);
        }
    }
    for (passed, id) in all.iter().zip(ids) {
        let wanted = Wanted { tree, id, module };
        let own = wanted.spare(&passed.node, spares)?;
        for other in spares {
            if own.is_tied_to(other) && !all.iter().any(|passed| passed.node == other.node) {
                let shown = format_args!(
                    "{}, which shares a page or an interrupt with {}",
                    own.node, other.node
                );
                return Err(wanted.refuse(PATH, shown, "give both to this VM"));
            }
        }
    }
    Ok(all)
}

impl Wanted<'_, '_, '_> {
    /// The device that it names, if it does.
    fn passed(&self, spares: &[Spare], direct: bool) -> Result<Option<Passed>, ConfigError> {
        let Some(path) = self.tree.property(self.id, PATH).and_then(string) else {
            return match self.has(REG) {
                true => Err(self.refuse(
                    PATH,
                    format_args!("absent"),
                    "give the path of the board's node",
                )),
                false => Ok(None),
            };
        };
        let spare = self.spare(path, spares)?;
        let why = spare.conflict.as_ref().or(spare.owner.as_ref());
        if let Some(why) = why {
            let shown = format_args!("{path}, which {why}");
            return Err(self.refuse(PATH, shown, "give the VM another device"));
        }
        if !direct && !self.has(FORCE) {
            let fix = "give the VM's node direct-map, or this property to a device that reaches no memory by itself";
            return Err(self.refuse(FORCE, format_args!("absent"), fix));
        }
        Ok(Some(Passed {
            pages: self.pages(spare)?,
            wires: self.wires(spare)?,
            node: path.into(),
        }))
    }

    fn spare<'s>(&self, path: &str, spares: &'s [Spare]) -> Result<&'s Spare, ConfigError> {
        let found = spares.iter().find(|spare| spare.node == path);
        found.ok_or_else(|| {
            let fix = "give the path of a node of the board's, and that node xen,passthrough";
            self.refuse(PATH, format_args!("{path}, which is for no VM"), fix)
        })
    }

    /// The pages of `xen,reg`.
    fn pages(&self, spare: &Spare) -> Result<Vec<(Range, u64)>, ConfigError> {
        let (address, size) = self.tree.cells(self.tree.parent(self.id));
        let mut reg = self.tree.property(self.id, REG).unwrap_or_default();
        let mut all = Vec::new();
        while !reg.is_empty() {
            let mut next = |cells| number(&mut reg, cells).unwrap_or(1);
            let (start, size, guest) = (Pa(next(address)), next(size), next(address));
            let range = Range { start, size };
            let whole = (start.0 | size | guest) % PAGE == 0 && size != 0;
            let fits = guest.checked_add(size).is_some_and(|end| end >> 32 == 0);
            if !whole
                || !fits
                || !spare
                    .registers
                    .iter()
                    .any(|own| pages(own).contains(&range))
            {
                let fix = "give whole pages of the device's: address, size, the guest's address";
                return Err(self.refuse(REG, format_args!("{range} for {guest:#x}"), fix));
            }
            all.push((range, guest));
        }
        Ok(all)
    }

    /// Its interrupts, the nth being the board's nth.
    fn wires(&self, spare: &Spare) -> Result<Vec<Wire>, ConfigError> {
        let value = self
            .tree
            .property(self.id, "interrupts")
            .unwrap_or_default();
        let mut wires = Vec::new();
        for cells in value.chunks(12) {
            let physical = spare.interrupts.get(wires.len()).copied();
            match (Interrupt::read(cells), physical) {
                (Some(Interrupt { id: virt, .. }), Some(physical))
                    if (32..32 + SHARED).contains(&virt) && physical.id >= 32 =>
                {
                    wires.push(Wire { physical, virt });
                }
                _ => {
                    let fix = "give shared interrupts below 256, no more than the board's node has";
                    return Err(self.refuse(
                        "interrupts",
                        format_args!("wrong at {}", wires.len()),
                        fix,
                    ));
                }
            }
        }
        Ok(wires)
    }
}

/// Shared interrupts that a guest has.
const SHARED: u32 = crate::bus::interrupt::SHARED as u32;
