//! `cargo xtask test`: the host tests, then those in QEMU, with one total.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::bail;
use indicatif::ProgressBar;

use crate::build::{cargo, root};
use crate::cli::Test;
use crate::failure::{FAILED, unusable};
use crate::progress::{self, Line, bold, seconds};
use crate::setup;

/// Names the QEMU to use to the tests in QEMU.
pub const QEMU_VARIABLE: &str = "ARMILLARY_QEMU";
/// How long a fuzz target runs, in seconds.
const FUZZ_SECONDS: u32 = 120;

/// What is left out unless asked for: tests marked `#[ignore]` that carry this word in their names.
struct Extra {
    word: &'static str,
    wanted: bool,
}

/// Test results, as libtest counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u32,
    failed: u32,
    ignored: u32,
}

/// Runs the tests and gives the exit status.
pub fn test(options: &Test) -> anyhow::Result<u8> {
    let begun = Instant::now();
    setup::target()?;
    let qemu = setup::qemu(options.qemu.as_deref())?;
    let extras = [
        Extra {
            word: "exhaustive",
            wanted: options.exhaustive,
        },
        Extra {
            word: "soak",
            wanted: options.soak,
        },
    ];
    let mut suites = Vec::new();
    let mut suite = |name: &'static str, command: &mut Command| -> anyhow::Result<()> {
        suites.push((name, run(name, command)?));
        Ok(())
    };
    let filter = options.filter.as_deref();
    suite(
        "host tests",
        cargo()
            .args(["test", "--workspace", "--no-fail-fast"])
            .args(filter),
    )?;
    for extra in extras.iter().filter(|extra| extra.wanted) {
        let mut command = cargo();
        command.args([
            "test",
            "--workspace",
            "--release",
            "--no-fail-fast",
            "--",
            "--ignored",
            extra.word,
        ]);
        suite(extra.word, &mut command)?;
    }
    let mut in_qemu = cargo();
    in_qemu
        .args(["test", "--test", "qemu", "--"])
        .args(filter)
        .env(QEMU_VARIABLE, qemu);
    if options.soak {
        in_qemu.arg("--include-ignored");
    }
    suite("tests in QEMU", &mut in_qemu)?;
    if options.fuzz {
        suites.push(("fuzz targets", fuzz(filter)?));
    }

    eprintln!();
    for (name, totals) in &suites {
        eprintln!("{name:<14} {}", totals.shown());
    }
    let total = suites
        .iter()
        .fold(Totals::default(), |sum, (_, totals)| sum.plus(*totals));
    eprintln!(
        "{}",
        bold(&format!(
            "{:<14} {} in {}",
            "total",
            total.shown(),
            seconds(begun.elapsed())
        ))
    );
    if total.passed + total.failed == 0 {
        eprintln!("error: no test matches '{}'", filter.unwrap_or_default());
        return Ok(FAILED);
    }
    Ok(if total.failed == 0 { 0 } else { FAILED })
}

/// Runs a command that prints as libtest does.
fn run(name: &str, command: &mut Command) -> anyhow::Result<Totals> {
    let totals = Mutex::new(Totals::default());
    let (succeeded, output) = progress::step(name, Line::Always, |bar| {
        progress::captured(command, |line| see(line, bar, &totals))
    })?;
    let totals = totals.into_inner().unwrap_or_default();
    if !succeeded {
        eprintln!("{}", output.trim_end());
        if totals.failed == 0 {
            bail!(
                "{name} did not run to their end: {}",
                progress::shown(command)
            );
        }
    }
    Ok(totals)
}

/// Shows a line's test on the bar and adds a binary's result up.
fn see(line: &str, bar: &ProgressBar, totals: &Mutex<Totals>) {
    bar.set_message(line.to_owned());
    if let (Some(result), Ok(mut totals)) = (Totals::read(line), totals.lock()) {
        *totals = totals.plus(result);
    }
}

impl Totals {
    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn read(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let count = |word: &str| {
            let item = counts.split("; ").find_map(|item| item.strip_suffix(word));
            item.and_then(|number| number.trim().parse().ok())
                .unwrap_or(0)
        };
        Some(Self {
            passed: count("passed"),
            failed: count("failed"),
            ignored: count("ignored"),
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }

    fn shown(self) -> String {
        format!(
            "{} passed, {} failed, {} left out",
            self.passed, self.failed, self.ignored
        )
    }
}

/// Runs every fuzz target that matches for its time.
fn fuzz(filter: Option<&str>) -> anyhow::Result<Totals> {
    let place = root().join("tests/fuzz");
    let targets = fuzz_targets(&place);
    if targets.is_empty() {
        return Err(unusable("--fuzz: tests/fuzz holds no fuzz target"));
    }
    let mut version = Command::new("cargo");
    version.args(["+nightly", "fuzz", "--version"]);
    if !progress::captured(&mut version, |_| ()).is_ok_and(|(succeeded, _)| succeeded) {
        return Err(unusable(
            "--fuzz needs cargo-fuzz and a nightly toolchain: 'rustup toolchain install nightly' and 'cargo install cargo-fuzz'",
        ));
    }
    let mut totals = Totals::default();
    for target in targets
        .iter()
        .filter(|target| target.contains(filter.unwrap_or_default()))
    {
        let mut command = Command::new("cargo");
        command.current_dir(&place).args([
            "+nightly",
            "fuzz",
            "run",
            "--fuzz-dir",
            ".",
            target,
            "--",
        ]);
        command.arg(format!("-max_total_time={FUZZ_SECONDS}"));
        // The stable cargo that runs us names itself and its toolchain in the environment.
        for (name, _) in
            env::vars_os().filter(|(name, _)| name == "RUSTUP_TOOLCHAIN" || name == "CARGO")
        {
            command.env_remove(name);
        }
        match progress::command(&format!("fuzz {target}"), Line::Always, &mut command) {
            Ok(()) => totals.passed += 1,
            Err(error) => {
                eprintln!("{error}");
                totals.failed += 1;
            }
        }
    }
    Ok(totals)
}

fn fuzz_targets(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place.join("fuzz_targets"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_added_up() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.50s";
        let read = Totals::read(line).unwrap();
        assert_eq!(
            read,
            Totals {
                passed: 12,
                failed: 2,
                ignored: 1
            }
        );
        assert_eq!(read.plus(read).failed, 4);
        assert_eq!(Totals::read("test stage2 ... ok"), None);
    }
}
