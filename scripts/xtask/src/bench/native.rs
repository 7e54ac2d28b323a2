//! The bare machine: the bench guest alone in QEMU, without Hyp mode.

use std::path::Path;

use super::{GUEST, Run, Samples, Source, Wanted, guest, to_its_end, zimage};
use crate::image::Images;
use crate::qemu::{Load, Machine};

/// What is wanted of a machine like `machine`.
pub(super) fn measure(machine: &Machine, wanted: Wanted<'_>) -> anyhow::Result<Samples> {
    let place = tempfile::tempdir()?;
    let kernel = zimage(place.path(), 0)?;
    let mut samples = guest("the bare machine", wanted, &[Source::Boot], |run, words| {
        if run.vcpus > run.cpus || run.beside.is_some() {
            let mut samples = Samples::default();
            samples.lacks_all(run.source, "no vCPUs that could share a CPU");
            return Ok(samples);
        }
        let machine = bare(machine, run, &kernel);
        let mut prepared = machine.prepare(&place.path().join("bare.dtb"))?;
        prepared.command.args(["-append", words]);
        Ok(Samples::read(&to_its_end(&mut prepared.command)?))
    })?;
    for (source, why) in [
        (Source::Emulated, "its clock is the board's"),
        (Source::Regions, "no regions"),
        (Source::Create, "no other VM"),
        (Source::Forwarded, "no other VM"),
        (Source::Image, "no hypervisor"),
        (Source::OwnRam, "no hypervisor"),
        (Source::Sizes, "no hypervisor"),
        (Source::Linux, "it is what the others are compared with"),
        (Source::Work, "it is what the others are compared with"),
    ] {
        samples.lacks_all(source, why);
    }
    Ok(samples)
}

/// The machine for `run`, with the RAM that a VM has.
fn bare(machine: &Machine, run: &Run, kernel: &Path) -> Machine {
    let mut machine = Machine {
        vms: Vec::new(),
        load: Load::Raw,
        images: Images {
            raw: kernel.to_owned(),
            ..machine.images.clone()
        },
        ..machine.clone()
    };
    machine.board.machine = "virt".into();
    machine.board.memory = GUEST;
    machine.board.smp = run.cpus;
    machine
}
