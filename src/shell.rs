//! The operator's shell as far as it is text: the line that is being typed, and what a line means.
//!
//! Whatever bytes come, the editor stays a line of at most [`LINE`] characters and a history of
//! [`HISTORY`] lines. What can't be understood is a [`Hint`] at what was meant.

use alloc::string::String;
use core::fmt;

/// What stands before the line.
pub const PROMPT: &str = "armillary> ";
/// The most characters of a line: with the prompt less than a terminal's 80.
pub const LINE: usize = 64;
/// The most lines that are remembered, and one that is being typed.
pub const HISTORY: usize = 8;

/// What a byte that was typed comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The line may have changed.
    Edited,
    /// A line is complete.
    Line(String),
    /// What is left of the cursor is to be completed.
    Complete,
    /// The screen is to be cleared.
    Clear,
}

/// How much of an escape sequence has come (ECMA-48, 5.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Escape {
    None,
    Begun,
    /// The introducer, and the first parameter byte or 0.
    Sequence(u8),
}

/// A line: printable ASCII.
#[derive(Clone, Copy, Debug)]
struct Line {
    bytes: [u8; LINE],
    count: usize,
}

impl Line {
    const EMPTY: Self = Self {
        bytes: [0; LINE],
        count: 0,
    };

    fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.count).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Puts `byte` at `place`; whether there was room.
    fn insert(&mut self, place: usize, byte: u8) -> bool {
        let Some(tail) = self.bytes.get_mut(place..=self.count) else {
            return false;
        };
        let mut moved = byte;
        for place in tail {
            moved = core::mem::replace(place, moved);
        }
        self.count += 1;
        true
    }

    /// Takes out what is at `place`, if anything is.
    fn remove(&mut self, place: usize) {
        if let Some(tail) = self.bytes.get_mut(place..self.count) {
            let mut moved = 0;
            for place in tail.iter_mut().rev() {
                moved = core::mem::replace(place, moved);
            }
            self.count = self.count.saturating_sub(1);
        }
    }
}

/// The line that is being typed.
#[derive(Debug)]
pub struct Editor {
    line: Line,
    cursor: usize,
    escape: Escape,
    /// Line number n at n % [`HISTORY`]. The last holds what is being typed while another is shown.
    lines: [Line; HISTORY],
    /// The number of the line that is being typed, and of the one that is shown.
    last: usize,
    shown: usize,
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

/// What the key `letter` sends with Ctrl held down.
const fn ctrl(letter: u8) -> u8 {
    letter & 0x1f
}
const CTRL_A: u8 = ctrl(b'A');
const CTRL_B: u8 = ctrl(b'B');
const CTRL_C: u8 = ctrl(b'C');
const CTRL_D: u8 = ctrl(b'D');
const CTRL_E: u8 = ctrl(b'E');
const CTRL_F: u8 = ctrl(b'F');
const BACKSPACE: u8 = ctrl(b'H');
const CTRL_K: u8 = ctrl(b'K');
const CTRL_L: u8 = ctrl(b'L');
const CTRL_N: u8 = ctrl(b'N');
const CTRL_P: u8 = ctrl(b'P');
const CTRL_U: u8 = ctrl(b'U');
const CTRL_W: u8 = ctrl(b'W');
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

impl Editor {
    /// Nothing typed so far.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            line: Line::EMPTY,
            cursor: 0,
            escape: Escape::None,
            lines: [Line::EMPTY; HISTORY],
            last: 0,
            shown: 0,
        }
    }

    /// The line, and how many characters of it are left of the cursor.
    #[must_use]
    pub fn line(&self) -> (&str, usize) {
        (self.line.text(), self.cursor)
    }

    /// What is to be on the screen: prompt, line, and the cursor where it is.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut shown = alloc::format!("{PROMPT}{}", self.line.text());
        // Each goes one column back.
        (self.cursor..self.line.count).for_each(|_| shown.push('\x08'));
        shown
    }

    /// `byte` has been typed.
    pub fn key(&mut self, byte: u8) -> Event {
        match self.unescape(byte) {
            Some(b'\r' | b'\n') => return self.enter(),
            Some(b'\t') => return Event::Complete,
            Some(CTRL_L) => return Event::Clear,
            // The key itself, not the one that deletes.
            Some(CTRL_D) if byte == CTRL_D && self.line.count == 0 => {
                return Event::Line("exit".into());
            }
            Some(byte) => self.edit(byte),
            None => {}
        }
        Event::Edited
    }

    /// Types `byte` at the cursor, if it is printable ASCII and there is room.
    pub fn insert(&mut self, byte: u8) {
        if matches!(byte, b' '..=b'~') && self.line.insert(self.cursor, byte) {
            self.cursor += 1;
        }
    }

    /// The key that `byte` is or ends: that of an escape sequence as the control character of the
    /// same meaning.
    fn unescape(&mut self, byte: u8) -> Option<u8> {
        let before = core::mem::replace(&mut self.escape, Escape::None);
        match (before, byte) {
            (_, ESCAPE) => self.escape = Escape::Begun,
            (_, ..b' ') | (Escape::None, _) => return Some(byte),
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Sequence(0),
            (Escape::Begun, _) => {}
            (Escape::Sequence(first), b' '..=b'?') => {
                self.escape = Escape::Sequence(if first == 0 { byte } else { first });
            }
            (Escape::Sequence(first), _) => return key_of(first, byte),
        }
        None
    }

    fn edit(&mut self, byte: u8) {
        let (here, end) = (self.cursor, self.line.count);
        let left = here.saturating_sub(1);
        let right = end.min(here + 1);
        match byte {
            CTRL_A => self.cursor = 0,
            CTRL_B => self.cursor = left,
            CTRL_E => self.cursor = end,
            CTRL_F => self.cursor = right,
            CTRL_C => {
                self.remove(0, end);
                self.shown = self.last;
            }
            CTRL_D => self.remove(here, right),
            BACKSPACE | DELETE => self.remove(left, here),
            CTRL_K => self.remove(here, end),
            CTRL_U => self.remove(0, here),
            CTRL_W => self.remove(self.word(), here),
            CTRL_P => self.show(self.shown.wrapping_sub(1)),
            CTRL_N => self.show(self.shown.wrapping_add(1)),
            _ => self.insert(byte),
        }
    }

    fn remove(&mut self, from: usize, to: usize) {
        for _ in from..to {
            self.line.remove(from);
        }
        self.cursor = from;
    }

    /// Where the word left of the cursor begins.
    fn word(&self) -> usize {
        let mut start = self.cursor;
        for blank in [true, false] {
            while let Some(before) = start.checked_sub(1)
                && self
                    .line
                    .bytes
                    .get(before)
                    .is_some_and(|byte| (*byte == b' ') == blank)
            {
                start = before;
            }
        }
        start
    }

    /// Shows line number `number`, if it is still there.
    fn show(&mut self, number: usize) {
        let ago = self.last.wrapping_sub(number);
        if ago >= HISTORY || ago > self.last {
            return;
        }
        if self.shown == self.last {
            self.lines[self.last % HISTORY] = self.line;
        }
        self.line = self.lines[number % HISTORY];
        (self.cursor, self.shown) = (self.line.count, number);
    }

    fn enter(&mut self) -> Event {
        let line = core::mem::replace(&mut self.line, Line::EMPTY);
        let same = self.lines[self.last.wrapping_sub(1) % HISTORY].text() == line.text();
        if line.count != 0 && !same {
            self.lines[self.last % HISTORY] = line;
            self.last = self.last.wrapping_add(1);
        }
        (self.cursor, self.shown) = (0, self.last);
        Event::Line(line.text().into())
    }
}

/// What an escape sequence means by its first parameter byte and its last byte.
const fn key_of(first: u8, last: u8) -> Option<u8> {
    Some(match (last, first) {
        (b'A', _) => CTRL_P,
        (b'B', _) => CTRL_N,
        (b'C', _) => CTRL_F,
        (b'D', _) => CTRL_B,
        (b'H', _) | (b'~', b'1' | b'7') => CTRL_A,
        (b'F', _) | (b'~', b'4' | b'8') => CTRL_E,
        (b'~', b'3') => CTRL_D,
        _ => return None,
    })
}

/// What is done with one VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "the words themselves, which the table explains"
)]
pub enum Verb {
    Info,
    Pause,
    Resume,
    Reset,
    Destroy,
    Start,
    Console,
}

/// What a line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// What can be typed, or what the word of this number does.
    Help(Option<usize>),
    /// The VMs.
    List,
    /// Something of the VM that is so called.
    Vm(Verb, &'a str),
    /// What all vCPUs have done.
    Stats,
    /// The registers of a VM's vCPU.
    Registers(&'a str, usize),
    /// Memory.
    Memory,
    /// Interrupts.
    Interrupts,
    /// The log's level, or a new one: a place in [`LEVELS`].
    Log(Option<usize>),
    /// Start the machine anew.
    Reboot,
    /// Leave the shell.
    Exit,
}

/// What may follow a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Alone(Command<'static>),
    Vm(Verb),
    Help,
    Registers,
    Log,
}

/// The words as they are typed, in the order of [`WORDS`].
const NAMES: [&str; 16] = [
    "help", "list", "info", "pause", "resume", "reset", "destroy", "start", "console", "stats",
    "regs", "mem", "irq", "log", "reboot", "exit",
];

/// Every word: what may follow it, and how it is used.
static WORDS: [(Form, &str); NAMES.len()] = [
    (Form::Help, "help    [WORD]    this, or what WORD does"),
    (Form::Alone(Command::List), "list              the VMs"),
    (
        Form::Vm(Verb::Info),
        "info    VM        a VM and its vCPUs, with their exits by kind",
    ),
    (
        Form::Vm(Verb::Pause),
        "pause   VM        stop a VM's vCPUs where they are",
    ),
    (
        Form::Vm(Verb::Resume),
        "resume  VM        let a paused VM go on",
    ),
    (Form::Vm(Verb::Reset), "reset   VM        begin a VM anew"),
    (
        Form::Vm(Verb::Destroy),
        "destroy VM        end a VM for good",
    ),
    (
        Form::Vm(Verb::Start),
        "start   VM        start a VM that is off",
    ),
    (
        Form::Vm(Verb::Console),
        "console VM        leave, and type to a VM",
    ),
    (
        Form::Alone(Command::Stats),
        "stats             info of every VM",
    ),
    (Form::Registers, "regs    VM [VCPU] a vCPU's registers"),
    (
        Form::Alone(Command::Memory),
        "mem               RAM: free, the hypervisor's, the VMs'",
    ),
    (
        Form::Alone(Command::Interrupts),
        "irq               the machine's interrupts, and the VMs'",
    ),
    (Form::Log, "log     [LEVEL]   show or set the log's level"),
    (
        Form::Alone(Command::Reboot),
        "reboot            reset the machine",
    ),
    (Form::Alone(Command::Exit), "exit              leave"),
];

/// The log's levels, as `log::LevelFilter` counts them.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How the word of this number is used, a line; `None` where there are fewer.
#[must_use]
pub fn usage(word: usize) -> Option<&'static str> {
    WORDS.get(word).map(|word| word.1)
}

/// What is wrong with a line, and what may have been meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint<'a> {
    /// Nothing of this kind is called so, but perhaps something nearly.
    Unknown(Kind, &'a str, Option<&'a str>),
    /// Several things begin so: the first two.
    Ambiguous(&'a str, [&'a str; 2]),
    /// The word is not used so.
    Usage(&'static str),
}

/// What is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Word,
    Vm,
    Level,
}

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(_, typed, Some(near)) => write!(f, "{typed}: {near}, perhaps?"),
            Self::Unknown(kind, typed, None) => {
                let whatever = match kind {
                    Kind::Word => "no such word: help shows them",
                    Kind::Vm => "no such VM: list shows them",
                    Kind::Level => "no such level: off, error, warn, info, debug or trace",
                };
                write!(f, "{typed}: {whatever}")
            }
            Self::Ambiguous(typed, [one, other]) => write!(f, "{typed}: {one} or {other}?"),
            Self::Usage(usage) => f.write_str(usage),
        }
    }
}

/// The place in `names` of what `typed` is, or alone begins.
///
/// # Errors
/// What may have been meant.
pub fn choose<'a>(kind: Kind, typed: &'a str, names: &[&'a str]) -> Result<usize, Hint<'a>> {
    let mut begun = None;
    let mut nearest = (typed.len() / 2 + 1, None);
    for (place, name) in names.iter().enumerate() {
        if *name == typed {
            return Ok(place);
        }
        if name.starts_with(typed) {
            begun = match begun {
                None => Some(Ok(place)),
                Some(Ok(first)) => Some(Err((first, *name))),
                more => more,
            };
        }
        let distance = distance(typed, name);
        if distance < nearest.0 {
            nearest = (distance, Some(*name));
        }
    }
    match begun {
        None => Err(Hint::Unknown(kind, typed, nearest.1)),
        Some(Ok(place)) => Ok(place),
        Some(Err((first, second))) => {
            let first = names.get(first).copied().unwrap_or_default();
            Err(Hint::Ambiguous(typed, [first, second]))
        }
    }
}

/// How many characters have to be put in, left out or changed to come from `typed` to the first 31
/// of `name`.
fn distance(typed: &str, name: &str) -> usize {
    let mut row: [usize; 32] = core::array::from_fn(|n| n);
    for (above, a) in typed.bytes().enumerate() {
        let (mut diagonal, mut left) = (above, above + 1);
        let [first, rest @ ..] = &mut row;
        *first = left;
        for (b, here) in name.bytes().zip(rest) {
            let changed = diagonal + usize::from(a != b);
            diagonal = *here;
            left = changed.min(left + 1).min(*here + 1);
            *here = left;
        }
    }
    row[name.len().min(31)]
}

/// The first four words of `line`; empty ones where it has fewer.
fn words(line: &str) -> [&str; 4] {
    let mut words = [""; 4];
    let (mut count, mut start) = (0, 0);
    for (end, byte) in line.bytes().chain([b' ']).enumerate() {
        if byte == b' ' {
            if start < end
                && let Some(word) = words.get_mut(count)
            {
                *word = line.get(start..end).unwrap_or_default();
                count += 1;
            }
            start = end + 1;
        }
    }
    words
}

/// The number that `text` is, if it is one of at most four digits.
#[must_use]
pub fn number(text: &str) -> Option<usize> {
    let digits = Some(text).filter(|text| (1..=4).contains(&text.len()))?;
    digits.bytes().try_fold(0, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        Some(10 * number + usize::from(digit))
    })
}

/// What `line` asks for; `None` where it is empty.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &str) -> Result<Option<Command<'_>>, Hint<'_>> {
    let [first, one, two, three] = words(line);
    if first.is_empty() {
        return Ok(None);
    }
    let place = choose(Kind::Word, first, &NAMES)?;
    let (form, usage) = &WORDS[place % WORDS.len()];
    let wrong = Err(Hint::Usage(usage));
    Ok(Some(match (*form, one, two, three) {
        (Form::Alone(command), "", ..) => command,
        (Form::Help, "", ..) => Command::Help(None),
        (Form::Log, "", ..) => Command::Log(None),
        (Form::Alone(_), ..) | (_, "", ..) => return wrong,
        (Form::Registers, vm, "", _) => Command::Registers(vm, 0),
        (Form::Registers, vm, vcpu, "") => match number(vcpu) {
            Some(vcpu) => Command::Registers(vm, vcpu),
            None => return wrong,
        },
        (Form::Vm(verb), vm, "", _) => Command::Vm(verb, vm),
        (Form::Help, word, "", _) => Command::Help(Some(choose(Kind::Word, word, &NAMES)?)),
        (Form::Log, level, "", _) => Command::Log(Some(choose(Kind::Level, level, &LEVELS)?)),
        _ => return wrong,
    }))
}

/// What the last word of `before`, which is left of the cursor, may be: what of it is there, and
/// names, where those of VMs are `vms`.
fn candidates<'a, 'b>(before: &'b str, vms: &'a [&'a str]) -> (&'b str, &'a [&'a str]) {
    let words = words(before);
    let count = words.iter().take_while(|word| !word.is_empty()).count();
    let begun = match words.get(count.wrapping_sub(1)) {
        Some(word) if !before.ends_with(' ') => word,
        _ => "",
    };
    let names: &[&str] = match (count - usize::from(!begun.is_empty()), words[0]) {
        (0, _) | (1, "help") => &NAMES,
        (1, "log") => &LEVELS,
        (1, _) => vms,
        _ => &[],
    };
    (begun, names)
}

/// How the line of which `before` is left of the cursor can go on, where those of VMs are `vms`:
/// what is common to all names that begin so and is still to be typed, and whether it is one name.
/// `each` is called with the names.
pub fn complete<'a>(
    before: &str,
    vms: &'a [&'a str],
    mut each: impl FnMut(&'a str),
) -> (&'a str, bool) {
    let (begun, names) = candidates(before, vms);
    let (mut common, mut count) = ("", 0);
    for name in names.iter().filter(|name| name.starts_with(begun)) {
        each(name);
        if count == 0 {
            common = name;
        }
        let same = common.bytes().zip(name.bytes());
        let same = same.take_while(|(a, b)| a == b).count();
        common = common.get(..same).unwrap_or_default();
        count += 1;
    }
    (common.get(begun.len()..).unwrap_or_default(), count == 1)
}
