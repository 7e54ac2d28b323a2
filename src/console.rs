//! The machine's console: one UART that the log and every VM write to, a line at a time.
//!
//! Until the device tree has said where the UART is, what is written is kept. A writer that finds
//! another's unfinished line begins a new one; with several VMs up, each line begins with its VM's
//! name.

use crate::driver::uart::Uart;
use core::fmt::{self, Write};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

/// Who writes: a VM's number, or [`LOG`].
pub type Writer = u32;
/// The hypervisor's own log.
pub const LOG: Writer = u32::MAX;

const EARLY: usize = 2048;

struct Console {
    uart: Option<Uart>,
    early: [u8; EARLY],
    kept: usize,
    /// Who wrote last, and whether that line is unfinished.
    writer: Writer,
    unfinished: bool,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    uart: None,
    early: [0; EARLY],
    kept: 0,
    writer: LOG,
    unfinished: false,
});

impl Console {
    fn raw(&mut self, byte: u8) {
        match &self.uart {
            Some(uart) => uart.put(byte),
            None if self.kept < EARLY => {
                self.early[self.kept] = byte;
                self.kept += 1;
            }
            None => {}
        }
    }

    fn raw_all(&mut self, text: &str) {
        for byte in text.bytes() {
            self.raw(byte);
        }
    }

    /// Makes the line `writer`'s own.
    fn begin(&mut self, writer: Writer) {
        if self.unfinished && self.writer != writer {
            self.raw_all("\r\n");
            self.unfinished = false;
        }
        self.writer = writer;
    }

    fn put(&mut self, writer: Writer, prefix: &str, byte: u8) {
        if self.writer != writer || !self.unfinished {
            self.begin(writer);
            self.raw_all(prefix);
        }
        self.raw(byte);
        self.unfinished = byte != b'\n';
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.raw(b'\r');
            }
            self.raw(byte);
        }
        Ok(())
    }
}

/// Gives the console its UART, and sends what was kept.
pub fn attach(uart: Uart) {
    let mut console = CONSOLE.lock();
    for byte in &console.early[..console.kept] {
        uart.put(*byte);
    }
    console.kept = 0;
    console.uart = Some(uart);
}

/// Writes one byte of `writer`, whose lines begin with `prefix`.
pub fn put(writer: Writer, prefix: &str, byte: u8) {
    CONSOLE.lock().put(writer, prefix, byte);
}

/// A byte from the keyboard, if one has come.
#[must_use]
pub fn get() -> Option<u8> {
    CONSOLE.lock().uart.as_ref().and_then(Uart::get)
}

/// Takes the console from whoever holds it: for a panic, whose CPU may be that holder.
///
/// # Safety
/// The machine is about to stop; what the holder was writing is lost.
pub unsafe fn seize() {
    // SAFETY: the caller's word.
    unsafe { CONSOLE.force_unlock() };
}

struct ConsoleLog;

impl Log for ConsoleLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let mut console = CONSOLE.lock();
        console.begin(LOG);
        // Writing to the console can't fail.
        let _ = writeln!(console, "[{level}] {}", record.args());
    }

    fn flush(&self) {}
}

/// Starts the log at `info`.
pub fn init() {
    // Fails only where a logger is set already: then this has run before.
    let _ = log::set_logger(&ConsoleLog);
    log::set_max_level(LevelFilter::Info);
}

/// Sets the level by the `loglevel=` word of `words`: a name, or a number as Linux counts them
/// (0–3 error, 4 warn, 5–6 info, 7 debug, 8 trace).
pub fn set_level(words: &str) {
    for word in words.split_ascii_whitespace() {
        let Some(level) = word.strip_prefix("loglevel=") else {
            continue;
        };
        let filter = match level {
            "0" | "1" | "2" | "3" => LevelFilter::Error,
            "4" => LevelFilter::Warn,
            "5" | "6" => LevelFilter::Info,
            "7" => LevelFilter::Debug,
            "8" => LevelFilter::Trace,
            name => match name.parse() {
                Ok(filter) => filter,
                Err(_) => {
                    log::warn!(
                        "loglevel={name}: expected off, error, warn, info, debug, trace or 0 to 8"
                    );
                    continue;
                }
            },
        };
        log::set_max_level(filter);
    }
}
