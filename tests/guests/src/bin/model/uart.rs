//! A PL011 (ARM DDI 0183) whose sender is its receiver's line, by way of this VM's console.

use bare::console;

const DR: u32 = 0x00;
const FR: u32 = 0x18;
const LCR_H: u32 = 0x2c;
const CR: u32 = 0x30;
const IMSC: u32 = 0x38;
const RIS: u32 = 0x3c;
const MIS: u32 = 0x40;
const ICR: u32 = 0x44;
/// The receiver has something, the sender has room, the receiver has waited.
const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const TIMEOUT: u32 = 1 << 6;
/// UARTEN, TXE and RXE of CR.
const ENABLED: [u32; 3] = [1, 1 << 8, 1 << 9];
/// PeriphID and PCellID of revision 5, one byte a word.
const ID: [u8; 8] = [0x11, 0x10, 0x34, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// The UART.
pub(crate) struct Uart {
    fifo: [u8; 16],
    first: usize,
    count: usize,
    control: u32,
    line_control: u32,
    mask: u32,
    raw: u32,
    divisors: [u32; 2],
}

impl Default for Uart {
    fn default() -> Self {
        Self {
            fifo: [0; 16],
            first: 0,
            count: 0,
            control: 0x300,
            line_control: 0,
            mask: 0,
            raw: 0,
            divisors: [0; 2],
        }
    }
}

impl Uart {
    /// A load or a store; what is loaded, and the interrupt's level then.
    pub(crate) fn access(&mut self, offset: u32, store: Option<u32>) -> (u32, bool) {
        let value = match store {
            Some(value) => {
                self.store(offset, value);
                0
            }
            None => self.load(offset),
        };
        (value, self.raw & self.mask != 0)
    }

    fn load(&mut self, offset: u32) -> u32 {
        match offset {
            DR => self.receive().into(),
            FR => match self.count {
                0 => 0x90,
                16 => 0xc0,
                _ => 0x80,
            },
            0x24 | 0x28 => self.divisors[usize::from(offset == 0x28)],
            LCR_H => self.line_control,
            CR => self.control,
            IMSC => self.mask,
            RIS => self.raw,
            MIS => self.raw & self.mask,
            0xfe0..0x1000 => ID[(offset as usize - 0xfe0) / 4].into(),
            _ => 0,
        }
    }

    fn store(&mut self, offset: u32, value: u32) {
        match offset {
            DR if ENABLED.iter().all(|bit| self.control & bit != 0) => self.send(value as u8),
            0x24 | 0x28 => self.divisors[usize::from(offset == 0x28)] = value,
            LCR_H => self.line_control = value,
            CR => self.control = value,
            IMSC => self.mask = value,
            ICR => self.raw &= !value,
            _ => {}
        }
    }

    /// What is sent is printed, and received again if there is room.
    fn send(&mut self, byte: u8) {
        console::put(byte);
        self.raw |= TX;
        if self.count < 16 {
            self.fifo[(self.first + self.count) % 16] = byte;
            self.count += 1;
            self.raw |= RX | TIMEOUT;
        }
    }

    fn receive(&mut self) -> u8 {
        let byte = self.fifo[self.first];
        if self.count > 0 {
            self.first = (self.first + 1) % 16;
            self.count -= 1;
        }
        if self.count == 0 {
            self.raw &= !(RX | TIMEOUT);
        }
        byte
    }
}
