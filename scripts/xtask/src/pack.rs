//! Packs the image for `src/arch/unpack.s`, which has some five instructions for each byte and no unaligned access.
//!
//! An LZ format of halfwords with Huffman's codes, since Thumb code repeats single halfwords and pairs of them, at even
//! distances. The rarest fifth of the halfwords has no code: each stands as it is behind a zero bit, which takes hardly
//! more than its bytes' entropy, 15 bits, and half the instructions of a code. A call is told by its target, which
//! repeats, not by the distance, and MOVW and MOVT of one register by the address that they make. Of what costs much
//! the same number of bits the items of fewer instructions are chosen.
//!
//! An image of 207,360 bytes takes 129,733 so, and 4.6 instructions a byte; LZMA behind a filter for Thumb's calls takes
//! 116,225, gzip's best are 136,882. By bytes for codes and a flag before each it was 6 % more and 0.2 instructions less.
//! What did not pay: codes that depend on the halfword before (more to tell of them than they save), codes for a
//! halfword's two bytes (3 % for half as many instructions more), symbols of two halfwords or more (0.4 %).
//!
//! Little-endian: two words, the bytes of the output and those of the halfwords; the halfwords; the bytes. What is
//! needed is taken from these two as the items come: a raw halfword; then code bits, the highest of a halfword first, two
//! halfwords at the beginning of a block and another as soon as a code leaves no more than 16; then what the item has
//! beside its code.
//!
//! The bytes begin with the targets of calls, in halfwords. Then come blocks, each with codes of its own: for each length
//! from 2 to 13 the symbols with codes of this length, first the others, then the halfwords, then the block's items. Such
//! a list is the count, then each number less the one before, all of them in bytes of seven bits, the highest first, 128
//! added to all but the last. Huffman's codes are the canonical ones in this order; that of length 1, a zero bit, stands
//! for a raw halfword.
//!
//! | symbol              | beside its code | item                                                           |
//! |---------------------|-----------------|----------------------------------------------------------------|
//! | halfword h          |                 | h                                                              |
//! | 256 s + d           | a byte b        | 12 - s halfwords from a distance of 256 d + b                  |
//! | 32768 + 16 s + 8 t  | a halfword h    | the same from 65536 t + h                                      |
//! | 32768 + 8 s + 1     |                 | the same from the distance of the match before                 |
//! | 32768 + 8 t + 2     | h, then b       | 13 + b halfwords from 65536 t + h                              |
//! | 32768 + 8 i + 3     | a byte b        | BL to target 256 i + b                                         |
//! | 32768 + 8 r + 4     | a halfword h    | MOVW of h and MOVT; r is the latter's second halfword          |
//! | 32768 + 5           |                 | none: the end of the block                                     |

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::Range;

use anyhow::ensure;

/// The greatest length of a match that its symbol tells, in halfwords.
const SHORT: usize = 12;
/// The greatest length and distance of any match.
const LENGTH: usize = SHORT + 256;
const DISTANCE: usize = (1 << 17) - 1;

/// Added to a symbol that is no halfword.
const SPECIAL: usize = 1 << 16;
const FAR: usize = SPECIAL | 0x8000;
const AGAIN: usize = FAR | 1;
const LONG: usize = FAR | 2;
const CALL: usize = FAR | 3;
const ADDRESS: usize = FAR | 4;
const END: usize = FAR | 5;
const SYMBOLS: usize = 2 * SPECIAL;

/// The most targets that the unpacker has a place for.
const TARGETS: usize = 2048;
/// The longest code, and the most symbols.
const LONGEST: usize = 13;
const MOST: usize = 1 << (LONGEST - 2);
/// The fewest halfwords for which codes of their own are worth it.
const BLOCK: usize = 4096;
/// Candidates that are looked at for a match, the nearest first.
const CANDIDATES: usize = 1000;
/// Rounds of choosing the items by the codes and the codes by the items.
const ROUNDS: usize = 12;
/// Instructions that a bit is worth: 8 instead make the image 400 bytes smaller and take 11,000 instructions more, 1 makes
/// it 1,900 larger and takes 40,000 less.
const BIT: usize = 3;
/// Bits that a symbol costs: that the unpacker is told of it, and that others' codes are longer for it.
const TOLD: usize = 22;

/// A piece of the output.
#[derive(Clone, Copy, Debug)]
struct Item {
    /// What stands for it; nothing for a raw halfword.
    symbol: Option<usize>,
    /// The halfwords that it makes.
    length: usize,
    /// A match's distance, or which target a call has.
    from: usize,
}

/// Packs `image`, whose size is even; from each of `starts` on, ascending, it has contents of another kind.
pub fn pack(image: &[u8], starts: &[usize]) -> anyhow::Result<Vec<u8>> {
    let even = |size: &usize| size.is_multiple_of(2);
    ensure!(
        even(&image.len()) && starts.iter().all(even),
        "an odd number of bytes"
    );
    let halfwords = image.chunks_exact(2);
    let input = Input::new(
        halfwords
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect(),
    );
    let mut streams = Streams::default();
    streams.ascending(&input.targets);
    let all = input.halfwords.len();
    let starts = starts.iter().map(|start| start / 2);
    let worth_it = starts.filter(|&start| start >= BLOCK && start + BLOCK <= all);
    let mut start = 0;
    for end in worth_it.chain([all]) {
        write(&mut streams, &input, start..end);
        start = end;
    }
    let mut packed = Vec::new();
    for size in [image.len(), 2 * streams.halfwords.len()] {
        packed.extend((size as u32).to_le_bytes());
    }
    let halfwords = streams.halfwords.iter();
    packed.extend(halfwords.flat_map(|halfword| halfword.to_le_bytes()));
    packed.extend(streams.bytes);
    Ok(packed)
}

/// The items of a block and the lengths of its codes.
fn best(input: &Input, block: &Range<usize>) -> (Vec<Item>, Vec<usize>) {
    let mut lengths = guess(&input.halfwords[block.clone()]);
    let mut items = choose(input, block, &lengths);
    for round in 1..ROUNDS {
        let mut counts = count(&items);
        drop_rare(&mut counts, &lengths, round);
        lengths = self::lengths(&counts);
        items = choose(input, block, &lengths);
    }
    (items, lengths)
}

/// What is packed, and what is known of it from the beginning.
struct Input {
    halfwords: Vec<u16>,
    /// For each place the matches that begin there: the nearest of each length.
    matches: Vec<Vec<(usize, usize)>>,
    /// Targets of more calls than one, in halfwords.
    targets: Vec<usize>,
    /// For each place which of these the call there has.
    calls: Vec<Option<usize>>,
}

impl Input {
    fn new(halfwords: Vec<u16>) -> Self {
        let target = |place| target(&halfwords, place);
        let mut counts = BTreeMap::<usize, usize>::new();
        for target in (0..halfwords.len()).filter_map(target) {
            *counts.entry(target).or_default() += 1;
        }
        counts.retain(|_, count| *count > 1);
        let targets: Vec<usize> = counts.into_keys().take(TARGETS).collect();
        let call = |place| targets.binary_search(&target(place)?).ok();
        Self {
            calls: (0..halfwords.len()).map(call).collect(),
            matches: matches(&halfwords),
            targets,
            halfwords,
        }
    }

    /// The low half of the address that MOVW and MOVT make here, and the latter's second halfword, if no upper bits of
    /// the address are in its first.
    fn address(&self, place: usize) -> Option<(u16, usize)> {
        let &[first, second, upper, register] = self.halfwords.get(place..place + 4)? else {
            return None;
        };
        let same = first & 0xfbf0 == 0xf240
            && second & 0x8f00 == register & 0x8f00
            && upper == 0xf2c0
            && register & 0xf000 == 0;
        let low = first << 12 | (first & 0x0400) << 1 | (second & 0x7000) >> 4 | second & 0x00ff;
        same.then_some((low, register.into()))
    }
}

/// Where the BL at `place` goes.
fn target(halfwords: &[u16], place: usize) -> Option<usize> {
    let (&first, &second) = (halfwords.get(place)?, halfwords.get(place + 1)?);
    // Within 4 MiB the sign and the two bits below it are equal: J1 and J2 are ones.
    if first & 0xf800 != 0xf000 || second & 0xf800 != 0xf800 {
        return None;
    }
    let distance = i32::from(first & 0x07ff) << 21 >> 10 | i32::from(second & 0x07ff);
    let target = place + 2;
    let target = target.checked_add_signed(distance as isize)?;
    (target < halfwords.len()).then_some(target)
}

/// For each place the matches that begin there: the nearest of each length.
fn matches(halfwords: &[u16]) -> Vec<Vec<(usize, usize)>> {
    let mut last = HashMap::new();
    let mut before = vec![None; halfwords.len()];
    let mut all = vec![Vec::new(); halfwords.len()];
    for (place, pair) in halfwords.windows(2).enumerate() {
        before[place] = last.insert([pair[0], pair[1]], place);
        let mut longest = 1;
        let earlier = std::iter::successors(before[place], |&earlier| before[earlier]);
        for earlier in earlier.take(CANDIDATES) {
            if longest == LENGTH || place - earlier > DISTANCE {
                break;
            }
            let length = halfwords[place..]
                .iter()
                .zip(&halfwords[earlier..])
                .take(LENGTH)
                .take_while(|(a, b)| a == b)
                .count();
            if length > longest {
                longest = length;
                all[place].push((length, place - earlier));
            }
        }
    }
    all
}

/// What the codes' lengths may be: to begin with, everything has one but what is certainly rare, near matches that are
/// far.
fn guess(halfwords: &[u16]) -> Vec<usize> {
    let mut counts = vec![0; SPECIAL];
    for &halfword in halfwords {
        counts[usize::from(halfword)] += 1;
    }
    let mut lengths: Vec<usize> = counts
        .into_iter()
        .map(|count| match count {
            0..3 => 0,
            _ => 2 + (halfwords.len() / count).ilog2() as usize,
        })
        .collect();
    lengths.extend((0..SPECIAL).map(|symbol| match symbol {
        ..0x8000 if symbol % 256 >= 64 => 0,
        _ => 9,
    }));
    lengths
}

/// How often each symbol stands.
fn count(items: &[Item]) -> Vec<usize> {
    let mut counts = vec![0; SYMBOLS];
    for symbol in items.iter().filter_map(|item| item.symbol) {
        counts[symbol] += 1;
    }
    counts
}

/// Takes symbols out that cost more bits to tell of than their uses save over a raw halfword or a far match, and those
/// beyond the most; fewer in the first rounds, whose codes are no good measure yet.
fn drop_rare(counts: &mut [usize], lengths: &[usize], round: usize) {
    let saved = |symbol: usize| match symbol {
        0..SPECIAL => 17_usize.saturating_sub(lengths[symbol]),
        SPECIAL..FAR => 8,
        _ => TOLD,
    };
    let mut kept: Vec<_> = (0..SYMBOLS)
        .map(|symbol| (counts[symbol] * saved(symbol), symbol))
        .filter(|&(bits, _)| 4 * bits >= TOLD * round.min(4))
        .collect();
    kept.sort_unstable_by_key(|&(bits, symbol)| (Reverse(bits), symbol));
    kept.truncate(MOST);
    let old = counts.to_vec();
    counts.fill(0);
    for (_, symbol) in kept {
        counts[symbol] = old[symbol];
    }
}

/// The lengths of the codes by Huffman, with the one bit before each.
fn lengths(counts: &[usize]) -> Vec<usize> {
    let mut counts = counts.to_vec();
    counts[END] = counts[END].max(1);
    loop {
        let lengths = unlimited(&counts);
        if lengths.iter().all(|&length| length <= LONGEST) {
            return lengths;
        }
        for count in &mut counts {
            *count = count.div_ceil(2);
        }
    }
}

/// The same, however long.
fn unlimited(counts: &[usize]) -> Vec<usize> {
    let mut lengths: Vec<usize> = counts.iter().map(|&count| count.min(1)).collect();
    let counts = counts.iter().enumerate().filter(|&(_, &count)| count > 0);
    let mut trees: BinaryHeap<_> = counts
        .map(|(symbol, &count)| Reverse((count, vec![symbol])))
        .collect();
    while let Some(Reverse((count, mut tree))) = trees.pop() {
        let Some(Reverse((other, more))) = trees.pop() else {
            // The only one has a bit, too.
            lengths[tree[0]] = lengths[tree[0]].max(2);
            break;
        };
        tree.extend(more);
        for &symbol in &tree {
            lengths[symbol] += 1;
        }
        trees.push(Reverse((count + other, tree)));
    }
    lengths
}

fn is_match(symbol: usize) -> bool {
    (SPECIAL..FAR).contains(&symbol)
        || matches!(FAR | symbol & 7, FAR | AGAIN | LONG) && symbol >= FAR
}

/// The items of the lowest price.
fn choose(input: &Input, block: &Range<usize>, lengths: &[usize]) -> Vec<Item> {
    let halfwords = &input.halfwords[..block.end];
    let none = Item {
        symbol: None,
        length: 1,
        from: 0,
    };
    // By the place behind it: the price up to there, the item that ends there, and the last match's distance.
    let mut best = vec![(usize::MAX, none, 0); halfwords.len() + 1];
    best[block.start].0 = 0;
    for place in block.clone() {
        let (paid, _, last) = best[place];
        let mut reach = |symbol: usize, length: usize, from, beside, instructions: usize| {
            let price = paid + BIT * (lengths[symbol] + beside) + instructions;
            let end = place + length;
            if lengths[symbol] > 0 && end < best.len() && price < best[end].0 {
                let again = if is_match(symbol) { from } else { last };
                let symbol = Some(symbol);
                best[end] = (
                    price,
                    Item {
                        symbol,
                        length,
                        from,
                    },
                    again,
                );
            }
        };
        reach(halfwords[place].into(), 1, 0, 0, 9);
        if let Some(target) = input.calls[place] {
            reach(CALL | target >> 8 << 3, 2, target, 8, 26);
        }
        if let Some((_, register)) = input.address(place) {
            reach(ADDRESS | register << 3, 4, 0, 16, 34);
        }
        if last > 0 {
            let same = halfwords[place..].iter().zip(&halfwords[place - last..]);
            let same = same.take(SHORT).take_while(|(a, b)| a == b).count();
            for length in 1..=same {
                reach(
                    AGAIN | (SHORT - length) << 3,
                    length,
                    last,
                    0,
                    17 + 2 * length,
                );
            }
        }
        let mut shortest = 2;
        for &(longest, distance) in &input.matches[place] {
            let top = distance >> 16;
            for length in shortest..=longest.min(SHORT) {
                let skip = SHORT - length;
                if top == 0 {
                    let near = SPECIAL | skip << 8 | distance >> 8;
                    reach(near, length, distance, 8, 15 + 2 * length);
                }
                reach(
                    FAR | skip << 4 | top << 3,
                    length,
                    distance,
                    16,
                    20 + 2 * length,
                );
            }
            for length in shortest.max(SHORT + 1)..=longest {
                reach(LONG | top << 3, length, distance, 24, 4 * length);
            }
            shortest = longest + 1;
        }
        let raw = paid + BIT * 17 + 6;
        if raw < best[place + 1].0 {
            best[place + 1] = (raw, none, last);
        }
    }
    let mut items = vec![Item {
        symbol: Some(END),
        length: 0,
        from: 0,
    }];
    let mut place = block.end;
    while place > block.start {
        let item = best[place].1;
        place -= item.length;
        items.push(item);
    }
    items.reverse();
    items
}

/// The two streams, filled in the order in which the unpacker takes from them.
#[derive(Default)]
struct Streams {
    halfwords: Vec<u16>,
    bytes: Vec<u8>,
    /// Where the block's code bits are among the halfwords, and how many there are.
    places: Vec<usize>,
    bits: usize,
}

impl Streams {
    fn begin(&mut self) {
        self.places.clear();
        self.bits = 0;
        self.more_bits();
        self.more_bits();
    }

    fn more_bits(&mut self) {
        self.places.push(self.halfwords.len());
        self.halfwords.push(0);
    }

    /// A code: the lower `length` bits.
    fn code(&mut self, code: usize, length: usize) {
        for bit in (0..length).rev() {
            let place = self.places[self.bits / 16];
            self.halfwords[place] |= (code as u16 >> bit & 1) << (15 - self.bits % 16);
            self.bits += 1;
        }
        if 16 * self.places.len() - self.bits <= 16 {
            self.more_bits();
        }
    }

    fn number(&mut self, number: usize) {
        for shift in (1..3).rev().map(|group| 7 * group) {
            if number >> shift > 0 {
                self.bytes.push((number >> shift) as u8 | 0x80);
            }
        }
        self.bytes.push((number & 0x7f) as u8);
    }

    /// How many there are, and each less the one before.
    fn ascending(&mut self, numbers: &[usize]) {
        self.number(numbers.len());
        let mut before = 0;
        for &number in numbers {
            self.number(number - before);
            before = number;
        }
    }
}

fn write(streams: &mut Streams, input: &Input, block: Range<usize>) {
    let (items, lengths) = best(input, &block);
    let mut codes = vec![0; SYMBOLS];
    let mut code = 1;
    for length in 2..=LONGEST {
        code *= 2;
        for range in [SPECIAL..SYMBOLS, 0..SPECIAL] {
            let start = range.start;
            let symbols: Vec<usize> = range.filter(|&symbol| lengths[symbol] == length).collect();
            for &symbol in &symbols {
                codes[symbol] = code;
                code += 1;
            }
            let numbers: Vec<usize> = symbols.iter().map(|symbol| symbol - start).collect();
            streams.ascending(&numbers);
        }
    }
    streams.begin();
    let mut place = block.start;
    for item in &items {
        match item.symbol {
            None => {
                streams.halfwords.push(input.halfwords[place]);
                streams.code(0, 1);
            }
            Some(symbol) => {
                streams.code(codes[symbol], lengths[symbol]);
                beside(streams, input, place, symbol, item);
            }
        }
        place += item.length;
    }
}

/// What `item` has beside its code.
fn beside(streams: &mut Streams, input: &Input, place: usize, symbol: usize, item: &Item) {
    if symbol < SPECIAL {
        return;
    }
    if symbol < FAR {
        return streams.bytes.push(item.from as u8);
    }
    match FAR | symbol & 7 {
        FAR => streams.halfwords.push(item.from as u16),
        LONG => {
            streams.halfwords.push(item.from as u16);
            streams.bytes.push((item.length - SHORT - 1) as u8);
        }
        CALL => streams.bytes.push(item.from as u8),
        ADDRESS => streams
            .halfwords
            .extend(input.address(place).map(|(low, _)| low)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `unpack.s` does, with every access checked.
    struct Unpacker<'a> {
        halfwords: std::slice::ChunksExact<'a, u8>,
        bytes: std::slice::Iter<'a, u8>,
        out: Vec<u16>,
    }

    impl Unpacker<'_> {
        fn halfword(&mut self) -> usize {
            let bytes = self.halfwords.next().unwrap();
            u16::from_le_bytes([bytes[0], bytes[1]]).into()
        }

        fn byte(&mut self) -> usize {
            (*self.bytes.next().unwrap()).into()
        }

        fn number(&mut self) -> usize {
            let mut number = 0;
            loop {
                let byte = self.byte();
                number = number << 7 | byte & 0x7f;
                if byte < 0x80 {
                    return number;
                }
            }
        }

        fn ascending(&mut self) -> Vec<usize> {
            let count = self.number();
            let mut last = 0;
            let next = |_| {
                last += self.number();
                last
            };
            (0..count).map(next).collect()
        }

        fn copy(&mut self, length: usize, distance: usize) {
            for _ in 0..length {
                self.out.push(self.out[self.out.len() - distance]);
            }
        }

        fn block(&mut self, targets: &[usize]) {
            let mut table = Vec::new();
            for length in 2..=13 {
                for special in [true, false] {
                    for symbol in self.ascending() {
                        let entry = (symbol as u16, special, length);
                        table.resize(table.len() + (1 << (13 - length)), entry);
                    }
                }
            }
            assert!(table.len() <= 4096);
            let mut buffer = self.halfword() << 16 | self.halfword();
            let mut bits = 32;
            let mut distance = 0;
            loop {
                let (symbol, special, length) = if buffer >> 31 == 0 {
                    (self.halfword() as u16, false, 1)
                } else {
                    table[(buffer >> 19) - 4096]
                };
                buffer = buffer << length & 0xffff_ffff;
                bits -= length;
                if bits <= 16 {
                    buffer |= self.halfword() << (16 - bits);
                    bits += 16;
                }
                if !special {
                    self.out.push(symbol);
                    continue;
                }
                let symbol = usize::from(symbol);
                if symbol < 0x8000 {
                    distance = symbol % 256 * 256 + self.byte();
                    self.copy(12 - symbol / 256, distance);
                    continue;
                }
                let more = symbol % 0x8000 / 8;
                match symbol % 8 {
                    0 => {
                        distance = more % 2 * 65536 + self.halfword();
                        self.copy(12 - more / 2, distance);
                    }
                    1 => self.copy(12 - more, distance),
                    2 => {
                        distance = more * 65536 + self.halfword();
                        let length = 13 + self.byte();
                        self.copy(length, distance);
                    }
                    3 => {
                        let target = targets[more * 256 + self.byte()];
                        let apart = target.wrapping_sub(self.out.len() + 2);
                        self.out.push(0xf000 | (apart >> 11 & 0x7ff) as u16);
                        self.out.push(0xf800 | (apart & 0x7ff) as u16);
                    }
                    4 => {
                        let low = self.halfword();
                        let first = 0xf240 | low >> 12 | (low & 0x0800) >> 1;
                        let second = (low & 0x0700) << 4 | more & 0x0f00 | low & 0x00ff;
                        for halfword in [first, second, 0xf2c0, more] {
                            self.out.push(halfword as u16);
                        }
                    }
                    _ => break,
                }
            }
        }
    }

    fn unpack(packed: &[u8]) -> Vec<u8> {
        let word = |at: usize| u32::from_le_bytes(packed[at..at + 4].try_into().unwrap()) as usize;
        let (halfwords, bytes) = packed[8..].split_at(word(4));
        let mut from = Unpacker {
            halfwords: halfwords.chunks_exact(2),
            bytes: bytes.iter(),
            out: Vec::new(),
        };
        let targets = from.ascending();
        loop {
            from.block(&targets);
            if 2 * from.out.len() >= word(0) {
                break;
            }
        }
        assert_eq!(from.halfwords.next(), None);
        assert_eq!(from.bytes.next(), None);
        assert_eq!(2 * from.out.len(), word(0));
        let out = from.out.iter();
        out.flat_map(|halfword| halfword.to_le_bytes()).collect()
    }

    /// Halfwords below `kinds`, from the middle of a linear congruential generator.
    fn noise(count: usize, kinds: u32) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 12) % kinds) as u16
        };
        (0..count).flat_map(|_| next().to_le_bytes()).collect()
    }

    #[test]
    fn what_is_packed_unpacks_to_itself() {
        for image in [
            vec![],
            noise(1, 9),
            noise(30, 65536),
            noise(5000, 3),
            noise(9000, 40),
            noise(9000, 65536),
            noise(60_000, 9000),
            vec![0; 6],
            vec![7; 100_000],
        ] {
            assert_eq!(
                unpack(&pack(&image, &[]).unwrap()),
                image,
                "{}",
                image.len()
            );
        }
    }

    #[test]
    fn matches_of_every_length_come_through() {
        let block = noise(300, 65536);
        let apart = noise(1000, 65000);
        let pieces =
            (1..=300).map(|length| [&block[..2 * length], &apart[6 * length..][..6]].concat());
        let image = [block.clone(), pieces.collect::<Vec<_>>().concat()].concat();
        let packed = pack(&image, &[]).unwrap();
        assert_eq!(unpack(&packed), image);
        assert!(packed.len() < 8000, "{}", packed.len());
    }

    #[test]
    fn matches_of_every_distance_come_through() {
        let block = noise(100, 65536);
        for limit in [256, 1 << 16, DISTANCE] {
            for apart in limit - 2..limit + 3 {
                let image = [&block[..], &noise(apart - 100, 60000), &block].concat();
                assert_eq!(unpack(&pack(&image, &[]).unwrap()), image, "{apart}");
            }
        }
    }

    #[test]
    fn matches_go_on_behind_a_change() {
        let block = noise(400, 65536);
        let mut changed = block.clone();
        for byte in changed.iter_mut().step_by(14) {
            *byte ^= 1;
        }
        for between in [300, 40_000, 70_000] {
            let image = [&block[..], &noise(between, 65536), &changed].concat();
            let packed = pack(&image, &[]).unwrap();
            assert_eq!(unpack(&packed), image);
            assert!(
                packed.len() < image.len() * 17 / 16 - 400,
                "{}",
                packed.len()
            );
        }
    }

    /// Halfwords of BL to each of `targets` from a place of its own, and something between.
    fn calls(targets: &[usize]) -> Vec<u8> {
        let mut halfwords = Vec::<u16>::new();
        for &target in targets {
            let apart = target.wrapping_sub(halfwords.len() + 2);
            halfwords.push(0xf000 | (apart >> 11 & 0x7ff) as u16);
            halfwords.push(0xf800 | (apart & 0x7ff) as u16);
            halfwords.push((apart % 61) as u16);
        }
        halfwords
            .iter()
            .flat_map(|halfword| halfword.to_le_bytes())
            .collect()
    }

    #[test]
    fn calls_of_few_targets_take_few_bytes_wherever_they_are() {
        let image = calls(&(0..9000).map(|n| n * n % 700 * 30).collect::<Vec<_>>());
        let packed = pack(&image, &[]).unwrap();
        assert_eq!(unpack(&packed), image);
        assert!(packed.len() < 9000 * 4, "{}", packed.len());
    }

    #[test]
    fn contents_of_another_kind_have_codes_of_their_own() {
        let one = noise(9000, 40);
        let other: Vec<u8> = noise(9000, 50).iter().map(|byte| byte ^ 0x60).collect();
        let image = [&one[..], &other, &one[..600], &other[..70]].concat();
        let packed = pack(&image, &[18_000, 36_000]).unwrap();
        assert_eq!(unpack(&packed), image);
        assert!(packed.len() + 1500 < pack(&image, &[]).unwrap().len());
    }

    #[test]
    fn addresses_of_one_register_are_told_in_one() {
        let low = noise(3000, 65536);
        let pairs = low.chunks_exact(2).enumerate().flat_map(|(n, low)| {
            let low = u16::from_le_bytes([low[0], low[1]]);
            let register = (n % 7) as u16;
            [
                0xf240 | low >> 12 | (low & 0x0800) >> 1,
                (low & 0x0700) << 4 | register << 8 | low & 0x00ff,
                0xf2c0,
                register << 8 | 0x22,
            ]
        });
        let image: Vec<u8> = pairs.flat_map(u16::to_le_bytes).collect();
        let packed = pack(&image, &[]).unwrap();
        assert_eq!(unpack(&packed), image);
        assert!(packed.len() < 3000 * 3, "{}", packed.len());
    }

    #[test]
    fn repetition_and_frequent_halfwords_take_fewer_bytes() {
        assert!(pack(&vec![0; 10_000], &[]).unwrap().len() < 300);
        assert!(pack(&noise(10_000, 100), &[]).unwrap().len() < 11_000);
    }

    #[test]
    fn an_odd_number_of_bytes_is_refused() {
        assert!(pack(&[1, 2, 3], &[]).is_err());
    }
}
