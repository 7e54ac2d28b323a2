//! DEFLATE (RFC 1951), bit by bit.
//!
//! A library for it takes a thirtieth of the image, this a sixth of that; a kernel packed by gzip is unpacked in some
//! 100 instructions for each byte, once a start. What is not checked here, the checksum of the whole tells.

use super::{ImageError, damaged, truncated};
use alloc::vec;
use alloc::vec::Vec;

/// How far back a match may lie, bytes: the window, which is handed on whenever it is full.
const WINDOW: usize = 32 << 10;

/// Why unpacking ends before the stream does.
pub(super) enum End {
    /// As much as was wanted has been handed on.
    Enough,
    /// Something is wrong.
    Wrong(ImageError),
}

impl From<ImageError> for End {
    fn from(why: ImageError) -> Self {
        Self::Wrong(why)
    }
}

/// A byte of the stream; `None` at its end.
pub(super) type Input<'a> = &'a mut dyn FnMut() -> Result<Option<u8>, ImageError>;
/// Takes a piece of what comes out, and the offset of its first byte; whether it takes more.
pub(super) type Output<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<bool, ImageError>;

/// A stream that is being unpacked.
pub(super) struct Inflate<'a> {
    input: Input<'a>,
    output: Output<'a>,
    /// Bits that have been read and not used, the first lowest, and how many.
    bits: u32,
    count: u32,
    /// Zero bits among them that were never there.
    missing: u32,
    window: Vec<u8>,
    /// Bytes that have come out.
    done: u64,
}

/// A canonical code (3.2.2): how many symbols have a code of each length, and all symbols by their codes.
struct Code {
    counts: [u16; 16],
    symbols: [u16; 288],
}

impl Code {
    /// The code in which symbol n has `lengths[n]` bits, or none where that is 0.
    fn new(lengths: &[u8]) -> Self {
        let (mut counts, mut symbols) = ([0; 16], [0; 288]);
        let mut place = 0;
        for length in 1..16 {
            for (symbol, _) in (0..).zip(lengths).filter(|&(_, &own)| own == length) {
                if let Some(next) = symbols.get_mut(place) {
                    *next = symbol;
                }
                place += 1;
                counts[usize::from(length & 15)] += 1;
            }
        }
        Self { counts, symbols }
    }
}

impl<'a> Inflate<'a> {
    pub(super) fn new(input: Input<'a>, output: Output<'a>) -> Self {
        Self {
            input,
            output,
            bits: 0,
            count: 0,
            missing: 0,
            window: vec![0; WINDOW],
            done: 0,
        }
    }

    /// Unpacks the stream (3.2.3).
    pub(super) fn run(&mut self) -> Result<(), End> {
        loop {
            let last = self.take(1)? != 0;
            match self.take(2)? {
                0 => self.stored()?,
                1 => {
                    let mut lengths = [8; 288];
                    lengths[144..256].fill(9);
                    lengths[256..280].fill(7);
                    self.block(&Code::new(&lengths), &Code::new(&[5; 30]))?;
                }
                2 => self.described()?,
                _ => return Err(damaged().into()),
            }
            if last {
                return self.hand_on(self.done as usize % WINDOW);
            }
        }
    }

    /// Has at least 17 bits, if there are as many.
    fn fill(&mut self) -> Result<(), End> {
        while self.count < 17 {
            match (self.input)()? {
                Some(byte) => self.bits |= u32::from(byte) << self.count,
                None => self.missing += 8,
            }
            self.count += 8;
        }
        Ok(())
    }

    fn drop(&mut self, count: u32) -> Result<(), End> {
        self.bits >>= count;
        self.count -= count;
        if self.count < self.missing {
            return Err(truncated().into());
        }
        Ok(())
    }

    /// The next `count` bits, at most 16.
    fn take(&mut self, count: u32) -> Result<u32, End> {
        self.fill()?;
        let bits = self.bits & !(u32::MAX << count);
        self.drop(count)?;
        Ok(bits)
    }

    /// The next symbol of `code`, whose bits come the highest first.
    fn symbol(&mut self, code: &Code) -> Result<u32, End> {
        self.fill()?;
        let (mut bits, mut own, mut first, mut place) = (self.bits, 0, 0, 0);
        for (length, &count) in (0..).zip(&code.counts).skip(1) {
            own |= bits & 1;
            bits >>= 1;
            let count = u32::from(count);
            if own < first + count {
                self.drop(length)?;
                let symbol = code.symbols.get((place + own - first) as usize);
                return symbol.map_or_else(|| Err(damaged().into()), |&symbol| Ok(symbol.into()));
            }
            place += count;
            first = (first + count) << 1;
            own <<= 1;
        }
        Err(damaged().into())
    }

    fn put(&mut self, byte: u8) -> Result<(), End> {
        if let Some(place) = self.window.get_mut(self.done as usize % WINDOW) {
            *place = byte;
        }
        self.done += 1;
        if (self.done as usize).is_multiple_of(WINDOW) {
            self.hand_on(WINDOW)?;
        }
        Ok(())
    }

    /// Hands on the `size` bytes that have not been.
    fn hand_on(&mut self, size: usize) -> Result<(), End> {
        let piece = self.window.get(..size).unwrap_or_default();
        match (self.output)(self.done - size as u64, piece)? {
            true => Ok(()),
            false => Err(End::Enough),
        }
    }

    /// A block that is not packed (3.2.4).
    fn stored(&mut self) -> Result<(), End> {
        self.drop(self.count % 8)?;
        let size = self.take(16)?;
        if self.take(16)? != size ^ 0xffff {
            return Err(damaged().into());
        }
        for _ in 0..size {
            let byte = self.take(8)? as u8;
            self.put(byte)?;
        }
        Ok(())
    }

    /// A block that describes its codes (3.2.7).
    fn described(&mut self) -> Result<(), End> {
        const ORDER: [u8; 19] = [
            16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
        ];
        let literals = self.take(5)? as usize + 257;
        let all = literals + self.take(5)? as usize + 1;
        let described = self.take(4)? as usize + 4;
        let mut lengths = [0; 19];
        for &symbol in ORDER.iter().take(described) {
            lengths[usize::from(symbol)] = self.take(3)? as u8;
        }
        let code = Code::new(&lengths);
        let mut lengths = [0; 288 + 32];
        let (mut at, mut last) = (0, 0);
        while at < all {
            let (length, times) = match self.symbol(&code)? {
                16 => (last, 3 + self.take(2)?),
                17 => (0, 3 + self.take(3)?),
                18 => (0, 11 + self.take(7)?),
                length => (length as u8, 1),
            };
            last = length;
            for _ in 0..times {
                let place = lengths.get_mut(at).filter(|_| at < all);
                *place.ok_or_else(damaged)? = length;
                at += 1;
            }
        }
        let (literals, distances) = lengths.split_at(literals);
        let distances = distances.get(..all - literals.len()).unwrap_or_default();
        self.block(&Code::new(literals), &Code::new(distances))
    }

    /// A block of these codes (3.2.5).
    fn block(&mut self, literals: &Code, distances: &Code) -> Result<(), End> {
        loop {
            let symbol = self.symbol(literals)?;
            let length = match symbol {
                0..256 => {
                    self.put(symbol as u8)?;
                    continue;
                }
                256 => return Ok(()),
                257..265 => symbol - 254,
                285 => 258,
                286.. => return Err(damaged().into()),
                _ => {
                    let more = (symbol - 261) / 4;
                    3 + ((4 + (symbol - 257) % 4) << more) + self.take(more)?
                }
            };
            let symbol = self.symbol(distances)?;
            let distance = match symbol {
                0..4 => 1 + symbol,
                30.. => return Err(damaged().into()),
                _ => {
                    let more = symbol / 2 - 1;
                    1 + ((2 + symbol % 2) << more) + self.take(more)?
                }
            };
            if u64::from(distance) > self.done {
                return Err(damaged().into());
            }
            for _ in 0..length {
                let from = (self.done as usize).wrapping_sub(distance as usize) % WINDOW;
                let byte = self.window.get(from).copied().unwrap_or_default();
                self.put(byte)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes out of `packed`.
    fn unpacked(packed: &[u8]) -> Result<Vec<u8>, ImageError> {
        let mut bytes = packed.iter();
        let mut all = Vec::new();
        let mut next = || Ok(bytes.next().copied());
        let mut each = |offset, piece: &[u8]| {
            assert_eq!(offset, all.len() as u64);
            all.extend_from_slice(piece);
            Ok(all.len() < 4 << 20)
        };
        match Inflate::new(&mut next, &mut each).run() {
            Ok(()) | Err(End::Enough) => Ok(all),
            Err(End::Wrong(why)) => Err(why),
        }
    }

    /// Bytes that repeat themselves near and far, and those that don't.
    fn contents() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3000),
            (any::<u8>(), 0..40_000usize).prop_map(|(byte, times)| vec![byte; times]),
            (prop::collection::vec(0..4u8, 1..300), 1..60usize)
                .prop_map(|(some, times)| some.repeat(times)),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn what_was_packed_comes_out(contents in contents(), level in 0..10u8) {
            let packed = miniz_oxide::deflate::compress_to_vec(&contents, level);
            prop_assert_eq!(unpacked(&packed).ok(), Some(contents));
        }

        #[test]
        fn a_stream_that_is_cut_or_damaged_ends(contents in contents(), level in 0..10u8, at: prop::sample::Index, bit in 0..8u8, cut: bool) {
            let mut packed = miniz_oxide::deflate::compress_to_vec(&contents, level);
            let at = at.index(packed.len());
            if cut {
                packed.truncate(at);
                prop_assert!(unpacked(&packed).is_err());
            } else {
                packed[at] ^= 1u8 << bit;
                let _ = unpacked(&packed);
            }
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = unpacked(&bytes);
        }
    }

    #[test]
    fn codes_that_do_not_depend_on_the_stream_are_known() {
        // An empty block of these codes, and one that holds "a" and three more of it.
        assert_eq!(unpacked(&[3, 0]).ok(), Some(vec![]));
        let packed = [0x4b, 0x84, 1, 0];
        let library = miniz_oxide::inflate::decompress_to_vec(&packed).ok();
        assert_eq!(unpacked(&packed).ok(), library);
    }

    #[test]
    fn whole_windows_come_once() {
        for size in [WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW] {
            let contents: Vec<u8> = (0..size).map(|n| ((n * n) >> 7) as u8).collect();
            let packed = miniz_oxide::deflate::compress_to_vec(&contents, 9);
            assert_eq!(unpacked(&packed).ok(), Some(contents));
        }
    }
}
