//! The PL011 UART, as a guest sees it (ARM DDI 0183).
//!
//! The identification registers, and with them the FIFO depth of 16, are those of QEMU's `virt`
//! machine: drivers derive the depth from the revision. Where hardware and QEMU's model differ,
//! software written for either works:
//! - Characters are sent whether or not CR enables the transmitter; images that never touch CR are
//!   common. The transmit FIFO is always empty again after a write, so each write raises the
//!   transmit interrupt, which then stays until ICR clears it.
//! - The receive interrupt follows IFLS as long as the time-out interrupt is unmasked too. Without
//!   that one a guest would never hear of the last characters of a burst; then, as always in QEMU,
//!   one character is enough.
//! - Character length, parity and baud rate change nothing but the receive time-out.
//!
//! Input is never dropped: [`Pl011::receive`] refuses what does not fit, and the owner offers it
//! again when [`Pl011::room`] says so. An overrun is left to the guest's own loopback.

use crate::line::Line;

/// Depth of the receive FIFO, characters.
pub const FIFO_DEPTH: usize = 16;

/// Frequency of UARTCLK that the guest's device tree gives, Hz.
pub const UARTCLK_HZ: u32 = 24_000_000;

/// PeriphID0–3 and PCellID0–3 (ARM DDI 0183, 3.3.15 and 3.3.16), revision field 1 as in QEMU.
const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// Offsets of the registers (ARM DDI 0183, 3.2).
pub mod reg {
    #![expect(
        missing_docs,
        reason = "the names are the manual's own, one line per register"
    )]
    pub const DR: u32 = 0x00;
    pub const RSR_ECR: u32 = 0x04;
    pub const FR: u32 = 0x18;
    pub const ILPR: u32 = 0x20;
    pub const IBRD: u32 = 0x24;
    pub const FBRD: u32 = 0x28;
    pub const LCR_H: u32 = 0x2c;
    pub const CR: u32 = 0x30;
    pub const IFLS: u32 = 0x34;
    pub const IMSC: u32 = 0x38;
    pub const RIS: u32 = 0x3c;
    pub const MIS: u32 = 0x40;
    pub const ICR: u32 = 0x44;
    pub const DMACR: u32 = 0x48;
    /// The first of the eight identification registers.
    pub const PERIPH_ID0: u32 = 0xfe0;
}

/// Bits of DR above the character, and of RSR eight lower.
mod dr {
    pub(super) const FE: u16 = 1 << 8;
    pub(super) const PE: u16 = 1 << 9;
    pub(super) const BE: u16 = 1 << 10;
    pub(super) const OE: u16 = 1 << 11;
}

/// Bits of FR.
mod fr {
    pub(super) const CTS: u16 = 1 << 0;
    pub(super) const DSR: u16 = 1 << 1;
    pub(super) const DCD: u16 = 1 << 2;
    pub(super) const RXFE: u16 = 1 << 4;
    pub(super) const RXFF: u16 = 1 << 6;
    pub(super) const TXFE: u16 = 1 << 7;
    pub(super) const RI: u16 = 1 << 8;
}

/// Bits of LCR_H.
mod lcr {
    pub(super) const BRK: u16 = 1 << 0;
    pub(super) const FEN: u16 = 1 << 4;
}

/// Bits of CR.
mod cr {
    pub(super) const UARTEN: u16 = 1 << 0;
    pub(super) const LBE: u16 = 1 << 7;
    pub(super) const TXE: u16 = 1 << 8;
    pub(super) const RXE: u16 = 1 << 9;
    pub(super) const DTR: u16 = 1 << 10;
    pub(super) const RTS: u16 = 1 << 11;
    pub(super) const OUT1: u16 = 1 << 12;
    pub(super) const OUT2: u16 = 1 << 13;
    /// All bits but the reserved ones.
    pub(super) const ALL: u16 = 0xff87;
}

/// Bits of IMSC, RIS, MIS and ICR.
mod int {
    pub(super) const RI: u16 = 1 << 0;
    pub(super) const CTS: u16 = 1 << 1;
    pub(super) const DCD: u16 = 1 << 2;
    pub(super) const DSR: u16 = 1 << 3;
    pub(super) const RX: u16 = 1 << 4;
    pub(super) const TX: u16 = 1 << 5;
    pub(super) const RT: u16 = 1 << 6;
    pub(super) const FE: u16 = 1 << 7;
    pub(super) const PE: u16 = 1 << 8;
    pub(super) const BE: u16 = 1 << 9;
    pub(super) const OE: u16 = 1 << 10;
    pub(super) const ALL: u16 = 0x7ff;
}

/// What a write wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Effect {
    /// A character to send.
    pub tx: Option<u8>,
    /// What became of the interrupt line.
    pub line: Line,
}

/// A character did not fit: offer it again when there is [`room`](Pl011::room).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// One UART.
pub struct Pl011 {
    /// Received characters with their error bits, a ring.
    fifo: [u16; FIFO_DEPTH],
    head: u8,
    count: u8,
    /// The state of the line to the interrupt controller.
    line: bool,
    /// A character was lost since the last one that was stored.
    overrun: bool,
    rsr: u8,
    ilpr: u8,
    fbrd: u8,
    ifls: u8,
    dmacr: u8,
    ibrd: u16,
    lcr: u16,
    cr: u16,
    imsc: u16,
    ris: u16,
    /// FR, worked out when something that it shows changes: it is read before each character.
    fr: u16,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// A UART as after reset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            fifo: [0; FIFO_DEPTH],
            head: 0,
            count: 0,
            line: false,
            overrun: false,
            rsr: 0,
            ilpr: 0,
            fbrd: 0,
            ifls: 0x12,
            dmacr: 0,
            ibrd: 0,
            lcr: 0,
            cr: cr::TXE | cr::RXE,
            imsc: 0,
            ris: 0,
            fr: fr::TXFE | fr::RXFE,
        }
    }

    /// Reads the `width` bytes (1, 2 or 4) at `offset`. Bytes of a register other than its lowest
    /// read as what a word read holds there; any access to DR takes a character.
    pub fn read(&mut self, offset: u32, width: u32) -> (u32, Line) {
        let mut line = Line::Same;
        let word = match offset & 0xffc {
            reg::DR => {
                let (character, change) = self.take();
                line = change;
                character
            }
            reg::RSR_ECR => u16::from(self.rsr),
            reg::FR => self.fr,
            reg::ILPR => u16::from(self.ilpr),
            reg::IBRD => self.ibrd,
            reg::FBRD => u16::from(self.fbrd),
            reg::LCR_H => self.lcr,
            reg::CR => self.cr,
            reg::IFLS => u16::from(self.ifls),
            reg::IMSC => self.imsc,
            reg::RIS => self.ris,
            reg::MIS => self.ris & self.imsc,
            reg::DMACR => u16::from(self.dmacr),
            id @ reg::PERIPH_ID0.. => u16::from(ID[(id >> 2) as usize & 7]),
            _ => 0,
        };
        let word = u32::from(word);
        if width == 4 {
            return (word, line);
        }
        (word >> (8 * (offset & 3)) & mask(width), line)
    }

    /// Writes the low `width` bytes (1, 2 or 4) of `value` at `offset`. The bus has no byte lanes:
    /// the bytes of the register that are not written become zero.
    pub fn write(&mut self, offset: u32, width: u32, value: u32) -> Effect {
        let value = (value & mask(width)) << (8 * (offset & 3));
        let half = value as u16;
        let byte = value as u8;
        match offset & 0xffc {
            reg::DR => return self.send(byte),
            reg::RSR_ECR => self.rsr = 0,
            reg::ILPR => self.ilpr = byte,
            reg::IBRD => self.ibrd = half,
            reg::FBRD => self.fbrd = byte & 0x3f,
            reg::LCR_H => self.set_lcr(half & 0xff),
            reg::CR => self.set_cr(half & cr::ALL),
            reg::IFLS => self.ifls = byte & 0x3f,
            reg::IMSC => self.imsc = half & int::ALL,
            reg::ICR => self.ris &= !half,
            reg::DMACR => self.dmacr = byte & 7,
            _ => return Effect::default(),
        }
        Effect {
            tx: None,
            line: self.update(),
        }
    }

    /// What [`read`](Self::read) of FR gives, which changes nothing; `None` for another register or
    /// part of one.
    #[inline(always)]
    #[must_use]
    pub const fn flags(&self, offset: u32, width: u32) -> Option<u32> {
        if offset & 0xfff == reg::FR && width != 1 {
            Some(self.fr as u32)
        } else {
            None
        }
    }

    /// Whether a [`write`](Self::write) at `offset` only sends its lowest byte, which is then done but
    /// for the sending: its line stays as it is.
    #[inline(always)]
    #[must_use]
    pub const fn sends(&mut self, offset: u32) -> bool {
        let ris = self.ris | int::TX;
        if offset & 0xfff != reg::DR
            || self.cr & cr::LBE != 0
            || (ris & self.imsc != 0) != self.line
        {
            return false;
        }
        self.ris = ris;
        true
    }

    /// Takes a character from outside.
    ///
    /// # Errors
    /// [`Full`] where there is no [`room`](Self::room).
    pub fn receive(&mut self, byte: u8) -> Result<Line, Full> {
        self.receive_with(u16::from(byte))
    }

    /// Takes a break from outside.
    ///
    /// # Errors
    /// [`Full`] where there is no [`room`](Self::room).
    pub fn receive_break(&mut self) -> Result<Line, Full> {
        self.receive_with(dr::BE)
    }

    /// Whether a character from outside would be taken now: the FIFO has room, and the guest has
    /// neither turned the receiver alone off nor connected it to its own transmitter.
    #[must_use]
    pub const fn room(&self) -> bool {
        (self.count as usize) < self.depth()
            && self.cr & cr::LBE == 0
            && self.cr & (cr::UARTEN | cr::RXE) != cr::UARTEN
    }

    /// In how many nanoseconds after the last character [`time_out`](Self::time_out) is due: 32 bit
    /// periods (ARM DDI 0183, 2.8), 0 where no baud rate is set; `None` where nothing waits.
    #[must_use]
    pub const fn time_out_ns(&self) -> Option<u32> {
        if self.count == 0 || self.ris & int::RT != 0 {
            return None;
        }
        // 32 bits of 16 clocks, the divisor in 64ths: at most 2^22 * 333.
        const PS_PER_STEP: u32 = 32 * 16 * (1_000_000_000 / (UARTCLK_HZ / 1000)) / 64;
        let divisor = (self.ibrd as u32) << 6 | self.fbrd as u32;
        Some(divisor * (PS_PER_STEP / 1000))
    }

    /// The receive time-out passed with no further character.
    pub fn time_out(&mut self) -> Line {
        if self.count != 0 {
            self.ris |= int::RT;
        }
        self.update()
    }

    /// Whether the interrupt line is asserted.
    #[must_use]
    pub const fn line(&self) -> bool {
        self.line
    }

    const fn depth(&self) -> usize {
        if self.lcr & lcr::FEN != 0 {
            FIFO_DEPTH
        } else {
            1
        }
    }

    /// How many characters raise the receive interrupt.
    const fn trigger(&self) -> u8 {
        if self.lcr & lcr::FEN == 0 || self.imsc & int::RT == 0 {
            return 1;
        }
        match self.ifls >> 3 {
            0 => FIFO_DEPTH as u8 / 8,
            1 => FIFO_DEPTH as u8 / 4,
            3 => FIFO_DEPTH as u8 * 3 / 4,
            4 => FIFO_DEPTH as u8 * 7 / 8,
            _ => FIFO_DEPTH as u8 / 2,
        }
    }

    /// Works out FR.
    fn reflag(&mut self) {
        let mut flags = fr::TXFE | self.modem();
        if self.count == 0 {
            flags |= fr::RXFE;
        }
        if self.count as usize >= self.depth() {
            flags |= fr::RXFF;
        }
        self.fr = flags;
    }

    /// The modem inputs: nothing is connected but in loopback (ARM DDI 0183, 3.3.8).
    const fn modem(&self) -> u16 {
        let mut inputs = 0;
        if self.cr & cr::LBE != 0 {
            if self.cr & cr::RTS != 0 {
                inputs |= fr::CTS;
            }
            if self.cr & cr::DTR != 0 {
                inputs |= fr::DSR;
            }
            if self.cr & cr::OUT1 != 0 {
                inputs |= fr::DCD;
            }
            if self.cr & cr::OUT2 != 0 {
                inputs |= fr::RI;
            }
        }
        inputs
    }

    /// A read of DR.
    fn take(&mut self) -> (u16, Line) {
        let character = self.fifo[self.head as usize % FIFO_DEPTH];
        self.rsr = (character >> 8) as u8;
        if self.count != 0 {
            self.count -= 1;
            self.head = (self.head + 1) % FIFO_DEPTH as u8;
        }
        if self.count == 0 {
            self.ris &= !int::RT;
        }
        if self.count < self.trigger() {
            self.ris &= !int::RX;
        }
        self.reflag();
        (character, self.update())
    }

    /// A write of DR, whose lowest byte is the character.
    #[inline(always)]
    fn send(&mut self, byte: u8) -> Effect {
        self.ris |= int::TX;
        if self.cr & cr::LBE != 0 {
            self.store(u16::from(byte));
        }
        Effect {
            tx: Some(byte),
            line: self.update(),
        }
    }

    fn receive_with(&mut self, character: u16) -> Result<Line, Full> {
        if !self.room() {
            return Err(Full);
        }
        self.store(character);
        Ok(self.update())
    }

    /// Puts a character into the FIFO, or loses it (ARM DDI 0183, 2.4: the overrun is told with
    /// the next character that is stored).
    fn store(&mut self, mut character: u16) {
        if self.count as usize >= self.depth() {
            self.overrun = true;
            self.rsr |= (dr::OE >> 8) as u8;
            self.ris |= int::OE;
            return;
        }
        if self.overrun {
            self.overrun = false;
            character |= dr::OE;
        }
        self.fifo[(self.head + self.count) as usize % FIFO_DEPTH] = character;
        self.count += 1;
        self.reflag();
        if self.count >= self.trigger() {
            self.ris |= int::RX;
        }
        for (error, interrupt) in [(dr::FE, int::FE), (dr::PE, int::PE), (dr::BE, int::BE)] {
            if character & error != 0 {
                self.ris |= interrupt;
            }
        }
    }

    fn set_lcr(&mut self, new: u16) {
        let changed = self.lcr ^ new;
        self.lcr = new;
        if changed & lcr::FEN != 0 {
            self.head = 0;
            self.count = 0;
            self.ris &= !(int::RX | int::RT);
        }
        self.reflag();
        if changed & new & lcr::BRK != 0 && self.cr & cr::LBE != 0 {
            self.store(dr::BE);
        }
    }

    fn set_cr(&mut self, new: u16) {
        let before = self.modem();
        self.cr = new;
        self.reflag();
        let changed = before ^ self.modem();
        for (input, interrupt) in [
            (fr::CTS, int::CTS),
            (fr::DSR, int::DSR),
            (fr::DCD, int::DCD),
            (fr::RI, int::RI),
        ] {
            if changed & input != 0 {
                self.ris |= interrupt;
            }
        }
    }

    #[inline(always)]
    const fn update(&mut self) -> Line {
        Line::change(&mut self.line, self.ris & self.imsc != 0)
    }
}

/// A mask of the low `width` bytes, 1 to 4.
const fn mask(width: u32) -> u32 {
    u32::MAX >> (0u32.wrapping_sub(width << 3) & 31)
}
