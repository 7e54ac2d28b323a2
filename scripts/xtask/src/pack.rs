//! Packs the image for `src/arch/unpack.s`, which has some four instructions for each byte and no unaligned access.
//!
//! LZ4 saves a quarter of Thumb code, this format of halfwords three tenths: code repeats single halfwords and pairs of
//! them, at even distances, and of many only the last four bits, a register or an offset, are new. Huffman's codes would
//! save a third, but take more instructions than the whole way to the guest.
//!
//! Little-endian: three words, the bytes of the output, of the flags and of the raw halfwords; the dictionary of
//! `WORDS` halfwords and `STEMS` whose low four bits are zero; the flags; the raw halfwords; the codes. An item is a
//! flag, from the highest bit of a word down, and what it announces. Below an item's last flag in a word is a one, then
//! zeroes.
//!
//! | flag, code           | item                                                                                      |
//! |----------------------|-------------------------------------------------------------------------------------------|
//! | 0                    | the next raw halfword                                                                      |
//! | 1, c < 110           | halfword c of the dictionary                                                               |
//! | 1, c < 208, (b)      | the same with its low four bits from b: its low half, then at the next such code its high  |
//! | 1, 208 + 8 l + h, b  | l + 2 halfwords from a distance of 256 h + b + 1 halfwords                                 |
//! | 1, 240 + l           | l + 1 halfwords from the distance of the match before                                      |
//! | 1, 248 + l, b, b     | l + 2 halfwords from a distance of b b + 1; l = 7: a byte more of length before the distance |

use std::collections::HashMap;

use anyhow::ensure;

/// Halfwords with a code of their own.
const WORDS: usize = 110;
/// Halfwords but for the low four bits that have one.
const STEMS: usize = 98;
const DICTIONARY: usize = WORDS + STEMS;
/// Codes of near matches.
const NEAR: usize = 32;
/// Codes of matches at the distance of the one before; the greatest length of these.
const AGAIN: usize = 8;
const FAR: usize = DICTIONARY + NEAR + AGAIN;
/// The greatest length and distance of a near match, in halfwords.
const NEAR_LENGTH: usize = NEAR / 8 + 1;
const NEAR_DISTANCE: usize = 8 * 256;
/// The greatest length and distance of any match.
const LENGTH: usize = SHORT + 255;
const DISTANCE: usize = 1 << 16;
/// The first length with a byte of its own.
const SHORT: usize = 255 - FAR + 2;
/// Flags in a word, beside the one that ends it.
const FLAGS: usize = 31;
/// Candidates that are looked at for a match, the nearest first.
const CANDIDATES: usize = 1000;
/// Rounds of choosing the items by the dictionary and the dictionary by the items.
const ROUNDS: usize = 4;

/// What the output consists of.
#[derive(Clone, Copy, Debug)]
enum Item {
    /// One halfword as it is, or by the dictionary.
    Single,
    /// So many halfwords from so many before.
    Match { length: usize, distance: usize },
    /// The same, where the match before had this distance, too.
    Again { length: usize },
}

/// Packs `image`, whose size is even.
pub fn pack(image: &[u8]) -> anyhow::Result<Vec<u8>> {
    ensure!(image.len().is_multiple_of(2), "an odd number of bytes");
    let halfwords: Vec<u16> = image
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let matches = matches(&halfwords);
    let mut dictionary = dictionary(halfwords.iter().copied());
    let mut items = choose(&halfwords, &matches, &dictionary);
    for _ in 1..ROUNDS {
        dictionary = self::dictionary(singles(&halfwords, &items));
        items = choose(&halfwords, &matches, &dictionary);
    }
    Ok(write(&halfwords, &items, &dictionary))
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

/// The most frequent halfwords, then what the most frequent of the others have in their upper 12 bits; the same for the
/// same input.
fn dictionary(halfwords: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut counts = HashMap::<u16, usize>::new();
    for halfword in halfwords {
        *counts.entry(halfword).or_default() += 1;
    }
    let mut dictionary = most_frequent(&counts, WORDS);
    let mut stems = HashMap::<u16, usize>::new();
    for word in &dictionary {
        counts.remove(word);
    }
    for (halfword, count) in counts {
        *stems.entry(halfword & !15).or_default() += count;
    }
    dictionary.extend(most_frequent(&stems, STEMS));
    dictionary
}

fn most_frequent(counts: &HashMap<u16, usize>, most: usize) -> Vec<u16> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_unstable_by_key(|&(halfword, count)| (usize::MAX - count, halfword));
    let mut halfwords: Vec<u16> = counts.into_iter().map(|(&halfword, _)| halfword).collect();
    halfwords.resize(most, 0);
    halfwords
}

/// The code of each halfword that has one.
fn codes(dictionary: &[u16]) -> Vec<Option<usize>> {
    let mut codes = vec![None; 1 << 16];
    let (words, stems) = dictionary.split_at(WORDS);
    for (code, &stem) in stems.iter().enumerate() {
        codes[usize::from(stem)..][..16].fill(Some(WORDS + code));
    }
    for (code, &word) in words.iter().enumerate() {
        codes[usize::from(word)] = Some(code);
    }
    codes
}

fn singles(halfwords: &[u16], items: &[Item]) -> impl Iterator<Item = u16> {
    let mut place = 0;
    items.iter().filter_map(move |item| match *item {
        Item::Single => {
            place += 1;
            Some(halfwords[place - 1])
        }
        Item::Match { length, .. } | Item::Again { length } => {
            place += length;
            None
        }
    })
}

/// The items of the fewest bits.
fn choose(halfwords: &[u16], matches: &[Vec<(usize, usize)>], dictionary: &[u16]) -> Vec<Item> {
    let codes = codes(dictionary);
    // By the place behind it: the bits up to there, the item that ends there, and the distance of the last match.
    let mut best = vec![(usize::MAX, Item::Single, 0); halfwords.len() + 1];
    best[0].0 = 0;
    for (place, &halfword) in halfwords.iter().enumerate() {
        let (bits, _, last) = best[place];
        let bits = bits + 1;
        let mut reach = |length: usize, bits: usize, item: Item, last: usize| {
            if bits < best[place + length].0 {
                best[place + length] = (bits, item, last);
            }
        };
        let single = match codes[usize::from(halfword)] {
            Some(..WORDS) => 8,
            Some(_) => 12,
            None => 16,
        };
        reach(1, bits + single, Item::Single, last);
        if last > 0 {
            let same = halfwords[place..].iter().zip(&halfwords[place - last..]);
            let same = same.take(AGAIN).take_while(|(a, b)| a == b).count();
            for length in 1..=same {
                reach(length, bits + 8, Item::Again { length }, last);
            }
        }
        let mut shortest = 2;
        for &(longest, distance) in &matches[place] {
            for length in shortest..=longest {
                let cost = match (length, distance) {
                    (..=NEAR_LENGTH, ..=NEAR_DISTANCE) => 16,
                    (..SHORT, _) => 24,
                    _ => 32,
                };
                let item = Item::Match { length, distance };
                reach(length, bits + cost, item, distance);
            }
            shortest = longest + 1;
        }
    }
    let mut items = Vec::new();
    let mut place = halfwords.len();
    while place > 0 {
        let item = best[place].1;
        place -= match item {
            Item::Single => 1,
            Item::Match { length, .. } | Item::Again { length } => length,
        };
        items.push(item);
    }
    items.reverse();
    items
}

fn write(halfwords: &[u16], items: &[Item], dictionary: &[u16]) -> Vec<u8> {
    let code_of_word = self::codes(dictionary);
    let (mut flags, mut raw, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    let mut place = 0;
    // Where the last byte of low bits is, if its high half is free.
    let mut half = None;
    for items in items.chunks(FLAGS) {
        let mut word = 0u32;
        for (bit, item) in (0..32).rev().zip(items) {
            word |= 1 << bit;
            match *item {
                Item::Single => {
                    let halfword = halfwords[place];
                    place += 1;
                    match code_of_word[usize::from(halfword)] {
                        Some(code) => {
                            codes.push(code as u8);
                            let low = (halfword & 15) as u8;
                            if code >= WORDS {
                                match half.take() {
                                    Some(at) => codes[at] |= low << 4,
                                    None => {
                                        half = Some(codes.len());
                                        codes.push(low);
                                    }
                                }
                            }
                        }
                        None => {
                            word &= !(1 << bit);
                            raw.extend(halfword.to_le_bytes());
                        }
                    }
                }
                Item::Match { length, distance } => {
                    place += length;
                    let bytes = code_of(length, distance - 1);
                    codes.extend(bytes.iter().map(|&byte| byte as u8));
                }
                Item::Again { length } => {
                    place += length;
                    codes.push((DICTIONARY + NEAR + length - 1) as u8);
                }
            }
        }
        flags.extend((word | 1 << (31 - items.len())).to_le_bytes());
    }
    let mut packed = Vec::new();
    for size in [2 * halfwords.len(), flags.len(), raw.len()] {
        packed.extend((size as u32).to_le_bytes());
    }
    packed.extend(
        dictionary
            .iter()
            .flat_map(|halfword| halfword.to_le_bytes()),
    );
    packed.extend([flags, raw, codes].concat());
    packed
}

/// The bytes of a match; `back` is its distance less one.
fn code_of(length: usize, back: usize) -> Vec<usize> {
    if length <= NEAR_LENGTH && back < NEAR_DISTANCE {
        vec![DICTIONARY + 8 * (length - 2) + back / 256, back % 256]
    } else if length < SHORT {
        vec![FAR + length - 2, back % 256, back / 256]
    } else {
        vec![255, length - SHORT, back % 256, back / 256]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `unpack.s` does, with every access checked.
    fn unpack(packed: &[u8]) -> Vec<u8> {
        let word = |at: usize| u32::from_le_bytes(packed[at..at + 4].try_into().unwrap()) as usize;
        let dictionary = 12;
        let flags = dictionary + 416;
        let mut raw = flags + word(4);
        let codes = raw + word(8);
        let mut code = packed[codes..].iter().map(|&byte| usize::from(byte));
        let mut next = || code.next().unwrap();
        let mut out = Vec::new();
        let (mut back, mut half) = (0, None);
        for at in (flags..raw).step_by(4) {
            let mut left = word(at) as u32;
            while left != 1 << 31 {
                if left >> 31 == 0 {
                    out.extend(&packed[raw..raw + 2]);
                    raw += 2;
                } else {
                    let code = next();
                    let length = match code {
                        c @ ..208 => {
                            out.extend(&packed[dictionary + 2 * c..][..2]);
                            0
                        }
                        c @ ..240 => {
                            back = (c - 208) % 8 * 256 + next();
                            (c - 208) / 8 + 2
                        }
                        c @ ..248 => c - 240 + 1,
                        c => {
                            let more = if c == 255 { next() } else { 0 };
                            back = next() + 256 * next();
                            c - 248 + 2 + more
                        }
                    };
                    if (110..208).contains(&code) {
                        let low = half.take().unwrap_or_else(|| {
                            let byte = next();
                            half = Some(byte >> 4);
                            byte & 15
                        });
                        let at = out.len() - 2;
                        out[at] |= low as u8;
                    }
                    for _ in 0..2 * length {
                        out.push(out[out.len() - 2 * (back + 1)]);
                    }
                }
                left <<= 1;
            }
        }
        assert_eq!(raw, codes);
        assert_eq!(code.next(), None);
        assert_eq!(out.len(), word(0));
        out
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
            noise(31, 65536),
            noise(32, 65536),
            noise(5000, 3),
            noise(9000, 40),
            noise(9000, 65536),
            vec![0; 6],
            vec![7; 100_000],
        ] {
            assert_eq!(unpack(&pack(&image).unwrap()), image, "{}", image.len());
        }
    }

    #[test]
    fn matches_of_every_length_and_distance_come_through() {
        let block = noise(600, 65536);
        for length in 1..=600 {
            let image = [
                &block[..],
                &block[..2 * length],
                &noise(2100, 65000),
                &block,
            ]
            .concat();
            assert_eq!(unpack(&pack(&image).unwrap()), image, "{length}");
        }
        for apart in [NEAR_DISTANCE, DISTANCE] {
            for between in apart - 605..apart + 5 {
                if between % 97 < 95 && !(apart - 4..apart + 5).contains(&(between + 600)) {
                    continue;
                }
                let image = [&block[..], &noise(between, 60000), &block].concat();
                assert_eq!(unpack(&pack(&image).unwrap()), image, "{between}");
            }
        }
    }

    #[test]
    fn repetition_and_frequent_halfwords_take_fewer_bytes() {
        assert!(pack(&vec![0; 10_000]).unwrap().len() < 600);
        assert!(pack(&noise(10_000, 100)).unwrap().len() < 12_000);
    }

    #[test]
    fn an_odd_number_of_bytes_is_refused() {
        assert!(pack(&[1, 2, 3]).is_err());
    }
}
