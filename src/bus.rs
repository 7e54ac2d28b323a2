//! Where a guest's devices are, as QEMU's `virt` machine has them.
//!
//! Stage 2 carries a slot for each page of a device: the device's number in [`Device`]. The places
//! are those of [`Places`] before the first vCPU runs; a call with the numbers of KVM's
//! `KVM_ARM_SET_DEVICE_ADDR` changes them.

use crate::addr::PAGE;

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
    /// The two banks of flash, but for where firmware has been put.
    Flash,
}

impl Device {
    /// The distributor's slot.
    pub const GICD: u32 = Self::Gicd as u32;
    /// The UART's slot.
    pub const UART: u32 = Self::Uart as u32;

    /// The device of a slot, its number. A slot that none has would be flash.
    #[inline]
    #[must_use]
    pub const fn of_slot(slot: u32) -> Self {
        const RTC: u32 = Device::Rtc as u32;
        const GICC_DIR: u32 = Device::GiccDir as u32;
        match slot {
            Self::GICD => Self::Gicd,
            Self::UART => Self::Uart,
            RTC => Self::Rtc,
            GICC_DIR => Self::GiccDir,
            _ => Self::Flash,
        }
    }
}

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
    /// The first ring's: SPI 64.
    pub const RINGS: u32 = 96;
    /// Shared interrupts that a guest has, as QEMU's `virt` machine.
    pub const SHARED: usize = 256;
}

/// Where the devices of a VM are that can be placed: addresses of whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// The interrupt controller's distributor, of one page.
    pub gicd: u32,
    /// Its CPU interface, the hardware's GICV, of two pages.
    pub gicc: u32,
    /// The PL011, of one page.
    pub uart: u32,
    /// The PL031, of one page.
    pub rtc: u32,
    /// Which of them have been placed by [`set`](Self::set), by bit.
    placed: u8,
}

impl Default for Places {
    fn default() -> Self {
        Self::QEMU
    }
}

/// Why a device is not placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Unplaced {
    /// There is no such device: ENODEV.
    UnknownDevice = -19i32 as u32,
    /// The device has no such address: ENXIO.
    NotSupported = -6i32 as u32,
    /// The address has been set already: EEXIST.
    AlreadySet = -17i32 as u32,
    /// The address is outside of the guest's: E2BIG.
    Outside = -7i32 as u32,
    /// The address is none of a page, or something else is there: EINVAL.
    Invalid = -22i32 as u32,
    /// The VM has begun: EBUSY.
    Begun = -16i32 as u32,
}

impl Unplaced {
    /// In words, after "is".
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::UnknownDevice => "of a device that there is not",
            Self::NotSupported => "of an address that the device has not",
            Self::AlreadySet => "given twice",
            Self::Outside => "outside of the guest's addresses",
            Self::Invalid | Self::Begun => "not where a page begins",
        }
    }
}

impl Places {
    /// Where QEMU's `virt` machine has them.
    pub const QEMU: Self = Self {
        gicd: 0x0800_0000,
        gicc: 0x0801_0000,
        uart: 0x0900_0000,
        rtc: 0x0901_0000,
        placed: 0,
    };

    /// Places what `id` names at `address`: the device in bits 31:16 and which of its addresses in 15:0, as KVM
    /// has them for 0, the interrupt controller: 0 is its distributor, 1 its CPU interface. Device 1 is
    /// the PL011, 2 the PL031, with one address each, 0.
    ///
    /// # Errors
    /// As [`Unplaced`] says; what is at the address is not looked at.
    pub fn set(&mut self, id: u32, address: u64) -> Result<(), Unplaced> {
        let (bit, place, size) = match (id >> 16, id & 0xffff) {
            (0, 0) => (1, &mut self.gicd, PAGE),
            (0, 1) => (2, &mut self.gicc, 2 * PAGE),
            (1, 0) => (4, &mut self.uart, PAGE),
            (2, 0) => (8, &mut self.rtc, PAGE),
            (0..=2, _) => return Err(Unplaced::NotSupported),
            _ => return Err(Unplaced::UnknownDevice),
        };
        if self.placed & bit != 0 {
            return Err(Unplaced::AlreadySet);
        }
        if address > (1 << 32) - size {
            return Err(Unplaced::Outside);
        }
        if address & (PAGE - 1) != 0 {
            return Err(Unplaced::Invalid);
        }
        *place = address as u32;
        self.placed |= bit;
        Ok(())
    }
}

/// Where the rings are by which a VM that is a device model is told of accesses, a page each.
pub const RINGS: u32 = 0x0b00_0000;
/// The most rings that a VM may have.
pub const MOST_RINGS: usize = 32;
/// Where RAM begins.
pub const RAM: u32 = 0x4000_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_placed_once_and_where_it_can_be() {
        let mut places = Places::default();
        for (id, address, why) in [
            (3 << 16, 0x1000, Unplaced::UnknownDevice),
            (2, 0x1000, Unplaced::NotSupported),
            (1 << 16 | 1, 0x1000, Unplaced::NotSupported),
            (0, 1 << 32, Unplaced::Outside),
            (1, 0xffff_f000, Unplaced::Outside),
            (0, u64::MAX, Unplaced::Outside),
            (0, 0x1800, Unplaced::Invalid),
        ] {
            assert_eq!(places.set(id, address), Err(why), "{id:#x} {address:#x}");
        }
        assert_eq!(places, Places::QEMU);
        for (n, id) in [0, 1, 1 << 16, 2 << 16].into_iter().enumerate() {
            assert_eq!(places.set(id, 0xffff_0000 + 0x2000 * n as u64), Ok(()));
            assert_eq!(places.set(id, 0x1000), Err(Unplaced::AlreadySet));
        }
        assert_eq!((places.gicd, places.gicc), (0xffff_0000, 0xffff_2000));
        assert_eq!((places.uart, places.rtc), (0xffff_4000, 0xffff_6000));
    }
}
