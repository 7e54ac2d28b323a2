//! The machine's console: one UART that the log and every VM write to, a line at a time.
//!
//! Who may write when is decided by [`Screen`]; here are its lock, its clock and its port. The lock is
//! held for one byte of a guest or for what the UART takes at once, never while it sends: what waits
//! is sent on when the UART interrupts for room, by whoever writes next, or by the [`tick`] that a
//! line waiting for its end asks for. Until interrupts are there, the log alone writes, and polls.

use crate::arch::counter;
use crate::driver::uart::Uart;
use crate::tty::{LOG, Port, Pumped, Screen};
use alloc::string::String;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

pub use crate::tty::Writer;

/// Bytes that are sent without letting go of the lock.
const BUDGET: usize = 64;

/// The UART, once there is one.
enum Line {
    /// The device tree has not been read yet.
    Unknown,
    Uart(Uart),
    /// The board has none: what is written is lost.
    Missing,
}

impl Port for Line {
    #[inline(always)]
    fn send(&mut self, byte: u8) -> bool {
        match self {
            Self::Uart(uart) => uart.send(byte),
            Self::Unknown => false,
            Self::Missing => true,
        }
    }
}

struct Console {
    screen: Screen,
    line: Line,
    /// Whether the UART's interrupt is served.
    interrupts: bool,
    /// Whether it is to interrupt for room.
    notified: bool,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    screen: Screen::new(),
    line: Line::Unknown,
    interrupts: false,
    notified: false,
});
/// When [`tick`] has something to do, ticks; the greatest: never.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);
/// Whether the machine is about to stop, so that everything is to be sent at once.
static LAST_WORDS: AtomicBool = AtomicBool::new(false);

impl Console {
    fn pump(&mut self, now: u64) -> Pumped {
        let pumped = self.screen.pump(now, BUDGET, &mut self.line);
        let notify = pumped == Pumped::Blocked && self.interrupts;
        if let Line::Uart(uart) = &self.line
            && self.notified != notify
        {
            self.notified = notify;
            uart.notify(notify);
        }
        pumped
    }

    /// Whether somebody sends on what the port has no room for now.
    const fn served(&self) -> bool {
        self.interrupts || matches!(self.line, Line::Unknown)
    }
}

/// The log's side of it.
impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.write_byte(b'\r');
            }
            self.write_byte(byte);
        }
        Ok(())
    }
}

impl Console {
    /// Queues a byte of the log; the only wait for the port with the lock held, where more is logged
    /// at once than the ring holds.
    fn write_byte(&mut self, byte: u8) {
        while !self.screen.queue(LOG, byte, 0) {
            if matches!(self.line, Line::Unknown) {
                return;
            }
            let _ = self.pump(u64::MAX);
        }
    }
}

/// Shows what can be shown now, and sees to the rest being shown later.
fn advance() {
    loop {
        let now = counter::now();
        let (pumped, served) = {
            let mut console = CONSOLE.lock();
            (console.pump(now), console.served())
        };
        match pumped {
            Pumped::Blocked if served => return,
            Pumped::Blocked | Pumped::More => core::hint::spin_loop(),
            Pumped::Done(None) => return,
            Pumped::Done(Some(due)) => return wake_at(due),
        }
    }
}

/// Has [`tick`] called at `due`, ticks, unless that is so earlier anyway.
pub fn wake_at(due: u64) {
    if due < DUE.load(Ordering::Relaxed) {
        DUE.store(due, Ordering::Relaxed);
        counter::advance_deadline(due);
    }
}

/// When [`tick`] has to be called, ticks.
#[must_use]
pub fn due() -> Option<u64> {
    Some(DUE.load(Ordering::Relaxed)).filter(|due| *due != u64::MAX)
}

/// Does what is due; whether something was.
pub fn tick() -> bool {
    let is_due = DUE.load(Ordering::Relaxed) <= counter::now();
    if is_due {
        DUE.store(u64::MAX, Ordering::Relaxed);
        advance();
    }
    is_due
}

/// Gives the console its UART.
pub fn attach(uart: Uart) {
    CONSOLE.lock().line = Line::Uart(uart);
    advance();
}

/// From now on the UART's interrupt is served, if `interrupts` says so. Unfinished lines are shown
/// after a hundredth of a second; the counter runs at `frequency` Hz.
pub fn start(interrupts: bool, frequency: u32) {
    let mut console = CONSOLE.lock();
    console.screen.set_patience(u64::from(frequency / 100));
    console.interrupts = interrupts;
    match &console.line {
        Line::Unknown => console.line = Line::Missing,
        Line::Uart(uart) if interrupts => uart.listen(true),
        _ => {}
    }
}

/// Serves the UART's interrupt for room.
pub fn interrupt() {
    if let Line::Uart(uart) = &CONSOLE.lock().line {
        uart.acknowledge();
    }
    advance();
}

/// A new writer, whose lines begin with `prefix` where there are several.
#[must_use]
pub fn open(prefix: String) -> Writer {
    CONSOLE.lock().screen.open(prefix)
}

/// `writer` has written its last.
pub fn close(writer: Writer) {
    CONSOLE.lock().screen.close(writer);
    advance();
}

/// Whether lines begin with their writers' names.
pub fn set_named(named: bool) {
    CONSOLE.lock().screen.set_named(named);
}

/// Shows what `writer` writes as it comes.
pub fn set_focus(writer: Writer) {
    CONSOLE.lock().screen.set_focus(writer);
    advance();
}

/// Writes one byte of `writer`; `false` where that one had better wait before the next.
#[inline(always)]
#[must_use]
pub fn put(writer: Writer, byte: u8) -> bool {
    {
        let mut console = CONSOLE.lock();
        let Console { screen, line, .. } = &mut *console;
        if screen.direct(writer, byte, line) {
            return true;
        }
    }
    queue(writer, byte)
}

/// What is not sent straight. A ring that is full has a hundredth of a second to get room; a UART
/// that sends nothing then loses the byte.
#[inline(never)]
fn queue(writer: Writer, byte: u8) -> bool {
    const PATIENCE: u64 = 1 << 20;
    let start = counter::now();
    loop {
        let now = counter::now();
        if CONSOLE.lock().screen.queue(writer, byte, now) || now - start > PATIENCE {
            break;
        }
        advance();
    }
    advance();
    !CONSOLE.lock().screen.full(writer)
}

/// A byte from the keyboard, if one has come.
#[must_use]
pub fn get() -> Option<u8> {
    match &CONSOLE.lock().line {
        Line::Uart(uart) => uart.get(),
        _ => None,
    }
}

/// Takes bytes from the keyboard, or leaves them where they are.
pub fn listen(on: bool) {
    if let Line::Uart(uart) = &CONSOLE.lock().line {
        uart.listen(on);
    }
}

/// Sends everything that waits, before the machine stops.
pub fn drain() {
    while !matches!(CONSOLE.lock().pump(u64::MAX), Pumped::Done(_)) {
        core::hint::spin_loop();
    }
}

/// Takes the console from whoever holds it: for a panic, whose CPU may be that holder.
///
/// # Safety
/// The machine is about to stop; what the holder was writing is lost.
pub unsafe fn seize() {
    LAST_WORDS.store(true, Ordering::Relaxed);
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
        // Writing to the console can't fail.
        let _ = writeln!(CONSOLE.lock(), "[{level}] {}", record.args());
        if LAST_WORDS.load(Ordering::Relaxed) {
            drain();
        } else {
            advance();
        }
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
