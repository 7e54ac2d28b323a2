//! Loads and stores of a given width at an address, for devices and for what may abort.

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $ldr:literal, $str:literal) => {
        /// Loads by one plain instruction (a syndrome is reported for it).
        #[inline(always)]
        #[must_use]
        pub fn $read(address: u32) -> $type {
            let value: u32;
            // SAFETY: a device register, or an address of which the caller expects an abort.
            unsafe { core::arch::asm!(concat!($ldr, " {}, [{}]"), out(reg) value, in(reg) address, options(nostack)) };
            value as $type
        }

        /// Stores by one plain instruction.
        #[inline(always)]
        pub fn $write(address: u32, value: $type) {
            // SAFETY: a device register, or an address of which the caller expects an abort.
            unsafe { core::arch::asm!(concat!($str, " {}, [{}]"), in(reg) u32::from(value), in(reg) address, options(nostack)) };
        }
    };
}

access!(read, write, u32, "ldr", "str");
access!(read16, write16, u16, "ldrh", "strh");
access!(read8, write8, u8, "ldrb", "strb");
