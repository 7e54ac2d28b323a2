//! A checked tree with parents: what `fdt` lacks for translating addresses and naming nodes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use fdt::node::{FdtNode, NodeProperty};

use super::check::Note;
use super::{Checked, ConfigError};
use crate::addr::Pa;

/// A range of physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Range {
    /// Its first address.
    pub start: Pa,
    /// Its size, bytes.
    pub size: u64,
}

impl Range {
    /// The first address after it, the last of all addresses if it would lie beyond.
    #[inline(never)]
    #[must_use]
    pub fn end(&self) -> Pa {
        Pa(self.start.0.saturating_add(self.size))
    }

    /// Whether the two have an address in common.
    #[inline(never)]
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Whether all of `other` lies in it.
    #[inline(never)]
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end().0)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node, by its place in the tree; the root is 0, and children follow their parent.
pub type Id = usize;

/// The nodes of a checked tree.
pub struct Tree<'b, 'a> {
    checked: &'b Checked<'a>,
    nodes: Vec<FdtNode<'b, 'a>>,
}

impl<'b, 'a> Tree<'b, 'a> {
    /// The nodes of `checked`, found in one walk.
    #[must_use]
    pub fn of(checked: &'b Checked<'a>) -> Self {
        let mut nodes = Vec::with_capacity(checked.notes.len());
        nodes.extend(checked.fdt.all_nodes());
        Self { checked, nodes }
    }

    /// Every node.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        0..self.nodes.len()
    }

    /// The ranges of the tree's memory reservation block.
    #[must_use]
    pub fn reservations(&self) -> &'b [Range] {
        &self.checked.reservations
    }

    /// The node's name with its unit address; "/" for the root.
    #[must_use]
    pub fn name(&self, id: Id) -> &'a str {
        self.nodes.get(id).map_or("", |node| node.name)
    }

    /// The node's parent; the root's is itself.
    #[must_use]
    pub fn parent(&self, id: Id) -> Id {
        self.checked
            .notes
            .get(id)
            .map_or(0, |note| note.parent.into())
    }

    /// The node's name, and its parent's unless that is the root: enough to know the tree's fixed places.
    pub(super) fn place(&self, id: Id) -> (&'a str, Option<&'a str>) {
        let parent = self.parent(id);
        let above = match (parent, self.parent(parent)) {
            (0, _) => None,
            (_, 0) => Some(self.name(parent)),
            _ => Some(""),
        };
        (if id == 0 { "" } else { self.name(id) }, above)
    }

    /// The nodes above the node, the root last.
    pub(super) fn ancestors(&self, id: Id) -> impl Iterator<Item = Id> {
        let above = |&id: &Id| (id != 0).then(|| self.parent(id));
        core::iter::successors(above(&id), above)
    }

    /// The node with that phandle.
    pub(super) fn with_phandle(&self, phandle: u32) -> Option<Id> {
        self.ids()
            .find(|&id| self.property(id, "phandle").and_then(cell) == Some(phandle))
    }

    /// The nodes below the node.
    fn descendants(&self, id: Id) -> impl Iterator<Item = (Id, &'b Note<'a>)> + use<'a, 'b> {
        let notes = self.checked.notes.iter().enumerate().skip(id + 1);
        // Depth first: all of a node's descendants follow it, and no later node has a parent among them.
        notes.take_while(move |(_, note)| usize::from(note.parent) >= id)
    }

    /// The node's children.
    pub fn children(&self, id: Id) -> impl Iterator<Item = Id> {
        called(
            self.descendants(id)
                .filter(move |(_, note)| usize::from(note.parent) == id)
                .map(|(id, _)| id),
        )
    }

    /// The node's properties.
    pub fn properties(&self, id: Id) -> impl Iterator<Item = NodeProperty<'a>> {
        let properties = self.nodes.get(id).map(|node| node.properties());
        called(properties.into_iter().flatten())
    }

    /// The value of the node's property of that name.
    #[must_use]
    pub fn property(&self, id: Id, name: &str) -> Option<&'a [u8]> {
        self.properties(id)
            .find(|p| p.name == name)
            .map(|p| p.value)
    }

    /// The strings of the node's `compatible`.
    pub fn compatible(&self, id: Id) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        strings(self.all_compatible(id))
    }

    /// The value of the node's `compatible`, empty where there is none.
    pub(super) fn all_compatible(&self, id: Id) -> &'a [u8] {
        let note = self.checked.notes.get(id);
        note.map_or(&[][..], |note| note.compatible)
    }

    /// Whether the node is compatible with `with`.
    #[must_use]
    pub fn is_compatible(&self, id: Id, with: &str) -> bool {
        self.compatible(id).any(|c| c == with.as_bytes())
    }

    /// `#address-cells` and `#size-cells` for the node's children, 2 and 1 where it does not say.
    #[must_use]
    pub fn cells(&self, id: Id) -> (usize, usize) {
        let (address, size) = self.stated_cells(id);
        (address.unwrap_or(2).into(), size.unwrap_or(1).into())
    }

    /// `#address-cells` and `#size-cells` as the node states them.
    fn stated_cells(&self, id: Id) -> (Option<u8>, Option<u8>) {
        let note = self.checked.notes.get(id);
        note.map_or((None, None), |note| (note.address_cells, note.size_cells))
    }

    /// The node's path.
    #[must_use]
    pub fn path(&self, id: Id) -> String {
        if id == 0 {
            return String::from("/");
        }
        let up = self.parent(id);
        format!(
            "{}/{}",
            if up == 0 {
                String::new()
            } else {
                self.path(up)
            },
            self.name(id)
        )
    }

    /// An error about a property of the node.
    #[cold]
    #[inline(never)]
    pub(super) fn error(
        &self,
        id: Id,
        property: &str,
        value: fmt::Arguments<'_>,
        fix: fmt::Arguments<'_>,
    ) -> ConfigError {
        ConfigError::new(&self.path(id), property, value, fix)
    }

    /// The node at `path`, whose names may lack their unit address.
    #[inline(never)]
    #[must_use]
    pub fn find(&self, path: &str) -> Option<Id> {
        let steps = path
            .strip_prefix('/')?
            .split('/')
            .filter(|step| !step.is_empty());
        let mut id = 0;
        for step in steps {
            id = self
                .children(id)
                .find(|&child| is_named(self.name(child), step))?;
        }
        (!self.nodes.is_empty()).then_some(id)
    }

    /// Whether the node is switched off by its `status`.
    #[inline(never)]
    #[must_use]
    pub fn is_disabled(&self, id: Id) -> bool {
        self.checked.notes.get(id).is_some_and(|note| note.disabled)
    }

    /// Whether the node is for a VM to have (`xen,passthrough`), and not for the hypervisor.
    #[must_use]
    pub fn is_spare(&self, id: Id) -> bool {
        self.checked.notes.get(id).is_some_and(|note| note.spare)
    }

    /// The node's `reg` as physical addresses, translated through the buses above it.
    ///
    /// # Errors
    ///
    /// Where it is absent, has not the length that the cell sizes ask for, or no bus translates it.
    pub fn reg(&self, id: Id) -> Result<Vec<Range>, ConfigError> {
        let bus = self.parent(id);
        let mut ranges = self.ranges_of(id, self.cells(bus))?;
        for range in &mut ranges {
            *range = self.translate(bus, *range).ok_or_else(|| {
                let value = format_args!("{range}, which no bus above it translates");
                self.error(
                    id,
                    "reg",
                    value,
                    format_args!("give the buses above it fitting ranges"),
                )
            })?;
        }
        Ok(ranges)
    }

    /// The `reg` of a node that lies on no bus, as those below `/chosen`: physical addresses already.
    /// Where the node above does not state its cells (QEMU's guest-loader leaves `/chosen` without),
    /// the length tells them.
    ///
    /// # Errors
    ///
    /// Where it is absent, or has not the length that the cell sizes ask for.
    pub fn reg_off_bus(&self, id: Id) -> Result<Vec<Range>, ConfigError> {
        let cells = match self.stated_cells(self.parent(id)) {
            (None, None) => match self.property(id, "reg").map_or(0, <[u8]>::len) {
                8 => (1, 1),
                12 => (2, 1),
                _ => (2, 2),
            },
            _ => self.cells(self.parent(id)),
        };
        self.ranges_of(id, cells)
    }

    /// The node's `reg` as it stands.
    fn ranges_of(
        &self,
        id: Id,
        (address_cells, size_cells): (usize, usize),
    ) -> Result<Vec<Range>, ConfigError> {
        let error = |value: fmt::Arguments<'_>| {
            let fix = format_args!(
                "give each range an address of {address_cells} and a size of {size_cells} cells"
            );
            self.error(id, "reg", value, fix)
        };
        let mut value = self
            .property(id, "reg")
            .ok_or_else(|| error(format_args!("absent")))?;
        let mut ranges = Vec::new();
        if address_cells == 0 {
            let fix = format_args!("give the bus #address-cells of at least 1");
            return Err(self.error(id, "reg", format_args!("on a bus without addresses"), fix));
        }
        while !value.is_empty() {
            let start = number(&mut value, address_cells);
            let (Some(start), Some(size)) = (start, number(&mut value, size_cells)) else {
                return Err(error(format_args!("of another length than its cells")));
            };
            ranges.push(Range {
                start: Pa(start),
                size,
            });
        }
        Ok(ranges)
    }

    /// An address range on `bus` as the CPU sees it.
    fn translate(&self, mut bus: Id, mut range: Range) -> Option<Range> {
        while bus != 0 {
            let parent = self.parent(bus);
            let (child_cells, size_cells) = self.cells(bus);
            let (parent_cells, _) = self.cells(parent);
            let mut windows = self.property(bus, "ranges")?;
            if child_cells == 0 && !windows.is_empty() {
                return None;
            }
            let mut hit = windows.is_empty().then_some(range.start);
            while hit.is_none() && !windows.is_empty() {
                let from = Pa(number(&mut windows, child_cells)?);
                let to = number(&mut windows, parent_cells)?;
                let window = Range {
                    start: from,
                    size: number(&mut windows, size_cells)?,
                };
                if window.contains(&range) {
                    hit = Pa(to).checked_add(range.start.0.wrapping_sub(from.0));
                }
            }
            range.start = hit?;
            bus = parent;
        }
        range.start.checked_add(range.size).map(|_| range)
    }
}

/// Whether a node called `name` is meant by `wanted`, which may lack the unit address.
pub(super) fn is_named(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
}

/// The same iterator, whose step is a call wherever it is used.
fn called<I: Iterator>(mut iterator: I) -> impl Iterator<Item = I::Item> {
    #[inline(never)]
    fn step<I: Iterator>(iterator: &mut I) -> Option<I::Item> {
        iterator.next()
    }
    core::iter::from_fn(move || step(&mut iterator))
}

/// The NUL-terminated strings of a property.
pub(super) fn strings(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    called(value.split(|&b| b == 0).filter(|s| !s.is_empty()))
}

/// The first string of a property, if it is UTF-8.
#[inline(never)]
pub(super) fn string(value: &[u8]) -> Option<&str> {
    core::str::from_utf8(value.split(|&b| b == 0).next()?).ok()
}

/// Takes a number of `cells` cells, at most 2 of them significant, off the front of a property.
pub(super) fn number(value: &mut &[u8], cells: usize) -> Option<u64> {
    let (taken, rest) = value.split_at_checked(cells.checked_mul(4)?)?;
    if cells > 2 {
        return None;
    }
    *value = rest;
    Some(
        taken
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)),
    )
}

/// A property of one cell.
#[inline(never)]
pub(super) fn cell(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A property that is one number of one or two cells.
pub(super) fn whole(mut value: &[u8]) -> Option<u64> {
    let cells = value.len() / 4;
    number(&mut value, cells).filter(|_| cells > 0 && value.is_empty())
}
