//! QEMU with its console on pipes: shown, matched, fed, and ended in time.
//!
//! The console goes through this process in every mode, so that a match is found where it spans two reads, and so that the
//! terminal is ours to restore. QEMU is always killed by its own process id, and on Linux it also dies with us.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use regex::Regex;
use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::progress::shown;

/// Ends an interactive run: Ctrl-], as in telnet, where QEMU has Ctrl-A x. Ctrl-A is the hypervisor's.
const QUIT: u8 = 0x1d;
/// How far back a match may begin.
const WINDOW: usize = 64 * 1024;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The console matched.
    Matched,
    /// Time was up.
    TimedOut,
    /// QEMU ended by itself.
    Exited(ExitStatus),
    /// The user asked for the end, or nobody reads standard output any more.
    Quit,
    /// This process got a signal.
    Signal(i32),
}

/// Where the console's input comes from.
#[derive(Clone, Debug)]
pub enum Input {
    /// Standard input, raw if it is a terminal.
    Standard,
    /// For each pair: when the console has matched the expression since the last, the text is typed.
    Script(Vec<(Regex, String)>),
}

/// A run to be had.
#[derive(Clone, Debug)]
pub struct Session {
    /// Ends the run when the console matches it.
    pub until: Option<Regex>,
    /// Ends the run.
    pub timeout: Option<Duration>,
    /// What is typed.
    pub input: Input,
    /// Whether the console is shown on standard output.
    pub show: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The console's text, without carriage returns and escape sequences.
    pub text: String,
}

enum Event {
    Output(Vec<u8>),
    End,
    Quit,
    Signal(i32),
}

/// An expression for console text: `^` and `$` match at every line.
pub fn expression(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(text)
        .multi_line(true)
        .build()
        .map_err(|error| error.to_string())
}

/// Runs `command` until its end or that of the session.
pub fn run(command: &mut Command, session: Session) -> anyhow::Result<Outcome> {
    let standard = matches!(session.input, Input::Standard);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    if !standard {
        command.stderr(Stdio::piped());
    }
    die_with_us(command);
    let mut qemu = Qemu(command.spawn().with_context(|| shown(command))?);
    let (sender, events) = mpsc::channel();
    let outputs = [
        qemu.0
            .stdout
            .take()
            .map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        qemu.0
            .stderr
            .take()
            .map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ];
    let mut open = 0;
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        open += 1;
        thread::spawn(move || forward(output, &sender));
    }
    let keys = qemu.0.stdin.take();
    let mut typist = Typist {
        script: Vec::new(),
        keys: None,
        seen: 0,
    };
    let _raw = match session.input {
        Input::Standard => {
            watch_signals(&sender)?;
            let raw = RawTerminal::enter();
            let interactive = raw.is_some();
            if let Some(keys) = keys {
                thread::spawn(move || type_standard_input(keys, interactive, &sender));
            }
            raw
        }
        Input::Script(script) => {
            typist = Typist {
                script,
                keys,
                seen: 0,
            };
            None
        }
    };

    let deadline = session.timeout.map(|timeout| Instant::now() + timeout);
    let mut console = Console::default();
    loop {
        let event = match deadline {
            // Output that never pauses would be received for ever.
            Some(deadline) if Instant::now() >= deadline => Err(RecvTimeoutError::Timeout),
            Some(deadline) => {
                events.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let ending = match event {
            Ok(Event::Output(bytes)) => {
                let shown = !session.show || show(&bytes);
                console.push(&bytes);
                typist.answer(&console.text);
                let matched = session
                    .until
                    .as_ref()
                    .is_some_and(|until| until.is_match(console.recent()));
                match (matched, shown) {
                    (true, _) => Some(Ending::Matched),
                    (false, true) => None,
                    (false, false) => Some(Ending::Quit),
                }
            }
            Ok(Event::End) => {
                open -= 1;
                if open == 0 {
                    Some(Ending::Exited(qemu.ended()?))
                } else {
                    None
                }
            }
            Ok(Event::Quit) => Some(Ending::Quit),
            Ok(Event::Signal(signal)) => Some(Ending::Signal(signal)),
            Err(RecvTimeoutError::Timeout) => Some(Ending::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Some(Ending::Exited(qemu.ended()?)),
        };
        if let Some(ending) = ending {
            return Ok(Outcome {
                ending,
                text: console.text,
            });
        }
    }
}

/// The exit status that a shell would give.
#[must_use]
pub fn shell_status(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

/// The child, killed by its own process id and waited for when this goes.
struct Qemu(Child);

impl Qemu {
    /// How it ended, once its output has. It gets a moment to do so.
    fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > patience {
                self.0.kill()?;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Has the child killed if this process, or the thread that spawns it, dies without a chance to do it.
#[cfg(target_os = "linux")]
fn die_with_us(command: &mut Command) {
    use rustix::process::{Signal, set_parent_process_death_signal};
    let request = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    // SAFETY: the closure makes one prctl system call, which is async-signal-safe, and touches no memory of the parent.
    unsafe { command.pre_exec(request) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_us(_: &mut Command) {}

fn forward(mut output: impl Read, events: &Sender<Event>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        if events
            .send(Event::Output(buffer[..count].to_vec()))
            .is_err()
        {
            return;
        }
    }
    let _ = events.send(Event::End);
}

fn watch_signals(events: &Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let events = events.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn type_standard_input(mut keys: ChildStdin, interactive: bool, events: &Sender<Event>) {
    let mut buffer = [0; 1024];
    let mut input = io::stdin().lock();
    while let Ok(count @ 1..) = input.read(&mut buffer) {
        let typed = &buffer[..count];
        if interactive && typed.contains(&QUIT) {
            let _ = events.send(Event::Quit);
            return;
        }
        if keys.write_all(typed).and_then(|()| keys.flush()).is_err() {
            return;
        }
    }
    // QEMU's character device takes the end of its input for the end of the line: keep it open.
    thread::park();
}

fn show(bytes: &[u8]) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

/// Types the next answer when the console has asked.
struct Typist {
    script: Vec<(Regex, String)>,
    keys: Option<ChildStdin>,
    seen: usize,
}

impl Typist {
    fn answer(&mut self, text: &str) {
        while let Some((question, answer)) = self.script.first() {
            let Some(found) = question.find(&text[self.seen..]) else {
                return;
            };
            self.seen += found.end();
            if let Some(keys) = &mut self.keys {
                let _ = keys
                    .write_all(answer.as_bytes())
                    .and_then(|()| keys.flush());
            }
            self.script.remove(0);
        }
    }
}

/// The console's text, cleaned as it comes.
#[derive(Default)]
struct Console {
    text: String,
    escape: Escape,
    pending: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    Sequence,
}

impl Console {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.escape = match (self.escape, byte) {
                (Escape::None, 0x1b) => Escape::Begun,
                (Escape::Begun, b'[') => Escape::Sequence,
                (Escape::Sequence, 0x40..=0x7e) | (Escape::Begun, _) => Escape::None,
                (Escape::Sequence, _) => Escape::Sequence,
                (Escape::None, b'\r') => Escape::None,
                (Escape::None, byte) => {
                    self.pending.push(byte);
                    Escape::None
                }
            };
        }
        // A character may be cut in two by a read; what can be none is replaced.
        let (valid, rest) = match std::str::from_utf8(&self.pending) {
            Ok(_) => (self.pending.len(), 0),
            Err(error) if error.error_len().is_none() => (
                error.valid_up_to(),
                self.pending.len() - error.valid_up_to(),
            ),
            Err(_) => (self.pending.len(), 0),
        };
        self.text
            .push_str(&String::from_utf8_lossy(&self.pending[..valid]));
        self.pending.drain(..self.pending.len() - rest);
    }

    /// The text that a match may lie in.
    fn recent(&self) -> &str {
        let start = self.text.len().saturating_sub(WINDOW);
        let start = (start..=self.text.len())
            .find(|&i| self.text.is_char_boundary(i))
            .unwrap_or(0);
        // The window begins at a line, so that `^` means one.
        let window = &self.text[start..];
        match (start, window.find('\n')) {
            (0, _) | (_, None) => window,
            (_, Some(end)) => &window[end + 1..],
        }
    }
}

/// The terminal in raw mode, set back when this goes.
struct RawTerminal(Termios);

impl RawTerminal {
    /// Nothing if standard input is no terminal, or not ours at the moment.
    fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let ours = termios::tcgetpgrp(stdin).ok() == Some(rustix::process::getpgrp());
        if !io::stdin().is_terminal() || !ours {
            return None;
        }
        let before = termios::tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Lines of this tool and of QEMU's errors still end as usual.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        termios::tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str, session: Session) -> Outcome {
        run(Command::new("sh").args(["-c", text]), session).unwrap()
    }

    fn session(until: Option<&str>, timeout: u64) -> Session {
        Session {
            until: until.map(|text| expression(text).unwrap()),
            timeout: Some(Duration::from_secs(timeout)),
            input: Input::Script(Vec::new()),
            show: false,
        }
    }

    #[test]
    fn a_match_is_found_across_reads_escapes_and_line_ends() {
        let text = r"printf 'one\r\nhel'; sleep 0.2; printf '\033[1mlo\033[0m wor'; sleep 0.2; printf 'ld\r\n'; sleep 30";
        let outcome = script(text, session(Some("^hello world$"), 20));
        assert_eq!(outcome.ending, Ending::Matched);
        assert!(
            outcome.text.starts_with("one\nhello world"),
            "{:?}",
            outcome.text
        );
    }

    #[test]
    fn time_runs_out_and_the_child_is_gone() {
        let begun = Instant::now();
        let outcome = script("echo $$; exec sleep 60", session(Some("never"), 1));
        assert_eq!(outcome.ending, Ending::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(10));
        #[cfg(target_os = "linux")]
        assert!(
            !std::path::Path::new("/proc")
                .join(outcome.text.trim())
                .exists()
        );
    }

    #[test]
    fn a_match_in_the_last_words_counts_and_else_the_end_is_reported() {
        assert_eq!(
            script("printf bye", session(Some("bye"), 20)).ending,
            Ending::Matched
        );
        let Ending::Exited(status) = script("exit 3", session(Some("never"), 20)).ending else {
            panic!("no exit")
        };
        assert_eq!(shell_status(status), 3);
    }

    #[test]
    fn a_script_types_its_answers_in_turn() {
        let answers = [("name", "Ada\n"), ("age", "36\n")];
        let input =
            answers.map(|(question, answer)| (expression(question).unwrap(), answer.to_owned()));
        let asked = Session {
            input: Input::Script(input.into()),
            ..session(None, 20)
        };
        let outcome = script(
            "printf name; read n; printf age; read a; echo \" is $n $a\"",
            asked,
        );
        assert!(outcome.text.ends_with("is Ada 36\n"), "{}", outcome.text);
    }

    #[test]
    fn a_character_cut_by_a_read_is_whole_in_the_text() {
        let mut console = Console::default();
        console.push(&[b'a', 0xc3]);
        assert_eq!(console.text, "a");
        console.push(&[0xa4, 0xff]);
        assert_eq!(console.text, "a\u{e4}\u{fffd}");
    }
}
