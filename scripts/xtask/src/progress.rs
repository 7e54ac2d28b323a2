//! Steps that take a while: a spinner with the step's own last line on a terminal, plain lines elsewhere.
//!
//! All of it goes to standard error, so that standard output stays what was asked for.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// A step shorter than this leaves no line behind if it is [`Line::IfSlow`].
const SLOW: Duration = Duration::from_millis(700);

/// Whether a step that went well leaves a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It does.
    Always,
    /// It does if it took long.
    IfSlow,
}

/// Runs `work` as a step called `name`; `work` may say how far it is on the bar.
pub fn step<T>(
    name: &str,
    line: Line,
    work: impl FnOnce(&ProgressBar) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    let begun = Instant::now();
    let result = work(&bar);
    bar.finish_and_clear();
    let took = begun.elapsed();
    let outcome = if result.is_ok() { "ok" } else { "FAILED" };
    if result.is_err() || line == Line::Always || took >= SLOW {
        eprintln!("{outcome:>6} {name} ({})", seconds(took));
    }
    result
}

/// Runs `command` as a step; what it prints is shown only if it fails.
pub fn command(name: &str, line: Line, command: &mut Command) -> anyhow::Result<()> {
    step(name, line, |bar| {
        let (succeeded, output) = captured(command, |text| bar.set_message(text.to_owned()))?;
        if !succeeded {
            bail!("{}\n{name} failed: {}", output.trim_end(), shown(command));
        }
        Ok(())
    })
}

/// Runs `command` to its end: whether it succeeded, and both of its outputs. `each` sees every line.
pub fn captured(command: &mut Command, each: impl Fn(&str)) -> anyhow::Result<(bool, String)> {
    let (reader, writer) = std::io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn().with_context(|| shown(command))?;
    // The command holds the pipe's other end as long as its outputs are set.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let output = lines(reader, each)?;
    Ok((child.wait()?.success(), output))
}

fn lines(source: impl Read, each: impl Fn(&str)) -> anyhow::Result<String> {
    let mut output = String::new();
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    while source.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        each(text.trim_end());
        output.push_str(&text);
        line.clear();
    }
    Ok(output)
}

/// A command line as a shell would take it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A duration for people.
#[must_use]
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

/// `text` in bold where standard error is a terminal.
#[must_use]
pub fn bold(text: &str) -> String {
    if std::io::stderr().is_terminal() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_takes_it() {
        let mut command = Command::new("qemu");
        command.args(["-append", "it's 1", "", "a,b=c"]);
        assert_eq!(shown(&command), r"qemu -append 'it'\''s 1' '' a,b=c");
    }

    #[test]
    fn a_failed_command_shows_what_it_printed() {
        let mut script = Command::new("sh");
        script.args(["-c", "echo out; echo err >&2; exit 3"]);
        let error = command("a script", Line::IfSlow, &mut script)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("out\n") && error.contains("err\n") && error.contains("a script failed"),
            "{error}"
        );
    }
}
