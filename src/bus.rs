//! Where a guest's devices are, as QEMU's `virt` machine has them.
//!
//! Stage 2 carries a slot for each page of a device; the slot is the device's place in [`PLACES`].

/// A device that is emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Device {
    /// The interrupt controller's distributor.
    Gicd,
    /// The console UART, a PL011.
    Uart,
    /// The real-time clock, a PL031.
    Rtc,
    /// The second page of the CPU interface, with GICC_DIR, once it has to be watched.
    GiccDir,
    /// The two banks of flash, where nothing has been put into them.
    Flash,
}

/// A device's place.
pub struct Place {
    /// The device.
    pub device: Device,
    /// Its first address, page-aligned.
    pub base: u32,
    /// Bytes, a multiple of the page size.
    pub size: u32,
}

impl Place {
    /// Its stage-2 slot, by which [`PLACES`] finds it again.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.device as u32
    }
}

impl Device {
    /// The device of a slot: the reverse of [`Place::slot`]. A slot that none has would be flash.
    #[inline]
    #[must_use]
    pub const fn of_slot(slot: u32) -> Self {
        const GICD: u32 = Device::Gicd as u32;
        const UART: u32 = Device::Uart as u32;
        const RTC: u32 = Device::Rtc as u32;
        const GICC_DIR: u32 = Device::GiccDir as u32;
        match slot {
            GICD => Self::Gicd,
            UART => Self::Uart,
            RTC => Self::Rtc,
            GICC_DIR => Self::GiccDir,
            _ => Self::Flash,
        }
    }
}

/// Every device, by slot: in the order of [`Device`].
pub const PLACES: [Place; 5] = [
    Place {
        device: Device::Gicd,
        base: GIC,
        size: 0x1000,
    },
    Place {
        device: Device::Uart,
        base: 0x0900_0000,
        size: 0x1000,
    },
    Place {
        device: Device::Rtc,
        base: 0x0901_0000,
        size: 0x1000,
    },
    Place {
        device: Device::GiccDir,
        base: GICC + 0x1000,
        size: 0x1000,
    },
    Place {
        device: Device::Flash,
        base: 0,
        size: FLASH,
    },
];

/// End of the two banks of flash, which begin at 0.
pub const FLASH: u32 = 0x0800_0000;

/// Interrupts of the devices, and of the timers.
pub mod interrupt {
    /// The virtual timer, a private interrupt.
    pub const VIRTUAL_TIMER: u32 = 27;
    /// The physical timer, a private interrupt.
    pub const PHYSICAL_TIMER: u32 = 30;
    /// The console UART: SPI 1.
    pub const UART: u32 = 33;
    /// The real-time clock: SPI 2.
    pub const RTC: u32 = 34;
    /// Shared interrupts that a guest has, as QEMU's `virt` machine.
    pub const SHARED: usize = 256;
}

/// Where the interrupt controller begins: its distributor.
pub const GIC: u32 = 0x0800_0000;
/// Where its CPU interface is: the hardware's GICV, of two pages.
pub const GICC: u32 = 0x0801_0000;
/// Where RAM begins.
pub const RAM: u32 = 0x4000_0000;
