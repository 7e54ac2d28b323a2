//! A bank of NOR flash, as QEMU's `virt` machine has two: firmware keeps its variables there, and UEFI does not
//! start without.
//!
//! Two chips of 16 bits stand side by side, so that a word has each command and each answer twice. They take Intel's
//! command set (JEDEC JEP137, 0001h) and answer the common flash interface's query (JESD68.01). What is programmed or
//! erased is so at once: status always says ready.

/// Bytes of a bank, a power of two.
pub const BANK: u32 = 0x0400_0000;
/// Bytes that are erased together, a power of two.
pub const BLOCK: u32 = 0x4_0000;

/// Where the bytes of a bank are. Offsets are below [`BANK`], widths 1, 2 or 4.
pub trait Cells {
    /// The `width` bytes at `offset`.
    fn load(&self, offset: u32, width: u32) -> u32;
    /// Clears those bits of the `width` bytes at `offset` that `value` has clear; whether it could.
    fn program(&mut self, offset: u32, width: u32, value: u32) -> bool;
    /// Sets all bits of the block of `offset`.
    fn erase(&mut self, offset: u32);
}

/// What loads find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shows {
    Array,
    Status,
    Id,
    Query,
}

/// What the next store is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expects {
    Command,
    /// Whether a block is erased.
    Erase,
    /// What a block's lock is to be: nothing is locked.
    Lock,
    /// What is programmed.
    Word,
    /// The number of words less one that are programmed.
    Count,
    /// One of them, and so many after it.
    Words(u32),
    /// That these were all.
    End,
}

// Commands.
const PROGRAM: u8 = 0x40;
const PROGRAM_TOO: u8 = 0x10;
const PROGRAM_BUFFER: u8 = 0xe8;
const ERASE: u8 = 0x20;
const CONFIRM: u8 = 0xd0;
const LOCK: u8 = 0x60;
const CLEAR_STATUS: u8 = 0x50;
const READ_STATUS: u8 = 0x70;
const READ_ID: u8 = 0x90;
const READ_QUERY: u8 = 0x98;
const READ_ARRAY: u8 = 0xff;

/// Status: ready; a block has not been erased; a word has not been programmed.
const READY: u8 = 0x80;
const NOT_ERASED: u8 = 0x20;
const NOT_PROGRAMMED: u8 = 0x10;

/// Manufacturer and device, as QEMU has them.
const ID: [u8; 2] = [0x89, 0x18];

/// What the query finds from place 0x10 on (JESD68.01, 4.3), for each chip.
const QUERY: &[u8] = &[
    b'Q', b'R', b'Y', 1, 0, 0x31, 0, 0, 0, 0, 0, // command set, and where more is of it
    0x45, 0x55, 0, 0, // volts: 4.5 to 5.5, none to program
    7, 7, 10, 0, 4, 4, 4,
    0, // times: 128 us for a word or a buffer, 1 s for a block; at most 16 times that
    25, 2, 0, 11, 0, // 32 MiB, of 8 or 16 bits, with a buffer of 2 KiB
    1, 255, 0, 0, 2, // one region: 256 blocks of 128 KiB
    b'P', b'R', b'I', b'1', b'0',
];

/// A bank of flash.
#[derive(Debug)]
pub struct Flash<C> {
    cells: C,
    shows: Shows,
    expects: Expects,
    status: u8,
}

impl<C: Default> Default for Flash<C> {
    fn default() -> Self {
        Self {
            cells: C::default(),
            shows: Shows::Array,
            expects: Expects::Command,
            status: READY,
        }
    }
}

impl<C: Cells> Flash<C> {
    /// What a load of `width` bytes, 1, 2 or 4, at `offset` finds. Bits of the offset above the bank's do not count.
    #[must_use]
    pub fn read(&self, offset: u32, width: u32) -> u32 {
        let offset = offset % BANK;
        let place = offset as usize >> 2;
        let answer = match self.shows {
            Shows::Array => return self.cells.load(offset, width),
            Shows::Status => Some(&self.status),
            Shows::Id => ID.get(place % 64),
            Shows::Query => place.checked_sub(0x10).and_then(|n| QUERY.get(n)),
        };
        let word = u32::from(*answer.unwrap_or(&0)) * 0x0001_0001;
        word >> (offset % 4 * 8) & u32::MAX >> (32u32.wrapping_sub(width * 8) & 31)
    }

    /// A store of `value`, `width` bytes, 1, 2 or 4, at `offset`.
    pub fn write(&mut self, offset: u32, width: u32, value: u32) {
        let offset = offset % BANK;
        let command = value as u8;
        match core::mem::replace(&mut self.expects, Expects::Command) {
            Expects::Command => self.command(command),
            Expects::Word => self.program(offset, width, value),
            Expects::Count => self.expects = Expects::Words(value & 0xffff),
            Expects::Words(left) => {
                self.program(offset, width, value);
                self.expects = left.checked_sub(1).map_or(Expects::End, Expects::Words);
            }
            Expects::Lock => {}
            Expects::Erase if command == CONFIRM => self.cells.erase(offset),
            Expects::End if command == CONFIRM => {}
            Expects::Erase | Expects::End if command == READ_ARRAY => self.shows = Shows::Array,
            // No such sequence.
            Expects::Erase | Expects::End => self.status |= NOT_ERASED | NOT_PROGRAMMED,
        }
    }

    fn command(&mut self, command: u8) {
        let (shows, expects) = match command {
            PROGRAM | PROGRAM_TOO => (Shows::Status, Expects::Word),
            PROGRAM_BUFFER => (Shows::Status, Expects::Count),
            ERASE => (Shows::Status, Expects::Erase),
            LOCK => (Shows::Status, Expects::Lock),
            READ_STATUS => (Shows::Status, Expects::Command),
            READ_ID => (Shows::Id, Expects::Command),
            READ_QUERY => (Shows::Query, Expects::Command),
            CLEAR_STATUS => {
                self.status = READY;
                return;
            }
            // One that there is not, too, as other makers' reset.
            _ => (Shows::Array, Expects::Command),
        };
        (self.shows, self.expects) = (shows, expects);
    }

    fn program(&mut self, offset: u32, width: u32, value: u32) {
        if !self.cells.program(offset, width, value) {
            self.status |= NOT_PROGRAMMED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Bytes that have been written, and whether there is room for more.
    #[derive(Default)]
    struct Few(BTreeMap<u32, u8>, bool);

    impl Cells for Few {
        fn load(&self, offset: u32, width: u32) -> u32 {
            let byte = |n| self.0.get(&(offset + n)).copied().unwrap_or(0);
            (0..width).fold(0, |word, n| word | u32::from(byte(n)) << (8 * n))
        }
        fn program(&mut self, offset: u32, width: u32, value: u32) -> bool {
            let word = self.load(offset, width) & value;
            let bytes = word.to_le_bytes().into_iter().take(width as usize);
            self.0.extend((offset..).zip(bytes));
            !self.1
        }
        fn erase(&mut self, offset: u32) {
            let start = offset / BLOCK * BLOCK;
            self.0.extend((start..start + BLOCK).map(|at| (at, 0xff)));
        }
    }

    fn stores(flash: &mut Flash<Few>, stores: &[(u32, u32)]) {
        for &(offset, value) in stores {
            flash.write(offset, 4, value);
        }
    }

    #[test]
    fn a_word_is_programmed_after_its_block_was_erased_and_only_clears_bits() {
        let mut flash = Flash::<Few>::default();
        let at = 3 * BLOCK + 0x120;
        stores(&mut flash, &[(at, 0x0020_0020), (at, 0x00d0_00d0)]);
        assert_eq!(flash.read(at, 4), 0x0080_0080, "status");
        stores(&mut flash, &[(0, 0x00ff_00ff)]);
        assert_eq!((flash.read(at, 4), flash.read(at - 0x121, 1)), (!0, 0));
        stores(&mut flash, &[(at, 0x40), (at, 0x1234_5678)]);
        assert_eq!(flash.read(at, 2), 0x80);
        stores(&mut flash, &[(0, 0xff)]);
        assert_eq!(flash.read(at, 4), 0x1234_5678);
        assert_eq!(
            (flash.read(at + 1, 1), flash.read(at + 2, 2)),
            (0x56, 0x1234)
        );
        stores(&mut flash, &[(at, 0x10), (at, 0xff00_ff00), (at, 0xff)]);
        assert_eq!(flash.read(at, 4), 0x1200_5600);
        // A byte alone.
        flash.write(at + 5, 1, 0x40);
        flash.write(at + 5, 1, 0x7e);
        flash.write(at, 1, 0xff);
        assert_eq!(flash.read(at + 4, 4), 0xffff_7eff);
    }

    #[test]
    fn a_buffer_of_words_is_programmed_whatever_they_look_like() {
        let mut flash = Flash::<Few>::default();
        let words = [(0, 0x20), (0, 0xd0), (0, 0x00e8_00e8), (0, 0x0002_0002)];
        stores(&mut flash, &words);
        stores(&mut flash, &[(0, 0xffff_ffff), (4, 0x0020_0020), (8, 0xd0)]);
        stores(&mut flash, &[(0, 0x00d0_00d0)]);
        assert_eq!(flash.read(0, 4), 0x0080_0080);
        stores(&mut flash, &[(0, 0xff)]);
        assert_eq!(
            [0, 4, 8, 12].map(|at| flash.read(at, 4)),
            [!0, 0x0020_0020, 0xd0, !0]
        );
    }

    #[test]
    fn the_query_and_the_id_are_those_of_two_chips() {
        let mut flash = Flash::<Few>::default();
        flash.write(0x154, 4, 0x0098_0098);
        let letters = [0x40, 0x44, 0x48].map(|at| flash.read(at, 4));
        assert_eq!(letters, [0x0051_0051, 0x0052_0052, 0x0059_0059]);
        let of = |n: u32| flash.read(4 * n, 1);
        assert_eq!(2 << of(0x27), u64::from(BANK), "two chips");
        assert_eq!(of(0x2c), 1, "one region");
        let blocks = of(0x2d) | of(0x2e) << 8;
        let size = (of(0x2f) | of(0x30) << 8) * 256 * 2;
        assert_eq!(((blocks + 1) * size, size), (BANK, BLOCK));
        let table = of(0x15);
        assert_eq!([0, 1, 2].map(|n| of(table + n) as u8), *b"PRI");
        assert_eq!((of(0x0f), of(0x200)), (0, 0));
        flash.write(0, 2, 0x90);
        assert_eq!(
            [0, 4, 8].map(|at| flash.read(at, 4)),
            [0x0089_0089, 0x0018_0018, 0]
        );
    }

    #[test]
    fn what_cant_be_done_stands_in_the_status_until_it_is_cleared() {
        let mut flash = Flash::<Few>::default();
        flash.cells.1 = true;
        stores(&mut flash, &[(0, 0x40), (0, 0)]);
        assert_eq!(flash.read(0, 4), 0x0090_0090);
        stores(&mut flash, &[(0, 0x50), (0, 0x70)]);
        assert_eq!(flash.read(0, 4), 0x0080_0080);
        stores(&mut flash, &[(0, 0x20), (0, 0x12)]);
        assert_eq!(flash.read(0, 4), 0x00b0_00b0, "no confirmation");
        stores(&mut flash, &[(0, 0x50), (0, 0x60), (0, 0xd0), (0, 0x70)]);
        assert_eq!(flash.read(0, 4), 0x0080_0080, "unlocked");
        stores(&mut flash, &[(0, 0x20), (0, 0xff)]);
        assert_eq!(flash.read(0, 4), 0, "not erased");
    }
}
