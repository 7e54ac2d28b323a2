//! The UARTs of the boards, polled: one line per kind.

use core::ptr::{read_volatile, write_volatile};

pub use crate::fdt::UartKind;

/// How a kind of UART is driven: offsets in bytes; a status bit is tested by `status & mask == value`.
struct Layout {
    transmit: usize,
    receive: usize,
    transmit_status: usize,
    can_transmit: (u32, u32),
    receive_status: usize,
    can_receive: (u32, u32),
    /// Register and bits that let it interrupt for what it has received.
    interrupt: (usize, u32),
    /// Whether those bits forbid it.
    masks: bool,
    /// The register where all ones end what is pending, if one does.
    acknowledge: Option<usize>,
}

const PL011: Layout = Layout {
    transmit: 0x00,
    receive: 0x00,
    transmit_status: 0x18,
    can_transmit: (1 << 5, 0),
    receive_status: 0x18,
    can_receive: (1 << 4, 0),
    interrupt: (0x38, 1 << 4 | 1 << 6),
    masks: false,
    acknowledge: None,
};
/// Offsets in registers, which the board spaces by its `reg-shift`.
const NS16550: Layout = Layout {
    transmit: 0,
    receive: 0,
    transmit_status: 5,
    can_transmit: (1 << 5, 1 << 5),
    receive_status: 5,
    can_receive: (1, 1),
    interrupt: (1, 1),
    masks: false,
    acknowledge: None,
};
const STM32: Layout = Layout {
    transmit: 0x28,
    receive: 0x24,
    transmit_status: 0x1c,
    can_transmit: (1 << 7, 1 << 7),
    receive_status: 0x1c,
    can_receive: (1 << 5, 1 << 5),
    interrupt: (0x00, 1 << 5),
    masks: false,
    acknowledge: None,
};
const IMX: Layout = Layout {
    transmit: 0x40,
    receive: 0x00,
    transmit_status: 0xb4,
    can_transmit: (1 << 4, 0),
    receive_status: 0xb4,
    can_receive: (1 << 5, 0),
    interrupt: (0x80, 1 << 9),
    masks: false,
    acknowledge: None,
};
const EXYNOS: Layout = Layout {
    transmit: 0x20,
    receive: 0x24,
    transmit_status: 0x10,
    can_transmit: (1 << 1, 1 << 1),
    receive_status: 0x10,
    can_receive: (1, 1),
    // UINTM and UINTP.
    interrupt: (0x38, 1 << 0),
    masks: true,
    acknowledge: Some(0x30),
};

/// A UART whose registers are mapped.
pub struct Uart {
    base: usize,
    layout: &'static Layout,
    shift: u32,
    byte_wide: bool,
    pl011: bool,
    /// Where a byte goes, where it is said whether there is room, and how.
    data: usize,
    status: usize,
    room: (u32, u32),
    /// The status bit that says that nothing waits to be sent (0: not known), and how many bytes there
    /// is room for then.
    empty: (u32, u32),
    /// Bytes that there is room for, so that the status need not be asked.
    spare: u32,
}

impl Uart {
    /// The UART whose registers are mapped at `base`.
    ///
    /// # Safety
    /// They must be those of a UART of that kind, stay mapped, and be nobody else's.
    #[must_use]
    pub unsafe fn new(kind: &UartKind, base: usize) -> Self {
        let (layout, shift, byte_wide) = match *kind {
            UartKind::Pl011 => (&PL011, 0, false),
            UartKind::Ns16550 {
                reg_shift,
                io_width,
            } => (&NS16550, reg_shift.into(), io_width == 1),
            UartKind::Stm32 => (&STM32, 0, false),
            UartKind::Imx => (&IMX, 0, false),
            UartKind::Exynos => (&EXYNOS, 0, false),
        };
        let mut uart = Self {
            base,
            layout,
            shift,
            byte_wide,
            pl011: matches!(kind, UartKind::Pl011),
            data: base + (layout.transmit << shift),
            status: base + (layout.transmit_status << shift),
            room: layout.can_transmit,
            empty: (0, 1),
            spare: 0,
        };
        if uart.pl011 && uart.read(0x30) & 1 == 0 {
            // Firmware left it off: 8 bits, FIFOs, both directions.
            uart.write(0x2c, 0x70);
            uart.write(0x30, 0x301);
        }
        if uart.pl011 && uart.read(0x2c) & 1 << 4 != 0 {
            uart.empty = (1 << 7, 16);
        }
        uart
    }

    fn read(&self, offset: usize) -> u32 {
        self.load(self.base + (offset << self.shift))
    }

    fn write(&self, offset: usize, value: u32) {
        self.store(self.base + (offset << self.shift), value);
    }

    #[inline(always)]
    fn load(&self, at: usize) -> u32 {
        // SAFETY: `new`'s caller vouched for the registers.
        unsafe {
            if self.byte_wide {
                read_volatile(at as *const u8).into()
            } else {
                read_volatile(at as *const u32)
            }
        }
    }

    #[inline(always)]
    fn store(&self, at: usize, value: u32) {
        // SAFETY: `new`'s caller vouched for the registers.
        unsafe {
            if self.byte_wide {
                write_volatile(at as *mut u8, value as u8);
            } else {
                write_volatile(at as *mut u32, value);
            }
        }
    }

    /// Sends a byte, if there is room; whether there was.
    #[inline(always)]
    pub fn send(&mut self, byte: u8) -> bool {
        if self.spare == 0 && !self.find_room() {
            return false;
        }
        self.spare -= 1;
        self.store(self.data, byte.into());
        true
    }

    /// Whether there is room; how much is in `spare`.
    #[inline(never)]
    fn find_room(&mut self) -> bool {
        let status = self.load(self.status);
        let (mask, value) = self.room;
        if status & mask != value {
            return false;
        }
        let (empty, depth) = self.empty;
        self.spare = if status & empty != 0 { depth } else { 1 };
        true
    }

    /// A byte that has come, if one has.
    #[must_use]
    pub fn get(&self) -> Option<u8> {
        let (mask, value) = self.layout.can_receive;
        (self.read(self.layout.receive_status) & mask == value)
            .then(|| self.read(self.layout.receive) as u8)
    }

    /// Lets it interrupt when bytes come, or not.
    pub fn listen(&self, on: bool) {
        let (offset, bits) = self.layout.interrupt;
        let old = self.read(offset);
        let set = on != self.layout.masks;
        self.write(offset, if set { old | bits } else { old & !bits });
    }

    /// Ends what is pending, where that is not done by serving it.
    pub fn acknowledge(&self) {
        if let Some(offset) = self.layout.acknowledge {
            self.write(offset, 0xf);
        }
    }
}
