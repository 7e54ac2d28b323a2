//! Boards: `boards/NAME/qemu.toml` says how QEMU models one, `boards/NAME/demo.dts` what it runs if nothing is asked for.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

use crate::build::root;
use crate::failure::unusable;
use crate::size::Size;

/// The board that is meant if none is named.
pub const DEFAULT: &str = "qemu-virt";

/// A board as QEMU models it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Board {
    /// The directory's name.
    #[serde(skip)]
    pub name: String,
    /// QEMU's `-M`.
    pub machine: String,
    /// QEMU's `-cpu`.
    pub cpu: String,
    /// QEMU's `-m`, where `--memory` does not say.
    pub memory: Size,
    /// QEMU's `-smp`, where `--smp` does not say.
    pub smp: u32,
    /// The physical address of the first RAM.
    pub ram_base: u64,
    /// Where QEMU's `-kernel` puts a raw image, past the start of RAM.
    pub image_offset: u64,
}

impl Board {
    /// The board of this name.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let path = directory(name).join("qemu.toml");
        let known = names();
        if !known.iter().any(|board| board == name) {
            return Err(unusable(format!(
                "--board {name}: there is no such board in QEMU; there is: {}",
                known.join(", ")
            )));
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let board: Self = toml::from_str(&text)
            .map_err(|error| unusable(format!("{}: {error}", path.display())))?;
        Ok(Self {
            name: name.into(),
            ..board
        })
    }

    /// The board's demo.
    #[must_use]
    pub fn demo(&self) -> PathBuf {
        directory(&self.name).join("demo.dts")
    }

    /// The most that each figure of `cargo xtask bench` may be.
    #[must_use]
    pub fn budget(&self) -> PathBuf {
        directory(&self.name).join("budget.toml")
    }

    /// What each of them shall be at most.
    #[must_use]
    pub fn targets(&self) -> PathBuf {
        directory(&self.name).join("targets.toml")
    }
}

fn directory(name: &str) -> PathBuf {
    root().join("boards").join(name)
}

/// The names of all boards that QEMU models.
#[must_use]
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(root().join("boards"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("qemu.toml").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_has_a_readable_description_and_demo() {
        assert!(names().iter().any(|name| name == DEFAULT));
        for name in names() {
            let board = Board::named(&name).unwrap();
            crate::vm::demo(&board.demo()).unwrap();
        }
    }

    #[test]
    fn an_unknown_board_is_answered_with_those_that_are() {
        let error = Board::named("../etc").unwrap_err().to_string();
        assert!(
            error.contains("../etc") && error.contains(DEFAULT),
            "{error}"
        );
    }
}
