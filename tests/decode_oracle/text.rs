//! A decoded instruction as assembly, in the way that the oracle writes it.

use armillary::decode::{Address, Bank, Block, Form, Index, Instruction, Lanes, Offset, Op, Shift};
use std::fmt::Write;

const NAMES: [&str; 16] = [
    "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "sb", "sl", "fp", "ip", "sp", "lr", "pc",
];

fn name(n: u8) -> &'static str {
    NAMES[usize::from(n)]
}

/// Writes `op` to `text`; nothing for a hint.
///
/// Where two encodings do the same under two names, the encoding says which name it is.
pub(crate) fn write(op: &Op, text: &mut String) -> std::fmt::Result {
    text.clear();
    match op.form {
        Form::Hint => {}
        Form::Single(single) => {
            let t = name(single.t() as u8);
            if matches!(op.instruction, Instruction::A32(w) if w & 0x0fff_0fff == 0x049d_0004) {
                return write!(text, "pop {{{t}}}");
            }
            text.push_str(if single.load() { "ldr" } else { "str" });
            text.push_str(if single.signed() { "s" } else { "" });
            text.push_str(["", "b", "h", "", ""][usize::from(single.size())]);
            text.push_str(if single.unprivileged() { "t" } else { "" });
            write!(text, " {t}, ")?;
            address(text, single.at())?;
        }
        Form::Dual { load, t, t2, at } => {
            let verb = if load { "ldrd" } else { "strd" };
            write!(text, "{verb} {}, {}, ", name(t), name(t2))?;
            address(text, at)?;
        }
        Form::Exclusive {
            load,
            size,
            d,
            t,
            t2,
            n,
            offset,
        } => {
            text.push_str(if load { "ldrex" } else { "strex" });
            text.push_str(["", "b", "h", "", "", "", "", "", "d"][usize::from(size)]);
            text.push(' ');
            if !load {
                write!(text, "{}, ", name(d))?;
            }
            write!(text, "{}, ", name(t))?;
            if size == 8 {
                write!(text, "{}, ", name(t2))?;
            }
            displaced(text, n, i32::from(offset))?;
        }
        Form::Swap { size, t, t2, n } => {
            let b = if size == 1 { "b" } else { "" };
            write!(text, "swp{b} {}, {}, [{}]", name(t), name(t2), name(n))?;
        }
        Form::TableBranch { size: 1, n, m } => {
            write!(text, "tbb [{}, {}]", name(n), name(m))?;
        }
        Form::TableBranch { n, m, .. } => {
            write!(text, "tbh [{}, {}, lsl #1]", name(n), name(m))?;
        }
        Form::Multiple {
            load,
            list,
            bank,
            n,
            block,
        } => {
            let stack = n == 13 && block.writeback && bank == Bank::Current;
            let short = matches!(op.instruction, Instruction::T16(_));
            let alias = stack && (short || list.count_ones() > 1);
            match (alias, load, block.up, block.before) {
                (true, true, true, false) => text.push_str("pop {"),
                (true, false, false, true) => text.push_str("push {"),
                _ => {
                    text.push_str(if load { "ldm" } else { "stm" });
                    // IA is the one that goes without saying.
                    if !block.up || block.before {
                        suffix(text, block);
                    }
                    let bang = if block.writeback { "!" } else { "" };
                    write!(text, " {}{bang}, {{", name(n))?;
                }
            }
            let names: Vec<_> = (0..16)
                .filter(|n| list >> n & 1 != 0)
                .map(|n| name(n as u8))
                .collect();
            text.push_str(&names.join(", "));
            text.push_str(if bank == Bank::Current { "}" } else { "} ^" });
        }
        Form::Return { n, block } => {
            text.push_str("rfe");
            suffix(text, block);
            let bang = if block.writeback { "!" } else { "" };
            write!(text, " {}{bang}", name(n))?;
        }
        Form::Save { mode, block } => {
            text.push_str("srs");
            suffix(text, block);
            let bang = if block.writeback { "!" } else { "" };
            write!(text, " sp{bang}, #{mode}")?;
        }
        Form::Vector { .. } => vector(op, text)?,
        Form::Structure(_) => structure(op, text)?,
    }
    Ok(())
}

fn suffix(text: &mut String, block: Block) {
    text.push_str(match (block.up, block.before) {
        (true, false) => "ia",
        (true, true) => "ib",
        (false, false) => "da",
        (false, true) => "db",
    });
}

/// A base and a constant offset.
fn displaced(text: &mut String, n: u8, bytes: i32) -> std::fmt::Result {
    match bytes {
        0 => write!(text, "[{}]", name(n)),
        _ => write!(text, "[{}, #{bytes}]", name(n)),
    }
}

fn address(text: &mut String, at: Address) -> std::fmt::Result {
    let (base, index) = (name(at.n() as u8), at.index());
    let close = match index {
        Index::Offset => "]",
        Index::Pre => "]!",
        Index::Post => "",
    };
    let open = if index == Index::Post { "]" } else { "" };
    match at.offset() {
        Offset::Immediate(0) if index == Index::Offset => write!(text, "[{base}]"),
        Offset::Immediate(bytes) => write!(text, "[{base}{open}, #{bytes}{close}"),
        Offset::Register {
            m,
            subtract,
            shift,
            amount,
        } => {
            let minus = if subtract { "-" } else { "" };
            write!(text, "[{base}{open}, {minus}{}", name(m))?;
            match (shift, amount) {
                (Shift::Lsl, 0) => {}
                (Shift::Lsl, _) => write!(text, ", lsl #{amount}")?,
                (Shift::Lsr, _) => write!(text, ", lsr #{amount}")?,
                (Shift::Asr, _) => write!(text, ", asr #{amount}")?,
                (Shift::Ror, _) => write!(text, ", ror #{amount}")?,
                (Shift::Rrx, _) => write!(text, ", rrx")?,
            }
            text.push_str(close);
            Ok(())
        }
    }
}

fn vector(op: &Op, text: &mut String) -> std::fmt::Result {
    let Form::Vector {
        load,
        double,
        first,
        words,
        n,
        offset,
        step,
    } = op.form
    else {
        return Ok(());
    };
    let (Instruction::A32(word) | Instruction::T32(word)) = op.instruction else {
        return Ok(());
    };
    let verb = if load { "ld" } else { "st" };
    let registers: Vec<_> = if double {
        (first / 2..(first + words) / 2)
            .map(|d| format!("d{d}"))
            .collect()
    } else {
        (first..first + words).map(|s| format!("s{s}")).collect()
    };
    let registers = registers.join(", ");
    if word & (1 << 24 | 1 << 21) == 1 << 24 {
        write!(text, "v{verb}r {registers}, ")?;
        return displaced(text, n, i32::from(offset));
    }
    let odd = double && word & 1 != 0;
    let bytes = i16::from(words) * 4 + if odd { 4 } else { 0 };
    let (mode, bang) = match (offset, step) {
        (0, 0) => ("ia", ""),
        (0, step) if step == bytes => ("ia", "!"),
        (offset, step) if offset == -bytes && step == -bytes => ("db", "!"),
        _ => ("?", "?"),
    };
    match (n == 13 && bang == "!", mode, odd, load) {
        (true, "ia", false, true) => write!(text, "vpop {{{registers}}}"),
        (true, "db", false, false) => write!(text, "vpush {{{registers}}}"),
        (_, _, true, _) => write!(text, "f{verb}m{mode}x {}{bang}, {{{registers}}}", name(n)),
        _ => write!(text, "v{verb}m{mode} {}{bang}, {{{registers}}}", name(n)),
    }
}

fn structure(op: &Op, text: &mut String) -> std::fmt::Result {
    let Form::Structure(s) = op.form else {
        return Ok(());
    };
    let verb = if s.load { "vld" } else { "vst" };
    write!(text, "{verb}{}.{} {{", s.count, u32::from(s.size) * 8)?;
    let (runs, lane) = match s.lanes {
        Lanes::Whole(regs) => (regs, String::new()),
        Lanes::One(lane) => (1, format!("[{lane}]")),
        Lanes::All(regs) => (regs, "[]".to_owned()),
    };
    let mut registers: Vec<_> = (0..runs)
        .flat_map(|run| (0..s.count).map(move |i| s.d + run + i * s.spacing))
        .collect();
    registers.sort_unstable();
    let registers: Vec<_> = registers.iter().map(|d| format!("d{d}{lane}")).collect();
    write!(text, "{}}}, [{}", registers.join(", "), name(s.n))?;
    if s.alignment != 1 {
        write!(text, ":{}", u32::from(s.alignment) * 8)?;
    }
    match s.m {
        15 => write!(text, "]"),
        13 => write!(text, "]!"),
        m => write!(text, "], {}", name(m)),
    }
}

/// The oracle's words in the same spelling: numbers decimal, no `.w`, no zero with a sign, which
/// differs from zero in the encoding alone.
pub(crate) fn normalise(mnemonic: &str, operands: &str, text: &mut String) {
    text.clear();
    text.push_str(mnemonic.strip_suffix(".w").unwrap_or(mnemonic));
    text.push(' ');
    let mut rest = operands;
    while let Some(at) = rest.find("0x") {
        let digits = &rest[at + 2..];
        let end = digits
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(digits.len());
        let value = u64::from_str_radix(&digits[..end], 16).unwrap_or(u64::MAX);
        text.push_str(&rest[..at]);
        let _ = write!(text, "{value}");
        rest = &digits[end..];
    }
    text.push_str(rest);
    if let Some(at) = text.find("#-0")
        && !text[at + 3..].starts_with(|c: char| c.is_ascii_digit())
    {
        text.replace_range(at + 1..at + 2, "");
    }
    if text.ends_with(", #0]") {
        text.truncate(text.len() - 5);
        text.push(']');
    }
}
