//! The loads and stores of 16-bit Thumb (ARM DDI 0406C, A6.2.4 to A6.2.6).

use super::Reason::{self, *};
use super::{Address, Bank, Block, Form, Index, Offset};
use super::{immediate, refuse_if, register};

const IA: Block = Block {
    up: true,
    before: false,
    writeback: true,
};
const DB: Block = Block {
    up: false,
    before: true,
    writeback: true,
};

pub(super) fn decode(h: u32) -> Result<Form, Reason> {
    let load = h & 0x800 != 0;
    let (low, middle) = ((h & 7) as u8, (h >> 3 & 7) as u8);
    let (high, imm5, imm8) = ((h >> 8 & 7) as u8, h >> 6 & 31, h & 0xff);
    match h >> 12 {
        4 if load => single(true, 4, false, high, 15, immediate(true, imm8 << 2)),
        5 => {
            let (load, size, signed) = match h >> 9 & 7 {
                0 => (false, 4, false),
                1 => (false, 2, false),
                2 => (false, 1, false),
                3 => (true, 1, true),
                4 => (true, 4, false),
                5 => (true, 2, false),
                6 => (true, 1, false),
                _ => (true, 2, true),
            };
            let m = (h >> 6 & 7) as u8;
            single(load, size, signed, low, middle, register(true, m))
        }
        6 => single(load, 4, false, low, middle, immediate(true, imm5 << 2)),
        7 => single(load, 1, false, low, middle, immediate(true, imm5)),
        8 => single(load, 2, false, low, middle, immediate(true, imm5 << 1)),
        9 => single(load, 4, false, high, 13, immediate(true, imm8 << 2)),
        11 if h & 0x600 == 0x400 => {
            let extra = if load { 15 } else { 14 };
            let list = imm8 | (h >> 8 & 1) << extra;
            multiple(load, list, 13, if load { IA } else { DB })
        }
        12 => {
            let mut block = IA;
            block.writeback = !load || imm8 >> high & 1 == 0;
            multiple(load, imm8, high, block)
        }
        _ => Err(NotMemory),
    }
}

fn single(
    load: bool,
    size: u8,
    signed: bool,
    t: u8,
    n: u8,
    offset: Offset,
) -> Result<Form, Reason> {
    Ok(Form::Single {
        load,
        size,
        signed,
        unprivileged: false,
        t,
        at: Address {
            n,
            offset,
            index: Index::Offset,
        },
    })
}

fn multiple(load: bool, list: u32, n: u8, block: Block) -> Result<Form, Reason> {
    refuse_if(list == 0, List)?;
    Ok(Form::Multiple {
        load,
        list: list as u16,
        bank: Bank::Current,
        n,
        block,
    })
}
