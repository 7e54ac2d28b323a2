//! `cargo xtask run`: builds, and boots the hypervisor with its VMs in QEMU.

use std::io::{IsTerminal, Write};

use crate::board::Board;
use crate::build;
use crate::cli::Run;
use crate::console::{self, Ending, Input, Session};
use crate::failure::{FAILED, TIMED_OUT};
use crate::image;
use crate::progress::{self, Line};
use crate::qemu::{self, Machine};
use crate::setup;
use crate::vm::{self, Vm};

/// Runs as `options` say and gives the exit status.
pub fn run(options: Run) -> anyhow::Result<u8> {
    let mut board = Board::named(&options.board)?;
    board.smp = options.smp.unwrap_or(board.smp);
    board.memory = options.memory.unwrap_or(board.memory);
    let (vms, demo) = vms(&options, &board)?;
    vms.iter().try_for_each(Vm::check_files)?;

    setup::target()?;
    let qemu = setup::qemu(options.qemu.as_deref())?;
    let vms = provided(vms, demo)?;
    let images = image::build(
        build::Profile::checked(options.checked),
        image::DEFAULT_LOAD,
        Line::IfSlow,
    )?;
    let elf = images.elf.clone();
    if vms
        .iter()
        .flat_map(|vm| &vm.modules)
        .any(|module| build::guest_name(&module.file).is_some())
    {
        build::guests(Line::IfSlow)?;
    }

    let place = tempfile::tempdir()?;
    let blob = if options.dry_run {
        build::output_directory().join("dry-run.dtb")
    } else {
        place.path().join("armillary.dtb")
    };
    let mut prepared = Machine {
        vms,
        tree: options.dtb,
        icount: options.icount,
        gdb: options.gdb,
        more: options.more,
        ..Machine::new(qemu, board, images)
    }
    .prepare(&blob)?;
    if options.dry_run {
        let mut out = std::io::stdout().lock();
        write!(
            out,
            "{}\n\n{}",
            progress::shown(&prepared.command),
            prepared.source
        )?;
        return Ok(0);
    }
    if options.gdb {
        eprintln!(
            "waiting for a debugger: gdb-multiarch -ex 'target remote :1234' {}",
            elf.display()
        );
    }
    if std::io::stdin().is_terminal() {
        eprintln!("Ctrl-] ends this; Ctrl-A ? lists the hypervisor's own keys");
    }
    let session = Session {
        until: options.until.clone(),
        timeout: options.timeout,
        input: Input::Standard,
        show: true,
    };
    let outcome = console::run(&mut prepared.command, session)?;
    if std::io::stdout().is_terminal() && !outcome.text.ends_with('\n') {
        println!();
    }
    Ok(status(outcome.ending, options.until.is_some()))
}

/// `vms` with their files there. Of a demo, those are left out whose files can't be had.
fn provided(vms: Vec<Vm>, demo: bool) -> anyhow::Result<Vec<Vm>> {
    let mut there = Vec::new();
    for vm in vms {
        match vm.provide() {
            Ok(()) => there.push(vm),
            Err(why) if demo => eprintln!("the demo goes without VM '{}': {why}", vm.name()),
            Err(why) => return Err(why),
        }
    }
    Ok(there)
}

/// The VMs asked for, and where there are none, in the user's own device tree neither, the demo; whether it is that.
fn vms(options: &Run, board: &Board) -> anyhow::Result<(Vec<Vm>, bool)> {
    let own = match &options.dtb {
        Some(path) => vm::describes_vms(&qemu::read_tree(path)?),
        None => false,
    };
    if options.vms.is_empty() && !own {
        return Ok((vm::demo(&board.demo())?, true));
    }
    let specs = options.vms.iter().enumerate();
    let vms = specs.map(|(index, spec)| Vm::from_spec(spec, index, board.memory));
    Ok((vms.collect::<Result<_, _>>()?, false))
}

fn status(ending: Ending, until: bool) -> u8 {
    match ending {
        Ending::Matched | Ending::Quit => 0,
        Ending::TimedOut => TIMED_OUT,
        Ending::Exited(_) if until => FAILED,
        Ending::Exited(status) => console::shell_status(status),
        Ending::Signal(signal) => u8::try_from(128 + signal).unwrap_or(FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn the_exit_status_says_how_the_run_ended() {
        let exited = |code: i32| Ending::Exited(ExitStatus::from_raw(code << 8));
        assert_eq!(status(Ending::Matched, true), 0);
        assert_eq!(status(Ending::TimedOut, true), 124);
        assert_eq!(status(exited(0), true), 1);
        assert_eq!(status(exited(0), false), 0);
        assert_eq!(status(exited(7), false), 7);
        assert_eq!(status(Ending::Signal(15), false), 143);
    }
}
