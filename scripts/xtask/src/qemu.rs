//! A machine as QEMU's command line: the board's options, the device tree with the VMs, and the files in RAM.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::DeviceTree;

use crate::board::Board;
use crate::dts;
use crate::failure::unusable;
use crate::image::Images;
use crate::layout::Layout;
use crate::passthrough;
use crate::progress;
use crate::vm::{self, Placed, Vm};

/// How the image gets into RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The raw image by `-kernel`.
    Raw,
    /// The U-Boot image by `-kernel`; the address is the one in its header.
    Uimage(u32),
    /// The ELF file by `-kernel`.
    Elf,
    /// The raw image at this address by `-device loader`, entered there without any register set.
    At(u32),
}

/// A machine to run.
#[derive(Clone, Debug)]
pub struct Machine {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// The board, with `-M`, `-cpu`, `-m` and `-smp` as they are wanted.
    pub board: Board,
    /// The image's files.
    pub images: Images,
    /// Which of them is loaded, and how.
    pub load: Load,
    /// The VMs that are added to the device tree.
    pub vms: Vec<Vm>,
    /// A device tree, as blob or source, to use instead of QEMU's own.
    pub tree: Option<PathBuf>,
    /// The hypervisor's command line.
    pub bootargs: Option<String>,
    /// The last change to the device tree: tests spoil it.
    pub edit: Option<fn(&mut DeviceTree)>,
    /// How much of RAM stays free of files, from its start.
    pub clear: u64,
    /// Whether virtual time counts instructions.
    pub icount: bool,
    /// Whether QEMU waits for a debugger.
    pub gdb: bool,
    /// More of QEMU's options.
    pub more: Vec<OsString>,
}

/// A machine whose device tree and files are laid out.
#[derive(Debug)]
pub struct Prepared {
    /// QEMU's command line.
    pub command: Command,
    /// The device tree's source.
    pub source: String,
}

impl Machine {
    /// A machine of this board with these images and nothing special.
    #[must_use]
    pub fn new(qemu: PathBuf, board: Board, images: Images) -> Self {
        Self {
            qemu,
            board,
            images,
            load: Load::Raw,
            vms: Vec::new(),
            tree: None,
            bootargs: None,
            edit: None,
            clear: 0,
            icount: false,
            gdb: false,
            more: Vec::new(),
        }
    }

    /// Lays the machine out; its device tree is written to `blob`.
    pub fn prepare(&self, blob: &Path) -> anyhow::Result<Prepared> {
        let mut tree = match &self.tree {
            Some(path) => read_tree(path)?,
            None => self.own_tree(blob)?,
        };
        let mut layout = Layout::new(self.ram(), self.image_address(), self.clear);
        let mut vms = self.vms.clone();
        for vm in vms.iter_mut().filter(|vm| !vm.passthrough.is_empty()) {
            let file = blob.with_extension(format!("{}.dtb", vm.name()));
            passthrough::prepare(&mut tree, &vm.passthrough, &file)?;
            vm.add_tree(&file);
        }
        let files = vm::add(&mut tree, &vms, &mut layout)?;
        if let Some(bootargs) = &self.bootargs {
            vm::set_bootargs(&mut tree, bootargs)?;
        }
        if let Some(edit) = self.edit {
            edit(&mut tree);
        }
        fs::write(blob, tree.to_dtb()).with_context(|| blob.display().to_string())?;
        // An unchanged tree is left to QEMU, whose `guest-loader` writes to its own tree only.
        let unchanged = self.tree.is_none()
            && self.vms.is_empty()
            && self.bootargs.is_none()
            && self.edit.is_none();
        Ok(Prepared {
            command: self.command((!unchanged).then_some(blob), &files),
            source: dts::print(&tree),
        })
    }

    fn ram(&self) -> std::ops::Range<u64> {
        let base = self.board.ram_base;
        base..base + self.board.memory.bytes()
    }

    fn image_address(&self) -> u64 {
        match self.load {
            Load::Raw => self.board.ram_base + self.board.image_offset,
            Load::Uimage(address) | Load::At(address) => address.into(),
            Load::Elf => self.board.ram_base + 2 * crate::size::MIB,
        }
    }

    /// The options that shape the machine, and so its device tree.
    fn shape(&self, machine: &str) -> Command {
        let mut command = Command::new(&self.qemu);
        command.args(["-M", machine, "-cpu", &self.board.cpu]);
        command.args([
            "-smp",
            &self.board.smp.to_string(),
            "-m",
            &self.board.memory.to_string(),
        ]);
        command.args(["-display", "none", "-nic", "none"]);
        command
    }

    /// QEMU's own device tree.
    fn own_tree(&self, blob: &Path) -> anyhow::Result<DeviceTree> {
        // QEMU splits options at single commas.
        let file = blob.display().to_string().replace(',', ",,");
        let mut dump = self.shape(&format!("{},dumpdtb={file}", self.board.machine));
        dump.args(&self.more);
        let (succeeded, output) = progress::captured(&mut dump, |_| ())?;
        if !succeeded {
            return Err(unusable(format!(
                "QEMU refuses the machine: {}
{}",
                output.trim_end(),
                progress::shown(&dump)
            )));
        }
        read_tree(blob)
    }

    fn command(&self, blob: Option<&Path>, files: &[Placed]) -> Command {
        let mut command = self.shape(&self.board.machine);
        // One serial port on standard input and output; the hypervisor, not QEMU, gets Ctrl-A.
        command.args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
            "-monitor",
            "none",
        ]);
        if self.icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        if self.gdb {
            command.args(["-S", "-s"]);
        }
        match self.load {
            Load::Raw => command.arg("-kernel").arg(&self.images.raw),
            Load::Uimage(_) => command.arg("-kernel").arg(&self.images.uimage),
            Load::Elf => command.arg("-kernel").arg(&self.images.elf),
            Load::At(address) => {
                let file = loader(&self.images.raw, address.into());
                command.arg("-device").arg(format!("{file},cpu-num=0"))
            }
        };
        if let Some(blob) = blob {
            command.arg("-dtb").arg(blob);
        }
        for Placed { file, address } in files {
            command.arg("-device").arg(loader(file, *address));
        }
        command.args(&self.more);
        command
    }
}

fn loader(file: &Path, address: u64) -> String {
    let file = file.display().to_string().replace(',', ",,");
    format!("loader,file={file},addr={address:#x},force-raw=on")
}

/// Reads a device tree, as blob or as source (of the kind that [`dts`] reads).
pub fn read_tree(path: &Path) -> anyhow::Result<DeviceTree> {
    let wrong = |what: String| unusable(format!("device tree {}: {what}", path.display()));
    let bytes = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    if bytes.starts_with(&[0xd0, 0x0d, 0xfe, 0xed]) {
        let blob = Fdt::new(&bytes).map_err(|error| wrong(error.to_string()))?;
        return Ok(DeviceTree::from_fdt(&blob));
    }
    let source = String::from_utf8(bytes).map_err(|_| wrong("neither a blob nor source".into()))?;
    dts::parse(&source).map_err(|error| {
        wrong(format!("{error} (source with labels or includes: make it a blob first, 'dtc -O dtb -o FILE.dtb FILE.dts')"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board;

    fn machine(load: Load) -> Machine {
        let images = Images {
            elf: "a.elf".into(),
            raw: "a,b.bin".into(),
            uimage: "a.uimage".into(),
        };
        let board = Board::named(board::DEFAULT).unwrap();
        Machine {
            load,
            ..Machine::new("qemu".into(), board, images)
        }
    }

    fn line(machine: &Machine) -> String {
        progress::shown(&machine.command(Some(Path::new("t.dtb")), &[]))
    }

    #[test]
    fn the_command_line_says_how_the_image_is_loaded() {
        assert!(line(&machine(Load::Elf)).contains("-kernel a.elf -dtb t.dtb"));
        assert!(line(&machine(Load::Raw)).contains("-kernel a,b.bin"));
        let at = line(&machine(Load::At(0x4800_0000)));
        assert!(
            at.contains("loader,file=a,,b.bin,addr=0x48000000,force-raw=on,cpu-num=0"),
            "{at}"
        );
        assert!(!at.contains("-kernel"));
    }

    #[test]
    fn icount_and_gdb_are_passed_on_and_more_options_come_last() {
        let more = vec!["-d".into(), "int".into()];
        let all = line(&Machine {
            icount: true,
            gdb: true,
            more,
            ..machine(Load::Raw)
        });
        assert!(
            all.contains("-icount shift=0,sleep=off")
                && all.contains("-S -s")
                && all.ends_with("-d int"),
            "{all}"
        );
        assert!(!line(&machine(Load::Raw)).contains("-icount"));
    }
}
