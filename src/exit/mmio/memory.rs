//! The guest's memory, as its instructions reach it.
//!
//! Addresses are translated by the guest's own tables, in software. The core would do it too
//! (ATS1CPR and kin, PAR kept), and with HCR.VM and HCR.PTW even safely: stage 2 holds for the
//! reads of the walk, and a table outside the guest's RAM is told in PAR. But in Hyp PAR has the
//! long format, in which QEMU 7.2 can't say that a domain refused: it ends at an assertion, and
//! takes all VMs with it, whenever a guest wishes. What is left are guests with long descriptors,
//! or with no domain that refuses; and even there no operation asks for the right to execute, or
//! says who has refused the guest what. So there is one way for all, and a guest of tests compares
//! it with the core's.

use crate::addr::Ipa;
use crate::decode::Instruction;
use crate::loader::Memory;
use crate::machine::Live;
use crate::mem::{NotRam, Reader};
use crate::regs::Regs;
use crate::stage2::Leaf;
use crate::syndrome::{FaultStatus, thumb_length};
use crate::walk::{self, Access, Fault, Format, Kind, Refused, Translation};

/// The guest's tables, read from its RAM alone.
struct Tables<'a> {
    memory: &'a Memory,
    /// Who refuses an entry elsewhere: the bus, as the guest sees it, or stage 2.
    by_stage_2: bool,
}

impl Tables<'_> {
    #[cold]
    fn refused(&self, ipa: Ipa) -> Refused {
        if !self.by_stage_2 {
            return Refused::External;
        }
        let space = &self.memory.space;
        let level = space.level(ipa);
        Refused::Stage2(match space.lookup(ipa) {
            // A device's: HCR.PTW.
            Leaf::Ram { .. } => FaultStatus::Permission { level },
            _ => FaultStatus::Translation { level },
        })
    }
}

impl walk::Memory for Tables<'_> {
    fn read32(&mut self, ipa: Ipa) -> Result<u32, Refused> {
        read(self.memory, ipa, 4).map_err(|NotRam(_)| self.refused(ipa))
    }

    fn read64(&mut self, ipa: Ipa) -> Result<u64, Refused> {
        settle(self.memory, ipa, 8);
        let entry = self.memory.ram.load_double(ipa);
        entry.map_err(|NotRam(_)| self.refused(ipa))
    }
}

/// Translates `va` as the vCPU that is live would now.
///
/// # Errors
/// The fault that it would take.
pub(super) fn translate(memory: &Memory, va: u32, access: Access) -> Result<Translation, Fault> {
    stage1(memory, va, access, false)
}

fn stage1(
    memory: &Memory,
    va: u32,
    access: Access,
    by_stage_2: bool,
) -> Result<Translation, Fault> {
    let mut tables = Tables { memory, by_stage_2 };
    walk::translate(&Live::stage1(), &mut tables, va, access)
}

/// PAR after ATS1CPR (0), ATS1CPW, ATS1CUR, ATS1CUW, ATS12NSOPR, ATS12NSOPW, ATS12NSOUR or ATS12NSOUW
/// (7) of `va` by the vCPU that is live (ARM DDI 0406C, B4.1.112, B4.2.4); PAR itself stays as it is.
/// The address is the guest's own kind, that of stage 1, after both stages too.
pub(in crate::exit) fn par(memory: &Memory, va: u32, operation: u32) -> u64 {
    let access = Access {
        kind: if operation & 1 == 0 {
            Kind::Read
        } else {
            Kind::Write
        },
        privileged: operation & 2 == 0,
    };
    let both = operation & 4 != 0;
    let mut found = stage1(memory, va, access, both);
    // With HCR.VM both stages give the long format.
    let mut format = Live::stage1().format();
    if both {
        let space = &memory.space;
        found = found
            .and_then(|one| one.through(space.lookup(one.ipa), space.level(one.ipa), access.kind));
        format = Format::Long;
    }
    match found {
        Ok(translation) => translation.par(format),
        Err(fault) => fault.par(format),
    }
}

/// A guest that reaches memory past the caches must be met there: what they hold of `size` bytes
/// at `ipa` goes to memory, and is forgotten.
#[inline(always)]
fn settle(memory: &Memory, ipa: Ipa, size: u32) {
    if !Live::cached() {
        memory.ram.clean(ipa, size.into());
    }
}

/// Reads `size` bytes, 1, 2 or 4, at `ipa`, aligned to that.
pub(super) fn read(memory: &Memory, ipa: Ipa, size: u32) -> Result<u32, NotRam> {
    settle(memory, ipa, size);
    memory.ram.load_word(ipa, size)
}

/// Writes `size` bytes, 1, 2 or 4, at `ipa`, aligned to that.
pub(super) fn write(memory: &mut Memory, ipa: Ipa, size: u32, value: u32) -> Result<(), NotRam> {
    settle(memory, ipa, size);
    memory.ram.store_word(ipa, size, value)?;
    settle(memory, ipa, size);
    Ok(())
}

/// The instruction at the guest's pc; `None` where it can't be fetched now, since another vCPU has
/// changed the tables.
pub(super) fn fetch(memory: &Memory, regs: &Regs) -> Option<Instruction> {
    if !regs.thumb() {
        return fetch_word(memory, regs, regs.pc).map(Instruction::A32);
    }
    // The halves may lie in different pages.
    let half = |va| Some(fetch_word(memory, regs, va)? >> (8 * (va & 2)) & 0xffff);
    let first = half(regs.pc)?;
    if thumb_length(first as u16) == 2 {
        return Some(Instruction::T16(first as u16));
    }
    let second = half(regs.pc.wrapping_add(2))?;
    Some(Instruction::T32(first << 16 | second))
}

/// The word that holds the instruction at `va`, or half of it.
#[inline(never)]
pub(super) fn fetch_word(memory: &Memory, regs: &Regs, va: u32) -> Option<u32> {
    match fetch_near(memory, regs, va) {
        None => fetch_far(memory, regs, va),
        word => word,
    }
}

/// The same for a guest whose caches are on, by a short walk, with one window for that and the word.
#[inline(always)]
fn fetch_near(memory: &Memory, regs: &Regs, va: u32) -> Option<u32> {
    let stage1 = Live::stage1_of_code();
    memory.ram.read_near(|reader| {
        let ipa = walk::instruction(&stage1, &mut Near(reader), va, regs.privileged())?;
        reader.load(ipa, 4).ok()
    })
}

#[inline(never)]
fn fetch_far(memory: &Memory, regs: &Regs, va: u32) -> Option<u32> {
    let access = Access {
        kind: Kind::Execute,
        privileged: regs.privileged(),
    };
    let ipa = translate(memory, va, access).ok()?.ipa;
    read(memory, ipa.align_down(4), 4).ok()
}

/// Tables that lie near each other, in the caches.
struct Near<'a, 'b>(&'a mut Reader<'b>);

impl walk::Memory for Near<'_, '_> {
    #[inline(always)]
    fn read32(&mut self, ipa: Ipa) -> Result<u32, Refused> {
        self.0.load(ipa, 4).map_err(|_| Refused::External)
    }

    fn read64(&mut self, _: Ipa) -> Result<u64, Refused> {
        Err(Refused::External)
    }
}
