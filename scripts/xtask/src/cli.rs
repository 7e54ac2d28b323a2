//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use regex::Regex;

use crate::board;
use crate::console;
use crate::image;
use crate::size::Size;
use crate::spec::Spec;

/// Builds, runs, tests and measures Armillary.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boots the hypervisor with its VMs in QEMU; installs what that needs
    Run(Run),
    /// Runs the host tests, then the tests that boot guests in QEMU
    Test(Test),
    /// Checks format, lints, layers, documentation and builds
    Check,
    /// Measures: instructions of each operation, sizes
    Bench(Bench),
    /// Builds the image as ELF, raw and U-Boot file
    Image(Image),
}

/// `cargo xtask run`
#[derive(Debug, Args)]
#[command(after_help = "\
A terminal is raw while this runs: every key goes to the hypervisor, whose own keys begin with Ctrl-A. Ctrl-] ends the run.

SPEC is kernel=FILE[,initrd=FILE][,append=STRING][,memory=SIZE][,cpus=N][,name=NAME][,dtb=FILE], or firmware=FILE in place of \
kernel. A comma inside a value is written twice. kernel=guest:NAME is the guest NAME of tests/guests.

Exit status: 0 when --until matched, when the hypervisor powered the machine off, or after Ctrl-]; 1 when QEMU ended before --until matched; \
124 when --timeout passed; 2 for a wrong option or something missing; else QEMU's own.

Examples:
  cargo xtask run
  cargo xtask run --vm kernel=zImage,initrd=root.cpio,append=console=ttyAMA0,memory=256M,cpus=2
  cargo xtask run --smp 2 --vm kernel=zImage,name=a --vm kernel=u-boot.bin,name=b
  cargo xtask run --until 'login:' --timeout 60 --vm firmware=u-boot.bin
  cargo xtask run --icount -- -d int -D trace.log")]
pub struct Run {
    /// The board, a directory in boards/
    #[arg(long, value_name = "NAME", default_value = board::DEFAULT)]
    pub board: String,
    /// Number of the machine's CPUs [default: the board's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub smp: Option<u32>,
    /// The machine's RAM, such as 64M or 8G [default: the board's]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// A VM; may be given several times [default: the board's demo]
    #[arg(long = "vm", value_name = "SPEC")]
    pub vms: Vec<Spec>,
    /// End with status 0 as soon as the console matches
    #[arg(long, value_name = "REGEX", value_parser = console::expression)]
    pub until: Option<Regex>,
    /// End with status 124 when this time has passed
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<std::time::Duration>,
    /// Let virtual time count instructions: every run is the same
    #[arg(long)]
    pub icount: bool,
    /// Build the hypervisor with overflow checks and assertions
    #[arg(long)]
    pub checked: bool,
    /// Wait for a debugger on TCP port 1234
    #[arg(long)]
    pub gdb: bool,
    /// The QEMU to use [default: qemu-system-arm on the path]
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// A device tree (blob or source) to use instead of QEMU's own; VMs of --vm are added to it
    #[arg(long, value_name = "FILE")]
    pub dtb: Option<PathBuf>,
    /// Print QEMU's command line and the device tree's source, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// More options for QEMU
    #[arg(last = true, value_name = "QEMU-ARGUMENTS")]
    pub more: Vec<OsString>,
}

/// `cargo xtask test`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask test
  cargo xtask test stage2
  cargo xtask test --soak scheduler")]
pub struct Test {
    /// Run only the tests whose name contains this
    pub filter: Option<String>,
    /// Run the long soak tests too
    #[arg(long)]
    pub soak: bool,
    /// Run the exhaustive sweeps too
    #[arg(long)]
    pub exhaustive: bool,
    /// Run each fuzz target of tests/fuzz for two minutes too
    #[arg(long)]
    pub fuzz: bool,
    /// The QEMU to use [default: qemu-system-arm on the path]
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
}

/// `cargo xtask bench`
#[derive(Debug, Args)]
#[command(after_help = "\
The same guest runs on the bare machine, on Armillary and as Xen's domU, in QEMU with -icount: figures are instructions, and every run is \
the same. Xen is Debian's package, fetched by apt-get into target/; where it can't be had its columns say why. \
target/bench gets results.json, report.md and chart.svg.

--explain traces the bench guest while it makes one figure, and shows the operation of the median length: by whom and in which \
functions its instructions were executed, in the order of the way; what is inlined stands below what it is inlined in. 'own' \
leaves out what stands below. In boot_to_guest the heaviest come first. An instruction that ends in an abort is in the trace, \
but not in the figure.

Examples:
  cargo xtask bench
  cargo xtask bench --only gicd_read
  cargo xtask bench --only vtimer --against none
  cargo xtask bench --json > figures.json
  cargo xtask bench --save
  cargo xtask bench --explain gicd_read
  cargo xtask bench --explain boot_to_guest")]
pub struct Bench {
    /// Measure only the figure of this name or, where there is none, those with this in their names
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Measure another hypervisor beside [default: xen, if it can be had]
    #[arg(long)]
    pub against: Option<Against>,
    /// Show where the instructions of one operation go, by function, and measure nothing
    #[arg(long, value_name = "NAME", conflicts_with_all = ["only", "against", "json", "save"])]
    pub explain: Option<String>,
    /// Print JSON on standard output instead of a table
    #[arg(long)]
    pub json: bool,
    /// Put table and chart into README.md and boards/qemu-virt
    #[arg(long, conflicts_with_all = ["only", "against"])]
    pub save: bool,
    /// The QEMU to use [default: qemu-system-arm on the path]
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
}

/// What is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Against {
    /// Nothing but the bare machine.
    None,
    /// Xen.
    Xen,
}

/// `cargo xtask image`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask image
  cargo xtask image --load 0x60008000")]
pub struct Image {
    /// Load and entry address in the U-Boot image's header
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value_t = Address(image::DEFAULT_LOAD))]
    pub load: Address,
}

/// A physical address.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub u32);

impl std::fmt::Display for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:#x}", self.0)
    }
}

fn address(text: &str) -> Result<Address, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match number {
        Ok(number) if number % 4 == 0 => Ok(Address(number)),
        _ => Err("an address is a 32-bit multiple of 4, such as 0x40208000".into()),
    }
}

fn seconds(text: &str) -> Result<std::time::Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "write a number of seconds, such as 60 or 0.5".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_run_is_read() {
        let words = "xtask run --board b --smp 2 --memory 64M --vm kernel=a --vm firmware=b --until x --timeout 1.5 --icount --checked \
                     --gdb --qemu q --dtb d --dry-run -- -d int";
        let Command::Run(run) = Cli::try_parse_from(words.split_whitespace())
            .unwrap()
            .command
        else {
            panic!("another command")
        };
        assert_eq!((run.vms.len(), run.more.len(), run.smp), (2, 2, Some(2)));
        assert!(run.icount && run.checked && run.gdb && run.dry_run);
        assert_eq!(run.timeout.unwrap().as_millis(), 1500);
    }

    #[test]
    fn wrong_values_are_refused() {
        for words in [
            "--smp 0",
            "--memory x",
            "--timeout -1",
            "--until (",
            "--vm nothing",
            "--colour",
        ] {
            let words = format!("xtask run {words}");
            assert!(
                Cli::try_parse_from(words.split_whitespace()).is_err(),
                "{words}"
            );
        }
    }
}
