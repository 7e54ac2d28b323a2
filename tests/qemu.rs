//! Boots the image in QEMU, with guests, and reads what they say.
//!
//! `cargo test --test qemu` or `cargo xtask test` runs these; plain `cargo test` does not. A guest of tests reports line by
//! line (`xtask::report`); then its VM is off, and when every VM is, QEMU ends with 0. Whatever else comes fails the
//! case: a failure reported, no summary in time, another end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use libtest_mimic::{Arguments, Failed, Trial};
use regex::Regex;
use xtask::board::{self, Board};
use xtask::console::{self, Ending, Input, Outcome, Session};
use xtask::image::{self, Images};
use xtask::progress::{self, Line};
use xtask::qemu::{Load, Machine};
use xtask::vm::Vm;
use xtask::{bench, build, report, setup, test};

/// What a case is to come to.
#[derive(Clone, Copy)]
enum Expect {
    /// Each VM is a guest of tests and reports no failure; then QEMU ends with 0.
    Passes,
    /// The console matches these in turn; then QEMU ends with 0.
    Ends(&'static [&'static str]),
    /// The console matches these in turn, and nothing comes after: the machine stands still.
    Stops(&'static [&'static str]),
}

/// A machine, its VMs and what is expected of them.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// As of `--vm`.
    vms: &'static [&'static str],
    expect: Expect,
    /// What is typed when the console has matched.
    typed: &'static [(&'static str, &'static str)],
    load: Load,
    machine: &'static str,
    cpu: &'static str,
    smp: u32,
    memory: &'static str,
    bootargs: &'static str,
    icount: bool,
    /// A guest that runs in the hypervisor's place, to show that it asks of a VM what it finds on the bare machine.
    native: Option<&'static str>,
    /// Spoils the device tree.
    edit: Option<fn(&mut DeviceTree)>,
    /// More of QEMU's options; `{guests}` is where the guests are.
    more: &'static [&'static str],
    seconds: u64,
    /// Left out of an ordinary run.
    soak: bool,
}

/// One CPU, 1 GiB and the hello guest, which is off after its greeting.
const PLAIN: Case = Case {
    name: "",
    vms: &["kernel=guest:hello,append=once,memory=16M"],
    expect: Expect::Ends(&["Hello from a bare-metal guest", "under +Armillary"]),
    typed: &[],
    load: Load::Raw,
    machine: "virt,virtualization=on",
    cpu: "cortex-a15",
    smp: 1,
    memory: "1G",
    bootargs: "",
    icount: false,
    native: None,
    edit: None,
    more: &[],
    seconds: 60,
    soak: false,
};

/// One CPU with instructions counted, for guests of tests.
const GUESTS: Case = Case {
    vms: &[],
    expect: Expect::Passes,
    memory: "512M",
    icount: true,
    seconds: 120,
    ..PLAIN
};

/// A VM with nothing wrong, beside one that has.
const GOOD: &str = "kernel=guest:hello,append=once,memory=16M,name=good";

const CASES: &[Case] = &[
    // The same image file, wherever and however it is loaded.
    Case {
        name: "boot::raw_at_the_usual_address",
        ..PLAIN
    },
    Case {
        name: "boot::raw_low_in_ram",
        load: Load::At(0x4020_0000),
        ..PLAIN
    },
    Case {
        name: "boot::raw_at_an_odd_page",
        load: Load::At(0x4765_9000),
        ..PLAIN
    },
    Case {
        name: "boot::raw_high_in_ram",
        load: Load::At(0x7800_0000),
        ..PLAIN
    },
    Case {
        name: "boot::uimage_at_the_default_address",
        load: Load::Uimage(image::DEFAULT_LOAD),
        ..PLAIN
    },
    Case {
        name: "boot::uimage_at_another_address",
        load: Load::Uimage(0x6000_8000),
        ..PLAIN
    },
    Case {
        name: "boot::elf",
        load: Load::Elf,
        ..PLAIN
    },
    // Sizes of RAM, numbers and kinds of CPUs.
    Case {
        name: "boot::with_64_mib",
        memory: "64M",
        ..PLAIN
    },
    Case {
        name: "boot::with_8_gib",
        memory: "8G",
        ..PLAIN
    },
    Case {
        name: "boot::a_vm_larger_than_4_gib_of_host_leaves_below",
        memory: "8G",
        vms: &["kernel=guest:hello,append=once,memory=2500M"],
        ..PLAIN
    },
    Case {
        name: "boot::with_2_cpus",
        smp: 2,
        ..PLAIN
    },
    Case {
        name: "boot::with_8_cpus",
        smp: 8,
        ..PLAIN
    },
    Case {
        name: "boot::elf_with_2_cpus_and_64_mib",
        load: Load::Elf,
        smp: 2,
        memory: "64M",
        ..PLAIN
    },
    Case {
        name: "boot::cortex_a7",
        cpu: "cortex-a7",
        ..PLAIN
    },
    Case {
        name: "boot::cortex_a7_with_2_cpus",
        cpu: "cortex-a7",
        smp: 2,
        ..PLAIN
    },
    Case {
        name: "boot::with_instructions_counted",
        icount: true,
        ..PLAIN
    },
    Case {
        name: "boot::without_hyp_mode_it_says_so_and_stops",
        machine: "virt",
        expect: Expect::Stops(&["Hyp mode"]),
        ..PLAIN
    },
    // Descriptions of VMs; a wrong one is named, and the other VM still starts.
    Case {
        name: "vms::by_hand_with_guest_loader",
        vms: &[],
        more: &[
            "-device",
            "guest-loader,addr=0x48410000,kernel={guests}/hello,bootargs=once",
        ],
        ..PLAIN
    },
    Case {
        name: "vms::two_at_once",
        vms: &[
            "kernel=guest:hello,append=once,memory=16M,name=one",
            "kernel=guest:hello,append=once,memory=16M,name=two",
        ],
        expect: Expect::Ends(&[
            "Hello from a bare-metal guest",
            "Hello from a bare-metal guest",
        ]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::no_memory_left",
        vms: &["kernel=guest:hello,memory=2G,name=bad", GOOD],
        expect: Expect::Ends(&["bad.*memory", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::a_kernel_that_is_none",
        vms: &["kernel=/bin/sh,memory=16M,name=bad", GOOD],
        expect: Expect::Ends(&["bad.*kernel", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::no_cpus",
        vms: &["kernel=guest:hello,memory=16M,name=bad", GOOD],
        edit: Some(|tree| {
            bad(tree)
                .into_iter()
                .for_each(|vm| set(vm, "cpus", &[0; 4]));
        }),
        expect: Expect::Ends(&["bad.*cpus", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::unknown_module",
        vms: &["kernel=guest:hello,memory=16M,name=bad", GOOD],
        edit: Some(|tree| {
            for module in modules(tree) {
                set(module, "compatible", b"multiboot,harp\0multiboot,module\0");
            }
        }),
        expect: Expect::Ends(&["bad.*compatible", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    Case {
        name: "vms::wrong::modules_that_overlap",
        vms: &[
            "kernel=guest:hello,initrd=README.md,memory=16M,name=bad",
            GOOD,
        ],
        edit: Some(|tree| {
            // The ramdisk lies where the kernel does.
            let first = modules(tree).next().map(|module| bytes(module, "reg"));
            for (module, reg) in modules(tree).zip(first.iter().cycle()) {
                set(module, "reg", reg);
            }
        }),
        expect: Expect::Ends(&["bad.*overlap", "Hello from a bare-metal guest"]),
        ..PLAIN
    },
    // The guests of tests: on the bare machine, alone, and beside each other on one CPU and on more.
    Case {
        name: "native::faults",
        native: Some("faults"),
        ..GUESTS
    },
    Case {
        name: "native::registers",
        native: Some("registers"),
        ..GUESTS
    },
    Case {
        name: "native::vfp",
        native: Some("vfp"),
        ..GUESTS
    },
    Case {
        name: "guests::faults",
        vms: &["kernel=guest:faults,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::hypercalls",
        vms: &["kernel=guest:hypercalls,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::hypercalls_ended_by_cpu_off",
        vms: &["kernel=guest:hypercalls,memory=64M,append=end=cpu_off"],
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_one_vcpu",
        vms: &["kernel=guest:registers,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_three_vms_on_one_cpu",
        vms: &[
            "kernel=guest:registers,memory=32M,append=seed=1,name=one",
            "kernel=guest:registers,memory=32M,append=seed=2,name=two",
            "kernel=guest:registers,memory=32M,append=seed=3,name=three",
        ],
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_three_vcpus_on_one_cpu",
        vms: &["kernel=guest:registers,memory=64M,cpus=3"],
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::registers_of_four_vcpus_on_two_cpus",
        vms: &["kernel=guest:registers,memory=64M,cpus=4"],
        smp: 2,
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::vfp",
        vms: &["kernel=guest:vfp,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::vfp_of_three_vms_on_one_cpu",
        vms: &[
            "kernel=guest:vfp,memory=32M,append=busy,name=one",
            "kernel=guest:vfp,memory=32M,append=busy,name=two",
            "kernel=guest:vfp,memory=32M,append=busy,name=three",
        ],
        ..GUESTS
    },
    Case {
        name: "guests::gic_of_one_vcpu",
        vms: &["kernel=guest:gic,memory=64M"],
        ..GUESTS
    },
    Case {
        name: "guests::gic_of_two_vcpus",
        vms: &["kernel=guest:gic,memory=64M,cpus=2"],
        smp: 2,
        icount: false,
        ..GUESTS
    },
    Case {
        name: "guests::canary_in_three_vms",
        vms: &[
            "kernel=guest:canary,memory=32M,append=seed=1,name=one",
            "kernel=guest:canary,memory=48M,append=seed=2,name=two",
            "kernel=guest:canary,memory=64M,append=seed=3,name=three",
        ],
        ..GUESTS
    },
    Case {
        name: "guests::canary_lives_more_often_than_there_are_vmids",
        vms: &["kernel=guest:canary,memory=4M,append=resets stride=4096"],
        expect: Expect::Stops(&["(?s:(boot.*?){600})"]),
        ..GUESTS
    },
    Case {
        name: "console::what_is_typed_reaches_the_guest",
        vms: &["kernel=guest:hello,memory=16M"],
        typed: &[("(?m)^> ", "good day\r"), ("You said: good day\n", "off\r")],
        expect: Expect::Ends(&["You said: good day", "Good-bye"]),
        ..PLAIN
    },
    Case {
        name: "bench::the_guest_of_measurements_ends_well",
        vms: &["kernel=guest:bench,memory=64M"],
        expect: Expect::Ends(&[r"BENCH null_hypercall \d+"]),
        icount: true,
        ..PLAIN
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = CASES.iter().copied().chain(guests_of_tests());
    let trials =
        cases.map(|case| Trial::test(case.name, move || case.run()).with_ignored_flag(case.soak));
    let trials = trials.chain([Trial::test(
        "bench::figures_are_within_their_budget",
        figures,
    )]);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn figures() -> Result<(), Failed> {
    let (qemu, images) = built()?;
    let figures = bench::measure(qemu.clone(), images.clone())?;
    match bench::over_budget(&figures, &Board::named(board::DEFAULT)?)?.as_slice() {
        [] => Ok(()),
        excesses => Err(excesses.join("\n").into()),
    }
}

/// A case for every guest of tests that no case names: alone, with instructions counted.
fn guests_of_tests() -> Vec<Case> {
    let directory = build::root().join("tests/guests/src/bin");
    let mut cases = Vec::new();
    for guest in build::guest_names() {
        let sources = [
            directory.join(format!("{guest}.rs")),
            directory.join(&guest).join("main.rs"),
        ];
        let lists_tests = sources
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .any(|source| source.contains("tests!"));
        let kernel = format!("kernel=guest:{guest},");
        let named = CASES
            .iter()
            .flat_map(|case| case.vms)
            .any(|vm| format!("{vm},").contains(&kernel));
        if lists_tests && !named {
            // They live as long as the process, as those of the table do.
            let vms: &[&str] = Vec::leak(vec![&*String::leak(format!("{kernel}memory=64M"))]);
            let name = String::leak(format!("guests::{guest}"));
            cases.push(Case {
                name,
                vms,
                ..GUESTS
            });
        }
    }
    cases
}

/// What every case needs: QEMU and the images, with the guests built.
fn built() -> Result<&'static (PathBuf, Images), Failed> {
    static BUILT: OnceLock<Result<(PathBuf, Images), String>> = OnceLock::new();
    let build = || -> anyhow::Result<(PathBuf, Images)> {
        let asked = std::env::var_os(test::QEMU_VARIABLE).map(PathBuf::from);
        let qemu = match asked {
            Some(path) => path,
            None => setup::qemu(None)?,
        };
        let images = image::build(image::DEFAULT_LOAD, Line::IfSlow)?;
        build::guests(Line::IfSlow)?;
        Ok((qemu, images))
    };
    let result = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    result.as_ref().map_err(|error| error.into())
}

impl Case {
    fn run(&self) -> Result<(), Failed> {
        let place = tempfile::tempdir()?;
        let mut prepared = self
            .machine(place.path())?
            .prepare(&place.path().join("case.dtb"))?;
        let session = Session {
            until: match self.expect {
                Expect::Stops(lines) => Some(console::expression(&in_turn(lines))?),
                Expect::Passes | Expect::Ends(_) => None,
            },
            timeout: Some(Duration::from_secs(self.seconds)),
            input: Input::Script(self.script()?),
            show: false,
        };
        let outcome = console::run(&mut prepared.command, session)?;
        self.judge(&outcome).map_err(|why| {
            let command = progress::shown(&prepared.command);
            format!(
                "{why}\n--- the console's end\n{}\n--- {command}",
                tail(&outcome.text)
            )
            .into()
        })
    }

    fn machine(&self, place: &Path) -> Result<Machine, Failed> {
        let (qemu, images) = built()?;
        let mut images = images.clone();
        if let Load::Uimage(address) = self.load {
            images.uimage = place.join("armillary.uimage");
            fs::write(
                &images.uimage,
                image::uimage(&fs::read(&images.raw)?, address),
            )?;
        }
        let board = Board {
            machine: if self.native.is_some() {
                "virt"
            } else {
                self.machine
            }
            .into(),
            cpu: self.cpu.into(),
            smp: self.smp,
            memory: self.memory.parse()?,
            ..Board::named(board::DEFAULT)?
        };
        if let Some(guest) = self.native {
            images.elf = build::file(Path::new(&format!("guest:{guest}")));
        }
        let mut vms = Vec::new();
        for (index, vm) in self.vms.iter().enumerate() {
            vms.push(Vm::from_spec(&vm.parse()?, index, board.memory)?);
        }
        let guests = build::file(Path::new("guest:hello"));
        let guests = guests
            .parent()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        Ok(Machine {
            load: if self.native.is_some() {
                Load::Elf
            } else {
                self.load
            },
            vms,
            edit: self.edit,
            bootargs: (!self.bootargs.is_empty()).then(|| self.bootargs.into()),
            icount: self.icount,
            more: self
                .more
                .iter()
                .map(|word| word.replace("{guests}", &guests).into())
                .collect(),
            ..Machine::new(qemu.clone(), board, images)
        })
    }

    fn script(&self) -> Result<Vec<(Regex, String)>, Failed> {
        let mut script = Vec::new();
        for (question, answer) in self.typed {
            script.push((console::expression(question)?, (*answer).to_owned()));
        }
        Ok(script)
    }

    fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        let stops = matches!(self.expect, Expect::Stops(_));
        match outcome.ending {
            Ending::Matched if stops => return report::no_failure(&outcome.text),
            Ending::Exited(status) if status.success() && !stops => {}
            Ending::TimedOut => return Err(format!("not done after {} s", self.seconds)),
            other => return Err(format!("QEMU did not end as expected: {other:?}")),
        }
        match self.expect {
            Expect::Passes => report::judge(&outcome.text, self.vms.len().max(1)),
            Expect::Ends(lines) | Expect::Stops(lines) => {
                let expected = console::expression(&in_turn(lines))?;
                if expected.is_match(&outcome.text) {
                    Ok(())
                } else {
                    Err(format!("the console does not match {lines:?} in turn"))
                }
            }
        }
    }
}

/// The VM that is to be spoilt.
fn bad(tree: &mut DeviceTree) -> Option<&mut DeviceTreeNode> {
    tree.find_node_mut("/chosen/bad")
}

fn modules(tree: &mut DeviceTree) -> impl Iterator<Item = &mut DeviceTreeNode> {
    bad(tree).into_iter().flat_map(DeviceTreeNode::children_mut)
}

fn set(node: &mut DeviceTreeNode, name: &str, value: &[u8]) {
    node.remove_property(name);
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

fn bytes(node: &DeviceTreeNode, name: &str) -> Vec<u8> {
    node.property(name)
        .map(|property| property.value().to_vec())
        .unwrap_or_default()
}

/// One expression for several in turn, whatever lies between.
fn in_turn(lines: &[&str]) -> String {
    lines.join(r"(?s:.*?)")
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
