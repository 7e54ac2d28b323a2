//! What a VM has written to a bank of its flash: RAM of the machine's, taken as it is needed, that the guest does not
//! see. It lasts as long as the VM.

use crate::addr::Ipa;
use crate::flash::{BANK, BLOCK, Cells};
use crate::mem::Ram;

/// Bytes that are taken at once.
const PIECE: u64 = 64 << 10;
/// The most of a bank that is kept, bytes: room for the variables of any firmware.
const MOST: u64 = 1 << 20;
const BLOCKS: usize = (BANK / BLOCK) as usize;

/// The bytes of a bank. Those that never were written are zeroes, as QEMU's without an image, or all ones once
/// erased.
#[derive(Default, Debug)]
pub struct Kept {
    /// By offset.
    ram: Ram,
    /// The blocks that have been erased, a bit each.
    erased: [u32; BLOCKS / 32],
}

impl Kept {
    /// What stands where nothing is kept, a byte.
    fn blank(&self, offset: u32) -> u8 {
        let (word, bit) = Self::bit(offset);
        if self.erased[word] & bit != 0 {
            0xff
        } else {
            0
        }
    }

    const fn bit(offset: u32) -> (usize, u32) {
        let block = (offset / BLOCK) as usize % BLOCKS;
        (block / 32, 1 << (block % 32))
    }

    /// Takes room for the piece at `offset`; whether there is any.
    fn take(&mut self, offset: u32) -> bool {
        let start = Ipa(u64::from(offset) / PIECE * PIECE);
        let fits = self.ram.size() < MOST && self.ram.add(start, PIECE).is_ok();
        fits && self.fill(start, self.blank(offset))
    }

    /// Fills the piece at `start`; whether it is kept.
    fn fill(&mut self, start: Ipa, byte: u8) -> bool {
        let bytes = [byte; 256];
        let mut parts = (0..PIECE).step_by(bytes.len());
        parts.all(|at| self.ram.write(Ipa(start.0 + at), &bytes).is_ok())
    }
}

impl Cells for Kept {
    fn load(&self, offset: u32, width: u32) -> u32 {
        let kept = self.ram.load_word(Ipa(offset.into()), width);
        let blank = u32::from(self.blank(offset)) * 0x0101_0101;
        kept.unwrap_or(blank >> (32u32.wrapping_sub(width * 8) & 31))
    }

    fn program(&mut self, offset: u32, width: u32, value: u32) -> bool {
        let at = Ipa(offset.into());
        if self.ram.find(at).is_err() && !self.take(offset) {
            return false;
        }
        let left = self.load(offset, width) & value;
        self.ram.store_word(at, width, left).is_ok()
    }

    fn erase(&mut self, offset: u32) {
        let (word, bit) = Self::bit(offset);
        self.erased[word] |= bit;
        let start = u64::from(offset / BLOCK * BLOCK);
        for piece in (start..start + u64::from(BLOCK)).step_by(PIECE as usize) {
            self.fill(Ipa(piece), 0xff);
        }
    }
}
