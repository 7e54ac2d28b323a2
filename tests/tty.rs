//! The console's discipline: whatever the writers do and however slow the port, each line is one
//! writer's, and nothing is lost or reordered.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use armillary::tty::{
    ESCAPE, FULL, Key, Keys, LINE, LOG, Port, Pumped, RING, Ring, Screen, Writer,
};
use proptest::prelude::*;

const PATIENCE: u64 = 100;
const BUDGET: usize = 1 << 20;

/// A port that takes so many bytes and no more.
#[derive(Default)]
struct Tape {
    text: Vec<u8>,
    room: usize,
}

impl Port for Tape {
    fn send(&mut self, byte: u8) -> bool {
        let room = self.text.len() < self.room;
        if room {
            self.text.push(byte);
        }
        room
    }
}

/// Two or more writers beside the log. Each writes a letter of its own, so that whose a byte is can
/// be seen: `w` writes the letter `a + w`, its lines begin with `<w>`.
struct Desk {
    screen: Screen,
    tape: Tape,
    now: u64,
    written: Vec<Vec<u8>>,
}

impl Desk {
    fn new(writers: usize, named: bool) -> Self {
        let mut screen = Screen::new();
        screen.set_patience(PATIENCE);
        screen.set_named(named, 0);
        for writer in 1..=writers {
            assert_eq!(screen.open(format!("<{writer}>")), writer);
        }
        screen.set_focus(1, 0);
        let written = vec![Vec::new(); writers + 1];
        let tape = Tape {
            room: usize::MAX,
            ..Tape::default()
        };
        Self {
            screen,
            tape,
            now: 1000,
            written,
        }
    }

    /// As a guest's store to its UART: straight, or queued.
    fn put(&mut self, writer: Writer, byte: u8) {
        if writer != LOG && self.screen.direct(writer, byte, &mut self.tape) {
            self.written[writer].push(byte);
            return;
        }
        let full = self.screen.full(writer);
        if self.screen.queue(writer, byte, self.now) {
            self.written[writer].push(byte);
        } else {
            assert!(full);
        }
    }

    fn line(&mut self, writer: Writer, length: usize) {
        for _ in 0..length {
            self.put(writer, b'a' + writer as u8);
        }
        self.put(writer, b'\n');
    }

    fn pump(&mut self) -> Pumped {
        self.screen.pump(self.now, BUDGET, &mut self.tape)
    }

    fn text(&self) -> &str {
        core::str::from_utf8(&self.tape.text).unwrap()
    }

    /// Reads the tape: each line is one writer's, and all is there. How many lines were broken.
    fn check(&self, named: bool) -> Result<usize, TestCaseError> {
        let mut read = vec![Vec::new(); self.written.len()];
        let mut broken = 0;
        for line in without_prompts(self.text()).split_inclusive('\n') {
            let (content, cut) = match line.strip_suffix("\r\n") {
                Some(content) => (content, true),
                None => (line, false),
            };
            broken += usize::from(cut);
            let (writer, content) = match content.strip_prefix('<') {
                Some(rest) => {
                    prop_assert!(named, "a name where none is to be: {line:?}");
                    let (name, content) = rest.split_once('>').unwrap();
                    (name.parse::<usize>().unwrap(), content)
                }
                None => match content.trim_end_matches('\n').bytes().next() {
                    Some(letter) if !named => (usize::from(letter - b'a'), content),
                    _ => (LOG, content),
                },
            };
            let letter = char::from(b'a' + writer as u8);
            prop_assert!(
                content.chars().all(|c| c == letter || c == '\n'),
                "mixed: {line:?}"
            );
            read[writer].extend(content.bytes());
        }
        prop_assert_eq!(&read, &self.written);
        Ok(broken)
    }
}

/// What a terminal shows: the prompt, which begins with `#`, is erased before anything else comes, and
/// may stand at the end.
fn without_prompts(text: &str) -> String {
    let mut shown = String::new();
    for piece in text.split("\r\x1b[K") {
        let line = shown.rfind('\n').map_or(0, |end| end + 1);
        assert!(shown[line..].is_empty() || shown[line..].starts_with('#'));
        shown.truncate(line);
        shown.push_str(piece);
    }
    let line = shown.rfind('\n').map_or(0, |end| end + 1);
    if shown[line..].starts_with('#') {
        shown.truncate(line);
    }
    assert!(!shown.contains('#'), "a prompt that stayed: {shown:?}");
    shown
}

#[derive(Clone, Debug)]
enum Step {
    /// Letters, and perhaps the line's end.
    Write(Writer, usize, bool),
    Log(usize),
    Wait(u64),
    Room(usize),
    Focus(Writer),
    /// Letters of the prompt; none for none.
    Prompt(usize),
    Pump,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..4usize, 0..80usize, any::<bool>()).prop_map(|(w, n, end)| Step::Write(w, n, end)),
        1 => (1..4usize, 200..600usize, any::<bool>()).prop_map(|(w, n, end)| Step::Write(w, n, end)),
        2 => (1..100usize).prop_map(Step::Log),
        2 => (0..2 * PATIENCE).prop_map(Step::Wait),
        3 => (0..300usize).prop_map(Step::Room),
        1 => (1..4usize).prop_map(Step::Focus),
        2 => (0..4usize).prop_map(Step::Prompt),
        4 => Just(Step::Pump),
    ];
    prop::collection::vec(step, 0..120)
}

fn settings() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn no_line_is_mixed_and_nothing_is_lost_or_reordered(steps in steps()) {
        let mut desk = Desk::new(3, true);
        let mut prompt = String::new();
        for step in steps {
            match step {
                Step::Write(writer, count, end) => {
                    for _ in 0..count {
                        desk.put(writer, b'a' + writer as u8);
                    }
                    if end {
                        desk.put(writer, b'\n');
                    }
                }
                Step::Log(count) if !desk.screen.full(LOG) => desk.line(LOG, count),
                Step::Log(_) => {}
                Step::Wait(ticks) => desk.now += ticks,
                Step::Room(bytes) => desk.tape.room = desk.tape.text.len() + bytes,
                Step::Focus(writer) => desk.screen.set_focus(writer, desk.now),
                Step::Prompt(length) => {
                    prompt = "#123".chars().take(length).collect();
                    desk.screen.set_prompt(prompt.clone(), desk.now);
                }
                Step::Pump => match desk.pump() {
                    Pumped::Done(None) => prop_assert!((0..4).all(|w| desk.screen.empty(w))),
                    // What is promised for a time comes then, not before.
                    Pumped::Done(Some(due)) => {
                        prop_assert!(due > desk.now);
                        let before = desk.tape.text.len();
                        desk.now = due - 1;
                        prop_assert_eq!(desk.pump(), Pumped::Done(Some(due)));
                        prop_assert_eq!(desk.tape.text.len(), before);
                        desk.tape.room = usize::MAX;
                        desk.now = due;
                        let _ = desk.pump();
                        prop_assert!(desk.tape.text.len() > before);
                    }
                    Pumped::Blocked => prop_assert_eq!(desk.tape.room, desk.tape.text.len()),
                    Pumped::More => prop_assert!(false, "the budget was large"),
                },
            }
        }
        desk.tape.room = usize::MAX;
        prop_assert_eq!(desk.screen.pump(u64::MAX, BUDGET, &mut desk.tape), Pumped::Done(None));
        desk.check(true)?;
        let last = desk.text().rsplit('\n').next().and_then(|line| line.rsplit('K').next());
        prop_assert!(prompt.is_empty() || last == Some(&*prompt), "{last:?}");
    }

    #[test]
    fn lines_that_do_not_stand_still_are_not_broken(
        lines in prop::collection::vec((1..4usize, 0..LINE - 1), 0..60),
        room in 1..200usize,
        chunk in 1..40usize,
    ) {
        let mut desk = Desk::new(3, true);
        // Each writer writes its lines a chunk at a time, in turn; time stands still.
        let mut pending = vec![Vec::new(); 4];
        for (writer, length) in lines {
            pending[writer].extend(vec![b'a' + writer as u8; length]);
            pending[writer].push(b'\n');
        }
        pending.iter_mut().for_each(|bytes| bytes.reverse());
        while pending.iter().any(|bytes| !bytes.is_empty()) {
            for (writer, bytes) in pending.iter_mut().enumerate() {
                for _ in 0..chunk {
                    if desk.screen.full(writer) {
                        break;
                    }
                    let Some(byte) = bytes.pop() else { break };
                    desk.put(writer, byte);
                }
                desk.tape.room = desk.tape.text.len() + room;
                let _ = desk.pump();
            }
        }
        desk.tape.room = usize::MAX;
        prop_assert_eq!(desk.pump(), Pumped::Done(None));
        prop_assert_eq!(desk.check(true)?, 0);
    }

    #[test]
    fn one_writer_alone_passes_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..500), room in 0..50usize) {
        let mut desk = Desk::new(1, false);
        for &byte in &bytes {
            desk.tape.room = desk.tape.text.len() + room;
            desk.put(1, byte);
            let _ = desk.pump();
        }
        desk.tape.room = usize::MAX;
        let _ = desk.pump();
        prop_assert_eq!(&desk.tape.text, &bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..settings() })]

    #[test]
    fn a_ring_is_a_bounded_queue(pushes in prop::collection::vec(any::<Option<u8>>(), 0..3 * RING)) {
        let (mut ring, mut queue) = (Ring::new(), std::collections::VecDeque::new());
        for push in pushes {
            match push {
                Some(byte) if queue.len() < RING => {
                    queue.push_back(byte);
                    prop_assert!(ring.push(byte));
                }
                Some(byte) => prop_assert!(!ring.push(byte)),
                None => prop_assert_eq!(ring.pop(), queue.pop_front()),
            }
            prop_assert_eq!(ring.front(), queue.front().copied());
            prop_assert_eq!(ring.len(), queue.len());
        }
    }
}

#[test]
fn a_full_ring_refuses_what_comes() {
    let mut desk = Desk::new(2, true);
    desk.tape.room = 0;
    for n in 0..RING {
        assert_eq!(desk.screen.full(1), n >= FULL);
        assert!(desk.screen.queue(1, b'b', 0));
    }
    assert!(!desk.screen.queue(1, b'b', 0));
    assert!(desk.screen.queue(2, b'c', 0));
}

#[test]
fn the_focused_writer_is_shown_as_it_writes() {
    let mut desk = Desk::new(2, true);
    desk.put(1, b'b');
    assert_eq!(desk.pump(), Pumped::Done(None));
    assert_eq!(desk.text(), "<1>b");
    desk.put(1, b'b');
    assert_eq!(desk.text(), "<1>bb");
}

#[test]
fn another_writers_prompt_is_shown_when_it_has_stood_still() {
    let mut desk = Desk::new(2, true);
    desk.put(2, b'c');
    let due = desk.now + PATIENCE;
    assert_eq!(desk.pump(), Pumped::Done(Some(due)));
    assert_eq!(desk.text(), "");
    desk.now = due;
    assert_eq!(desk.pump(), Pumped::Done(None));
    assert_eq!(desk.text(), "<2>c");
}

#[test]
fn a_line_waits_for_a_prompt_to_stand_still_and_then_breaks_it() {
    let mut desk = Desk::new(2, true);
    desk.put(1, b'b');
    let _ = desk.pump();
    desk.line(2, 3);
    assert_eq!(desk.pump(), Pumped::Done(Some(desk.now + PATIENCE)));
    desk.now += PATIENCE;
    assert_eq!(desk.pump(), Pumped::Done(None));
    desk.put(1, b'b');
    let _ = desk.pump();
    assert_eq!(desk.text(), "<1>b\r\n<2>ccc\n<1>b");
}

#[test]
fn a_line_without_end_holds_up_nobody_for_ever() {
    for named in [true, false] {
        let mut desk = Desk::new(1, named);
        desk.put(1, b'b');
        let _ = desk.pump();
        desk.line(LOG, 3);
        let mut sent = 0;
        while !desk.text().contains("aaa\n") {
            desk.put(1, b'b');
            let _ = desk.pump();
            sent += 1;
        }
        assert!(sent <= LINE);
    }
}

#[test]
fn writers_with_lines_take_turns() {
    let mut desk = Desk::new(3, true);
    desk.tape.room = 0;
    for _ in 0..2 {
        (1..4).for_each(|writer| desk.line(writer, 1));
    }
    desk.tape.room = usize::MAX;
    let _ = desk.pump();
    assert_eq!(desk.text(), "<1>b\n<2>c\n<3>d\n".repeat(2));
}

#[test]
fn a_line_that_went_straight_to_the_port_is_not_broken_at_once() {
    let mut desk = Desk::new(2, true);
    desk.put(1, b'b');
    let _ = desk.pump();
    desk.now += 10 * PATIENCE;
    desk.put(1, b'b');
    desk.screen.set_focus(2, desk.now);
    desk.line(LOG, 1);
    assert_eq!(desk.pump(), Pumped::Done(Some(desk.now + PATIENCE)));
    desk.put(1, b'\n');
    let _ = desk.pump();
    assert_eq!(desk.text(), "<1>bb\na\n");
}

#[test]
fn the_log_goes_first() {
    let mut desk = Desk::new(2, true);
    desk.tape.room = 0;
    desk.line(2, 1);
    desk.line(LOG, 1);
    desk.line(LOG, 2);
    desk.tape.room = usize::MAX;
    let _ = desk.pump();
    assert_eq!(desk.text(), "a\naa\n<2>c\n");
}

#[test]
fn what_waits_keeps_its_name_when_names_are_no_longer_needed() {
    let mut desk = Desk::new(2, true);
    desk.tape.room = 0;
    desk.line(1, 1);
    desk.line(2, 1);
    desk.screen.set_named(false, desk.now);
    desk.tape.room = usize::MAX;
    let _ = desk.pump();
    desk.line(1, 1);
    let _ = desk.pump();
    assert_eq!(desk.text(), "<1>b\n<2>c\nb\n");
}

#[test]
fn a_writer_that_has_gone_is_still_shown_and_its_place_given_away() {
    let mut desk = Desk::new(2, true);
    desk.put(2, b'c');
    let _ = desk.pump();
    desk.screen.close(2, desk.now);
    assert_eq!(desk.screen.open("<3>".into()), 3);
    assert_eq!(desk.pump(), Pumped::Done(None));
    desk.line(1, 0);
    desk.now += PATIENCE;
    let _ = desk.pump();
    assert_eq!(desk.text(), "<2>c\r\n<1>\n");
    assert_eq!(desk.screen.open("<4>".into()), 2);
}

#[test]
fn the_prompt_stands_below_whatever_is_written() {
    let mut desk = Desk::new(2, true);
    desk.screen.set_prompt("# ".into(), desk.now);
    let _ = desk.pump();
    desk.screen.set_prompt("# a".into(), desk.now);
    let _ = desk.pump();
    desk.line(2, 1);
    let _ = desk.pump();
    desk.screen.set_prompt("# b".into(), desk.now);
    let _ = desk.pump();
    assert_eq!(desk.text(), "# a\r\x1b[K<2>c\n# a\r\x1b[K# b");
    desk.screen.set_prompt(String::new(), desk.now);
    assert_eq!(desk.pump(), Pumped::Done(None));
    assert!(desk.text().ends_with("# b\r\x1b[K"));
}

#[test]
fn a_new_prompt_is_shown_between_lines_that_never_end() {
    let mut desk = Desk::new(2, true);
    (0..20).for_each(|_| desk.line(2, 10));
    desk.tape.room = 20;
    let _ = desk.pump();
    desk.screen.set_prompt("# a".into(), desk.now);
    desk.tape.room = 64;
    assert_eq!(desk.pump(), Pumped::Blocked);
    assert!(
        desk.text().contains("c\n# a\r\x1b[K<2>c"),
        "{:?}",
        desk.text()
    );
}

#[test]
fn nobody_writes_straight_over_the_prompt() {
    let mut desk = Desk::new(1, false);
    desk.put(1, b'b');
    let _ = desk.pump();
    desk.screen.set_prompt("# a".into(), desk.now);
    let due = desk.now + PATIENCE;
    assert_eq!(desk.pump(), Pumped::Done(Some(due)));
    desk.now = due;
    assert_eq!(desk.pump(), Pumped::Done(None));
    desk.put(1, b'b');
    assert_eq!(desk.text(), "b\r\n# a");
    assert_eq!(desk.pump(), Pumped::Done(Some(desk.now + PATIENCE)));
    assert_eq!(desk.text(), "b\r\n# a\r\x1b[Kb");
    desk.screen.set_prompt(String::new(), desk.now);
    let _ = desk.pump();
    desk.put(1, b'b');
    assert_eq!(desk.text(), "b\r\n# a\r\x1b[Kbb");
}

#[test]
fn keys_after_the_escape_are_commands() {
    let mut keys = Keys::new();
    let mut typed = |text: &[u8]| {
        text.iter()
            .filter_map(|&byte| keys.key(byte))
            .collect::<Vec<_>>()
    };
    assert_eq!(typed(b"1n"), [Key::Byte(b'1'), Key::Byte(b'n')]);
    assert_eq!(
        typed(&[ESCAPE, b'1', b'1']),
        [Key::Select(1), Key::Byte(b'1')]
    );
    assert_eq!(
        typed(&[ESCAPE, ESCAPE, b'x']),
        [Key::Byte(ESCAPE), Key::Byte(b'x')]
    );
    let commands = [
        (b'n', Key::Next),
        (b'i', Key::Info),
        (b'?', Key::Help),
        (b'h', Key::Shell),
        (b'r', Key::Reset),
        (b'x', Key::Off),
        (b'z', Key::Unknown(b'z')),
    ];
    for (byte, key) in commands {
        assert_eq!(typed(&[ESCAPE, byte]), [key]);
    }
}
