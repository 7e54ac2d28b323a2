//! Where a guest's devices are, as QEMU's `virt` machine has them.
//!
//! Stage 2 carries a slot for each page of a device; a slot says which device and where it begins.

/// A device of a VM; its number is its stage-2 slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Device {
    /// The console UART.
    Uart,
}

/// A device's place.
pub struct Place {
    /// The device.
    pub device: Device,
    /// Its first address.
    pub base: u32,
    /// Bytes, a multiple of the page size.
    pub size: u32,
}

/// Every device, by slot.
pub const PLACES: [Place; 1] = [Place { device: Device::Uart, base: 0x0900_0000, size: 0x1000 }];

/// Where RAM begins.
pub const RAM: u32 = 0x4000_0000;
