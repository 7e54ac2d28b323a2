//! QEMU's execution trace with one instruction a block, and one operation cut out of it.
//!
//! `-d exec,nochain` prints a line `Trace CPU: host [flags/pc/…]` before each block. Two other lines take the last one back: an
//! interrupt came before the block began, or the block is to run once more as one that may reach a device.

use std::collections::HashMap;
use std::io::BufRead;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// The options for such a trace on standard error. Which one makes blocks of one instruction depends on the version.
pub(super) fn options(qemu: &Path) -> anyhow::Result<Vec<&'static str>> {
    let output = Command::new(qemu).arg("--version").output();
    let output = output.with_context(|| qemu.display().to_string())?;
    let version = version(&String::from_utf8_lossy(&output.stdout)).context("no version")?;
    let single = if version < (8, 1) {
        &["-singlestep"][..]
    } else {
        &["-accel", "tcg,one-insn-per-tb=on"]
    };
    Ok([single, &["-d", "exec,nochain"]].concat())
}

/// Major and minor number in `QEMU emulator version 7.2.22 (…)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (_, text) = text.split_once("version ")?;
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// One executed instruction: its address is even, so that the CPU fits into bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Step(u32);

impl Step {
    const fn new(cpu: u32, pc: u32) -> Self {
        Self(pc & !1 | cpu & 1)
    }

    /// Its address.
    pub(super) const fn pc(self) -> u32 {
        self.0 & !1
    }

    /// The CPU: 0 or 1.
    pub(super) const fn cpu(self) -> usize {
        (self.0 & 1) as usize
    }
}

/// The instructions of a trace, in order.
pub(super) struct Steps<R> {
    trace: R,
    line: Vec<u8>,
    last: Option<Step>,
}

impl<R: BufRead> Steps<R> {
    /// The instructions that `trace` shows.
    pub(super) const fn new(trace: R) -> Self {
        Self {
            trace,
            line: Vec::new(),
            last: None,
        }
    }
}

impl<R: BufRead> Iterator for Steps<R> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            self.line.clear();
            if !matches!(self.trace.read_until(b'\n', &mut self.line), Ok(1..)) {
                return self.last.take();
            }
            if let Some(step) = step(&self.line) {
                if let Some(last) = self.last.replace(step) {
                    return Some(last);
                }
            } else if self.line.starts_with(b"Stopped execution")
                || self.line.starts_with(b"cpu_io_recompile")
            {
                self.last = None;
            }
        }
    }
}

/// The step of one line, if it shows one.
fn step(line: &[u8]) -> Option<Step> {
    let rest = line.strip_prefix(b"Trace ")?;
    let cpu = number(rest, b':', 10)?;
    let bracket = rest.iter().position(|&byte| byte == b'[')?;
    let mut words = rest[bracket..].split_inclusive(|&byte| byte == b'/');
    Some(Step::new(cpu, number(words.nth(1)?, b'/', 16)?))
}

/// The number in front of `end`.
fn number(text: &[u8], end: u8, radix: u32) -> Option<u32> {
    let mut number = 0;
    for &byte in text {
        if byte == end {
            return Some(number);
        }
        number = number * radix + char::from(byte).to_digit(radix)?;
    }
    None
}

/// The hypervisor's code.
#[derive(Clone, Debug)]
pub(super) struct Hypervisor {
    /// All of it.
    pub(super) code: Range<u32>,
    /// Where it waits for an interrupt: what follows is not of the operation before.
    pub(super) waits: Vec<u32>,
}

impl Hypervisor {
    fn contains(&self, step: Step) -> bool {
        self.code.contains(&step.pc())
    }
}

/// Where an operation begins and ends, in terms of a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// From the guest's instruction that traps most often to the one behind it.
    Trap,
    /// The same, where it runs once more when the trap is over.
    Retried,
    /// From it to itself.
    Round,
    /// From the guest's instruction at the first address to the one at the second, on one CPU.
    Between(u32, u32),
    /// From the guest's instruction at this address to itself, on one CPU.
    Again(u32),
    /// What the hypervisor does before the guest's instruction at this address, since it was entered or waited.
    Before(u32),
    /// From the last trap of another CPU to the guest's instruction at this address.
    Start(u32),
}

impl Cut {
    /// So many of it are enough to tell a median; and, where it begins with the most frequent trap, which one that is.
    pub(super) const fn enough(self) -> usize {
        match self {
            Self::Trap | Self::Round => 512,
            Self::Retried
            | Self::Between(..)
            | Self::Again(_)
            | Self::Before(_)
            | Self::Start(_) => 64,
        }
    }
}

/// The operations in `steps`.
pub(super) fn operations(steps: &[Step], hypervisor: &Hypervisor, cut: Cut) -> Vec<Range<usize>> {
    let guest = |step: Step| !hypervisor.contains(step);
    let trapping = |retried| trapping(steps, hypervisor, retried);
    let behind = |begin: u32| move |pc: u32| pc > begin && pc <= begin + 4;
    match cut {
        Cut::Trap => trapping(false).map(|pc| pairs(steps, pc, guest, behind(pc))),
        Cut::Retried => trapping(true).map(|pc| {
            let mut rounds = pairs(steps, pc, guest, |next| next == pc);
            // Every second one is from its end to the next time.
            rounds.retain(|round| {
                let (cpu, rest) = (steps[round.start].cpu(), round.start + 1..round.end);
                !steps[rest]
                    .iter()
                    .any(|&step| step.cpu() == cpu && guest(step))
            });
            rounds
        }),
        Cut::Round => trapping(false).map(|pc| pairs(steps, pc, guest, |next| next == pc)),
        Cut::Between(begin, end) => Some(pairs(steps, begin, guest, |pc| pc == end)),
        Cut::Again(pc) => Some(pairs(steps, pc, guest, |next| next == pc)),
        Cut::Before(end) => Some(backwards(steps, hypervisor, end, false)),
        Cut::Start(end) => Some(backwards(steps, hypervisor, end, true)),
    }
    .unwrap_or_default()
}

/// The guest's address from which the hypervisor is entered most often; where it is `retried`, of those to which it returns.
fn trapping(steps: &[Step], hypervisor: &Hypervisor, retried: bool) -> Option<u32> {
    let mut counts = HashMap::<u32, usize>::new();
    let mut last = [None::<(u32, bool)>; 2];
    for step in steps {
        let last = &mut last[step.cpu()];
        if hypervisor.contains(*step) {
            if let Some((pc, entered @ false)) = last {
                *entered = true;
                *counts.entry(*pc).or_default() += usize::from(!retried);
            }
        } else {
            if let Some((pc, true)) = *last
                && retried
                && pc == step.pc()
            {
                *counts.entry(pc).or_default() += 1;
            }
            *last = Some((step.pc(), false));
        }
    }
    let most = counts.into_iter().max_by_key(|&(pc, count)| (count, pc))?;
    (most.1 > 0).then_some(most.0)
}

/// From each of the guest's instructions at `begin` to the next one on its CPU that `ends`.
fn pairs(
    steps: &[Step],
    begin: u32,
    guest: impl Fn(Step) -> bool,
    ends: impl Fn(u32) -> bool,
) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut open = [None; 2];
    for (at, &step) in steps.iter().enumerate() {
        if !guest(step) {
            continue;
        }
        let open = &mut open[step.cpu()];
        if ends(step.pc())
            && let Some(begun) = open.take()
        {
            found.push(begun..at);
        }
        if step.pc() == begin {
            *open = Some(at);
        }
    }
    found
}

/// What leads to each instruction at `end`: the hypervisor's last stretch on its CPU, without what was before it waited, or all since a trap on `another` CPU.
fn backwards(
    steps: &[Step],
    hypervisor: &Hypervisor,
    end: u32,
    another: bool,
) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    // By CPU: where the hypervisor was entered last, and whether it is there.
    let mut entered = [(None, false); 2];
    let mut guest = [0; 2];
    for (at, &step) in steps.iter().enumerate() {
        let cpu = step.cpu();
        if hypervisor.contains(step) {
            if !entered[cpu].1 {
                entered[cpu] = (Some(if another { guest[cpu] } else { at }), true);
            } else if !another && hypervisor.waits.contains(&step.pc()) {
                entered[cpu].0 = Some(at + 1);
            }
            continue;
        }
        entered[cpu].1 = false;
        guest[cpu] = at;
        if step.pc() == end {
            let from = if another { 1 - cpu } else { cpu };
            found.extend(entered[from].0.take().map(|begun| begun..at));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYPERVISOR: Range<u32> = 0x20_0000..0x40_0000;

    fn read(trace: &str) -> Vec<(usize, u32)> {
        Steps::new(trace.as_bytes())
            .map(|step| (step.cpu(), step.pc()))
            .collect()
    }

    /// Steps in short: `0:40` is a guest's instruction on CPU 0, `1:h8` one of the hypervisor's on CPU 1.
    fn steps(words: &str) -> Vec<Step> {
        let step = |word: &str| {
            let (cpu, pc) = word.split_once(':').unwrap();
            let (base, pc) = match pc.strip_prefix('h') {
                Some(pc) => (HYPERVISOR.start, pc),
                None => (0x4000_0000, pc),
            };
            Step::new(
                cpu.parse().unwrap(),
                base + u32::from_str_radix(pc, 16).unwrap(),
            )
        };
        words.split_whitespace().map(step).collect()
    }

    /// Where the operations begin and end.
    fn cut(words: &str, cut: Cut) -> Vec<(usize, usize)> {
        let hypervisor = Hypervisor {
            code: HYPERVISOR,
            waits: vec![HYPERVISOR.start + 0xc],
        };
        let found = operations(&steps(words), &hypervisor, cut);
        found.iter().map(|part| (part.start, part.end)).collect()
    }

    #[test]
    fn the_version_is_read() {
        let text = "QEMU emulator version 10.0.3 (Debian 1:10.0.3+ds-0)\nCopyright";
        assert_eq!(version(text), Some((10, 0)));
        assert_eq!(version("QEMU emulator version 8.1.0"), Some((8, 1)));
        assert_eq!(version("nothing"), None);
    }

    #[test]
    fn lines_of_old_and_new_qemus_are_read() {
        let trace = "Trace 0: 0x7f01 [00000400/48000000/00000060/ff020201] \n\
                     qemu: a warning\n\
                     Trace 1: 0x7f02 [0000000000000400/0000000000200004/00000060/ff020201] main\n\
                     Trace 0: 0x7f03 [00000400/4800";
        assert_eq!(read(trace), [(0, 0x4800_0000), (1, 0x20_0004)]);
    }

    #[test]
    fn what_did_not_run_is_taken_back() {
        let trace = "Trace 0: 0x7f01 [00000400/48000000/00000060/ff020201] \n\
                     Trace 0: 0x7f02 [00000400/48000004/00000060/ff020201] \n\
                     Stopped execution of TB chain before 0x7f02 [48000004] \n\
                     Trace 0: 0x7f03 [00000400/4800000a/00000060/ff020201] \n\
                     cpu_io_recompile: rewound execution of TB to 4800000a\n\
                     Trace 0: 0x7f04 [00000400/4800000a/00000060/ff038201] \n";
        assert_eq!(read(trace), [(0, 0x4800_0000), (0, 0x4800_000a)]);
    }

    #[test]
    fn a_trap_ends_behind_its_instruction_though_others_run_meanwhile() {
        let words = "0:10 0:20 0:h0 0:22 0:20 0:h0 1:80 0:h4 0:40 0:h8 0:24";
        assert_eq!(cut(words, Cut::Trap), [(1, 3), (4, 10)]);
        assert_eq!(cut(words, Cut::Round), [(1, 4)]);
    }

    #[test]
    fn an_instruction_that_runs_again_is_told_from_others_that_trap_more() {
        let words = "0:8 0:h0 0:c 0:8 0:h0 0:c 0:20 0:h0 0:h4 0:20 0:24 0:20 0:h0 0:20";
        assert_eq!(cut(words, Cut::Retried), [(6, 9), (11, 13)]);
    }

    #[test]
    fn a_switch_goes_from_the_call_of_one_to_behind_the_same_call_of_another() {
        // Two VMs run the same code; one of them traps more often elsewhere.
        let words = "0:20 0:h0 0:24 0:20 0:h0 0:24 0:20 0:h0 0:24 0:10 0:h0 0:h4 0:14 0:18 0:10 0:h0 0:h4 0:14 0:20";
        let call = 0x4000_0010;
        assert_eq!(
            cut(words, Cut::Between(call, call + 4)),
            [(9, 12), (14, 17)]
        );
    }

    #[test]
    fn an_operation_lies_between_two_addresses() {
        let words = "0:10 0:14 0:h0 1:18 0:18 0:18 0:10 0:10 0:18";
        let (begin, end) = (0x4000_0010, 0x4000_0018);
        assert_eq!(cut(words, Cut::Between(begin, end)), [(0, 4), (7, 8)]);
        assert_eq!(cut(words, Cut::Again(begin)), [(0, 6), (6, 7)]);
    }

    #[test]
    fn what_leads_to_an_address_is_found_backwards() {
        let words = "0:10 0:h0 0:h4 0:60 0:10 0:60 0:20 0:h0 1:h0 1:80 0:24";
        assert_eq!(cut(words, Cut::Before(0x4000_0060)), [(1, 3)]);
        assert_eq!(cut(words, Cut::Start(0x4000_0080)), [(6, 9)]);
        let waited = "0:10 0:h0 0:hc 0:h4 0:h0 0:hc 0:h8 0:h4 0:60";
        assert_eq!(cut(waited, Cut::Before(0x4000_0060)), [(6, 8)]);
    }

    #[test]
    fn a_trace_without_the_operation_holds_none() {
        assert!(cut("0:10 0:14", Cut::Trap).is_empty());
        assert!(cut("0:10 0:h0 0:14", Cut::Retried).is_empty());
        assert!(cut("", Cut::Before(0)).is_empty());
    }
}
