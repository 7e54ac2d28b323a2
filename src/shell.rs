//! The operator's shell as far as it is text: the line that is being typed, and what a line means.
//!
//! Whatever bytes come, the editor stays a line of at most [`LINE`] characters and a history of
//! [`HISTORY`] lines. What can't be understood is a [`Hint`] at what was meant.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use log::LevelFilter;

/// What stands before the line.
pub const PROMPT: &str = "armillary> ";
/// The most characters of a line: with the prompt less than a terminal's 80.
pub const LINE: usize = 64;
/// The most lines that are remembered.
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
    Escape,
    /// The introducer, and the first parameter byte or 0.
    Sequence(u8),
}

/// The line that is being typed.
#[derive(Debug)]
pub struct Editor {
    text: Vec<u8>,
    cursor: usize,
    escape: Escape,
    /// The oldest first.
    history: Vec<Vec<u8>>,
    /// Which line of the history is shown; behind the last: what is being typed.
    place: usize,
    /// What was being typed before the history was shown.
    draft: Vec<u8>,
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
            text: Vec::new(),
            cursor: 0,
            escape: Escape::None,
            history: Vec::new(),
            place: 0,
            draft: Vec::new(),
        }
    }

    /// The line, and how many characters of it are left of the cursor.
    #[must_use]
    pub fn line(&self) -> (&str, usize) {
        (text(&self.text), self.cursor)
    }

    /// What is to be on the screen: prompt, line, and the cursor where it is.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.text.len() - self.cursor {
            0 => alloc::format!("{PROMPT}{}", text(&self.text)),
            back => alloc::format!("{PROMPT}{}\x1b[{back}D", text(&self.text)),
        }
    }

    /// `byte` has been typed.
    pub fn key(&mut self, byte: u8) -> Event {
        match self.unescape(byte) {
            Some(b'\r' | b'\n') => return self.enter(),
            Some(b'\t') => return Event::Complete,
            Some(CTRL_L) => return Event::Clear,
            Some(CTRL_D) if self.text.is_empty() => return Event::Line("exit".into()),
            Some(byte) => self.edit(byte),
            None => {}
        }
        Event::Edited
    }

    /// Types `text` at the cursor, as far as there is room.
    pub fn insert(&mut self, text: &str) {
        for byte in text.bytes() {
            if matches!(byte, b' '..=b'~') && self.text.len() < LINE {
                self.text.insert(self.cursor, byte);
                self.cursor += 1;
            }
        }
    }

    /// The key that `byte` is or ends: that of an escape sequence as the control character of the
    /// same meaning.
    fn unescape(&mut self, byte: u8) -> Option<u8> {
        let before = core::mem::replace(&mut self.escape, Escape::None);
        match (before, byte) {
            (_, ESCAPE) => self.escape = Escape::Escape,
            (_, ..b' ') | (Escape::None, _) => return Some(byte),
            (Escape::Escape, b'[' | b'O') => self.escape = Escape::Sequence(0),
            (Escape::Escape, _) => {}
            (Escape::Sequence(first), b' '..=b'?') => {
                self.escape = Escape::Sequence(if first == 0 { byte } else { first });
            }
            (Escape::Sequence(first), _) => return key_of(first, byte),
        }
        None
    }

    fn edit(&mut self, byte: u8) {
        let end = self.text.len();
        match byte {
            CTRL_A => self.cursor = 0,
            CTRL_B => self.cursor = self.cursor.saturating_sub(1),
            CTRL_E => self.cursor = end,
            CTRL_F => self.cursor = end.min(self.cursor + 1),
            CTRL_C => {
                self.text.clear();
                (self.cursor, self.place) = (0, self.history.len());
            }
            CTRL_D => self.remove(self.cursor, end.min(self.cursor + 1)),
            BACKSPACE | DELETE => self.remove(self.cursor.saturating_sub(1), self.cursor),
            CTRL_K => self.remove(self.cursor, end),
            CTRL_U => self.remove(0, self.cursor),
            CTRL_W => self.remove(self.word(), self.cursor),
            CTRL_P => self.show(self.place.checked_sub(1)),
            CTRL_N => self.show(Some(self.place + 1)),
            _ => self.insert(text(&[byte])),
        }
    }

    fn remove(&mut self, from: usize, to: usize) {
        self.text.drain(from..to);
        self.cursor = from;
    }

    /// Where the word left of the cursor begins.
    fn word(&self) -> usize {
        let mut start = self.cursor;
        for blank in [true, false] {
            while start > 0 && (self.text.get(start - 1) == Some(&b' ')) == blank {
                start -= 1;
            }
        }
        start
    }

    /// Shows a line of the history, if there is one at `place`.
    fn show(&mut self, place: Option<usize>) {
        let count = self.history.len();
        let Some(place) = place.filter(|&place| place <= count) else {
            return;
        };
        let shown = self.history.get(place).unwrap_or(&self.draft).clone();
        let before = core::mem::replace(&mut self.text, shown);
        if self.place == count {
            self.draft = before;
        }
        (self.cursor, self.place) = (self.text.len(), place);
    }

    fn enter(&mut self) -> Event {
        let line = core::mem::take(&mut self.text);
        let event = Event::Line(text(&line).into());
        if !line.trim_ascii().is_empty() && self.history.last() != Some(&line) {
            if self.history.len() == HISTORY {
                self.history.remove(0);
            }
            self.history.push(line);
        }
        (self.cursor, self.place) = (0, self.history.len());
        event
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

/// The text of a line, which is ASCII; nothing for what is not.
fn text(line: &[u8]) -> &str {
    core::str::from_utf8(line).unwrap_or_default()
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
    /// What can be typed, or what the word of this place in [`WORDS`] does.
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
    /// The log's level, or a new one.
    Log(Option<LevelFilter>),
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

/// A word of the shell.
#[derive(Debug)]
pub struct Word {
    form: Form,
    about: &'static str,
}

/// The words as they are typed, in the order of [`WORDS`].
const NAMES: [&str; 16] = [
    "help", "list", "info", "pause", "resume", "reset", "destroy", "start", "console", "stats",
    "regs", "mem", "irq", "log", "reboot", "exit",
];

const fn word(form: Form, about: &'static str) -> Word {
    Word { form, about }
}

/// Every word: what may follow it, and what it is for.
pub static WORDS: [Word; NAMES.len()] = [
    word(Form::Help, "this, or what WORD does"),
    word(Form::Alone(Command::List), "the VMs"),
    word(
        Form::Vm(Verb::Info),
        "a VM and its vCPUs, with their exits by kind",
    ),
    word(Form::Vm(Verb::Pause), "stop a VM's vCPUs where they are"),
    word(Form::Vm(Verb::Resume), "let a paused VM go on"),
    word(Form::Vm(Verb::Reset), "begin a VM anew"),
    word(Form::Vm(Verb::Destroy), "end a VM for good"),
    word(Form::Vm(Verb::Start), "start a VM that is off"),
    word(Form::Vm(Verb::Console), "leave, and type to a VM"),
    word(Form::Alone(Command::Stats), "info of every VM"),
    word(Form::Registers, "a vCPU's registers"),
    word(
        Form::Alone(Command::Memory),
        "RAM: free, the hypervisor's, the VMs'",
    ),
    word(
        Form::Alone(Command::Interrupts),
        "the machine's interrupts, and the VMs'",
    ),
    word(Form::Log, "show or set the log's level"),
    word(Form::Alone(Command::Reboot), "reset the machine"),
    word(Form::Alone(Command::Exit), "leave"),
];

/// The log's levels, as [`LevelFilter`] counts them.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How the word of this place in [`WORDS`] is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage(pub usize);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(name), Some(word)) = (NAMES.get(self.0), WORDS.get(self.0)) else {
            return Ok(());
        };
        let follows = match word.form {
            Form::Alone(_) => "",
            Form::Vm(_) => "VM",
            Form::Help => "[WORD]",
            Form::Registers => "VM [VCPU]",
            Form::Log => "[LEVEL]",
        };
        write!(f, "{name:8}{follows:10}{}", word.about)
    }
}

/// What is wrong with a line, and what may have been meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint<'a> {
    /// Nothing of this kind is called so, but perhaps something nearly.
    Unknown(Kind, &'a str, Option<&'a str>),
    /// Several things begin so: the first two.
    Ambiguous(&'a str, [&'a str; 2]),
    /// The word is not used so.
    Usage(Usage),
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
            Self::Usage(usage) => usage.fmt(f),
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

/// What `line` asks for; `None` where it is empty.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &str) -> Result<Option<Command<'_>>, Hint<'_>> {
    let mut words = line.split_ascii_whitespace();
    let Some(first) = words.next() else {
        return Ok(None);
    };
    let place = choose(Kind::Word, first, &NAMES)?;
    let wrong = Hint::Usage(Usage(place));
    let form = WORDS.get(place).map(|word| word.form);
    let command = match (form, words.next()) {
        (Some(Form::Alone(command)), None) => command,
        (Some(Form::Vm(verb)), Some(vm)) => Command::Vm(verb, vm),
        (Some(Form::Help), None) => Command::Help(None),
        (Some(Form::Help), Some(word)) => Command::Help(Some(choose(Kind::Word, word, &NAMES)?)),
        (Some(Form::Registers), Some(vm)) => {
            let vcpu = words.next().unwrap_or("0");
            Command::Registers(vm, vcpu.parse().map_err(|_| wrong)?)
        }
        (Some(Form::Log), None) => Command::Log(None),
        (Some(Form::Log), Some(level)) => {
            let level = choose(Kind::Level, level, &LEVELS)?;
            Command::Log(LevelFilter::iter().nth(level))
        }
        _ => return Err(wrong),
    };
    match words.next() {
        None => Ok(Some(command)),
        Some(_) => Err(wrong),
    }
}

/// How a line can go on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Completion<'a> {
    /// What is to be typed at the cursor: as much as is common to all of `names`.
    pub more: String,
    /// What the line's last word may be.
    pub names: Vec<&'a str>,
}

/// How the line of which `before` is left of the cursor can go on, where `vms` are the VMs' names.
#[must_use]
pub fn complete<'a>(before: &str, vms: &[&'a str]) -> Completion<'a> {
    let (done, begun) = before.rsplit_once(' ').unwrap_or(("", before));
    let mut done = done.split_ascii_whitespace();
    let form = |first| WORDS.get(choose(Kind::Word, first, &NAMES).ok()?);
    let names = match (done.next(), done.next()) {
        (None, _) => &NAMES[..],
        (Some(first), None) => match form(first).map(|word| word.form) {
            Some(Form::Help) => &NAMES[..],
            Some(Form::Log) => &LEVELS,
            Some(Form::Vm(_) | Form::Registers) => vms,
            _ => &[],
        },
        _ => &[],
    };
    let begins = |name: &&&str| name.starts_with(begun);
    let names: Vec<&str> = names.iter().filter(begins).copied().collect();
    let Some((first, others)) = names.split_first() else {
        return Completion::default();
    };
    let common = others.iter().fold(first.len(), |common, other| {
        let same = first.bytes().zip(other.bytes()).take(common);
        same.take_while(|(a, b)| a == b).count()
    });
    let mut more: String = first.get(begun.len()..common).unwrap_or_default().into();
    if others.is_empty() {
        more.push(' ');
    }
    Completion { more, names }
}
