//! `cargo xtask`: builds, runs, tests and measures Armillary.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use xtask::cli::{Cli, Command};
use xtask::progress::Line;
use xtask::{bench, build, check, failure, image, run, test};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(options) => run::run(options),
        Command::Image(options) => images(options.load.0),
        Command::Test(options) => test::test(&options),
        Command::Check => check::check(),
        Command::Bench(options) => bench::bench(&options),
    };
    result.map_or_else(report, ExitCode::from)
}

fn images(load: u32) -> anyhow::Result<u8> {
    xtask::setup::target()?;
    let images = image::build(build::Profile::Release, load, Line::Always)?;
    let mut out = std::io::stdout().lock();
    for path in [images.elf, images.raw, images.uimage] {
        let shown = path.strip_prefix(build::root()).unwrap_or(&path);
        writeln!(
            out,
            "{:>9}  {}",
            std::fs::metadata(&path)?.len(),
            shown.display()
        )?;
    }
    Ok(0)
}

fn report(error: anyhow::Error) -> ExitCode {
    // Nobody reads on: `cargo xtask … | head`.
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    failure::status(&error).into()
}
