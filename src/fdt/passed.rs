//! Devices of the board that VMs are given, in Xen's bindings: `xen,passthrough` on the board's node, and a partial
//! tree for the VM whose `/passthrough` node says which, where, and with what interrupts.
//!
//! A device is given with whole pages. So whatever shares one with it goes to the same VM, or it goes to
//! none.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

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
    /// Path of the node of the VM that has it.
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
pub(super) fn spares(
    tree: &Tree<'_, '_>,
    used: &[(&str, Range)],
    console: Option<u32>,
) -> Vec<Spare> {
    let spare = |id| {
        let mut spare = Spare {
            node: tree.path(id),
            registers: tree.reg(id).unwrap_or_default(),
            interrupts: (0..).map_while(|n| Interrupt::of(tree, id, n)).collect(),
            ..Spare::default()
        };
        let in_use = used.iter().find(|(_, range)| spare.touches(range));
        let heard = spare.interrupts.iter().any(|irq| Some(irq.id) == console);
        // A bus may have registers of its own around those of its devices.
        let is_kin = |other| {
            let above = |a, b| tree.ancestors(a).any(|above| above == b);
            other == id || above(id, other) || above(other, id)
        };
        let is_near = |&other: &Id| {
            let mut reg = tree.reg(other).unwrap_or_default().into_iter();
            !is_kin(other) && !tree.is_spare(other) && reg.any(|range| spare.touches(&range))
        };
        let conflict = match (in_use, heard) {
            (Some((what, _)), _) => Some(format!("is {what}")),
            (None, true) => Some("has the console's interrupt".into()),
            _ => (tree.ids().find(is_near)).map(|other| {
                format!(
                    "shares a page with {}, which has no xen,passthrough",
                    tree.path(other)
                )
            }),
        };
        spare.conflict = conflict;
        spare
    };
    let ids = tree.ids().filter(|&id| tree.is_spare(id));
    ids.map(spare).collect()
}

/// What the VM of node `vm` is given by its partial tree, which is the module `module`. `direct`: its RAM
/// is where it seems to be.
///
/// # Errors
/// What in the tree can't be had.
pub fn passed(
    tree: &Tree<'_, '_>,
    module: &str,
    spares: &[Spare],
    direct: bool,
) -> Result<Vec<Passed>, ConfigError> {
    let mut all: Vec<(Passed, Id)> = Vec::new();
    let error = |id, property, value: String, fix: &str| {
        Err(ConfigError::new(
            format!("{module} {}", tree.path(id)),
            property,
            value,
            fix,
        ))
    };
    for id in tree.ids() {
        if !tree
            .ancestors(id)
            .any(|above| tree.place(above) == ("passthrough", None))
        {
            continue;
        }
        let path = tree.property(id, "xen,path").and_then(string);
        let reg = tree.property(id, "xen,reg");
        let Some(path) = path else {
            if reg.is_some() {
                return error(
                    id,
                    "xen,path",
                    "absent".into(),
                    "give the path of the board's node",
                );
            }
            continue;
        };
        let refused = |why: &str, fix| error(id, "xen,path", format!("{path}, which {why}"), fix);
        let Some(spare) = spares.iter().find(|spare| spare.node == path) else {
            return refused(
                "no node with xen,passthrough has",
                "set that on the board's node, or correct the path",
            );
        };
        if let Some(why) = &spare.conflict {
            return refused(why, "leave it to the hypervisor");
        }
        if let Some(owner) = &spare.owner {
            return refused(&format!("{owner} has"), "give it to one VM");
        }
        if all.iter().any(|(other, _)| other.node == path) {
            return refused("this VM has already", "name it once");
        }
        if !direct
            && tree
                .property(id, "xen,force-assign-without-iommu")
                .is_none()
        {
            let fix = "give the VM's node direct-map, or this property to a device that reaches no memory by itself";
            return error(id, "xen,force-assign-without-iommu", "absent".into(), fix);
        }
        let pages = match registers(tree, id, reg.unwrap_or_default(), spare) {
            Ok(pages) => pages,
            Err(why) => {
                let fix = "give whole pages of the device: their address, their size and the guest's address, \
                           by the cells of the node above";
                return error(id, "xen,reg", why, fix);
            }
        };
        let Some(wires) = wires(tree, id, spare) else {
            let fix = "give shared interrupts below 256, at most as many as the board's node has";
            return error(
                id,
                "interrupts",
                format!("not for the {} of {path}", spare.interrupts.len()),
                fix,
            );
        };
        let node = path.into();
        all.push((Passed { node, pages, wires }, id));
    }
    let is_given = |spare: &&Spare| all.iter().any(|(passed, _)| passed.node == spare.node);
    for (passed, id) in &all {
        let Some(spare) = spares.iter().find(|spare| spare.node == passed.node) else {
            continue;
        };
        let mut left = spares.iter().filter(|other| !is_given(other));
        if let Some(other) = left.find(|other| spare.is_tied_to(other)) {
            let shown = format!(
                "{}, which shares a page or an interrupt with {}",
                spare.node, other.node
            );
            return error(*id, "xen,path", shown, "give both to this VM");
        }
    }
    Ok(all.into_iter().map(|(passed, _)| passed).collect())
}

/// The pages of `xen,reg`, or what is wrong with it.
fn registers(
    tree: &Tree<'_, '_>,
    id: Id,
    mut reg: &[u8],
    spare: &Spare,
) -> Result<Vec<(Range, u64)>, String> {
    let (address, size) = tree.cells(tree.parent(id));
    let mut all = Vec::new();
    while !reg.is_empty() {
        let mut next = |cells| number(&mut reg, cells).ok_or("of another length than its cells");
        let (start, size, guest) = (next(address)?, next(size)?, next(address)?);
        let range = Range {
            start: Pa(start),
            size,
        };
        if size == 0
            || (start | size | guest) % PAGE != 0
            || guest.checked_add(size).is_none_or(|end| end >> 32 > 0)
        {
            return Err(format!("{range} at {guest:#x}, which are no pages"));
        }
        if !spare
            .registers
            .iter()
            .any(|own| pages(own).contains(&range))
        {
            return Err(format!("{range}, which is not all the device's"));
        }
        all.push((range, guest));
    }
    Ok(all)
}

/// The device's interrupts, the nth in the VM's tree being the nth on the board; `None` where they
/// don't fit.
fn wires(tree: &Tree<'_, '_>, id: Id, spare: &Spare) -> Option<Vec<Wire>> {
    let mut board = spare.interrupts.iter();
    let value = tree.property(id, "interrupts").unwrap_or_default();
    let wire = |cells| {
        let (virt, &physical) = (Interrupt::read(cells)?.id, board.next()?);
        let shared = 32..32 + crate::bus::interrupt::SHARED as u32;
        (shared.contains(&virt) && physical.id >= 32).then_some(Wire { physical, virt })
    };
    (value.len() % 12 == 0).then_some(())?;
    value.chunks(12).map(wire).collect()
}
