//! The gate in front of the `fdt` crate: a flattened tree is walked once, whole, before that crate sees it.
//!
//! `fdt` 0.1.5 slices, unwraps and asserts on what it reads. What of it is used here is `Fdt::new`,
//! `all_nodes` and `properties`; they panic, overflow or stop short where
//! - a block lies outside the tree (`structs_block`, `strings_block`),
//! - a token other than BEGIN_NODE, PROP or END_NODE stands where one of them is due, or the block
//!   ends early,
//! - a node name is not NUL-terminated UTF-8, or a property's value or name lies outside its block,
//! - END_NODE comes more often than BEGIN_NODE, or nodes nest 64 deep (its table of parents),
//! - a property follows a child node, or a NOP stands before PROP or END_NODE.
//!
//! [`check`] refuses all of these but the last: NOPs are what firmware leaves where it deleted
//! something, so a tree that holds any is copied without them. Everything else of `fdt` (`memory`,
//! `chosen`, `cpus`, `reg`, `children`, `find_node`, ...) is not called: it unwraps more, and
//! truncates addresses to 32 bits.
//!
//! The walk is cheap next to that crate's, so it notes on its way what every reader asks for: each
//! node's parent, cell sizes, `status` and `compatible`.
//!
//! Format: Devicetree Specification 0.4, chapter 5.

use alloc::vec::Vec;
use core::fmt;

use fdt::Fdt;

use super::Range;
use crate::addr::Pa;

/// Deepest nesting that is accepted; the root is at depth 1. Trees of real boards stay below 12.
pub const MAX_DEPTH: usize = 32;
/// Most nodes that are accepted. Trees of real boards stay below 2,500.
pub const MAX_NODES: usize = 8192;

/// Largest tree that is accepted, padding included, bytes.
pub const MAX_SIZE: usize = 64 << 20;

const MAGIC: u32 = 0xd00d_feed;
const HEADER: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// What is wrong with a flattened tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdtError {
    /// Offset from the tree's start, bytes.
    pub offset: usize,
    /// What should have been there.
    pub expected: &'static str,
}

impl fmt::Display for FdtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, expected } = self;
        write!(
            f,
            "device tree damaged at offset {offset:#x}: expected {expected}"
        )
    }
}

/// What the check notes of a node, in the order of `Fdt::all_nodes`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note<'a> {
    /// Index of the parent; the root is its own.
    pub(super) parent: u16,
    /// `#address-cells` for the children, at most 255; `None` where the node does not say.
    pub(super) address_cells: Option<u8>,
    /// `#size-cells` likewise.
    pub(super) size_cells: Option<u8>,
    /// Whether its `status` is another than okay.
    pub(super) disabled: bool,
    /// Whether it has `xen,passthrough`.
    pub(super) spare: bool,
    /// The value of `compatible`, empty where there is none.
    pub(super) compatible: &'a [u8],
}

/// A tree that `fdt` can be let at.
#[derive(Debug)]
pub struct Checked<'a> {
    pub(super) fdt: Fdt<'a>,
    pub(super) notes: Vec<Note<'a>>,
    pub(super) reservations: Vec<Range>,
    size: usize,
}

impl<'a> Checked<'a> {
    /// The tree itself.
    #[must_use]
    pub fn fdt(&self) -> &Fdt<'a> {
        &self.fdt
    }

    /// Number of nodes, the root included.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.notes.len()
    }

    /// Size of the tree that was checked, padding included, bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }
}

/// Walks the flattened tree at the start of `bytes`. `copy` stays empty unless the tree holds NOPs.
///
/// # Errors
///
/// The first offset at which the tree is not what the specification asks for, or is beyond
/// [`MAX_DEPTH`] or [`MAX_NODES`].
pub fn check<'a>(bytes: &'a [u8], copy: &'a mut Vec<u8>) -> Result<Checked<'a>, FdtError> {
    let header = Header::read(bytes)?;
    let bytes = bytes
        .get(..header.size)
        .ok_or(err(4, "a size within the memory it lies in"))?;
    let structure = block(
        bytes,
        header.structure,
        8,
        "a structure block within the tree",
    )?;
    let strings = block(bytes, header.strings, 12, "a strings block within the tree")?;
    if !strings.is_ascii() {
        return Err(err(header.strings.0, "property names in ASCII"));
    }
    if strings.last().is_some_and(|&last| last != 0) {
        return Err(err(
            header.strings.0 + strings.len(),
            "a NUL after the last property name",
        ));
    }
    let reservations = reservations(bytes, header.reservations)?;
    let mut walk = Walk {
        block: structure,
        words: structure.as_chunks().0,
        strings,
        at: 0,
        open: [0; MAX_DEPTH],
        depth: 0,
        notes: Vec::new(),
        copy,
        copied: 0,
    };
    walk.run()
        .map_err(|e| err(header.structure.0.saturating_add(e.offset), e.expected))?;
    let Walk { notes, copied, .. } = walk;
    let tree = if copied == 0 {
        bytes
    } else {
        copy.extend_from_slice(structure.get(copied..).unwrap_or_default());
        finish_copy(copy, bytes, strings);
        copy
    };
    let fdt = Fdt::new(tree).map_err(|_| err(0, "a header"))?;
    Ok(Checked {
        fdt,
        notes,
        reservations,
        size: header.size,
    })
}

fn err(offset: usize, expected: &'static str) -> FdtError {
    FdtError { offset, expected }
}

/// The big-endian word at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|w| u32::from_be_bytes(*w))
}

fn block<'a>(
    bytes: &'a [u8],
    (start, size): (usize, usize),
    field: usize,
    expected: &'static str,
) -> Result<&'a [u8], FdtError> {
    start
        .checked_add(size)
        .and_then(|end| bytes.get(start..end))
        .ok_or(err(field, expected))
}

struct Header {
    size: usize,
    structure: (usize, usize),
    strings: (usize, usize),
    reservations: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, FdtError> {
        let field = |at| {
            word(bytes, at)
                .map(|w| w as usize)
                .ok_or(err(at, "a header of 40 bytes"))
        };
        if field(0)? != MAGIC as usize {
            return Err(err(0, "the magic number d0 0d fe ed"));
        }
        if field(36).is_err() || field(4)? < HEADER {
            return Err(err(4, "a size of at least 40 bytes"));
        }
        if field(4)? > MAX_SIZE {
            return Err(err(4, "a size of at most 64 MiB"));
        }
        if field(20)? < 17 || field(24)? > 17 {
            return Err(err(20, "format version 17 or one compatible with it"));
        }
        let header = Self {
            size: field(4)?,
            structure: (field(8)?, field(36)?),
            strings: (field(12)?, field(32)?),
            reservations: field(16)?,
        };
        if !header.structure.0.is_multiple_of(4) {
            return Err(err(8, "a structure block aligned to 4 bytes"));
        }
        if !header.reservations.is_multiple_of(8) {
            return Err(err(16, "a memory reservation block aligned to 8 bytes"));
        }
        Ok(header)
    }
}

fn reservations(bytes: &[u8], mut at: usize) -> Result<Vec<Range>, FdtError> {
    let mut found = Vec::new();
    loop {
        let entry: &[u8; 16] = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(err(
            at,
            "a memory reservation block that ends in a zero entry",
        ))?;
        let entry = u128::from_be_bytes(*entry);
        if entry == 0 {
            return Ok(found);
        }
        found.push(Range {
            start: Pa((entry >> 64) as u64),
            size: entry as u64,
        });
        at += 16;
    }
}

/// The walk over the structure block; offsets count from the block's start.
struct Walk<'a, 'c> {
    block: &'a [u8],
    /// The same by words.
    words: &'a [[u8; 4]],
    strings: &'a [u8],
    at: usize,
    /// Indices of the nodes that are open, outermost first.
    open: [u16; MAX_DEPTH],
    depth: usize,
    notes: Vec<Note<'a>>,
    /// A header's room and the block without its NOPs, if there are any: `fdt` does not know them.
    copy: &'c mut Vec<u8>,
    /// Bytes of the block that have been copied, or left out.
    copied: usize,
}

impl Walk<'_, '_> {
    /// The word at `at`, a multiple of 4.
    fn word(&self, at: usize) -> Option<u32> {
        self.words.get(at / 4).map(|word| u32::from_be_bytes(*word))
    }

    fn run(&mut self) -> Result<(), FdtError> {
        let mut properties = false;
        loop {
            let token = self.word(self.at).ok_or(err(self.at, "another token"))?;
            let here = self.at;
            self.at += 4;
            match token {
                BEGIN_NODE if self.depth > 0 || self.notes.is_empty() => {
                    self.begin()?;
                    properties = true;
                }
                PROP if properties => self.property()?,
                PROP => {
                    return Err(err(
                        here,
                        "no property outside a node or after a child node",
                    ));
                }
                END_NODE if self.depth > 0 => {
                    self.depth -= 1;
                    properties = false;
                }
                NOP => self.leave_out(here),
                END if self.depth == 0 && !self.notes.is_empty() => return Ok(()),
                _ if self.depth > 0 => {
                    return Err(err(here, "a node, a property or the node's end"));
                }
                _ => return Err(err(here, "one root node, then the end of the tree")),
            }
        }
    }

    fn begin(&mut self) -> Result<(), FdtError> {
        let name = self.block.get(self.at..).unwrap_or_default();
        let end = name.iter().position(|&b| !(1..0x80).contains(&b));
        let length = end
            .filter(|&end| name.get(end) == Some(&0))
            .ok_or(err(self.at, "a node name in ASCII, ended by a NUL"))?;
        let parent = self
            .depth
            .checked_sub(1)
            .and_then(|up| self.open.get(up))
            .copied()
            .unwrap_or(0);
        let slot = self
            .open
            .get_mut(self.depth)
            .ok_or(err(self.at, "nodes nested at most 32 deep"))?;
        if self.notes.len() == MAX_NODES {
            return Err(err(self.at, "at most 8192 nodes"));
        }
        *slot = self.notes.len() as u16;
        self.depth += 1;
        self.notes.push(Note {
            parent,
            address_cells: None,
            size_cells: None,
            disabled: false,
            spare: false,
            compatible: &[],
        });
        self.skip(length + 1);
        Ok(())
    }

    fn property(&mut self) -> Result<(), FdtError> {
        let words = self.words.get(self.at / 4..);
        let Some(&[length, name]) = words.and_then(<[_]>::first_chunk) else {
            return Err(err(self.at, "a property's length and name"));
        };
        let (length, name) = (u32::from_be_bytes(length), u32::from_be_bytes(name));
        let name = self.strings.get(name as usize..);
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or(err(self.at + 4, "a name within the strings block"))?;
        let value = self
            .block
            .get(self.at + 8..)
            .and_then(|rest| rest.get(..length as usize));
        let value = value.ok_or(err(self.at, "a value within the structure block"))?;
        let Some(note) = self.notes.last_mut() else {
            return Ok(());
        };
        let cells = |value| {
            word(value, 0)
                .filter(|_| value.len() == 4)
                .map(|cells| cells.min(255) as u8)
        };
        match name.first() {
            Some(b'c') if name.starts_with(b"compatible\0") => note.compatible = value,
            Some(b'#') if name.starts_with(b"#address-cells\0") => {
                let cells = cells(value).ok_or(err(self.at + 8, "one cell in #address-cells"))?;
                note.address_cells = Some(cells);
            }
            Some(b'#') if name.starts_with(b"#size-cells\0") => {
                let cells = cells(value).ok_or(err(self.at + 8, "one cell in #size-cells"))?;
                note.size_cells = Some(cells);
            }
            Some(b's') if name.starts_with(b"status\0") => {
                note.disabled = !matches!(value, b"okay\0" | b"ok\0");
            }
            Some(b'x') if name.starts_with(b"xen,passthrough\0") => note.spare = true,
            _ => {}
        }
        self.at += 8;
        self.skip(length as usize);
        Ok(())
    }

    /// Copies the block as far as the NOP at `nop`.
    fn leave_out(&mut self, nop: usize) {
        if self.copy.is_empty() {
            let most = HEADER + self.block.len() + self.strings.len();
            self.copy.reserve_exact(most);
            self.copy.resize(HEADER, 0);
        }
        let piece = self.block.get(self.copied..nop);
        self.copy.extend_from_slice(piece.unwrap_or_default());
        self.copied = nop + 4;
    }

    /// Skips `bytes` that are known to be there, and the padding, which the next token finds missing
    /// if it is.
    fn skip(&mut self, bytes: usize) {
        self.at = (self.at + bytes + 3) & !3;
    }
}

/// Makes a tree of the room for a header and a structure block: fills in the former, appends the names of
/// properties. The memory reservation block, read already, is left out.
fn finish_copy(copy: &mut Vec<u8>, bytes: &[u8], strings: &[u8]) {
    let end = copy.len();
    copy.extend_from_slice(strings);
    let (header, _) = copy.as_chunks_mut::<4>();
    let (whole, _) = bytes.as_chunks::<4>();
    for (to, from) in header.iter_mut().zip(whole).take(HEADER / 4) {
        *to = *from;
    }
    let fields = [
        (1, end + strings.len()),
        (2, HEADER),
        (3, end),
        (9, end - HEADER),
    ];
    for (nth, value) in fields {
        if let Some(field) = header.get_mut(nth) {
            *field = (value as u32).to_be_bytes();
        }
    }
}
