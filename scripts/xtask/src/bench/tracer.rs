//! Runs a machine under QEMU's execution trace, which comes through a pipe: it has some 60 bytes for each instruction.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::trace::{self, Steps};
use crate::progress;
use crate::qemu::Machine;

/// The longest that a trace may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// More instructions than any boot takes.
const LIMIT: usize = 100_000_000;

/// Runs `machine` with a trace of every instruction, until `work` has seen enough of it; with what the console said.
pub(super) fn traced<T>(
    machine: &Machine,
    work: impl FnOnce(Steps<BufReader<ChildStderr>>) -> T,
) -> anyhow::Result<(T, String)> {
    let place = tempfile::tempdir()?;
    let mut command = machine.prepare(&place.path().join("trace.dtb"))?.command;
    command.args(trace::options(&machine.qemu)?);
    let mut qemu = Traced::spawn(&mut command)?;
    let trace = qemu.0.stderr.take().context("no trace")?;
    let console = qemu.0.stdout.take().context("no console")?;
    let keys = qemu.0.stdin.take().context("no keys")?;
    let console = thread::spawn(move || attend(console, keys));
    let id = qemu.0.id();
    let (over, watched) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let late = watched.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if late && let Some(id) = Pid::from_raw(id as i32) {
            // It has not been waited for: the id is still its own.
            let _ = kill_process(id, Signal::KILL);
        }
        late
    });
    let result = work(Steps::new(BufReader::with_capacity(1 << 20, trace)));
    drop(over);
    let late = watch.join().unwrap_or_default();
    drop(qemu);
    let console = console.join().unwrap_or_default();
    if late {
        bail!("it takes longer than {}", progress::seconds(PATIENCE));
    }
    Ok((result, console))
}

/// How many instructions `machine` executes before the first one in `entries`; with what the console said by then.
pub(super) fn count_to(machine: &Machine, entries: &Range<u32>) -> anyhow::Result<(u64, String)> {
    let (count, console) = traced(machine, |steps| {
        steps
            .take(LIMIT)
            .position(|step| entries.contains(&step.pc()))
    })?;
    match count {
        Some(count) => Ok((count as u64, console)),
        None => bail!("{entries:#010x?} was not reached; the console:\n{console}"),
    }
}

/// QEMU, killed by its own process id when this goes.
struct Traced(Child);

impl Traced {
    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().with_context(|| progress::shown(command))?;
        Ok(Self(child))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads the console to its end; when the bench guest is done, ends the hypervisor: a device model does not end by itself.
fn attend(console: impl Read, mut keys: impl Write) -> String {
    let mut text = String::new();
    for line in BufReader::new(console).lines().map_while(Result::ok) {
        if line.contains("bench: done") {
            let _ = keys.write_all(b"\x01x");
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}
