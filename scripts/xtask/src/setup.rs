//! What has to be installed: the target of the pinned toolchain, its components, and QEMU.
//!
//! Installed is what the ordinary package clients can install without asking: rustup, and apt-get as root or by a `sudo` that wants no
//! password. The rest is named, with the packages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::build::{TARGET, root};
use crate::failure::unusable;
use crate::progress::{self, Line};

/// QEMU for 32-bit ARM, as found on the path.
pub const QEMU: &str = "qemu-system-arm";

/// Makes sure that the toolchain can build for the hypervisor's target.
pub fn target() -> anyhow::Result<()> {
    let libraries =
        output(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]));
    let there = libraries.is_some_and(|path| Path::new(path.trim()).is_dir());
    if there {
        return Ok(());
    }
    rustup(
        &["target", "add", TARGET],
        &format!("install the target {TARGET}"),
        &format!(
            "the Rust target {TARGET} is missing: install it with 'rustup target add {TARGET}'. No distribution packages it: rustup \
         itself is the package 'rustup' on Debian, Fedora, Arch and in macOS's Homebrew"
        ),
    )
}

/// Makes sure that `cargo fmt` and `cargo clippy` are there.
pub fn lint_tools() -> anyhow::Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if output(Command::new("cargo").args([subcommand, "--version"])).is_some() {
            continue;
        }
        rustup(
            &["component", "add", component],
            &format!("install {component}"),
            &format!(
                "{component} is missing: 'rustup component add {component}', or the package: Debian 'rust-clippy' and 'rustfmt', Fedora \
             'clippy' and 'rustfmt', Arch 'rust' (holds both), macOS 'brew install rustup'"
            ),
        )?;
    }
    Ok(())
}

fn rustup(arguments: &[&str], step: &str, missing: &str) -> anyhow::Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(arguments).current_dir(root());
    progress::command(step, Line::Always, &mut rustup)
        .map_err(|error| unusable(format!("{error}\n{missing}")))
}

/// Makes sure that QEMU is there: the one that was `asked` for, or the path's, installed if need be.
pub fn qemu(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = asked {
        return match output(Command::new(path).arg("--version")) {
            Some(_) => Ok(path.to_owned()),
            None => Err(unusable(format!(
                "--qemu {}: it cannot be run; give the path of a qemu-system-arm",
                path.display()
            ))),
        };
    }
    if have(QEMU) || (can_apt() && apt_install(QEMU) && have(QEMU)) {
        return Ok(QEMU.into());
    }
    Err(unusable(missing_qemu()))
}

fn missing_qemu() -> String {
    format!(
        "{QEMU} is missing and cannot be installed from here. Install the package:\n  \
         Debian, Ubuntu  sudo apt-get install qemu-system-arm\n  \
         Fedora          sudo dnf install qemu-system-arm-core\n  \
         Arch            sudo pacman -S qemu-system-arm\n  \
         macOS           brew install qemu\n\
         or name one that is elsewhere with --qemu PATH."
    )
}

fn have(program: &str) -> bool {
    output(Command::new(program).arg("--version")).is_some()
}

fn output(command: &mut Command) -> Option<String> {
    let output = command
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn can_apt() -> bool {
    have("apt-get") && (rustix::process::geteuid().is_root() || privileged().is_some())
}

/// What begins a command line to run it as root, if that takes no password.
fn privileged() -> Option<Vec<&'static str>> {
    if rustix::process::geteuid().is_root() {
        return Some(Vec::new());
    }
    output(Command::new("sudo").args(["-n", "true"])).map(|_| vec!["sudo", "-n"])
}

/// Installs a Debian package; fetches the package lists first if apt has no candidate in those it has.
fn apt_install(package: &str) -> bool {
    let install = ["install", "--yes", "--no-install-recommends", package];
    let policy = output(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    let listed = policy.contains("Candidate:") && !policy.contains("Candidate: (none)");
    let attempt = || apt(&install, &format!("install {package}")).is_ok();
    if listed && attempt() {
        return true;
    }
    apt(&["update"], "fetch the package lists").is_ok() && attempt()
}

fn apt(arguments: &[&str], step: &str) -> anyhow::Result<()> {
    let mut words = privileged().unwrap_or_default();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend(arguments);
    let mut command = Command::new(words.remove(0));
    command.args(words);
    let result = progress::command(step, Line::Always, &mut command);
    if let Err(error) = &result {
        eprintln!("{error}");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_qemu_is_named_for_every_system_with_status_2() {
        let message = missing_qemu();
        for system in ["Debian", "Fedora", "Arch", "macOS"] {
            assert!(message.contains(system));
        }
        let error = qemu(Some(Path::new("/nowhere/qemu"))).unwrap_err();
        assert!(error.to_string().contains("--qemu /nowhere/qemu"));
        assert_eq!(crate::failure::status(&error), 2);
    }
}
