//! A device model that writes anything into its ring at any time, and answers anything: no panic, nothing but one word
//! of the page read, an answer let in for what is awaited alone, and room taken for what it claims.
#![no_main]

use armillary::ring::{ENTRIES, HEADER, Page, Request, Ring};
use libfuzzer_sys::fuzz_target;

const CONSUMED: u32 = 0x0c;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// The page, which the model changes before each look of the hypervisor's.
struct Shared<'a, 'b> {
    words: [u32; 1024],
    input: &'b mut Input<'a>,
    seen: Vec<u32>,
}

impl Page for Shared<'_, '_> {
    fn load(&mut self, offset: u32) -> u32 {
        assert_eq!(offset, CONSUMED);
        if self.input.byte() & 1 != 0 {
            let word = self.input.word();
            self.words[self.input.byte() as usize * 4 % 1024] = word;
            self.words[CONSUMED as usize / 4] = word.wrapping_add(self.words[2]);
        }
        self.seen.push(self.words[CONSUMED as usize / 4]);
        self.words[CONSUMED as usize / 4]
    }

    fn store(&mut self, offset: u32, value: u32) {
        assert!(offset == 8 || (0x40..0x40 + 16 * ENTRIES).contains(&offset) && offset % 4 == 0);
        self.words[offset as usize / 4] = value;
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut words = [0; 1024];
    words[..4].copy_from_slice(&HEADER);
    let mut ring = Ring::default();
    let mut awaited = [0u32; 8];
    let mut produced = 0u32;
    while !input.0.is_empty() {
        match input.byte() % 4 {
            0 | 1 => {
                let how = input.byte();
                let request = Request {
                    offset: input.word(),
                    width: 1 << (how % 3),
                    store: (how & 0x10 != 0).then_some(7),
                    posted: how & 0x20 != 0,
                    tag: input.word() | 8,
                };
                let mut page = Shared {
                    words,
                    input: &mut input,
                    seen: Vec::new(),
                };
                let pushed = ring.push(&mut page, request);
                let used = produced.wrapping_sub(page.seen[0]);
                assert_eq!(pushed.is_err(), used >= ENTRIES);
                assert!(page.seen.len() <= 2);
                if let Ok(pushed) = pushed {
                    produced = produced.wrapping_add(1);
                    assert_eq!(page.words[2], produced);
                    if pushed.waits {
                        awaited[request.tag as usize & 7] = request.tag;
                    }
                }
                words = page.words;
            }
            2 => {
                let tag = match input.byte() {
                    n if n & 1 != 0 => awaited[n as usize >> 1 & 7],
                    _ => input.word(),
                };
                let expected = tag != 0 && awaited[tag as usize & 7] == tag;
                assert_eq!(ring.answer(tag), expected);
                if expected {
                    awaited[tag as usize & 7] = 0;
                }
            }
            _ if input.byte() == 0 => {
                let left: Vec<u32> = ring.reset().collect();
                assert!(left.iter().eq(awaited.iter().filter(|&&tag| tag != 0)));
                (awaited, produced, words) = ([0; 8], 0, [0; 1024]);
            }
            _ => {
                let at = input.word() as usize % 1024;
                let word = input.word();
                // The hypervisor's own count is its own.
                words[at] = if at == 2 { words[2] } else { word };
            }
        }
    }
});
