//! The console's discipline: many writers on one screen, one keyboard among many readers.
//!
//! Each writer has a ring of its own, so a slow port holds up nobody but who has filled his. The
//! screen belongs to one line at a time: a writer's line is shown whole, and another's begins where
//! it has ended. A line counts as ended, too, when it has stood still for a while (a prompt) or has
//! grown beyond [`LINE`]; it is then broken only if another writer has something to show.
//!
//! The one whose turn it clearly is writes straight to the port ([`Screen::direct`]); everything else
//! is queued ([`Screen::queue`]) and shown by whoever calls [`Screen::pump`] next.
//!
//! Below all lines there may be a prompt ([`Screen::set_prompt`]): it is taken away for whatever comes,
//! and shown again behind it.

use alloc::string::String;
use alloc::vec::Vec;

/// A line of this many bytes is shown without waiting for its end.
pub const LINE: usize = 256;
/// Bytes that a ring holds; a power of two.
pub const RING: usize = 2048;
/// A writer with this many bytes waiting should wait.
pub const FULL: usize = RING / 2;

/// Bytes in the order in which they came; never more than [`RING`].
pub struct Ring {
    bytes: [u8; RING],
    head: usize,
    count: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; RING],
            head: 0,
            count: 0,
        }
    }

    /// Adds a byte; whether there was room.
    #[must_use]
    pub const fn push(&mut self, byte: u8) -> bool {
        if self.count >= RING {
            return false;
        }
        self.bytes[(self.head + self.count) % RING] = byte;
        self.count += 1;
        true
    }

    /// The oldest byte.
    #[must_use]
    pub const fn front(&self) -> Option<u8> {
        if self.count == 0 {
            return None;
        }
        Some(self.bytes[self.head % RING])
    }

    /// Takes the oldest byte.
    pub const fn pop(&mut self) -> Option<u8> {
        let byte = self.front();
        if byte.is_some() {
            self.head = (self.head + 1) % RING;
            self.count -= 1;
        }
        byte
    }

    /// Bytes in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets everything.
    pub const fn clear(&mut self) {
        self.count = 0;
    }
}

/// Where the screen's bytes go.
pub trait Port {
    /// Sends `byte`; `false` where there is no room now.
    fn send(&mut self, byte: u8) -> bool;
}

/// Who writes: [`LOG`], or what [`Screen::open`] gave.
pub type Writer = usize;
/// The hypervisor's own log: always there, its lines without a name and shown when they are whole.
pub const LOG: Writer = 0;
const NOBODY: Writer = usize::MAX;
/// Whose line is the prompt: it has no bytes but its name.
const PROMPT: Writer = usize::MAX / 2;
/// Takes the prompt from the screen: back to the first column, and what follows is erased.
const ERASE: &[u8] = b"\r\x1b[K";

struct Stream {
    prefix: String,
    ring: Ring,
    /// Line ends in the ring.
    ends: usize,
    /// When something was last queued, ticks.
    last: u64,
    open: bool,
}

impl Stream {
    const fn new(prefix: String) -> Self {
        Self {
            prefix,
            ring: Ring::new(),
            ends: 0,
            last: 0,
            open: true,
        }
    }
}

/// What [`Screen::pump`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Pumped {
    /// There is nothing to show, or nothing before this time, ticks.
    Done(Option<u64>),
    /// The port has no room.
    Blocked,
    /// The budget is used up.
    More,
}

/// One screen and its writers.
pub struct Screen {
    log: Stream,
    vms: Vec<Stream>,
    /// For how long a line stands still before it may be broken or shown unfinished, ticks.
    patience: u64,
    /// Whether lines begin with their writers' names, and whether they are to once nothing that has
    /// been written before waits any more.
    named: bool,
    naming: bool,
    /// Whose lines are shown as they come.
    focus: Writer,
    /// Who writes straight to the port.
    direct: Writer,
    /// Whose line is on the screen, and whether it is unfinished.
    owner: Writer,
    unfinished: bool,
    /// Bytes of that line, as far as they were queued.
    length: usize,
    /// What is still to be sent of a line break.
    breaking: &'static [u8],
    /// How much of the owner's name has been sent.
    prefixed: usize,
    prompt: String,
    /// Whether the prompt is new, so that it comes before the VMs' next lines.
    fresh: bool,
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

impl Screen {
    /// A screen with nobody but the log.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            log: Stream::new(String::new()),
            vms: Vec::new(),
            patience: 0,
            named: false,
            naming: false,
            focus: NOBODY,
            direct: NOBODY,
            owner: LOG,
            unfinished: false,
            length: 0,
            breaking: &[],
            prefixed: 0,
            prompt: String::new(),
            fresh: false,
        }
    }

    /// Sets for how long a line stands still before it may be broken or is shown unfinished, ticks.
    pub const fn set_patience(&mut self, ticks: u64) {
        self.patience = ticks;
    }

    /// A new writer, whose lines begin with `prefix` where lines are named.
    pub fn open(&mut self, prefix: String) -> Writer {
        let stream = Stream::new(prefix);
        let free = |stream: &Stream| !stream.open && stream.ring.is_empty();
        if let Some(place) = self.vms.iter().position(free)
            && self.owner != place + 1
            && let Some(old) = self.vms.get_mut(place)
        {
            *old = stream;
            return place + 1;
        }
        self.vms.push(stream);
        self.vms.len()
    }

    /// `writer` has written its last; what it has queued is still shown. The time is `now`.
    pub fn close(&mut self, writer: Writer, now: u64) {
        self.revoke(now);
        if let Some(stream) = self.stream_mut(writer) {
            stream.open = false;
        }
    }

    /// Has lines begin with their writers' names, or not. What waits to be shown keeps its name. The
    /// time is `now`.
    pub fn set_named(&mut self, named: bool, now: u64) {
        self.naming = named;
        self.named = named || self.named && !self.idle();
        self.revoke(now);
    }

    /// Shows what `writer` writes as it comes, not line by line. The time is `now`.
    pub fn set_focus(&mut self, writer: Writer, now: u64) {
        self.focus = writer;
        self.revoke(now);
    }

    /// Has `text`, less than a terminal's line, stand below all that is written; nothing where it is
    /// empty. The time is `now`.
    pub fn set_prompt(&mut self, text: String, now: u64) {
        self.revoke(now);
        if self.owner == PROMPT {
            let shown = self.prefix().get(..self.prefixed).unwrap_or_default();
            if !text.as_bytes().starts_with(shown) {
                self.breaking = ERASE;
                self.prefixed = 0;
            }
            if text.is_empty() {
                self.owner = LOG;
            }
        }
        self.fresh = !text.is_empty() && self.owner != PROMPT;
        self.prompt = text;
    }

    /// Nobody writes straight to the port any more. Whoever did has been writing until now, for all
    /// that is known.
    fn revoke(&mut self, now: u64) {
        let direct = core::mem::replace(&mut self.direct, NOBODY);
        if direct != NOBODY {
            self.length = 0;
            if let Some(stream) = self.stream_mut(direct) {
                stream.last = now;
            }
        }
    }

    /// Sends `byte` of `writer` straight to the port, where it is that one's turn and there is room;
    /// whether that has been done.
    #[inline(always)]
    pub fn direct(&mut self, writer: Writer, byte: u8, port: &mut impl Port) -> bool {
        if self.direct != writer || !port.send(byte) {
            return false;
        }
        if byte == b'\n' {
            self.unfinished = false;
            if self.named {
                self.direct = NOBODY;
            }
        } else {
            self.unfinished = true;
        }
        true
    }

    /// Queues `byte` of `writer` at the time `now`; whether there was room.
    #[must_use]
    pub fn queue(&mut self, writer: Writer, byte: u8, now: u64) -> bool {
        self.revoke(now);
        let Some(stream) = self.stream_mut(writer) else {
            return true;
        };
        if !stream.ring.push(byte) {
            return false;
        }
        stream.last = now;
        stream.ends += usize::from(byte == b'\n');
        true
    }

    /// Whether `writer` had better wait before it writes more.
    #[must_use]
    pub fn full(&self, writer: Writer) -> bool {
        self.stream(writer)
            .is_some_and(|stream| stream.ring.len() >= FULL)
    }

    /// Whether nothing of `writer` is queued.
    #[must_use]
    pub fn empty(&self, writer: Writer) -> bool {
        self.stream(writer)
            .is_none_or(|stream| stream.ring.is_empty())
    }

    /// Shows what is to be shown at the time `now`, at most `budget` bytes.
    pub fn pump(&mut self, now: u64, budget: usize, port: &mut impl Port) -> Pumped {
        for _ in 0..budget {
            if self.led() && !self.turn(now) {
                self.let_through();
                return Pumped::Done(self.due(now));
            }
            if !self.emit(port) {
                return Pumped::Blocked;
            }
        }
        Pumped::More
    }

    fn stream(&self, writer: Writer) -> Option<&Stream> {
        match writer {
            LOG => Some(&self.log),
            _ => self.vms.get(writer - 1),
        }
    }

    fn stream_mut(&mut self, writer: Writer) -> Option<&mut Stream> {
        match writer {
            LOG => Some(&mut self.log),
            _ => self.vms.get_mut(writer - 1),
        }
    }

    /// What comes before the owner's own bytes.
    fn prefix(&self) -> &[u8] {
        let prefix = match self.stream(self.owner) {
            Some(stream) => &stream.prefix,
            None => &self.prompt,
        };
        prefix.as_bytes()
    }

    /// Whether the line on the screen has got all that comes before its writer's own bytes.
    fn led(&self) -> bool {
        self.breaking.is_empty() && self.prefixed >= self.prefix().len()
    }

    /// Whether there is a prompt, and it is not on the screen.
    fn covered(&self) -> bool {
        !self.prompt.is_empty() && self.owner != PROMPT
    }

    /// Decides whose byte comes next; whether there is any.
    fn turn(&mut self, now: u64) -> bool {
        if self.unfinished {
            let patience = self.patience;
            if let Some(own) = self.stream(self.owner) {
                let still = own.ring.is_empty();
                let others = || self.next(now).is_some_and(|next| next != self.owner);
                if !still && (self.length < LINE || !others()) {
                    return true;
                }
                if still && self.length < LINE && now.saturating_sub(own.last) < patience {
                    return false;
                }
            }
        }
        let last = || self.covered().then_some(PROMPT);
        let Some(next) = self.next(now).or_else(last) else {
            return false;
        };
        if self.unfinished {
            self.breaking = b"\r\n";
        } else if self.owner == PROMPT {
            self.breaking = ERASE;
        }
        self.owner = next;
        self.unfinished = next != PROMPT;
        self.fresh &= self.unfinished;
        self.length = 0;
        self.prefixed = if self.named || next == PROMPT {
            0
        } else {
            usize::MAX
        };
        true
    }

    /// The next writer who has something that is due: the log, a new prompt, or after the owner and
    /// in turn.
    fn next(&self, now: u64) -> Option<Writer> {
        if self.fresh && !self.is_due(LOG, now) {
            return Some(PROMPT);
        }
        let count = self.vms.len() + 1;
        let others = (1..=count).map(|n| (self.owner + n) % count);
        core::iter::once(LOG)
            .chain(others)
            .find(|&writer| self.is_due(writer, now))
    }

    fn is_due(&self, writer: Writer, now: u64) -> bool {
        self.stream(writer).is_some_and(|stream| {
            !stream.ring.is_empty()
                && (stream.ends != 0
                    || !self.named
                    || writer == self.focus
                    || !stream.open
                    || stream.ring.len() >= LINE
                    || now.saturating_sub(stream.last) >= self.patience)
        })
    }

    /// When something may be shown without anything new, after `now`.
    fn due(&self, now: u64) -> Option<u64> {
        let when = |writer| {
            let stream = self
                .stream(writer)
                .filter(|stream| !stream.ring.is_empty())?;
            let wait = !self.is_due(writer, now);
            Some(if wait {
                stream.last + self.patience
            } else {
                now
            })
        };
        let prompt = self.covered().then_some(now);
        let streams = (0..=self.vms.len()).filter_map(when);
        let first = streams.chain(prompt).min()?;
        let own = match self.stream(self.owner) {
            Some(own) if self.unfinished && self.length < LINE => own.last + self.patience,
            _ => 0,
        };
        Some(first.max(own))
    }

    /// Sends one byte; `false` where there is no room.
    fn emit(&mut self, port: &mut impl Port) -> bool {
        if let [byte, rest @ ..] = self.breaking {
            if !port.send(*byte) {
                return false;
            }
            self.breaking = rest;
            return true;
        }
        if let Some(&byte) = self.prefix().get(self.prefixed) {
            let sent = port.send(byte);
            self.prefixed += usize::from(sent);
            return sent;
        }
        let Some(own) = self.stream_mut(self.owner) else {
            return true;
        };
        let Some(byte) = own.ring.front() else {
            return true;
        };
        if !port.send(byte) {
            return false;
        }
        own.ring.pop();
        own.ends -= usize::from(byte == b'\n');
        self.unfinished = byte != b'\n';
        self.length += 1;
        true
    }

    /// Once nobody has anything queued, lets the owner write straight to the port.
    fn let_through(&mut self) {
        if !self.idle() {
            return;
        }
        self.named = self.naming;
        let mine = if self.named {
            self.owner == self.focus && self.unfinished
        } else {
            self.owner != LOG
        };
        if mine && self.prompt.is_empty() {
            self.direct = self.owner;
        }
    }

    /// Whether nobody has anything queued.
    fn idle(&self) -> bool {
        (0..=self.vms.len()).all(|writer| self.empty(writer))
    }
}

/// What the operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A byte for the guest.
    Byte(u8),
    /// Input goes to the VM of this number.
    Select(usize),
    /// Input goes to the next VM.
    Next,
    /// Open the shell, or leave it.
    Shell,
    /// What there is.
    Info,
    /// What can be typed.
    Help,
    /// Reset the VM that input goes to.
    Reset,
    /// Power the machine off.
    Off,
    /// No command.
    Unknown(u8),
}

/// What begins a command: Ctrl-A.
pub const ESCAPE: u8 = 1;

/// Tells commands from what is typed to a guest.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Nothing typed so far.
    #[must_use]
    pub const fn new() -> Self {
        Self { escaped: false }
    }

    /// What `byte` means; `None` for the first half of a command.
    pub const fn key(&mut self, byte: u8) -> Option<Key> {
        if !self.escaped {
            self.escaped = byte == ESCAPE;
            return if self.escaped {
                None
            } else {
                Some(Key::Byte(byte))
            };
        }
        self.escaped = false;
        Some(match byte {
            // With Ctrl held down or not.
            ESCAPE | b'a' => Key::Byte(ESCAPE),
            digit @ b'0'..=b'9' => Key::Select((digit - b'0') as usize),
            b'n' => Key::Next,
            b'i' => Key::Info,
            b'h' => Key::Shell,
            b'?' => Key::Help,
            b'r' => Key::Reset,
            b'x' => Key::Off,
            other => Key::Unknown(other),
        })
    }
}
