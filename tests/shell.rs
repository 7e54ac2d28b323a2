//! The shell's text: a line is edited as by a naive model, whatever is typed; what it means, and hints.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use armillary::shell::{
    Command, Editor, Event, HISTORY, LEVELS, LINE, PROMPT, Verb, complete, parse, usage,
};
use proptest::prelude::*;

/// The editor as one would write it down: a list of characters, and a list of lines.
#[derive(Default)]
struct Model {
    left: Vec<char>,
    right: Vec<char>,
    lines: Vec<String>,
    draft: String,
    place: usize,
}

#[derive(Clone, Copy, Debug)]
enum Key {
    Letter(char),
    Backspace,
    Delete,
    Left,
    Right,
    Home,
    End,
    Up,
    Down,
    KillLeft,
    KillRight,
    KillWord,
    Drop,
    Enter,
}

impl Key {
    /// What terminals send for it.
    fn bytes(self, way: usize) -> Vec<u8> {
        let ways: &[&[u8]] = match self {
            Self::Letter(c) => return vec![c as u8],
            Self::Backspace => &[b"\x7f", b"\x08"],
            Self::Delete => &[b"\x1b[3~", b"\x1b[3;5~"],
            Self::Left => &[b"\x1b[D", b"\x1bOD", b"\x02"],
            Self::Right => &[b"\x1b[C", b"\x1b[1;5C", b"\x06"],
            Self::Home => &[b"\x1b[H", b"\x1b[1~", b"\x1b[7~", b"\x01"],
            Self::End => &[b"\x1b[F", b"\x1b[4~", b"\x1b[8~", b"\x05"],
            Self::Up => &[b"\x1b[A", b"\x10"],
            Self::Down => &[b"\x1b[B", b"\x0e"],
            Self::KillLeft => &[b"\x15"],
            Self::KillRight => &[b"\x0b"],
            Self::KillWord => &[b"\x17"],
            Self::Drop => &[b"\x03"],
            Self::Enter => &[b"\r", b"\n"],
        };
        ways[way % ways.len()].to_vec()
    }
}

impl Model {
    fn text(&self) -> String {
        self.left.iter().chain(self.right.iter().rev()).collect()
    }

    fn set(&mut self, text: &str) {
        self.left = text.chars().collect();
        self.right.clear();
    }

    fn press(&mut self, key: Key) -> Option<String> {
        match key {
            Key::Letter(c) if self.left.len() + self.right.len() < LINE => self.left.push(c),
            Key::Letter(_) => {}
            Key::Backspace => drop(self.left.pop()),
            Key::Delete => drop(self.right.pop()),
            Key::Left => self.right.extend(self.left.pop()),
            Key::Right => self.left.extend(self.right.pop()),
            Key::Home => (0..LINE).for_each(|_| self.right.extend(self.left.pop())),
            Key::End => (0..LINE).for_each(|_| self.left.extend(self.right.pop())),
            Key::KillLeft => self.left.clear(),
            Key::KillRight => self.right.clear(),
            Key::KillWord => {
                while self.left.pop_if(|c| *c == ' ').is_some() {}
                while self.left.pop_if(|c| *c != ' ').is_some() {}
            }
            Key::Drop => {
                self.set("");
                self.place = self.lines.len();
            }
            Key::Up | Key::Down => self.turn(matches!(key, Key::Up)),
            Key::Enter => {
                let text = self.text();
                if !text.is_empty() && self.lines.last() != Some(&text) {
                    self.lines.push(text.clone());
                }
                self.set("");
                self.place = self.lines.len();
                return Some(text);
            }
        }
        None
    }

    fn turn(&mut self, up: bool) {
        let first = (self.lines.len() + 1).saturating_sub(HISTORY);
        let place = if up {
            self.place.wrapping_sub(1)
        } else {
            self.place + 1
        };
        if !(first..=self.lines.len()).contains(&place) {
            return;
        }
        if self.place == self.lines.len() {
            self.draft = self.text();
        }
        let shown = self.lines.get(place).unwrap_or(&self.draft).clone();
        self.set(&shown);
        self.place = place;
    }
}

fn keys() -> impl Strategy<Value = Vec<(Key, usize)>> {
    use Key::*;
    let key = prop_oneof![
        12 => prop::sample::select(vec!['a', 'b', 'z', ' ', '~', '!']).prop_map(Letter),
        10 => prop::sample::select(vec![
            Backspace, Delete, Left, Right, Home, End, Up, Down, KillLeft, KillRight, KillWord, Drop, Enter,
        ]),
        2 => Just(Up),
        1 => Just(Enter),
    ];
    prop::collection::vec((key, 0..4usize), 0..400)
}

fn settings() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    }
}

fn answer(line: &str) -> String {
    match parse(line) {
        Ok(command) => format!("{command:?}"),
        Err(hint) => hint.to_string(),
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_line_is_edited_as_by_the_naive_model(keys in keys()) {
        let (mut editor, mut model) = (Editor::new(), Model::default());
        for (key, way) in keys {
            let mut line = None;
            for byte in key.bytes(way) {
                if let Event::Line(text) = editor.key(byte) {
                    line = Some(text);
                }
            }
            prop_assert_eq!(line, model.press(key));
            let text = model.text();
            prop_assert_eq!(editor.line(), (&*text, model.left.len()));
            let back = "\x08".repeat(model.right.len());
            prop_assert_eq!(editor.shown(), format!("{PROMPT}{text}{back}"));
        }
    }

    #[test]
    fn whatever_is_typed_the_line_stays_a_line(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut editor = Editor::new();
        for byte in bytes {
            if let Event::Line(line) = editor.key(byte) {
                prop_assert!(line.len() <= LINE);
            }
            let (line, cursor) = editor.line();
            prop_assert!(line.len() <= LINE && cursor <= line.len());
            prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        }
        // It is back to its senses after an escape sequence at the most.
        editor.key(3);
        editor.key(b'x');
        prop_assert!(editor.line().0.ends_with('x'));
    }

    #[test]
    fn whatever_a_line_is_there_is_an_answer(line in "[ -~]{0,70}", vms in prop::collection::vec("[ -~]{1,31}", 0..4)) {
        let vms: Vec<&str> = vms.iter().map(|name| &**name).collect();
        if let Err(hint) = parse(&line) {
            prop_assert!(!hint.to_string().is_empty());
        }
        complete(&line, &vms, |_| ());
    }

    #[test]
    fn a_name_completes_to_itself(name in "[a-z]{1,31}", begun in 0..31usize) {
        let typed = &name[..begun.min(name.len())];
        let others = ["UPPER", "CASE"];
        let vms = [&*name, others[0], others[1]];
        let mut seen = Vec::new();
        let before = format!("regs {typed}");
        let (more, whole) = complete(&before, &vms, |name| seen.push(name));
        if typed.is_empty() {
            prop_assert_eq!((more, whole, seen.len()), ("", false, 3));
        } else {
            prop_assert_eq!((format!("{typed}{more}"), whole), (name.clone(), true));
            prop_assert_eq!(seen, [&*name]);
        }
    }
}

#[test]
fn every_word_is_explained_and_understood() {
    assert_eq!((0..).map_while(usage).count(), 16);
    for usage in (0..).map_while(usage) {
        let (name, follows) = (usage[..8].trim(), usage[8..18].trim());
        assert!(usage.len() > 18 && usage.len() < 80, "{usage}");
        let argument = match follows {
            "" => "",
            "VM" | "VM [VCPU]" => "one",
            "[WORD]" => "help",
            "[LEVEL]" => "info",
            other => panic!("{other}"),
        };
        assert!(parse(&format!("{name} {argument}")).unwrap().is_some());
        assert_eq!(
            parse(name).is_ok(),
            argument.is_empty() || follows.starts_with('[')
        );
        assert!(parse(&format!("{name} {argument} 1 1")).is_err());
    }
}

#[test]
fn words_can_be_cut_short_as_long_as_they_are_unique() {
    assert_eq!(answer("li"), "Some(List)");
    assert_eq!(answer("reb"), "Some(Reboot)");
    assert_eq!(answer("res one"), "res: resume or reset?");
    assert_eq!(answer("l"), "l: list or log?");
    assert_eq!(
        parse(" rese  one "),
        Ok(Some(Command::Vm(Verb::Reset, "one")))
    );
    assert_eq!(parse("regs one 3"), Ok(Some(Command::Registers("one", 3))));
    assert_eq!(
        parse("log d"),
        Ok(Some(Command::Log(
            LEVELS.iter().position(|l| *l == "debug")
        )))
    );
    assert_eq!(parse(""), Ok(None));
    assert_eq!(parse("   "), Ok(None));
}

#[test]
fn a_word_mistyped_brings_the_nearest() {
    for (typed, meant) in [
        ("lsit", "list"),
        ("quit", "exit"),
        ("paus3", "pause"),
        ("hlep", "help"),
        ("desroy", "destroy"),
    ] {
        assert_eq!(answer(typed), format!("{typed}: {meant}, perhaps?"));
    }
    assert_eq!(answer("xyzzy"), "xyzzy: no such word: help shows them");
    assert_eq!(
        answer("regs one -1"),
        "regs    VM [VCPU] a vCPU's registers"
    );
    assert_eq!(
        answer("regs one 99999999999999999999999"),
        "regs    VM [VCPU] a vCPU's registers"
    );
}

#[test]
fn ctrl_d_leaves_where_the_line_is_empty() {
    let mut editor = Editor::new();
    assert_eq!(editor.key(4), Event::Line("exit".into()));
    editor.key(b'a');
    assert_eq!(editor.key(4), Event::Edited);
    assert_eq!(editor.key(b'\t'), Event::Complete);
    assert_eq!(editor.key(12), Event::Clear);
    assert_eq!(editor.line(), ("a", 1));
}
