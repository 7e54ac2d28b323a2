//! The decoder against two oracles that know nothing of it.
//!
//! [`encodings`] says of every word whether it is a load or store that the architecture lets
//! software rely on: the decoder must agree, in both directions. Of each one that is, Capstone says
//! what it transfers, and its text must be the decoder's, written out by [`text`]: size, sign,
//! registers, direction, addressing, writeback, alignment and lanes are all in it.
//!
//! The ordinary tests take a dense sample: every T16 halfword, and of A32 and T32 so many words of
//! each encoding, with its should-be bits flipped too, and words at random. The ignored test sweeps
//! every word there is: `cargo test --test decode_oracle -- --ignored --nocapture`, minutes.

#![expect(
    clippy::unwrap_used,
    reason = "a test that can't go on is a test that fails"
)]

mod encodings;
mod text;

use armillary::decode::{Form, Instruction, Op, Reason, decode};
use capstone::arch::arm::ArchMode;
use capstone::prelude::*;
use encodings::{Class, Table};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    A32,
    T16,
    T32,
}

impl Set {
    fn instruction(self, word: u32) -> Instruction {
        match self {
            Self::A32 => Instruction::A32(word),
            Self::T16 => Instruction::T16(word as u16),
            Self::T32 => Instruction::T32(word),
        }
    }

    fn table(self) -> Table {
        match self {
            Self::A32 => encodings::a32(),
            Self::T16 => encodings::t16(),
            Self::T32 => encodings::t32(),
        }
    }

    fn capstone(self) -> Capstone {
        let mode = match self {
            Self::A32 => ArchMode::Arm,
            Self::T16 | Self::T32 => ArchMode::Thumb,
        };
        Capstone::new().arm().mode(mode).build().unwrap()
    }

    /// The bytes of a word in memory, and how many they are.
    fn bytes(self, word: u32) -> ([u8; 4], usize) {
        match self {
            Self::A32 => (word.to_le_bytes(), 4),
            Self::T16 => (word.to_le_bytes(), 2),
            Self::T32 => (word.rotate_right(16).to_le_bytes(), 4),
        }
    }
}

/// Mismatches by encoding: how many, and the first few.
#[derive(Default)]
struct Report {
    checked: u64,
    performed: u64,
    asked: u64,
    others: u64,
    by_name: BTreeMap<String, (u64, Vec<String>)>,
}

impl Report {
    fn add(&mut self, name: &str, what: impl FnOnce() -> String) {
        let (count, examples) = self.by_name.entry(name.to_owned()).or_default();
        *count += 1;
        if examples.len() < 6 {
            examples.push(what());
        }
    }

    fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.performed += other.performed;
        self.asked += other.asked;
        self.others += other.others;
        for (name, (count, examples)) in other.by_name {
            let entry = self.by_name.entry(name).or_default();
            entry.0 += count;
            entry.1.extend(examples);
            entry.1.truncate(6);
        }
    }

    fn assert_clean(&self) {
        use std::fmt::Write;
        let mut all = String::new();
        for (name, (count, examples)) in &self.by_name {
            let _ = writeln!(all, "{name}: {count}");
            for example in examples {
                let _ = writeln!(all, "    {example}");
            }
        }
        assert!(self.by_name.is_empty(), "mismatches\n{all}");
    }
}

struct Checker {
    set: Set,
    table: Table,
    capstone: Capstone,
    report: Report,
    /// Loads and stores for Capstone, as bytes and decoded.
    bytes: Vec<u8>,
    ops: Vec<Op>,
    /// Whether Capstone is asked too about what is not taken for a load or store.
    ask_of_others: bool,
}

impl Checker {
    fn new(set: Set) -> Self {
        Self {
            set,
            table: set.table(),
            capstone: set.capstone(),
            report: Report::default(),
            bytes: Vec::new(),
            ops: Vec::new(),
            ask_of_others: false,
        }
    }

    /// Compares the class of one word, and keeps it for [`Self::ask`] where it is performed.
    fn check(&mut self, word: u32) {
        self.report.checked += 1;
        let ours = decode(self.set.instruction(word));
        let found = self.table.find(word);
        let (name, class) = match &found {
            Some((encoding, true)) => (encoding.name, Some(encoding.class)),
            Some((encoding, false)) => (encoding.name, None),
            None => ("none", None),
        };
        let agrees = match (&ours, class) {
            (Ok(op), Some(Class::Hint)) => op.form == Form::Hint,
            (Ok(op), Some(Class::Transfer)) => op.form != Form::Hint,
            (Err(refusal), None) => match found {
                Some((encoding, _)) if encoding.class != Class::Refused => {
                    refusal.reason != Reason::NotMemory
                }
                Some(_) => true,
                None => matches!(
                    refusal.reason,
                    Reason::NotMemory
                        | Reason::Undefined
                        | Reason::Coprocessor
                        | Reason::Unpredictable
                        | Reason::ShouldBe
                        | Reason::Pair
                        | Reason::Pc
                ),
            },
            _ => false,
        };
        if !agrees {
            self.report.add(name, || {
                format!("{word:08x}: manual {class:?}, decoded {ours:?}")
            });
        }
        if self.set == Set::A32 && word >> 28 < ALWAYS {
            // The condition says whether, not what. So Capstone is asked about "always" alone.
            let always = decode(Instruction::A32(with_always(word)));
            if always.map(|op| op.form).map_err(|r| r.reason)
                != ours.map(|op| op.form).map_err(|r| r.reason)
            {
                self.report
                    .add("condition", || format!("{word:08x}: {ours:?}"));
            }
            return;
        }
        let (bytes, length) = self.set.bytes(word);
        match ours {
            Ok(op) if op.form != Form::Hint => {
                self.report.performed += 1;
                self.bytes.extend_from_slice(&bytes[..length]);
                self.ops.push(op);
            }
            Err(_) if self.ask_of_others && found.is_none() => {
                let disassembly = self.capstone.disasm_count(&bytes[..length], 0, 1).unwrap();
                if let Some(mnemonic) = disassembly.first().and_then(|i| i.mnemonic())
                    && moves_memory(mnemonic)
                {
                    self.report
                        .add("none", || format!("{word:08x}: capstone `{mnemonic}`"));
                }
                self.report.others += 1;
            }
            _ => {}
        }
        if self.ops.len() >= 1 << 14 {
            self.ask();
        }
    }

    /// Compares what has been kept with Capstone.
    fn ask(&mut self) {
        let mut disassembly = self.capstone.disasm_iter(&self.bytes, 0).unwrap();
        let (mut ours, mut theirs) = (String::new(), String::new());
        let mut at = 0;
        for op in &self.ops {
            at += op.instruction.length() as usize;
            text::write(op, &mut ours).unwrap();
            match disassembly.next() {
                Some(instruction) => text::normalise(
                    instruction.mnemonic().unwrap(),
                    instruction.op_str().unwrap(),
                    &mut theirs,
                ),
                None => {
                    "undecoded".clone_into(&mut theirs);
                    disassembly.reset(&self.bytes[at..], 0);
                }
            }
            if ours != theirs && !capstone_is_wrong(op.instruction) {
                let name = match op.instruction {
                    Instruction::A32(w) | Instruction::T32(w) => self.table.find(w),
                    Instruction::T16(h) => self.table.find(u32::from(h)),
                }
                .map_or("none", |(encoding, _)| encoding.name);
                self.report.add(name, || {
                    format!(
                        "{:08x?}: capstone `{theirs}`, decoded `{ours}`",
                        op.instruction
                    )
                });
            }
        }
        drop(disassembly);
        self.report.asked += self.ops.len() as u64;
        self.bytes.clear();
        self.ops.clear();
    }

    fn finish(mut self) -> Report {
        self.ask();
        self.report
    }
}

/// xorshift64*, seeded: the sample is the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

const ALWAYS: u32 = 14;

/// The instruction with the condition "always"; as it is where it has none.
fn with_always(word: u32) -> u32 {
    if word >> 28 == 15 {
        word
    } else {
        word & 0x0fff_ffff | ALWAYS << 28
    }
}

/// Where the sweep found Capstone at odds with the manual.
fn capstone_is_wrong(instruction: Instruction) -> bool {
    /// Set, mask, value.
    const WRONG: [(Set, u32, u32); 1] = [
        // `ldr <Rt>, [sp], #-4` is given as POP, whose encoding A2 has U = 1 (A8.8.131).
        (Set::A32, 0x0fff_0fff, 0x041d_0004),
    ];
    let (of, word) = match instruction {
        Instruction::A32(word) => (Set::A32, word),
        Instruction::T16(half) => (Set::T16, u32::from(half)),
        Instruction::T32(word) => (Set::T32, word),
    };
    WRONG
        .iter()
        .any(|&(set, mask, value)| set == of && word & mask == value)
}

/// Whether a mnemonic of Capstone's is one of a load, a store or a hint.
fn moves_memory(mnemonic: &str) -> bool {
    const PREFIXES: [&str; 18] = [
        "ldr", "str", "ldm", "stm", "push", "pop", "swp", "tbb", "tbh", "rfe", "srs", "pld", "pli",
        "vld", "vst", "vpush", "vpop", "f",
    ];
    // LDC and STC of coprocessor 9 in ARMv7 (ARM DDI 0406C, A7.6); Capstone knows ARMv8.2-FP16.
    const LATER: [&str; 2] = ["vldr.16", "vstr.16"];
    PREFIXES.iter().any(|prefix| mnemonic.starts_with(prefix)) && !LATER.contains(&mnemonic)
}

/// So many words of each encoding, one in eight with its should-be bits at random, then words at
/// random among those that `keep` wants.
fn sample(set: Set, each: u32, anywhere: u32, keep: impl Fn(u32) -> bool) -> Report {
    let mut checker = Checker::new(set);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let check = |checker: &mut Checker, word| {
        checker.check(word);
        if set == Set::A32 && word >> 28 < ALWAYS {
            checker.check(with_always(word));
        }
    };
    for i in 0..checker.table.encodings().len() {
        let e = &checker.table.encodings()[i];
        let (mask, value, should) = (e.mask, e.value, (e.should_mask, e.should_value));
        for k in 0..each {
            let mut word = random.next() & !mask | value;
            if k & 7 != 0 {
                word = word & !should.0 | should.1;
            }
            check(&mut checker, word);
        }
    }
    checker.ask_of_others = true;
    let mut left = anywhere;
    while left > 0 {
        let word = random.next();
        if keep(word) {
            check(&mut checker, word);
            left -= 1;
        }
    }
    checker.finish()
}

#[test]
fn every_t16_halfword_is_decoded_as_the_oracles_say() {
    let mut checker = Checker::new(Set::T16);
    checker.ask_of_others = true;
    // From 0xe800 on, a halfword is the first of two.
    (0..0xe800).for_each(|word| checker.check(word));
    let report = checker.finish();
    assert!(report.asked > 20_000 && report.others > 20_000);
    report.assert_clean();
}

#[test]
fn a_dense_sample_of_a32_is_decoded_as_the_oracles_say() {
    let report = sample(Set::A32, 40_000, 500_000, |_| true);
    assert!(report.asked > 1_000_000 && report.others > 100_000);
    report.assert_clean();
}

#[test]
fn a_dense_sample_of_t32_is_decoded_as_the_oracles_say() {
    let report = sample(Set::T32, 40_000, 500_000, |word| word >> 27 >= 0b11101);
    assert!(report.asked > 1_000_000 && report.others > 100_000);
    report.assert_clean();
}

#[test]
#[ignore = "sweeps 2^32 A32 and 6144 * 2^16 T32 words: minutes on all cores"]
fn every_a32_and_t32_word_is_decoded_as_the_oracles_say() {
    // The conditions are dealt out in turn, so that all threads get some of "always".
    let a32 = (0..1u32 << 16).map(|i| (Set::A32, i << 28 | i >> 4 << 16));
    let t32 = (0xe800..=0xffff).map(|high| (Set::T32, high << 16));
    sweep(&a32.chain(t32).collect::<Vec<_>>()).assert_clean();
}

/// Checks the 2^16 words from each of `starts` on.
fn sweep(starts: &[(Set, u32)]) -> Report {
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Report::default());
    let threads = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut checkers = [Checker::new(Set::A32), Checker::new(Set::T32)];
                while let Some(&(set, first)) = starts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let checker = &mut checkers[usize::from(set == Set::T32)];
                    (0..1 << 16).for_each(|low| checker.check(first | low));
                }
                for checker in checkers {
                    total.lock().unwrap().merge(checker.finish());
                }
            });
        }
    });
    let report = total.into_inner().unwrap();
    println!(
        "{} words classified, {} of them compared with Capstone, in {:?} by {threads} threads",
        report.checked,
        report.asked,
        start.elapsed()
    );
    report
}
