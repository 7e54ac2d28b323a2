//! The loads and stores of 16-bit Thumb (ARM DDI 0406C, A6.2.4 to A6.2.6).

use super::Reason::{self, *};
use super::single::{BEFORE, BYTE, HALF, LOAD, REGISTER, SIGNED, UP};
use super::{Bank, Block, Form, Single, refuse_if};

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
    let direction = if load { LOAD } else { 0 };
    let (low, middle, high) = (h & 7, h >> 3 & 7, h >> 8 & 7);
    let (imm5, imm8) = (h >> 6 & 31, h & 0xff);
    match h >> 12 {
        4 if load => single(LOAD, high, 15, imm8 << 2),
        5 => {
            let kind = match h >> 9 & 7 {
                0 => 0,
                1 => HALF,
                2 => BYTE,
                3 => LOAD | SIGNED | BYTE,
                4 => LOAD,
                5 => LOAD | HALF,
                6 => LOAD | BYTE,
                _ => LOAD | SIGNED | HALF,
            };
            single(kind | REGISTER, low, middle, h >> 6 & 7)
        }
        6 => single(direction, low, middle, imm5 << 2),
        7 => single(direction | BYTE, low, middle, imm5),
        8 => single(direction | HALF, low, middle, imm5 << 1),
        9 => single(direction, high, 13, imm8 << 2),
        11 if h & 0x600 == 0x400 => {
            let extra = if load { 15 } else { 14 };
            let list = imm8 | (h >> 8 & 1) << extra;
            multiple(load, list, 13, if load { IA } else { DB })
        }
        12 => {
            let mut block = IA;
            block.writeback = !load || imm8 >> high & 1 == 0;
            multiple(load, imm8, high as u8, block)
        }
        _ => Err(NotMemory),
    }
}

fn single(kind: u32, t: u32, n: u32, offset: u32) -> Result<Form, Reason> {
    let bits = kind | BEFORE | UP | n << 16 | t << 12 | offset;
    Ok(Form::Single(Single::new(bits)))
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
