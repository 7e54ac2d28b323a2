//! `cargo xtask check`: all that must hold beside the tests.

use std::process::Command;

use crate::build::{self, TARGET, cargo, cargo_guests, root};
use crate::layers;
use crate::progress::{self, Line};
use crate::setup;

/// Runs every check; the first that fails ends it.
pub fn check() -> anyhow::Result<u8> {
    setup::target()?;
    setup::lint_tools()?;
    let strict = ["--", "-D", "warnings"];
    let image = ["--package", "armillary", "--target", TARGET];

    run("format", cargo().args(["fmt", "--all", "--check"]))?;
    run(
        "format of the guests",
        cargo_guests().args(["fmt", "--check"]),
    )?;
    progress::step("layers", Line::Always, |_| {
        layers::check(&root().join("src"))
    })?;
    run(
        "lints, host",
        cargo()
            .args(["clippy", "--workspace", "--all-targets"])
            .args(strict),
    )?;
    run(
        "lints, target",
        cargo()
            .args(["clippy", "--lib", "--bins"])
            .args(image)
            .args(strict),
    )?;
    run(
        "lints, guests",
        cargo_guests()
            .args(["clippy", "--lib", "--bins", "--target", TARGET])
            .args(strict),
    )?;
    run("documentation, host", documented().args(["--workspace"]))?;
    run(
        "documentation, target",
        documented().arg("--lib").args(image),
    )?;
    run("build, host", cargo().args(["build", "--workspace"]))?;
    build::hypervisor(Line::Always)?;
    build::guests(Line::Always)?;
    eprintln!("everything holds");
    Ok(0)
}

fn run(name: &str, command: &mut Command) -> anyhow::Result<()> {
    progress::command(name, Line::Always, command)
}

fn documented() -> Command {
    let mut command = cargo();
    command
        .args(["doc", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    command
}
