//! The console: a PL011 worked by polling.

use crate::cpu;
use crate::machine::machine;
use crate::mmio;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

/// Data register (ARM DDI 0183G, 3.3.1).
pub const DR: u32 = 0x00;
/// Flag register.
pub const FR: u32 = 0x18;
/// FR.RXFE: nothing received.
pub const RXFE: u32 = 1 << 4;
/// FR.TXFF: no room to transmit.
pub const TXFF: u32 = 1 << 5;

static BUSY: AtomicBool = AtomicBool::new(false);

/// Sends one byte as it is.
pub fn put(byte: u8) {
    let uart = machine().uart;
    while mmio::read(uart + FR) & TXFF != 0 {
        cpu::relax();
    }
    mmio::write8(uart + DR, byte);
}

/// Takes one received byte, if there is one.
#[must_use]
pub fn get() -> Option<u8> {
    let uart = machine().uart;
    (mmio::read(uart + FR) & RXFE == 0).then(|| mmio::read(uart + DR) as u8)
}

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// What `print!` calls: one whole message at a time, whichever CPU speaks.
pub fn print(message: fmt::Arguments<'_>) {
    while BUSY
        .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        cpu::relax();
    }
    print_now(message);
    BUSY.store(false, Ordering::Release);
}

/// Prints without waiting for whoever is printing: for the last words of a guest.
pub fn print_now(message: fmt::Arguments<'_>) {
    // The UART's write_str cannot fail.
    let _ = Uart.write_fmt(message);
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($message:tt)*) => { $crate::console::print(format_args!($($message)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($message:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($message)*))) };
}
