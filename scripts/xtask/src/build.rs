//! What cargo builds: the image and the guests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::Item;
use crate::failure::unusable;
use crate::progress::{self, Line};

/// The hypervisor's and the guests' target.
pub const TARGET: &str = "armv7a-none-eabi";
/// What begins the name of a guest of tests/guests in place of a file.
const GUEST: &str = "guest:";

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Cargo's directory for what it builds.
#[must_use]
pub fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where images and other files of this tool go.
#[must_use]
pub fn output_directory() -> PathBuf {
    target_directory().join("armillary")
}

/// `cargo`, in the root of the repository.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// `cargo`, in the guests' workspace.
#[must_use]
pub fn cargo_guests() -> Command {
    let mut command = cargo();
    command
        .current_dir(root().join("tests/guests"))
        .env("CARGO_TARGET_DIR", target_directory().join("guests"));
    command
}

/// How the hypervisor is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As it is used.
    Release,
    /// With overflow checks and assertions.
    Checked,
}

impl Profile {
    /// The one with checks, or not.
    #[must_use]
    pub const fn checked(checked: bool) -> Self {
        if checked {
            Self::Checked
        } else {
            Self::Release
        }
    }

    /// Cargo's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Checked => "checked",
        }
    }
}

/// Builds the hypervisor and gives its ELF file.
pub fn hypervisor(profile: Profile, line: Line) -> anyhow::Result<PathBuf> {
    let mut build = cargo();
    build.args([
        "build",
        "--profile",
        profile.name(),
        "--package",
        "armillary",
        "--bin",
        "armillary",
        "--target",
        TARGET,
    ]);
    progress::command("build the hypervisor", line, &mut build)?;
    let built = target_directory().join(TARGET).join(profile.name());
    Ok(built.join("armillary"))
}

/// Builds the guests of tests/guests.
pub fn guests(line: Line) -> anyhow::Result<()> {
    let mut build = cargo_guests();
    build.args(["build", "--release", "--target", TARGET]);
    progress::command("build the guests", line, &mut build)
}

/// The name of the guest of tests/guests that `file` stands for, if it does.
#[must_use]
pub fn guest_name(file: &Path) -> Option<&str> {
    file.to_str()?.strip_prefix(GUEST)
}

/// The names of the guests of tests/guests.
#[must_use]
pub fn guest_names() -> Vec<String> {
    let entries = fs::read_dir(root().join("tests/guests/src/bin"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// The file itself: for `guest:NAME` the ELF file of that guest of tests/guests, for `debian:NAME` that of Debian's.
#[must_use]
pub fn file(file: &Path) -> PathBuf {
    if let Some(item) = Item::named(file) {
        return item.path();
    }
    match guest_name(file) {
        Some(name) => target_directory()
            .join("guests")
            .join(TARGET)
            .join("release")
            .join(name),
        None => file.to_owned(),
    }
}

/// Writes a file, creating its directory.
pub fn write(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let wrong = |error: std::io::Error| unusable(format!("{}: {error}", path.display()));
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(wrong)?;
    }
    fs::write(path, contents).map_err(wrong)
}
