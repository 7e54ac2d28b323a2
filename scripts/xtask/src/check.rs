//! `cargo xtask check`: all that must hold beside the tests.

use std::process::Command;

use crate::build::{self, Profile, TARGET, cargo, cargo_guests, root};
use crate::failure::FAILED;
use crate::layers;
use crate::progress::{self, Line};
use crate::setup;

/// Runs every check, all of them even if one fails, and gives the exit status.
pub fn check() -> anyhow::Result<u8> {
    setup::target()?;
    setup::lint_tools()?;
    let strict = ["--", "-D", "warnings"];
    let image = ["--package", "armillary", "--target", TARGET];

    let mut checks = Checks::default();
    checks.run("format", cargo().args(["fmt", "--all", "--check"]));
    checks.run("format, guests", cargo_guests().args(["fmt", "--check"]));
    checks.see(progress::step("layers", Line::Always, |_| {
        layers::check(&root().join("src"))
    }));
    checks.run(
        "lints, host",
        cargo()
            .args(["clippy", "--workspace", "--all-targets"])
            .args(strict),
    );
    checks.run(
        "lints, target",
        cargo()
            .args(["clippy", "--lib", "--bins"])
            .args(image)
            .args(strict),
    );
    checks.run(
        "lints, guests",
        cargo_guests()
            .args(["clippy", "--lib", "--bins", "--target", TARGET])
            .args(strict),
    );
    checks.run("documentation, host", documented().arg("--workspace"));
    checks.run(
        "documentation, target",
        documented().arg("--lib").args(image),
    );
    checks.run("build, host", cargo().args(["build", "--workspace"]));
    checks.see(build::hypervisor(Profile::Release, Line::Always).map(drop));
    checks.see(build::guests(Line::Always));
    Ok(checks.status())
}

#[derive(Default)]
struct Checks {
    done: u32,
    failed: u32,
}

impl Checks {
    fn run(&mut self, name: &str, command: &mut Command) {
        self.see(progress::command(name, Line::Always, command));
    }

    fn see(&mut self, result: anyhow::Result<()>) {
        self.done += 1;
        if let Err(error) = result {
            self.failed += 1;
            eprintln!("{error:#}");
        }
    }

    fn status(&self) -> u8 {
        if self.failed == 0 {
            eprintln!("all {} checks hold", self.done);
            0
        } else {
            eprintln!("error: {} of {} checks failed", self.failed, self.done);
            FAILED
        }
    }
}

fn documented() -> Command {
    let mut command = cargo();
    command
        .args(["doc", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    command
}
