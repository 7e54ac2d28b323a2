//! The machine's console: one UART that the log and every VM write to, a line at a time.
//!
//! Who may write when is decided by [`Screen`]; here are its lock, its clock and its port. The lock is
//! held for one byte of a guest or for what the UART takes at once, never while it sends: what waits
//! is sent on by whoever writes next or by the next [`tick`], which comes every millisecond while the
//! UART has no room, and when a line has waited for its end. (UARTs interrupt for room too, each in a
//! way of its own; at 115,200 baud a tick fills a FIFO of 16 in time.) Until there are ticks, the log
//! alone writes, and polls.

use crate::arch::counter;
use crate::driver::uart::Uart;
use crate::tty::{LOG, Port, Pumped, Screen};
use crate::warn;
use alloc::string::String;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::{Mutex, MutexGuard};

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
        if let Self::Uart(uart) = self {
            return uart.send(byte);
        }
        matches!(self, Self::Missing)
    }
}

struct Console {
    screen: Screen,
    line: Line,
    /// Ticks of the counter between two looks whether there is room; 0 before [`tick`] is called.
    period: u64,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    screen: Screen::new(),
    line: Line::Unknown,
    period: 0,
});

/// The console, for what is rarer than a byte.
#[inline(never)]
fn console() -> MutexGuard<'static, Console> {
    CONSOLE.lock()
}

/// When [`tick`] has something to do, ticks; the greatest: never.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);
/// Whether the machine is about to stop, so that everything is to be sent at once.
static LAST_WORDS: AtomicBool = AtomicBool::new(false);

/// How long a port that takes nothing is waited for; what would have been written is lost then.
struct Patience(u64);

impl Patience {
    /// A guest's byte, or one of the log, waits 2^20 ticks: a hundredth of a second and more.
    const BYTE: u64 = 1 << 20;
    /// All that waits has 2^28 ticks: several seconds.
    const ALL: u64 = 1 << 28;

    fn new(ticks: u64) -> Self {
        Self(counter::now() + ticks)
    }

    fn is_over(&self) -> bool {
        counter::now() > self.0
    }
}

impl Console {
    fn pump(&mut self, now: u64) -> Pumped {
        self.screen.pump(now, BUDGET, &mut self.line)
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
        let patience = Patience::new(Patience::BYTE);
        while !self.screen.queue(LOG, byte, counter::now()) {
            if matches!(self.line, Line::Unknown) || patience.is_over() {
                return;
            }
            let _ = self.pump(u64::MAX);
        }
    }
}

/// Shows what can be shown now, and sees to the rest being shown later.
fn advance() {
    let patience = Patience::new(Patience::ALL);
    loop {
        let now = counter::now();
        let (pumped, period) = {
            let mut console = self::console();
            if matches!(console.line, Line::Unknown) {
                return;
            }
            (console.pump(now), console.period)
        };
        match pumped {
            Pumped::Done(due) => return due.into_iter().for_each(wake_at),
            Pumped::Blocked if period != 0 => return wake_at(now + period),
            Pumped::Blocked if patience.is_over() => return,
            Pumped::Blocked | Pumped::More => core::hint::spin_loop(),
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

/// When [`tick`] has to be called, ticks; the greatest: never.
#[inline(always)]
#[must_use]
pub fn due() -> u64 {
    DUE.load(Ordering::Relaxed)
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
    console().line = Line::Uart(uart);
    advance();
}

/// From now on [`tick`] is called, and the UART's interrupt served. Unfinished lines are shown after a
/// tenth of a second: longer than a vCPU that shares its CPU is away. The counter runs at `frequency`
/// Hz.
pub fn start(frequency: u32) {
    let mut console = self::console();
    console.screen.set_patience(u64::from(frequency / 10));
    console.period = u64::from(frequency / 1000).max(1);
    match &console.line {
        Line::Unknown => console.line = Line::Missing,
        Line::Uart(uart) => uart.listen(true),
        Line::Missing => {}
    }
}

/// Acknowledges the UART's interrupt, where that is not done by serving it.
pub fn acknowledge() {
    if let Line::Uart(uart) = &console().line {
        uart.acknowledge();
    }
}

/// A new writer, whose lines begin with `prefix` where there are several.
#[must_use]
pub fn open(prefix: String) -> Writer {
    console().screen.open(prefix)
}

/// `writer` has written its last.
pub fn close(writer: Writer) {
    console().screen.close(writer, counter::now());
    advance();
}

/// Whether lines begin with their writers' names.
pub fn set_named(named: bool) {
    console().screen.set_named(named, counter::now());
}

/// Shows what `writer` writes as it comes.
pub fn set_focus(writer: Writer) {
    console().screen.set_focus(writer, counter::now());
    advance();
}

/// Has `text` stand below all that is written; nothing where it is empty.
pub fn prompt(text: String) {
    console().screen.set_prompt(text, counter::now());
    advance();
}

/// Answers the operator by a line of the log that is none of its levels'.
pub fn say(text: fmt::Arguments<'_>) {
    // Writing to the console can't fail.
    let _ = writeln!(console(), "{text}");
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

/// What is not sent straight.
#[inline(never)]
fn queue(writer: Writer, byte: u8) -> bool {
    let patience = Patience::new(Patience::BYTE);
    while !console().screen.queue(writer, byte, counter::now()) && !patience.is_over() {
        advance();
    }
    advance();
    !console().screen.full(writer)
}

/// A byte from the keyboard, if one has come.
#[must_use]
pub fn get() -> Option<u8> {
    match &console().line {
        Line::Uart(uart) => uart.get(),
        _ => None,
    }
}

/// Takes bytes from the keyboard, or leaves them where they are.
pub fn listen(on: bool) {
    if let Line::Uart(uart) = &console().line {
        uart.listen(on);
    }
}

/// Sends everything that waits, before the machine stops.
pub fn drain() {
    let patience = Patience::new(Patience::ALL);
    loop {
        match console().pump(u64::MAX) {
            Pumped::Done(_) => return,
            Pumped::More => {}
            Pumped::Blocked if patience.is_over() => return,
            Pumped::Blocked => core::hint::spin_loop(),
        }
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
        if crate::arch::faulted() {
            // SAFETY: this CPU goes no further than its dump, and may itself be the lock's holder.
            unsafe { seize() };
        }
        // Writing to the console can't fail.
        let _ = writeln!(console(), "[{level}] {}", record.args());
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
                    warn!(
                        "loglevel={name}: expected off, error, warn, info, debug, trace or 0 to 8"
                    );
                    continue;
                }
            },
        };
        log::set_max_level(filter);
    }
}
